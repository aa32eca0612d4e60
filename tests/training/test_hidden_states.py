"""Training next-token reward models and steering heads with the ordinary trainer."""

import json

import pytest
import torch
from torch.testing import assert_close
from trl.trainer.reward_trainer import DataCollatorForPreference

from rgtg_hf import NextTokenRewardModel
from rgtg_hf.training.data import PrefixCollator
from rgtg_hf.training.hidden_states import HiddenStateCollator, HiddenStateStore
from tests.families import EVERY, TRIED_SINCE, tiny_language_model
from tests.tiny_models import FULL
from tests.training.helpers import make_policy, text_rows
from tests.versions import is_at_least

ROWS = [
    {"chosen_ids": [5, 9, 10, 11, 2], "rejected_ids": [5, 9, 12], "prompt_length": 2},
    {"chosen_ids": [6, 7, 8, 13], "rejected_ids": [6, 7, 8, 14, 15, 2], "prompt_length": 3},
]
RESPONSES = [(row[side], row["prompt_length"]) for row in ROWS for side in ("chosen_ids", "rejected_ids")]


@pytest.fixture
def make_head():
    """A steering head; by default with weights that rate tokens differently."""

    def build(policy=None, fresh=False, **settings):
        settings = settings if fresh else FULL | settings  # so that what it reads shows
        head = NextTokenRewardModel.from_policy(policy or make_policy(), rank=8, **settings)
        torch.manual_seed(0)
        for parameter in () if fresh else head.score.parameters():
            torch.nn.init.normal_(parameter, std=0.4)
        return head

    return build


@pytest.fixture
def make_own():
    def build(frozen):
        model = NextTokenRewardModel.from_backbone(make_policy(), rank=8)
        torch.manual_seed(0)
        for parameter in model.score.parameters():
            torch.nn.init.normal_(parameter, std=0.4)
        model.backbone.requires_grad_(not frozen)
        return model

    return build


def step(trainer):
    """The loss of the first batch, and its gradients in the head."""
    batch = next(iter(trainer.get_train_dataloader()))
    trainer.model.zero_grad()
    loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()
    return loss.detach(), [parameter.grad.clone() for parameter in trainer.model.score.parameters()]


@pytest.mark.parametrize("kind", ["steering head", "own frozen backbone"])
def test_kept_hidden_states_give_the_loss_and_gradients_of_whole_sequences(
    make_trainer, make_head, make_own, rows, kind
):
    model = make_head() if kind == "steering head" else make_own(frozen=True)
    trainer = make_trainer(rows, model=model)
    assert isinstance(trainer.data_collator, HiddenStateCollator)
    loss, gradients = step(trainer)
    trainer.data_collator = trainer.data_collator.collator
    whole_loss, whole_gradients = step(trainer)
    assert_close(loss, whole_loss, atol=1e-5, rtol=1e-5)
    for one, other in zip(gradients, whole_gradients, strict=True):
        assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_the_loss_compares_the_rewards_that_one_call_gives(make_head):
    """Parity: what decoding reads token by token adds up to what the loss was computed from."""
    head = make_head()
    batch = PrefixCollator(DataCollatorForPreference(0))(ROWS)
    in_loss = head.score(
        head.hidden_states(batch["input_ids"], batch["attention_mask"]),
        batch["input_ids"],
        batch["attention_mask"],
        head.token_embeddings,
    )[..., 0]
    for row, ids in enumerate([row[side] for side in ("chosen_ids", "rejected_ids") for row in ROWS]):
        total = 0.0
        for end in range(1, len(ids)):
            total += head.next_token_rewards(torch.tensor([ids[:end]]))[0, ids[end]]
            assert_close(in_loss[row, end].detach(), total, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("nonlinear", [True, False])
def test_a_steering_head_learns_and_leaves_its_policy_alone(make_trainer, make_head, rows, nonlinear):
    policy = make_policy()
    before = {name: value.clone() for name, value in policy.state_dict().items()}
    head = make_head(policy, fresh=True, nonlinear=nonlinear)
    settings = {"learning_rate": 3e-2, "num_train_epochs": 10, "gradient_checkpointing": True}  # TRL's default
    trainer = make_trainer(rows, model=head, evaluation=rows, **settings)
    trainer.train()
    assert trainer.evaluate()["eval_accuracy_at_100"] > 0.9
    assert all(torch.equal(before[name], value) for name, value in policy.state_dict().items())


def test_training_tells_a_linear_head_what_hidden_states_are_like(make_trainer, make_head, rows):
    head = make_head(fresh=True, nonlinear=False)
    trainer = make_trainer(rows, model=head)
    hidden = [
        head.hidden_states(torch.tensor([row[side]]))[0, row["prompt_length"] - 1 : -1]
        for row in trainer.train_dataset
        for side in ("chosen_ids", "rejected_ids")
    ]
    assert_close(head.score.mean, torch.cat(hidden).mean(0), atol=1e-5, rtol=1e-4)


def test_a_backbone_of_its_own_is_trained_too(make_trainer, make_own, rows):
    model = make_own(frozen=False)
    before = model.backbone.layers[0].mlp.up_proj.weight.clone()
    trainer = make_trainer(rows, model=model, evaluation=rows, learning_rate=1e-2, num_train_epochs=10)
    assert isinstance(trainer.data_collator, PrefixCollator)
    trainer.train()
    assert trainer.evaluate()["eval_accuracy_at_100"] > 0.9
    assert not torch.equal(before, model.backbone.layers[0].mlp.up_proj.weight)


def test_a_trained_head_is_found_again(tmp_path, make_trainer, make_head, rows):
    policy = make_policy()
    trainer = make_trainer(rows, model=make_head(policy, fresh=True), learning_rate=3e-2)
    trainer.train()
    trainer.save_model(tmp_path / "head")
    loaded = NextTokenRewardModel.from_pretrained(tmp_path / "head").attach(policy)
    ids = torch.tensor([[5, 6, 7]])
    assert_close(loaded.next_token_rewards(ids), trainer.model.next_token_rewards(ids))


def test_training_goes_on_from_a_checkpoint(make_trainer, make_head, rows):
    def train(**settings):
        head = make_head(fresh=True)
        trainer = make_trainer(rows, model=head, save_strategy="steps", save_steps=4, num_train_epochs=4)
        trainer.train(**settings)
        return [parameter.clone() for parameter in head.parameters()]

    torch.manual_seed(0)
    whole = train()
    for one, other in zip(whole, train(resume_from_checkpoint=True), strict=True):
        assert_close(one, other)


def test_a_second_run_computes_no_hidden_states(tmp_path, make_trainer, make_head, rows):
    folder = str(tmp_path / "states")
    make_trainer(rows, model=make_head(), evaluation=text_rows(10), hidden_states_dir=folder)
    before = (tmp_path / "states" / "hidden_states.bin").stat()
    index = (tmp_path / "states" / "index.jsonl").read_text()
    make_trainer(rows, model=make_head(), hidden_states_dir=folder)
    after = (tmp_path / "states" / "hidden_states.bin").stat()
    assert (before.st_mtime_ns, before.st_size) == (after.st_mtime_ns, after.st_size)
    assert (tmp_path / "states" / "index.jsonl").read_text() == index


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


@pytest.mark.parametrize("with_candidates", [False, True])
@pytest.mark.parametrize("family", EVERY)
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
