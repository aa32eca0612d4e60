"""Uses a fine-tuned policy as a way of steering, so that it can be compared at equal divergence from the policy.

    pi(v | x, y_<t)  ∝  pi_LM(v | x, y_<t) · [ pi_FT(v | x, y_<t) / pi_LM(v | x, y_<t) ] ^ strength       v in top-k

Strength 1 is the fine-tuned policy on the policy's candidates. Other strengths move along the line through the two, as
if it had been trained with a weaker or stronger penalty (Liu et al., arXiv:2402.02992).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor

from rgtg_hf.config import resolve_guidance
from rgtg_hf.decoding.padding import infer_attention_mask
from rgtg_hf.decoding.step import guide_step
from rgtg_hf.scoring.prefix_cache import PrefixCache, as_columns
from rgtg_hf.scoring.scorer import PrefixBatch

__all__ = ["FineTunedProcessor"]


class FineTunedProcessor(LogitsProcessor):
    """Moves a policy towards its fine-tuned version, token by token.

    Args:
        fine_tuned: The fine-tuned causal language model with the policy's vocabulary, with or without PEFT adapters.
        strength: 0 is the policy, 1 the fine-tuned policy.
        top_k: Candidates per row and step, the most likely tokens of the policy.
        attention_mask: The mask that is passed to `generate()`, shape `[prompts, length]`.

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
        self.config = resolve_guidance({"beta": strength, "top_k": top_k}).config
        self._head = fine_tuned.get_output_embeddings()
        self._cache = PrefixCache(fine_tuned.eval())
        self._prompt_mask = attention_mask

    def reset(self, attention_mask: Tensor | None = None) -> None:
        """Clears the cache and takes the mask of the next prompts."""
        self._cache.reset()
        self._prompt_mask = attention_mask

    @torch.no_grad()
    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # type: ignore[override]
        """Moves the scores of one step.

        Args:
            input_ids: Prompts and generated tokens, shape `[rows, length]`.
            scores: The policy's scores of the next token, shape `[rows, vocabulary]`. They are not changed.

        Returns:
            The moved scores, `-inf` outside the candidates, shape `[rows, vocabulary]`.
        """
        mask = infer_attention_mask(input_ids, self._prompt_mask)
        hidden = self._cache.read(as_columns(PrefixBatch(input_ids, mask, 0)))

        def score(candidate_ids: Tensor, wanted: Tensor) -> Tensor:
            tuned = self._head(hidden).float().to(scores.device).gather(1, candidate_ids)
            # The normalisation of both models is constant in v and drops out.
            return tuned - scores.gather(1, candidate_ids).float()

        return guide_step(scores, self.config, score, compare_paths=True).scores
