"""The help of `rgtg-hf train` and its kin: our options and TRL's most used ones, told without loading TRL."""

from __future__ import annotations

from typing import Any, NamedTuple

from rgtg_hf.cli.parser import LineParser

__all__ = ["HEAD_OPTIONS", "OPTIONS", "VALUE_OPTIONS", "Shown", "help_parser"]


class Shown(NamedTuple):
    """An option as the help shows it.

    Attributes:
        name: Its name.
        text: What it is for.
        default: Its default.
        choices: The words that it may be.
        kind: Its type, where there is no default to tell.
    """

    name: str
    text: str
    default: Any = None
    choices: tuple[str, ...] = ()
    kind: type = str


# The options of each group. A test compares them with the parser's.
OPTIONS: dict[str, list[Shown]] = {
    "model and data": [
        Shown("model_name_or_path", "the policy, or a smaller model with its tokenizer"),
        Shown("dataset_name", "pairs: a hub name or a file (.jsonl, .json, .csv, .parquet)"),
        Shown("dataset_train_split", "split to train on", "train"),
        Shown("output_dir", "folder of the model and its checkpoints"),
        Shown("training_data", "name of the data in the model card; unset: the hub name"),
    ],
    "prefixes": [
        Shown("num_layers", "first layers to take, so that decoding is cheaper; unset: all", kind=int),
        Shown("prefixes", "the prefixes that count", None, ("all", "stride", "random")),
        Shown("prefix_stride", "tokens between prefixes, if `stride`", 8),
        Shown("prefixes_per_pair", "prefixes of each pair, if `random`", 8),
        Shown("position_weights", "weights", "uniform", ("uniform", "increasing", "decreasing")),
        Shown("after_end", "past the shorter response's end", "hold", ("hold", "drop")),
        Shown("from_first_difference", "leave out the prefixes that both responses share", False),
        Shown("hidden_states_dir", "where hidden states for steering heads are kept"),
    ],
    "training": [
        Shown("learning_rate", "largest learning rate", 1e-4),
        Shown("num_train_epochs", "passes over the rows", 3.0),
        Shown("max_steps", "steps in place of epochs, if above 0", -1),
        Shown("per_device_train_batch_size", "rows per device and step", 8),
        Shown("gradient_accumulation_steps", "batches per change of the weights", 1),
        Shown("max_length", "longer rows are left out, in tokens", 1024),
        Shown("bf16", "train in bfloat16; unset: where the device can", kind=bool),
        Shown("no_gradient_checkpointing", "take more memory, and less time", False),
        Shown("seed", "seed of the order and of fresh weights", 42),
    ],
    "LoRA": [
        Shown("use_peft", "train an adapter in place of all weights", False),
        Shown("lora_r", "its rank", 16),
        Shown("lora_target_modules", "the layers that it changes; unset: PEFT's choice"),
        Shown("load_in_4bit", "quantize the weights below the adapter (QLoRA)", False),
    ],
    "while it runs, and after": [
        Shown("eval_strategy", "when to evaluate", "no", ("no", "steps", "epoch")),
        Shown("dataset_test_split", "split to evaluate on", "test"),
        Shown("logging_steps", "steps between lines of the log", 10),
        Shown("save_steps", "steps between checkpoints", 500),
        Shown("report_to", "wandb, tensorboard and so on", "none"),
        Shown("resume_from_checkpoint", "`last` or a checkpoint's folder, to go on from there"),
        Shown("push_to_hub", "upload the result as --hub_model_id", False),
    ],
    "other": [
        Shown("config", "a .yaml file with options"),
        Shown("help-all", "list all of TRL's options", False),
    ],
}


VALUE_OPTIONS: dict[str, list[Shown]] = {
    "model and data": [
        OPTIONS["model and data"][0],
        Shown("dataset_name", "rated responses: a hub name or a file, as `rollouts` writes it"),
        *OPTIONS["model and data"][2:],
    ],
    "values": [
        OPTIONS["prefixes"][0],
        Shown("num_bins", "bins of the histogram of returns", 21),
        Shown("value_range", "returns of the first and the last bin; unset: those of the data"),
        Shown("max_weight", "largest weight of a guided response's prefix", 10),
        Shown("targets", "what stands for a reward", "two_hot", ("two_hot", "gaussian")),
    ],
    **{title: options for title, options in OPTIONS.items() if title not in ("model and data", "prefixes")},
}


_LEFT_OUT = ("learning_rate", "per_device_train_batch_size", "no_gradient_checkpointing")
HEAD_OPTIONS: dict[str, list[Shown]] = {
    "model and data": [
        Shown("model_name_or_path", "the policy that wrote the responses"),
        *VALUE_OPTIONS["model and data"][1:],
    ],
    "the head": [
        Shown("top_k", "candidates, as many as the responses had", 10),
        Shown("rank", "dimensions in which hidden state and token meet", 128),
        Shown("context_scale", "how fast contexts are learned", 0.001),
        Shown("max_weight", "largest weight of a guided response", 10),
        Shown("hidden_states_dir", "where the policy's hidden states are kept"),
    ],
    "training": [
        Shown("learning_rate", "largest learning rate", 3e-3),
        Shown("per_device_train_batch_size", "rows per device and step", 16),
        Shown("weight_decay", "weight decay", 0.1),
        *(option for option in OPTIONS["training"] if option.name not in _LEFT_OUT),
    ],
    **{title: OPTIONS[title] for title in ("while it runs, and after", "other")},
}


def help_parser(command: str, summary: str, example: str, shown: dict[str, list[Shown]]) -> LineParser:
    """The parser that prints the help. TRL's parser is what reads the options."""
    start = f"rgtg-hf {command} --model_name_or_path HuggingFaceTB/SmolLM2-135M-Instruct"
    parser = LineParser(
        command,
        summary,
        "--model_name_or_path NAME --dataset_name NAME --output_dir DIR [options]",
        [f"{start} {example}"],
    )
    for title, options in shown.items():
        add = parser.group(title)
        for one in options:
            kind = one.kind if one.default is None else type(one.default)
            more: dict[str, Any] = {"type": kind, "default": one.default, "choices": one.choices or None}
            add(f"--{one.name}", help=one.text, **{"action": "store_true"} if one.default is False else more)
    return parser
