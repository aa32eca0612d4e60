import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.testing import assert_close

from rgtg_hf.evaluation.divergence import DivergenceRecorder
from rgtg_hf.evaluation.experts import ExpertProcessor
from tests.tiny_models import EOS, PAD, left_padded, tiny_policy

IDS, MASK = left_padded([[1, 5, 6], [1, 7], [1, 8, 9, 10]])
TOLD_IDS, TOLD_MASK = left_padded([[1, 20, 21, 5, 6], [1, 20, 21, 7], [1, 20, 21, 8, 9, 10]])
INPUTS = {"input_ids": IDS, "attention_mask": MASK}
TOLD = {"input_ids": TOLD_IDS, "attention_mask": TOLD_MASK}
SETTINGS = {"do_sample": False, "max_new_tokens": 6, "pad_token_id": PAD, "eos_token_id": EOS}


@pytest.fixture(scope="module")
def tuned():
    return tiny_policy(seed=8)


@pytest.fixture(scope="module")
def base():
    return tiny_policy(seed=9)


def generate(policy, processor, **settings):
    return policy.generate(**INPUTS, **SETTINGS | settings, logits_processor=[processor])


def row_by_row(policy, expert, strength, top_k, base="policy", told=False):
    """Greedy responses from the formula: no cache, no padding, log-probabilities of every model."""
    found = []
    for row in range(3):
        prompt, own = IDS[row][MASK[row] == 1].tolist(), []
        of_expert = TOLD_IDS[row][TOLD_MASK[row] == 1].tolist() if told else prompt
        while len(own) < SETTINGS["max_new_tokens"] and EOS not in own:
            with torch.no_grad():
                plain, moved = (
                    model(torch.tensor([ids + own])).logits[0, -1].log_softmax(-1)
                    for model, ids in ((policy, prompt), (expert, of_expert))
                )
                against = plain if base == "policy" else 0.0
                if isinstance(base, torch.nn.Module):
                    against = base(torch.tensor([prompt + own])).logits[0, -1].log_softmax(-1)
            scores = plain + strength * (moved - against)
            ids = plain.topk(top_k).indices
            own.append(int(ids[scores[ids].argmax()]))
        found.append(own)
    return found


def responses(output):
    rows = output[:, IDS.shape[1] :].tolist()
    return [row[: row.index(EOS) + 1] if EOS in row else row for row in rows]


@pytest.mark.parametrize("strength", [0.7, 2.0])
@pytest.mark.parametrize("top_k", [4, 40])
@pytest.mark.parametrize("method", ["fine-tuned", "told", "proxy", "genarm"])
def test_each_method_is_its_formula(policy, tuned, base, method, strength, top_k):
    expert = policy if method == "told" else tuned
    against = {"proxy": base, "genarm": None}.get(method, "policy")
    prompts = TOLD if method == "told" else None
    processor = ExpertProcessor(expert, strength, top_k, MASK, base=against, prompts=prompts)
    expected = row_by_row(policy, expert, strength, top_k, against, told=method == "told")
    assert responses(generate(policy, processor)) == expected
    assert expected != row_by_row(policy, expert, 0.0, top_k)


def test_the_whole_vocabulary_is_all_candidates(policy, tuned):
    every = generate(policy, ExpertProcessor(tuned, 0.7, policy.config.vocab_size, MASK, base=None))
    assert_close(generate(policy, ExpertProcessor(tuned, 0.7, 0, MASK, base=None)), every)


def test_strength_one_is_the_fine_tuned_policy_on_the_policys_candidates(policy, tuned):
    whole = ExpertProcessor(tuned, 1.0, top_k=policy.config.vocab_size, attention_mask=MASK)
    assert_close(generate(policy, whole), tuned.generate(**INPUTS, **SETTINGS))

    some = ExpertProcessor(tuned, 1.0, top_k=4, attention_mask=MASK)
    with torch.no_grad():
        scores, expected = (model(**INPUTS).logits[:, -1] for model in (policy, tuned))
        moved = some(IDS, scores)
    kept = moved > -torch.inf
    assert_close(kept.sum(-1), torch.full((3,), 4))
    assert_close(scores.topk(4).indices.sort().values, kept.nonzero()[:, 1].view(3, 4))
    assert_close(moved.log_softmax(-1)[kept], expected.masked_fill(~kept, -torch.inf).log_softmax(-1)[kept])


def test_strength_one_of_an_instruction_is_the_policy_that_was_told(policy):
    processor = ExpertProcessor(policy, 1.0, 0, MASK, prompts=TOLD)
    told = policy.generate(**TOLD, **SETTINGS)[:, TOLD_IDS.shape[1] :]
    assert_close(generate(policy, processor)[:, IDS.shape[1] :], told)


def test_strength_zero_is_the_policy_and_more_of_it_diverges_more(policy, tuned):
    divergences = []
    for strength in (0.0, 0.5, 1.0):
        recorder = DivergenceRecorder(ExpertProcessor(tuned, strength, top_k=5, attention_mask=MASK))
        generate(policy, recorder, max_new_tokens=1)
        divergences.append(recorder.divergences(torch.full((3, 1), 5), []).sum().item())
    assert divergences[0] < 1e-6 < divergences[1] < divergences[2]


@pytest.mark.parametrize("resets", [True, False])
def test_one_processor_serves_several_generations(policy, tuned, base, resets):
    processor = ExpertProcessor(tuned, 2.0, 5, MASK, base=base)
    first = generate(policy, processor)
    if resets:
        processor.reset(MASK)
    assert_close(generate(policy, processor), first)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_several_responses_to_a_prompt_and_an_adapter(policy):
    adapter = get_peft_model(tiny_policy(seed=8), LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=False))
    processor = ExpertProcessor(adapter, 1.0, 0, MASK)
    sampled = generate(policy, processor, do_sample=True, top_k=0, num_return_sequences=2)
    assert len(sampled) == 6
    assert_close(generate(policy, ExpertProcessor(adapter, 1.0, 0, MASK)), adapter.generate(**INPUTS, **SETTINGS))


def test_own_prompts_without_a_mask_are_refused(policy):
    with pytest.raises(ValueError, match="`prompts` need `attention_mask=`"):
        ExpertProcessor(policy, prompts=TOLD)


def test_prompts_are_read_without_the_logits_of_all_their_tokens(policy, tuned, monkeypatch):
    widths = []
    head = tuned.lm_head.forward
    monkeypatch.setattr(tuned.lm_head, "forward", lambda states: (widths.append(states.shape[1]), head(states))[1])
    ids = torch.randint(5, 30, (2, 9))
    policy.generate(ids, logits_processor=[ExpertProcessor(tuned, top_k=4)], max_new_tokens=3, do_sample=False)
    assert widths == [1, 1, 1]
