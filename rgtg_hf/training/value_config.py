"""Settings of value training."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from rgtg_hf.arguments import check_count, check_number, shown
from rgtg_hf.training.shared_config import SharedConfig

__all__ = ["TARGETS", "PrefixValueConfig"]

TARGETS = ("two_hot", "gaussian")


@dataclass
class PrefixValueConfig(SharedConfig):
    r"""Settings of [`PrefixValueTrainer`][rgtg_hf.training.value_trainer.PrefixValueTrainer]. Those of
    `trl.RewardConfig` that do not speak of pairs keep their meaning, with the defaults of `PrefixRewardConfig`.

    Args:
        num_layers (`int`, *optional*):
            Build the value model from the first `num_layers` layers of the model given by name. A shallower value
            model costs less at every decoding step. By default all layers are kept.
        num_bins (`int`, *optional*, defaults to 21):
            Bins of the histogram of returns.
        value_range (`list[float]`, *optional*):
            The returns of the first and the last bin. Defaults to the lowest and the highest reward of the training
            rows.
        targets (`str`, *optional*, defaults to `"two_hot"`):
            The distribution that stands for a reward: `"two_hot"`, the two bins around it, whose mean is the reward;
            or `"gaussian"`, a normal distribution around it with a standard deviation of three quarters of a bin.
        max_weight (`float`, *optional*, defaults to 10):
            The largest importance weight of a prefix of a guided response; greater ones are cut.
        training_data (`str`, *optional*):
            Name of the training data, for the model card. By default the hub name of the data set, if it has one.

    Raises:
        TypeError: If an option has another type.
        ValueError: If an option is out of range.

    Example:
        ```python
        from rgtg_hf import PrefixValueConfig

        args = PrefixValueConfig(output_dir="value-model", num_layers=10, num_bins=41)
        ```
    """

    num_bins: int = field(default=21, metadata={"help": "Bins of the histogram of returns."})
    value_range: list[float] | None = field(
        default=None,
        metadata={"help": "The returns of the first and the last bin. Default: the range of the training rewards."},
    )
    targets: str = field(
        default="two_hot",
        metadata={
            "choices": TARGETS,
            "help": "What stands for a reward in the histogram: `two_hot`, the two bins around it; `gaussian`, a "
            "normal distribution around it.",
        },
    )

    max_weight: float = field(
        default=10.0, metadata={"help": "The largest importance weight of a prefix of a guided response."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("num_bins", self.num_bins)
        if self.num_bins < 2:
            raise ValueError("`num_bins` is 1, but a histogram has at least 2.")
        check_number("max_weight", self.max_weight)
        if self.max_weight <= 0:
            raise ValueError(f"`max_weight` is {self.max_weight}, but must be above 0.")
        if self.targets not in TARGETS:
            raise ValueError(f"`targets` is {self.targets!r}, but must be one of {', '.join(map(repr, TARGETS))}.")
        if self.value_range is not None:
            low, high = _two_numbers(self.value_range)
            if not low < high:
                raise ValueError(f"`value_range` is {self.value_range}, but the first number must be the lower one.")


def _two_numbers(value: object) -> tuple[float, float]:
    try:
        low, high = (float(number) for number in value)  # type: ignore[attr-defined]
    except (TypeError, ValueError) as error:
        raise TypeError(f"`value_range` is {shown(value)}, but a list of two numbers is required.") from error
    if not math.isfinite(low) or not math.isfinite(high):
        raise ValueError(f"`value_range` is {shown(value)}, but finite numbers are required.")
    return low, high
