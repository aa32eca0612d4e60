import torch
from transformers import LogitsProcessor, TopKLogitsWarper

from rgtg_hf.evaluation.sampling import sample_responses


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


def test_every_step_is_told(policy):
    told = []
    sampled = sample_responses(policy, Words(), INPUTS, seed=0, on_step=lambda: told.append(1), **SETTINGS)
    assert len(told) == max(map(len, sampled.ids))
    assert sampled.texts == sample_responses(policy, Words(), INPUTS, seed=0, **SETTINGS).texts
