import pytest
from transformers import DynamicCache

from rgtg_hf.compat import cache_argument, cache_in
from tests.tiny_models import tiny_policy


def test_a_cache_is_passed_and_found_under_the_name_of_this_version():
    policy, cache = tiny_policy(), DynamicCache()
    output = policy(policy.dummy_inputs["input_ids"] % 8, use_cache=True, **{cache_argument(policy.forward): cache})
    assert cache.get_seq_length() > 0
    assert cache_in(output) is cache


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (lambda cache=None: None, "cache"),
        (lambda past_key_values=None: None, "past_key_values"),
        (lambda cache=None, past_key_values=None: None, "cache"),
    ],
)
def test_the_newer_name_of_a_cache_goes_first(function, name):
    assert cache_argument(function) == name


@pytest.mark.parametrize("arguments", [{}, {"input_ids": 1}, {"cache": None}])
def test_a_call_without_a_cache_has_none(arguments):
    assert cache_in(arguments) is None
