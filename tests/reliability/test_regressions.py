"""Defects that random cases found, each by its smallest case."""

import pytest
import torch

from rgtg_hf import RewardGuidanceConfig, RewardGuidedLogitsProcessor
from rgtg_hf.config import resolve_guidance
from rgtg_hf.decoding.step import select_candidates
from rgtg_hf.scoring.scorer import PrefixBatch
from rgtg_hf.scoring.text.encoder_scorer import EncoderScorer
from tests.decoding.test_reward_kinds import PADDED, TOKENIZER
from tests.scoring.text.tiny_tokenizers import byte_level
from tests.tiny_models import VOCAB_SIZE, tiny_encoder, tiny_policy, tiny_reward_model


def beams(processor, steps, prompt=(5, 6, 7)):
    """What the processor makes of two beams of a prompt, step by step, given their scores."""
    ids = torch.tensor([prompt, prompt])
    for token, scores in steps:
        yield processor(ids, scores)
        ids = torch.cat([ids, torch.tensor([[token], [token + 1]])], dim=1)


def sure_of(token):
    scores = torch.full((2, VOCAB_SIZE), -20.0)
    scores[:, token] = 0.0
    return scores


def unsure():
    return torch.linspace(0, 1, VOCAB_SIZE).repeat(2, 1)


def test_in_beam_search_a_candidate_without_rivals_has_its_reward_at_its_own_step(reward_model):
    # Left for a later step, it was missing from paths that ended with it.
    config = RewardGuidanceConfig(beta=1.0, top_k=4, min_p=0.9)
    processor = RewardGuidedLogitsProcessor(reward_model, guidance_config=config)
    (guided,) = beams(processor, [(8, sure_of(8))])
    assert guided[0, 8] != 0.0
    assert processor.stats.steps_skipped == 0


def test_steps_that_are_left_to_the_policy_add_no_reward_to_a_beam_later(reward_model):
    # When no row was steered, the next increments were measured from before those steps.
    config = RewardGuidanceConfig(beta=1.0, top_k=4, min_entropy=1.0)
    used, fresh = (RewardGuidedLogitsProcessor(reward_model, guidance_config=config) for _ in range(2))
    *_, last = beams(used, [(8, unsure()), (8, sure_of(8)), (8, unsure())])
    expected = fresh(torch.tensor([[5, 6, 7, 8, 8], [5, 6, 7, 9, 9]]), unsure())
    torch.testing.assert_close(last, expected, atol=1e-4, rtol=1e-4)


def test_top_p_of_one_rules_nobody_out():
    # Rounding of the sum left out the least likely tokens.
    scores = torch.randn(50, 500, generator=torch.Generator().manual_seed(0)) * 8
    found = select_candidates(scores, resolve_guidance({"top_k": 0, "top_p": 1.0}).config)
    assert bool(found.valid.all())


def test_an_encoder_reads_an_empty_text_as_its_tokenizers_start():
    # A tokenizer without special tokens around a text gave it nothing at all to read.
    scorer = EncoderScorer(tiny_encoder(len(PADDED)), TOKENIZER, PADDED)
    part = next(id_ for id_ in range(len(TOKENIZER)) if TOKENIZER.decode([id_]) == "\N{REPLACEMENT CHARACTER}")
    ids = torch.tensor([[part]])
    found = scorer.score(PrefixBatch(ids, torch.ones_like(ids), 1), torch.tensor([[part, 70]]))
    assert bool(torch.isfinite(found).all())
    scorer.reset()
    scorer.reward_tokenizer = byte_level(20, eos_token=None)
    with pytest.raises(ValueError, match="nothing to read"):
        scorer.score(PrefixBatch(ids, torch.ones_like(ids), 1), torch.tensor([[part]]))


def test_a_product_with_beta_that_overflows_is_refused():
    # Every candidate better than the prefix got an infinite score, and the first of them was taken.
    processor = RewardGuidedLogitsProcessor(tiny_reward_model(), beta=1e39)
    with pytest.raises(FloatingPointError, match="`beta` is 1e"):
        tiny_policy().generate(torch.tensor([[5, 6]]), logits_processor=[processor], max_new_tokens=2)


def test_prompts_that_begin_like_those_before_are_prompts():
    # A batch of prompts, each a few tokens longer than the batch before it, was taken for that batch's continuation.
    seen = []

    def note(prompts, responses):
        seen.extend(zip(prompts, responses, strict=True))
        return [0.0] * len(prompts)

    processor = RewardGuidedLogitsProcessor(note, tokenizer=TOKENIZER, top_k=2)
    prompts = TOKENIZER(["the cat", "dog on a"])["input_ids"]
    length = min(map(len, prompts))
    short = torch.tensor([prompt[: length - 2] for prompt in prompts])
    long = torch.tensor([prompt[:length] for prompt in prompts])
    scores = torch.randn(2, len(TOKENIZER), generator=torch.Generator().manual_seed(0))
    for ids in (short, torch.cat([short, short[:, :1]], 1), torch.cat([short, short[:, :2]], 1)):
        processor(ids, scores)
    seen.clear()
    processor(long, scores)
    assert {prompt for prompt, _ in seen} == {TOKENIZER.decode(row) for row in long.tolist()}
