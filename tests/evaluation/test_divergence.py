import pytest
import torch
from transformers import LogitsProcessor, TopKLogitsWarper

from rgtg_hf.evaluation.divergence import (
    DivergenceRecorder,
    candidate_divergence,
    greedy_divergence,
    response_mask,
)


class Tilt(LogitsProcessor):
    """Adds a fixed reward per token to the k most likely ones."""

    def __init__(self, reward, top_k):
        self.reward, self.top_k = reward, TopKLogitsWarper(top_k)

    def __call__(self, input_ids, scores):
        return self.top_k(input_ids, scores) + self.reward


def test_divergence_is_the_sum_over_candidates_of_the_definition():
    torch.manual_seed(0)
    policy, reward = torch.randn(4, 30), torch.randn(4, 30)
    guided = Tilt(reward, 5)(None, policy)
    for row in range(4):
        candidates = policy[row].topk(5).indices
        p = (policy[row] + reward[row])[candidates].double().softmax(-1)
        q = policy[row][candidates].double().softmax(-1)
        expected = sum(p[i] * torch.log(p[i] / q[i]) for i in range(5))
        torch.testing.assert_close(candidate_divergence(guided, policy)[row], expected, rtol=1e-6, atol=1e-6)


def test_restricting_to_candidates_alone_is_no_divergence():
    policy = torch.randn(3, 20)
    assert candidate_divergence(TopKLogitsWarper(4)(None, policy), policy).max() < 1e-12


def test_rows_with_fewer_candidates_than_others_are_measured_alone():
    policy = torch.randn(2, 20)
    guided = policy + torch.randn(2, 20)
    guided[0, 3:] = -torch.inf
    both = candidate_divergence(guided, policy)
    alone = torch.cat([candidate_divergence(guided[i : i + 1], policy[i : i + 1]) for i in range(2)])
    torch.testing.assert_close(both, alone)


def test_divergence_does_not_depend_on_normalisation_of_the_scores():
    policy = torch.randn(2, 20)
    guided = policy + torch.randn(2, 20)
    torch.testing.assert_close(
        candidate_divergence(guided + 3, policy.log_softmax(-1)), candidate_divergence(guided, policy)
    )


def test_response_ends_with_its_first_end_token():
    ids = torch.tensor([[7, 2, 2, 2], [7, 8, 9, 7], [3, 0, 0, 0]])
    assert response_mask(ids, [2, 3]).sum(-1).tolist() == [2, 4, 1]
    assert response_mask(ids, []).all()


def test_recorder_sums_over_a_response_and_not_over_its_padding():
    torch.manual_seed(0)
    reward = torch.randn(20)
    recorder = DivergenceRecorder(Tilt(reward, 5))
    scores = torch.randn(3, 2, 20)
    for step in scores:
        recorder(torch.ones(2, 1, dtype=torch.long), step)
    steps = torch.stack([candidate_divergence(Tilt(reward, 5)(None, step), step) for step in scores])
    total = recorder.divergences(torch.tensor([[5, 2, 2], [5, 6, 7]]), eos_token_ids=[2])
    torch.testing.assert_close(total, torch.stack([steps[:2, 0].sum(), steps[:, 1].sum()]))


def test_recorder_changes_nothing(policy):
    prompt = torch.tensor([[1, 5, 6]])
    arguments = {"do_sample": True, "max_new_tokens": 6, "top_k": 5}
    reward = torch.linspace(-2, 2, policy.config.vocab_size)
    torch.manual_seed(0)
    plain = policy.generate(prompt, logits_processor=[Tilt(reward, 5)], **arguments)
    torch.manual_seed(0)
    recorded = policy.generate(prompt, logits_processor=[DivergenceRecorder(Tilt(reward, 5))], **arguments)
    assert plain.tolist() == recorded.tolist()


def test_recorder_used_for_two_calls_is_refused():
    recorder = DivergenceRecorder(TopKLogitsWarper(2))
    for _ in range(4):
        recorder(torch.ones(1, 1, dtype=torch.long), torch.randn(1, 5))
    with pytest.raises(ValueError, match="4 steps were recorded for a response of 2 tokens"):
        recorder.divergences(torch.tensor([[1, 2]]), [])


def test_greedy_decoding_diverges_by_what_the_policy_gives_its_choices():
    torch.manual_seed(0)
    policy = torch.randn(4, 30)
    guided = Tilt(torch.randn(4, 30), 5)(None, policy)
    kept = policy.masked_fill(guided == -torch.inf, -torch.inf).double().log_softmax(-1)
    expected = -kept.gather(1, guided.argmax(-1, keepdim=True))[:, 0]
    assert torch.allclose(greedy_divergence(guided, policy), expected)


def test_likelihoods_are_the_policys_over_its_whole_vocabulary_up_to_the_end():
    torch.manual_seed(0)
    steps = [torch.randn(2, 30) for _ in range(3)]
    response = torch.tensor([[4, 2, 0], [7, 8, 9]])  # the first row ends with 2
    recorder = DivergenceRecorder(Tilt(torch.randn(30), 5))
    for place, scores in enumerate(steps):
        recorder(torch.cat([torch.ones(2, 1, dtype=torch.long), response[:, :place]], dim=1), scores)
    logs = [scores.double().log_softmax(-1) for scores in steps]
    expected = [
        logs[0][0, 4] + logs[1][0, 2],
        logs[0][1, 7] + logs[1][1, 8] + logs[2][1, 9],
    ]
    assert torch.allclose(recorder.log_likelihoods(response, [2]), torch.stack(expected), atol=1e-5)
