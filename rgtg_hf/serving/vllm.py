"""Guided generation on vLLM, through its interface for custom logits processors.

    vllm serve POLICY --logits-processors rgtg_hf.serving.vllm:RewardGuidance \\
        --additional-config '{"rgtg": {"reward_model": "my-reward-model"}}'

A request asks for guidance with `extra_args={"rgtg": {"beta": 1.5, "top_k": 10}}`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor, MoveDirectionality
from vllm.v1.worker.gpu.sample.logits_processor import LogitsProcessor as LogitsProcessorV2

from rgtg_hf.serving.batch import GuidedBatch
from rgtg_hf.serving.metrics import guidance_metrics
from rgtg_hf.serving.penalties import Penalties
from rgtg_hf.serving.served_reward_model import load_row_scorer, server_default
from rgtg_hf.serving.settings import ServerSettings, requested_guidance, resolved_request
from rgtg_hf.serving.vllm_slots import SlotTokens

if TYPE_CHECKING:
    from vllm import SamplingParams
    from vllm.config import VllmConfig
    from vllm.v1.worker.gpu.sample.logits_processor import LogitsContext, LogitsProcRequestState

__all__ = ["RewardGuidance"]


class _Row(NamedTuple):
    """A guided row of the V1 runner, which lets the response grow."""

    prompt: list[int]
    response: list[int]
    penalties: Penalties | None


class RewardGuidance(LogitsProcessor, LogitsProcessorV2):
    """Steers the requests that ask for it with a prefix reward model.

        pi(v | x, y_<t)  ∝  pi_LM(v | x, y_<t) · exp(beta · [r(x, y_<t v) - r(x, y_<t)])      v in top-k of pi_LM

    vLLM makes it, from its class path, in each process that samples. Temperature and vLLM's own `top_k` and `top_p`
    run afterwards, as they do in `generate()`. It has both of vLLM's interfaces, that of its V1 model runner and that
    of Model Runner V2, since the engine chooses between the runners by itself.

    Args:
        vllm_config: The engine's configuration; `additional_config["rgtg"]` holds the
            [`ServerSettings`][rgtg_hf.serving.settings.ServerSettings].
        where: The policy's device, from the V1 runner; the runner's buffers, from the other.
        is_pin_memory: Not used.

    Raises:
        ValueError: If settings are missing or wrong, or the reward model cannot serve.
    """

    def __init__(
        self,
        vllm_config: VllmConfig,
        where: torch.device | LogitsProcRequestState,
        is_pin_memory: bool = False,
    ) -> None:
        settings = ServerSettings.from_additional_config(vllm_config.additional_config, "reward_model")
        _check_engine(vllm_config)
        self.default = server_default(settings)
        scorer = load_row_scorer(
            settings,
            where if isinstance(where, torch.device) else where.device,
            vllm_config.model_config.get_vocab_size(),
            vllm_config.scheduler_config.max_num_seqs,
            vllm_config.model_config.max_model_len,
        )
        self.batch, self.metrics = GuidedBatch(scorer), guidance_metrics()
        # V1: the guided rows.
        self._rows: dict[int, _Row] = {}
        # V2: the guided slots, and whether a step has guided since the one before began.
        self._slots = None if isinstance(where, torch.device) else SlotTokens(where)
        self._idle = True

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        """Refuses a request whose settings cannot be used; vLLM answers it with the sentence."""
        requested_guidance(sampling_params.extra_args)

    def apply(self, logits: Tensor, context: LogitsContext | None = None) -> Tensor:  # type: ignore[override]
        """Guides one step.

        Args:
            logits: The policy's logits, float32, shape `[rows, vocabulary]`. Changed in place.
            context: From Model Runner V2, the requests of the rows.

        Returns:
            The same tensor.
        """
        if context is not None and self._slots is not None:
            self._idle = False
            step = self._slots.step(context)
            self.batch.keep_only(step.at_work)
            for part in step.rounds:
                self._guide(logits, part.rows, part.slots, part.prefixes)
        elif self._rows:
            rows = list(self._rows)
            # This runner applies penalties after the processors; the other one before.
            penalized = {
                row: one.penalties.after(one.prompt, one.response, logits[row])
                for row, one in self._rows.items()
                if one.penalties is not None
            }
            for row, penalties in penalized.items():
                logits[row] = penalties.apply(logits[row])
            self._guide(logits, rows, rows, [one.prompt + one.response for one in self._rows.values()])
            for row, penalties in penalized.items():
                logits[row] = penalties.undo(logits[row])
        return logits

    def _guide(self, logits: Tensor, rows: list[int], keys: Sequence[int], prefixes: list[list[int]]) -> None:
        if not rows:
            return
        index = torch.tensor(rows, device=logits.device)
        with self.metrics.seconds.time():
            logits[index] = self.batch.guide(keys, prefixes, logits[index])
        self.metrics.tokens.inc(len(rows))
        self.metrics.look_at(self.batch)

    def _join(self, key: int, sampling_params: SamplingParams) -> bool:
        """Takes a request in, in place of what had its key. Whether it is to be guided."""
        self.batch.leave(key)
        guidance = requested_guidance(sampling_params.extra_args)
        if guidance is None:
            return False
        self.batch.join(key, resolved_request(guidance, self.default))
        self.metrics.requests.inc()
        return True

    # The V1 runner's interface: rows that join, leave and move.

    def is_argmax_invariant(self) -> bool:
        """Whether greedy decoding stays as it is. It does not."""
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """Follows requests as they join, leave and move within the batch, in the order that vLLM asks for."""
        if batch_update is None:
            return
        for row in batch_update.removed:
            self.batch.leave(row)
            self._rows.pop(row, None)
        for row, params, prompt, response in batch_update.added:
            self._rows.pop(row, None)
            if self._join(row, params) and prompt is not None:
                self._rows[row] = _Row(prompt, response, Penalties.of(params))
        for source, target, direction in batch_update.moved:
            moved, other = self._rows.pop(source, None), self._rows.pop(target, None)
            if moved is not None:
                self._rows[target] = moved
            if direction != MoveDirectionality.SWAP:
                self.batch.move(source, target)
                continue
            self.batch.swap(source, target)
            if other is not None:
                self._rows[source] = other
        self.metrics.look_at(self.batch)

    # Model Runner V2's interface: slots that are filled again.

    def add_request(self, req_idx: int, sampling_params: SamplingParams) -> bool:
        """A request enters a slot. Whether it is guided."""
        assert self._slots is not None
        guided = self._join(req_idx, sampling_params)
        self._slots.enter(req_idx, guided)
        return guided

    def apply_staged_writes(self) -> None:
        """A step begins. If the last one guided nothing, nothing needs to be kept."""
        if self._idle:
            self.batch.keep_only(set())
            self.metrics.look_at(self.batch)
        self._idle = True


def _check_engine(vllm_config: VllmConfig) -> None:
    if vllm_config.model_config.enable_prompt_embeds:
        raise ValueError(
            "Guidance needs prompts as token ids, which the reward model reads: start the engine without "
            "`enable_prompt_embeds`."
        )
