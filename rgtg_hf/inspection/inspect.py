"""`rgtg_hf.inspect`: the responses to one prompt with and without guidance, with the reward of every token."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase, StoppingCriteriaList

from rgtg_hf.arguments import check_count, check_switch, shown
from rgtg_hf.config import RewardGuidanceConfig, resolve_guidance
from rgtg_hf.decoding.logits_processor import RewardGuidedLogitsProcessor
from rgtg_hf.files import write_whole
from rgtg_hf.inspection.page import frame, page
from rgtg_hf.inspection.search_trace import trace_search
from rgtg_hf.inspection.trace import Trace, Tracer
from rgtg_hf.rewards.model_state import input_device
from rgtg_hf.rewards.policy_identity import output_embedding
from rgtg_hf.rewards.prefix_rewards import return_distributions
from rgtg_hf.rewards.source import display_name, source_of
from rgtg_hf.rewards.value_model import is_value_model

__all__ = ["Inspection", "encode_prompt", "inspect", "trace_response", "unguided"]

Prompt = str | Sequence[dict[str, str]]


@dataclass
class Inspection:
    """The result of [`inspect`][rgtg_hf.inspection.inspect.inspect]. A notebook displays it as a page.

    Attributes:
        prompt: The prompt, with messages as `role: content`.
        policy_name: The policy's name, without the path of its folder.
        reward_model_name: The reward model's name, without the path of its folder.
        guidance_config: The settings, all of them set.
        seed: Seed of both responses; `None` for greedy decoding.
        guided: The response with guidance.
        unguided: The response without guidance, from the same candidates.
    """

    prompt: str
    policy_name: str
    reward_model_name: str
    guidance_config: RewardGuidanceConfig
    seed: int | None
    guided: Trace
    unguided: Trace

    def to_html(self) -> str:
        """A complete HTML page that loads nothing."""
        return page(**vars(self))

    def save(self, path: str | Path) -> None:
        """Writes the page to a UTF-8 file. An existing file is replaced."""
        write_whole(path, self.to_html())

    def __repr__(self) -> str:
        config = self.guidance_config
        settings = f"beta={config.beta:g}, top_k={config.top_k}, search={config.search!r}, seed={self.seed}"
        return (
            f"Inspection(prompt={shown(self.prompt)}, policy={self.policy_name!r}, "
            f"reward_model={self.reward_model_name!r}, {settings},\n"
            f"  guided={self.guided!r},\n  unguided={self.unguided!r})"
        )

    def _repr_html_(self) -> str:
        return frame(self.to_html())


def inspect(
    policy: PreTrainedModel,
    tokenizer: Any,
    reward_model: PreTrainedModel,
    prompt: Prompt,
    *,
    beta: float | None = None,
    top_k: int | None = None,
    guidance_config: RewardGuidanceConfig | None = None,
    max_new_tokens: int = 64,
    do_sample: bool = True,
    seed: int = 0,
    chat_template: bool = True,
) -> Inspection:
    """Answers a prompt with and without guidance, and records the reward of every token.

    Both responses are sampled from the same candidates with the same seed, at temperature 1.

    Args:
        policy: The language model.
        tokenizer: The policy's tokenizer.
        reward_model: A prefix reward model with the policy's tokenizer.
        prompt: Text, or messages with `role` and `content`.
        beta: Strength of steering, in nats per unit of reward. Like all settings, it defaults to that of the reward
            model's `guidance_config.json`.
        top_k: Candidates per step, the policy's most likely tokens.
        guidance_config: Settings as an object, those of a search too. Arguments win over it.
        max_new_tokens: Largest number of tokens per response.
        do_sample: Sample; otherwise choose the most likely candidate at each step.
        seed: Seed of sampling. The global random state does not change.
        chat_template: Render the prompt with the tokenizer's chat template, if it has one; a text becomes the user's
            message. Otherwise the text is continued as it is.

    Returns:
        Both responses with their rewards, divergence and candidates. `save("page.html")` writes the page.

    Raises:
        TypeError: If an argument has a wrong type.
        ValueError: If the prompt is empty, the models cannot be used together or a setting is out of range.

    Example:
        ```python
        import rgtg_hf

        def look(policy, tokenizer, reward_model):
            found = rgtg_hf.inspect(policy, tokenizer, reward_model, "Tell me a story.", beta=2.0, max_new_tokens=8)
            found.save("inspect.html")
            return found  # a notebook displays it
        ```
    """
    _check_arguments(policy, tokenizer, reward_model, max_new_tokens, seed)
    for name, switch in (("do_sample", do_sample), ("chat_template", chat_template)):
        check_switch(name, switch)
    settings = {"beta": beta, "top_k": top_k}
    own = getattr(policy, "generation_config", None)
    config: Any = resolve_guidance(settings, guidance_config, source_of(reward_model), own).config
    ids = encode_prompt(tokenizer, prompt, chat_template=chat_template)
    writing: dict[str, Any] = {"do_sample": do_sample, "max_new_tokens": max_new_tokens}
    traces = []
    for one in (config, unguided(config)):
        with _seeded(seed, policy.device):
            traces.append(trace_response(policy, tokenizer, reward_model, ids, one, **writing))
    return Inspection(
        prompt if isinstance(prompt, str) else "\n".join(f"{m['role']}: {m['content']}" for m in prompt),
        display_name(policy.name_or_path or ""),
        display_name(reward_model.name_or_path or ""),
        config,
        seed if do_sample else None,
        *traces,
    )


def unguided(config: RewardGuidanceConfig) -> RewardGuidanceConfig:
    """The settings of the unguided response: nothing is steered, and rewards are computed all the same."""
    return replace(config, beta=0.0, search="tokens")


def trace_response(
    policy: Any,
    tokenizer: Any,
    reward_model: PreTrainedModel,
    input_ids: torch.Tensor,
    guidance_config: RewardGuidanceConfig,
    *,
    do_sample: bool,
    max_new_tokens: int,
    on_step: Callable[[Trace], None] | None = None,
    stopping_criteria: Sequence[Any] = (),
) -> Trace:
    """Generates one response and traces it.

    Args:
        policy: The language model, decoder-only.
        tokenizer: The policy's tokenizer.
        reward_model: The reward model. It computes rewards even if beta is 0.
        input_ids: The prompt, shape `[1, length]`.
        guidance_config: The settings; with a beta of 0 for an unguided response.
        do_sample: Sample at temperature 1; otherwise choose the most likely candidate. A search always samples.
        max_new_tokens: Largest number of tokens.
        on_step: Called with the trace after every token.
        stopping_criteria: Criteria that may end the response early, as in `generate()`.

    Returns:
        The trace.

    Raises:
        ValueError: If the policy is an encoder-decoder, or the models cannot be used together.
    """
    if policy.config.is_encoder_decoder:
        raise ValueError("The policy is an encoder-decoder; only decoder-only policies can be inspected.")
    input_ids = input_ids.to(policy.device)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    common = {"num_beams": 1, "pad_token_id": pad}

    def write(config: RewardGuidanceConfig, more: Sequence[Any], listener: Any, **settings: Any) -> Trace:
        processor = RewardGuidedLogitsProcessor(
            reward_model,
            guidance_config=config,
            attention_mask=torch.ones_like(input_ids),  # one row: nothing is padded
            pad_token_id=pad,
            eos_token_id=policy.generation_config.eos_token_id,
            collect_records=True,
        )
        tracer = Tracer(processor, tokenizer, None if listener is None else lambda: listener(tracer.trace))
        output = policy.generate(
            inputs=input_ids,
            attention_mask=torch.ones_like(input_ids),
            logits_processor=[processor, *more],
            streamer=tracer,
            **common | settings,
        )
        return _with_returns(tracer.trace, reward_model, output) if is_value_model(reward_model) else tracer.trace

    if guidance_config.search == "tokens":
        sampling = _SAMPLED if do_sample else dict.fromkeys(_SAMPLED)
        return write(
            guidance_config,
            [],
            on_step,
            do_sample=do_sample,
            max_new_tokens=max_new_tokens,
            stopping_criteria=StoppingCriteriaList(stopping_criteria),
            **sampling,
        )
    return trace_search(
        policy,
        tokenizer,
        reward_model,
        input_ids,
        guidance_config,
        lambda follow, length: write(
            unguided(guidance_config),
            [follow],
            None,
            do_sample=False,
            max_new_tokens=length,
            **dict.fromkeys(_SAMPLED),
        ),
        on_step=on_step,
        stopping_criteria=stopping_criteria,
        max_new_tokens=max_new_tokens,
        **common | _SAMPLED,
    )


@torch.inference_mode()
def _with_returns(trace: Trace, value_model: Any, ids: torch.Tensor) -> Trace:
    """The trace with the distribution of the return after each token. `ids` are those of prompt and response."""
    returns = return_distributions(value_model, ids.to(input_device(value_model)))[0, -len(trace.steps) :].tolist()
    steps = [replace(step, returns=tuple(own)) for step, own in zip(trace.steps, returns, strict=True)]
    low, high = value_model.config.value_range
    return replace(trace, steps=steps, return_range=(low, high))


# The processor selects the candidates, so the top_k of generate() (50 by default) is switched off.
_SAMPLED = {"temperature": 1.0, "top_p": 1.0, "top_k": 0}


def encode_prompt(tokenizer: Any, prompt: Prompt, *, chat_template: bool = True) -> torch.Tensor:
    """Turns one prompt into ids, shape `[1, length]`.

    Raises:
        TypeError: If the prompt is neither text nor messages.
        ValueError: If the prompt is empty, or is messages and the tokenizer has no chat template.
    """
    if not isinstance(prompt, (str, list, tuple)) or not all(
        isinstance(message, Mapping) and {"role", "content"} <= set(message)
        for message in (() if isinstance(prompt, str) else prompt)
    ):
        raise TypeError("`prompt` is neither text nor a list of messages, each with `role` and `content`.")
    if not prompt or (isinstance(prompt, str) and not prompt.strip()):
        raise ValueError("The prompt is empty: give it some text.")
    if chat_template and tokenizer.chat_template:
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
        return tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_dict=True, return_tensors="pt"
        )["input_ids"]
    if not isinstance(prompt, str):
        raise ValueError("The prompt is a list of messages, but the tokenizer has no chat template: give text.")
    return tokenizer(prompt, return_tensors="pt")["input_ids"]


def _check_arguments(policy: Any, tokenizer: Any, reward_model: Any, max_new_tokens: Any, seed: Any) -> None:
    output_embedding(policy)
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        raise TypeError(f"`tokenizer` is a {type(tokenizer).__name__}, but the policy's loaded tokenizer is required.")
    if not isinstance(reward_model, PreTrainedModel):
        raise TypeError(f"`reward_model` is a {type(reward_model).__name__}, but a loaded model is required.")
    check_count("max_new_tokens", max_new_tokens)
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise TypeError(f"`seed` is {seed!r}, but an integer is required.")
    if not -(2**63) <= seed < 2**64:
        raise ValueError(f"`seed` is an integer of {seed.bit_length()} bits, but at most 64 bits are allowed.")


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
