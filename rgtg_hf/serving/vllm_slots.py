"""The requests of vLLM's Model Runner V2, as a logits processor sees them: slots, and the rows of each step.

That runner tells when a request enters a slot, but not when it leaves. Which slots are at work shows at each step, so
what is not among them is let go; a request that comes back later is read anew.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vllm.v1.worker.gpu.sample.logits_processor import LogitsContext, LogitsProcRequestState

__all__ = ["SlotStep", "SlotTokens"]


@dataclass
class SlotStep:
    """The guided rows of a step that choose a token.

    Attributes:
        rows: Rows of the logits.
        slots: The slot of each.
        prefixes: The token ids of each, prompt and response.
        at_work: All slots of the step.
    """

    rows: list[int] = field(default_factory=list)
    slots: list[int] = field(default_factory=list)
    prefixes: list[list[int]] = field(default_factory=list)
    at_work: set[int] = field(default_factory=set)


class SlotTokens:
    """Follows the tokens of guided requests on the CPU: at most steps that is one new number per request.

    Args:
        state: The runner's buffers.
    """

    def __init__(self, state: LogitsProcRequestState) -> None:
        self.state = state
        self._tokens: dict[int, list[int]] = {}

    def enter(self, slot: int, guided: bool) -> None:
        """A request enters a slot."""
        self._tokens.pop(slot, None)
        if guided:
            self._tokens[slot] = []

    def step(self, context: LogitsContext) -> SlotStep:
        """What a step is about. Rows that have not come to their prompt's end choose no token yet."""
        step = SlotStep(at_work=set(context.idx_mapping_np.tolist()))
        if step.at_work.isdisjoint(self._tokens):
            return step
        slots = context.expanded_idx_mapping.tolist()
        for row, (slot, place, token) in enumerate(
            zip(slots, context.pos.tolist(), context.input_ids.tolist(), strict=True)
        ):
            held = self._tokens.get(slot)
            if held is None or place + 1 < int(self.state.prefill_len.np[slot]):
                continue
            if len(held) == place and place:
                held.append(token)
            elif len(held) != place + 1:
                held[:] = self.state.all_token_ids.gpu[slot, : place + 1].tolist()
            step.rows.append(row)
            step.slots.append(slot)
            step.prefixes.append(list(held))
        return step
