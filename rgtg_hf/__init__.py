"""Steer any causal language model at decoding time with a reward model trained on prefixes.

The public names are here. Importing the package is light: each name is loaded when it is first used, and TRL only
with the trainer.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from rgtg_hf.version import __version__

if TYPE_CHECKING:
    from rgtg_hf.config import RewardGuidanceConfig
    from rgtg_hf.decoding.generation import RewardGuidedGenerationMixin, reward_guided_generate
    from rgtg_hf.decoding.logits_processor import RewardGuidedLogitsProcessor
    from rgtg_hf.decoding.steering import steering
    from rgtg_hf.inspection.inspect import inspect
    from rgtg_hf.rewards.merge import merge_heads
    from rgtg_hf.rewards.next_token import NextTokenRewardModel
    from rgtg_hf.rewards.prefix_rewards import prefix_rewards
    from rgtg_hf.training.advantage_config import AdvantageConfig
    from rgtg_hf.training.advantage_trainer import AdvantageTrainer
    from rgtg_hf.training.prefix_reward_config import PrefixRewardConfig
    from rgtg_hf.training.trainer import PrefixRewardTrainer
    from rgtg_hf.training.value_config import PrefixValueConfig
    from rgtg_hf.training.value_trainer import PrefixValueTrainer

_MODULE_OF = {
    "AdvantageConfig": "rgtg_hf.training.advantage_config",
    "AdvantageTrainer": "rgtg_hf.training.advantage_trainer",
    "NextTokenRewardModel": "rgtg_hf.rewards.next_token",
    "PrefixRewardConfig": "rgtg_hf.training.prefix_reward_config",
    "PrefixRewardTrainer": "rgtg_hf.training.trainer",
    "PrefixValueConfig": "rgtg_hf.training.value_config",
    "PrefixValueTrainer": "rgtg_hf.training.value_trainer",
    "RewardGuidanceConfig": "rgtg_hf.config",
    "RewardGuidedGenerationMixin": "rgtg_hf.decoding.generation",
    "RewardGuidedLogitsProcessor": "rgtg_hf.decoding.logits_processor",
    "inspect": "rgtg_hf.inspection.inspect",
    "merge_heads": "rgtg_hf.rewards.merge",
    "prefix_rewards": "rgtg_hf.rewards.prefix_rewards",
    "reward_guided_generate": "rgtg_hf.decoding.generation",
    "steering": "rgtg_hf.decoding.steering",
}

__all__ = [  # noqa: RUF022  the version last
    "AdvantageConfig",
    "AdvantageTrainer",
    "NextTokenRewardModel",
    "PrefixRewardConfig",
    "PrefixRewardTrainer",
    "PrefixValueConfig",
    "PrefixValueTrainer",
    "RewardGuidanceConfig",
    "RewardGuidedGenerationMixin",
    "RewardGuidedLogitsProcessor",
    "inspect",
    "merge_heads",
    "prefix_rewards",
    "reward_guided_generate",
    "steering",
    "__version__",
]


def __getattr__(name: str) -> object:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULE_OF[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
