"""Sequences that share a beginning are read together, and have the rewards of each alone."""

import pytest
import torch
from torch.testing import assert_close

from rgtg_hf.rewards.prefix_rewards import prefix_rewards
from rgtg_hf.scoring.text.sequences import SiblingReader, WholeReader, common_length
from tests.tiny_models import tiny_reward_model

CLOSE = {"atol": 1e-4, "rtol": 1e-4}


@torch.no_grad()
def test_whole_sequences_are_read_alone():
    reward_model = tiny_reward_model()
    reader = WholeReader(reward_model)
    ((one, other), nothing) = reader.read([[5, 6], [7]], [[[], [8, 9]], []])
    rewards = prefix_rewards(reward_model, torch.tensor([[5, 6, 8, 9]]))[0]
    assert_close(torch.tensor([one, other]), rewards[[1, 3]])
    assert nothing == []
    assert reader.tokens_computed == 2 + 4


def test_recurrent_models_are_refused():
    with pytest.raises(ValueError, match="recurrent state"):
        SiblingReader(tiny_reward_model("jamba"))


def test_common_length_is_that_of_a_loop():
    generator = torch.Generator().manual_seed(0)
    for _ in range(300):
        one, other = (
            torch.randint(2, (int(torch.randint(9, (1,), generator=generator)),), generator=generator).tolist()
            for _ in range(2)
        )
        expected = 0
        while expected < min(len(one), len(other)) and one[expected] == other[expected]:
            expected += 1
        assert common_length(one, other) == expected


@pytest.mark.parametrize("seed", range(3))
def test_rows_that_grow_by_different_numbers_of_tokens_share_a_batch(seed):
    reward_model = tiny_reward_model()
    reader, whole = SiblingReader(reward_model), WholeReader(reward_model)
    generator = torch.Generator().manual_seed(seed)

    def some(low, high):
        return torch.randint(40, (int(torch.randint(low, high, (1,), generator=generator)),), generator=generator)

    prefixes = [some(3, 12).tolist() for _ in range(4)]
    for step in range(12):
        rows = [[some(1 if not prefix else 0, 4).tolist() for _ in range(3)] for prefix in prefixes]
        rows[step % 3] = []  # nothing is wanted of this row
        found, expected = reader.read(prefixes, rows), whole.read(prefixes, rows)
        assert [len(row) for row in found] == [len(row) for row in rows]
        assert_close(*(torch.tensor([one for row in part for one in row]) for part in (found, expected)), **CLOSE)
        order = torch.randint(len(prefixes), (len(prefixes),), generator=generator).tolist()
        prefixes = [prefixes[row][: -int(some(1, 3)[0]) % 3 or None] + some(0, 4).tolist() for row in order]
        if step == 6:
            prefixes = [[], *prefixes[1:]]
