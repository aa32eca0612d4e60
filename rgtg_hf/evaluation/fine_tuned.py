"""A fine-tuned policy as a way of steering, so that it can be compared at equal divergence from the policy.

    pi(v | x, y_<t)  ∝  pi_LM(v | x, y_<t) · [ pi_FT(v | x, y_<t) / pi_LM(v | x, y_<t) ] ^ strength       v in top-k

Strength 1 is the fine-tuned policy on the policy's candidates; other strengths move along the line between the two
and beyond, as if it had been trained with a weaker or stronger penalty (Liu et al., arXiv:2402.02992).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor

from rgtg_hf.decoding.guidance import RewardGuidanceConfig, guide, select_candidates
from rgtg_hf.decoding.padding import infer_attention_mask
from rgtg_hf.scoring.prefix_cache import PrefixCache, as_columns
from rgtg_hf.scoring.scorer import PrefixBatch

__all__ = ["FineTunedProcessor"]


class FineTunedProcessor(LogitsProcessor):
    """Moves a policy to a fine-tuned version of it, token by token.

    Args:
        fine_tuned: The fine-tuned causal language model, whole or with PEFT adapters, with the policy's vocabulary.
        strength: How far: 0 is the policy, 1 the fine-tuned one.
        top_k: Candidates per row and step, the policy's likeliest.
        attention_mask: The mask that goes to `generate()`, shape `[prompts, length]`.

    Example:
        ```python
        import torch
        from transformers import LlamaConfig, LlamaForCausalLM
        from rgtg_hf.evaluation.fine_tuned import FineTunedProcessor

        config = LlamaConfig(vocab_size=32, hidden_size=16, intermediate_size=32, num_hidden_layers=1,
                             num_attention_heads=2)
        policy, tuned = LlamaForCausalLM(config), LlamaForCausalLM(config)
        processor = FineTunedProcessor(tuned, strength=1.0, top_k=5)
        policy.generate(torch.tensor([[5, 6, 7]]), logits_processor=[processor], max_new_tokens=4)
        ```
    """

    supports_continuous_batching = False

    def __init__(
        self, fine_tuned: Any, strength: float = 1.0, top_k: int = 10, attention_mask: Tensor | None = None
    ) -> None:
        self.strength = strength
        self.config = RewardGuidanceConfig(top_k=top_k)
        self._head = fine_tuned.get_output_embeddings()
        self._cache = PrefixCache(fine_tuned.eval())
        self._prompt_mask = attention_mask

    def reset(self, attention_mask: Tensor | None = None) -> None:
        """Forgets what was read, and takes the mask of the prompts to come."""
        self._cache.reset()
        self._prompt_mask = attention_mask

    @torch.no_grad()
    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # type: ignore[override]
        """Moves one step.

        Args:
            input_ids: Prompts and what was generated so far, shape `[rows, length]`.
            scores: The policy's scores of the next token, shape `[rows, vocabulary]`. Not changed.

        Returns:
            The moved scores, `-inf` for all but the candidates, shape `[rows, vocabulary]`.
        """
        mask = infer_attention_mask(input_ids, self._prompt_mask)
        columns = as_columns(PrefixBatch(input_ids, mask, 0, input_ids.shape[1])).to(self._cache.device)
        self._cache.keep_common_prefix(columns, limit=columns.shape[1] - 1)
        hidden = self._cache.extend(columns)[:, -1]
        candidates = select_candidates(scores, self.config)
        tuned = self._head(hidden).float().to(scores.device).gather(1, candidates.ids)
        # What is constant in v, both models' normalisation, drops out.
        return guide(
            scores, candidates, tuned - candidates.scores.float(), torch.zeros_like(tuned[:, 0]), self.strength
        )
