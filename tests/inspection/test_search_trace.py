"""The text of a search appears while it grows. What its trace says: test_inspect.py."""

import torch

from rgtg_hf import RewardGuidanceConfig
from rgtg_hf.config import resolve_guidance
from rgtg_hf.inspection.inspect import encode_prompt, trace_response
from rgtg_hf.inspection.search_trace import Follow


def test_text_appears_block_by_block_without_rewards(policy, tokenizer, reward_model):
    config = RewardGuidanceConfig(search="best", num_rows=3, block_size=2, beta=1.0, top_k=5)
    grown = []

    def on_step(trace):
        grown.append([(step.text, step.reward, step.candidates) for step in trace.steps])

    torch.manual_seed(0)
    ids = encode_prompt(tokenizer, "Hi!")
    trace = trace_response(
        policy, tokenizer, reward_model, ids, resolve_guidance({}, config).config, do_sample=True, max_new_tokens=8,
        on_step=on_step,
    )  # fmt: skip
    assert [len(steps) for steps in grown[:3]] == [2, 4, 6]
    for steps in grown:
        assert [text for text, _, _ in steps] == [step.text for step in trace.steps[: len(steps)]]
        assert all(not reward and not candidates for _, reward, candidates in steps)
    assert all(step.candidates for step in trace.steps)
    assert trace.seconds > 0


def test_given_responses_of_different_lengths_are_written(policy):
    responses, prompts = [[5, 6, 7], [8]], torch.tensor([[3, 4], [9, 10]])
    written = policy.generate(
        prompts, logits_processor=[Follow(responses, 0)], max_new_tokens=3, eos_token_id=None, do_sample=False
    )
    assert written[:, 2:].tolist() == [[5, 6, 7], [8, 0, 0]]
