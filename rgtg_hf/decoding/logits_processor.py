"""The logits processor that steers `generate()` with a prefix reward model."""

from __future__ import annotations

from collections.abc import Sequence
from threading import Lock, Thread, current_thread
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers import LogitsProcessor, PreTrainedConfig, PreTrainedTokenizerBase

from rgtg_hf.arguments import check_switch
from rgtg_hf.decoding.guidance import Candidates, RewardGuidanceConfig, guide, keep_candidates, select_candidates
from rgtg_hf.decoding.padding import check_mask, infer_attention_mask
from rgtg_hf.decoding.prompts import RewardPrompts
from rgtg_hf.decoding.records import GuidanceStats, record_step
from rgtg_hf.decoding.tracking import GenerationTracker
from rgtg_hf.scoring.make import RewardModel, make_scorer
from rgtg_hf.scoring.scorer import CandidateRewards, PrefixBatch

__all__ = ["RewardGuidedLogitsProcessor"]


class RewardGuidedLogitsProcessor(LogitsProcessor):
    """Steers `generate()` towards responses that a prefix reward model prefers.

    At each step the policy's `top_k` likeliest tokens are scored as continuations of the prefix, and it becomes

        pi(v | x, y_<t)  ∝  pi_LM(v | x, y_<t) · exp(beta · [r(x, y_<t v) - r(x, y_<t)])

    (PARGS, arXiv:2406.07780). Greedy decoding, sampling and beam search work as they are. One object serves any number
    of `generate()` calls; what it has read of a prompt is used again where a later call begins alike. Threads may
    share one, and then take turns step by step; with one each they do not wait, and keep what they have read.

    The processors of the generation config run before, temperature and other warpers after: a temperature also divides
    `beta`, and a `top_k` of `generate()` below the own one cuts the candidates once more.

    Args:
        reward_model: A causal `*ForSequenceClassification` model with `num_labels=1` and the policy's tokenizer,
            trained on prefixes. It may be on another device than the policy. It is put into evaluation mode. Also,
            through text and more slowly: a causal model with another tokenizer, an encoder, or any function
            `(prompts, responses) -> rewards`; these need `tokenizer`. Or a list of such, added up by `weights`.
        beta: Strength of steering, in nats per unit of reward. 0 does not steer.
        top_k: Candidates per row and step, the policy's likeliest; `None` for the whole vocabulary.
        attention_mask: The mask that goes to `generate()`, shape `[prompts, length]`. Needed only where padding on
            the left cannot be told from the ids: where the pad token is also the bos token.
        pad_token_id: The policy's pad token. Defaults to that of the reward model's configuration.
        eos_token_id: The policy's end token or tokens. Defaults to those of the reward model's configuration. Used
            only to leave rows that have ended in peace.
        reward_prompts: Prompts that the reward model reads in place of the policy's, one per prompt of the next
            `generate()`: another chat template's, or the source text of an encoder-decoder policy. Texts, lists of
            ids, a tensor, or a tokenizer's output; see [`RewardPrompts`][rgtg_hf.decoding.prompts.RewardPrompts].
        tokenizer: The policy's tokenizer, for rewards through text and for `reward_prompts` that are texts. Where it
            is given, its pad, bos and eos tokens are the defaults.
        reward_tokenizer: The reward model's tokenizer, where it is not the policy's; a list for several models.
        weights: With a list of reward models, the weight of each; 1 by default, negative ones steer away.
        guidance_config: All settings at once, in place of `beta` and `top_k`; more settings are there.
        collect_records: Keep a record of every step in `stats.records`.

    Attributes:
        config: The settings, a `RewardGuidanceConfig`.
        stats: What was done so far, a [`GuidanceStats`][rgtg_hf.decoding.records.GuidanceStats].

    Raises:
        ValueError: If the reward model cannot work or a setting is out of range. In `generate()`, if the policy's
            vocabulary is not the reward model's, or padding cannot be told.
        FloatingPointError: In `generate()`, if the reward model gives a reward that is not finite, the policy scores
            NaN, or `beta` is so large that its product with rewards is not finite.
        TypeError: If an argument is of another type.

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
        reward_model: RewardModel | Sequence[RewardModel],
        beta: float = 1.0,
        top_k: int | None = 10,
        *,
        attention_mask: Tensor | None = None,
        pad_token_id: int | None = None,
        eos_token_id: int | list[int] | None = None,
        reward_prompts: Any = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        reward_tokenizer: PreTrainedTokenizerBase | Sequence[PreTrainedTokenizerBase | None] | None = None,
        weights: Sequence[float] | None = None,
        guidance_config: RewardGuidanceConfig | None = None,
        collect_records: bool = False,
    ):
        check_switch("collect_records", collect_records)
        if not isinstance(guidance_config, (RewardGuidanceConfig, type(None))):
            raise TypeError(
                f"`guidance_config` is a {type(guidance_config).__name__}, but a RewardGuidanceConfig is required."
            )
        if guidance_config is not None and (beta, top_k) != (1.0, 10):
            raise ValueError("`beta` or `top_k` was given beside `guidance_config`: set them in the latter alone.")
        self.config = guidance_config or RewardGuidanceConfig(beta=beta, top_k=top_k)
        self.tokenizer = tokenizer
        self.pad_token_id, self.bos_token_id, eos_token_ids = _special_tokens(tokenizer, reward_model)
        if pad_token_id is not None:
            self.pad_token_id = _checked_id("pad_token_id", pad_token_id)
        if eos_token_id is not None:
            eos_token_ids = [_checked_id("eos_token_id", id_) for id_ in _as_list(eos_token_id)]
        self.scorer = make_scorer(
            reward_model,
            self.config.scorer,
            tokenizer=tokenizer,
            reward_tokenizer=reward_tokenizer,
            weights=weights,
            eos_token_ids=eos_token_ids,
        )
        self._vocabularies_known_equal = tokenizer is not None and reward_tokenizer is not None
        self._eos_token_ids = eos_token_ids
        self._lock = Lock()
        self._collect_records = collect_records
        self.reset(attention_mask, reward_prompts)

    def reset(self, attention_mask: Tensor | None = None, reward_prompts: Any = None) -> None:
        """Forgets what was read and counted, and takes what there is to know about the prompts to come.

        No call is needed between generations: a new one shows in the ids. (Except where a single prompt continues
        what was just generated from another: for the generation before, it might be. This matters only to rewards
        that tell prompt from response, which are those through text and with `reward_prompts`.) It frees the reward
        model's cache, or tells the padding or the reward model's prompts of the next generation.

        Args:
            attention_mask: The mask that goes to the next `generate()`, where padding cannot be told from the ids.
            reward_prompts: The reward model's own prompts for the next `generate()`.
        """
        if attention_mask is not None:
            check_mask(attention_mask)
        self._prompt_mask = attention_mask
        self._reward_prompts = (
            None
            if reward_prompts is None
            else RewardPrompts(reward_prompts, self.tokenizer, self.pad_token_id, self.scorer.vocabulary_size)
        )
        self._generations: WeakKeyDictionary[Thread, GenerationTracker] = WeakKeyDictionary()
        self.scorer.reset()
        self.stats = GuidanceStats()
        self._tokens_before = self.scorer.tokens_computed

    @torch.no_grad()
    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # type: ignore[override]
        """Guides one step.

        Args:
            input_ids: Prompts and what was generated so far, shape `[rows, length]`.
            scores: The policy's scores of the next token, shape `[rows, vocabulary]`. Not changed.

        Returns:
            The guided scores, `-inf` for all but the candidates, shape `[rows, vocabulary]`.
        """
        with self._lock:
            return self._guide(input_ids, scores)

    def _guide(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self._check_step(input_ids, scores)
        self._generation.follow(input_ids)
        candidates = select_candidates(scores, self.config, self.scorer.vocabulary_size)
        going_on = ~self._generation.ended()
        steer = self._uncertain_enough(candidates) & going_on
        # A candidate without rivals needs no reward, unless paths of several steps are compared by their scores.
        needed = steer if self._generation.may_be_beams else steer & (candidates.valid.sum(-1) > 1)
        wanted = candidates.valid & needed[:, None]
        rewards = None
        if self.config.beta != 0 and bool(needed.any()):
            rewards = self._score(input_ids, candidates, wanted, going_on)
            self._generation.steered()
        elif not bool(steer.any()):
            self._generation.steered()  # what is left to the policy adds no reward, now or later
        if rewards is None or not bool(steer.all()):
            guided = keep_candidates(scores, candidates)
        if rewards is not None:
            steered = guide(scores, candidates, *rewards, beta=self.config.beta)
            guided = steered if bool(steer.all()) else torch.where(steer[:, None], steered, guided)

        # What goes unread in a skipped step is read in one pass with the next one that is not.
        self.stats.steps += 1
        self.stats.steps_skipped += rewards is None
        self.stats.reward_model_tokens = self.scorer.tokens_computed - self._tokens_before
        if self._collect_records:
            over = self._generation.past_end()
            self.stats.records.append(record_step(input_ids.shape[1], candidates, guided, over, wanted, rewards))
        return guided

    def _score(self, input_ids: Tensor, candidates: Candidates, wanted: Tensor, rows: Tensor) -> CandidateRewards:
        """Rewards of all rows' candidates, 0 for rows that are not scored.

        Args:
            input_ids: As in `__call__`.
            candidates: The candidates of this step.
            wanted: Which of their rewards are wanted, shape `[rows, k]`.
            rows: Rows that go on. All of them go to the scorer, also those that this step does not steer, for what is
                kept of them is needed again.
        """
        prefixes = self._prefixes(input_ids)._replace(wanted=wanted)
        if bool(rows.all()):
            scored = self.scorer.score(prefixes, candidates.ids)
        else:
            some = self.scorer.score(prefixes.select(rows), candidates.ids[rows])
            scored = CandidateRewards(
                some.candidates.new_zeros(wanted.shape).masked_scatter(rows[:, None], some.candidates),
                some.base.new_zeros(len(rows)).masked_scatter(rows, some.base),
            )
        _check_finite(scored, candidates.ids, wanted, input_ids.shape[1], self.config.beta)
        return scored

    @property
    def _generation(self) -> GenerationTracker:
        """The generation of the thread that asks."""
        return self._generations.setdefault(
            current_thread(), GenerationTracker(self._eos_token_ids, self.pad_token_id)
        )

    def _prefixes(self, input_ids: Tensor) -> PrefixBatch:
        prompt_length, base_length = self._generation.prompt_length, self._generation.base_length
        if self._reward_prompts is not None:
            own = PrefixBatch(input_ids, torch.ones_like(input_ids), prompt_length, base_length)
            return self._reward_prompts.replace(own)
        mask = infer_attention_mask(input_ids, self._prompt_mask, self.pad_token_id, self.bos_token_id)
        return PrefixBatch(input_ids, mask, prompt_length, base_length)

    def _uncertain_enough(self, candidates: Candidates) -> Tensor:
        """Rows whose policy has at least the entropy above which to steer, shape `[rows]`."""
        if self.config.min_entropy is None:
            return torch.ones(len(candidates.ids), dtype=torch.bool, device=candidates.ids.device)
        logits = candidates.scores.masked_fill(~candidates.valid, float("-inf"))
        return torch.distributions.Categorical(logits=logits, validate_args=False).entropy() >= self.config.min_entropy

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
        if size is not None and scores.shape[-1] != size and not self._vocabularies_known_equal:
            raise ValueError(
                f"The policy scores {scores.shape[-1]} tokens, but the reward model's embedding has {size}: their "
                "vocabularies differ (`scores` holds one per token), or one of them is padded. Pass both tokenizers, "
                "`tokenizer=` (the policy's) and `reward_tokenizer=`: equal ones are used as they are, different ones "
                "go through text."
            )


def _special_tokens(
    tokenizer: PreTrainedTokenizerBase | None, reward_model: Any
) -> tuple[int | None, int | None, list[int]]:
    """Pad, bos and eos tokens of the policy: its tokenizer's, or else those of a reward model that reads its ids."""
    if isinstance(tokenizer, PreTrainedTokenizerBase):
        return tokenizer.pad_token_id, tokenizer.bos_token_id, _as_list(tokenizer.eos_token_id)
    first = reward_model[0] if isinstance(reward_model, (list, tuple)) and reward_model else reward_model
    if not isinstance(getattr(first, "config", None), PreTrainedConfig):
        return None, None, []
    config = first.config.get_text_config()
    return config.pad_token_id, config.bos_token_id, _as_list(config.eos_token_id)


def _as_list(token_ids: int | Sequence[int] | None) -> list[int]:
    return [] if token_ids is None else list(token_ids) if isinstance(token_ids, (list, tuple)) else [token_ids]  # type: ignore[list-item]


def _checked_id(name: str, token_id: object) -> int:
    if isinstance(token_id, bool) or not isinstance(token_id, int):
        raise TypeError(f"`{name}` is or holds {token_id!r}, but a token's id is an integer.")
    return token_id


def _check_finite(rewards: CandidateRewards, candidate_ids: Tensor, wanted: Tensor, length: int, beta: float) -> None:
    differences = rewards.candidates - rewards.base[:, None]
    bad = wanted & ~torch.isfinite(beta * differences)
    if not bool(bad.any()):
        return
    bad = wanted & ~(torch.isfinite(rewards.candidates) & torch.isfinite(rewards.base)[:, None])
    if not bool(bad.any()):
        raise FloatingPointError(
            f"`beta` is {beta}: its product with the rewards' differences is not finite in float32. Rewards of "
            "ordinary size need a beta of 1e6 at the very most, which follows the reward alone."
        )
    row = int(bad.any(-1).nonzero()[0])
    raise FloatingPointError(
        f"The reward model gave rewards that are not finite: row {row}, after {length} tokens, for the candidates "
        f"{candidate_ids[row][bad[row]].tolist()} ({rewards.candidates[row][bad[row]].tolist()}). Load it in float32 "
        "or bfloat16, and check its weights."
    )
