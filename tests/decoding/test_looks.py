"""A step looks at the device as often at 16 rows as at one: three times, and twice with a steering head."""

import pytest
import torch
from transformers import LogitsProcessor

from rgtg_hf import RewardGuidanceConfig, RewardGuidedLogitsProcessor, steering
from tests.looks import Looks
from tests.tiny_models import left_padded, tiny_reward_model, tiny_steering_head

MODES = {
    "greedy": {"do_sample": False},
    "sampling": {"do_sample": True},
    "beam search": {"num_beams": 4, "do_sample": False},
    "beam sampling": {"num_beams": 4, "do_sample": True},
    "return sequences": {"do_sample": True, "num_return_sequences": 4},
    "prompt lookup": {"prompt_lookup_num_tokens": 3},
}
FILTERS = {"max_increment": 2.0, "max_step_kl": 0.5, "min_entropy": 0.01, "top_p": 0.99, "min_p": 1e-4}


class Counted(LogitsProcessor):
    """Counts the looks of each call of a processor."""

    def __init__(self, processor):
        self.processor, self.counts = processor, []

    def __call__(self, input_ids, scores):
        with Looks() as looks:
            found = self.processor(input_ids, scores)
        self.counts.append(looks.count)
        return found


def looks_of(policy, processor, rows, mode):
    prompts = [[5 + row, *range(6, 9 + row % 3)] for row in range(1 if mode == "prompt lookup" else rows)]
    ids, mask = left_padded(prompts)
    counted = Counted(processor)
    policy.generate(
        ids, attention_mask=mask, logits_processor=[counted], max_new_tokens=12, eos_token_id=None, **MODES[mode]
    )
    return counted.counts[1:]  # a generation that begins may look more often


@pytest.mark.parametrize("rows", [1, 16])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("settings", [{}, FILTERS], ids=["plain", "all settings"])
def test_siblings_look_three_times(policy, reward_model, rows, mode, settings):
    config = RewardGuidanceConfig(top_k=4, **settings)
    processor = RewardGuidedLogitsProcessor(reward_model, guidance_config=config, eos_token_id=2)
    processor.scorer.reader.reads_some = False  # as on a GPU
    counts = looks_of(policy, processor, rows, mode)
    assert max(counts) <= 3
    assert 3 in counts


@pytest.mark.parametrize("rows", [1, 16])
@pytest.mark.parametrize("mode", [mode for mode in MODES if mode != "prompt lookup"])
def test_heads_look_twice(policy, rows, mode):
    pairs = [(tiny_steering_head(policy, seed), beta) for seed, beta in ((3, 1.0), (4, torch.tensor([0.5])))]
    with steering(policy, pairs, top_k=4) as processor:
        assert max(looks_of(policy, processor, rows, mode)) <= 2


@pytest.mark.parametrize("told", ["mask", "prompts"])
def test_what_a_processor_is_told_costs_no_look(policy, told):
    ids, mask = left_padded([[5, 6, 7], [8, 9]])
    arguments = {"attention_mask": mask} if told == "mask" else {"reward_prompts": [[5, 6], [7, 8, 9]]}
    processor = Counted(RewardGuidedLogitsProcessor(tiny_reward_model(), **arguments))
    policy.generate(ids, attention_mask=mask, logits_processor=[processor], max_new_tokens=8, do_sample=False)
    assert max(processor.counts[1:]) <= 3


def test_a_look_is_counted():
    ids = torch.tensor([[5, 6]])
    with Looks() as looks:
        assert bool((ids == 5).any())
        ids[ids == 5] = 4
        ids.max().item()
        torch.tensor([1, 2])
        ids.sum(-1).nonzero()
        assert len(ids[:, :1].clamp(min=0)) == 1
    assert looks.count == 5
