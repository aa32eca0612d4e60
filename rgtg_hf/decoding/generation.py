"""The other two ways into `generate()`: a mixin for model classes, and a callable for `custom_generate=`.

Both make a processor for the call and find out what a user of the processor has to say: the padding, the source text
of an encoder-decoder policy, and whether the reward models are steering heads, which need no pass of their own.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessorList, PreTrainedModel, StaticCache
from transformers.generation import GenerationMode

from rgtg_hf.arguments import check_switch
from rgtg_hf.compat import cache_in
from rgtg_hf.config import OF_CALLS, RewardGuidanceConfig, resolve_guidance
from rgtg_hf.decoding.processor_choice import guidance_processor
from rgtg_hf.decoding.processor_order import insert_guidance
from rgtg_hf.decoding.search_call import search_with
from rgtg_hf.private_names import BEAM_LOOP, SAMPLING_LOOP
from rgtg_hf.rewards.named import load_for_policy
from rgtg_hf.rewards.source import source_of

__all__ = ["RewardGuidedGenerationMixin", "generate_guided", "reward_guided_generate"]

logger = logging.getLogger(__name__)

_GUIDANCE_ARGUMENTS = (
    *OF_CALLS,
    "guidance_config",
    "weights",
    "reward_prompts",
    "reward_tokenizer",
    "use_cuda_graph",
)
_LOOPS = {
    GenerationMode.GREEDY_SEARCH: SAMPLING_LOOP,
    GenerationMode.SAMPLE: SAMPLING_LOOP,
    GenerationMode.BEAM_SEARCH: BEAM_LOOP,
    GenerationMode.BEAM_SAMPLE: BEAM_LOOP,
}
_NO_SOURCE = (
    "An encoder-decoder policy's source text is not among what {door} sees: pass it as `reward_prompts=` too, for the "
    "reward model to read."
)
_KEPT_FROM_CALLABLES = (
    "generate() keeps its own `tokenizer=` from a callable, so give it to the callable: "
    "custom_generate=functools.partial(reward_guided_generate, tokenizer=tokenizer)."
)


class RewardGuidedGenerationMixin:
    """Gives a model class a `generate()` that takes a reward model.

    Put it before the model class. Without `reward_model`, `generate()` is the ordinary one. With it (a model, its
    folder or hub name, or a list of such), these arguments are understood besides all others: the settings of
    [`RewardGuidanceConfig`][rgtg_hf.config.RewardGuidanceConfig] but for `top_p` and `min_p`, which belong to sampling
    (`top_k` means the candidates; the `top_k` of sampling then keeps its default); `guidance_config`, `weights`,
    `reward_prompts` and `reward_tokenizer`, see
    [`RewardGuidedLogitsProcessor`][rgtg_hf.decoding.logits_processor.RewardGuidedLogitsProcessor]; and
    `use_cuda_graph`, by default on a GPU where the policy's cache is static. `tokenizer`, the policy's, is also that
    of the ordinary `generate()`. A setting may also stand in the `GenerationConfig`, but for `top_k`, which is that of
    sampling there.

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
        return generate_guided(
            super().generate,  # type: ignore[misc]
            self,
            reward_model,
            inputs,
            generation_config,
            logits_processor,
            *args,
            **kwargs,
        )

    def generate_batch(self, *args: Any, **kwargs: Any) -> Any:
        """As in transformers; refused with a `reward_model`, since continuous batching takes no logits processors."""
        if "reward_model" in kwargs:
            raise ValueError("generate_batch() cannot be steered: continuous batching drops it. Use generate().")
        return super().generate_batch(*args, **kwargs)  # type: ignore[misc]


def generate_guided(
    generate: Callable[..., Any],
    policy: Any,
    reward_model: Any,
    inputs: Tensor | None,
    generation_config: GenerationConfig | None,
    logits_processor: LogitsProcessorList | None,
    *args: Any,
    **kwargs: Any,
) -> Any:
    """Calls an ordinary `generate()` so that it is guided.

    Args:
        generate: The method to call.
        policy: Its model.
        reward_model: The reward model.
        inputs: As given to `generate()`, as all that follow.
        generation_config: Settings of generation.
        logits_processor: The user's own processors.
        kwargs: All other arguments, and those of guidance.

    Raises:
        ValueError: If the mode cannot be steered, or a setting of guidance is wrong.
    """
    if kwargs.get("cache_implementation") == "paged":
        raise ValueError(
            'cache_implementation="paged" means continuous batching, which drops logits processors silently, so '
            "nothing would be steered: leave it out."
        )
    given = {name: kwargs.pop(name) for name in _GUIDANCE_ARGUMENTS if name in kwargs}
    config: Any = generation_config or policy.generation_config
    reward_model, tokenizer, reward_tokenizer = load_for_policy(
        policy, reward_model, kwargs.get("tokenizer"), given.pop("reward_tokenizer", None)
    )
    settings = {name: given.pop(name) for name in OF_CALLS if name in given}
    guidance = resolve_guidance(settings, given.get("guidance_config"), source_of(reward_model), config)
    graph = _uses_cuda_graph(policy, given.pop("use_cuda_graph", None), guidance.config, config, kwargs)
    given |= {"guidance_config": guidance, "reward_tokenizer": reward_tokenizer}
    if guidance.config.search != "tokens":
        kept = {"tokenizer": tokenizer, "streamer": kwargs.pop("streamer", None)}
        kwargs["custom_generate"] = partial(reward_guided_generate, **kept)
        return generate(
            inputs, generation_config, logits_processor, *args, reward_model=reward_model, **given, **kwargs
        )
    mask = kwargs.get("attention_mask")
    if policy.config.is_encoder_decoder:
        source = kwargs.get("input_ids", inputs)
        if given.get("reward_prompts") is None:
            if source is None:
                raise ValueError(_NO_SOURCE.format(door="this call"))
            source_mask = torch.ones_like(source) if mask is None else mask
            given["reward_prompts"] = {"input_ids": source, "attention_mask": source_mask}
        mask = None
    drafters = ("prompt_lookup_num_tokens", "assistant_early_exit")
    with guidance_processor(
        policy,
        reward_model,
        drafted="assistant_model" in kwargs or any(kwargs.get(name, getattr(config, name)) for name in drafters),
        attention_mask=mask,
        pad_token_id=kwargs.get("pad_token_id", config.pad_token_id),
        eos_token_id=kwargs.get("eos_token_id", config.eos_token_id),
        tokenizer=tokenizer,
        use_cuda_graph=graph,
        **given,
    ) as processor:
        processors = LogitsProcessorList([*(logits_processor or []), processor])
        return generate(inputs, generation_config, processors, *args, **kwargs)


def _uses_cuda_graph(
    policy: Any,
    given: bool | None,
    guidance: RewardGuidanceConfig,
    config: GenerationConfig,
    arguments: dict[str, Any],
) -> bool:
    """Whether steps of the reward model run as a CUDA graph: as asked for, else on a GPU with a static cache."""
    if given is not None:
        check_switch("use_cuda_graph", given)
        if given and guidance.search != "tokens":
            logger.warning("A search reads the reward model once per block, without a CUDA graph.")
        return given
    name = str(arguments.get("cache_implementation", config.cache_implementation))
    is_static = isinstance(cache_in(arguments), StaticCache) or "static" in name or "hybrid" in name
    return is_static and policy.device.type == "cuda"


def _with_settings(function: Callable[..., Any]) -> Callable[..., Any]:
    """Names the settings in a function's signature, by which `generate()` finds what to hand to a callable."""
    signature = inspect.signature(function)
    named = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None) for name in OF_CALLS]
    *others, rest = signature.parameters.values()
    function.__signature__ = signature.replace(parameters=[*others, *named, rest])  # type: ignore[attr-defined]
    return function


@_with_settings
def reward_guided_generate(
    model: PreTrainedModel,
    input_ids: Tensor,
    logits_processor: LogitsProcessorList,
    stopping_criteria: Any,
    generation_config: GenerationConfig,
    *,
    reward_model: Any = None,
    guidance_config: Any = None,
    weights: Any = None,
    reward_prompts: Any = None,
    tokenizer: Any = None,
    reward_tokenizer: Any = None,
    streamer: Any = None,
    use_cuda_graph: bool | None = None,
    **arguments: Any,
) -> Any:
    """Decodes with a reward model: `policy.generate(..., custom_generate=reward_guided_generate, reward_model=rm)`.

    Called by `generate()` in place of its own decoding loop, with everything prepared. It adds the reward model to the
    logits processors, before temperature and the other warpers, and hands over to the loop of the mode at hand.

    `generate()` keeps its own `tokenizer=` and `streamer=` from a callable. Give them to this function instead:
    `custom_generate=functools.partial(reward_guided_generate, tokenizer=tokenizer, streamer=streamer)`.

    Args:
        model: The policy. As the four that follow, given by `generate()`.
        input_ids: Prompts, one row per beam, shape `[rows, length]`.
        logits_processor: The processors of this call.
        stopping_criteria: The criteria that end a generation.
        generation_config: The settings of generation, complete.
        reward_model: The reward model, or its folder or hub name, or a list of such.
        guidance_config: Settings of guidance as an object, `top_p` and `min_p` among them. Arguments win over it.
        weights: With a list of reward models, the weight of each.
        reward_prompts: The reward model's own prompts.
        tokenizer: The policy's tokenizer, for rewards through text and for `reward_prompts` that are texts.
        reward_tokenizer: The reward model's tokenizer, where it is not the policy's.
        streamer: A streamer.
        use_cuda_graph: Whether the reward model's steps run as a CUDA graph; by default on a GPU where the policy's
            cache is static.
        arguments: The settings of `RewardGuidanceConfig` but for `top_p` and `min_p`; and what `generate()` gives:
            cache, attention mask and so on.

    Returns:
        The output of `generate()`. For a search with `return_dict_in_generate=True`, a
        [`SearchOutput`][rgtg_hf.decoding.search_output.SearchOutput].

    Raises:
        ValueError: If there is no reward model, or the mode is assisted decoding, whose assistant `generate()` does
            not hand over.
        TypeError: If an argument has another type.
    """
    if reward_model is None:
        raise ValueError("custom_generate=reward_guided_generate steers with a reward model: pass `reward_model=`.")
    mode = generation_config.get_generation_mode()
    loop = _LOOPS.get(mode)
    if loop is None:
        raise ValueError(
            f"custom_generate=reward_guided_generate cannot run {GenerationMode(mode).value.replace('_', ' ')}: "
            "generate() does not hand over what that needs. Use logits_processor=[RewardGuidedLogitsProcessor(...)] "
            "instead."
        )
    settings = {name: arguments.pop(name) for name in OF_CALLS if name in arguments}
    if model.config.is_encoder_decoder:
        if reward_prompts is None:
            raise ValueError(_NO_SOURCE.format(door="custom_generate="))
        mask = None
    else:
        # Without a mask here, generate() found that nothing is padded.
        mask = arguments.get("attention_mask")
        mask = torch.ones_like(input_ids) if mask is None else mask
    if streamer is not None and not (hasattr(streamer, "put") and hasattr(streamer, "end")):
        raise TypeError(
            f"`streamer` is a {type(streamer).__name__}, but a streamer is required, with `put` and `end`."
        )
    reward_model, tokenizer, reward_tokenizer = load_for_policy(model, reward_model, tokenizer, reward_tokenizer)
    guidance = resolve_guidance(settings, guidance_config, source_of(reward_model), generation_config)
    graph = _uses_cuda_graph(model, use_cuda_graph, guidance.config, generation_config, arguments)
    if guidance.config.search != "tokens":
        return search_with(
            model,
            input_ids,
            reward_model,
            guidance.config,
            logits_processor=logits_processor,
            stopping_criteria=stopping_criteria,
            generation_config=generation_config,
            weights=weights,
            reward_prompts=reward_prompts,
            tokenizer=tokenizer,
            reward_tokenizer=reward_tokenizer,
            streamer=streamer,
            **arguments,
        )
    with ExitStack() as stack:
        chosen = guidance_processor(
            model,
            reward_model,
            attention_mask=mask,
            reward_prompts=reward_prompts,
            weights=weights,
            guidance_config=guidance,
            pad_token_id=generation_config.pad_token_id,
            eos_token_id=generation_config.eos_token_id,
            tokenizer=tokenizer,
            reward_tokenizer=reward_tokenizer,
            use_cuda_graph=graph,
        )
        try:
            processor = stack.enter_context(chosen)
        except ValueError as error:
            if tokenizer is None and "`tokenizer=" in str(error):
                raise ValueError(f"{error} {_KEPT_FROM_CALLABLES}") from None
            raise
        if streamer is not None:
            arguments["streamer"] = streamer
            streamer.put(input_ids.cpu())
        return getattr(type(model), loop)(
            model,
            input_ids,
            logits_processor=insert_guidance(logits_processor, processor),
            stopping_criteria=stopping_criteria,
            generation_config=generation_config,
            **arguments,
        )
