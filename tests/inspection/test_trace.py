import pytest
import torch

from rgtg_hf import RewardGuidedLogitsProcessor
from rgtg_hf.inspection.inspect import encode_prompt
from rgtg_hf.inspection.trace import Tracer


def test_characters_of_several_tokens_come_whole_and_none_is_lost(policy, tokenizer, reward_model):
    ids = encode_prompt(tokenizer, "Hi!")
    processor = RewardGuidedLogitsProcessor(reward_model, top_k=5, collect_records=True)
    written = tokenizer("aß€🙂\n")["input_ids"] + tokenizer("🙂")["input_ids"][:2]
    tracer = Tracer(processor, tokenizer)
    tracer.put(ids)
    for position, token in enumerate(written):  # whatever is likely, these are the tokens that come
        with torch.no_grad():
            prefix = torch.cat([ids, torch.tensor([written[:position]], dtype=torch.long)], dim=1)
            processor(prefix, policy(prefix).logits[:, -1])
            tracer.put(torch.tensor([token]))
    tracer.end()
    texts = [step.text for step in tracer.trace.steps]
    assert [text for text in texts if text] == ["a", "ß", "€", "🙂", "\n", "\N{REPLACEMENT CHARACTER}"]


def test_a_trace_follows_one_prompt_and_needs_records(policy, tokenizer, reward_model):
    processor = RewardGuidedLogitsProcessor(reward_model, top_k=5)
    with pytest.raises(ValueError, match="collect_records"):
        policy.generate(
            torch.tensor([[5, 6]]),
            logits_processor=[processor],
            streamer=Tracer(processor, tokenizer),
            max_new_tokens=2,
            do_sample=False,
        )
    with pytest.raises(ValueError, match="one prompt"):
        Tracer(processor, tokenizer).put(torch.tensor([[5, 6], [7, 8]]))
