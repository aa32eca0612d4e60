import logging

import pytest
import torch
from datasets import Dataset, IterableDataset
from peft import LoraConfig
from safetensors.torch import load_file
from torch.testing import assert_close
from transformers import AutoModelForSequenceClassification, TrainerCallback, TrainingArguments, default_data_collator
from trl import RewardConfig
from trl.trainer.reward_trainer import DataCollatorForPreference

from rgtg_hf import PrefixRewardConfig, PrefixRewardTrainer
from rgtg_hf.evaluation.accuracy import accuracy_by_fraction
from rgtg_hf.rewards.pairs import TEXT, pair_ids
from rgtg_hf.rewards.prefix_rewards import prefix_rewards
from tests.training.helpers import make_policy, make_reward_model, text_rows


def losses(trainer):
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def test_training_lowers_the_loss_and_leaves_an_ordinary_checkpoint(make_trainer, rows, tmp_path):
    trainer = make_trainer(rows, evaluation=rows, max_steps=30, learning_rate=3e-2)
    before = trainer.evaluate()
    trainer.train()
    after = trainer.evaluate()
    assert after["eval_loss"] < 0.5 * before["eval_loss"]
    assert after["eval_accuracy_at_100"] == 1

    trainer.save_model(str(tmp_path / "saved"))
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved")
    ids = torch.tensor([trainer.train_dataset[0]["chosen_ids"]])
    assert_close(loaded(ids).logits[0], prefix_rewards(trainer.model.eval(), ids)[0, -1:])


def test_logs_name_every_metric(make_trainer, rows):
    trainer = make_trainer(rows, max_steps=1)
    trainer.train()
    expected = {f"{name}_at_{at}" for name in ("accuracy", "margin") for at in (25, 50, 75, 100)}
    assert expected | {"loss", "accuracy", "margin", "mean_reward", "num_tokens"} <= set(trainer.state.log_history[0])


def test_full_response_metrics_are_those_of_the_pooled_model(make_trainer, rows):
    trainer = make_trainer(rows, evaluation=rows)
    metrics = trainer.evaluate()
    model, tokenizer = trainer.model, trainer.processing_class
    scores = []
    for key in ("chosen", "rejected"):
        texts = [row["prompt"] + row[key] + "</s>" for row in rows]
        batch = tokenizer(texts, return_tensors="pt", padding=True)
        scores.append(model(batch["input_ids"], batch["attention_mask"]).logits[:, 0])
    margin = scores[0] - scores[1]
    assert metrics["eval_margin_at_100"] == pytest.approx(margin.mean().item(), abs=1e-5)
    assert metrics["eval_accuracy_at_100"] == pytest.approx((margin > 0).float().mean().item())


def test_accumulated_batches_give_the_losses_of_one_batch(make_trainer):
    """Pairs have different numbers of prefixes, so a mean of the batches' means would differ."""
    rows = text_rows(16)
    # Adam and clipping would hide a gradient that is too small.
    settings = {"max_steps": 4, "learning_rate": 1e-2, "optim": "sgd", "max_grad_norm": 0}
    whole = make_trainer(rows, per_device_train_batch_size=8, **settings)
    parts = make_trainer(rows, per_device_train_batch_size=2, gradient_accumulation_steps=4, **settings)
    whole.train()
    parts.train()
    assert_close(losses(whole), losses(parts), rtol=1e-5, atol=1e-5)
    for a, b in zip(whole.model.parameters(), parts.model.parameters(), strict=True):
        assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_random_prefixes_are_the_same_in_every_run(make_trainer, rows):
    runs = [make_trainer(rows, prefixes="random", prefixes_per_pair=2, max_steps=4) for _ in range(2)]
    for run in runs:
        run.train()
    assert losses(runs[0]) == losses(runs[1])


def test_data_may_be_text_conversation_tokens_or_a_stream(make_trainer, rows, tokenizer):
    def chat(text, role):
        return [{"role": role, "content": text}]

    conversations = [
        {
            "prompt": chat(row["prompt"], "user"),
            "chosen": chat(row["chosen"], "assistant"),
            "rejected": chat(row["rejected"], "assistant"),
        }
        for row in rows
    ]
    implicit = [{key: row["prompt"] + row[key] for key in ("chosen", "rejected")} for row in rows]
    tokens = [{f"{key}_ids": tokenizer(row[key])["input_ids"] for key in row} for row in implicit]
    for data in (rows, conversations, implicit, tokens, IterableDataset.from_generator(lambda: iter(rows))):
        trainer = make_trainer(data, evaluation=rows, max_steps=2)
        trainer.train()
        assert len(losses(trainer)) == 2
        assert trainer.evaluate(Dataset.from_list(implicit))["eval_loss"] > 0
        assert trainer.evaluate({"a": Dataset.from_list(conversations)})["eval_a_loss"] > 0


def test_a_dictionary_of_evaluation_sets_is_evaluated_one_by_one(make_trainer, rows):
    trainer = make_trainer(rows, evaluation={"a": Dataset.from_list(rows), "b": Dataset.from_list(rows[:3])})
    metrics = trainer.evaluate()
    alone = make_trainer(rows).evaluate(Dataset.from_list(rows[:3]))
    assert metrics["eval_b_accuracy_at_100"] == alone["eval_accuracy_at_100"]
    assert metrics["eval_b_margin"] == pytest.approx(alone["eval_margin"])
    assert metrics["eval_a_margin"] != metrics["eval_b_margin"]


def test_a_policy_given_by_name_is_cut_to_its_first_layers(make_trainer, rows, tmp_path):
    make_policy(num_hidden_layers=3).save_pretrained(tmp_path / "policy")
    trainer = make_trainer(rows, model=str(tmp_path / "policy"), num_layers=1, max_steps=1)
    trainer.train()
    assert trainer.model.config.num_hidden_layers == 1


# PEFT asks transformers a question by a name that transformers is about to retire.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.filterwarnings("ignore:Could not find a config file")  # PEFT before 0.21
def test_lora_trains_and_saves_the_score_head(make_trainer, rows, tmp_path):
    lora = LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["q_proj"])
    trainer = make_trainer(rows, max_steps=2, trainer_kwargs={"peft_config": lora})
    trainer.train()
    trainer.save_model(str(tmp_path / "saved"))
    names = {name for name, parameter in trainer.model.named_parameters() if parameter.requires_grad}
    assert any("score" in name for name in names)
    assert any("score" in name for name in load_file(tmp_path / "saved" / "adapter_model.safetensors"))


@pytest.mark.parametrize(
    ("settings", "tolerance"),
    [
        ({"gradient_checkpointing": True}, 1e-6),
        pytest.param({"torch_compile": True, "torch_compile_backend": "aot_eager"}, 1e-5, marks=pytest.mark.slow),
        ({"bf16": True}, 3e-2),
    ],
    ids=str,
)
def test_ways_of_computing_give_the_same_losses(make_trainer, rows, settings, tolerance):
    plain = make_trainer(rows, max_steps=4)
    other = make_trainer(rows, max_steps=4, **settings)
    plain.train()
    other.train()
    assert losses(other) == pytest.approx(losses(plain), abs=tolerance)


def test_pairs_of_like_length_can_share_batches(make_trainer):
    lengths = [1 + 7 * (number % 2) for number in range(64)]
    rows = [{"prompt": "q", "chosen": "a b " * length, "rejected": "c"} for length in lengths]

    def padding(strategy):
        trainer = make_trainer(rows, train_sampling_strategy=strategy)
        return sum(int((1 - batch["attention_mask"]).sum()) for batch in trainer.get_train_dataloader())

    assert padding("group_by_length") < 0.8 * padding("random")


def test_training_continues_from_a_full_sequence_reward_model(make_trainer, rows, tmp_path):
    full = make_reward_model()
    full.save_pretrained(tmp_path / "full")
    named, given = (make_trainer(rows, model=model, evaluation=rows) for model in (str(tmp_path / "full"), full))
    assert named.evaluate()["eval_loss"] == pytest.approx(given.evaluate()["eval_loss"])


def test_margins_ask_for_more(make_trainer, rows):
    trainer = make_trainer([row | {"margin": 2.0} for row in rows], evaluation=rows)
    plain = trainer.evaluate()["eval_loss"]
    assert trainer.evaluate(Dataset.from_list([row | {"margin": 2.0} for row in rows]))["eval_loss"] > plain + 0.5


def test_a_bidirectional_model_is_refused(make_trainer, rows):
    config = make_reward_model().config
    config.is_causal = False
    model = make_reward_model()
    for layer in model.model.layers:
        layer.self_attn.is_causal = False
    model.config.is_causal = False
    with pytest.raises(ValueError, match="is not causal"):
        make_trainer(rows, model=model)


def test_a_model_with_two_labels_is_refused(make_trainer, rows):
    model = make_reward_model()
    model.config.num_labels = 2
    with pytest.raises(ValueError, match="num_labels=1"):
        make_trainer(rows, model=model)


def test_an_empty_data_set_is_refused(make_trainer):
    with pytest.raises(ValueError, match="training data set is empty"):
        make_trainer([])


def test_rows_that_are_all_equal_are_refused(make_trainer):
    with pytest.raises(ValueError, match="No row of the training data set is left: 2 equal"):
        make_trainer([{"chosen": "ab", "rejected": "ab"}] * 2)


def test_a_max_length_that_drops_every_row_is_refused(make_trainer, rows):
    with pytest.raises(ValueError, match=r"8 too long\. .*`max_length` \(3\)"):
        make_trainer(rows, max_length=3)


def test_dropped_rows_are_counted_in_one_line(make_trainer, rows, caplog):
    data = [
        *rows,
        {"prompt": "a", "chosen": "b", "rejected": "b"},
        {"prompt": "a" * 50, "chosen": "b", "rejected": "c"},
    ]
    with caplog.at_level(logging.WARNING, logger="rgtg_hf"):
        make_trainer(data, max_length=40)
    messages = [record.getMessage() for record in caplog.records if record.name.startswith("rgtg_hf")]
    assert messages == ["Dropped 2 rows of the training data set: 1 too long, 1 equal."]


def test_dropped_rows_of_a_stream_are_counted_once_they_have_been_read(make_trainer, rows, caplog):
    bad = [{"prompt": "a", "chosen": "b", "rejected": "b"}, {"prompt": "a" * 50, "chosen": "b", "rejected": "c"}]
    stream = IterableDataset.from_generator(lambda: iter([*bad, *rows]))
    trainer = make_trainer(stream, max_length=40, max_steps=1)
    with caplog.at_level(logging.WARNING, logger="rgtg_hf"):
        trainer.train()
    messages = [record.getMessage() for record in caplog.records if record.name.startswith("rgtg_hf")]
    assert messages == ["Dropped 2 rows of the training data set: 1 too long, 1 equal."]


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is deprecated:FutureWarning")
def test_other_settings_are_refused(rows, tokenizer, tmp_path):
    with pytest.raises(TypeError, match="needs a PrefixRewardConfig"):
        PrefixRewardTrainer(
            make_reward_model(), TrainingArguments(str(tmp_path)), train_dataset=Dataset.from_list(rows)
        )


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is deprecated:FutureWarning")
def test_the_settings_of_trl_train_the_same_model_as_ours(rows, tokenizer, tmp_path):
    rewards = []
    for config in (RewardConfig, PrefixRewardConfig):
        settings = config(
            str(tmp_path), bf16=False, max_steps=2, learning_rate=1e-2, report_to="none", dataloader_pin_memory=False
        )
        trainer = PrefixRewardTrainer(
            make_reward_model(), settings, train_dataset=Dataset.from_list(rows), processing_class=tokenizer
        )
        trainer.train()
        rewards.append(trainer.evaluate(Dataset.from_list(rows)))
        assert (trainer.args.prefixes, trainer.args.learning_rate) == ("all", 1e-2)
        assert type(settings) is config
    assert rewards[0]["eval_loss"] == rewards[1]["eval_loss"]


@pytest.mark.filterwarnings("ignore:The evaluation data set names its tokens:FutureWarning")
def test_rows_with_the_older_names_of_tokens_train_alike(make_trainer, rows, tokenizer):
    tokens = [
        {f"{column}_ids": tokenizer(row["prompt"] + row[column] + "</s>")["input_ids"] for column in TEXT}
        for row in rows
    ]
    old = [{f"{column}_input_ids": row[f"{column}_ids"] for column in TEXT} for row in tokens]
    new = make_trainer(tokens, max_steps=2)
    new.train()
    with pytest.warns(FutureWarning, match="which is deprecated"):
        other = make_trainer(old, max_steps=2)
    other.train()
    assert losses(other) == losses(new)
    assert other.evaluate(Dataset.from_list(old)) | TIMES == new.evaluate(Dataset.from_list(tokens)) | TIMES


# What an evaluation reports besides the model's figures.
TIMES = dict.fromkeys(
    ("eval_runtime", "eval_samples_per_second", "eval_steps_per_second", "eval_model_preparation_time"), 0
)


def swapped(rows):
    return [row | {"chosen": row["rejected"], "rejected": row["chosen"]} for row in rows]


def streamed(rows):
    return IterableDataset.from_generator(lambda: iter(rows))


# What may happen on a trainer before an evaluation.
BEFORE = {
    "predict": lambda trainer, other: trainer.predict(other),
    "evaluate": lambda trainer, other: trainer.evaluate(other),
    "evaluate several": lambda trainer, other: trainer.evaluate({"a": other, "b": other}),
    "evaluate a stream": lambda trainer, other: trainer.evaluate(streamed(list(other))),
    "evaluate the same": lambda trainer, other: trainer.evaluate(),
    "log": lambda trainer, other: trainer.log({"note": 1.0}),
    "an evaluation that fails": lambda trainer, other: fail_to_evaluate(trainer, other),
}


ALIKE = ("evaluate the same", "evaluate several", "predict")  # to others, for the training after them


def fail_to_evaluate(trainer, other):
    trainer.compute_metrics = lambda predictions: 1 / 0
    with pytest.raises(ZeroDivisionError):
        trainer.evaluate(other)
    trainer.compute_metrics = None


@pytest.mark.parametrize("before", BEFORE)
def test_an_evaluation_gives_the_numbers_of_a_fresh_trainer(make_trainer, rows, before):
    fresh = make_trainer(rows, evaluation=rows)
    expected = fresh.evaluate()
    trainer = make_trainer(rows, evaluation=rows)
    BEFORE[before](trainer, Dataset.from_list(swapped(rows)))
    assert trainer.evaluate() | TIMES == expected | TIMES
    assert trainer.curves["eval"] == fresh.curves["eval"]


@pytest.mark.parametrize(
    "before",
    [pytest.param(name, marks=pytest.mark.slow if name in ALIKE else ()) for name in BEFORE],
)
def test_training_gives_the_losses_of_a_fresh_trainer(make_trainer, rows, before):
    fresh, trainer = (make_trainer(rows, evaluation=rows, max_steps=3) for _ in range(2))
    fresh.train()
    BEFORE[before](trainer, Dataset.from_list(swapped(rows)))
    trainer.train()
    logged = [[entry for entry in one.state.log_history if "grad_norm" in entry] for one in (fresh, trainer)]
    assert logged[0] == logged[1]


def test_predictions_come_with_the_figures_of_an_evaluation(make_trainer, rows):
    trainer = make_trainer(rows)
    metrics = trainer.predict(Dataset.from_list(rows)).metrics
    expected = trainer.evaluate(Dataset.from_list(rows))
    for name in ("loss", "accuracy", "margin_at_50"):
        assert metrics[f"test_{name}"] == expected[f"eval_{name}"]
    assert list(trainer.curves) == ["eval"]


def test_evaluating_a_stream_twice_counts_its_dropped_rows_once(make_trainer, rows, caplog):
    trainer = make_trainer(rows)
    stream = streamed([*rows, {"prompt": "a", "chosen": "b", "rejected": "b"}])
    for _ in range(2):
        caplog.clear()
        with caplog.at_level(logging.WARNING, logger="rgtg_hf"):
            trainer.evaluate(stream)
        messages = [record.getMessage() for record in caplog.records if record.name.startswith("rgtg_hf")]
        assert messages == ["Dropped 1 rows of the evaluation data set: 1 equal."]


def test_metrics_and_callbacks_may_be_given_by_position(rows, tokenizer, tmp_path):
    seen = []

    class Steps(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            seen.append(state.global_step)

    quiet = {"report_to": "none", "use_cpu": True, "disable_tqdm": True, "bf16": False, "save_strategy": "no"}
    args = PrefixRewardConfig(str(tmp_path), max_steps=2, gradient_checkpointing=False, **quiet)
    data = Dataset.from_list(rows)
    trainer = PrefixRewardTrainer(
        make_reward_model(),
        args,
        None,
        data,
        data,
        tokenizer,
        lambda given: {"rows": len(given.predictions)},
        [Steps()],
    )
    trainer.train()
    assert seen == [1, 2]
    assert trainer.evaluate()["eval_rows"] == 2 * len(rows)


class Reversed:
    """Puts the rejected rows first."""

    def __call__(self, rows):
        swap = {"chosen_ids": "rejected_ids", "rejected_ids": "chosen_ids"}
        return DataCollatorForPreference(0)([{swap.get(name, name): row[name] for name in row} for row in rows])


def test_a_collator_of_the_user_works_or_is_refused_before_training(make_trainer, rows):
    plain = make_trainer(rows, max_steps=2)
    own = make_trainer(
        rows, max_steps=2, trainer_kwargs={"data_collator": DataCollatorForPreference(0, pad_to_multiple_of=8)}
    )
    plain.train()
    own.train()
    assert losses(own) == pytest.approx(losses(plain), abs=1e-6)
    with pytest.raises(ValueError, match=r"`data_collator` made no batch of pairs \(.*as TRL's"):
        make_trainer(rows, trainer_kwargs={"data_collator": default_data_collator})
    with pytest.raises(ValueError, match="`data_collator` changes or moves tokens"):
        make_trainer(rows, trainer_kwargs={"data_collator": Reversed()})


def test_evaluation_and_the_trainer_have_one_definition_of_accuracy(make_trainer, rows):
    trainer = make_trainer(rows, evaluation=rows)
    trainer.evaluate()
    pairs = [pair_ids(row, trainer.processing_class) for row in rows]
    assert accuracy_by_fraction(trainer.model.eval(), pairs) == trainer.curves["eval"]
