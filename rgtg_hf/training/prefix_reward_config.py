"""Settings of prefix training: those of TRL's reward training, and the choice of prefixes."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

from transformers.trainer_utils import HubStrategy
from trl import RewardConfig

from rgtg_hf.arguments import check_count, check_switch
from rgtg_hf.training.loss import AFTER_END, POSITION_WEIGHTS, PREFIXES
from rgtg_hf.training.shared_config import SharedConfig

__all__ = ["PrefixRewardConfig"]


@dataclass
class PrefixRewardConfig(SharedConfig):
    r"""Settings of [`PrefixRewardTrainer`]. Everything of `trl.RewardConfig` keeps its meaning and its default,
    but for two: `bf16` is off where the hardware has none, and `hub_strategy` is `"end"`, because with checkpoints the
    Trainer uploads a pickle of its settings, `hub_token` included.

    Args:
        num_layers (`int`, *optional*):
            Build the reward model from the first `num_layers` layers of the model given by name. A shallower reward
            model costs less at every decoding step. By default all layers are kept.
        after_end (`str`, *optional*, defaults to `"hold"`):
            How prefixes are compared past the end of the shorter response: `"hold"` compares the whole shorter
            response with further prefixes of the longer one (the paper's way); `"drop"` stops at the shorter one's
            end.
        prefixes (`str`, *optional*):
            Which prefixes count: `"all"` (the paper's way), `"stride"` (every `prefix_stride`-th and the last) or
            `"random"` (`prefixes_per_pair` of them, drawn again at each step; a causal model is evaluated on all).
            Defaults to `"all"` for causal models, and for encoders, which need a pass for each, to `"random"`.
        prefix_stride (`int`, *optional*, defaults to 8):
            Distance between prefixes in tokens, for `prefixes="stride"`.
        prefixes_per_pair (`int`, *optional*, defaults to 8):
            Number of prefixes per pair, for `prefixes="random"`.
        position_weights (`str`, *optional*, defaults to `"uniform"`):
            How much a prefix counts by its place: `"uniform"`, `"increasing"` (prefix i of n weighs i / n) or
            `"decreasing"` (1 - (i - 1) / n).
        from_first_difference (`bool`, *optional*, defaults to `False`):
            Leave out prefixes that both responses share. Their gradient is zero; they only make the loss larger.
        hidden_states_dir (`str`, *optional*):
            The folder for the hidden states of a frozen backbone, for a `NextTokenRewardModel`; another run with the
            same backbone uses them again. Defaults to `_hidden_states` in `output_dir`, which is not uploaded.
        training_data (`str`, *optional*):
            Name of the training data, for the model card. By default the hub name of the data set, if it has one.

    Raises:
        TypeError: If an option has another type.
        ValueError: If an option has a value that is not listed above.

    Example:
        ```python
        from rgtg_hf import PrefixRewardConfig

        args = PrefixRewardConfig(output_dir="reward-model", prefixes="random", prefixes_per_pair=4)
        ```
    """

    after_end: str = field(
        default="hold",
        metadata={
            "choices": AFTER_END,
            "help": "Past the end of the shorter response: `hold` compares its last reward with the longer response's "
            "further prefixes, as the paper does, so that the difference in length is learned too; `drop` stops "
            "there, so that it is not.",
        },
    )
    prefixes: str | None = field(
        default=None,
        metadata={
            "choices": PREFIXES,
            "help": "Which prefixes count: `all`, as the paper does; `stride`, because neighbours say nearly the "
            "same; `random`, which does so without always missing the same ones. Default: `all`, and `random` for "
            "encoders, which need a pass for each prefix.",
        },
    )
    prefix_stride: int = field(
        default=8, metadata={"help": "Distance between prefixes in tokens, with `--prefixes stride`."}
    )
    prefixes_per_pair: int = field(
        default=8, metadata={"help": "Number of prefixes drawn from each pair, with `--prefixes random`."}
    )
    position_weights: str = field(
        default="uniform",
        metadata={
            "choices": POSITION_WEIGHTS,
            "help": "Weight of a prefix by its place: `uniform`, as the paper does; `increasing`, because early "
            "prefixes are nearly coin flips; `decreasing`, because early choices steer the rest.",
        },
    )
    from_first_difference: bool = field(
        default=False,
        metadata={
            "help": "Leave out the prefixes that both responses share: they have no gradient, and without them the "
            "loss is easier to read."
        },
    )

    hidden_states_dir: str | None = field(
        default=None,
        metadata={
            "help": "Where the hidden states of a frozen backbone are kept (steering heads). Runs that name the same "
            "folder compute them once. Default: `_hidden_states` in the output folder."
        },
    )

    @classmethod
    def from_reward_config(cls, config: RewardConfig) -> PrefixRewardConfig:
        """The settings of a `trl.RewardConfig`, with the default choice of prefixes.

        The trainer calls it for a script that swaps the trainer alone. Where `hub_strategy` has TRL's default, it gets
        the one here.

        Args:
            config: The settings, which stay as they are.

        Example:
            ```python
            from trl import RewardConfig
            from rgtg_hf import PrefixRewardConfig

            config = RewardConfig(output_dir="reward-model", learning_rate=1e-5, bf16=False)
            args = PrefixRewardConfig.from_reward_config(config)
            assert (args.learning_rate, args.after_end) == (1e-5, "hold")
            ```
        """
        settings = cls.__new__(cls)  # `config` has been checked and completed; what it holds is taken as it is.
        vars(settings).update({setting.name: setting.default for setting in fields(cls)} | vars(config))
        if settings.hub_strategy == HubStrategy.EVERY_SAVE:
            settings.hub_strategy = HubStrategy.END
        return settings

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, choices in (
            ("after_end", AFTER_END),
            ("prefixes", PREFIXES),
            ("position_weights", POSITION_WEIGHTS),
        ):
            value = getattr(self, name)
            if value not in choices and not (name == "prefixes" and value is None):
                raise ValueError(f"`{name}` is {value!r}, but must be one of {', '.join(map(repr, choices))}.")
        for name in ("prefix_stride", "prefixes_per_pair"):
            check_count(name, getattr(self, name))
        check_switch("from_first_difference", self.from_first_difference)
