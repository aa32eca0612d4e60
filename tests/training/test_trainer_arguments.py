import inspect

import pytest
from datasets import Dataset
from peft import LoraConfig
from trl import RewardTrainer

from rgtg_hf import PrefixRewardConfig, PrefixRewardTrainer
from tests.training.helpers import make_reward_model, make_tokenizer

HEADS = {"fresh": make_reward_model, "trained": lambda: with_trained_head(make_reward_model())}
NO_TASK = {"r": 2, "target_modules": ["q_proj"]}
# PEFT configurations, and the base models whose rewards they can train and save.
FORMS = {
    "sequence classification": (NO_TASK | {"task_type": "SEQ_CLS"}, {"fresh", "trained"}),
    "head saved whole": (NO_TASK | {"modules_to_save": ["score"]}, {"fresh", "trained"}),
    "head left as it is": (NO_TASK, {"trained"}),
    "LoRA on the head": (NO_TASK | {"target_modules": ["q_proj", "score"]}, {"trained"}),
    "another task": (NO_TASK | {"task_type": "CAUSAL_LM", "modules_to_save": ["score"]}, set()),
}


def with_trained_head(model):
    """As one that was loaded from a sequence classifier's checkpoint."""
    model.config.architectures = ["LlamaForSequenceClassification"]
    return model


# PEFT asks transformers a question by a name that transformers is about to retire.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("form", FORMS)
def test_lora_trains_what_can_be_saved_and_refuses_the_rest(form, head, make_trainer, rows):
    settings, usable = FORMS[form]
    peft = {"peft_config": LoraConfig(**settings)}
    if head in usable:
        make_trainer(rows, model=HEADS[head](), max_steps=1, trainer_kwargs=peft).train()
        return
    line = "" if form == "another task" else r".*Add `task_type=\"SEQ_CLS\"` or `modules_to_save=\[\"score\"\]`"
    with pytest.raises(ValueError, match="The PEFT configuration has task_type|The score head is fresh" + line):
        make_trainer(rows, model=HEADS[head](), trainer_kwargs=peft)


def test_a_frozen_head_is_refused(make_trainer, rows):
    model = make_reward_model()
    model.score.requires_grad_(False)
    with pytest.raises(ValueError, match="score head is fresh and frozen"):
        make_trainer(rows, model=model)


def test_a_tokenizer_without_an_end_is_refused(rows, tmp_path):
    args = PrefixRewardConfig(str(tmp_path), bf16=False)
    tokenizer = make_tokenizer(eos_token=None, pad_token=None)
    data = Dataset.from_list(rows)
    with pytest.raises(ValueError, match=r"no end-of-sequence token.*and no padding token either"):
        PrefixRewardTrainer(make_reward_model(), args, train_dataset=data, processing_class=tokenizer)


def test_a_trained_head_may_be_frozen(make_trainer, rows):
    model = with_trained_head(make_reward_model())
    model.score.requires_grad_(False)
    make_trainer(rows, model=model, max_steps=1).train()


def test_arguments_stand_where_trl_has_them():
    ours, theirs = (list(inspect.signature(trainer).parameters) for trainer in (PrefixRewardTrainer, RewardTrainer))
    assert ours == theirs


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": 3}, "`model` is a int"),
        ({"processing_class": "gpt2"}, "`processing_class` is a str"),
        ({"train_dataset": [{"chosen": "a", "rejected": "b"}]}, r"Dataset\.from_list"),
        ({"eval_dataset": {"a": []}}, "`eval_dataset` is or holds a list"),
    ],
)
def test_arguments_of_another_type_are_refused(arguments, message):
    with pytest.raises(TypeError, match=message):
        PrefixRewardTrainer(**{"model": make_reward_model()} | arguments)
