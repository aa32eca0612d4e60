"""The models that `rgtg-hf evaluate` compares."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from rgtg_hf.cli.errors import blame_input
from rgtg_hf.cli.model_pair import load_policy
from rgtg_hf.cli.option_checks import check_same_tokenizer
from rgtg_hf.evaluation.methods import METHODS, Contestants

__all__ = ["load_contestants"]

_LANGUAGE_MODELS = ("fine_tuned", "proxy_tuned", "proxy_base", "autoregressive_rm")


def load_contestants(options: argparse.Namespace) -> Contestants:
    """Loads the models that the chosen methods need.

    Args:
        options: The options of the command.

    Raises:
        UserError: If a model cannot be loaded or does not fit the policy.
    """
    policy, tokenizer = load_policy(options)
    needed = {name for method in options.methods for name in METHODS[method].needs} - {"instruction"}
    models = {name: _load(name, options, tokenizer, policy) for name in sorted(needed)}
    return Contestants(
        policy,
        tokenizer,
        top_k=options.top_k,
        max_new_tokens=options.max_new_tokens,
        block_size=options.block_size,
        num_rows=max(options.ns),
        value_beta=options.value_beta,
        instruction=options.instruction,
        **models,
    )


def _load(kind: str, options: argparse.Namespace, tokenizer: Any, policy: Any) -> Any:
    name = getattr(options, kind)
    trust = {"trust_remote_code": options.trust_remote_code}
    with blame_input(f"--{kind}: {name} cannot be used"):
        if kind == "head":
            from rgtg_hf.rewards.load import load_model
            from rgtg_hf.rewards.next_token import NextTokenRewardModel

            return load_model(NextTokenRewardModel, name).attach(policy)
        if kind in _LANGUAGE_MODELS:
            return _language_model(name, options, tokenizer).to(policy.device).eval()
        from rgtg_hf.rewards.causal_classifier import check_reward_model
        from rgtg_hf.rewards.load import load_reward_model, load_tokenizer
        from rgtg_hf.rewards.value_model import as_reward_model

        check_same_tokenizer(tokenizer, load_tokenizer(name, **trust))
        model = load_reward_model(name, dtype=options.dtype, **trust).to(policy.device).eval()
        check_reward_model(as_reward_model(model))
        return model


def _language_model(name: str, options: argparse.Namespace, tokenizer: Any) -> Any:
    from transformers import AutoModelForCausalLM

    from rgtg_hf.rewards.load import load_model, load_tokenizer

    trust = {"trust_remote_code": options.trust_remote_code}
    # The adapter names the model it was trained on, by a path that may no longer exist. That model is the policy.
    adapter = (Path(name) / "adapter_config.json").is_file()
    if not adapter:
        check_same_tokenizer(tokenizer, load_tokenizer(name, **trust), "language model")
    model = load_model(AutoModelForCausalLM, options.model if adapter else name, dtype=options.dtype, **trust)
    if not adapter:
        return model
    from peft import PeftModel

    return PeftModel.from_pretrained(model, name)
