"""Training next-token reward models and steering heads with the ordinary trainer."""

import pytest
import torch
from torch.testing import assert_close
from trl.trainer.reward_trainer import DataCollatorForPreference

from rgtg_hf import NextTokenRewardModel
from rgtg_hf.training.data import PrefixCollator
from rgtg_hf.training.hidden_states import HiddenStateCollator
from tests.training.helpers import make_policy, text_rows

ROWS = [
    {"chosen_ids": [5, 9, 10, 11, 2], "rejected_ids": [5, 9, 12], "prompt_length": 2},
    {"chosen_ids": [6, 7, 8, 13], "rejected_ids": [6, 7, 8, 14, 15, 2], "prompt_length": 3},
]
RESPONSES = [(row[side], row["prompt_length"]) for row in ROWS for side in ("chosen_ids", "rejected_ids")]


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
