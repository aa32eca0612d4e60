"""A reward model with another tokenizer gets the rewards of whole texts, whatever the policy's tokens are."""

import pytest
import torch
from torch.testing import assert_close

from rgtg_hf.rewards.prefix_rewards import prefix_rewards
from rgtg_hf.scoring.choose import probe_reader
from rgtg_hf.scoring.make import make_scorer
from rgtg_hf.scoring.scorer import PrefixBatch
from rgtg_hf.scoring.text.retokenized import RetokenizedScorer
from rgtg_hf.scoring.text.sequences import SiblingReader
from tests.scoring.generations import assert_equal_scores, partly_wanted
from tests.scoring.text.text_models import BYTES, OTHER_BYTES, PIECES, causal, one_row, text_generation
from tests.scoring.text.tiny_tokenizers import CHAT_TEMPLATE, SENTENCES, byte_level, sentencepiece

TOKENIZERS = {"bytes": BYTES, "other bytes": OTHER_BYTES, "pieces": PIECES}
PAIRS = [("bytes", "pieces"), ("pieces", "bytes"), ("bytes", "other bytes")]


def written(tokenizer, ids):
    """Text of ids up to the last whole character, put together byte by byte."""
    if tokenizer is not PIECES:
        return tokenizer.decode(ids).rstrip("\ufffd")
    tokens = tokenizer.convert_ids_to_tokens(ids)
    text = b"".join(
        bytes([int(token[3:-1], 16)]) if token.startswith("<0x") else token.replace("▁", " ").encode()
        for token in tokens
    )
    return text.decode(errors="replace").removeprefix(" ").rstrip("\ufffd")


@torch.no_grad()
def reward_of_text(reward_model, reward_tokenizer, policy_tokenizer, prompt, response):
    """The obvious way: the whole text through the reward model."""
    special = set(policy_tokenizer.all_special_ids)
    plain = [id_ for id_ in prompt if id_ not in special]
    pieces = [[]]
    for id_ in response:
        if id_ == policy_tokenizer.eos_token_id:
            pieces.append([])
        elif id_ not in special:
            pieces[-1].append(id_)
    text = written(policy_tokenizer, plain + pieces[0])
    for piece in pieces[1:]:
        text += reward_tokenizer.eos_token + written(policy_tokenizer, piece)
    starts = [reward_tokenizer.bos_token_id] if reward_tokenizer.bos_token else []
    ids = starts + reward_tokenizer(text, add_special_tokens=False)["input_ids"]
    return float(prefix_rewards(reward_model, torch.tensor([ids]))[0, -1])


def text_increments(prefixes, candidates, *models):
    increments = []
    for ids, mask, row in zip(prefixes.input_ids, prefixes.attention_mask.bool(), candidates, strict=True):
        prompt = ids[: prefixes.prompt_length][mask[: prefixes.prompt_length]].tolist()
        response = ids[prefixes.prompt_length :].tolist()
        base = reward_of_text(*models, prompt, response)
        increments.append([reward_of_text(*models, prompt, [*response, one]) - base for one in row.tolist()])
    return torch.tensor(increments)


def words_generation(tokenizer, text=SENTENCES[2] + " " + SENTENCES[3]):
    """Real text, which is retokenized more than random tokens are."""
    prompt = tokenizer("The cat sat on the mat.")["input_ids"]
    response = tokenizer(text, add_special_tokens=False)["input_ids"]
    for t in range(20):
        row = torch.tensor([prompt + response[:t]])
        yield PrefixBatch(row, torch.ones_like(row), len(prompt)), torch.tensor([response[t : t + 4]])


@pytest.mark.parametrize(("policy", "reward"), PAIRS)
def test_cached_rewards_are_those_of_whole_texts(policy, reward):
    tokenizer, reward_tokenizer = TOKENIZERS[policy], TOKENIZERS[reward]
    reward_model = causal(reward_tokenizer)
    scorer = RetokenizedScorer(reward_model, tokenizer, reward_tokenizer)
    assert isinstance(scorer.reader, SiblingReader)
    for prefixes, candidates in [*text_generation(tokenizer, seed=0), *words_generation(tokenizer)]:
        expected = text_increments(prefixes, candidates, reward_model, reward_tokenizer, tokenizer)
        assert_close(scorer.score(prefixes, candidates), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", ["gpt2", "mistral", "gemma3", "gpt_neo", "bloom", "mpt", "jamba"])
def test_every_family_reads_text_rightly(family):
    reward_model = causal(PIECES, family)
    assert probe_reader(reward_model, "siblings").right == (family not in ("gpt_neo", "bloom", "mpt", "jamba"))
    scorer = RetokenizedScorer(reward_model, BYTES, PIECES)
    reference = RetokenizedScorer(reward_model, BYTES, PIECES, "reference")
    assert_equal_scores(scorer, reference, text_generation(BYTES, seed=2, steps=8))


def test_a_step_costs_the_changed_end_only():
    scorer = RetokenizedScorer(causal(PIECES), BYTES, PIECES)
    steps = list(words_generation(BYTES))
    scorer.score(*steps[0])
    before = scorer.tokens_computed
    for prefixes, candidates in steps[1:]:
        scorer.score(prefixes, candidates)
    per_step = (scorer.tokens_computed - before) / (len(steps) - 1)
    assert per_step < 5 * (steps[0][1].shape[1] + 1)  # whole texts would be 5 times 10 to 60 tokens


def test_the_cache_does_not_outgrow_the_text():
    scorer = RetokenizedScorer(causal(PIECES), BYTES, PIECES)
    for prefixes, candidates in text_generation(BYTES, seed=0):
        scorer.score(prefixes, candidates)
    buffer = scorer.reader.rows.buffer
    longest = scorer.reader.rows.held.shape[1]
    assert all(layer.keys.shape[1] < 1.2 * (longest + 20) + 64 for layer in buffer.layers)
    scorer.reset()
    assert scorer.reader.rows.held is None
    assert not scorer.policy_text._prompts


def encoded(reward_tokenizer, tokenizer, prompt, response, candidates, **settings):
    """The reward model's ids of the prefix and with each candidate, as text."""
    scorer = RetokenizedScorer(causal(reward_tokenizer), tokenizer, reward_tokenizer, **settings)
    prefixes, candidates = one_row(tokenizer, prompt, response, candidates)
    (row,) = scorer.policy_text.read(prefixes.on_host(candidates, None))
    ids = scorer._encode(row)
    return [reward_tokenizer.decode(ids[text]) for text in row]


def test_the_end_is_the_reward_models_own():
    base, ended = encoded(BYTES, PIECES, "The cat", PIECES.encode("sat", add_special_tokens=False), [2])
    assert base == "The cat sat"
    assert ended == "The cat sat<|endoftext|>"
    base, ended = encoded(PIECES, BYTES, "The cat", BYTES.encode(" sat"), [BYTES.eos_token_id])
    assert (base, ended) == ("<s> The cat sat", "<s> The cat sat</s>")


def test_further_end_tokens_may_be_named():
    extra = BYTES.encode("!")[0]
    _, ended = encoded(PIECES, BYTES, "The cat", [], [extra], eos_token_ids=[extra])
    assert ended == "<s> The cat</s>"


def test_in_its_chat_format_the_end_is_the_closing_of_an_answer():
    special = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    chat = byte_level(60, special=special, chat_template=CHAT_TEMPLATE)
    policy = byte_level(20, special=(*special, "<|tool|>"), chat_template=CHAT_TEMPLATE)
    prompt = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    closing = policy.convert_tokens_to_ids("<|im_end|>")
    base, eos, im_end, tool = encoded(chat, policy, prompt, [], [policy.eos_token_id, closing, 3])
    assert base == tool == prompt  # special tokens of the same name stay, one that the reward model lacks has no text
    assert eos == im_end == prompt + "<|im_end|>\n"
    _, eos, im_end = encoded(chat, policy, "Hi", [], [policy.eos_token_id, closing])
    assert eos == im_end == "Hi<|endoftext|>"


def test_an_end_without_a_name_has_no_text():
    endless = byte_level(30, eos_token=None)
    base, ended = encoded(endless, PIECES, "The cat", [], [2])
    assert base == ended == "The cat"


def test_the_bos_token_is_there_once():
    other = sentencepiece(80)
    base, _ = encoded(other, PIECES, "The cat", [], [2])
    assert base == "<s> The cat"
    base, _ = encoded(PIECES, BYTES, "<s>The cat", [], [5])  # a prompt in the reward model's own format
    assert base == "<s> The cat"


def test_an_empty_text_is_read_as_its_beginning_or_refused():
    reward_model, row = causal(BYTES), torch.tensor([[PIECES.bos_token_id]])
    cat = PIECES.encode("cat", add_special_tokens=False)[-1]
    step = PrefixBatch(row, torch.ones_like(row), 1), torch.tensor([[cat]])
    models = reward_model, BYTES, PIECES
    start = prefix_rewards(reward_model, torch.tensor([[BYTES.eos_token_id]]))[0, -1]
    expected = reward_of_text(*models, [], [cat]) - start
    assert_close(RetokenizedScorer(reward_model, PIECES, BYTES).score(*step), expected.reshape(1, 1))
    with pytest.raises(ValueError, match="nothing to read"):
        RetokenizedScorer(reward_model, PIECES, byte_level(eos_token=None)).score(*step)


def test_siblings_of_one_text_are_read_in_few_passes(monkeypatch):
    scorer = make_scorer(causal(PIECES), tokenizer=BYTES, reward_tokenizer=PIECES)
    passes = []
    backbone = scorer.reader.rows.backbone
    read = backbone.read
    monkeypatch.setattr(backbone, "read", lambda *a: passes.append(1) or read(*a))
    for prefixes, candidates in text_generation(BYTES, seed=0):
        passes.clear()
        scorer.score(prefixes, candidates)
        assert len(passes) <= 2


@pytest.mark.parametrize("family", ["llama", "bloom", "jamba"])
def test_rows_that_are_left_out_for_some_steps_catch_up(family):
    reward_model = causal(PIECES, family)
    scorer = RetokenizedScorer(reward_model, BYTES, PIECES)
    reference = RetokenizedScorer(reward_model, BYTES, PIECES, "reference")
    assert_equal_scores(scorer, reference, text_generation(make=partly_wanted, seed=1))


def test_a_row_that_is_left_out_is_kept():
    scorer = RetokenizedScorer(causal(PIECES), BYTES, PIECES)
    prompts = [BYTES("The cat sat on the mat and the dog sat")["input_ids"] for _ in range(2)]
    response = BYTES(SENTENCES[2], add_special_tokens=False)["input_ids"]
    before = 0
    for t in range(8):
        rows = torch.tensor([prompt + response[:t] for prompt in prompts])
        candidates = torch.tensor([response[t : t + 3]] * 2)
        wanted = torch.ones_like(candidates, dtype=torch.bool)
        wanted[1] = t in (0, 7)
        before = scorer.tokens_computed
        scorer.score(PrefixBatch(rows, torch.ones_like(rows), len(prompts[0])), candidates, wanted)
    assert scorer.tokens_computed - before < len(PIECES(SENTENCES[0])["input_ids"])
