import torch

from rgtg_hf.rewards.policy_identity import fingerprint
from tests.tiny_models import tiny_policy


def test_a_fine_tuned_policy_has_another_fingerprint():
    policy = tiny_policy()
    before = fingerprint(policy.base_model)
    assert fingerprint(tiny_policy().base_model) == before
    assert fingerprint(tiny_policy().bfloat16().base_model) == before
    with torch.no_grad():
        policy.base_model.layers[1].mlp.up_proj.weight.mul_(1.05)
    assert fingerprint(policy.base_model) != before
