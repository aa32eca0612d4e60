"""How far steering moves the policy: exact KL divergence, step by step, during generation.

At every step the steered distribution pi is known on all its candidates, so the divergence

    KL_t = sum over candidates v of pi(v | x, y_<t) * log [ pi(v | x, y_<t) / pi_LM(v | x, y_<t) ]

is computed exactly, not estimated from the sampled tokens. pi_LM is the policy restricted to the same candidates and
renormalised there, which is the unsteered policy with the same `top_k`: divergence 0 means "what `top_k` alone does".
A response's divergence is the sum over its own steps, up to and including its end-of-sequence token.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import LogitsProcessor

from rgtg_hf.decoding.guidance import divergence

__all__ = ["DivergenceRecorder", "candidate_divergence", "response_mask"]


def candidate_divergence(guided_scores: Tensor, policy_scores: Tensor) -> Tensor:
    """KL(pi || pi_LM) in nats over the candidates, which are the tokens that `guided_scores` leaves possible.

    Args:
        guided_scores: Logits of the steered policy, -inf outside the candidates, shape `[batch, vocabulary]`.
        policy_scores: Logits (or log-probabilities) of the policy, shape `[batch, vocabulary]`.

    Returns:
        Non-negative divergences, float64, shape `[batch]`.

    Example:
        ```python
        import torch
        from rgtg_hf.evaluation.divergence import candidate_divergence

        policy = torch.zeros(1, 3)
        guided = torch.tensor([[0.0, 0.0, -torch.inf]])
        assert candidate_divergence(guided, policy) == 0.0  # the two candidates are as likely as before
        ```
    """
    # Only the candidates are looked at: a vocabulary is thousands of times larger.
    most = int((guided_scores > -torch.inf).sum(dim=-1).max())
    guided, ids = guided_scores.topk(most, dim=-1)
    outside = guided == -torch.inf  # where a row has fewer candidates than another
    # In float64, because the difference of two float32 log-softmaxes is of the size of small divergences.
    log_guided = guided.double().log_softmax(dim=-1)
    log_policy = policy_scores.gather(-1, ids).double().masked_fill(outside, -torch.inf).log_softmax(dim=-1)
    return divergence(log_guided, log_policy).clamp(min=0.0)


def response_mask(response_ids: Tensor, eos_token_ids: list[int]) -> Tensor:
    """Marks the tokens that belong to each response: all up to and including the first end-of-sequence token.

    Args:
        response_ids: Generated ids without the prompt, padded after the end, shape `[batch, steps]`.
        eos_token_ids: The ids that end a response; may be empty.

    Returns:
        Booleans of shape `[batch, steps]`.

    Example:
        ```python
        import torch
        from rgtg_hf.evaluation.divergence import response_mask

        assert response_mask(torch.tensor([[5, 2, 2]]), [2]).tolist() == [[True, True, False]]
        ```
    """
    ends = torch.isin(response_ids, torch.tensor(eos_token_ids, dtype=response_ids.dtype, device=response_ids.device))
    ended_before = ends.cumsum(dim=-1) - ends.long()
    return ended_before == 0


class DivergenceRecorder(LogitsProcessor):
    """Runs a logits processor and records how far it moved the distribution at each step.

    The scores come out as the wrapped processor made them. Give the recorder to `generate()` in the processor's place,
    for sampling or greedy decoding (beam search permutes rows between steps). Use a fresh one for each call.

    Args:
        processor: The steering processor.

    Example:
        ```python
        import torch
        from transformers import TopKLogitsWarper
        from rgtg_hf.evaluation.divergence import DivergenceRecorder

        recorder = DivergenceRecorder(TopKLogitsWarper(2))
        recorder(torch.tensor([[1]]), torch.randn(1, 5))
        assert recorder.divergences(torch.tensor([[4]]), eos_token_ids=[]).item() == 0.0
        ```
    """

    def __init__(self, processor: LogitsProcessor) -> None:
        self.processor = processor
        self._steps: list[Tensor] = []

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """Runs the processor on `scores` of shape `[batch, vocabulary]` and returns what it returned."""
        guided = self.processor(input_ids, scores)
        self._steps.append(candidate_divergence(guided, scores))
        return guided

    def divergences(self, response_ids: Tensor, eos_token_ids: list[int]) -> Tensor:
        """The divergence of each response, summed over its steps.

        Args:
            response_ids: What was generated, without the prompt, shape `[batch, steps]`.
            eos_token_ids: The ids that end a response; steps after the first of them do not count.

        Returns:
            Nats per response, float64, shape `[batch]`.

        Raises:
            ValueError: If the number of recorded steps is not that of the response.
        """
        if len(self._steps) != response_ids.shape[1]:
            raise ValueError(
                f"{len(self._steps)} steps were recorded for a response of {response_ids.shape[1]} tokens. Record "
                "each generate() call with a recorder of its own, in sampling or greedy decoding."
            )
        return (torch.stack(self._steps, dim=-1) * response_mask(response_ids, eos_token_ids)).sum(dim=-1)
