"""Hidden states on disk: computed once, complete after a kill, and those of each text alone."""

import json
import threading

import pytest
import torch
from torch.testing import assert_close

from rgtg_hf import NextTokenRewardModel
from rgtg_hf.training.hidden_state_store import HiddenStateStore
from tests.families import EVERY, TRIED_SINCE, tiny_language_model
from tests.training.helpers import make_policy
from tests.versions import is_at_least

ROWS = [
    {"chosen_ids": [5, 9, 10, 11, 2], "rejected_ids": [5, 9, 12], "prompt_length": 2},
    {"chosen_ids": [6, 7, 8, 13], "rejected_ids": [6, 7, 8, 14, 15, 2], "prompt_length": 3},
]
RESPONSES = [(row[side], row["prompt_length"]) for row in ROWS for side in ("chosen_ids", "rejected_ids")]


def test_a_killed_extraction_goes_on_where_it_stopped(tmp_path, make_head):
    class Killed(Exception):  # noqa: N818
        pass

    head = make_head()
    whole = HiddenStateStore(tmp_path / "whole", head)
    whole.add(RESPONSES, batch_size=1, progress=False)

    calls = []

    def kill(module, args, output):
        calls.append(output)
        if len(calls) == 3:
            raise Killed

    store = HiddenStateStore(tmp_path / "killed", head)
    hook = head.backbone.register_forward_hook(kill)
    with pytest.raises(Killed):
        store.add(RESPONSES, batch_size=1, progress=False)
    hook.remove()
    with (tmp_path / "killed" / "index.jsonl").open("a") as file:
        file.write('["cut sho')

    store = HiddenStateStore(tmp_path / "killed", head)
    assert len(store.index) == 2
    assert store.add(RESPONSES, batch_size=1, progress=False) == 2
    for ids, prompt_length in RESPONSES:
        expected = whole.read(ids, prompt_length)
        assert torch.equal(store.read(ids, prompt_length), expected)
        hidden = head.hidden_states(torch.tensor([ids]))[0, prompt_length - 1 : -1]
        assert_close(expected, hidden, atol=1e-5, rtol=1e-5)


def test_two_runs_may_add_to_one_folder_at_the_same_time(tmp_path, make_head, caplog):
    """The second waits for the first. Without that, both write to the same rows."""
    first, second = (HiddenStateStore(tmp_path, make_head()) for _ in range(2))
    other = threading.Thread(target=second.add, args=(RESPONSES[2:],), kwargs={"progress": False})

    def start_other(module, args, output):
        if not other.ident:
            other.start()
            other.join(timeout=2)  # ends at once where nothing makes it wait

    first.model.backbone.register_forward_hook(start_other)
    first.add(RESPONSES[:2], progress=False)
    other.join()
    assert "Waiting for it to end" in caplog.text
    alone = HiddenStateStore(tmp_path / "alone", make_head())
    alone.add(RESPONSES, progress=False)
    again = HiddenStateStore(tmp_path, make_head())
    for ids, prompt_length in RESPONSES:
        assert_close(again.read(ids, prompt_length), alone.read(ids, prompt_length), atol=1e-5, rtol=1e-5)


def test_hidden_states_of_another_policy_are_replaced(tmp_path, make_head):
    first = HiddenStateStore(tmp_path, make_head())
    first.add(RESPONSES, progress=False)
    policy = make_policy()
    with torch.no_grad():
        policy.model.layers[0].mlp.up_proj.weight.mul_(1.5)
    second = HiddenStateStore(tmp_path, make_head(policy))
    assert not second.index
    assert second.add(RESPONSES, progress=False) == 4
    assert json.loads((tmp_path / "settings.json").read_text())["hidden_size"] == 16


def test_half_precision_hidden_states_are_kept_as_they_are(tmp_path, make_head):
    head = make_head(make_policy().bfloat16())
    store = HiddenStateStore(tmp_path, head)
    store.add(RESPONSES, batch_size=1, progress=False)
    expected = head.hidden_states(torch.tensor([ROWS[0]["chosen_ids"]]))[0, 1:-1]
    assert torch.equal(store.read(ROWS[0]["chosen_ids"], 2), expected)


def test_an_empty_prompt_is_refused(tmp_path, make_head):
    with pytest.raises(ValueError, match="empty prompt"):
        HiddenStateStore(tmp_path, make_head()).add([([5, 6], 0)], progress=False)


def test_rows_that_were_never_computed_are_refused(tmp_path, make_head):
    with pytest.raises(KeyError, match="no hidden states on disk"):
        HiddenStateStore(tmp_path, make_head()).read([5, 6], 1)


@pytest.mark.parametrize("family", ["llama", "opt", "gemma2"])
@torch.no_grad()
def test_the_candidates_of_a_policy_are_kept_beside_its_hidden_states(tmp_path, family):
    policy = tiny_language_model(family)
    head = NextTokenRewardModel.from_policy(policy, rank=2)
    store = HiddenStateStore(tmp_path, head, policy, top_k=3)
    store.add(RESPONSES, batch_size=3, progress=False)
    again = HiddenStateStore(tmp_path, head, policy, top_k=3)
    assert again.add(RESPONSES, progress=False) == 0
    for ids, prompt_length in RESPONSES:
        found, probabilities = again.read_candidates(ids, prompt_length)
        needed = slice(prompt_length - 1, -1)
        expected = policy(torch.tensor([ids])).logits[0, needed].topk(3)
        assert torch.equal(found.long(), expected.indices)
        assert_close(probabilities, expected.values.softmax(-1), atol=1e-5, rtol=1e-4)
        hidden = head.hidden_states(torch.tensor([ids]))[0, needed]
        assert_close(again.read(ids, prompt_length), hidden, atol=1e-5, rtol=1e-4)


def responses_to(*prompts, count=3):
    return [
        (prompt + [4 + number, 13 + number] + [3] * number, len(prompt))
        for prompt in prompts
        for number in range(count)
    ]


@pytest.mark.parametrize(("count", "expected"), [(3, 6 + 3 * 5), (1, 9)])
def test_a_prompt_with_many_responses_is_read_once(tmp_path, make_head, count, expected):
    head, read = make_head(), []
    head.backbone.get_input_embeddings().register_forward_hook(
        lambda module, given, found: read.append(given[0].numel())
    )
    HiddenStateStore(tmp_path, head).add(responses_to([5, 6, 7, 8, 9, 10, 11], count=count), progress=False)
    assert sum(read) == expected


# transformers 5.5 calls its own functions by a name that it is about to retire.
@pytest.mark.filterwarnings("ignore:`input_embeds` is deprecated:FutureWarning")
@pytest.mark.parametrize(
    ("family", "with_candidates"), [*((family, True) for family in EVERY), ("llama", False), ("gemma2", False)]
)
@torch.no_grad()
def test_hidden_states_after_a_shared_prompt_are_those_of_each_text_alone(tmp_path, family, with_candidates):
    if not is_at_least(TRIED_SINCE.get(family, "5")):
        pytest.skip("transformers' own model fails")
    policy = tiny_language_model(family)
    head = NextTokenRewardModel.from_policy(policy, rank=2)
    responses = responses_to([5, 6, 7, 8, 9, 10, 11], [12])
    store = HiddenStateStore(tmp_path, head, *((policy, 3) if with_candidates else ()))
    store.add(responses, batch_size=4, progress=False)
    # The loops of the one enlarge rounding, also that of padding.
    close = {"atol": 1e-3, "rtol": 1e-2} if family == "hrm_text" else {"atol": 1e-5, "rtol": 1e-4}
    for ids, prompt_length in responses:
        needed = slice(prompt_length - 1, -1)
        hidden = head.hidden_states(torch.tensor([ids]))[0, needed]
        assert_close(store.read(ids, prompt_length), hidden, **close)
        if with_candidates:
            found, probabilities = store.read_candidates(ids, prompt_length)
            expected = policy(torch.tensor([ids])).logits[0, needed].topk(3)
            assert torch.equal(found.long(), expected.indices)
            assert_close(probabilities, expected.values.softmax(-1), **close)


def test_candidates_of_another_number_are_computed_anew(tmp_path):
    policy = make_policy()
    head = NextTokenRewardModel.from_policy(policy, rank=2)
    for number in (2, 3):
        store = HiddenStateStore(tmp_path, head, policy, top_k=number)
        assert store.add(RESPONSES, progress=False) == len(RESPONSES)
        assert store.read_candidates(*RESPONSES[0])[0].shape == (3, number)
