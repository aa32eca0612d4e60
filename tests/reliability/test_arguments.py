"""Every public argument, given what it cannot be: one clear error of a documented type, that names the argument."""

import math
from functools import cache, partial

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import LlamaForCausalLM

from rgtg_hf import (
    NextTokenRewardModel,
    PrefixRewardConfig,
    PrefixRewardTrainer,
    RewardGuidanceConfig,
    RewardGuidedLogitsProcessor,
    inspect,
    merge_heads,
    prefix_rewards,
    reward_guided_generate,
    steering,
)
from rgtg_hf.rewards.load import load_reward_model
from tests.scoring.text.tiny_tokenizers import byte_level
from tests.tiny_models import (
    PAD,
    VOCAB_SIZE,
    GuidedLlama,
    tiny_next_token_model,
    tiny_policy,
    tiny_reward_model,
    tiny_steering_head,
)

NAN, INF, HUGE = math.nan, math.inf, 10**400
IDS = torch.tensor([[5, 6, 7]])
TWO = torch.tensor([[5, 6, 7], [8, 9, 10]])


@cache
def policy():
    return tiny_policy(model_class=GuidedLlama)


@cache
def reward_model():
    return tiny_reward_model()


@cache
def head(**settings):
    return tiny_steering_head(policy(), **settings)


def same(model):
    """A tokenizer with nothing to say about ids: the tests here never come to read text."""
    return byte_level()


def config(**settings):
    RewardGuidanceConfig(**settings)


def made(**arguments):
    RewardGuidedLogitsProcessor(**({"reward_model": reward_model()} | arguments))


def made_of_two(**arguments):
    RewardGuidedLogitsProcessor([reward_model(), reward_model()], **arguments)


def told(**arguments):
    RewardGuidedLogitsProcessor(reward_model()).set_prompts(**arguments)


def used(ids=IDS, **arguments):
    """The processor in `generate()`."""
    processor = RewardGuidedLogitsProcessor(**({"reward_model": reward_model()} | arguments))
    policy().generate(ids, logits_processor=[processor], max_new_tokens=2, do_sample=False, pad_token_id=PAD)


def called(input_ids=IDS, scores=None):
    """The processor by hand."""
    RewardGuidedLogitsProcessor(reward_model())(input_ids, torch.zeros(1, VOCAB_SIZE) if scores is None else scores)


def mixin(**arguments):
    arguments = {"reward_model": reward_model()} | arguments
    policy().generate(IDS, max_new_tokens=2, do_sample=False, **arguments)


def mixin_with_heads(**arguments):
    mixin(**({"reward_model": [head(), head()]} | arguments))


def custom(**arguments):
    arguments = {"reward_model": reward_model()} | arguments
    LlamaForCausalLM.generate(
        policy(), IDS, custom_generate=reward_guided_generate, max_new_tokens=2, do_sample=False, **arguments
    )


def custom_with(**arguments):
    """What `generate()` keeps from a callable, given to the callable itself."""
    callable_ = partial(reward_guided_generate, **arguments)
    LlamaForCausalLM.generate(policy(), IDS, custom_generate=callable_, reward_model=reward_model(), max_new_tokens=2)


def steered(**arguments):
    """Steering in `generate()`."""
    arguments = {"policy": policy(), "heads": [(head(), 1.0)]} | arguments
    with steering(**arguments) as processor:
        policy().generate(IDS, logits_processor=[processor], max_new_tokens=2, do_sample=False)


def beta_of_head(beta):
    steered(heads=[(head(), beta)])


def merged(**arguments):
    merge_heads(**({"policy": policy(), "heads": [(head(nonlinear=False), 1.0)]} | arguments))


def beta_merged(beta):
    merged(heads=[(head(nonlinear=False), beta)])


def read(**arguments):
    prefix_rewards(**({"model": reward_model(), "input_ids": IDS} | arguments))


def new_head(**arguments):
    NextTokenRewardModel.from_policy(**({"policy": policy()} | arguments))


def new_model(**arguments):
    NextTokenRewardModel.from_backbone(**({"backbone": reward_model()} | arguments))


def attached(policy):
    head().attach(policy)


def inspected(**arguments):
    arguments = {
        "policy": policy(),
        "tokenizer": same(None),
        "reward_model": reward_model(),
        "prompt": "the cat",
    } | arguments
    inspect(**arguments)


def training(**settings):
    PrefixRewardConfig("outputs", bf16=False, report_to="none", **settings)


def trainer(**arguments):
    settings = PrefixRewardConfig("outputs", bf16=False, report_to="none")
    rows = Dataset.from_list([{"prompt": "a", "chosen": " b", "rejected": " c"}])
    given = {"model": reward_model(), "args": settings, "train_dataset": rows, "processing_class": byte_level()}
    PrefixRewardTrainer(**given | arguments)


def loaded(name):
    load_reward_model(name)


def config_loaded(name):
    RewardGuidanceConfig.from_pretrained(name)


def config_saved(save_directory):
    RewardGuidanceConfig().save_pretrained(save_directory)


PROBABILITY = {
    TypeError: ["0.5", True, [0.5], torch.tensor(0.5), 1j],
    ValueError: [0.0, -0.1, 1.0001, NAN, INF, -INF, HUGE],
}
COUNT = {TypeError: ["8", 2.5, True, [8], NAN], ValueError: [0, -1]}
TOP_K = {TypeError: ["8", 2.5, True, [8], NAN], ValueError: [-1, -HUGE]}
SHARE = PROBABILITY | {ValueError: [-0.1, 1.0001, NAN, INF, -INF, HUGE]}
NATS = {TypeError: ["1", True, [1.0], torch.tensor([1.0])], ValueError: [0.0, -1.0, NAN, -INF, HUGE]}
SWITCH = {TypeError: ["no", 2, None]}
BETA = {TypeError: ["1", True, [1.0], torch.tensor(1.0), 1j], ValueError: [NAN, INF, -INF, HUGE, -HUGE]}
MODEL = {TypeError: [None, 3, {}, torch.nn.ReLU], ValueError: [torch.nn.Linear(2, 2), []]}
IDS_OR_TEXT = {
    TypeError: [5, "text", [5, 6], [[5.5]], [["a"]], [None], torch.tensor([[5.0]]), {"input_ids": IDS}, [[True]]],
    ValueError: [[], [[]], [[5], []], [[-1, 5]], [[5, VOCAB_SIZE]], torch.tensor([[5, 999]]), torch.tensor([5, 6])],
}
MASK = {
    TypeError: [[[1, 1, 1]], "mask", 1, np.ones((1, 3))],
    ValueError: [
        torch.ones(3),
        torch.ones(1, 3, 1),
        torch.ones(0, 3),
        torch.ones(1, 0),
        torch.zeros(1, 3),
        torch.tensor([[0, 1, 2]]),
        torch.tensor([[NAN, 1.0, 1.0]]),
    ],
}
PROMPT = {TypeError: [None, 5, b"text", [5], ["text"], [{"role": "user"}]], ValueError: ["", "  ", []]}

# What is called, the argument, and by error the values that it must refuse.
TABLE = [
    (config, "beta", BETA),
    (config, "top_k", TOP_K),
    (config, "top_p", PROBABILITY),
    (config, "min_p", SHARE),
    (config, "min_entropy", {TypeError: ["1", True, [1.0]], ValueError: [-0.1, NAN, INF, HUGE]}),
    (config, "max_increment", NATS),
    (config, "max_step_kl", NATS),
    (config, "scorer", {TypeError: [3, b"auto", ["auto"]], ValueError: ["", "fastest", "Tree"]}),
    (config, "strength", {TypeError: [1.0]}),
    (config_loaded, "name", {TypeError: [None, 5, b"x"], FileNotFoundError: ["", "/no/such/name", "no such name"]}),
    (config_saved, "save_directory", {TypeError: [None, 5, b"x"]}),
    (made, "reward_model", MODEL),
    (made, "beta", BETA),
    (made, "top_k", TOP_K),
    (made, "min_entropy", {TypeError: ["1", True], ValueError: [-0.1, NAN]}),
    (made, "strength", {TypeError: [1.0]}),
    (made, "attention_mask", MASK),
    (told, "attention_mask", MASK),
    (used, "attention_mask", {ValueError: [torch.ones(2, 3), torch.ones(1, 9)]}),
    (made, "pad_token_id", {TypeError: ["0", 2.5, True, [0], NAN]}),
    (made, "eos_token_id", {TypeError: ["2", 2.5, True, [2.5], ["2"], [None], NAN]}),
    (made, "reward_prompts", IDS_OR_TEXT),
    (told, "reward_prompts", IDS_OR_TEXT),
    (used, "reward_prompts", {ValueError: [[[5], [6]], torch.tensor([[5], [6], [7]])]}),
    (made, "tokenizer", {TypeError: ["name", 5, len]}),
    (made, "reward_tokenizer", {TypeError: ["name", 5, len]}),
    (made, "guidance_config", {TypeError: [{"beta": 1.0}, "config", 1.0]}),
    (made, "collect_records", SWITCH),
    (made, "weights", {ValueError: [[1.0], [NAN]]}),
    (called, "input_ids", {ValueError: [torch.zeros(1, 0, dtype=torch.long), TWO]}),
    (called, "scores", {ValueError: [torch.zeros(2, VOCAB_SIZE), torch.zeros(1, 7)]}),
    (called, "scores", {FloatingPointError: [torch.full((1, VOCAB_SIZE), NAN)]}),
    (used, "beta", {FloatingPointError: [1e300, -1e39]}),
    (mixin, "reward_model", {TypeError: [3, {}], ValueError: [[]]}),
    (mixin, "beta", BETA),
    (mixin, "top_k", TOP_K),
    (mixin, "max_step_kl", NATS),
    (mixin, "guidance_config", {TypeError: [{"beta": 1.0}, "config", 1.0]}),
    (mixin, "reward_prompts", {TypeError: [5, "text"], ValueError: [[], [[5, VOCAB_SIZE]], [[5], [6]]]}),
    (mixin, "tokenizer", {TypeError: ["name", 5]}),
    (mixin, "reward_tokenizer", {TypeError: ["name", 5]}),
    (mixin, "weights", {ValueError: [[1.0]]}),
    (mixin_with_heads, "beta", BETA),
    (mixin_with_heads, "top_k", TOP_K),
    (mixin_with_heads, "weights", {TypeError: ["ab", 1.0, ["1", "1"], [True, True], [None, 1.0]]}),
    (mixin_with_heads, "weights", {ValueError: [[1.0], [1.0, NAN], [INF, 1.0], [HUGE, 1], []]}),
    (made_of_two, "weights", {TypeError: ["ab", 1.0, ["1", "1"], [True, True], [None, 1.0], torch.ones(2)]}),
    (made_of_two, "weights", {ValueError: [[1.0], [1.0, NAN], [INF, 1.0], [HUGE, 1], []]}),
    (custom, "reward_model", {TypeError: [3, {}], ValueError: [None, []]}),
    (custom, "beta", {TypeError: ["1", True, [1.0]], ValueError: [NAN, INF, HUGE]}),
    (custom, "top_k", {TypeError: ["8", 2.5, True], ValueError: [-2]}),
    (custom, "max_increment", NATS),
    (custom, "guidance_config", {TypeError: [{"beta": 1.0}, "config", 1.0]}),
    (custom_with, "streamer", {TypeError: [5, "stdout", print]}),
    (custom_with, "tokenizer", {TypeError: ["name", 5]}),
    (custom, "weights", {ValueError: [[1.0]]}),
    (steered, "policy", {TypeError: [None, "owner/name", 3, reward_model()]}),
    (steered, "heads", {TypeError: [None, 5, "heads", [5], [(head(),)], [(None, 1.0)]]}),
    (steered, "heads", {ValueError: [[], [(tiny_next_token_model(), 1.0)]]}),
    (beta_of_head, "beta", {TypeError: ["1", True, [1.0], 1j, torch.tensor([1j])]}),
    (beta_of_head, "beta", {ValueError: [NAN, INF, HUGE, torch.tensor([NAN]), torch.ones(2), torch.ones(0)]}),
    (beta_of_head, "beta", {ValueError: [torch.ones(1, 1, 1)], FloatingPointError: [3e38, torch.tensor([3e38])]}),
    (steered, "top_k", TOP_K),
    (steered, "beta", {TypeError: [1.0]}),
    (steered, "guidance_config", {TypeError: [{"top_k": 1}]}),
    (steered, "top_p", PROBABILITY),
    (steered, "min_p", SHARE),
    (steered, "max_increment", NATS),
    (steered, "max_step_kl", NATS),
    (merged, "policy", {TypeError: [None, "owner/name", reward_model()]}),
    (merged, "heads", {TypeError: [None, 5, [5], [head()], [("head", 1.0)]]}),
    (merged, "heads", {ValueError: [[], [(head(), 1.0)], [(tiny_next_token_model(), 1.0)]]}),
    (beta_merged, "beta", {TypeError: ["1", None, True, torch.tensor(1.0)], ValueError: [NAN, INF, HUGE, 1e300]}),
    (read, "model", {TypeError: [None, "owner/name", 3]}),
    (read, "input_ids", {TypeError: [None, [[5, 6]], "ids", torch.tensor([[5.0]])]}),
    (read, "input_ids", {ValueError: [torch.tensor([5, 6]), torch.zeros(1, 0, dtype=torch.long), IDS + VOCAB_SIZE]}),
    (read, "input_ids", {ValueError: [IDS - 9, IDS[None]]}),
    (read, "attention_mask", {TypeError: [[[1, 1, 1]], 1], ValueError: [torch.ones(1, 2), torch.ones(3)]}),
    (new_head, "policy", {TypeError: [None, "owner/name", reward_model()]}),
    (new_head, "rank", COUNT),
    (new_head, "dropout", {TypeError: ["0", True, None], ValueError: [1.0, -0.1, NAN, INF]}),
    (new_head, "context_scale", {TypeError: ["0", True, None], ValueError: [-0.1, NAN, INF]}),
    (new_model, "backbone", {TypeError: [None, "owner/name", torch.nn.ReLU()]}),
    (new_model, "rank", COUNT),
    (attached, "policy", {TypeError: [None, "owner/name", reward_model()], ValueError: [tiny_policy(seed=9)]}),
    (inspected, "policy", {TypeError: [None, "owner/name", reward_model()]}),
    (inspected, "tokenizer", {TypeError: [None, "name"]}),
    (inspected, "reward_model", {TypeError: [None, "owner/name"]}),
    (inspected, "prompt", PROMPT),
    (inspected, "beta", BETA),
    (inspected, "top_k", TOP_K),
    (inspected, "max_new_tokens", COUNT),
    (inspected, "do_sample", SWITCH),
    (inspected, "chat_template", SWITCH),
    (inspected, "seed", {TypeError: ["0", 1.5, None, True], ValueError: [2**64, -(2**64)]}),
    (training, "num_layers", COUNT),
    (training, "prefix_stride", COUNT | {TypeError: ["8", 2.5, True, None]}),
    (training, "prefixes_per_pair", COUNT | {TypeError: ["8", 2.5, True, None]}),
    (training, "after_end", {ValueError: ["", "pad", None, 3, []]}),
    (training, "prefixes", {ValueError: ["", "some", 3, []]}),
    (training, "position_weights", {ValueError: ["", "late", None, 3, []]}),
    (training, "from_first_difference", {TypeError: ["no", 2, None]}),
    (trainer, "model", {TypeError: [None, 5, {}, torch.nn.Linear(2, 2)], OSError: ["", "/no/such/model"]}),
    (trainer, "args", {TypeError: [{}, 5, "outputs"]}),
    (trainer, "train_dataset", {TypeError: [5, "rows", [{"chosen": "a", "rejected": "b"}], []], ValueError: [None]}),
    (trainer, "eval_dataset", {TypeError: [5, "rows", [], {"one": []}]}),
    (trainer, "processing_class", {TypeError: [5, "name", len]}),
    (loaded, "name", {TypeError: [None, 5], OSError: ["", "/nowhere/at/all"]}),
]
CASES = [
    pytest.param(call, argument, value, error, id=f"{call.__name__}-{argument}-{error.__name__}-{place}")
    for number, (call, argument, refused) in enumerate(TABLE)
    for error, values in refused.items()
    for place, value in enumerate(values, 100 * number)
]


def test_there_are_enough_cases():
    assert len(CASES) >= 150


@pytest.mark.parametrize(("call", "argument", "value", "error"), CASES)
def test_what_an_argument_cannot_be_is_refused_by_name(call, argument, value, error):
    with pytest.raises(error) as caught:
        call(**{argument: value})
    assert type(caught.value) in (error, *error.__subclasses__())
    names = (argument, argument.replace("_", " "), argument.removeprefix("policy_"))
    assert any(name in str(caught.value) for name in names) or issubclass(
        error, OSError
    )  # which names what is not there
    assert "\n" not in str(caught.value).strip()
