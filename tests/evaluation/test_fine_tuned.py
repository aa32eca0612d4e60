import torch
from torch.testing import assert_close

from rgtg_hf.evaluation.divergence import DivergenceRecorder
from rgtg_hf.evaluation.fine_tuned import FineTunedProcessor
from tests.tiny_models import EOS, PAD, left_padded, tiny_policy

IDS, MASK = left_padded([[1, 5, 6], [1, 7], [1, 8, 9, 10]])
INPUTS = {"input_ids": IDS, "attention_mask": MASK}
SETTINGS = {"do_sample": False, "max_new_tokens": 6, "pad_token_id": PAD, "eos_token_id": EOS}


def generate(policy, processor, **settings):
    return policy.generate(**INPUTS, **SETTINGS | settings, logits_processor=[processor])


def test_strength_one_is_the_fine_tuned_policy_on_the_policys_candidates(policy):
    tuned = tiny_policy(seed=8)
    whole = FineTunedProcessor(tuned, 1.0, top_k=policy.config.vocab_size, attention_mask=MASK)
    assert_close(generate(policy, whole), tuned.generate(**INPUTS, **SETTINGS))

    some = FineTunedProcessor(tuned, 1.0, top_k=4, attention_mask=MASK)
    with torch.no_grad():
        scores, expected = (model(**INPUTS).logits[:, -1] for model in (policy, tuned))
        moved = some(IDS, scores)
    kept = moved > -torch.inf
    assert_close(kept.sum(-1), torch.full((3,), 4))
    assert_close(scores.topk(4).indices.sort().values, kept.nonzero()[:, 1].view(3, 4))
    assert_close(moved.log_softmax(-1)[kept], expected.masked_fill(~kept, -torch.inf).log_softmax(-1)[kept])


def test_strength_zero_is_the_policy_and_more_of_it_diverges_more(policy):
    tuned = tiny_policy(seed=8)
    divergences = []
    for strength in (0.0, 0.5, 1.0):
        processor = FineTunedProcessor(tuned, strength, top_k=5, attention_mask=MASK)
        recorder = DivergenceRecorder(processor)
        generate(policy, recorder, max_new_tokens=1)
        divergences.append(recorder.divergences(torch.full((3, 1), 5), []).sum().item())
    assert divergences[0] < 1e-6 < divergences[1] < divergences[2]


def test_one_processor_serves_several_generations(policy):
    tuned = tiny_policy(seed=8)
    processor = FineTunedProcessor(tuned, 2.0, top_k=5, attention_mask=MASK)
    first = generate(policy, processor)
    processor.reset(MASK)
    assert_close(generate(policy, processor), first)
