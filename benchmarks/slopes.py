r"""How much gold reward a reward model buys per root of divergence, told from samples of the policy alone.

Steering by advantages A with a small beta changes the expected gold reward R by beta · Cov(R, S), and diverges by
beta² / 2 · V from the policy, where

    S = sum over steps t of A(y_t) - E[A(v)]          V = E of the sum over steps t of Var[A(v)]

with v ~ pi_LM(· | x, y_<t) over the candidates. So at a divergence of D nats per response, to first order, the gain is
slope · sqrt(2 D) with

    slope = Cov(R, S) / sqrt(V)

whatever the scale of A. E[S | x] is 0, so Cov(R, S) = E[(R - b) S] for any b that does not depend on the response: the
mean of the other responses to the same prompt takes most of the noise away. Two designs are told apart on the same
samples, without decoding anything with either.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from heads_common import MAX_NEW_TOKENS, TOP_K, until_end
from torch import Tensor
from transformers import set_seed

from rgtg_hf import NextTokenRewardModel
from rgtg_hf.cli.demo_rows import preference_pairs
from rgtg_hf.training.hidden_states import HiddenStateStore

__all__ = ["FOLDS", "Slope", "Steps", "centre", "compare", "draw_responses", "fold_of", "read_steps"]

FOLDS = 3


class Slope(NamedTuple):
    """What came out for one reward model: per response (R - b) S / sqrt(V), whose mean is the slope, and V."""

    per_response: Tensor
    variance: float


class Steps:
    """All steps of all responses.

    Attributes:
        hidden: The policy's hidden states, shape `[steps, hidden_size]`.
        candidates: Its likeliest tokens, shape `[steps, k]`.
        policy: Their probabilities among themselves, shape `[steps, k]`.
        response: Which response each step belongs to, shape `[steps]`.
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
            advantages: Of the candidates, up to a constant per step, shape `[steps, k]`.
            centred_gold: R - b of each response, float64, shape `[responses]`.
        """
        centred = advantages - (self.policy * advantages).sum(-1, keepdim=True)
        total, variance = torch.zeros_like(centred_gold), torch.zeros_like(centred_gold)
        total.index_add_(0, self.response, (centred * self._hit).sum(-1).double())
        variance.index_add_(0, self.response, (self.policy * centred.square()).sum(-1).double())
        return Slope(centred_gold * total / variance.mean().sqrt(), float(variance.mean()))


def fold_of(prompt: str, folds: int = FOLDS) -> int:
    """Which of a few folds a prompt is in, with all that belongs to it."""
    return hashlib.sha256(prompt.encode()).digest()[0] % folds


def draw_responses(file: Path, policy: Any, tokenizer: Any, draws: int, batch_size: int = 76) -> list[dict[str, Any]]:
    """Responses of the policy to the prompts of the demo's pairs, once: `prompt`, `prompt_ids`, `ids`, `text`."""
    if not file.exists():
        set_seed(0)
        tokenizer.padding_side = "left"
        prompts = dict.fromkeys(row["prompt"][0]["content"] for row in preference_pairs())
        prompts = [prompt for prompt in prompts for _ in range(draws)]
        rows = []
        for start in range(0, len(prompts), batch_size):
            messages = [[{"role": "user", "content": prompt}] for prompt in prompts[start : start + batch_size]]
            inputs = tokenizer.apply_chat_template(
                messages, add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True
            )
            with torch.inference_mode():
                output = policy.generate(
                    **inputs, do_sample=True, top_k=TOP_K, top_p=1.0, temperature=1.0, max_new_tokens=MAX_NEW_TOKENS
                )
            width = inputs["input_ids"].shape[1]
            for place, (ids, mask) in enumerate(zip(output.tolist(), inputs["attention_mask"].tolist(), strict=True)):
                response = until_end(ids[width:], policy.generation_config.eos_token_id)
                text = tokenizer.decode(response, skip_special_tokens=True)
                prompt_ids = [token for token, kept in zip(ids[:width], mask, strict=True) if kept]
                prompt = prompts[start + place]
                rows.append({"prompt": prompt, "prompt_ids": prompt_ids, "ids": response, "text": text})
            print(f"{len(rows)} of {len(prompts)} responses", flush=True)
        file.write_text(json.dumps(rows), encoding="utf-8")
    return json.loads(file.read_text(encoding="utf-8"))


def read_steps(responses: list[dict[str, Any]], policy: Any, states: Path) -> Steps:
    """The steps of all responses; hidden states are kept in `states`, where training keeps them too."""
    store = HiddenStateStore(states, NextTokenRewardModel.from_policy(policy, rank=1))
    rows = []
    for response in responses:
        ids, length = response["prompt_ids"] + response["ids"], len(response["prompt_ids"])
        rows.append({"chosen_ids": ids, "rejected_ids": ids, "prompt_length": length})
    store.add(rows)
    hidden = torch.cat([store.read(row["chosen_ids"], row["prompt_length"]) for row in rows])
    chosen = torch.tensor([token for response in responses for token in response["ids"]])
    lengths = torch.tensor([len(response["ids"]) for response in responses])
    place = torch.arange(len(responses)).repeat_interleave(lengths)
    return Steps(hidden, chosen, place, policy.get_output_embeddings().weight.detach())


def centre(gold: list[float], draws: int) -> Tensor:
    """Gold reward less the mean of the other responses to the same prompt, float64, shape `[responses]`."""
    by_prompt = torch.tensor(gold, dtype=torch.float64).view(-1, draws)
    others = (by_prompt.sum(1, keepdim=True) - by_prompt) / (draws - 1)
    return (by_prompt - others).flatten()


def compare(one: Tensor, other: Tensor) -> list[float]:
    """Mean and standard error over responses of a difference of slopes."""
    difference = one - other
    return [float(difference.mean()), float(difference.std() / len(difference) ** 0.5)]
