import logging

import pytest
import torch
from datasets import Dataset, IterableDataset
from peft import LoraConfig
from safetensors.torch import load_file
from torch.testing import assert_close
from transformers import AutoModelForSequenceClassification
from trl import RewardConfig

from rgtg_hf import PrefixRewardConfig, PrefixRewardTrainer
from rgtg_hf.rewards.prefix_rewards import prefix_rewards
from tests.training.helpers import make_policy, make_reward_model, make_tokenizer, text_rows


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
    whole = make_trainer(rows, per_device_train_batch_size=8, max_steps=4, learning_rate=1e-2)
    parts = make_trainer(
        rows, per_device_train_batch_size=2, gradient_accumulation_steps=4, max_steps=4, learning_rate=1e-2
    )
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
def test_lora_trains_and_saves_the_score_head(make_trainer, rows, tmp_path):
    lora = LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["q_proj"])
    trainer = make_trainer(rows, max_steps=2, trainer_kwargs={"peft_config": lora})
    trainer.train()
    trainer.save_model(str(tmp_path / "saved"))
    names = {name for name, parameter in trainer.model.named_parameters() if parameter.requires_grad}
    assert any("score" in name for name in names)
    assert any("score" in name for name in load_file(tmp_path / "saved" / "adapter_model.safetensors"))


def test_lora_that_would_freeze_the_head_is_refused(make_trainer, rows):
    lora = LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["q_proj"])
    with pytest.raises(ValueError, match="task_type='CAUSAL_LM', which would leave the score head at random"):
        make_trainer(rows, trainer_kwargs={"peft_config": lora})


def test_a_frozen_head_is_refused(make_trainer, rows):
    model = make_reward_model()
    model.score.requires_grad_(False)
    with pytest.raises(ValueError, match="score head is frozen"):
        make_trainer(rows, model=model)


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


def test_a_tokenizer_without_an_end_is_refused(rows, tmp_path):
    args = PrefixRewardConfig(str(tmp_path), bf16=False)
    tokenizer = make_tokenizer(eos_token=None, pad_token=None)
    data = Dataset.from_list(rows)
    with pytest.raises(ValueError, match=r"no end-of-sequence token.*and no padding token either"):
        PrefixRewardTrainer(make_reward_model(), args, train_dataset=data, processing_class=tokenizer)


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
            make_reward_model(), RewardConfig(str(tmp_path), bf16=False), train_dataset=Dataset.from_list(rows)
        )
