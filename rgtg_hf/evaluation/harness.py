"""Guided policies in EleutherAI's evaluation harness: the model type `rgtg` (needs the `harness` extra).

    python -m rgtg_hf.evaluation.harness run --model rgtg \
        --model_args pretrained=owner/policy,reward_model=owner/reward-model,beta=1.5 --tasks ifeval

The module is the harness's own command, `lm_eval`, which then knows the model type. In Python, import this module and
pass `model="rgtg"`, or a [`GuidedHarnessLM`][rgtg_hf.evaluation.harness.GuidedHarnessLM], to `simple_evaluate`.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any, NoReturn

from rgtg_hf.config import OF_CALLS, resolve_guidance
from rgtg_hf.decoding.generation import reward_guided_generate
from rgtg_hf.rewards.named import load_for_policy
from rgtg_hf.rewards.source import source_of

try:
    from lm_eval.api.registry import register_model
    from lm_eval.models.huggingface import HFLM
except ImportError as error:
    raise ImportError(
        'The evaluation harness is not installed. Install it with: pip install "rgtg-hf[harness]"'
    ) from error

__all__ = ["GuidedHarnessLM"]


@register_model("rgtg")
class GuidedHarnessLM(HFLM):
    """A policy that a reward model guides, for the tasks of the harness that generate text.

    Args:
        pretrained: The policy: a folder, a hub name, or a model.
        reward_model: The reward model or steering head: a folder, a hub name, or a model.
        **kwargs: Settings of [`RewardGuidanceConfig`][rgtg_hf.config.RewardGuidanceConfig], such as `beta`, `top_k`
            (candidates) or `search`; those that are not given are as saved beside the reward model. All others go to
            the harness's own class for models of transformers: `batch_size`, `device`, `dtype` and so on.

    Raises:
        ValueError: If a setting is out of range, or the models do not fit together.
        OSError: If a model is not found.

    Example:
        ```python
        from rgtg_hf.evaluation.harness import GuidedHarnessLM

        def evaluate_ifeval():
            import lm_eval

            model = GuidedHarnessLM("owner/policy", "owner/reward-model", beta=1.5, batch_size=8)
            return lm_eval.simple_evaluate(model=model, tasks=["ifeval"])
        ```
    """

    def __init__(self, pretrained: Any, reward_model: Any, **kwargs: Any) -> None:
        settings = {name: kwargs.pop(name) for name in OF_CALLS if name in kwargs}
        super().__init__(pretrained, backend="causal", **kwargs)
        # Now, and not at the first request: what is wrong is told before any task is read.
        loaded = load_for_policy(self.model, reward_model, self.tokenizer, None)
        guidance = resolve_guidance(settings, source=source_of(loaded.reward_model))
        self._generate = partial(
            reward_guided_generate,
            reward_model=loaded.reward_model,
            tokenizer=loaded.tokenizer,
            reward_tokenizer=loaded.reward_tokenizer,
            guidance_config=guidance.config,
        )

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """The guided responses to the harness's requests, as text."""
        guided = [
            dataclasses.replace(request, arguments=(context, settings | {"custom_generate": self._generate}))
            for request in requests
            for context, settings in [request.args]
        ]
        return super().generate_until(guided, disable_tqdm)

    def loglikelihood(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refused: a guided policy gives a probability to its candidates alone."""
        raise NotImplementedError(
            "Guidance gives probabilities to its candidates alone, so tasks that compare the likelihoods of given "
            "texts, such as those of multiple choice, cannot be evaluated with it: choose tasks that generate text, "
            "or evaluate the policy itself with --model hf."
        )

    def loglikelihood_rolling(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refused, as [`loglikelihood`]."""
        self.loglikelihood()


if __name__ == "__main__":
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()
