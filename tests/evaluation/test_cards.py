import math
from statistics import fmean

import pytest
import torch

from rgtg_hf.evaluation.cards import cards_responses
from rgtg_hf.evaluation.sampling import sample_responses
from rgtg_hf.rewards.sequence_rewards import sequence_rewards
from tests.enumeration import small_models
from tests.evaluation.test_methods import Words
from tests.families import tiny_language_model
from tests.tiny_models import EOS, left_padded, tiny_reward_model

IDS, MASK = left_padded([[1, 5, 6], [1, 7], [1, 8, 9, 10]])
INPUTS = {"input_ids": IDS, "attention_mask": MASK}
PROMPTS = [[1, 5, 6], [1, 7], [1, 8, 9, 10]]


@pytest.fixture(scope="module")
def reward_model():
    return tiny_reward_model()


def cards(policy, reward_model, inputs=INPUTS, **settings):
    settings = {"target": 1.0, "top_k": 5, "max_new_tokens": 12, "seed": 0} | settings
    return cards_responses(policy, Words(), inputs, reward_model, **settings)


def test_segments_of_one_token_have_the_probabilities_of_rejection_sampling():
    """By enumeration: pi(v) min(1, exp((r(x v) - tau) / temperature)), and -log of their sum in nats."""
    policy, reward_model = small_models()
    prompt, rows, target, temperature = [1, 3, 4], 4000, 0.5, 0.6
    vocabulary = policy.config.vocab_size
    inputs = {"input_ids": torch.tensor([prompt] * rows), "attention_mask": torch.ones(rows, len(prompt)).long()}
    found = cards(
        policy,
        reward_model,
        inputs,
        target=target,
        temperature=temperature,
        top_k=vocabulary,
        max_new_tokens=1,
        max_tries=10_000,
    )
    with torch.no_grad():
        plain = policy(torch.tensor([prompt])).logits[0, -1].softmax(-1)
    rewards = torch.tensor(sequence_rewards(reward_model, [[*prompt, token] for token in range(vocabulary)]))
    accepted = plain * ((rewards - target) / temperature).clamp(max=0).exp()
    expected = accepted / accepted.sum()
    assert 0.05 < accepted.sum() < 0.8  # it rejects much, and not nearly all
    counts = torch.bincount(torch.tensor([ids[0] for ids in found.ids]), minlength=vocabulary) / rows
    errors = (expected * (1 - expected) / rows).sqrt()
    assert ((counts - expected).abs() < 4 * errors).all()
    spread = torch.tensor(found.divergences).std().item() / math.sqrt(rows)
    assert abs(fmean(found.divergences) + math.log(accepted.sum())) < 4 * spread


def test_thresholds_grow_from_between_prompt_and_target_to_the_target(policy, reward_model, monkeypatch):
    """Every probability of acceptance, against the formula written out for the responses that were judged."""
    judged, asked = [], []

    def listening(model, sequences):
        rewards = sequence_rewards(model, sequences)
        judged.append(list(zip(sequences, rewards, strict=True)))
        return rewards

    monkeypatch.setattr("rgtg_hf.evaluation.cards.sequence_rewards", listening)
    exp = math.exp
    monkeypatch.setattr("rgtg_hf.evaluation.cards.math.exp", lambda value: asked.append(value) or exp(value))
    one = {"input_ids": torch.tensor([PROMPTS[0]]), "attention_mask": torch.ones(1, 3).long()}
    cards(policy, reward_model, one, target=2.0, alpha=0.3, temperature=0.9, entropy=0.0)
    (_, of_prompt), *tried = [pair for batch in judged for pair in batch]
    start = 0.7 * of_prompt + 0.3 * 2.0
    for (sequence, reward), value in zip(tried, asked, strict=True):
        threshold = start + (2.0 - start) * (len(sequence) - 3) / 12
        assert value == pytest.approx(min(0.0, (reward - threshold) / 0.9))


def test_a_segment_ends_before_the_first_unsure_token(policy, reward_model, monkeypatch):
    lengths = []

    def listening(model, sequences):
        lengths.append([len(sequence) for sequence in sequences])
        return sequence_rewards(model, sequences)

    monkeypatch.setattr("rgtg_hf.evaluation.cards.sequence_rewards", listening)
    found = cards(policy, reward_model, target=-1e9, entropy=2.0, segment=(2, 9))  # all segments are accepted
    cuts = [[] for _ in PROMPTS]
    active = list(range(3))
    for batch in lengths[1:]:
        for row, length in zip(active, batch, strict=True):
            cuts[row].append(length - len(PROMPTS[row]))
        active = [row for row in active if cuts[row][-1] < len(found.ids[row])]
    for prompt, ids, ends in zip(PROMPTS, found.ids, cuts, strict=True):
        with torch.no_grad():
            logits = policy(torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 :]
        entropies = torch.distributions.Categorical(logits=logits).entropy().tolist()
        expected, last = [], 0
        for place in range(1, len(ids) + 1):
            unsure = place - last >= 2 and entropies[place] >= 2.0
            if place == len(ids) or place - last == 9 or unsure:
                expected.append(place)
                last = place
        assert ends == expected
    assert sum(map(len, cuts)) > 3


def test_what_is_always_accepted_has_the_policys_distribution(policy, reward_model):
    found = cards(policy, reward_model, target=-1e9, entropy=1e9)
    plain = sample_responses(policy, Words(), INPUTS, top_k=5, max_new_tokens=12, seed=0)
    assert found.ids == plain.ids
    assert found.divergences == [0.0] * 3
    assert found.log_likelihoods == pytest.approx(plain.log_likelihoods, rel=1e-4)


def test_what_is_never_accepted_is_the_best_of_the_tries(policy, reward_model):
    found = cards(policy, reward_model, target=1e9, entropy=1e9, max_tries=6)
    drawn = [sample_responses(policy, Words(), INPUTS, top_k=5, max_new_tokens=12, seed=s).ids for s in range(30)]
    typical = [
        fmean(sequence_rewards(reward_model, [prompt + draw[row] for draw in drawn]))
        for row, prompt in enumerate(PROMPTS)
    ]
    best = sequence_rewards(reward_model, [prompt + ids for prompt, ids in zip(PROMPTS, found.ids, strict=True)])
    assert all(one > other for one, other in zip(best, typical, strict=True))
    assert found.divergences == pytest.approx([sum(1 / n for n in range(1, 7))] * 3)


@pytest.mark.filterwarnings("ignore:`input_embeds` is deprecated:FutureWarning")
@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen2", "bloom", "gemma3_text", "openai-gpt", "mamba"])
def test_prompts_are_read_once_where_that_changes_nothing(family, monkeypatch):
    policy = tiny_language_model(family).eval()
    reward_model = tiny_reward_model(vocab_size=policy.config.vocab_size)
    read = []
    policy.get_input_embeddings().register_forward_hook(lambda module, inputs, output: read.append(inputs[0].numel()))

    def drawn():
        read.clear()
        settings = {"entropy": 2.0, "segment": (1, 4), "max_tries": 4}
        found = [cards(policy, reward_model, seed=seed, **settings) for seed in range(3)]
        assert len({nats for one in found for nats in one.divergences}) > 1  # some segments were rejected
        return [(one.ids, one.divergences) for one in found], sum(read)

    once, seldom = drawn()
    monkeypatch.setattr("rgtg_hf.evaluation.cards.prompt_cache", lambda policy, inputs: {})
    again, often = drawn()
    assert once == again
    assert (seldom < often) == (family in ("llama", "gpt2", "qwen2"))


def test_responses_end_at_the_end_token_or_the_limit(policy, reward_model):
    ids = cards(policy, reward_model, seed=3).ids
    assert all(len(one) == 12 or one[-1] == EOS for one in ids)
    assert all(EOS not in one[:-1] for one in ids)
