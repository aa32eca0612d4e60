"""The requests of vLLM's Model Runner V2, as a logits processor sees them: slots, and the rows of each step.

That runner tells when a request enters a slot, but not when it leaves. Which slots are at work shows at each step, so
what is not among them is let go; a request that comes back later is read anew.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vllm.v1.worker.gpu.sample.logits_processor import LogitsContext, LogitsProcRequestState

__all__ = ["SlotRows", "SlotStep", "SlotTokens"]


@dataclass
class SlotRows:
    """Guided rows that choose a token, of different slots.

    Attributes:
        rows: Rows of the logits.
        slots: The slot of each.
        prefixes: The token ids of each, prompt and response, with the drafts before it.
    """

    rows: list[int] = field(default_factory=list)
    slots: list[int] = field(default_factory=list)
    prefixes: list[list[int]] = field(default_factory=list)


@dataclass
class SlotStep:
    """A step.

    Attributes:
        rounds: The guided rows, those without a draft before them first, then those after one draft, and so on.
        at_work: All slots of the step.
    """

    rounds: list[SlotRows] = field(default_factory=list)
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
        """The guided rows of a step. Rows that have not come to their prompt's end choose no token yet.

        With speculative decoding a request has a row after each of its drafts, which are in `input_ids` alone. Those
        that were refused are held until the request's next step shows where it went on.
        """
        step = SlotStep(at_work=set(context.idx_mapping_np.tolist()))
        if step.at_work.isdisjoint(self._tokens):
            return step
        columns = (context.expanded_idx_mapping, context.pos, context.input_ids, context.expanded_local_pos)
        for row, (slot, place, token, drafts) in enumerate(zip(*(one.tolist() for one in columns), strict=True)):
            held = self._tokens.get(slot)
            if held is None or place + 1 < int(self.state.prefill_len.np[slot]):
                continue
            if len(held) < place:
                held[:] = self.state.all_token_ids.gpu[slot, :place].tolist()
            held[place:] = [max(0, token)]  # a draft that is none is -1
            while len(step.rounds) <= drafts:
                step.rounds.append(SlotRows())
            of_round = step.rounds[drafts]
            of_round.rows.append(row)
            of_round.slots.append(slot)
            of_round.prefixes.append(list(held))
        return step
