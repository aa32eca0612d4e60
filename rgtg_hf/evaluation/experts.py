"""Uses the probabilities of other language models as a way of steering, so that all can be compared at one divergence.

    pi(v | x, y_<t)  ∝  pi_LM(v | x, y_<t) · [ pi_E(v | x, y_<t) / pi_B(v | x, y_<t) ] ^ strength         v in top-k

pi_E is the expert, pi_B what it is compared with. Several methods have this form:

| method | expert | compared with | source |
| --- | --- | --- | --- |
| a fine-tuned policy (DPO, say); other strengths than 1 as if its penalty were weaker or stronger | that | the policy | Liu et al., arXiv:2402.02992 |
| an instruction in the prompt; strengths above 1 are classifier-free guidance | the policy, with the instruction | the policy | Sanchez et al., arXiv:2306.17806 |
| proxy tuning | a small tuned model | the same before tuning | Liu et al., arXiv:2401.08565 |
| GenARM | an autoregressive reward model | nothing | Xu et al., arXiv:2410.08193 |
"""  # noqa: E501

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, LogitsProcessor

from rgtg_hf.compat import cache_argument, cache_in
from rgtg_hf.config import resolve_guidance
from rgtg_hf.decoding.padding import infer_attention_mask
from rgtg_hf.decoding.reward_prompts import RewardPrompts
from rgtg_hf.decoding.step import guide_step
from rgtg_hf.scoring.scorer import PrefixBatch

__all__ = ["ExpertProcessor"]


class ExpertProcessor(LogitsProcessor):
    """Moves a policy by the probabilities that another language model gives, token by token.

    Args:
        expert: A causal language model with the policy's vocabulary, with or without PEFT adapters.
        strength: 0 is the policy. With `base="policy"`, 1 is the expert, on the policy's candidates.
        top_k: Candidates per row and step, the most likely tokens of the policy; 0 for the whole vocabulary.
        attention_mask: The mask that is passed to `generate()`, shape `[prompts, length]`.
        base: What the expert is compared with: `"policy"`, another causal language model, or None for nothing.
        prompts: Prompts that the expert reads in place of the policy's, one for each: a tokenizer's output with
            `input_ids` and `attention_mask`.

    Raises:
        ValueError: If there are `prompts` but no `attention_mask`, or a setting is out of range.

    Example:
        ```python
        import torch
        from transformers import LlamaConfig, LlamaForCausalLM
        from rgtg_hf.evaluation.experts import ExpertProcessor

        config = LlamaConfig(vocab_size=32, hidden_size=16, intermediate_size=32, num_hidden_layers=1,
                             num_attention_heads=2)
        policy, tuned = LlamaForCausalLM(config), LlamaForCausalLM(config)
        processor = ExpertProcessor(tuned, strength=1.0, top_k=5)
        policy.generate(torch.tensor([[5, 6, 7]]), logits_processor=[processor], max_new_tokens=4)
        ```
    """

    supports_continuous_batching = False

    def __init__(
        self,
        expert: Any,
        strength: float = 1.0,
        top_k: int = 10,
        attention_mask: Tensor | None = None,
        *,
        base: Any = "policy",
        prompts: Any = None,
    ) -> None:
        if prompts is not None and attention_mask is None:
            raise ValueError(
                "`prompts` need `attention_mask=` as well, which tells where the policy's own prompts end."
            )
        self.config = resolve_guidance({"beta": strength, "top_k": top_k}).config
        self._expert = _Reader(expert)
        self._base = _Reader(base) if base is not None and base != "policy" else base
        self._vocabulary = expert.config.get_text_config().vocab_size
        self._prompt_mask = attention_mask
        self._prompts = RewardPrompts(prompts) if prompts is not None else None

    def reset(self, attention_mask: Tensor | None = None) -> None:
        """Clears the caches and takes the mask of the next prompts."""
        self._expert.reset()
        if isinstance(self._base, _Reader):
            self._base.reset()
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
        width = input_ids.shape[1] if self._prompt_mask is None else self._prompt_mask.shape[1]
        own = PrefixBatch(input_ids, mask, width)
        found = self._expert.read(own if self._prompts is None else self._prompts.replace(own))
        if isinstance(self._base, _Reader):
            found = found - self._base.read(own)

        def score(candidate_ids: Tensor, wanted: Tensor) -> Tensor:
            # The normalisation of each model is constant in v and drops out.
            of_candidates = found.to(scores.device).gather(1, candidate_ids)
            return of_candidates - scores.gather(1, candidate_ids).float() if self._base == "policy" else of_candidates

        return guide_step(scores, self.config, score, vocabulary_size=self._vocabulary, compare_paths=True).scores


class _Reader:
    """A language model's scores of the next token. The cache is kept while the rows only grow."""

    def __init__(self, model: Any) -> None:
        self._model = model.eval()
        inner = model.get_base_model() if hasattr(model, "get_base_model") else model  # PEFT
        taken = inspect.signature(inner.forward).parameters
        self._cache_argument = cache_argument(inner.forward)
        self._has_positions = "position_ids" in taken
        # Logits of every token of long prompts would take gigabytes.
        self._last_alone = {"logits_to_keep": 1} if "logits_to_keep" in taken else {}
        self.reset()

    def reset(self) -> None:
        self._cache: Cache | None = None
        self._read: Tensor | None = None

    def read(self, prefixes: PrefixBatch) -> Tensor:
        """The scores after the last column, float32, shape `[rows, vocabulary]`."""
        ids, mask = (part.to(self._model.device) for part in (prefixes.input_ids, prefixes.attention_mask))
        if self._read is None or not torch.equal(ids[:, :-1], self._read):
            self.reset()
        new = slice(0 if self._read is None else self._read.shape[1], None)
        positions = {"position_ids": (mask.cumsum(-1) - 1).clamp(min=0)[:, new]} if self._has_positions else {}
        output = self._model(
            ids[:, new],
            attention_mask=mask,
            use_cache=True,
            **{self._cache_argument: self._cache},
            **positions,
            **self._last_alone,
        )
        self._cache, self._read = cache_in(output), ids
        return output.logits[:, -1].float()
