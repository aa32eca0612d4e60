"""Rollouts: responses of the policy itself, each with its reward. A value is learned from them."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from transformers import LogitsProcessor

from rgtg_hf.arguments import check_count
from rgtg_hf.decoding.logits_processor import RewardGuidedLogitsProcessor
from rgtg_hf.decoding.padding import kept_ids
from rgtg_hf.evaluation.divergence import response_mask
from rgtg_hf.evaluation.gold_models import Gold, rate
from rgtg_hf.evaluation.log_ratios import RatioRecorder
from rgtg_hf.evaluation.prompts import Prompt, as_messages, encode_batch, last_message
from rgtg_hf.evaluation.sampling import end_token_ids, sample_ids
from rgtg_hf.serving.engines import Engine, Written

__all__ = ["pairs_of_rollouts", "rollouts"]


def rollouts(
    policy: Any,
    tokenizer: Any,
    prompts: Sequence[Prompt],
    reward: Gold,
    *,
    num_responses: int = 8,
    top_k: int = 10,
    max_new_tokens: int = 128,
    seed: int = 0,
    chat_template: bool = True,
    processor: LogitsProcessor | None = None,
) -> list[dict[str, Any]]:
    """Samples several responses to each prompt and rates them, in one batch of `len(prompts) * num_responses` rows.

    Args:
        policy: A causal language model, or an [engine][rgtg_hf.serving.engines] that writes in its place.
        tokenizer: Its tokenizer.
        prompts: Texts, or lists of messages with `role` and `content`.
        reward: A function of prompts and responses, two lists of texts, that returns one number for each. For a prompt
            of messages it gets the last message. [`load_gold`][rgtg_hf.evaluation.gold_models.load_gold] makes one
            from a name.
        num_responses: Responses to each prompt.
        top_k: Responses are sampled at temperature 1 from this many of the policy's most likely tokens at each step.
            Take the number that guidance will have, 10 by default: a value holds for the candidates it was learned
            from.
        max_new_tokens: Largest number of tokens of a response.
        seed: Seed of the batch. The global random state is set. An engine has a random state of its own.
        chat_template: Render the prompts with the tokenizer's chat template, if it has one; a text becomes the user's
            message. Otherwise the text is continued as it is.
        processor: Guides the policy, with the same `top_k`; not with an engine. The trainer weighs the rows by their
            `log_ratios`, so that they stand for responses of the policy in places where it seldom goes.

    Returns:
        A row for each response, those of a prompt together, with `prompt` and `completion` (lists of messages where
        the chat template was used, else texts), `reward`, `finished` (whether it ended by itself), and `prompt_ids`
        and `completion_ids`, the tokens that were read and written, an end token among them; and `log_ratios`,
        log pi_LM(v) - log pi(v) of each token, pi being the guided policy; 0 without a processor.

    Raises:
        TypeError: If a number has another type.
        ValueError: If a number is out of range, a prompt cannot be encoded, a processor comes with an engine, or the
            reward does not return one finite number for each response.

    Example:
        ```python
        from rgtg_hf.evaluation.rollouts import rollouts

        def short(prompts, responses):
            return [-float(len(response)) for response in responses]

        def collect(policy, tokenizer):
            return rollouts(policy, tokenizer, ["Tell me a story."], short, num_responses=4, max_new_tokens=8)
        ```
    """
    for name, number in (("num_responses", num_responses), ("top_k", top_k), ("max_new_tokens", max_new_tokens)):
        check_count(name, number)
    inputs = encode_batch(tokenizer, prompts, chat_template=chat_template)
    prompt_ids = kept_ids(inputs["input_ids"], inputs["attention_mask"])
    shared: dict[str, Any] = {"top_k": top_k, "max_new_tokens": max_new_tokens}
    recorder = None if processor is None else RatioRecorder(processor)
    if isinstance(policy, Engine):
        if processor is not None:
            raise ValueError("A processor guides `generate()` alone: give the policy itself in place of an engine.")
        written = policy.write(prompt_ids, num_responses=num_responses, **shared)
    else:
        inputs = dict(inputs.to(policy.device))
        if isinstance(processor, RewardGuidedLogitsProcessor):
            processor.set_prompts(attention_mask=inputs["attention_mask"])
        response_ids = sample_ids(
            policy, inputs, seed=seed, processor=recorder, responses_per_prompt=num_responses, **shared
        )
        ends = end_token_ids(policy)
        kept = kept_ids(response_ids, response_mask(response_ids, ends))
        written = [Written(ids, bool(ids) and ids[-1] in ends) for ids in kept]
    texts = tokenizer.batch_decode([one.ids for one in written], skip_special_tokens=True)
    rewards = rate(reward, [last_message(prompt) for prompt in prompts for _ in range(num_responses)], texts)
    with_template = chat_template and bool(tokenizer.chat_template)
    every = [one.ids for one in written]
    ratios = [[0.0] * len(ids) for ids in every] if recorder is None else recorder.log_ratios(every)
    rows = []
    for place, (text, one) in enumerate(zip(texts, written, strict=True)):
        prompt: Any = prompts[place // num_responses]
        completion: Any = text
        if with_template:
            prompt = as_messages(prompt)
            completion = [{"role": "assistant", "content": text}]
        rows.append(
            {
                "prompt": prompt,
                "completion": completion,
                "reward": rewards[place],
                "finished": one.finished,
                "prompt_ids": prompt_ids[place // num_responses],
                "completion_ids": one.ids,
                "log_ratios": [round(ratio, 6) for ratio in ratios[place]],
            }
        )
    return rows


def pairs_of_rollouts(rows: Iterable[dict[str, Any]], seed: int = 0) -> list[dict[str, Any]]:
    """Makes preference pairs of rollouts, for `PrefixRewardTrainer`.

    The responses to a prompt stand in a random ring, and each is compared with the next one. So all of them are used,
    and not only the best and the worst: steering has to tell apart what the policy usually writes.

    Args:
        rows: Rows of [`rollouts`].
        seed: Seed of the order.

    Returns:
        Rows with `chosen_ids`, `rejected_ids` and `prompt_length`. Responses with equal rewards make no pair.

    Example:
        ```python
        from rgtg_hf.evaluation.rollouts import pairs_of_rollouts

        rows = [{"prompt_ids": [5], "completion_ids": [one], "reward": float(one)} for one in (6, 7)]
        pairs = pairs_of_rollouts(rows)
        assert pairs == [{"chosen_ids": [5, 7], "rejected_ids": [5, 6], "prompt_length": 1}]
        ```
    """
    order = random.Random(seed)
    by_prompt: dict[tuple[int, ...], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        by_prompt[tuple(row["prompt_ids"])].append(row)
    pairs = []
    for prompt, ring in by_prompt.items():
        order.shuffle(ring)
        neighbours = list(zip(ring, ring[1:] + ring[:1], strict=True))
        for one, other in neighbours if len(ring) > 2 else neighbours[:1]:
            worse, better = sorted((one, other), key=lambda row: row["reward"])
            if better["reward"] > worse["reward"]:
                pairs.append(
                    {
                        "chosen_ids": [*prompt, *better["completion_ids"]],
                        "rejected_ids": [*prompt, *worse["completion_ids"]],
                        "prompt_length": len(prompt),
                    }
                )
    return pairs
