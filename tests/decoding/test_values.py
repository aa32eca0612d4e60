"""Guidance by a value model is guidance by its soft value, at every door and by every scorer."""

from functools import partial

import pytest
import torch
from torch.testing import assert_close
from transformers import LlamaForCausalLM

from rgtg_hf import RewardGuidanceConfig, RewardGuidedLogitsProcessor, reward_guided_generate
from rgtg_hf.rewards.prefix_rewards import prefix_rewards
from rgtg_hf.rewards.value_model import as_reward_model
from tests.tiny_models import GuidedLlama, left_padded, tiny_policy, tiny_reward_model

IDS, MASK = left_padded([[5, 6, 7], [8, 9, 10, 11, 12]])
SETTINGS = {"max_new_tokens": 6, "do_sample": False, "attention_mask": MASK}


@pytest.fixture(scope="module")
def policy():
    return tiny_policy(model_class=GuidedLlama)


@pytest.fixture(scope="module")
def value_model():
    return tiny_reward_model(num_labels=7, value_range=[-2.0, 2.0]).eval()


def generate(policy, processor):
    return policy.generate(IDS, logits_processor=[processor], **SETTINGS)


@torch.no_grad()
@pytest.mark.parametrize("scorer", ["auto", "siblings", "expand", "reference"])
@pytest.mark.parametrize("value_beta", [0.0, 3.0, "beta"])
def test_increments_are_differences_of_the_soft_value(policy, value_model, scorer, value_beta):
    config = RewardGuidanceConfig(beta=8.0, top_k=5, value_beta=value_beta, scorer=scorer)
    processor = RewardGuidedLogitsProcessor(
        value_model, guidance_config=config, attention_mask=MASK, collect_records=True
    )
    output = generate(policy, processor)
    values = as_reward_model(value_model, 8.0 if value_beta == "beta" else value_beta)
    for row, mask in zip(output, MASK, strict=True):
        ids = torch.cat([row[: IDS.shape[1]][mask.bool()], row[IDS.shape[1] :]])[None]
        rewards = prefix_rewards(values, ids)[0, int(mask.sum()) - 1 :]
        found = processor.stats.increments_of(output)[output.eq(row).all(1).nonzero()[0, 0]]
        assert_close(found, rewards.diff(), atol=1e-4, rtol=1e-4)


def test_the_setting_changes_what_is_written(policy, value_model):
    def written(value_beta):
        return generate(policy, RewardGuidedLogitsProcessor(value_model, 30.0, 10, value_beta=value_beta)).tolist()

    assert written(-20.0) != written(0.0) != written(20.0)


@pytest.mark.parametrize("search", ["tokens", "best"])
def test_every_door_obeys_it(policy, value_model, search):
    guidance = {"beta": 30.0, "top_k": 10, "value_beta": 20.0, "search": search, "block_size": 2}
    settings = SETTINGS | {"do_sample": search != "tokens"}

    def written(reward_model, generate=policy.generate, **more):
        torch.manual_seed(0)
        return generate(IDS, reward_model=reward_model, **settings | guidance | more)

    expected = written(as_reward_model(value_model, 20.0), value_beta=0.0)
    assert torch.equal(written(value_model), expected)
    plain = partial(LlamaForCausalLM.generate, policy)
    assert torch.equal(written(value_model, plain, custom_generate=reward_guided_generate), expected)
    if search == "tokens":
        processor = RewardGuidedLogitsProcessor(value_model, 30.0, 10, value_beta=20.0)
        assert torch.equal(generate(policy, processor), expected)


def test_the_file_beside_a_value_model_is_obeyed(policy, value_model, tmp_path):
    value_model.save_pretrained(tmp_path)
    RewardGuidanceConfig(beta=30.0, value_beta=20.0).save_pretrained(tmp_path)
    processor = RewardGuidedLogitsProcessor(str(tmp_path))
    assert processor.sources["value_beta"].startswith("guidance_config.json")
    expected = RewardGuidedLogitsProcessor(value_model, 30.0, value_beta=20.0)
    assert torch.equal(generate(policy, processor), generate(policy, expected))
