"""Importance weights turn means over the guided policy's responses into means over the policy's."""

import itertools

import pytest
import torch
from torch.testing import assert_close
from transformers import LogitsProcessor, TopKLogitsWarper

from rgtg_hf import RewardGuidedLogitsProcessor
from rgtg_hf.evaluation.log_ratios import RatioRecorder
from tests.tiny_models import tiny_policy, tiny_reward_model

SMALL = {"vocab_size": 6, "pad_token_id": 0, "eos_token_id": None, "bos_token_id": None}


@torch.no_grad()
def test_weighted_by_them_every_response_is_as_likely_as_under_the_policy():
    policy, reward_model = tiny_policy(**SMALL), tiny_reward_model(**SMALL)
    responses = torch.tensor(list(itertools.product(range(6), repeat=2)))
    prompt = torch.tensor([[1, 2]]).expand(len(responses), -1)
    whole = torch.cat([prompt, responses], 1)
    recorder = RatioRecorder(RewardGuidedLogitsProcessor(reward_model, beta=2.0, top_k=4))
    guided = plain = torch.zeros(len(responses), dtype=torch.float64)
    for length in (2, 3):
        scores = policy(whole[:, :length]).logits[:, -1]
        steered = recorder(whole[:, :length], scores)
        among = TopKLogitsWarper(4)(None, scores)
        guided = guided + steered.double().log_softmax(-1).gather(1, whole[:, length, None])[:, 0]
        plain = plain + among.double().log_softmax(-1).gather(1, whole[:, length, None])[:, 0]
    possible = guided > -torch.inf
    assert possible.sum() == 16
    ratios = recorder.log_ratios([row if can else [] for row, can in zip(responses.tolist(), possible, strict=True)])
    weighted = guided[possible] + torch.tensor([sum(row) for row in ratios if row], dtype=torch.float64)
    assert_close(weighted, plain[possible], atol=1e-5, rtol=1e-5)
    assert (guided[possible] - plain[possible]).abs().max() > 1


def test_a_token_that_was_no_candidate_is_refused():
    class Only(LogitsProcessor):
        def __call__(self, input_ids, scores):
            return torch.full_like(scores, -torch.inf).index_fill(1, torch.tensor([3]), 0.0)

    recorder = RatioRecorder(Only())
    recorder(torch.tensor([[1]]), torch.zeros(1, 5))
    assert recorder.log_ratios([[3]]) == [[0.0]]
    with pytest.raises(ValueError, match="token 4 of row 1 is none of its candidates"):
        recorder.log_ratios([[4]])
