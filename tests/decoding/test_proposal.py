"""The processors by which the rows of a search are sampled."""

import torch
from torch.testing import assert_close
from transformers import LogitsProcessor, LogitsProcessorList, TemperatureLogitsWarper

from rgtg_hf.config import resolve_guidance
from rgtg_hf.decoding.proposal import CandidateFilter, Proposal

IDS = torch.tensor([[3, 4], [5, 6]])


class Guide(LogitsProcessor):
    """Forbids token 0, and prefers token 1."""

    def __call__(self, input_ids, scores):
        changed = scores.clone()
        changed[:, 0], changed[:, 1] = float("-inf"), scores[:, 1] + 2.0
        return changed


def test_the_filter_keeps_the_scores_of_the_candidates_that_the_reward_model_can_read():
    scores = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    found = CandidateFilter(resolve_guidance({"top_k": 2}).config, vocabulary_size=3)(IDS[:1], scores)
    assert found.tolist() == [[float("-inf"), 2.0, 3.0, float("-inf")]]


def test_ratios_compare_the_guided_proposal_with_the_other_processors_over_its_tokens():
    guide, other = Guide(), TemperatureLogitsWarper(0.5)
    proposal = Proposal(LogitsProcessorList([guide, other]), [guide])
    torch.manual_seed(0)
    ids, expected = IDS, []
    for written in ([1, 2], [3, 1]):
        scores = torch.randn(2, 4)
        guided = proposal(ids, scores.clone())
        assert_close(guided, other(ids, guide(ids, scores)))
        chosen = torch.tensor(written)[:, None]
        plain = (scores / 0.5)[:, 1:].log_softmax(-1)
        expected.append((plain - guided[:, 1:].log_softmax(-1)).gather(1, chosen - 1))
        ids = torch.cat([ids, chosen], dim=1)
    assert_close(torch.tensor(proposal.log_ratios(ids)), torch.cat(expected, dim=1))


def test_each_block_has_its_own_ratios():
    guide = Guide()
    proposal = Proposal(LogitsProcessorList([guide]), [guide])
    ids = IDS
    for length in (1, 3):
        for _ in range(length):
            proposal(ids, torch.zeros(2, 4))
            ids = torch.cat([ids, torch.ones(2, 1, dtype=torch.long)], dim=1)
        assert [len(row) for row in proposal.log_ratios(ids)] == [length] * 2
