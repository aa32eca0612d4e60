"""Encoders see whole texts, each distinct one once, up to the length that they can read."""

import pytest
import torch
from torch.testing import assert_close

from rgtg_hf.scoring.scorer import PrefixBatch
from rgtg_hf.scoring.text.encoder_scorer import EncoderScorer, longest_text
from rgtg_hf.scoring.text.policy_text import PolicyText
from tests.scoring.text.text_models import BYTES, ENCODERS, PIECES, WORDS, encoder_of, one_row, text_generation
from tests.scoring.text.tiny_tokenizers import bert_like


@pytest.mark.parametrize("tokenizer", [BYTES, PIECES], ids=["bytes", "pieces"])
@pytest.mark.parametrize("family", ENCODERS)
def test_an_encoders_rewards_are_those_of_whole_texts_one_at_a_time(family, tokenizer):
    encoder = encoder_of(family)

    @torch.no_grad()
    def reward(text):
        inputs = WORDS(text.prompt + text.join(), return_tensors="pt")
        return float(encoder(**inputs).logits)

    scorer = EncoderScorer(encoder, tokenizer, WORDS)
    for prefixes, candidates in text_generation(tokenizer):
        rows = PolicyText(tokenizer).read(prefixes.on_host(candidates, None))
        expected = torch.tensor([[reward(text) for text in row] for row in rows])
        found = scorer.score(prefixes, candidates)
        assert_close(found, expected[:, 1:] - expected[:, :1], atol=1e-4, rtol=1e-4)


def test_an_encoder_reads_duplicates_and_known_texts_once():
    scorer = EncoderScorer(encoder_of(), BYTES, WORDS)
    row = torch.tensor([BYTES("The cat sat")["input_ids"]] * 3)
    full_stop, comma = (BYTES.encode(mark)[0] for mark in ".,")
    step = (
        PrefixBatch(row, torch.ones_like(row), row.shape[1]),
        torch.tensor([[full_stop, comma] * 2] * 3),
    )
    scorer.score(*step)
    read = scorer.tokens_computed
    assert read == 3 * len(WORDS("The cat sat.")["input_ids"])  # the base, padded, and two candidates
    scorer.score(*step)
    assert scorer.tokens_computed == read


def test_text_longer_than_an_encoder_reads_is_refused():
    scorer = EncoderScorer(encoder_of(max_position_embeddings=4), BYTES, WORDS)
    step = next(text_generation())
    with pytest.raises(ValueError, match="BertForSequenceClassification, which reads at most 4"):
        scorer.score(*step)


@pytest.mark.parametrize("named", [None, 20, 100])
@pytest.mark.parametrize(("family", "unused"), [("bert", 0), ("roberta", 4), ("deberta", 0), ("modernbert", 0)])
@torch.no_grad()
def test_the_longest_text_is_what_the_model_can_read(family, unused, named):
    # RoBERTa counts positions from behind the pad token's id.
    encoder = encoder_of(family, max_position_embeddings=30, pad_token_id=3 if family == "roberta" else 0)
    tokenizer = bert_like()
    if named is not None:
        tokenizer.model_max_length = named
    longest = longest_text(encoder, tokenizer)
    # Only a table of positions sets a limit of its own; DeBERTa and ModernBERT count distances.
    has_table = family in ("bert", "roberta") or encoder.config.to_dict().get("position_biased_input")
    assert longest == min(30 - unused if has_table or named is None else named, named or 30)
    encoder(input_ids=torch.full((1, longest), 7))
    if has_table and longest == 30 - unused:
        with pytest.raises((IndexError, RuntimeError)):
            encoder(input_ids=torch.full((1, longest + 1), 7))


def test_text_as_long_as_roberta_reads_is_scored_and_one_token_more_is_refused():
    encoder = encoder_of("roberta", max_position_embeddings=18, pad_token_id=1)
    scorer = EncoderScorer(encoder, BYTES, WORDS)
    words = 4 * ["the", "cat", "and", "dogs"]
    for count in range(1, len(words)):
        text = " ".join(words[:count])
        step = one_row(BYTES, text, [], [BYTES.eos_token_id])
        if len(WORDS(text)["input_ids"]) <= 16:
            scorer.score(*step)
        else:
            with pytest.raises(ValueError, match="which reads at most 16"):
                scorer.score(*step)
    assert len(WORDS(" ".join(words))["input_ids"]) > 16
