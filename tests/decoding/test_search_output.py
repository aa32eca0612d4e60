"""The outputs of parts of a batch become one output."""

import math

import torch
from torch.testing import assert_close

from rgtg_hf.decoding.search_output import SearchOutput, joined_outputs

PAD = 9


def test_parts_of_different_widths_are_padded_to_the_widest():
    parts = [
        SearchOutput(
            sequences=torch.tensor(ids),
            row_sequences=torch.tensor(ids),
            rewards=torch.tensor(rewards),
            effective_sizes=torch.tensor([sizes]),
            policy_tokens=tokens,
        )
        for ids, rewards, sizes, tokens in (([[1, 2, 3]], [0.5], [2.0], 3), ([[4], [5]], [0.1, 0.2], [1.0, 1.5], 2))
    ]
    whole = joined_outputs(parts, PAD)
    assert whole.sequences.tolist() == whole.row_sequences.tolist() == [[1, 2, 3], [4, PAD, PAD], [5, PAD, PAD]]
    assert_close(whole.rewards, torch.tensor([0.5, 0.1, 0.2]))
    assert_close(whole.effective_sizes, torch.tensor([[2.0, math.nan], [1.0, 1.5]]), equal_nan=True)
    assert whole.policy_tokens == 5
    assert whole.log_normalizer is None
