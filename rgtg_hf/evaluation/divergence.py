"""Records the exact KL divergence of the guided policy from the policy, step by step, during generation.

At every step the guided distribution pi is known on all its candidates, so the divergence

    KL_t = sum over candidates v of pi(v | x, y_<t) * log [ pi(v | x, y_<t) / pi_LM(v | x, y_<t) ]

is computed exactly, not estimated from the sampled tokens. pi_LM is the policy restricted to the same candidates and
renormalised, which is the unguided policy with the same `top_k`. So restricting to the candidates alone has divergence
0. The divergence of a response is the sum over its steps, up to and including its end-of-sequence token.

Greedy decoding is a policy that puts all probability on one token v*, so its KL_t = -log pi_LM(v* | x, y_<t).
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import LogitsProcessor

from rgtg_hf.decoding.limits import divergence

__all__ = ["DivergenceRecorder", "candidate_divergence", "greedy_divergence", "over_candidates", "response_mask"]


def candidate_divergence(guided_scores: Tensor, policy_scores: Tensor) -> Tensor:
    """KL(pi || pi_LM) in nats over the candidates, the tokens with finite `guided_scores`.

    Args:
        guided_scores: Logits of the guided policy, -inf outside the candidates, shape `[batch, vocabulary]`.
        policy_scores: Logits (or log-probabilities) of the policy, shape `[batch, vocabulary]`.

    Returns:
        Non-negative divergences, float64, shape `[batch]`.

    Example:
        ```python
        import torch
        from rgtg_hf.evaluation.divergence import candidate_divergence

        policy = torch.zeros(1, 3)
        guided = torch.tensor([[0.0, 0.0, -torch.inf]])
        assert candidate_divergence(guided, policy) == 0.0  # both candidates are as likely as before
        ```
    """
    log_guided, log_policy, _ = over_candidates(guided_scores, policy_scores)
    return divergence(log_guided, log_policy).clamp(min=0.0)


def greedy_divergence(guided_scores: Tensor, policy_scores: Tensor) -> Tensor:
    """KL in nats of greedy decoding by `guided_scores` from sampling the policy over the candidates.

    Args:
        guided_scores: Logits of the guided policy, -inf outside the candidates, shape `[batch, vocabulary]`.
        policy_scores: Logits (or log-probabilities) of the policy, shape `[batch, vocabulary]`.

    Returns:
        Non-negative divergences, float64, shape `[batch]`.

    Example:
        ```python
        import math
        import torch
        from rgtg_hf.evaluation.divergence import greedy_divergence

        guided = torch.tensor([[1.0, 2.0, -torch.inf]])
        assert abs(greedy_divergence(guided, torch.zeros(1, 3)).item() - math.log(2)) < 1e-12  # always the same of two
        ```
    """
    _, log_policy, _ = over_candidates(guided_scores, policy_scores)
    return -log_policy[:, 0]


def over_candidates(guided_scores: Tensor, policy_scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probabilities of both over the candidates, the most likely of the guided policy first, and their ids.

    Args:
        guided_scores: Of shape `[batch, vocabulary]`, `-inf` for what is no candidate.
        policy_scores: Of the same shape.

    Returns:
        log guided, log policy and token ids, each of shape `[batch, most candidates of a row]`.
    """
    # Reads only the candidates: a vocabulary is thousands of times larger.
    most = int((guided_scores > -torch.inf).sum(dim=-1).max())
    guided, ids = guided_scores.topk(most, dim=-1)
    outside = guided == -torch.inf  # where a row has fewer candidates than another
    # In float64, because the difference of two float32 log-softmaxes is of the size of small divergences.
    log_guided = guided.double().log_softmax(dim=-1)
    log_policy = policy_scores.gather(-1, ids).double().masked_fill(outside, -torch.inf).log_softmax(dim=-1)
    return log_guided, log_policy, ids


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
    """Runs a logits processor and records how far it moved the distribution, and how likely the policy finds the text.

    The recorder returns the scores of the wrapped processor unchanged. Pass it to `generate()` in place of the
    processor, for sampling or greedy decoding (beam search reorders rows between steps). Use a new one for each call.

    Args:
        processor: The processor that guides.
        greedy: Whether decoding is greedy, which has another divergence.

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

    def __init__(self, processor: LogitsProcessor, *, greedy: bool = False) -> None:
        self.processor = processor
        self._measure = greedy_divergence if greedy else candidate_divergence
        self._steps: list[Tensor] = []
        self._likelihoods: list[Tensor] = []
        self._latest: Tensor | None = None

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """Runs the processor on `scores` of shape `[batch, vocabulary]` and returns what it returned."""
        self._read_likelihood(input_ids[:, -1])
        guided = self.processor(input_ids, scores)
        self._steps.append(self._measure(guided, scores))
        self._latest = scores
        return guided

    def _read_likelihood(self, chosen: Tensor) -> None:
        # The token that was chosen at a step is known at the next step.
        if self._latest is not None:
            picked = self._latest.gather(1, chosen[:, None].to(self._latest.device))[:, 0]
            self._likelihoods.append(picked.double() - self._latest.logsumexp(-1).double())
            self._latest = None

    def divergences(self, response_ids: Tensor, eos_token_ids: list[int]) -> Tensor:
        """The divergence of each response, summed over its steps.

        Args:
            response_ids: Generated ids, without the prompt, shape `[batch, steps]`.
            eos_token_ids: The ids that end a response. Steps after the first of them do not count.

        Returns:
            Nats per response, float64, shape `[batch]`.

        Raises:
            ValueError: If the number of recorded steps differs from the length of the response.
        """
        return self._sum(self._steps, response_ids, eos_token_ids)

    def log_likelihoods(self, response_ids: Tensor, eos_token_ids: list[int]) -> Tensor:
        """log pi_LM(y | x) of each response under the unguided policy, over its whole vocabulary, at temperature 1.

        Args:
            response_ids: Generated ids, without the prompt, shape `[batch, steps]`.
            eos_token_ids: The ids that end a response.

        Returns:
            Nats per response, float64, shape `[batch]`.

        Raises:
            ValueError: If the number of recorded steps differs from the length of the response.
        """
        self._read_likelihood(response_ids[:, -1])
        return self._sum(self._likelihoods, response_ids, eos_token_ids)

    def _sum(self, steps: list[Tensor], response_ids: Tensor, eos_token_ids: list[int]) -> Tensor:
        if len(steps) != response_ids.shape[1]:
            raise ValueError(
                f"{len(steps)} steps were recorded for a response of {response_ids.shape[1]} tokens. Record "
                "each generate() call with a recorder of its own, in sampling or greedy decoding."
            )
        # Values after the end of a response are masked, not multiplied by 0, because they may be infinite.
        return torch.stack(steps, dim=-1).masked_fill(~response_mask(response_ids, eos_token_ids), 0.0).sum(dim=-1)
