r"""How much gold reward a reward model buys per root of divergence, estimated from samples of the policy alone.

Steering by increments A with a small beta changes the expected gold reward R by beta · Cov(R, S). It diverges from the
policy by beta² / 2 · V, where

    S = sum over steps t of A(y_t) - E[A(v)]          V = E of the sum over steps t of Var[A(v)]

with v ~ pi_LM(· | x, y_<t) over the candidates. So at a divergence of D nats per response, to first order, the gain is
slope · sqrt(2 D) with

    slope = Cov(R, S) / sqrt(V)

at any scale of A. E[S | x] is 0, so Cov(R, S) = E[(R - b) S] for any b that does not depend on the response. Using
the mean of the other responses to the same prompt as b removes most of the noise. Designs are compared on the same
samples, without decoding with any of them.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks.estimates import estimate
from benchmarks.heads.samples import MAX_NEW_TOKENS, TOP_K
from rgtg_hf import NextTokenRewardModel
from rgtg_hf.cli.prompt_files import encode_prompts
from rgtg_hf.decoding.padding import kept_ids
from rgtg_hf.evaluation.sampling import sample_responses
from rgtg_hf.training.hidden_state_store import HiddenStateStore

__all__ = [
    *("FOLDS", "Moments", "Slope", "Steps", "centre", "compare", "draw_responses", "fold_of", "moments_of_steps"),
    "read_steps",
]

FOLDS = 3


class Slope(NamedTuple):
    """The result of one reward model: (R - b) S / sqrt(V) of each response, whose mean is the slope, and V."""

    per_response: Tensor
    variance: float


class Moments(NamedTuple):
    """Of the increments of each step under the policy: E[A(v)], A(y_t) - E[A(v)] of what was written, Var[A(v)]."""

    mean: Tensor
    written: Tensor
    variance: Tensor


def moments_of_steps(policy: Tensor, increments: Tensor, hit: Tensor) -> Moments:
    """Moments of increments, each of shape `[...]`.

    Args:
        policy: Probabilities of the candidates, shape `[..., k]`.
        increments: Their increments, same shape.
        hit: Which of them was written, bool, same shape.
    """
    mean = (policy * increments).sum(-1)
    centred = increments - mean[..., None]
    return Moments(mean, (centred * hit).sum(-1), (policy * centred.square()).sum(-1))


class Steps:
    """All steps of all responses.

    Attributes:
        hidden: The policy's hidden states, shape `[steps, hidden_size]`.
        candidates: Its most likely tokens, shape `[steps, k]`.
        policy: Their probabilities, renormalised, shape `[steps, k]`.
        response: The response that each step belongs to, shape `[steps]`.
    """

    def __init__(self, hidden: Tensor, chosen: Tensor, response: Tensor, embeddings: Tensor) -> None:
        self.hidden, self.response = hidden, response
        scores = [(rows @ embeddings.T).topk(TOP_K) for rows in hidden.split(1024)]
        self.candidates = torch.cat([found.indices for found in scores])
        self.policy = torch.cat([found.values for found in scores]).softmax(-1)
        self._hit = self.candidates == chosen[:, None]

    def slope(self, advantages: Tensor, centred_gold: Tensor) -> Slope:
        """The slope of a reward model.

        Args:
            advantages: Increments of the candidates, up to a constant per step, shape `[steps, k]`.
            centred_gold: R - b of each response, float64, shape `[responses]`.
        """
        moments = moments_of_steps(self.policy, advantages, self._hit)
        total, variance = torch.zeros_like(centred_gold), torch.zeros_like(centred_gold)
        total.index_add_(0, self.response, moments.written.double())
        variance.index_add_(0, self.response, moments.variance.double())
        return Slope(centred_gold * total / variance.mean().sqrt(), float(variance.mean()))


def fold_of(prompt: str, folds: int = FOLDS) -> int:
    """The fold of a prompt and of everything that belongs to it."""
    return hashlib.sha256(prompt.encode()).digest()[0] % folds


def draw_responses(
    file: Path, policy: Any, tokenizer: Any, prompts: list[str], draws: int, batch_size: int = 19
) -> list[dict[str, Any]]:
    """Responses of the policy to prompts: `prompt`, `prompt_ids`, `ids`, `text`.

    They are sampled once and kept in `file`, `draws` for each prompt.
    """
    if not file.exists():
        rows: list[dict[str, Any]] = []
        settings: Any = {"top_k": TOP_K, "max_new_tokens": MAX_NEW_TOKENS, "responses_per_prompt": draws}
        for start in range(0, len(prompts), batch_size):
            some = prompts[start : start + batch_size]
            inputs = encode_prompts(tokenizer, some)
            sampled = sample_responses(policy, tokenizer, inputs, seed=start, **settings)
            sources = [
                pair
                for pair in zip(some, kept_ids(inputs["input_ids"], inputs["attention_mask"]), strict=True)
                for _ in range(draws)
            ]
            for (prompt, prompt_ids), ids, text in zip(sources, sampled.ids, sampled.texts, strict=True):
                rows.append({"prompt": prompt, "prompt_ids": prompt_ids, "ids": ids, "text": text})
            print(f"{len(rows)} of {draws * len(prompts)} responses", flush=True)
        file.write_text(json.dumps(rows), encoding="utf-8")
    return json.loads(file.read_text(encoding="utf-8"))


def read_steps(responses: list[dict[str, Any]], policy: Any, states: Path) -> Steps:
    """Reads the steps of all responses. Hidden states are kept in `states`, which training uses too."""
    store = HiddenStateStore(states, NextTokenRewardModel.from_policy(policy, rank=1))
    rows = [(response["prompt_ids"] + response["ids"], len(response["prompt_ids"])) for response in responses]
    store.add(rows)
    hidden = torch.cat([store.read(*row) for row in rows])
    chosen = torch.tensor([token for response in responses for token in response["ids"]])
    lengths = torch.tensor([len(response["ids"]) for response in responses])
    place = torch.arange(len(responses)).repeat_interleave(lengths)
    return Steps(hidden, chosen, place, policy.get_output_embeddings().weight.detach())


def centre(gold: list[float], draws: int) -> Tensor:
    """Gold reward minus the mean over the other responses to the same prompt, float64, shape `[responses]`."""
    by_prompt = torch.tensor(gold, dtype=torch.float64).view(-1, draws)
    others = (by_prompt.sum(1, keepdim=True) - by_prompt) / (draws - 1)
    return (by_prompt - others).flatten()


def compare(one: Tensor, other: Tensor) -> list[float]:
    """The difference of two slopes: its mean and standard error over responses."""
    return estimate((one - other).tolist())
