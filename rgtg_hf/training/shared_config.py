"""Settings that training on prefixes has in common, whatever is learned."""

from __future__ import annotations

from dataclasses import dataclass, field

from transformers.trainer_utils import HubStrategy
from transformers.utils import is_torch_bf16_gpu_available
from trl import RewardConfig

from rgtg_hf.arguments import check_count

__all__ = ["SharedConfig"]


@dataclass
class SharedConfig(RewardConfig):
    r"""TRL's settings, with the number of layers and the name of the data.

    Args:
        num_layers (`int`, *optional*):
            Build the model from the first `num_layers` layers of the one given by name.
        hub_strategy (`str`, *optional*, defaults to `"end"`):
            With `push_to_hub`, upload the result alone. The others upload checkpoints, and with them a pickle of the
            settings, `hub_token` included.
        training_data (`str`, *optional*):
            Name of the training data, for the model card.
    """

    num_layers: int | None = field(
        default=None,
        metadata={
            "help": "Build the reward model from this many first layers of the model. Fewer layers make every "
            "decoding step cheaper. Default: all layers."
        },
    )
    # With checkpoints the Trainer uploads its settings too, as a pickle that holds `hub_token` and local paths.
    hub_strategy: HubStrategy | str = field(
        default="end",
        metadata={
            "help": "When to upload: `end`, the result alone; `every_save`, `checkpoint` or `all_checkpoints`, each "
            "with a pickle of the settings, a token among them."
        },
    )
    training_data: str | None = field(
        default=None,
        metadata={"help": "Name of the training data in the model card. Default: its name on the hub, if it has one."},
    )

    def __post_init__(self) -> None:
        # TRL and the scripts written for it say `gradient_checkpointing`; transformers warns about that name.
        for old, new in (
            ("gradient_checkpointing", "activation_checkpointing"),
            ("gradient_checkpointing_kwargs", "activation_checkpointing_kwargs"),
        ):
            if getattr(self, new, None) is None:
                setattr(self, new, getattr(self, old))
        if self.bf16 is None and not is_torch_bf16_gpu_available():
            # TRL would turn it on and then refuse the machine. A script that does not set it should just run.
            self.bf16 = False
        super().__post_init__()
        if self.num_layers is not None:
            check_count("num_layers", self.num_layers)
