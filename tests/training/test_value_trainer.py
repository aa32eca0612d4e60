"""A value model learns what will come of a prefix, whatever the batches, and is saved ready to steer."""

import json
import math

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from torch.testing import assert_close
from transformers import AutoModelForSequenceClassification

from rgtg_hf import PrefixValueConfig, PrefixValueTrainer, RewardGuidedLogitsProcessor, prefix_rewards
from rgtg_hf.rewards.load import load_reward_model
from tests.training.helpers import HIGHEST_LOSS_IS_BEST, make_policy, make_reward_model, make_tokenizer

TOKENIZER = make_tokenizer()
# The first letter decides the reward, and the others say nothing of it.
ROWS = [
    {
        "prompt": "b?",
        "completion": ("a" if place % 2 else "z") + "bcd"[place % 3] * (1 + place % 4),
        "reward": place % 2,
    }
    for place in range(24)
]
TINY = {
    "bf16": False,
    "use_cpu": True,
    "gradient_checkpointing": False,
    "report_to": "none",
    "disable_tqdm": True,
    "save_strategy": "no",
    "learning_rate": 1e-2,
    "logging_steps": 1,
}


@pytest.fixture
def folder(tmp_path):
    make_policy().save_pretrained(tmp_path / "policy")
    TOKENIZER.save_pretrained(tmp_path / "policy")
    return tmp_path


def trainer_of(folder, rows=ROWS, model=None, evaluation=None, more=None, **settings):
    return PrefixValueTrainer(
        str(folder / "policy") if model is None else model,
        PrefixValueConfig(str(folder / "values"), **TINY | settings),
        train_dataset=Dataset.from_list(rows),
        eval_dataset=None if evaluation is None else Dataset.from_list(evaluation),
        processing_class=make_tokenizer(),
        **more or {},
    )


def test_responses_of_a_guided_policy_stand_for_those_of_the_policy(folder):
    # The policy writes either letter as often; guided, it wrote the good one three times of four.
    rows = [ROWS[1]] * 3 + [ROWS[0]]
    tokens = [len(TOKENIZER(row["completion"])["input_ids"]) + 1 for row in rows]
    first = [math.log(0.5 / 0.75)] * 3 + [math.log(0.5 / 0.25)]
    guided = [
        row | {"log_ratios": [ratio, *[0.0] * (count - 1)]}
        for row, ratio, count in zip(rows, first, tokens, strict=True)
    ]
    ids = torch.tensor([TOKENIZER("b?")["input_ids"]])
    found = []
    for given in (rows, guided):
        trainer = trainer_of(folder, given * 6, num_train_epochs=30)
        trainer.train()
        found.append(prefix_rewards(trainer.model.eval(), ids)[0, -1].item())
    assert found == pytest.approx([0.75, 0.5], abs=0.05)


@pytest.mark.parametrize("targets", ["two_hot", "gaussian"])
def test_it_learns_what_a_prefix_is_worth(folder, targets):
    trainer = trainer_of(folder, evaluation=ROWS, num_train_epochs=30, targets=targets)
    trainer.train()
    metrics = trainer.evaluate()
    assert metrics["eval_loss"] > 0
    assert metrics["eval_squared_error_at_0"] == pytest.approx(0.25, abs=0.02)  # even odds, before the first letter
    assert metrics["eval_squared_error_at_100"] < 0.01
    trainer.save_model()
    calibration = json.loads((folder / "values" / "calibration.json").read_text())["eval"]
    assert calibration["responses"] == len(ROWS)
    assert calibration["expected"] == pytest.approx(calibration["found"], abs=0.1)
    assert (folder / "values" / "calibration.png").exists()
    trusted = json.loads((folder / "values" / "config.json").read_text())["trusted_value_beta"]
    assert trusted in [0.0, *calibration["value_beta"]]
    assert json.loads((folder / "values" / "guidance_config.json").read_text()) == {
        "beta": 5.8,
        "top_k": 10,
        "value_beta": 0.0,
    }
    card = (folder / "values" / "README.md").read_text()
    assert "squared error at 25" in card
    assert "prefix-value-model" in card
    loaded = load_reward_model(str(folder / "values"))
    assert AutoModelForSequenceClassification.from_pretrained(folder / "values").config.num_labels == 21
    ids = torch.tensor([TOKENIZER(f"b?{letter}")["input_ids"] for letter in "az"])
    before, after = prefix_rewards(loaded, ids)[:, -2:].T
    assert_close(before, torch.full((2,), 0.5), atol=0.1, rtol=0)
    assert_close(after, torch.tensor([1.0, 0.0]), atol=0.1, rtol=0)
    steer = RewardGuidedLogitsProcessor(str(folder / "values"), top_k=0)
    assert steer.config.beta == 5.8
    scores = steer(ids[:1, :-1], torch.zeros(1, len(TOKENIZER)))[0]
    good, bad = TOKENIZER.convert_tokens_to_ids(["a", "z"])
    assert scores[good] - scores[bad] == pytest.approx(5.8, abs=0.5)


def test_held_out_rewards_may_lie_outside_of_the_training_rewards(folder, caplog):
    trainer = trainer_of(folder, evaluation=[ROWS[0] | {"reward": -1e4}, ROWS[1] | {"reward": 1e4}])
    assert "2 of the 2 rewards of the evaluation data set are outside" in caplog.text
    metrics = trainer.evaluate()
    assert 0 < metrics["eval_loss"] < 10
    assert metrics["eval_squared_error_at_0"] == pytest.approx(1e8, rel=1e-3)  # as far off as the model is
    trainer.save_model()
    calibration = json.loads((folder / "values" / "calibration.json").read_text())["eval"]
    assert all(map(math.isfinite, calibration["log_ratio"] + calibration["standard_error"]))
    assert trainer.model.config.trusted_value_beta == 0


@pytest.mark.parametrize(
    ("prompts", "rewards", "beta"),
    [
        (["b", "b", "c", "c"], [0, 2, 4, 6], 1.5),  # a surplus is 2 or -2
        (["b", "b", "c", "c"], [0, 2, 96, 98], 1.5),  # another level of another prompt is nothing to steer
        (["b", "c", "d", "e"], [0, 0, 2, 2], 3.0),  # one response to each prompt
        (["b", "b", "c", "c"], [0, 0, 2, 2], 3.0),  # prompts decide everything
    ],
)
def test_the_saved_beta_is_three_nats_per_standard_deviation(folder, prompts, rewards, beta):
    rows = [
        {"prompt": prompt, "completion": "az"[place % 2], "reward": reward}
        for place, (prompt, reward) in enumerate(zip(prompts, rewards, strict=True))
    ]
    trainer = trainer_of(folder, rows)
    trainer.save_model()
    assert json.loads((folder / "values" / "guidance_config.json").read_text())["beta"] == beta


def test_equal_rewards_within_a_range_that_was_given_have_a_beta_too(folder):
    trainer = trainer_of(folder, [ROWS[1]] * 2, value_range=[0.0, 2.0])
    trainer.save_model()
    assert json.loads((folder / "values" / "guidance_config.json").read_text())["beta"] == 1.5


def test_the_step_does_not_depend_on_how_it_is_cut_into_batches(folder):
    trained = []
    for batch, accumulated in ((8, 1), (2, 4)):
        trainer = trainer_of(
            folder,
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=accumulated,
            max_steps=1,
            learning_rate=1e-2,
            optim="sgd",  # Adam and clipping would hide a gradient that is too small
            max_grad_norm=0,
        )
        trainer.train()
        trained.append(trainer)
    one, other = ([weight.detach() for weight in trainer.model.parameters()] for trainer in trained)
    assert_close(one, other, atol=1e-6, rtol=1e-4)
    losses = [trainer.state.log_history[0]["loss"] for trainer in trained]
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)


def test_an_evaluation_does_not_depend_on_batches_and_takes_rows_of_any_form(folder):
    found = []
    for batch in (24, 5):
        trainer = trainer_of(folder, evaluation=ROWS, per_device_eval_batch_size=batch)
        plain, rows = trainer.evaluate(), Dataset.from_list(ROWS)
        named = trainer.evaluate({"same": rows, "part": rows.select(range(12))})
        found.append([plain, named, trainer.curves])
        assert {name for name in named if name.endswith("loss")} == {"eval_same_loss", "eval_part_loss"}
        assert named["eval_same_loss"] == pytest.approx(plain["eval_loss"], rel=1e-4)
        assert trainer.predict(rows).metrics["test_loss"] == pytest.approx(plain["eval_loss"], rel=1e-4)
        assert trainer.curves.keys() == {"eval", "eval_same", "eval_part"}
    one, other = found
    for name, value in one[0].items():
        if not name.endswith(("second", "time")):
            assert value == pytest.approx(other[0][name], rel=1e-4), name
    assert one[2]["eval"]["log_ratio"] == pytest.approx(other[2]["eval"]["log_ratio"], abs=1e-4)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_an_adapter_is_read_as_it_was_trained(folder):
    lora = LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["q_proj"])
    trainer = trainer_of(folder, max_steps=3, num_layers=1, more={"peft_config": lora})
    trainer.train()
    trainer.save_model()
    loaded = load_reward_model(str(folder / "values"))
    ids = torch.tensor([TOKENIZER("b?ac")["input_ids"]])
    assert_close(prefix_rewards(loaded, ids), prefix_rewards(trainer.model.eval(), ids))
    assert loaded.config.value_range == [0.0, 1.0]


def test_a_reward_model_is_a_beginning_too_and_the_first_layers_are_kept(folder):
    make_reward_model().save_pretrained(folder / "policy")
    trainer = trainer_of(folder, num_layers=1, num_bins=5, value_range=[-1.0, 2.0])
    assert trainer.model.config.num_hidden_layers == 1
    assert trainer.model.score.out_features == 5
    assert trainer.model.config.value_range == [-1.0, 2.0]


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({"rows": [row | {"reward": 1.0} for row in ROWS]}, ValueError, "are equal"),
        ({"rows": [{"prompt": "b", "completion": "c"}]}, ValueError, "no `reward`"),
        ({"rows": [ROWS[1], ROWS[0] | {"reward": None}]}, ValueError, "Row 2 of the training data set has no usable"),
        (
            {"rows": [ROWS[1], ROWS[0] | {"reward": math.inf}]},
            ValueError,
            "Row 2 of the training data set has no",
        ),
        ({"value_range": [0.0, 0.5]}, ValueError, "Row 2 of the training data set has a reward of 1,"),
        ({"model": make_reward_model()}, ValueError, "without `value_range`"),
        ({"model": 3}, TypeError, "`model` is a int"),
    ],
)
def test_what_cannot_be_trained_is_told_before(folder, arguments, error, says):
    with pytest.raises(error, match=says):
        trainer_of(folder, **arguments)


def test_a_run_goes_on_from_its_checkpoint_and_another_one_is_refused(folder):
    settings = {"save_strategy": "steps", "save_steps": 2, "max_steps": 4}
    whole = trainer_of(folder, **settings)
    whole.train()
    again = trainer_of(folder, **settings)
    again.train(resume_from_checkpoint=str(folder / "values" / "checkpoint-2"))
    assert_close(list(again.model.parameters()), list(whole.model.parameters()))
    with pytest.raises(ValueError, match="targets was 'two_hot' and is 'gaussian'"):
        trainer_of(folder, targets="gaussian", **settings).train(resume_from_checkpoint=True)


def test_the_trusted_value_beta_is_that_of_the_best_checkpoint(folder):
    trainer = trainer_of(folder, evaluation=ROWS, max_steps=4, **HIGHEST_LOSS_IS_BEST)
    trainer.train()
    assert trainer.state.best_global_step < 4
    trusted, curves = trainer.model.config.trusted_value_beta, dict(trainer.curves)
    trainer.evaluate()
    assert trainer.curves == curves
    assert trainer.model.config.trusted_value_beta == trusted
