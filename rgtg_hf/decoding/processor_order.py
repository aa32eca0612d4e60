"""The place of guidance among the logits processors of a call."""

from __future__ import annotations

from typing import Any

from transformers import LogitsProcessorList
from transformers.generation import LogitNormalization, WatermarkLogitsProcessor
from transformers.generation import SynthIDTextWatermarkLogitsProcessor as SynthIDWatermark
from transformers.generation import logits_process as processors

__all__ = ["insert_guidance"]

_AFTER_GUIDANCE = (
    *(value for name, value in vars(processors).items() if name.endswith("LogitsWarper")),
    WatermarkLogitsProcessor,
    SynthIDWatermark,
    LogitNormalization,
)


def insert_guidance(others: LogitsProcessorList, processor: Any) -> LogitsProcessorList:
    """The processors with guidance where `logits_processor=` has it: before warpers, watermarks and normalisation."""
    place = len(others)
    while place and isinstance(others[place - 1], _AFTER_GUIDANCE):
        place -= 1
    return LogitsProcessorList([*others[:place], processor, *others[place:]])
