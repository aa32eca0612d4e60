"""The logits processor that steers `generate()` with a prefix reward model."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from threading import Lock, Thread, current_thread
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers import LogitsProcessor, PreTrainedTokenizerBase

from rgtg_hf.arguments import check_switch
from rgtg_hf.config import ResolvedGuidance, RewardGuidanceConfig, resolve_guidance
from rgtg_hf.decoding.padding import check_mask, check_padding, infer_attention_mask
from rgtg_hf.decoding.records import GuidanceStats, record_step
from rgtg_hf.decoding.reward_prompts import RewardPrompts
from rgtg_hf.decoding.special_tokens import special_tokens
from rgtg_hf.decoding.step import guide_step, raise_if_not_finite
from rgtg_hf.decoding.tracking import GenerationTracker
from rgtg_hf.rewards.model_state import evaluating
from rgtg_hf.rewards.named import load_names
from rgtg_hf.rewards.source import describe_reward_model, source_of
from rgtg_hf.scoring.make import RewardModel, make_scorer
from rgtg_hf.scoring.scorer import PrefixBatch

__all__ = ["RewardGuidedLogitsProcessor"]

logger = logging.getLogger(__name__)

# An output layer may be smaller than the embedding, by tokens that are read and never written. By more than this it is
# another vocabulary.
_UNSCORED_SHARE = 1 / 16


class RewardGuidedLogitsProcessor(LogitsProcessor):
    """Steers `generate()` towards responses that a prefix reward model prefers.

    At each step the policy's `top_k` most likely tokens are scored as continuations of the prefix, and it becomes

        pi(v | x, y_<t)  ∝  pi_LM(v | x, y_<t) · exp(beta · [r(x, y_<t v) - r(x, y_<t)])

    (PARGS, arXiv:2406.07780). Greedy decoding, sampling and beam search work as they are. One object serves any number
    of `generate()` calls, and where a later call begins like an earlier one, it does not read that part again.
    Threads may share one, and then take turns step by step; with one each they do not wait. It can be copied and
    pickled, which leaves behind what it has read and counted.

    The processors of the generation config run before, temperature and other warpers after: a temperature also divides
    `beta`, and a `top_k` of `generate()` below this one cuts the candidates once more.

    Args:
        reward_model: A causal `*ForSequenceClassification` model with `num_labels=1` and the policy's tokenizer,
            trained on prefixes. It may be on another device than the policy, and in training mode, which it is left in
            after a step. Also, through text and more slowly: a causal model with another tokenizer, an encoder, or any
            function `(prompts, responses) -> rewards`; these need `tokenizer`. Or the folder or the hub name of a
            model, which is loaded onto the GPU if there is one; with `tokenizer`, its own is loaded and compared, and
            if it reads other ids, its rewards go through text. Or a list of such, added up by `weights`.
        beta: Strength of steering, in nats per unit of reward. 0 does not steer. Like every setting, it defaults to
            that of the reward model's `guidance_config.json`, and else to that of
            [`RewardGuidanceConfig`][rgtg_hf.config.RewardGuidanceConfig], 1.
        top_k: Candidates per row and step, the policy's most likely; 0 for the whole vocabulary. Defaults to 10.
        attention_mask: The mask that goes to the next `generate()`, shape `[prompts, length]`; see `set_prompts`.
        reward_prompts: Prompts that the reward model reads in place of the policy's; see `set_prompts`.
        pad_token_id: The policy's pad token. Defaults to that of `tokenizer`, or of the reward model's configuration.
        eos_token_id: The policy's end token or tokens. Defaults to those of `tokenizer`, or of the reward model's
            configuration. They are used to leave rows alone that have ended.
        tokenizer: The policy's tokenizer, for rewards through text and for `reward_prompts` that are texts.
        reward_tokenizer: The reward model's tokenizer, where it is not the policy's; a list for several models.
        weights: With a list of reward models, the weight of each; 1 by default, negative ones steer away.
        guidance_config: Settings as an object. Arguments win over it.
        collect_records: Keep a record of every step in `stats.records`.
        use_cuda_graph: Whether the reward model's steps run as a CUDA graph, which a small model on a GPU gains much
            from. It serves the scorers `"siblings"` and `"next_token"`; what cannot be recorded runs as it is, with a
            warning. Off by default. (The mixin and `custom_generate=` switch it on on a GPU where the policy's cache
            is static.)
        settings: The other settings of `RewardGuidanceConfig`: `top_p`, `min_p`, `min_entropy`, `max_increment`,
            `max_step_kl`, `scorer`.

    Attributes:
        config: The resolved settings, a `RewardGuidanceConfig`.
        sources: Where each setting came from: "argument", "guidance_config", the file or "default".
        stats: Counts and records, a [`GuidanceStats`][rgtg_hf.decoding.records.GuidanceStats].

    Raises:
        ValueError: If the reward model cannot work or a setting is out of range. In `generate()`, if the policy's
            vocabulary is not the reward model's, or padding cannot be told.
        FloatingPointError: In `generate()`, if the reward model gives a reward that is not finite, the policy scores
            NaN, or `beta` is so large that its product with rewards is not finite.
        TypeError: If an argument has another type.

    Example:
        ```python
        import torch
        from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification
        from rgtg_hf import RewardGuidedLogitsProcessor

        config = LlamaConfig(vocab_size=32, hidden_size=16, intermediate_size=32, num_hidden_layers=1,
                             num_attention_heads=2, num_labels=1, pad_token_id=0)
        policy, reward_model = LlamaForCausalLM(config), LlamaForSequenceClassification(config)
        processor = RewardGuidedLogitsProcessor(reward_model, beta=1.5, top_k=5)
        policy.generate(torch.tensor([[5, 6, 7]]), logits_processor=[processor], max_new_tokens=4)
        ```
    """

    supports_continuous_batching = False  # it would see neither prompts nor rows

    def __init__(
        self,
        reward_model: RewardModel | str | Path | Sequence[RewardModel | str | Path],
        beta: float | None = None,
        top_k: int | None = None,
        *,
        attention_mask: Tensor | None = None,
        reward_prompts: Any = None,
        pad_token_id: int | None = None,
        eos_token_id: int | list[int] | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        reward_tokenizer: PreTrainedTokenizerBase | Sequence[PreTrainedTokenizerBase | None] | None = None,
        weights: Sequence[float] | None = None,
        guidance_config: RewardGuidanceConfig | ResolvedGuidance | None = None,
        collect_records: bool = False,
        use_cuda_graph: bool = False,
        **settings: Any,
    ):
        check_switch("collect_records", collect_records)
        check_switch("use_cuda_graph", use_cuda_graph)
        settings |= {"beta": beta, "top_k": top_k}
        reward_model, tokenizer, reward_tokenizer = load_names(reward_model, tokenizer, reward_tokenizer)
        guidance = resolve_guidance(settings, guidance_config, source_of(reward_model))
        self.config, self.sources = guidance
        if self.config.search != "tokens" and self.sources["search"] in ("argument", "guidance_config"):
            raise ValueError(
                f"`search` is {self.config.search!r}, which a logits processor cannot do: it selects among rows. "
                "Use generate(..., custom_generate=reward_guided_generate, reward_model=...) or the mixin."
            )
        self.tokenizer = tokenizer
        self._tokens = special_tokens(tokenizer, reward_model, pad_token_id, eos_token_id)
        self.scorer = make_scorer(
            reward_model,  # type: ignore[arg-type]
            self.config.scorer,  # type: ignore[arg-type]
            tokenizer=tokenizer,
            reward_tokenizer=reward_tokenizer,
            weights=weights,
            eos_token_ids=self._tokens.eos,
            use_cuda_graph=use_cuda_graph,
            value_beta=self.config.soft_value_beta,
        )
        self._vocabularies_known_equal = tokenizer is not None and reward_tokenizer is not None
        self._lock = Lock()
        self._collect_records = collect_records
        self._arguments: dict[str, Any] = {
            "reward_model": reward_model,
            "guidance_config": guidance,
            "pad_token_id": pad_token_id,
            "eos_token_id": eos_token_id,
            "tokenizer": tokenizer,
            "reward_tokenizer": reward_tokenizer,
            "weights": weights,
            "collect_records": collect_records,
            "use_cuda_graph": use_cuda_graph,
        }
        self.set_prompts(attention_mask, reward_prompts)
        self.reset()

    def __repr__(self) -> str:
        strength = f"beta={self.config.beta:g}, top_k={self.config.top_k}"
        return f"{type(self).__name__}({describe_reward_model(self._arguments['reward_model'])}, {strength})"

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy is a new processor of the same models and settings, told of the same prompts. It has read nothing."""
        prompts = None if self._reward_prompts is None else vars(self._reward_prompts)
        told = {"attention_mask": self._prompt_mask, "reward_prompts": prompts}
        return _made_again, (type(self), self._arguments | told)

    def set_prompts(self, attention_mask: Tensor | None = None, reward_prompts: Any = None) -> None:
        """Says of the next `generate()` what a processor cannot see. It ends with that generation.

        A later generation with the same prompts uses it again; one with other prompts does not. (The prompts of an
        encoder-decoder policy are all alike to a processor: call this before each `generate()`, or use the mixin.)

        Args:
            attention_mask: The mask that goes to `generate()`, shape `[prompts, length]`. Needed only where padding
                on the left cannot be told from the ids: where the pad token is also the bos token.
            reward_prompts: Prompts that the reward model reads in place of the policy's, one per prompt: another chat
                template's, or the source text of an encoder-decoder policy. Texts, lists of ids, a tensor, or a
                tokenizer's output; see [`RewardPrompts`][rgtg_hf.decoding.reward_prompts.RewardPrompts].

        Raises:
            ValueError: If one of them cannot be used.
            TypeError: If one of them has another type.
        """
        if attention_mask is not None:
            check_mask(attention_mask)
        if reward_prompts is not None:
            special = [self._tokens.bos, *self._tokens.eos]
            size = self.scorer.vocabulary_size
            reward_prompts = RewardPrompts(reward_prompts, self.tokenizer, self._tokens.pad, special, size)
        self._prompt_mask: Tensor | None = attention_mask
        self._reward_prompts: RewardPrompts | None = reward_prompts
        self._told_of: Tensor | None = None  # the prompts that they belong to, once these are seen

    def reset(self) -> None:
        """Forgets everything that was read and counted, which frees the reward model's cache.

        No call is needed between generations: a new one shows in the ids. (Except where a single prompt continues
        the response to another. It might be the same generation, so it is taken for that. This matters only to
        rewards that tell prompt from response: those through text and with `reward_prompts`.)
        """
        self._generations: WeakKeyDictionary[Thread, GenerationTracker] = WeakKeyDictionary()
        self.scorer.reset()
        self._padding_is_checked = False
        self.stats = GuidanceStats()
        self._tokens_before = self.scorer.tokens_computed

    @torch.no_grad()
    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # type: ignore[override]
        """Guides one step.

        Args:
            input_ids: Prompts and the tokens generated so far, shape `[rows, length]`.
            scores: The policy's scores of the next token, shape `[rows, vocabulary]`. Not changed.

        Returns:
            The guided scores, `-inf` for all but the candidates, shape `[rows, vocabulary]`.
        """
        with self._lock:
            return self._guide(input_ids, scores)

    def _guide(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self._check_step(input_ids, scores)
        generation = self._generations.get(current_thread())
        if generation is None:
            generation = GenerationTracker(self._tokens.eos, self._tokens.pad)
            self._generations[current_thread()] = generation
        flags = generation.flags(input_ids)

        def look(others: Tensor) -> list[int]:
            *values, continues, share_prompts = torch.cat([others, flags]).tolist()
            if generation.settle(input_ids, bool(continues), bool(share_prompts)):
                self._forget_what_was_told_of_others(input_ids)
                self._padding_is_checked = False
            return values

        def score(candidate_ids: Tensor, wanted: Tensor) -> Tensor:
            prefixes = self._prefixes(input_ids, generation.prompt_length)
            with evaluating(self._arguments["reward_model"]):
                return self.scorer.score(prefixes, candidate_ids, wanted)

        step = guide_step(
            scores,
            self.config,
            score,
            vocabulary_size=self.scorer.vocabulary_size,
            going_on=generation.going_on(input_ids, flags[0]),
            compare_paths=torch.where(flags[0], generation.may_be_beams, flags[1]),
            look=look,
        )
        raise_if_not_finite(step, self.config.beta, input_ids.shape[1])
        # A step that is not read is read in one pass with the next one that is.
        self.stats.steps += 1
        self.stats.steps_skipped += step.increments is None
        self.stats.reward_model_tokens = self.scorer.tokens_computed - self._tokens_before
        if self._collect_records:
            self.stats.records.append(record_step(input_ids.shape[1], step, generation.past_end()))
        return step.scores

    def _prefixes(self, input_ids: Tensor, prompt_length: int) -> PrefixBatch:
        if self._reward_prompts is not None:
            return self._reward_prompts.replace(PrefixBatch(input_ids, torch.ones_like(input_ids), prompt_length))
        if self._prompt_mask is not None:
            self._prompt_mask = self._prompt_mask.to(input_ids.device)
        elif not self._padding_is_checked:
            check_padding(input_ids, self._tokens.pad, self._tokens.bos)
            self._padding_is_checked = True
        mask = infer_attention_mask(input_ids, self._prompt_mask, self._tokens.pad, self._tokens.bos)
        return PrefixBatch(input_ids, mask, prompt_length)

    def _forget_what_was_told_of_others(self, input_ids: Tensor) -> None:
        """A generation begins: `set_prompts` spoke of it only if no other has begun since, or of the same prompts."""
        told = self._prompt_mask if self._prompt_mask is not None else self._reward_prompts
        if told is None:
            return
        copies = len(input_ids) // len(told) if len(input_ids) % len(told) == 0 else 1
        prompts = input_ids[:: max(1, copies)]  # beams and return sequences of a prompt stand together
        if self._told_of is None:
            self._told_of = prompts
        elif not torch.equal(self._told_of, prompts):
            if self._reward_prompts is not None:
                logger.warning(
                    "`reward_prompts` were given for other prompts, so the reward model now reads the policy's own. "
                    "Call set_prompts(reward_prompts=...) before generate() to give those of this call."
                )
            self.set_prompts()

    def _check_step(self, input_ids: Tensor, scores: Tensor) -> None:
        if len(input_ids) != len(scores):
            raise ValueError(
                f"`input_ids` has {len(input_ids)} rows and `scores` has {len(scores)}, but a row of scores is "
                "required for each prefix."
            )
        if input_ids.shape[1] == 0:
            raise ValueError(
                "generate() was called with `inputs_embeds` alone, which hides the prompt from the reward model: pass "
                "`input_ids` as well."
            )
        size = self.scorer.vocabulary_size
        if size is None or scores.shape[-1] == size or self._vocabularies_known_equal:
            return
        if 0 < size - scores.shape[-1] <= size * _UNSCORED_SHARE:
            _warn_of_unscored_tokens(scores.shape[-1], size)
        else:
            raise ValueError(
                f"The policy scores {scores.shape[-1]} tokens, but the reward model's embedding has {size}: their "
                "vocabularies differ (`scores` holds one per token), or one of them is padded. Pass both tokenizers, "
                "`tokenizer=` (the policy's) and `reward_tokenizer=`: equal ones are used as they are, different ones "
                "go through text."
            )


@lru_cache(maxsize=64)
def _warn_of_unscored_tokens(scored: int, size: int) -> None:
    logger.warning(
        "The policy scores %d tokens, and the reward model's embedding has %d. They are taken for one vocabulary, of "
        "which the policy never writes some tokens. Pass both tokenizers to have that checked.",
        scored,
        size,
    )


def _made_again(kind: type[RewardGuidedLogitsProcessor], arguments: dict[str, Any]) -> RewardGuidedLogitsProcessor:
    return kind(**arguments)
