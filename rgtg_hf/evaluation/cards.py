"""CARDS: segments of a response that a reward model accepts or rejects (Li et al., arXiv:2406.16306).

A segment ends before a token of which the policy is unsure: where the entropy of the next token reaches a threshold.
A segment that was sampled after a response of length t, which has length t' with it, is accepted with probability

    min( 1, exp( [ r(x, y_<t') - tau(t') ] / temperature ) )         tau(t) = r_0 + (r* - r_0) · t / longest

where r* is the target and r_0 = (1 - alpha) · r(x) + alpha · r*. A rejected one is sampled again, and after the last
try the best of all is taken. The reward model is one of whole responses, which the paper holds to be right at the ends
of segments.
"""

from __future__ import annotations

import copy
import inspect
import math
import random
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
    TopKLogitsWarper,
    set_seed,
)

from rgtg_hf.decoding.padding import kept_ids, pad_left
from rgtg_hf.evaluation.best_of import log_likelihoods
from rgtg_hf.evaluation.divergence import response_mask
from rgtg_hf.evaluation.sampling import SampledResponses, end_token_ids, prompt_cache
from rgtg_hf.rewards.sequence_rewards import sequence_rewards

__all__ = ["cards_responses"]


@dataclass
class _Row:
    """A response that is being written.

    Attributes:
        place: Its place in the batch.
        prompt: Its prompt.
        start: r_0.
        ids: The accepted tokens.
        done: Whether it has ended.
        tries: The segments that were sampled after `ids` so far.
        best: The best of them, with its reward.
        nats: The bound of its divergence.
    """

    place: int
    prompt: list[int]
    start: float
    ids: list[int] = field(default_factory=list)
    done: bool = False
    tries: int = 0
    best: tuple[float, list[int]] = (-math.inf, [])
    nats: float = 0.0


def cards_responses(
    policy: Any,
    tokenizer: Any,
    inputs: Mapping[str, Tensor],
    reward_model: Any,
    *,
    target: float,
    top_k: int,
    max_new_tokens: int,
    seed: int,
    entropy: float = 3.0,
    alpha: float = 0.5,
    temperature: float = 0.7,
    segment: tuple[int, int] = (4, 64),
    max_tries: int = 20,
) -> SampledResponses:
    """Writes responses by segments that are accepted or rejected.

    Args:
        policy: A causal language model.
        tokenizer: Its tokenizer.
        inputs: Left-padded `input_ids` and `attention_mask`, each of shape `[prompts, length]`.
        reward_model: A reward model with the policy's tokenizer, trained on whole responses.
        target: r*, the reward that a whole response should have.
        top_k: Candidates per step: the policy's most likely tokens.
        max_new_tokens: Largest number of tokens per response.
        seed: Seed, set right before sampling.
        entropy: A segment ends where the next token has at least this entropy, in nats, over the whole vocabulary.
        alpha: How far r_0 is from the prompt's reward to the target.
        temperature: Of acceptance, in units of reward.
        segment: The fewest and the most tokens of a segment. A response ends wherever the policy ends it.
        max_tries: Most segments that are rejected at one place. The numbers are those of the authors' code.

    Returns:
        The responses. Their divergence is an estimate of an upper bound: -log of the probability that a segment is
        accepted, summed over segments. It is estimated without bias by 1 + 1/2 + ... + 1/(tries - 1), a little low
        where all tries failed.
    """
    ends = end_token_ids(policy)
    set_seed(seed)
    draws = random.Random(seed)
    begun = time.perf_counter()
    inputs = {name: inputs[name].to(policy.device) for name in ("input_ids", "attention_mask")}
    prompts = kept_ids(inputs["input_ids"], inputs["attention_mask"])
    cached = prompt_cache(policy, inputs) if _may_have_gaps(policy) else {}
    rows = [
        _Row(place, prompt, (1 - alpha) * reward + alpha * target)
        for place, (prompt, reward) in enumerate(zip(prompts, sequence_rewards(reward_model, prompts), strict=True))
    ]
    read = sum(map(len, prompts))
    while active := [row for row in rows if not row.done]:
        longest = min(segment[1], max(max_new_tokens - len(row.ids) for row in active))
        batch = _with_cache(inputs, cached, active) if cached else _read_again(policy, tokenizer, active)
        found = _segments(policy, tokenizer, batch, longest, _Cutter(entropy, segment[0], top_k))
        longer = [(row.ids + own)[:max_new_tokens] for row, own in zip(active, found, strict=True)]
        whole = [row.prompt + own for row, own in zip(active, longer, strict=True)]
        read += sum(map(len, whole))
        for row, own, reward in zip(active, longer, sequence_rewards(reward_model, whole), strict=True):
            row.tries += 1
            row.best = max(row.best, (reward, own))
            threshold = row.start + (target - row.start) * len(own) / max_new_tokens
            accepted = draws.random() < math.exp(min(0.0, (reward - threshold) / temperature))
            if accepted or row.tries > max_tries:
                row.nats += sum(1 / number for number in range(1, row.tries))
                row.ids, row.tries, row.best = own if accepted else row.best[1], 0, (-math.inf, [])
                row.done = len(row.ids) >= max_new_tokens or row.ids[-1] in ends
    seconds = time.perf_counter() - begun
    ids = [row.ids for row in rows]
    return SampledResponses(
        texts=tokenizer.batch_decode(ids, skip_special_tokens=True),
        divergences=[row.nats for row in rows],
        tokens=sum(map(len, ids)),
        seconds=seconds,
        ids=ids,
        log_likelihoods=log_likelihoods(policy, prompts, ids),
        reward_model_tokens=read,
    )


def _may_have_gaps(policy: Any) -> bool:
    """Whether padding between a prompt and its response changes nothing: the mask alone says where a token stands."""
    config = policy.config.get_text_config()
    windows = [getattr(config, name, None) for name in ("sliding_window", "window_size")]
    return "position_ids" in inspect.signature(policy.forward).parameters and not any(windows)


def _with_cache(inputs: Mapping[str, Tensor], cached: Mapping[str, Any], rows: list[_Row]) -> dict[str, Any]:
    """The rows for `generate()`, whose prompts were read before, but for their last token.

    That token and the responses end in the last column, so there is padding before them.
    """
    prompts, mask = (inputs[name][:, :-1] for name in ("input_ids", "attention_mask"))
    places = torch.tensor([row.place for row in rows], device=prompts.device)
    own, own_mask = (part.to(prompts) for part in pad_left([row.prompt[-1:] + row.ids for row in rows]))
    batch: dict[str, Any] = {
        "input_ids": torch.cat([prompts[places], own], 1),
        "attention_mask": torch.cat([mask[places], own_mask], 1),
    }
    for name, cache in cached.items():
        batch[name] = copy.deepcopy(cache)  # it grows
        batch[name].reorder_cache(places)
    return batch


def _read_again(policy: Any, tokenizer: Any, rows: list[_Row]) -> dict[str, Any]:
    ids, mask = pad_left([row.prompt + row.ids for row in rows], tokenizer.pad_token_id)
    return {"input_ids": ids.to(policy.device), "attention_mask": mask.to(policy.device)}


@torch.inference_mode()
def _segments(policy: Any, tokenizer: Any, batch: Mapping[str, Any], longest: int, cutter: _Cutter) -> list[list[int]]:
    """One more segment of each row."""
    output = policy.generate(
        **batch,
        do_sample=True,
        temperature=1.0,
        top_p=1.0,
        top_k=0,
        max_new_tokens=longest,
        pad_token_id=tokenizer.pad_token_id,
        logits_processor=LogitsProcessorList([cutter]),
        stopping_criteria=StoppingCriteriaList([_AtCut(cutter)]),
    )[:, batch["input_ids"].shape[1] :]
    places = torch.arange(output.shape[1], device=output.device)
    return kept_ids(output, response_mask(output, end_token_ids(policy)) & (places < cutter.lengths[:, None]))


class _Cutter(LogitsProcessor):
    """Leaves the candidates, and finds the token before which a segment ends.

    Attributes:
        lengths: Tokens of each row's segment, as far as its end has been found, shape `[rows]`.
    """

    def __init__(self, entropy: float, shortest: int, top_k: int) -> None:
        self._entropy, self._shortest = entropy, shortest
        self._candidates = TopKLogitsWarper(top_k)
        self._width: int | None = None

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """The scores of one step, shape `[rows, vocabulary]`."""
        if self._width is None:
            self._width = input_ids.shape[1]
            self.lengths = input_ids.new_full((len(input_ids),), sys.maxsize)
        length = input_ids.shape[1] - self._width
        if length >= self._shortest:
            entropy = torch.distributions.Categorical(logits=scores.float(), validate_args=False).entropy()
            self.lengths = torch.where(entropy >= self._entropy, self.lengths.clamp(max=length), self.lengths)
        return self._candidates(input_ids, scores)


class _AtCut(StoppingCriteria):
    """Stops the rows whose segment has ended."""

    def __init__(self, cutter: _Cutter) -> None:
        self._cutter = cutter

    def __call__(self, input_ids: Tensor, scores: Tensor, **_: Any) -> Tensor:  # type: ignore[override]
        return self._cutter.lengths < sys.maxsize
