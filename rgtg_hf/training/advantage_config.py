"""Settings of `AdvantageTrainer`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from rgtg_hf.arguments import check_count, check_number
from rgtg_hf.training.shared_config import SharedConfig

__all__ = ["AdvantageConfig"]


@dataclass
class AdvantageConfig(SharedConfig):
    r"""Settings of [`AdvantageTrainer`][rgtg_hf.training.advantage_trainer.AdvantageTrainer]. Those of
    `trl.RewardConfig` that do not speak of pairs keep their meaning, with the defaults of `PrefixRewardConfig`. But
    three suit a small head on frozen hidden states: `learning_rate` (3e-3), `per_device_train_batch_size` (16) and
    `weight_decay` (0.1).

    Args:
        rank (`int`, *optional*, defaults to 128):
            Dimensions in which hidden state and token meet.
        context_scale (`float`, *optional*, defaults to 0.001):
            How fast the head learns a token's advantage in one context, relative to its advantage in every context.
        top_k (`int`, *optional*, defaults to 10):
            The policy's most likely tokens, from which the responses were sampled. Guidance gets the same number.
        max_weight (`float`, *optional*, defaults to 10):
            The largest importance weight of a response of a guided policy, in the mean with which the others are
            compared. In the loss all responses count the same.
        hidden_states_dir (`str`, *optional*):
            The folder for the policy's hidden states; another run with the same policy uses them again. Defaults to
            `_hidden_states` in `output_dir`, which is not uploaded.

    Raises:
        TypeError: If an option has another type.
        ValueError: If an option is out of range, or `num_layers` is given: a head reads the whole policy.

    Example:
        ```python
        from rgtg_hf import AdvantageConfig

        args = AdvantageConfig(output_dir="head", num_train_epochs=4)
        ```
    """

    learning_rate: float = field(default=3e-3, metadata={"help": "The largest learning rate."})
    per_device_train_batch_size: int = field(default=16, metadata={"help": "Responses per device and step."})
    weight_decay: float = field(default=0.1, metadata={"help": "The weight decay of AdamW."})
    rank: int = field(default=128, metadata={"help": "Dimensions in which hidden state and token meet."})
    context_scale: float = field(
        default=0.001,
        metadata={
            "help": "How fast a token's advantage in one context is learned, relative to that in every context."
        },
    )
    top_k: int = field(
        default=10, metadata={"help": "The policy's most likely tokens, from which the responses were sampled."}
    )
    max_weight: float = field(
        default=10.0, metadata={"help": "The largest weight of a guided response in the mean of the others."}
    )
    hidden_states_dir: str | None = field(
        default=None,
        metadata={
            "help": "Where the policy's hidden states are kept. Runs that name the same folder compute them once. "
            "Default: `_hidden_states` in the output folder."
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("rank", "top_k"):
            check_count(name, getattr(self, name))
        if self.top_k < 2:
            raise ValueError("`top_k` is 1, but there is no choice among fewer than 2 tokens.")
        positive: dict[str, Any] = {"max_weight": self.max_weight}
        for name, value in (positive | {"context_scale": self.context_scale}).items():
            check_number(name, value)
            if value < 0 or (name in positive and value == 0):
                raise ValueError(f"`{name}` is {value}, but must be {'above' if name in positive else 'at least'} 0.")
        if self.num_layers is not None:
            raise ValueError("`num_layers` is for models with a decoder of their own: a head reads the whole policy.")
