"""What the playground does, without a browser. What it looks like there: test_browser.py."""

import asyncio
import re
import threading
from types import SimpleNamespace

import pytest
from transformers import LlamaForSequenceClassification

from rgtg_hf.cli.errors import UserError
from rgtg_hf.cli.playground.playground_command import make_app
from tests.cli.conftest import byte_tokenizer, save

SETTINGS = {"prompt": "Hi!", "beta": 2.0, "value_beta": 0.0, "top_k": 5, "tokens": 4, "sample": False, "seed": 0}
SETTINGS |= {"search": "tokens", "num_rows": 3, "block_size": 2}
REQUEST = SimpleNamespace(session_hash="one")


async def within_a_loop(function, *arguments):
    """Gradio makes an event loop for each app that is built outside of one, and leaves it open."""
    return function(*arguments)


@pytest.fixture
def app(policy_folder, reward_folder, foreign_reward_folder):
    options = ["--model", policy_folder, "--reward_model", reward_folder, foreign_reward_folder]
    return asyncio.run(within_a_loop(make_app, [*options, "--max_new_tokens", "6", "--device", "cpu"]))


def answer(app, policy=0, reward_model=0, **settings):
    chosen = {"policy": policy, "reward_model": reward_model} | SETTINGS | settings
    return list(app._generate(**chosen, request=REQUEST))


def test_both_sides_stream_and_end(app):
    *_, (status, guided, unguided, key, curves) = answer(app)
    assert "Done." in status
    assert guided.count('role="option"') >= 1
    assert "Guided" in guided
    assert "KL 0.00 nats" in unguided
    assert "or more" in key
    assert "<polyline" in curves


@pytest.mark.parametrize("search", ["best", "resample", "halve", "none"])
def test_a_search_is_shown_with_its_bound(app, search):
    *_, (status, guided, unguided, *_) = answer(app, search=search, sample=True)
    assert "Done." in status
    assert "KL at most" in guided
    assert "KL 0.00 nats" in unguided


def test_the_seed_decides(app):
    texts = [answer(app, seed=seed, sample=True, tokens=6)[-1] for seed in (0, 0, 1)]
    written = [[re.findall("<bdi>([^<]*)</bdi>", part) for part in text[1:3]] for text in texts]
    assert written[0] == written[1]
    assert written[0] != written[2]


def test_models_are_loaded_at_the_start(app, policy_folder, foreign_reward_folder):
    assert app._loaded[0] == (0, 0)
    with pytest.raises(UserError, match="different vocabularies"):
        asyncio.run(within_a_loop(make_app, ["--model", policy_folder, "--reward_model", foreign_reward_folder]))


def test_beta_changes_the_steered_side_alone(app):
    weak, strong = (answer(app, beta=beta)[-1] for beta in (0.0, 50.0))
    words = [
        [re.findall("<bdi>([^<]*)</bdi><span class=.rgtg-num", part) for part in end[1:3]] for end in (weak, strong)
    ]
    assert words[0][0] == words[0][1] == words[1][1]
    assert words[1][0] != words[1][1]


def test_no_more_tokens_than_the_options_allow(app):
    guided = answer(app, tokens=100000)[-1][1]
    assert guided.count('role="option"') <= 6


@pytest.mark.parametrize("prompt", ["", "  \n", "x" * 4001])
def test_prompts_that_cannot_be_answered_are_told_on_the_page(app, prompt):
    (status, *_), *more = answer(app, prompt=prompt)
    assert 'role="alert"' in status
    assert not more


def test_errors_tell_no_places(app, reward_folder, foreign_reward_folder, caplog):
    status = answer(app, reward_model=1)[-1][0]
    assert 'role="alert"' in status
    assert "cannot be used together" in status
    assert foreign_reward_folder not in status
    assert "different vocabularies" in caplog.text
    app._load = lambda *places: (_ for _ in ()).throw(OSError(f"{reward_folder}: no such file"))
    status = answer(app)[-1][0]
    assert "the playground&#x27;s log has the reason" in status
    assert reward_folder not in status


def test_hostile_prompts_and_messages_stay_text(app):
    for part in answer(app, prompt="<script>alert(1)</script>"):
        assert "<script" not in "".join(part)


def test_stop_is_of_one_session(app):
    mine, other = threading.Event(), threading.Event()
    app._running = {"one": mine, "two": other}
    app._stop(REQUEST)
    assert (mine.is_set(), other.is_set()) == (True, False)
    app._stop(SimpleNamespace(session_hash="nobody"))


def test_paths_do_not_reach_the_browser(app, policy_folder, reward_folder):
    sent = str(app.blocks.get_config_file())
    assert policy_folder not in sent
    assert reward_folder not in sent


def fields_of(app):
    return {component.elem_id: component for component in app.blocks.blocks.values() if component.elem_id}


def test_a_value_model_has_a_field_of_its_own_and_beta_its_unit(policy_folder, tmp_path):
    bins = {"num_labels": 5, "value_range": [0.0, 100.0]}
    folder = save(tmp_path / "values", LlamaForSequenceClassification, byte_tokenizer(), seed=2, **bins)
    options = ["--model", policy_folder, "--reward_model", folder, "--beta", "0.16", "--device", "cpu"]
    app = asyncio.run(within_a_loop(make_app, options))
    beta, value_beta = (fields_of(app)[name] for name in ("beta", "value_beta"))
    assert (beta.value, beta.maximum, value_beta.value, value_beta.visible) == (0.16, 0.48, 0.0, True)
    assert beta.step < 0.01
    rewards = [answer(app, beta=0.16, value_beta=value_beta, tokens=6)[-1][1] for value_beta in (0.0, 0.4)]
    assert "rgtg-returns" in rewards[0]
    assert rewards[0] != rewards[1]


@pytest.mark.parametrize(("top_k", "num_rows", "block_size"), [(0, 20, 100), (7, 3, 5)])
def test_fields_hold_the_settings_of_the_start(policy_folder, reward_folder, top_k, num_rows, block_size):
    given = {"top_k": top_k, "num_rows": num_rows, "block_size": block_size}
    options = ["--model", policy_folder, "--reward_model", reward_folder, "--device", "cpu"]
    options += [part for name, value in given.items() for part in (f"--{name}", str(value))]
    fields = fields_of(asyncio.run(within_a_loop(make_app, options)))
    assert {name: fields[name].value for name in given} == given
    assert all(fields[name].minimum <= value <= fields[name].maximum for name, value in given.items())


def test_a_reward_model_has_no_such_field(app):
    fields = fields_of(app)
    assert not fields["value_beta"].visible
    assert fields["beta"].maximum == 10
