"""`rgtg-hf push`: a reward model to the hub, ready to steer by its name."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rgtg_hf.cli.errors import UserError, blame_input
from rgtg_hf.cli.option_checks import check_guidance, check_model_name
from rgtg_hf.cli.parser import LineParser

__all__ = ["files_to_upload", "run"]

# The files that others need. Checkpoints, optimizer states and logs in an output folder are not uploaded.
_KEPT = re.compile(
    r"README\.md|LICENSE(\.\w+)?|(model|adapter_model)[\w.-]*\.safetensors|model\.safetensors\.index\.json"
    r"|(config|adapter_config|guidance_config|generation_config|tokenizer|tokenizer_config|special_tokens_map|vocab"
    r"|added_tokens|accuracy_by_fraction_read|prefix_training)\.json"
    r"|(merges|vocab)\.txt|chat_template\.jinja|[\w.-]+\.(model|png)|base_config/config\.json"
    r"|custom_generate/(generate\.py|requirements\.txt)"
)
# The lines of the card's code that load the reward model and that steer with it.
_LOADING = re.compile(
    r'((?:ForSequenceClassification|NextTokenRewardModel)\.from_pretrained\(|load_reward_model\()"[^"]*"'
)
_STEERING = re.compile(
    r"(RewardGuidedLogitsProcessor\(reward_model, beta=|steering\(policy, \[\(head, )[-+.\de]+(\)?\]?, top_k=)\w+"
)
_SECRET = re.compile(r"\bhf_[A-Za-z0-9]{30,}\b")
_LINE = re.compile(r'"[^"]*"')


def run(arguments: Sequence[str]) -> None:
    """Adds the files for steering by name to a saved reward model, and uploads it.

    Args:
        arguments: The options of the command line.

    Raises:
        UserError: If the folder holds no reward model that can be shared, or the hub refuses it.
    """
    options = _parser().parse_args(list(arguments))
    folder = Path(options.folder).expanduser()
    _check(options, folder)

    from rgtg_hf.config import RewardGuidanceConfig, resolve_guidance
    from rgtg_hf.decoding.hub import write_custom_generate

    with blame_input(f"{options.folder}: guidance_config.json cannot be used", (OSError, ValueError, TypeError)):
        try:
            config = RewardGuidanceConfig.from_pretrained(folder)
        except FileNotFoundError:
            config = RewardGuidanceConfig()
        given = {"beta": options.beta, "top_k": options.top_k}
        resolved = resolve_guidance(given, config).config
        config = replace(config, beta=resolved.beta, top_k=resolved.top_k)
    with blame_input(f"{options.folder} cannot be written"):
        write_custom_generate(folder, config, options.repo)
        _complete_card(folder, options, config)
    files = files_to_upload(folder)
    _refuse_secrets(folder, files)
    where = f'custom_generate="{options.repo}"'
    if options.local_only:
        print(f"Nothing was uploaded. {options.folder} is ready: {', '.join(files)}")
        where = f'custom_generate="{options.folder}", reward_model="{options.folder}"'  # the files name the repository
    else:
        print(f"Uploaded to {_upload(folder, files, options)}")
    print(f"Steer with it: policy.generate(**inputs, {where}, trust_remote_code=True, beta={config.beta})")


def files_to_upload(folder: Path) -> list[str]:
    """The files of a saved reward model that others need, as paths within the folder, sorted."""
    names = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return sorted(name for name in names if _KEPT.fullmatch(name))


def _check(options: argparse.Namespace, folder: Path) -> None:
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", options.repo, re.ASCII):
        raise UserError(f"{options.repo!r} is not a name on the hub; give `owner/name`")
    check_guidance(1.0 if options.beta is None else options.beta, options.top_k or 10)
    if not folder.is_dir():
        raise UserError(f"{options.folder} is not a folder; give one with a saved reward model")
    check_model_name("FOLDER", options.folder)
    names = files_to_upload(folder)
    if not any(name.endswith(".safetensors") for name in names):
        raise UserError(f"{options.folder} has no weights as safetensors; save it again with save_pretrained()")
    if "tokenizer_config.json" not in names:
        raise UserError(
            f"{options.folder} has no tokenizer, without which nobody can tell which policies it fits; save the "
            "policy's there with tokenizer.save_pretrained()"
        )
    if "adapter_config.json" in names:
        _check_base(folder, options.folder)
        return  # the labels are those of the head that the adapter brings
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        labels = len(config.get("id2label", {0: "", 1: ""}))  # 2 is the default of a configuration without labels
        kinds = [
            name
            for name in config.get("architectures") or []
            if name.endswith(("ForSequenceClassification", "NextTokenRewardModel"))
        ]
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"{options.folder}: config.json cannot be read ({error})") from error
    if (labels != 1 and config.get("value_range") is None) or not kinds:
        raise UserError(
            f"{options.folder} holds {config.get('architectures')} with {labels} labels; a reward model is a "
            "`*ForSequenceClassification` with 1, a value model, or a `NextTokenRewardModel`"
        )


def _check_base(folder: Path, name: str) -> None:
    """Refuses an adapter whose base model is a folder on this machine, which others do not have."""
    from rgtg_hf.rewards.source import is_hub_name

    with blame_input(f"{name}: adapter_config.json cannot be read", (OSError, ValueError)):
        base = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))["base_model_name_or_path"]
    if not is_hub_name(base):
        raise UserError(
            f"{name} is an adapter on {base}, a folder that others do not have; write the base model's name on the "
            "hub in its adapter_config.json, or merge the adapter (PEFT's merge_and_unload) and push the whole model"
        )


def _complete_card(folder: Path, options: argparse.Namespace, guidance: Any) -> None:
    """Adds to the card how to steer by name, and puts the hub's name and the settings to recommend into its code."""
    from huggingface_hub import ModelCard

    from rgtg_hf.decoding.hub import TAG, add_to_card

    path = folder / "README.md"
    card: Any = ModelCard(path.read_text(encoding="utf-8")) if path.is_file() else _new_card(folder, options)
    base = card.data.base_model
    policy = options.policy or (base if isinstance(base, str) else "your/language-model")
    card.data.tags = sorted({*(card.data.tags or []), "prefix-reward-model", "rgtg-hf", TAG})
    text = _LOADING.sub(rf'\g<1>"{options.repo}"', card.text, count=1)
    text = _STEERING.sub(rf"\g<1>{guidance.beta}\g<2>{guidance.top_k}", text)
    card.text = add_to_card(text, options.repo, policy, guidance.beta)
    card.save(path)


def _new_card(folder: Path, options: argparse.Namespace) -> Any:
    try:
        from rgtg_hf.training.card import kind_of, model_card
    except ImportError as error:
        raise UserError(
            f"{options.folder} has no README.md, the model card; write one, or let it be written, which needs "
            "`pip install 'rgtg-hf[train]'`"
        ) from error
    is_adapter = (folder / "adapter_config.json").is_file()
    config = {} if is_adapter else json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return model_card(
        name=options.repo.split("/")[1],
        model_id=options.repo,
        base_model=options.policy,
        dataset_name=None,
        tags=[],
        metrics={},
        settings={},
        kind=kind_of(config, is_adapter=is_adapter),
    )


def _refuse_secrets(folder: Path, files: Sequence[str]) -> None:
    """Refuses files that hold an access token or the name of a place on this machine."""
    home = str(Path.home())
    for name in files:
        if Path(name).suffix not in {".json", ".md", ".py", ".txt", ".jinja"} or name == "tokenizer.json":
            continue
        text = (folder / name).read_text(encoding="utf-8", errors="replace")
        if _SECRET.search(text):
            raise UserError(f"{name} holds an access token of the hub; remove it there, and revoke it")
        places = [quoted for quoted in _LINE.findall(text) if _is_local_path(quoted.strip('"'), home, folder)]
        if places:
            raise UserError(f"{name} names a place on this machine ({places[0]}); remove it there")


def _is_local_path(text: str, home: str, folder: Path) -> bool:
    return text.startswith("/") and (text.startswith((f"{home}/", f"{folder.resolve()}")) or Path(text).exists())


def _upload(folder: Path, files: Sequence[str], options: argparse.Namespace) -> str:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, OfflineModeIsEnabled

    refusals = (HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, OSError)
    with blame_input("the hub refused (is `hf auth login` done, and is the name yours?)", refusals):
        # The token is the one of `hf auth login` or HF_TOKEN; it is neither asked for nor kept here.
        hub = HfApi()
        try:
            hub.create_repo(options.repo, private=options.private or None, exist_ok=True)
        except OfflineModeIsEnabled as error:
            raise UserError(
                f"nothing was uploaded, because HF_HUB_OFFLINE is set; {options.folder} is ready: unset it and push "
                "again, or leave it at that with --local_only"
            ) from error
        hub.upload_folder(
            folder_path=folder,
            repo_id=options.repo,
            allow_patterns=list(files),
            commit_message="Upload a prefix reward model",
        )
    return f"https://huggingface.co/{options.repo}"


def _parser() -> LineParser:
    parser = LineParser(
        "push",
        "Upload a reward model, so that generate() is steered by its name (custom_generate=).",
        "folder owner/name [options]",
        ["rgtg-hf push reward_model owner/my-reward-model --beta 2 --private"],
    )
    add = parser.group("what and where")
    add("folder", help="the reward model; custom_generate/ and a section of the card are written into it")
    add("repo", help="its name on the hub, owner/name; the repository is made if there is none")
    add("--private", action="store_true", help="make the repository private, if it is made now")
    add("--local_only", action="store_true", help="write the files, upload nothing")
    add = parser.group("what the card recommends")
    add("--beta", type=float, shown="as in guidance_config.json, or else 1", help="strength")
    add("--top_k", type=int, shown="as in guidance_config.json, or else 10", help="candidates")
    add("--policy", shown="the card's base model", help="policy of the card's example")
    return parser
