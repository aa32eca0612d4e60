"""Describes a run beside its checkpoints, so that only the same run resumes from them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import PretrainedConfig, TrainerState
from transformers.trainer import TRAINER_STATE_NAME

from rgtg_hf.training.shared_config import SharedConfig
from rgtg_hf.version import __version__

__all__ = ["RUN_FILE", "check_resume", "describe_run", "last_checkpoint"]

RUN_FILE = "prefix_training.json"
LOSS_SETTINGS = (
    "after_end",
    "prefixes",
    "prefix_stride",
    "prefixes_per_pair",
    "position_weights",
    "from_first_difference",
    "center_rewards_coefficient",
    "num_bins",
    "targets",
    "top_k",
    "max_weight",
    "seed",
)
MODEL_SETTINGS = ("model_type", "num_hidden_layers", "hidden_size", "vocab_size", "rank", "context_scale")
SAMPLE = 256
_ROWS = ("chosen_ids", "rejected_ids", "input_ids", "reward", "surplus")


def describe_run(args: SharedConfig, config: PretrainedConfig, dataset: Any) -> dict[str, Any]:
    """Describes a run: the loss, the seed, the model's shape and the training rows.

    Args:
        args: The run's settings.
        config: The model's configuration.
        dataset: The prepared training rows. The rows of a stream are not compared.

    Returns:
        A dictionary for JSON, without paths and without text of the data.
    """
    run = {name: getattr(args, name) for name in LOSS_SETTINGS if hasattr(args, name)}
    shape = config.get_text_config()
    run |= {name: getattr(shape, name) for name in MODEL_SETTINGS if hasattr(shape, name)}
    if isinstance(dataset, Dataset):
        run["rows"] = len(dataset)
        sample = dataset.select(range(0, len(dataset), max(1, len(dataset) // SAMPLE)))
        ids = json.dumps([sample[column][:] for column in _ROWS if column in dataset.column_names])
        run["rows_sha256"] = hashlib.sha256(ids.encode()).hexdigest()
    return run | {"rgtg_hf": __version__}


def last_checkpoint(directory: str | Path) -> str | None:
    """Finds the latest complete checkpoint of an output directory. A run may be killed while it writes one.

    Args:
        directory: The output directory of a run.

    Returns:
        The checkpoint's directory, or None if no checkpoint is complete.
    """
    found = [path for path in Path(directory).glob("checkpoint-*") if path.name.removeprefix("checkpoint-").isdigit()]
    ordered = sorted(found, key=lambda path: int(path.name.removeprefix("checkpoint-")), reverse=True)
    return next((str(path) for path in ordered if _is_complete(path)), None)


def _is_complete(checkpoint: Path) -> bool:
    """Whether the trainer's state, the last file that it writes, is there and whole."""
    try:
        TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))
    except (OSError, ValueError, TypeError):
        return False
    return True


def check_resume(checkpoint: str, run: dict[str, Any]) -> None:
    """Refuses to resume from a checkpoint of another run.

    Args:
        checkpoint: The directory to resume from.
        run: The run that wants to resume, see [`describe_run`].

    Raises:
        ValueError: If the directory does not exist, was not written by prefix training, is incomplete, or belongs to
            another run.
    """
    path = Path(checkpoint) / RUN_FILE
    if not Path(checkpoint).is_dir():
        raise ValueError(f"There is no checkpoint directory {checkpoint!r} to resume from.")
    if not path.is_file():
        raise ValueError(
            f"The directory {checkpoint!r} has no {RUN_FILE}: it is not a checkpoint of PrefixRewardTrainer. To start "
            "from a model trained by other means, give it as the model instead of resuming."
        )
    if not _is_complete(Path(checkpoint)):
        raise ValueError(
            f"The checkpoint {checkpoint!r} is incomplete: its run ended while it was being written. Resume from "
            "an earlier one."
        )
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"The file {path} is damaged ({error}). Resume from another checkpoint.") from error
    different = [name for name in run if name != "rgtg_hf" and saved.get(name) != run[name]]
    if different:
        changes = ", ".join(f"{name} was {saved.get(name)!r} and is {run[name]!r}" for name in different)
        raise ValueError(
            f"The checkpoint {checkpoint!r} is from another run: {changes}. Resume with the settings and data of that "
            "run, or start over in another output directory."
        )
