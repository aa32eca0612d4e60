"""`rgtg-hf train`: TRL's flags in, a prefix reward model out."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rgtg_hf.cli.errors import UserError, blame_input
from rgtg_hf.cli.next_command import suggest
from rgtg_hf.cli.option_checks import check_model_name
from rgtg_hf.cli.output_dir import check_output_dir, claim_output_dir
from rgtg_hf.cli.preferences import check_columns, load_preferences
from rgtg_hf.cli.train.train_help import help_parser
from rgtg_hf.cli.train.train_kinds import REWARDS, Kind

__all__ = ["run", "run_training"]


def run(arguments: Sequence[str]) -> None:
    """Trains a reward model and saves it.

    Args:
        arguments: The options of the command line.

    Raises:
        UserError: If the input is wrong; nothing has been written then.
    """
    run_training(arguments, REWARDS)


def run_training(arguments: Sequence[str], kind: Kind) -> None:
    """Trains a model of some kind and saves it.

    Args:
        arguments: The options of the command line.
        kind: The kind.

    Raises:
        UserError: If the input is wrong; nothing has been written then.
    """
    if {"-h", "--help"} & set(arguments):
        help_parser(kind.command, kind.summary, kind.example, kind.options).parse_args(["--help"])
    # Errors in the words alone are reported before libraries are loaded, which takes seconds.
    _check_early(list(arguments))
    from trl import get_peft_config, get_quantization_config

    config_class, trainer_class, columns = kind.classes()
    script, training, model = _parse(arguments, kind, config_class)
    if not model.model_name_or_path:
        raise UserError("--model_name_or_path is missing; name the model to start from")
    if not script.dataset_name:
        raise UserError("--dataset_name is missing; name a data set on the hub or a local file")
    check_model_name("--model_name_or_path", model.model_name_or_path)
    output_dir = Path(training.output_dir)
    # Only one process of a distributed run checks: the others would find the folder that it has just made.
    is_main = training.process_index == 0
    if is_main:
        check_output_dir(output_dir)

    datasets = {
        name: load_preferences(script.dataset_name, script.dataset_config, split, streaming=script.dataset_streaming)
        for name, split in _splits(script, training).items()
    }
    for dataset in datasets.values():
        check_columns(dataset, script.dataset_name, kind.columns)

    if training.device.type == "cpu":
        training.dataloader_pin_memory = False  # torch warns that there is nothing to pin it for
    training.model_init_kwargs = {
        "revision": model.model_revision,
        "attn_implementation": model.attn_implementation,
        "dtype": model.dtype,
        **(training.model_init_kwargs or {}),
    }
    of_layers = {"quantization_config": get_quantization_config(model), "peft_config": get_peft_config(model)}
    if not kind.trains_layers:
        if given := [name for name, value in of_layers.items() if value is not None]:
            option = "--use_peft" if "peft_config" in given else "quantization"
            raise UserError(f"{option} is for models with layers to train; leave it out for a {kind.product}")
        of_layers = {}
    with blame_input("training cannot start", (OSError, TypeError, ValueError)):
        trainer = trainer_class(
            model=model.model_name_or_path,
            args=training,
            train_dataset=datasets["train"],
            eval_dataset=datasets.get("eval"),
            **of_layers,
        )
    if is_main:
        claim_output_dir(output_dir, command=kind.command, finished=False)
    _train(trainer, training, output_dir, columns)
    # Saving would upload the output folder as it is then, with half of the result in another place.
    pushes, trainer.args.push_to_hub = trainer.args.push_to_hub, False
    _save(trainer, output_dir)
    if is_main:
        claim_output_dir(output_dir, command=kind.command, finished=True)
        print(f"The {kind.product} is in {output_dir}.")
        names = ("--model", model.model_name_or_path, "--reward_model", str(output_dir))
        suggest("rgtg-hf", "generate", *names, *kind.strength, "Describe an empty theatre after the show.")
    if pushes:
        trainer.push_to_hub(dataset_name=script.dataset_name)


def _train(trainer: Any, training: Any, output_dir: Path, columns: Any) -> None:
    """Trains from the beginning or from a checkpoint. The message of an interruption says how to go on."""
    from contextlib import nullcontext

    from rgtg_hf.cli.train.interruption import StopGently
    from rgtg_hf.cli.train.train_table import TrainingTable
    from rgtg_hf.training.resume import last_checkpoint

    resume = training.resume_from_checkpoint
    if resume is not None and resume.lower() in ("true", "last"):
        resume = last_checkpoint(output_dir)
        if resume is None and training.process_index == 0:
            print(f"There is no checkpoint in {output_dir} yet: training starts from the beginning.", file=sys.stderr)
    stop = StopGently()
    trainer.add_callback(stop)
    table = TrainingTable(output_dir, columns).instead_of_others(trainer)
    try:
        # Several processes would not stop at the same step, and wait for each other for ever.
        gently = stop if training.world_size == 1 else nullcontext()
        with gently, table, blame_input("training cannot go on", (ValueError,)):
            trainer.train(resume_from_checkpoint=resume)
        if stop.asked:
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        reached = last_checkpoint(output_dir)
        how = (
            f"it is saved in {reached}; the same command with `--resume_from_checkpoint last` goes on from there"
            if reached
            else "there is no checkpoint yet, so the same command starts from the beginning"
        )
        raise KeyboardInterrupt(f"training stopped after step {trainer.state.global_step}; {how}") from None


def _save(trainer: Any, output_dir: Path) -> None:
    """Saves the model in a folder of its own first, and moves it into place, file by file, when it is complete."""
    staging = output_dir / "saving"
    trainer.save_model(str(staging))
    trainer.accelerator.wait_for_everyone()
    if trainer.is_world_process_zero():
        for file in [path for path in staging.rglob("*") if path.is_file()]:
            place = output_dir / file.relative_to(staging)
            place.parent.mkdir(exist_ok=True)
            file.replace(place)
        shutil.rmtree(staging)


def _check_early(arguments: list[str]) -> None:
    for option in ("--model_name_or_path", "--model"):
        if option in arguments[:-1]:
            check_model_name(option, arguments[arguments.index(option) + 1])
    if "--config" in arguments:
        position = arguments.index("--config") + 1
        if position >= len(arguments) or not os.path.isfile(arguments[position]):
            given = arguments[position] if position < len(arguments) else "nothing"
            raise UserError(f"--config: {given} is not a file; give a YAML file with one option per line")


def _parse(arguments: Sequence[str], kind: Kind, config_class: Any) -> tuple[Any, Any, Any]:
    import yaml
    from trl import ModelConfig, ScriptArguments, TrlParser

    class Parser(TrlParser):
        def error(self, message: str) -> Any:
            raise UserError(f"{message} (see `{self.prog} --help`)")

    dataclasses: Any = (ScriptArguments, config_class, ModelConfig)
    parser = Parser(dataclasses, prog=f"rgtg-hf {kind.command}", description=kind.summary)
    if "--help-all" in arguments:
        parser.print_help()
        raise SystemExit(0)
    # TRL's default is meant for language models; with it the reward head would stay frozen and unsaved.
    parser.set_defaults(lora_task_type="SEQ_CLS")
    with blame_input("the options cannot be used", (OSError, ValueError, yaml.YAMLError)):
        return parser.parse_args_and_config(list(arguments))  # type: ignore[return-value]


def _splits(script: Any, training: Any) -> dict[str, str]:
    splits = {"train": script.dataset_train_split}
    if training.eval_strategy != "no":
        splits["eval"] = script.dataset_test_split
    return splits
