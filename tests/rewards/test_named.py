"""A name in place of a reward model is that reward model, with the tokenizer that lies beside it."""

from functools import partial

import pytest
import torch
from torch.testing import assert_close
from transformers import LlamaForCausalLM

from rgtg_hf import RewardGuidanceConfig, RewardGuidedLogitsProcessor, reward_guided_generate, steering
from rgtg_hf.config import RewardModelSource
from rgtg_hf.rewards import named
from rgtg_hf.rewards.load import load_reward_model
from rgtg_hf.rewards.named import load_for_policy, load_named
from rgtg_hf.scoring.siblings import SiblingScorer
from rgtg_hf.scoring.text.retokenized import RetokenizedScorer
from tests.scoring.text.tiny_tokenizers import byte_level, sentencepiece
from tests.tiny_models import GuidedLlama, left_padded, tiny_policy, tiny_reward_model, tiny_steering_head

IDS, MASK = left_padded([[5, 6, 7, 8], [9, 10]])
SHORT = {"attention_mask": MASK, "max_new_tokens": 4, "do_sample": False, "pad_token_id": 0}


@pytest.fixture
def folder(tmp_path):
    tiny_reward_model().save_pretrained(tmp_path / "rm")
    RewardGuidanceConfig(beta=8.0).save_pretrained(tmp_path / "rm")
    return str(tmp_path / "rm")


@pytest.fixture
def policy():
    return tiny_policy(model_class=GuidedLlama)


def with_a_tokenizer(model, tokenizer, place):
    model.save_pretrained(place)
    tokenizer.save_pretrained(place)
    return str(place)


def test_a_processor_takes_a_name_with_the_settings_beside_it(folder, policy):
    named, given = RewardGuidedLogitsProcessor(folder), RewardGuidedLogitsProcessor(load_reward_model(folder))
    assert named.config == given.config
    assert named.config.beta == 8.0
    found = [policy.generate(IDS, logits_processor=[one], **SHORT) for one in (named, given)]
    assert torch.equal(*found)


def test_a_list_may_mix_names_and_models(folder, policy):
    other = tiny_reward_model(seed=7)
    names = RewardGuidedLogitsProcessor([folder, other], weights=[1.0, -0.5])
    models = RewardGuidedLogitsProcessor([load_reward_model(folder), other], weights=[1.0, -0.5])
    scores = torch.randn(2, 40)
    assert_close(names(IDS, scores), models(IDS, scores))


@pytest.mark.parametrize("arguments", [{}, {"custom_generate": reward_guided_generate}], ids=["mixin", "callable"])
def test_generate_takes_a_name_and_loads_it_once_per_policy(folder, policy, arguments, monkeypatch):
    loads = []
    monkeypatch.setattr(named, "load_reward_model", lambda *a, **k: loads.append(a) or load_reward_model(*a, **k))
    expected = policy.generate(IDS, reward_model=load_reward_model(folder), **SHORT)
    generate = partial(LlamaForCausalLM.generate, policy) if arguments else policy.generate
    for _ in range(2):
        assert torch.equal(generate(IDS, reward_model=folder, **arguments, **SHORT), expected)
    assert len(loads) == 1


def test_steering_takes_the_names_of_heads(policy, tmp_path):
    head = tiny_steering_head(policy)
    head.save_pretrained(tmp_path)
    RewardGuidanceConfig(beta=8.0).save_pretrained(tmp_path)
    for heads, expected in [([str(tmp_path)], 8.0), ([(tmp_path, 1.5)], 1.5)]:
        with steering(policy, heads) as processor:
            assert processor.betas == [expected]
            found = policy.generate(IDS, logits_processor=[processor], **SHORT)
        with steering(policy, [(head, expected)]) as processor:
            assert torch.equal(found, policy.generate(IDS, logits_processor=[processor], **SHORT))


def test_a_reward_model_is_no_head_by_name_either(folder, policy):
    with pytest.raises(TypeError, match="pairs of a NextTokenRewardModel"), steering(policy, [folder]):
        pass


def test_a_loaded_model_has_its_precision_device_and_revision(folder):
    tiny_reward_model().to(torch.bfloat16).save_pretrained(folder)
    model, tokenizer = load_named(RewardModelSource(folder, "v1"), "cpu")
    assert (model.dtype, model.device.type, tokenizer) == (torch.bfloat16, "cpu", None)


def test_with_a_tokenizer_its_own_decides_whether_ids_or_texts_are_read(tmp_path):
    own, other = byte_level(), sentencepiece()
    for tokenizer, kind in ((own, SiblingScorer), (other, RetokenizedScorer)):
        model = tiny_reward_model(vocab_size=len(tokenizer))
        folder = with_a_tokenizer(model, tokenizer, tmp_path / kind.__name__)
        assert isinstance(RewardGuidedLogitsProcessor(folder, tokenizer=own).scorer, kind)


def test_other_ids_than_the_policys_are_noticed_by_the_policys_own_tokenizer(tmp_path, caplog):
    """Two vocabularies of one size: nothing but the tokenizers tells them apart."""
    first, second = byte_level(merges=20), byte_level(merges=20, sentences=["zebras quiz jumbled wizards boxing"] * 3)
    assert len(first) == len(second)
    assert first.get_vocab() != second.get_vocab()
    model = tiny_reward_model(vocab_size=len(first))
    place = with_a_tokenizer(tiny_policy(vocab_size=len(first)), first, tmp_path / "policy")
    policy = GuidedLlama.from_pretrained(place)
    same = with_a_tokenizer(model, first, tmp_path / "same")
    other = with_a_tokenizer(model, second, tmp_path / "other")
    plain = policy.generate(IDS, reward_model=model, **SHORT)
    assert torch.equal(policy.generate(IDS, reward_model=same, **SHORT), plain)
    assert "another tokenizer" not in caplog.text

    ids = first(["The cat sat on"], return_tensors="pt")["input_ids"]
    short = {"max_new_tokens": 4, "do_sample": False}
    found = policy.generate(ids, reward_model=other, **short)
    assert "another tokenizer" in caplog.text
    tokenizers = {"tokenizer": first, "reward_tokenizer": second}
    assert torch.equal(found, policy.generate(ids, reward_model=model, **tokenizers, **short))


def test_tokenizers_that_are_given_stay(folder, policy, tmp_path):
    own = byte_level()
    place = with_a_tokenizer(tiny_reward_model(vocab_size=len(own)), sentencepiece(), tmp_path / "rm")
    loaded = load_for_policy(policy, place, own, own)
    assert (loaded.tokenizer, loaded.reward_tokenizer) == (own, own)


def test_a_missing_model_is_named(policy, tmp_path):
    with pytest.raises(OSError, match="no-such"):
        policy.generate(IDS, reward_model=str(tmp_path / "no-such"), **SHORT)
