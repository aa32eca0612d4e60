import pytest
import torch
from torch.testing import assert_close
from transformers import LogitsProcessor, TopKLogitsWarper

from rgtg_hf import RewardGuidedLogitsProcessor, steering
from rgtg_hf.evaluation.sampling import sample_responses
from tests.families import tiny_language_model
from tests.tiny_models import tiny_reward_model, tiny_steering_head


class Words:
    """Names each token by its id."""

    def batch_decode(self, ids, skip_special_tokens):
        assert skip_special_tokens
        return [" ".join(str(token) for token in row if token > 2) for row in ids.tolist()]


class Favour(LogitsProcessor):
    def __call__(self, input_ids, scores):
        kept = TopKLogitsWarper(5)(input_ids, scores)
        return kept + torch.arange(scores.shape[-1])


INPUTS = {"input_ids": torch.tensor([[0, 1, 5], [1, 6, 7]]), "attention_mask": torch.tensor([[0, 1, 1], [1, 1, 1]])}
SETTINGS = {"top_k": 5, "max_new_tokens": 8}


def test_unguided_policy_has_no_divergence_and_its_seed_decides(policy):
    first, again, other = (sample_responses(policy, Words(), INPUTS, seed=s, **SETTINGS) for s in (0, 0, 1))
    assert first.divergences == [0.0, 0.0]
    assert first.texts == again.texts != other.texts


def test_guided_policy_diverges_and_counts_its_own_tokens(policy):
    guided = sample_responses(policy, Words(), INPUTS, seed=0, processor=Favour(), **SETTINGS)
    assert all(divergence > 0 for divergence in guided.divergences)
    assert len(guided.texts) == 2
    assert 2 <= guided.tokens <= 16
    assert guided.tokens_per_second > 0


@pytest.mark.parametrize("family", ["llama", "gpt2", "bloom", "gemma3_text", "openai-gpt", "mamba", "recurrent_gemma"])
def test_a_prompt_is_read_once_for_all_its_responses_where_that_changes_nothing(family, monkeypatch):
    policy = tiny_language_model(family).eval()
    settings = SETTINGS | {"seed": 0, "responses_per_prompt": 3}
    read = []
    policy.get_input_embeddings().register_forward_hook(lambda module, inputs, output: read.append(inputs[0].numel()))
    once = sample_responses(policy, Words(), INPUTS, **settings)
    steps = max(map(len, once.ids))
    if family in ("llama", "gpt2", "bloom", "gemma3_text"):
        assert sum(read) == 2 * 2 + 2 * 3 * steps
    monkeypatch.setattr("rgtg_hf.evaluation.sampling.DynamicCache", type(None))
    often = sample_responses(policy, Words(), INPUTS, **settings)
    assert once.ids == often.ids
    assert_close(torch.tensor(once.log_likelihoods), torch.tensor(often.log_likelihoods), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", ["reward model", "steering head"])
def test_guidance_sees_the_same_prompts_however_often_they_are_read(policy, kind, monkeypatch):
    def guided():
        settings = SETTINGS | {"seed": 0, "responses_per_prompt": 3}
        if kind == "steering head":
            with steering(policy, [(tiny_steering_head(policy), 2.0)], top_k=5) as processor:
                return sample_responses(policy, Words(), INPUTS, processor=processor, **settings)
        mask = INPUTS["attention_mask"]
        processor = RewardGuidedLogitsProcessor(tiny_reward_model(), 2.0, 5, attention_mask=mask, pad_token_id=0)
        return sample_responses(policy, Words(), INPUTS, processor=processor, **settings)

    once = guided()
    monkeypatch.setattr("rgtg_hf.evaluation.sampling.DynamicCache", type(None))
    often = guided()
    assert once.ids == often.ids
    assert_close(torch.tensor(once.divergences), torch.tensor(often.divergences), atol=1e-5, rtol=1e-4)


def test_every_step_is_told(policy):
    told = []
    sampled = sample_responses(policy, Words(), INPUTS, seed=0, on_step=lambda: told.append(1), **SETTINGS)
    assert len(told) == max(map(len, sampled.ids))
    assert sampled.texts == sample_responses(policy, Words(), INPUTS, seed=0, **SETTINGS).texts
