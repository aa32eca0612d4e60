import pytest

from rgtg_hf.decoding.padding import kept_ids
from rgtg_hf.decoding.search_divergence import best_of_n_divergence_bound
from rgtg_hf.evaluation.methods import METHODS, Contestants
from rgtg_hf.rewards.sequence_rewards import sequence_rewards
from tests.tiny_models import PAD, left_padded, tiny_policy, tiny_reward_model, tiny_steering_head

IDS, MASK = left_padded([[1, 5, 6], [1, 7], [1, 8, 9, 10]])
INPUTS = {"input_ids": IDS, "attention_mask": MASK}
TOLD_IDS, TOLD_MASK = left_padded([[1, 20, 21, 5, 6], [1, 20, 21, 7], [1, 20, 21, 8, 9, 10]])
TOLD = {"input_ids": TOLD_IDS, "attention_mask": TOLD_MASK}


class Words:
    pad_token_id = PAD

    def batch_decode(self, ids, skip_special_tokens):
        return [" ".join(str(int(token)) for token in row) for row in ids]


@pytest.fixture(scope="module")
def contestants():
    policy = tiny_policy()
    return Contestants(
        policy,
        Words(),
        reward_model=tiny_reward_model(),
        full_reward_model=tiny_reward_model(seed=5),
        head=tiny_steering_head(policy),
        fine_tuned=tiny_policy(seed=8),
        proxy_tuned=tiny_policy(seed=9),
        proxy_base=tiny_policy(seed=10),
        autoregressive_rm=tiny_policy(seed=11),
        instruction="Answer cheerfully.",
        top_k=5,
        max_new_tokens=5,
        block_size=2,
    )


@pytest.mark.parametrize("method", METHODS)
def test_every_method_answers_every_prompt_and_its_seed_decides(contestants, method):
    first, again = (contestants.respond(method, 2, INPUTS, seed=0, prompted=TOLD) for _ in range(2))
    assert len(first.texts) == len(first.ids) == len(first.divergences) == 3
    assert first.ids == again.ids
    assert all(1 <= len(ids) <= 5 for ids in first.ids)


@pytest.mark.parametrize("method", [name for name, method in METHODS.items() if method.on_frontier])
def test_a_method_on_the_frontier_starts_at_the_sampled_policy(contestants, method):
    start, far = (contestants.respond(method, strength, INPUTS, seed=0, prompted=TOLD) for strength in (0.0, 2.0))
    assert start.ids == contestants.respond("policy", 0.0, INPUTS, seed=0).ids
    assert sum(start.divergences) == pytest.approx(0, abs=1e-6)
    assert sum(far.divergences) > 0


@pytest.mark.parametrize("method", ["best_of_n", "best_of_n_full"])
def test_best_of_n_raises_the_reward_and_reports_the_bound(contestants, method):
    one, many = (contestants.respond(method, n, INPUTS, seed=0) for n in (1, 16))
    before, after = (contestants.steering_rewards(method, INPUTS, sampled) for sampled in (one, many))
    assert sum(after) > sum(before)
    assert many.divergences == [best_of_n_divergence_bound(16)] * 3


def test_steering_rewards_are_those_of_the_model_that_steered(contestants):
    sampled = contestants.respond("args", 2.0, INPUTS, seed=0)
    sequences = [
        prompt + own
        for prompt, own in zip(kept_ids(INPUTS["input_ids"], INPUTS["attention_mask"]), sampled.ids, strict=True)
    ]
    expected = sequence_rewards(contestants.full_reward_model, sequences)
    assert contestants.steering_rewards("args", INPUTS, sampled) == expected
    for method in ("policy", "head", "offline"):
        assert contestants.steering_rewards(method, INPUTS, sampled) is None
