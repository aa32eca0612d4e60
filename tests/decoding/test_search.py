"""Search: with one row it is decoding, its caches change nothing, and its particles find the RLHF optimum."""

from functools import partial

import pytest
import torch
from torch.testing import assert_close
from transformers import JambaForCausalLM, LogitsProcessor, LogitsProcessorList
from transformers.generation import StoppingCriteria, StoppingCriteriaList

from rgtg_hf import (
    RewardGuidanceConfig,
    RewardGuidedLogitsProcessor,
    prefix_rewards,
    reward_guided_generate,
    steering,
)
from rgtg_hf.config import SEARCHES
from rgtg_hf.decoding.hub import generate_by_name
from tests.decoding.test_generation import Collect
from tests.decoding.test_reward_kinds import TOKENIZER, kinds
from tests.enumeration import enumerated, small_models
from tests.tiny_models import (
    EOS,
    FAMILIES,
    PAD,
    left_padded,
    tiny_next_token_model,
    tiny_policy,
    tiny_reward_model,
    tiny_steering_head,
)

PROMPTS = [[5, 6, 7, 8], [9, 10], [11, 12, 13]]
SELECTIONS = [name for name in SEARCHES if name != "tokens"]
# What is generated is told from padding by its ids.
SHORT = {"max_new_tokens": 11, "do_sample": True, "suppress_tokens": [PAD]}
ENDS = [EOS, 7, 19, 27]


def searched(policy, reward_model, search, rows=PROMPTS, seed=0, way=reward_guided_generate, **settings):
    ids, mask = left_padded(rows)
    torch.manual_seed(seed)
    settings = {"beta": 2.0, "top_k": 6, "num_rows": 4, "block_size": 3} | settings
    return policy.generate(
        ids,
        attention_mask=mask,
        custom_generate=way,
        reward_model=reward_model,
        search=search,
        **SHORT | settings,
    )


class Noise(LogitsProcessor):
    """Makes sampling a function of a row's tokens and its place among the rows of its prompt, whatever the batch."""

    def __init__(self, rows_per_prompt):
        self.rows_per_prompt = rows_per_prompt

    def __call__(self, input_ids, scores):
        chosen = torch.full_like(scores, float("-inf"))
        for row, ids in enumerate(input_ids.tolist()):
            real = [id_ for id_ in ids if id_ != PAD]
            seed = hash((tuple(real), row % self.rows_per_prompt)) % 2**31
            noise = -torch.empty(scores.shape[1]).exponential_(generator=torch.Generator().manual_seed(seed)).log()
            chosen[row, (scores[row] + noise).argmax()] = 0.0
        return chosen


@pytest.mark.parametrize("top_k", [0, 6])
@pytest.mark.parametrize("search", SELECTIONS)
def test_one_row_is_plain_sampling_with_the_same_seed(policy, reward_model, search, top_k):
    ids, mask = left_padded(PROMPTS)
    ending = {"eos_token_id": ENDS, "max_new_tokens": 30}
    found = searched(policy, reward_model, search, num_rows=1, top_k=top_k, **ending)
    torch.manual_seed(0)
    plain = policy.generate(ids, attention_mask=mask, **SHORT | ending | {"top_k": top_k})
    assert (plain[:, 4:] == PAD).any()
    assert torch.equal(found, plain)


def test_particles_without_reward_are_plain_sampling_with_the_same_seed(policy, reward_model):
    ids, mask = left_padded(PROMPTS)
    settings = {"eos_token_id": ENDS, "max_new_tokens": 30, "num_return_sequences": 4}
    found = searched(policy, reward_model, "resample", beta=0.0, **settings)
    torch.manual_seed(0)
    plain = policy.generate(ids, attention_mask=mask, **SHORT | settings | {"top_k": 6})
    assert torch.equal(found, plain)


FAMILIES_AND_SELECTIONS = [(family, "best") for family in FAMILIES] + [("llama", search) for search in SELECTIONS[1:]]


@pytest.mark.parametrize(("family", "search"), FAMILIES_AND_SELECTIONS)
def test_caches_of_reward_model_and_policy_change_no_token(policy, search, family):
    reward_model = tiny_reward_model(family)
    found = searched(policy, reward_model, search, num_return_sequences=2)
    slow = searched(policy, reward_model, search, num_return_sequences=2, scorer="reference", use_cache=False)
    assert torch.equal(found, slow)


@pytest.mark.parametrize("search", SELECTIONS)
def test_a_recurrent_policy_is_searched(reward_model, search):
    torch.manual_seed(0)
    config_class, _, settings, _ = FAMILIES["jamba"]
    policy = JambaForCausalLM(config_class(**settings)).eval()
    prompts = [[5, 6, 7, 8], [9, 10, 11, 12]]
    found = searched(policy, reward_model, search, prompts)
    assert torch.equal(found, searched(policy, reward_model, search, prompts, use_cache=False))


@pytest.mark.parametrize("search", SELECTIONS)
@pytest.mark.parametrize("kind", ["next token", "head"])
def test_next_token_models_and_heads_are_searched_with(policy, search, kind):
    model = tiny_next_token_model() if kind == "next token" else tiny_steering_head(policy)
    found = searched(policy, model, search, return_dict_in_generate=True)
    assert torch.equal(found.sequences, searched(policy, model, search, scorer="reference", use_cache=False))
    rewards = [float(prefix_rewards(model, row[row != PAD][None])[0, -1].detach()) for row in found.sequences]
    starts = [float(prefix_rewards(model, torch.tensor([row]))[0, -1].detach()) for row in PROMPTS]
    assert_close(found.rewards, torch.tensor(rewards) - torch.tensor(starts), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("search", "kind"),
    [(search, kind) for kind in kinds() for search in SELECTIONS if search == "best" or kind == "several"],
)
def test_rewards_through_text_are_searched_with(search, kind):
    special = {name: getattr(TOKENIZER, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    policy = tiny_policy(vocab_size=len(TOKENIZER), **special)
    rows = TOKENIZER(["the cat", "a dog sat on the mat"])["input_ids"]
    way = partial(reward_guided_generate, tokenizer=TOKENIZER)
    found, slow = (
        searched(policy, search=search, rows=rows, way=way, scorer=scorer, **kinds()[kind])
        for scorer in ("auto", "reference")
    )
    assert torch.equal(found, slow)


@pytest.mark.parametrize("search", ["best", "halve", "none"])  # particles draw from the one stream of random numbers
def test_a_prompt_gets_the_same_response_alone_in_a_batch_and_in_a_split_batch(policy, reward_model, search):
    noise = LogitsProcessorList([Noise(4)]) if search != "halve" else LogitsProcessorList([Noise(1)])
    settings = {"logits_processor": noise, "block_size": 4, "max_new_tokens": 20}
    search_rows = partial(searched, policy, reward_model, search, **settings)
    together = search_rows()
    assert torch.equal(together, search_rows(max_rows=4))
    assert torch.equal(together, search_rows(max_rows=9))
    width = max(map(len, PROMPTS))
    for row, prompt in enumerate(PROMPTS):
        alone = search_rows([prompt])[0, len(prompt) :]
        batched = together[row, width:]
        assert batched[: len(alone)].tolist() == alone.tolist()
        assert (batched[len(alone) :] == PAD).all()


COPIES = 800


@pytest.fixture(scope="module")
def small():
    return small_models()


def particles(small, rows, copies, seed=0, **settings):
    policy, reward_model = small
    settings = {"beta": 1.0, "top_k": 0, "block_size": 1, "max_new_tokens": 3, "suppress_tokens": None} | settings
    settings |= {"scorer": "expand"}  # which reads all rows as one padded batch
    return searched(
        policy,
        reward_model,
        "resample",
        [[3, 4]] * copies,
        seed,
        num_rows=rows,
        return_dict_in_generate=True,
        **settings,
    )


def test_particles_converge_to_the_rlhf_optimum(small):
    responses, likelihoods, rewards = enumerated(*small, [3, 4], 3)
    optimum = (likelihoods + rewards).softmax(0)
    codes = {tuple(row): place for place, row in enumerate(responses.tolist())}
    distances = []
    for rows in (1, 4, 16):
        found = particles(small, rows, COPIES).sequences[:, 2:].tolist()
        counts = torch.bincount(torch.tensor([codes[tuple(row)] for row in found]), minlength=len(codes))
        distances.append(float((counts / len(found) - optimum).abs().sum() / 2))
    policy_distance = float((likelihoods.exp() - optimum).abs().sum() / 2)
    noise = float((optimum * 2 / torch.pi / COPIES).sqrt().sum()) / 2  # of as many draws from the optimum itself
    assert distances[0] > distances[1] > distances[2]
    assert distances[0] > policy_distance - noise
    assert distances[2] < noise + 0.15 * policy_distance


def test_softened_draws_converge_to_the_optimum_too(small):
    _, likelihoods, rewards = enumerated(*small, [3, 4], 3)
    expected = float(((likelihoods + rewards).softmax(0) * rewards).sum())
    found = particles(small, 32, 200, soften=0.9)
    assert (found.effective_sizes < 16).any()
    assert abs(float(found.rewards.mean()) - expected) < 3 * float(found.rewards.std()) / len(found.rewards) ** 0.5


@pytest.mark.parametrize(("guided", "soften"), [(False, 0.0), (True, 0.0), (False, 0.9)])
@pytest.mark.parametrize("block_size", [1, 2])
def test_the_normalizer_is_unbiased(small, guided, soften, block_size):
    _, likelihoods, rewards = enumerated(*small, [3, 4], 3)
    expected = float((likelihoods + rewards).logsumexp(0).exp())
    processors = LogitsProcessorList([RewardGuidedLogitsProcessor(small[1], beta=0.7, top_k=0)] if guided else [])
    settings = {"block_size": block_size, "logits_processor": processors, "soften": soften}
    found = particles(small, 3, 400, **settings).log_normalizer.exp()
    assert abs(float(found.mean()) - expected) < 4 * float(found.std()) / len(found) ** 0.5


@pytest.mark.parametrize("search", SELECTIONS)
def test_all_rows_are_in_the_result(policy, reward_model, search):
    shared = {"num_rows": 4, "return_dict_in_generate": True, "num_return_sequences": 2 if search == "halve" else 4}
    whole, split = (searched(policy, reward_model, search, **shared, max_rows=rows) for rows in (0, 8))
    for found in (whole, split):
        rows = len(found.row_sequences) // len(PROMPTS)
        assert rows == (4 if search != "halve" else 2)
        assert_close(found.row_weights.reshape(-1, rows).sum(-1), torch.ones(len(PROMPTS)))
        assert len(found.row_rewards) == len(found.row_sequences)
        for row, sequence in enumerate(found.sequences):
            prompt = row // shared["num_return_sequences"]
            own = slice(prompt * rows, (prompt + 1) * rows)
            same = (found.row_sequences[own] == sequence).all(-1)
            assert same.any()
            assert found.rewards[row] in found.row_rewards[own][same]
            assert found.weights[row] in found.row_weights[own][same]
        if search == "resample":
            assert found.effective_sizes.shape == (len(PROMPTS), 4)
            assert (found.effective_sizes >= 1).all()
            assert (found.effective_sizes <= 4 + 1e-4).all()
        else:
            assert found.effective_sizes is None


@pytest.mark.parametrize("search", SELECTIONS)
def test_the_best_rows_or_drawn_ones_are_returned(policy, reward_model, search):
    shared = {"return_dict_in_generate": True, "num_return_sequences": 2, "beta": 3.0}
    best, drawn, auto = (
        searched(policy, reward_model, search, search_return=wish, **shared) for wish in ("best", "draw", "auto")
    )
    rows = len(best.row_sequences) // len(PROMPTS)
    highest = best.row_rewards.reshape(-1, rows).topk(2).values
    assert_close(best.rewards.reshape(-1, 2), highest)
    assert torch.equal(auto.sequences, (drawn if search == "resample" else best).sequences)
    if search != "resample":
        expected = (3.0 * drawn.row_rewards.reshape(-1, rows)).softmax(-1)
        assert_close(drawn.row_weights.reshape(-1, rows), expected)


def test_rows_drawn_in_the_end_are_self_normalized_importance_samples(small):
    _, likelihoods, rewards = enumerated(*small, [3, 4], 3)
    expected = float(((likelihoods + rewards).softmax(0) * rewards).sum())
    settings = {"beta": 1.0, "top_k": 0, "max_new_tokens": 3, "suppress_tokens": None, "num_rows": 32}
    found = searched(
        *small, "none", [[3, 4]] * 200, search_return="draw", return_dict_in_generate=True, scorer="expand", **settings
    ).rewards
    policy_mean = float((likelihoods.exp() * rewards).sum())
    error = float(found.std()) / len(found) ** 0.5
    assert abs(float(found.mean()) - expected) < 4 * error
    assert abs(policy_mean - expected) > 4 * error


def test_a_head_guides_the_rows_of_a_search(policy, reward_model):
    head = tiny_steering_head(policy)
    plain = searched(policy, reward_model, "best")
    with steering(policy, [(head, 3.0)]) as processor:
        found = searched(policy, reward_model, "best", logits_processor=LogitsProcessorList([processor]))
        again = searched(policy, reward_model, "best", logits_processor=LogitsProcessorList([processor]))
    assert torch.equal(found, again)
    assert not torch.equal(found, plain)


@pytest.mark.parametrize("search", ["best", "halve", "none"])
def test_the_best_rows_are_returned_in_order_with_their_rewards(policy, reward_model, search):
    found = searched(policy, reward_model, search, num_return_sequences=3, return_dict_in_generate=True)
    rewards = found.rewards.reshape(len(PROMPTS), 3)
    assert torch.equal(rewards, rewards.sort(-1, descending=True).values)
    for row, sequence in enumerate(found.sequences):
        prompt = PROMPTS[row // 3]
        ids = torch.tensor([[*prompt, *[token for token in sequence[4:].tolist() if token != PAD]]])
        read = prefix_rewards(reward_model, ids)[0]
        assert_close(found.rewards[row], (read[-1] - read[len(prompt) - 1]).detach(), atol=1e-4, rtol=1e-4)
    assert found.log_normalizer is None


def test_choosing_in_the_end_is_best_of_n_of_plain_sampling(policy, reward_model):
    ids, mask = left_padded(PROMPTS)
    found = searched(policy, reward_model, "none", num_rows=8, return_dict_in_generate=True)
    torch.manual_seed(0)
    plain = policy.generate(ids, attention_mask=mask, num_return_sequences=8, **SHORT, top_k=6)
    best = []
    for row, sequence in enumerate(plain):
        response = sequence[4:].tolist()
        response = response[: response.index(EOS) + 1] if EOS in response else response
        read = prefix_rewards(reward_model, torch.tensor([PROMPTS[row // 8] + response]))
        best.append(read[0, -1].item())
    places = torch.tensor(best).reshape(-1, 8).argmax(-1) + 8 * torch.arange(len(PROMPTS))
    assert torch.equal(found.sequences, plain[places][:, : found.sequences.shape[1]])


def test_halving_writes_fewer_tokens(policy, reward_model):
    steps = []

    class Count(LogitsProcessor):
        def __call__(self, input_ids, scores):
            steps.append(len(input_ids))
            return scores.index_fill(1, torch.tensor([EOS]), float("-inf"))

    searched(policy, reward_model, "halve", num_rows=8, logits_processor=LogitsProcessorList([Count()]))
    rows = [count // len(PROMPTS) for count in steps]
    assert rows == [8] * 3 + [4] * 3 + [2] * 3 + [1] * 2


def test_a_negative_beta_prefers_low_rewards_and_zero_none(policy, reward_model):
    high, low = (
        searched(policy, reward_model, "none", beta=beta, return_dict_in_generate=True).rewards for beta in (1.0, -1.0)
    )
    assert (low < high).all()
    assert torch.equal(
        searched(policy, reward_model, "best", beta=0.0)[:1, :7],
        searched(policy, reward_model, "none", beta=0.0)[:1, :7],
    )


class StopAt(StoppingCriteria):
    def __init__(self, token):
        self.token = token

    def __call__(self, input_ids, scores, **kwargs):
        return input_ids[:, -1] == self.token


@pytest.mark.parametrize("search", SELECTIONS)
def test_rows_end_by_any_criterion_inside_a_block(policy, reward_model, search):
    found = searched(
        policy,
        reward_model,
        search,
        num_return_sequences=4 if search != "halve" else 1,
        stopping_criteria=StoppingCriteriaList([StopAt(19)]),
        eos_token_id=[EOS, 7],
        max_new_tokens=25,
    )
    ended = False
    for response in found[:, 4:].tolist():
        ends = [place for place, token in enumerate(response) if token in (EOS, 7, 19)]
        if ends:
            ended = True
            assert all(token == PAD for token in response[ends[0] + 1 :])
    assert ended


@pytest.mark.parametrize("search", SELECTIONS)
def test_a_streamer_gets_what_is_returned(policy, reward_model, search):
    streamer = Collect()
    way = partial(reward_guided_generate, streamer=streamer)
    found = searched(policy, reward_model, search, PROMPTS[:1], way=way)
    assert streamer.tokens == found[0].tolist()
    assert streamer.ended


def test_every_way_in_and_the_file_search_alike(policy, guided_policy, reward_model, tmp_path):
    expected = searched(policy, reward_model, "best")
    reward_model.save_pretrained(tmp_path)
    RewardGuidanceConfig(beta=2.0, top_k=6, search="best", block_size=3).save_pretrained(tmp_path)
    saved = type(reward_model).from_pretrained(tmp_path)
    ids, mask = left_padded(PROMPTS)
    inputs = {"input_ids": ids, "attention_mask": mask} | SHORT
    given = {"beta": 2.0, "top_k": 6, "search": "best", "block_size": 3}
    for run in (
        partial(guided_policy.generate, reward_model=reward_model, **given),
        partial(guided_policy.generate, reward_model=saved),
        partial(policy.generate, custom_generate=reward_guided_generate, reward_model=saved),
        partial(generate_by_name, policy, str(tmp_path)),
    ):
        torch.manual_seed(0)
        assert torch.equal(run(**inputs), expected)


def test_sampling_is_what_a_search_does_without_being_told(policy, reward_model):
    ids, mask = left_padded(PROMPTS)
    torch.manual_seed(0)
    found = policy.generate(
        ids,
        attention_mask=mask,
        custom_generate=reward_guided_generate,
        reward_model=reward_model,
        search="best",
        block_size=3,
        beta=2.0,
        top_k=6,
        max_new_tokens=11,
        suppress_tokens=[PAD],
    )
    assert torch.equal(found, searched(policy, reward_model, "best"))


def test_the_processor_says_that_it_cannot_search(reward_model):
    with pytest.raises(ValueError, match="custom_generate=reward_guided_generate"):
        RewardGuidedLogitsProcessor(reward_model, search="best")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_beams": 2}, "use num_rows"),
        ({"num_return_sequences": 5}, "no more rows to return"),
        ({"output_scores": True, "return_dict_in_generate": True}, "does not go with a search"),
        ({"max_rows": 3}, "one prompt alone has num_rows=4"),
        ({"way": partial(reward_guided_generate, streamer=Collect())}, "follows one response"),
        ({"reward_prompts": [[5]]}, "1 `reward_prompts` for 3 prompts"),
        ({"num_rows": 0}, "`num_rows` is 0"),
        ({"block_size": 2.5}, "`block_size` is 2.5"),
    ],
)
def test_what_does_not_go_with_a_search_is_refused_in_words(policy, reward_model, settings, message):
    with pytest.raises((ValueError, TypeError), match=message):
        searched(policy, reward_model, "best", **settings)
    with pytest.raises(ValueError, match="`search` is 'beam'"):
        searched(policy, reward_model, "beam")
