"""Encoders and functions see whole texts, each distinct one once; several rewards add up."""

import pytest
import torch
from torch.testing import assert_close
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DebertaV2Config,
    DebertaV2ForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from rgtg_hf.scoring.callable import CallableScorer
from rgtg_hf.scoring.choose import choose_scorer
from rgtg_hf.scoring.combined import CombinedScorer
from rgtg_hf.scoring.encoder import EncoderScorer
from rgtg_hf.scoring.policy_text import PolicyText
from rgtg_hf.scoring.scorer import PrefixBatch
from tests.scoring.generations import generation
from tests.scoring.tiny_tokenizers import bert_like, byte_level, sentencepiece
from tests.tiny_models import tiny_reward_model

BYTES, PIECES, WORDS = byte_level(), sentencepiece(), bert_like()
_SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
    "initializer_range": 0.4,
    "num_labels": 1,
    "vocab_size": len(WORDS),
    "pad_token_id": 0,
}
ENCODERS = {
    "bert": (BertConfig, BertForSequenceClassification, {}),
    "roberta": (RobertaConfig, RobertaForSequenceClassification, {}),
    "deberta": (
        DebertaV2Config,
        DebertaV2ForSequenceClassification,
        {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "type_vocab_size": 0},
    ),
}


def tiny_encoder(family="bert", **overrides):
    torch.manual_seed(3)
    config_class, model_class, settings = ENCODERS[family]
    model = model_class(config_class(**_SIZES | settings | overrides)).eval()
    torch.nn.init.normal_(next(p for name, p in reversed(list(model.named_parameters())) if name.endswith("weight")))
    return model


def steps(tokenizer=BYTES):
    prompts = [tokenizer(text)["input_ids"] for text in ("The cat", "Once there was a river", "Dogs and cats")]
    return generation(prompts=prompts, vocab_size=len(tokenizer))


def length(prompts, responses):
    """A reward that is obvious: letters of the response per letter of the prompt."""
    return [len(response) / len(prompt) for prompt, response in zip(prompts, responses, strict=True)]


@pytest.mark.parametrize("tokenizer", [BYTES, PIECES], ids=["bytes", "pieces"])
@pytest.mark.parametrize("family", ENCODERS)
def test_an_encoders_rewards_are_those_of_whole_texts_one_at_a_time(family, tokenizer):
    encoder = tiny_encoder(family)

    @torch.no_grad()
    def reward(text):
        inputs = WORDS(text.prompt + text.join(), return_tensors="pt")
        return float(encoder(**inputs).logits)

    scorer = EncoderScorer(encoder, tokenizer, WORDS)
    for prefixes, candidates in steps(tokenizer):
        found = scorer.score(prefixes, candidates)
        texts = PolicyText(tokenizer).read(prefixes, candidates)
        assert_close(found.base, torch.tensor([reward(text) for text in texts.base]), atol=1e-4, rtol=1e-4)
        expected = torch.tensor([[reward(text) for text in row] for row in texts.candidates])
        assert_close(found.candidates, expected, atol=1e-4, rtol=1e-4)


def test_an_encoder_reads_duplicates_and_known_texts_once():
    scorer = EncoderScorer(tiny_encoder(), BYTES, WORDS)
    row = torch.tensor([BYTES("The cat sat")["input_ids"]] * 3)
    full_stop, comma = (BYTES.encode(mark)[0] for mark in ".,")
    step = (
        PrefixBatch(row, torch.ones_like(row), row.shape[1], row.shape[1]),
        torch.tensor([[full_stop, comma] * 2] * 3),
    )
    scorer.score(*step)
    read = scorer.tokens_computed
    assert read == 3 * len(WORDS("The cat sat.")["input_ids"])  # the base, padded, and two candidates
    scorer.score(*step)
    assert scorer.tokens_computed == read


def test_text_longer_than_an_encoder_reads_is_refused():
    scorer = EncoderScorer(tiny_encoder(max_position_embeddings=4), BYTES, WORDS)
    step = next(steps())
    with pytest.raises(ValueError, match="BertForSequenceClassification, which reads at most 4"):
        scorer.score(*step)


def test_a_function_sees_prompts_and_responses():
    scorer = CallableScorer(length, BYTES)
    prompt = BYTES("The cat")["input_ids"]
    row = torch.tensor([prompt + BYTES(" sat")["input_ids"]])
    candidates = torch.tensor([[BYTES.encode("!")[0], BYTES.eos_token_id, BYTES.encode("é")[0]]])
    found = scorer.score(PrefixBatch(row, torch.ones_like(row), len(prompt), row.shape[1]), candidates)
    assert_close(found.base, torch.tensor([4 / 7]))
    # The end and half a letter have no text.
    assert_close(found.candidates, torch.tensor([[5 / 7, 4 / 7, 4 / 7]]))


def test_a_function_is_asked_once_per_distinct_text():
    asked = []

    def count(prompts, responses):
        asked.extend(zip(prompts, responses, strict=True))
        return torch.zeros(len(prompts), dtype=torch.float64)

    scorer = CallableScorer(count, BYTES)
    for step in steps():
        asked.clear()
        scorer.score(*step)
        assert len(asked) == len(set(asked))
    scorer.score(*step)
    asked.clear()
    scorer.score(*step)
    assert not asked


@pytest.mark.parametrize("kind", [list, tuple, torch.tensor, lambda found: [torch.tensor(one) for one in found]])
def test_a_function_may_return_lists_or_tensors(kind):
    step = next(steps())
    expected = CallableScorer(length, BYTES).score(*step)
    assert_close(CallableScorer(lambda p, r: kind(length(p, r)), BYTES).score(*step), expected)


@pytest.mark.parametrize(
    ("returned", "error", "message"),
    [
        (lambda n: [1.0] * (n - 1), ValueError, "returned shape"),
        (lambda n: torch.zeros(n, 1), ValueError, "returned shape"),
        (lambda n: 1.0, ValueError, r"returned shape \(\)"),
        (lambda n: None, TypeError, "returned a NoneType"),
        (lambda n: ["good"] * n, TypeError, "returned a list"),
        (lambda n: [[1.0], [1.0, 2.0]], TypeError, "returned a list"),
        (lambda n: [float("nan")] * n, FloatingPointError, "returned nan for the response ''"),
        (lambda n: torch.full((n,), float("inf")), FloatingPointError, "returned inf"),
    ],
)
def test_what_a_function_must_not_return_is_refused(returned, error, message):
    def rule(prompts, responses):
        return returned(len(prompts))

    with pytest.raises(error, match=f"reward function rule {message}"):
        CallableScorer(rule, BYTES).score(*next(steps()))


def test_several_rewards_add_up_with_their_weights():
    vocab_size = len(BYTES)
    models = [tiny_reward_model(seed=seed, vocab_size=vocab_size) for seed in (4, 5)]

    def scorers():
        return [*map(choose_scorer, models), CallableScorer(length, BYTES)]

    weights = [1.0, -0.5, 2]
    combined, single = CombinedScorer(scorers(), weights), scorers()
    for step in steps():
        found = combined.score(*step)
        parts = [scorer.score(*step) for scorer in single]
        for name in ("candidates", "base"):
            expected = sum(weight * getattr(part, name) for weight, part in zip(weights, parts, strict=True))
            assert_close(getattr(found, name), expected)
    assert combined.tokens_computed == sum(scorer.tokens_computed for scorer in single)
    combined.reset()
    assert not any(scorer.reader.cache.layers for scorer in combined.scorers[:2])


def test_the_vocabulary_that_can_be_read_is_the_smallest():
    text = CallableScorer(length, BYTES)
    small, large = (choose_scorer(tiny_reward_model(vocab_size=size)) for size in (30, 50))
    assert (small.vocabulary_size, large.vocabulary_size, text.vocabulary_size) == (30, 50, None)
    assert CombinedScorer([large, text, small]).vocabulary_size == 30
    assert CombinedScorer([text]).vocabulary_size is None


@pytest.mark.parametrize(
    ("weights", "error", "message"),
    [
        ([1.0], ValueError, "1 numbers for 2 reward models"),
        ([1.0, float("nan")], ValueError, "holds nan"),
        ([1.0, "2"], TypeError, "holds '2'"),
        (0.5, TypeError, "`weights` is 0.5"),
    ],
)
def test_weights_that_do_not_fit_are_refused(weights, error, message):
    with pytest.raises(error, match=message):
        CombinedScorer([CallableScorer(length, BYTES)] * 2, weights)
