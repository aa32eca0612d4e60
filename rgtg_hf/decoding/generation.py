"""The other two ways into `generate()`: a mixin for model classes, and a callable for `custom_generate=`.

Both make a processor for the call and find out by themselves what a user would have to tell it: the padding, the
source text of an encoder-decoder policy, and whether the reward models are steering heads, which need no pass of their
own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessorList, PreTrainedModel
from transformers.generation import GenerationMode
from transformers.generation import logits_process as processors

from rgtg_hf.decoding.guidance import RewardGuidanceConfig
from rgtg_hf.decoding.processor_choice import guidance_processor

__all__ = ["RewardGuidedGenerationMixin", "reward_guided_generate"]

# What a call of generate() may say of guidance, and hands on to the processor.
_GUIDANCE_ARGUMENTS = (
    "beta",
    "top_k",
    "weights",
    "reward_prompts",
    "policy_tokenizer",
    "reward_tokenizer",
    "guidance_config",
)
_WARPERS = tuple(
    getattr(processors, name)
    for name in dir(processors)
    if name.endswith("LogitsWarper") and isinstance(getattr(processors, name), type)
)


class RewardGuidedGenerationMixin:
    """Gives a model class a `generate()` that takes a reward model.

    Put it before the model class. Without `reward_model`, `generate()` is the ordinary one. With it, these arguments
    are understood besides all ordinary ones: `reward_model`, `beta`, `top_k` (the candidates; the ordinary `top_k` of
    sampling then keeps its default), `weights`, `reward_prompts`, `policy_tokenizer`, `reward_tokenizer` and
    `guidance_config`; see
    [`RewardGuidedLogitsProcessor`][rgtg_hf.decoding.logits_processor.RewardGuidedLogitsProcessor].

    Example:
        ```python
        import torch
        from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification
        from rgtg_hf import RewardGuidedGenerationMixin

        class GuidedLlama(RewardGuidedGenerationMixin, LlamaForCausalLM):
            pass

        config = LlamaConfig(vocab_size=32, hidden_size=16, intermediate_size=32, num_hidden_layers=1,
                             num_attention_heads=2, num_labels=1, pad_token_id=0)
        policy, reward_model = GuidedLlama(config), LlamaForSequenceClassification(config)
        policy.generate(torch.tensor([[5, 6, 7]]), reward_model=reward_model, beta=1.5, max_new_tokens=4)
        ```
    """

    def generate(
        self,
        inputs: Tensor | None = None,
        generation_config: GenerationConfig | None = None,
        logits_processor: LogitsProcessorList | None = None,
        *args: Any,
        reward_model: Any = None,
        **kwargs: Any,
    ) -> Any:
        """As `GenerationMixin.generate`, steered where a `reward_model` is given.

        Raises:
            ValueError: If an argument of guidance comes without a reward model, or a mode cannot be steered.
        """
        if reward_model is None:
            if given := sorted((set(_GUIDANCE_ARGUMENTS) - {"top_k"}) & set(kwargs)):
                raise ValueError(f"{given} steer nothing without a reward model: pass `reward_model=` as well.")
            return super().generate(inputs, generation_config, logits_processor, *args, **kwargs)  # type: ignore[misc]
        with guidance(self, reward_model, inputs, generation_config, logits_processor, kwargs) as steered:
            return super().generate(inputs, generation_config, steered, *args, **kwargs)  # type: ignore[misc]

    def generate_batch(self, *args: Any, **kwargs: Any) -> Any:
        """As in transformers; refused with a `reward_model`, since continuous batching takes no logits processors."""
        if "reward_model" in kwargs:
            raise ValueError("generate_batch() cannot be steered: continuous batching drops it. Use generate().")
        return super().generate_batch(*args, **kwargs)  # type: ignore[misc]


@contextmanager
def guidance(
    policy: Any,
    reward_model: Any,
    inputs: Tensor | None,
    generation_config: GenerationConfig | None,
    logits_processor: LogitsProcessorList | None,
    kwargs: dict[str, Any],
) -> Iterator[LogitsProcessorList]:
    """Makes the processors for a call of `generate()` that is steered, for the length of a block.

    Args:
        policy: The model whose `generate()` is called.
        reward_model: The reward model.
        inputs: As given to `generate()`, as the next two.
        generation_config: Settings of generation.
        logits_processor: The user's own processors.
        kwargs: What else `generate()` was given. The arguments of guidance are taken out of it.

    Yields:
        The user's processors and after them the one that steers.

    Raises:
        ValueError: If the mode cannot be steered, or a setting of guidance is wrong.
    """
    if kwargs.get("cache_implementation") == "paged":
        raise ValueError(
            'cache_implementation="paged" means continuous batching, which drops logits processors silently, so '
            "nothing would be steered: leave it out."
        )
    settings = {name: kwargs.pop(name) for name in _GUIDANCE_ARGUMENTS if name in kwargs}
    config: Any = generation_config or policy.generation_config
    mask = kwargs.get("attention_mask")
    if policy.config.is_encoder_decoder:
        source = kwargs.get("input_ids", inputs)
        if source is not None:
            source = {"input_ids": source, "attention_mask": torch.ones_like(source) if mask is None else mask}
        settings.setdefault("reward_prompts", source)
        mask = None
    if "tokenizer" in kwargs:  # generate() has one for its stop strings, and it is the policy's
        settings.setdefault("policy_tokenizer", kwargs["tokenizer"])
    drafters = ("prompt_lookup_num_tokens", "assistant_early_exit")
    with guidance_processor(
        policy,
        reward_model,
        kwargs.get("pad_token_id", config.pad_token_id),
        kwargs.get("eos_token_id", config.eos_token_id),
        mask,
        drafted="assistant_model" in kwargs or any(kwargs.get(name, getattr(config, name)) for name in drafters),
        **settings,
    ) as processor:
        yield LogitsProcessorList([*(logits_processor or []), processor])


def reward_guided_generate(
    model: PreTrainedModel,
    input_ids: Tensor,
    logits_processor: LogitsProcessorList,
    stopping_criteria: Any,
    generation_config: GenerationConfig,
    reward_model: Any = None,
    beta: float | None = None,
    top_k: int | None = -1,
    reward_prompts: Any = None,
    guidance_config: RewardGuidanceConfig | None = None,
    policy_tokenizer: Any = None,
    reward_tokenizer: Any = None,
    weights: Sequence[float] | None = None,
    guided_streamer: Any = None,
    **model_kwargs: Any,
) -> Any:
    """Decodes with a reward model: `policy.generate(..., custom_generate=reward_guided_generate, reward_model=rm)`.

    Called by `generate()` in place of its own decoding loop, with everything prepared. It adds the reward model to the
    logits processors, before temperature and the other warpers, and hands over to the loop of the mode at hand.

    Args:
        model: The policy. As the four that follow, given by `generate()`.
        input_ids: Prompts, one row per beam, shape `[rows, length]`.
        logits_processor: What is applied to the scores.
        stopping_criteria: What ends a generation.
        generation_config: The settings, complete.
        reward_model: The reward model.
        beta: Strength of steering. Defaults to that of `guidance_config`, or else 1.
        top_k: Number of candidates, `None` for the whole vocabulary. Defaults to that of `guidance_config`, or 10.
        reward_prompts: The reward model's own prompts.
        guidance_config: More settings.
        policy_tokenizer: The policy's tokenizer, for rewards through text and `reward_prompts` that are texts.
        reward_tokenizer: The reward model's tokenizer, where it is not the policy's.
        weights: With a list of reward models, the weight of each.
        guided_streamer: A streamer. `generate()` does not hand its own `streamer=` to a callable.
        model_kwargs: Given by `generate()`: cache, attention mask and so on.

    Returns:
        What `generate()` returns.

    Raises:
        ValueError: If there is no reward model, or the mode is assisted decoding, whose assistant `generate()` does
            not hand over.
    """
    if reward_model is None:
        raise ValueError("custom_generate=reward_guided_generate steers with a reward model: pass `reward_model=`.")
    mode = generation_config.get_generation_mode()
    # The loops that a callable for `custom_generate` stands in for, and whose signature it has.
    loops = {
        GenerationMode.GREEDY_SEARCH: "_sample",
        GenerationMode.SAMPLE: "_sample",
        GenerationMode.BEAM_SEARCH: "_beam_search",
        GenerationMode.BEAM_SAMPLE: "_beam_search",
    }
    if mode not in loops:
        raise ValueError(
            f"custom_generate=reward_guided_generate cannot run {mode.value.replace('_', ' ')}: generate() does not "
            "hand over what that needs. Use logits_processor=[RewardGuidedLogitsProcessor(...)] instead."
        )
    if model.config.is_encoder_decoder:
        if reward_prompts is None:
            raise ValueError(
                "An encoder-decoder policy's source text is not handed to custom_generate=: pass it as "
                "`reward_prompts=` too, for the reward model to read."
            )
        mask = None
    else:
        # Without a mask here, generate() found that nothing is padded.
        mask = model_kwargs.get("attention_mask")
        mask = torch.ones_like(input_ids) if mask is None else mask
    if guided_streamer is not None and not (hasattr(guided_streamer, "put") and hasattr(guided_streamer, "end")):
        raise TypeError(
            f"`guided_streamer` is a {type(guided_streamer).__name__}, but a streamer is required, with `put` and "
            "`end`."
        )
    settings: dict[str, Any] = {} if beta is None else {"beta": beta}
    settings |= {} if top_k == -1 else {"top_k": top_k}
    with guidance_processor(
        model,
        reward_model,
        generation_config.pad_token_id,
        generation_config.eos_token_id,
        mask,
        reward_prompts=reward_prompts,
        guidance_config=guidance_config,
        policy_tokenizer=policy_tokenizer,
        reward_tokenizer=reward_tokenizer,
        weights=weights,
        **settings,
    ) as processor:
        warper = (i for i, other in enumerate(logits_processor) if isinstance(other, _WARPERS))
        place = next(warper, len(logits_processor))
        steered = LogitsProcessorList([*logits_processor[:place], processor, *logits_processor[place:]])
        if guided_streamer is not None:
            model_kwargs["streamer"] = guided_streamer
            guided_streamer.put(input_ids.cpu())
        return getattr(type(model), loops[mode])(
            model,
            input_ids,
            logits_processor=steered,
            stopping_criteria=stopping_criteria,
            generation_config=generation_config,
            **model_kwargs,
        )
