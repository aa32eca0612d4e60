"""Search inside `generate()`: rows write a block of tokens, the reward model reads it, and rows are selected.

| search | after each block | in the end |
| --- | --- | --- |
| `"best"` | the row of highest reward goes on, in all rows | the best rows of the last block |
| `"resample"` | rows are drawn with weights exp(beta · increment of the block) | rows are drawn with their weights |
| `"halve"` | the lower half of the rows stops | the best rows that are left |
| `"none"` | nothing | the best rows |

These are block-wise best-of-n (Mudgal et al., arXiv:2310.17022), particles, that is sequential Monte Carlo with the
RLHF optimum as its target (Zhao et al., arXiv:2404.17546), best-of-n with early stopping (Sun et al.,
arXiv:2410.20290), and best-of-n.

Both caches are kept: a prompt is read once and repeated, and the rows of the caches follow the selection. So a search
costs what plain sampling of its rows costs, and one reading of each row's tokens by the reward model.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList, MaxLengthCriteria, StoppingCriteria
from transformers import StoppingCriteriaList as Criteria

from rgtg_hf.compat import cache_in
from rgtg_hf.config import RewardGuidanceConfig
from rgtg_hf.decoding.padding import kept_ids
from rgtg_hf.decoding.proposal import Proposal
from rgtg_hf.decoding.search_output import SearchOutput, joined_outputs
from rgtg_hf.decoding.selection import (
    draws_rows,
    effective_size,
    log_mean_exp,
    normalized,
    power_for,
    ranked,
    resampled,
)
from rgtg_hf.private_names import SAMPLING_LOOP
from rgtg_hf.scoring.scorer import Scorer

__all__ = ["search"]

_LEAST_EFFECTIVE_SHARE = 0.5  # particles are drawn again when fewer than this share of the rows counts


@torch.no_grad()
def search(
    model: Any,
    input_ids: Tensor,
    scorer: Scorer,
    config: RewardGuidanceConfig,
    *,
    logits_processor: LogitsProcessorList,
    guides: Sequence[LogitsProcessor],
    stopping_criteria: Criteria,
    generation_config: Any,
    own_prompts: list[list[int]] | None = None,
    streamer: Any = None,
    **model_kwargs: Any,
) -> Tensor | SearchOutput:
    """Searches for responses of high reward. [`reward_guided_generate`][rgtg_hf.decoding.generation] calls it.

    Args:
        model: The policy.
        input_ids: Prompts, each repeated `num_return_sequences` times, shape `[rows, length]`.
        scorer: Computes the rewards.
        config: The resolved settings, with a `search` other than `"tokens"`.
        logits_processor: The processors of the proposal, by which rows are sampled.
        guides: Those among them that guide within blocks. The particles' weights divide by what they do.
        stopping_criteria: The criteria that end a row.
        generation_config: The settings of generation, complete.
        own_prompts: Prompts that the reward model reads in place of the policy's, token ids without padding.
        streamer: Gets the tokens that all rows share, as soon as they do. For one prompt and one response.
        model_kwargs: The cache, the attention mask and so on, from `generate()`.

    Returns:
        What `generate()` returns: sequences, or with `return_dict_in_generate=True` a
        [`SearchOutput`][rgtg_hf.decoding.search_output.SearchOutput].

    Raises:
        ValueError: If a setting of generation does not go with a search.
    """
    returned = generation_config.num_return_sequences
    _check(model, generation_config, config, returned, len(input_ids) // returned, streamer)
    settings = copy.deepcopy(generation_config)
    settings.do_sample = True
    settings.return_dict_in_generate = settings.output_scores = settings.output_logits = False
    prompts = input_ids[::returned]
    model_kwargs = _select(model_kwargs, range(0, len(input_ids), returned), len(input_ids))
    at_once = max(1, config.max_rows // config.num_rows) if config.max_rows else len(prompts)  # type: ignore[operator]
    if own_prompts is not None and len(own_prompts) != len(prompts):
        raise ValueError(
            f"There are {len(own_prompts)} `reward_prompts` for {len(prompts)} prompts: give one for each."
        )
    outputs, read_before = [], scorer.tokens_computed
    for start in range(0, len(prompts), at_once):
        some = prompts[start : start + at_once]
        # The cache is empty so far, and each part of the batch fills one of its own.
        kwargs = copy.deepcopy(_select(model_kwargs, range(start, start + len(some)), len(prompts)))
        own = own_prompts and own_prompts[start : start + at_once]
        run = _Search(model, some, own, scorer, config, logits_processor, guides, stopping_criteria, settings, kwargs)
        outputs.append(run.run(returned, streamer))
    output = joined_outputs(outputs, _padding(generation_config))
    output.reward_model_tokens = scorer.tokens_computed - read_before
    if streamer is not None:
        streamer.end()
    return output if generation_config.return_dict_in_generate else output.sequences  # type: ignore[return-value]


class _Search:
    """The rows of some prompts, those of a prompt next to each other."""

    def __init__(
        self,
        model: Any,
        prompts: Tensor,
        own_prompts: list[list[int]] | None,
        scorer: Scorer,
        config: Any,
        logits_processor: LogitsProcessorList,
        guides: Sequence[LogitsProcessor],
        stopping_criteria: Criteria,
        settings: Any,
        model_kwargs: dict[str, Any],
    ):
        self.model, self.scorer, self.config, self.settings = model, scorer, config, settings
        self.stopping_criteria = stopping_criteria
        self.is_weighted, self.is_drawn = config.search == "resample", draws_rows(config)
        self.cache, self.kwargs = cache_in(model_kwargs), model_kwargs
        self.proposal = Proposal(logits_processor, guides) if self.is_weighted and guides else None
        self.processors = LogitsProcessorList([self.proposal]) if self.proposal else logits_processor
        self.prompt_length, self.per_prompt = prompts.shape[1], config.num_rows
        mask = model_kwargs.get("attention_mask")
        self.prompt_mask = torch.ones_like(prompts) if mask is None else mask
        self.own_prompts = own_prompts or kept_ids(prompts, self.prompt_mask)
        self._read_prompts(prompts)
        self.ids = prompts
        self.lengths: list[int | None] = [None] * len(prompts)  # of responses that have ended
        self.at_start = self.scorer.rewards(self.own_prompts, [[] for _ in self.own_prompts])
        self.rewards = list(self.at_start)
        self.log_weights = [0.0] * len(prompts)
        self.effective_sizes: list[list[float]] = []  # of particles: after each block, of each prompt
        self.policy_tokens = 0
        self._go_on_with([row for row in range(len(prompts)) for _ in range(self.per_prompt)])

    def run(self, returned: int, streamer: Any) -> SearchOutput:
        """Writes and selects until all rows have ended."""
        streamed = 0
        while True:
            self._write_block()
            if None not in self.lengths:
                break
            self._select_rows(returned)
            if streamer is not None:
                streamed = self._stream(streamer, streamed)
        gains = [reward - self.at_start[row // self.per_prompt] for row, reward in enumerate(self.rewards)]
        if not self.is_weighted:
            self.log_weights = [self.config.beta * gain if self.is_drawn else 0.0 for gain in gains]
        groups = self._groups(self.log_weights)
        rows, rewards = self._sequences(), torch.tensor(gains)
        weights = torch.tensor([weight for group in groups for weight in normalized(group)])
        chosen = self._final(returned)
        self._go_on_with(chosen, cached=False)
        if streamer is not None:
            self._stream(streamer, streamed)
        return SearchOutput(
            sequences=self._sequences(),
            rewards=rewards[chosen],
            weights=weights[chosen],
            row_sequences=rows,
            row_rewards=rewards,
            row_weights=weights,
            effective_sizes=torch.tensor(self.effective_sizes).T if self.is_weighted else None,
            log_normalizer=torch.tensor([log_mean_exp(group) for group in groups]) if self.is_weighted else None,
            policy_tokens=self.policy_tokens,
        )

    def _read_prompts(self, prompts: Tensor) -> None:
        """Reads all but the last token of each prompt, once. The loop reads the last one in every row."""
        if self.cache is None or self.prompt_length < 2:
            return
        kwargs = self.kwargs | self._padding_arguments(self.prompt_mask[:, :-1])
        inputs = self.model.prepare_inputs_for_generation(prompts[:, :-1], is_first_iteration=True, **kwargs)
        self.model(**inputs, return_dict=True)

    def _padding_arguments(self, mask: Tensor) -> dict[str, Tensor]:
        """The mask of all columns, and their positions if `generate()` prepared some."""
        if "position_ids" not in self.kwargs:
            return {"attention_mask": mask}
        return {"attention_mask": mask, "position_ids": (mask.cumsum(-1) - 1).clamp(min=0)}

    def _write_block(self) -> None:
        """Lets every row that has not ended write a block, and updates rewards and weights."""
        before, length = [len(own) for own in self._responses()], self.ids.shape[1]
        end = min(length + self.config.block_size, self.settings.max_length)
        ending = _Ending(self.stopping_criteria, [one is not None for one in self.lengths])
        written = torch.ones(len(self.ids), length - self.prompt_length).to(self.prompt_mask)
        repeated = self.prompt_mask.repeat_interleave(self.per_prompt, dim=0)
        kwargs = self.kwargs | self._padding_arguments(torch.cat([repeated, written], dim=1))
        self.ids = getattr(type(self.model), SAMPLING_LOOP)(
            self.model,
            self.ids,
            logits_processor=self.processors,
            stopping_criteria=Criteria([ending, MaxLengthCriteria(end)]),
            generation_config=self.settings,
            **kwargs,
        )
        for row, at in enumerate(ending.lengths()):
            if self.lengths[row] is None and at is not None:
                self.lengths[row] = at - self.prompt_length
        responses = self._responses()
        self.policy_tokens += sum(map(len, responses)) - sum(before)
        changed = [row for row, own in enumerate(responses) if len(own) > before[row]]
        prompts = [self.own_prompts[row // self.per_prompt] for row in changed]
        rewards = self.scorer.rewards(prompts, [responses[row] for row in changed])
        ratios = self.proposal.log_ratios(self.ids) if self.proposal else None
        for row, reward in zip(changed, rewards, strict=True):
            if not math.isfinite(reward):
                raise FloatingPointError(
                    f"The reward model gave the reward {reward} to a response of {len(responses[row])} tokens: load "
                    "it in float32 or bfloat16, and check its weights."
                )
            self.log_weights[row] += self.config.beta * (reward - self.rewards[row])
            if ratios is not None:
                self.log_weights[row] += sum(ratios[row][: len(responses[row]) - before[row]])
            self.rewards[row] = reward
        if self.is_weighted:
            self.effective_sizes.append([effective_size(group) for group in self._groups(self.log_weights)])

    def _select_rows(self, returned: int) -> None:
        keep: list[int] = []
        for prompt, (rewards, weights) in enumerate(self._rewards_and_weights()):
            first = prompt * self.per_prompt
            places = list(range(self.per_prompt))
            if self.config.search == "best":
                places = ranked(rewards, 1) * self.per_prompt
            elif self.config.search == "halve":
                places = sorted(ranked(rewards, max(returned, math.ceil(self.per_prompt / 2))))
            elif self.is_weighted and self.effective_sizes[-1][prompt] < _LEAST_EFFECTIVE_SHARE * self.per_prompt:
                power = power_for(weights, self.config.soften * self.per_prompt)
                drawn_by = [power * weight for weight in weights]
                places = resampled(drawn_by, self.per_prompt, float(torch.rand(())))
                # A weight is divided by how often its row is drawn on average. With power 1 all are equal after that.
                left = [weight - part + log_mean_exp(drawn_by) for weight, part in zip(weights, drawn_by, strict=True)]
                self.log_weights[first : first + self.per_prompt] = left
            keep += [first + place for place in places]
        self.per_prompt = len(keep) // len(self.own_prompts)
        self._go_on_with(keep)

    def _final(self, returned: int) -> list[int]:
        chosen: list[int] = []
        for prompt, (rewards, weights) in enumerate(self._rewards_and_weights()):
            if self.is_drawn:
                places = resampled(weights, returned, float(torch.rand(())))
            else:
                places = ranked(rewards, returned)
            chosen += [prompt * self.per_prompt + place for place in places]
        return chosen

    def _go_on_with(self, rows: list[int], cached: bool = True) -> None:
        """Keeps the rows given, in their order."""
        if rows == list(range(len(self.ids))):
            return
        index = torch.tensor(rows, device=self.ids.device)
        self.ids = self.ids[index]
        if self.cache is not None and cached:
            self.cache.reorder_cache(index)
        self.lengths = [self.lengths[row] for row in rows]
        self.rewards = [self.rewards[row] for row in rows]
        self.log_weights = [self.log_weights[row] for row in rows]

    def _rewards_and_weights(self) -> list[tuple[list[float], list[float]]]:
        """For each prompt the rewards by which its rows are ranked, and the logarithms of their weights."""
        # A negative beta prefers low rewards, and 0 none.
        ranked_by = [self.config.beta * reward for reward in self.rewards]
        return list(zip(self._groups(ranked_by), self._groups(self.log_weights), strict=True))

    def _groups(self, values: list[Any]) -> list[list[Any]]:
        return [values[start : start + self.per_prompt] for start in range(0, len(values), self.per_prompt)]

    def _responses(self) -> list[list[int]]:
        rows = self.ids[:, self.prompt_length :].tolist()
        return [row[:length] for row, length in zip(rows, self.lengths, strict=True)]

    def _sequences(self) -> Tensor:
        """Prompts and responses, padded, with the columns that are used."""
        ids = self.ids.clone()
        width = max(length or 0 for length in self.lengths)
        lengths = torch.tensor([length or 0 for length in self.lengths], device=ids.device)
        columns = torch.arange(ids.shape[1] - self.prompt_length, device=ids.device)
        ids[:, self.prompt_length :].masked_fill_(columns >= lengths[:, None], _padding(self.settings))
        return ids[:, : self.prompt_length + width]

    def _stream(self, streamer: Any, streamed: int) -> int:
        """Hands on the tokens that all rows share."""
        responses = self._responses()
        shared = 0
        while all(len(one) > shared and one[shared] == responses[0][shared] for one in responses):
            shared += 1
        if shared > streamed:
            streamer.put(torch.tensor(responses[0][streamed:shared]))
        return max(shared, streamed)


class _Ending(StoppingCriteria):
    """The criteria of a call, with a memory of the rows that have ended and where."""

    def __init__(self, criteria: Criteria, ended: list[bool]):
        self.criteria, self.already = criteria, ended
        self.first: Tensor | None = None
        # generate() pads rows that have ended only where a criterion has this name.
        for one in criteria:
            if hasattr(one, "eos_token_id"):
                self.eos_token_id = one.eos_token_id

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:  # type: ignore[override]
        """Rows that have ended, shape `[rows]`, boolean."""
        if self.first is None:
            self.first = torch.tensor([0 if one else -1 for one in self.already], device=input_ids.device)
        ended = self.criteria(input_ids, scores, **kwargs) & (self.first < 0)
        self.first = self.first.masked_fill(ended, input_ids.shape[1])
        return self.first >= 0

    def lengths(self) -> list[int | None]:
        """The length at which each row ended in this block."""
        found = [] if self.first is None else self.first.tolist()
        return [length if length > 0 else None for length in found]


def _check(model: Any, generation_config: Any, config: Any, returned: int, prompts: int, streamer: Any) -> None:
    if model.config.is_encoder_decoder:
        raise ValueError("A search needs a decoder-only policy. Guide an encoder-decoder by tokens: search='tokens'.")
    if generation_config.num_beams and generation_config.num_beams > 1:
        raise ValueError(
            f"num_beams is {generation_config.num_beams}, but a search has rows of its own: use num_rows."
        )
    if returned > config.num_rows:
        raise ValueError(
            f"num_return_sequences is {returned}, but a search with num_rows={config.num_rows} has no more rows to "
            "return."
        )
    for name in ("output_scores", "output_logits", "output_attentions", "output_hidden_states"):
        if getattr(generation_config, name, None):
            raise ValueError(f"`{name}` does not go with a search, whose rows are copied and dropped: leave it out.")
    if config.max_rows and config.max_rows < config.num_rows:
        raise ValueError(f"`max_rows` is {config.max_rows}, but one prompt alone has num_rows={config.num_rows} rows.")
    if streamer is not None and (prompts > 1 or returned > 1):
        raise ValueError("A streamer follows one response, but this call has several prompts or return sequences.")


def _select(model_kwargs: dict[str, Any], rows: Any, count: int) -> dict[str, Any]:
    """The arguments for some of the rows."""
    index = list(rows)
    return {
        name: value[index] if isinstance(value, Tensor) and value.dim() and len(value) == count else value
        for name, value in model_kwargs.items()
    }


def _padding(settings: Any) -> int:
    """The id that pads, as `generate()` chooses it."""
    pad = settings.pad_token_id
    if pad is None and settings.eos_token_id is not None:
        pad = settings.eos_token_id[0] if isinstance(settings.eos_token_id, list) else settings.eos_token_id
    return pad or 0
