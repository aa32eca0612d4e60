"""its-hub's particle filtering with the benchmark's policy and reward model.

its-hub is a package for scaling inference by text: a language model continues texts by a step, and a process reward
model rates texts. It is not a requirement of this project: `pip install its-hub`.
"""

from __future__ import annotations

import asyncio
from typing import Any

import torch

from rgtg_hf.decoding.padding import kept_ids
from rgtg_hf.evaluation.divergence import response_mask
from rgtg_hf.evaluation.sampling import end_token_ids
from rgtg_hf.rewards.sequence_rewards import sequence_rewards

__all__ = ["particle_filtering"]


def particle_filtering(
    policy: Any,
    tokenizer: Any,
    reward_model: Any,
    prompts: list[str],
    *,
    n: int,
    block_size: int,
    new_tokens: int,
    top_k: int,
) -> list[str]:
    """One response to each prompt by its-hub's `ParticleFiltering`, a step of which has `block_size` tokens."""
    from its_hub.core.algorithms.particle_gibbs import ParticleFiltering
    from its_hub.core.lms.step_generation import StepGeneration

    end = tokenizer.decode(end_token_ids(policy)[0])
    steps = StepGeneration(  # it writes one step more than `max_steps`
        max_steps=new_tokens // block_size - 1, tokens_per_step=block_size, stop_token=end, temperature=1.0
    )
    filtering = ParticleFiltering(steps, _RewardModel(reward_model, tokenizer))
    model = _LanguageModel(policy, tokenizer, top_k)
    return [asyncio.run(filtering.ainfer(model, prompt, n))["content"].removesuffix(end) for prompt in prompts]


def _encode(tokenizer: Any, messages: list[list[dict[str, str]]]) -> Any:
    """The ids of conversations. An answer that has begun goes on."""
    texts = [
        tokenizer.apply_chat_template(one[:1], add_generation_prompt=True, tokenize=False)
        + "".join(message["content"] for message in one[1:])
        for one in messages
    ]
    return tokenizer(texts, add_special_tokens=False, padding=True, padding_side="left", return_tensors="pt")


class _LanguageModel:
    def __init__(self, policy: Any, tokenizer: Any, top_k: int):
        self.policy, self.tokenizer, self.top_k = policy, tokenizer, top_k

    async def agenerate(
        self, messages_lst: list[Any], *, max_completion_tokens: int, temperature: float, **other: Any
    ) -> list[dict[str, str]]:
        """The next step of each conversation, with the end token if there is one."""
        rows = [[{"role": one.role, "content": one.content} for one in messages] for messages in messages_lst]
        inputs = _encode(self.tokenizer, rows)
        with torch.inference_mode():
            output = self.policy.generate(
                **inputs, max_new_tokens=max_completion_tokens, do_sample=True, temperature=temperature, top_p=1.0,
                top_k=self.top_k, pad_token_id=self.tokenizer.pad_token_id,
            )  # fmt: skip
        written = output[:, inputs["input_ids"].shape[1] :]
        steps = kept_ids(written, response_mask(written, end_token_ids(self.policy)))
        return [{"role": "assistant", "content": text} for text in self.tokenizer.batch_decode(steps)]


class _RewardModel:
    def __init__(self, reward_model: Any, tokenizer: Any):
        self.reward_model, self.tokenizer = reward_model, tokenizer

    async def ascore(self, prompt: str, responses: list[str]) -> list[float]:
        """The reward r(x, y) - r(x) of each response as a probability, which its-hub turns back into its logarithm."""
        texts = ["", *responses]
        rows = [[{"role": "user", "content": prompt}, {"role": "assistant", "content": text}] for text in texts]
        ids = [_encode(self.tokenizer, [row])["input_ids"][0].tolist() for row in rows]
        start, *ends = sequence_rewards(self.reward_model, ids)
        return torch.tensor([end - start for end in ends]).sigmoid().tolist()
