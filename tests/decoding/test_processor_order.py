"""Guidance stands before warpers, watermarks and normalisation, and after everything else."""

import pytest
import torch
from transformers import (
    LogitNormalization,
    LogitsProcessorList,
    MinLengthLogitsProcessor,
    NoRepeatNGramLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    WatermarkLogitsProcessor,
)

from rgtg_hf.decoding.processor_order import insert_guidance
from tests.tiny_models import EOS, VOCAB_SIZE

BEFORE = {
    "none": [],
    "length": [MinLengthLogitsProcessor(3, EOS)],
    "length and repetition": [MinLengthLogitsProcessor(3, EOS), NoRepeatNGramLogitsProcessor(2)],
}
AFTER = {
    "none": [],
    "normalisation": [LogitNormalization()],
    "warpers": [TemperatureLogitsWarper(0.7), TopKLogitsWarper(5)],
    "all": [
        TemperatureLogitsWarper(0.7),
        WatermarkLogitsProcessor(VOCAB_SIZE, torch.device("cpu")),
        LogitNormalization(),
    ],
}


@pytest.mark.parametrize("after", AFTER)
@pytest.mark.parametrize("before", BEFORE)
def test_guidance_stands_between_processors_and_warpers(before, after):
    others, guidance = LogitsProcessorList([*BEFORE[before], *AFTER[after]]), object()
    assert insert_guidance(others, guidance) == [*BEFORE[before], guidance, *AFTER[after]]
    assert guidance not in others


def test_guidance_follows_a_processor_that_stands_after_a_warper():
    # A processor of the user's is not moved, and guidance comes after it as `logits_processor=` would have it.
    others, guidance = LogitsProcessorList([TopKLogitsWarper(5), MinLengthLogitsProcessor(3, EOS)]), object()
    assert insert_guidance(others, guidance) == [*others, guidance]
