"""Guided generation on vLLM, through its interface for custom logits processors.

    vllm serve POLICY --logits-processors rgtg_hf.serving.vllm:RewardGuidance \\
        --additional-config '{"rgtg": {"reward_model": "my-reward-model"}}'

A request asks for guidance with `extra_args={"rgtg": {"beta": 1.5, "top_k": 10}}`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor, MoveDirectionality

from rgtg_hf.serving.batch import GuidedBatch
from rgtg_hf.serving.load import load_row_scorer, server_default
from rgtg_hf.serving.settings import ServerSettings, requested_guidance

if TYPE_CHECKING:
    from vllm import SamplingParams
    from vllm.config import VllmConfig

__all__ = ["RewardGuidance"]


class RewardGuidance(LogitsProcessor):
    """Steers the requests that ask for it with a prefix reward model.

        pi(v | x, y_<t)  ∝  pi_LM(v | x, y_<t) · exp(beta · [r(x, y_<t v) - r(x, y_<t)])      v in top-k of pi_LM

    vLLM makes it, from its class path, in each process that samples. Temperature and vLLM's own `top_k` and `top_p` run
    afterwards, as they do in `generate()`.

    Args:
        vllm_config: The engine's configuration; `additional_config["rgtg"]` holds the
            [`ServerSettings`][rgtg_hf.serving.settings.ServerSettings].
        device: Where the policy is.
        is_pin_memory: Not used.

    Raises:
        ValueError: If settings are missing or wrong, or the reward model cannot serve.
    """

    def __init__(self, vllm_config: VllmConfig, device: torch.device, is_pin_memory: bool) -> None:
        settings = ServerSettings.from_additional_config(vllm_config.additional_config, "reward_model")
        check_engine(vllm_config)
        self.default = server_default(settings)
        scorer = load_row_scorer(
            settings,
            device,
            vllm_config.model_config.get_vocab_size(),
            vllm_config.scheduler_config.max_num_seqs,
            vllm_config.model_config.max_model_len,
        )
        self.batch = GuidedBatch(scorer)
        self._tokens: dict[
            int, tuple[list[int], list[int]]
        ] = {}  # prompt and response by row; vLLM lets the latter grow

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        """Refuses a request that asks for something that there is not; vLLM answers it with that sentence."""
        requested_guidance(sampling_params.extra_args)

    def is_argmax_invariant(self) -> bool:
        """Whether greedy decoding stays as it is, which it does not."""
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """Follows requests as they join, leave and move within the batch."""
        if batch_update is None:
            return
        for row in batch_update.removed:
            self._leave(row)
        for row, params, prompt, output in batch_update.added:
            self._leave(row)
            guidance = requested_guidance(params.extra_args)
            if guidance is not None and prompt is not None:
                guidance = guidance.filled(self.default)
                self.batch.join(row, guidance.beta, guidance.top_k)
                self._tokens[row] = (prompt, output)
        for source, target, direction in batch_update.moved:
            if direction == MoveDirectionality.SWAP:
                self.batch.swap(source, target)
            else:
                self.batch.move(source, target)
            moved, other = self._tokens.pop(source, None), self._tokens.pop(target, None)
            if moved is not None:
                self._tokens[target] = moved
            if other is not None and direction == MoveDirectionality.SWAP:
                self._tokens[source] = other

    def apply(self, logits: Tensor) -> Tensor:
        """Guides one step.

        Args:
            logits: The policy's logits, float32, shape `[rows, vocabulary]`. Changed in place.

        Returns:
            The same tensor.
        """
        rows = [row for row in self._tokens if row < len(logits)]
        if rows:
            index = torch.tensor(rows, device=logits.device)
            prefixes = [prompt + output for prompt, output in (self._tokens[row] for row in rows)]
            logits[index] = self.batch.guide(rows, prefixes, logits[index])
        return logits

    def _leave(self, row: int) -> None:
        self.batch.leave(row)
        self._tokens.pop(row, None)


def check_engine(vllm_config: VllmConfig) -> None:
    """Refuses what cannot be guided.

    Raises:
        ValueError: If the engine decodes speculatively, or takes prompts as embeddings.
    """
    if vllm_config.speculative_config is not None:
        raise ValueError(
            "Guidance does not work with speculative decoding, whose drafts are checked several at a time: start the "
            "engine without `speculative_config`."
        )
    if vllm_config.model_config.enable_prompt_embeds:
        raise ValueError(
            "Guidance needs prompts as token ids, which the reward model reads: start the engine without "
            "`enable_prompt_embeds`."
        )
