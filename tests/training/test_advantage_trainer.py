"""A head learns the advantages of a policy's tokens from rated responses, and is saved ready to steer."""

import json
import math
from itertools import pairwise

import pytest
import torch
from datasets import Dataset
from torch.testing import assert_close
from transformers import LogitsProcessor

from rgtg_hf import AdvantageConfig, AdvantageTrainer, NextTokenRewardModel, PrefixValueConfig, steering
from rgtg_hf.evaluation.rollouts import rollouts
from tests.training.helpers import make_policy, make_reward_model, make_tokenizer

TOKENIZER = make_tokenizer()
TINY = {
    "bf16": False,
    "use_cpu": True,
    "report_to": "none",
    "disable_tqdm": True,
    "save_strategy": "no",
    "logging_steps": 1,
    "top_k": 4,
    "rank": 8,
}
PROMPTS = ["ab", "q?"]
SAMPLED = {"num_responses": 300, "top_k": 4, "max_new_tokens": 2, "chat_template": False}


def count_of_letters(prompts, responses):
    """Early letters of the alphabet are good, and two equal letters in a row are bad."""
    responses = [text.replace(" ", "") for text in responses]
    return [
        sum((ord("m") - ord(letter)) / 10 for letter in text if letter.isalpha())
        - 2 * any(one == other for one, other in pairwise(text))
        for text in responses
    ]


@pytest.fixture(scope="module")
def policy():
    return make_policy().eval()


@pytest.fixture(scope="module")
def rows(policy):
    return rollouts(policy, TOKENIZER, PROMPTS, count_of_letters, **SAMPLED)


@pytest.fixture
def make(tmp_path, policy, rows):
    def build(given=None, model=None, evaluation=None, **settings):
        return AdvantageTrainer(
            policy if model is None else model,
            AdvantageConfig(str(tmp_path / "head"), **TINY | settings),
            train_dataset=Dataset.from_list(rows if given is None else given),
            eval_dataset=None if evaluation is None else Dataset.from_list(evaluation),
            processing_class=make_tokenizer(),
        )

    return build


@torch.no_grad()
def enumerated(policy, prompt, written=(), head=None, beta=0.0):
    """The expected reward of a policy that is steered by a head, and its divergence from the policy.

    Returns:
        Both, and the candidates of the next token with their probabilities under the policy and the rewards that are
        expected after them.
    """
    text = TOKENIZER.decode(written, skip_special_tokens=True)
    if len(written) == 2 or written[-1:] == (TOKENIZER.eos_token_id,):
        return count_of_letters([""], [text])[0], 0.0, None
    ids = torch.tensor([[*TOKENIZER(prompt)["input_ids"], *written]])
    found = policy(ids).logits[0, -1].topk(4)
    tokens, shares = found.indices, found.values.softmax(-1)
    tilt = beta * head.next_token_rewards(ids)[0, tokens] if head else 0.0
    steered = (found.values + tilt).softmax(-1)
    after = [enumerated(policy, prompt, (*written, token), head, beta) for token in tokens.tolist()]
    rewards, divergences = torch.tensor([[reward, kl] for reward, kl, _ in after]).T
    kl = (steered * ((steered / shares).log() + divergences)).sum()
    return float((steered * rewards).sum()), float(kl), (tokens, shares, rewards)


class Fond(LogitsProcessor):
    """Makes every second one of the candidates several times as likely."""

    def __call__(self, input_ids, scores):
        candidates = scores >= scores.topk(SAMPLED["top_k"]).values[:, -1:]
        return (scores + 1.5 * (torch.arange(scores.shape[-1]) % 2)).where(candidates, -torch.inf)


@pytest.mark.parametrize("guide", [None, Fond()], ids=["of the policy", "of a guided policy"])
def test_it_learns_the_advantages_of_the_policys_tokens_from_responses(make, policy, rows, guide):
    given = (
        rows if guide is None else rollouts(policy, TOKENIZER, PROMPTS, count_of_letters, **SAMPLED, processor=guide)
    )
    trainer = make(given, num_train_epochs=12, learning_rate=3e-2, context_scale=1.0)
    trainer.train()
    for prompt in PROMPTS:
        mean, _, (tokens, shares, rewards) = enumerated(policy, prompt)
        exact = rewards - mean
        ids = torch.tensor([TOKENIZER(prompt)["input_ids"]])
        found = trainer.model.next_token_rewards(ids)[0, tokens] * trainer.unit
        found = found - (shares * found).sum()
        assert_close(found, exact, atol=0.1 * exact.abs().max().item(), rtol=0)


def test_the_loss_is_the_squared_error_of_the_sum_of_advantages(make, rows):
    # Of a guided policy: the responses count the same in the loss.
    trainer = make(
        [row | {"log_ratios": [place % 3 - 1.0] * len(row["completion_ids"])} for place, row in enumerate(rows)]
    )
    for parameter in trainer.model.score.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    batch = next(iter(trainer.get_train_dataloader()))
    ids, probabilities = batch["candidates"]
    errors = []
    for place, surplus in enumerate(batch["surpluses"]):
        total = 0.0
        for step in range(int(batch["attention_mask"][place].sum()) - 1):
            direction = trainer.model.score.directions(batch["hidden_states"][place, step])
            increments = trainer.model.token_embeddings @ direction
            mean = (probabilities[place, step] * increments[ids[place, step]]).sum()
            total = total + increments[batch["input_ids"][place, step + 1]] - mean
        errors.append((total - surplus) ** 2)
    loss = trainer.compute_loss(trainer.model, batch)
    assert_close(loss, torch.stack(errors).mean(), atol=1e-4, rtol=1e-4)


def test_the_step_does_not_depend_on_how_it_is_cut_into_batches(make):
    trained = []
    for batch, accumulated in ((16, 1), (4, 4)):
        trainer = make(
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=accumulated,
            max_steps=1,
            context_scale=1.0,
            optim="sgd",  # Adam and clipping would hide a gradient that is too small
            max_grad_norm=0,
        )
        trainer.train()
        trained.append(torch.cat([parameter.flatten() for parameter in trainer.model.parameters()]))
    assert_close(*trained, atol=1e-5, rtol=1e-4)


def test_an_evaluation_tells_what_steering_will_gain(make, rows, policy):
    trainer = make(rows, evaluation=rows, num_train_epochs=12, learning_rate=3e-2, context_scale=1.0)
    before = trainer.evaluate()
    trainer.train()
    after = trainer.evaluate()
    assert before["eval_explained"] == pytest.approx(0, abs=1e-6)  # an untrained head steers nowhere
    assert after["eval_explained"] > 0.6
    beta = 0.05  # small, as the estimate is to first order
    gain, divergence = 0.0, 0.0
    for prompt in PROMPTS:
        steered, kl, _ = enumerated(policy, prompt, head=trainer.model, beta=beta)
        gain += steered - enumerated(policy, prompt)[0]
        divergence += kl
    expected = gain / len(PROMPTS) / math.sqrt(divergence / len(PROMPTS))
    assert after["eval_gain_at_1_nat"] == pytest.approx(expected, rel=0.1)


def test_a_saved_head_steers(make, policy, tmp_path, rows):
    trainer = make(evaluation=rows, num_train_epochs=2)
    trainer.train()
    trainer.evaluate()
    trainer.save_model()
    folder = tmp_path / "head"
    assert json.loads((folder / "guidance_config.json").read_text()) == {"beta": 3.0, "top_k": 4}
    assert json.loads((folder / "config.json").read_text())["reward_unit"] == pytest.approx(trainer.unit)
    card = (folder / "README.md").read_text()
    assert "gain at 1 nat" in card
    assert "advantages" in card
    assert "- rank: 8" in card
    assert "None" not in card
    head = NextTokenRewardModel.from_pretrained(folder).attach(policy)
    ids = torch.tensor([TOKENIZER("ab")["input_ids"]])
    assert_close(head.next_token_rewards(ids), trainer.model.next_token_rewards(ids))
    with steering(policy, [str(folder)]) as processor:
        assert policy.generate(ids, logits_processor=[processor], max_new_tokens=3, do_sample=False).shape[1] > 2


def test_a_policy_given_by_name_is_loaded(make, policy, tmp_path):
    policy.save_pretrained(tmp_path / "policy")
    trainer = make(model=str(tmp_path / "policy"), max_steps=1)
    trainer.train()
    trainer.model.attach(policy)


def test_another_data_set_can_be_evaluated(make, policy):
    trainer = make(max_steps=1)
    settings = {"num_responses": 5, "top_k": 4, "max_new_tokens": 2, "chat_template": False}
    others = rollouts(policy, TOKENIZER, ["zz"], count_of_letters, **settings)
    assert trainer.evaluate(Dataset.from_list(others))["eval_loss"] > 0


def test_responses_of_another_policy_are_told(make, rows, caplog):
    foreign = [row | {"completion_ids": [9, 9], "log_ratios": []} for row in rows]
    make(foreign, top_k=2).get_train_dataloader()
    assert "are not among the policy's 2 most likely ones" in caplog.text


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"top_k": 99}, ValueError, "`top_k` is 99, but the policy has 35 tokens"),
        ({"model": make_reward_model()}, TypeError, "no output embedding"),
        ({"model": 3}, TypeError, "`model` is a int"),
    ],
)
def test_what_cannot_be_trained_is_refused(make, change, error, words):
    with pytest.raises(error, match=words):
        make(**change)


def test_settings_of_another_trainer_are_refused(policy, rows, tmp_path):
    with pytest.raises(TypeError, match="needs an AdvantageConfig"):
        AdvantageTrainer(policy, PrefixValueConfig(str(tmp_path), bf16=False), Dataset.from_list(rows))


def test_a_checkpoint_of_another_number_of_candidates_is_refused(make, policy):
    make(save_strategy="steps", save_steps=1, max_steps=1).train()
    with pytest.raises(ValueError, match="top_k was 4 and is 3"):
        make(top_k=3, save_strategy="steps", save_steps=1, max_steps=2).train(resume_from_checkpoint=True)
