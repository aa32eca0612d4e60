"""Special tokens are those given, or the tokenizer's, or the reward model's, in this order."""

import pytest

from rgtg_hf.decoding.special_tokens import special_tokens
from tests.scoring.text.tiny_tokenizers import byte_level
from tests.tiny_models import BOS, EOS, PAD, tiny_reward_model

TOKENIZER = byte_level()


def test_a_reward_models_configuration_is_asked_where_there_is_no_tokenizer(reward_model):
    assert special_tokens(None, reward_model) == (PAD, BOS, [EOS])
    assert special_tokens(None, [tiny_reward_model(eos_token_id=[EOS, 7]), reward_model]) == (PAD, BOS, [EOS, 7])


def test_a_tokenizer_wins_over_the_configuration():
    other = tiny_reward_model(pad_token_id=11, bos_token_id=12, eos_token_id=13)
    own = (TOKENIZER.pad_token_id, TOKENIZER.bos_token_id, [TOKENIZER.eos_token_id])
    assert special_tokens(TOKENIZER, other) == own


def test_what_is_given_wins_and_the_rest_is_looked_up(reward_model):
    assert special_tokens(TOKENIZER, reward_model, 20, 21) == (20, TOKENIZER.bos_token_id, [21])
    assert special_tokens(None, reward_model, eos_token_id=(21, 22)) == (PAD, BOS, [21, 22])
    assert special_tokens(None, reward_model, 0, 0) == (0, BOS, [0])


@pytest.mark.parametrize("nothing", [lambda prompts, responses: [], [], None])
def test_what_has_no_configuration_has_no_special_tokens(nothing):
    assert special_tokens(None, nothing) == (None, None, [])


@pytest.mark.parametrize(
    ("given", "name"),
    [({"pad_token_id": "0"}, "pad_token_id"), ({"eos_token_id": [2, True]}, "eos_token_id")],
)
def test_an_id_that_is_not_an_integer_is_refused(reward_model, given, name):
    with pytest.raises(TypeError, match=f"`{name}` is or holds .*, but a token's id is an integer"):
        special_tokens(None, reward_model, **given)
