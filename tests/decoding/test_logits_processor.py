"""What the processor refuses, and what it leaves alone."""

import copy
import pickle

import pytest
import torch
from torch.testing import assert_close
from transformers import BertConfig, BertForSequenceClassification, LlamaForSequenceClassification

from rgtg_hf import RewardGuidedLogitsProcessor
from rgtg_hf.config import RewardGuidanceConfig
from tests.tiny_models import BOS, EOS, PAD, left_padded, tiny_next_token_model, tiny_policy, tiny_reward_model


def generate(policy, processor, ids, mask=None, **settings):
    return policy.generate(
        ids, attention_mask=mask, logits_processor=[processor], max_new_tokens=3, do_sample=False, **settings
    )


def test_a_reward_model_with_two_labels_is_refused():
    with pytest.raises(ValueError, match=r"num_labels=2.*num_labels=1"):
        RewardGuidedLogitsProcessor(tiny_reward_model(num_labels=2))


def test_a_bidirectional_reward_model_is_refused():
    config = BertConfig(
        vocab_size=40, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, num_labels=1
    )
    with pytest.raises(ValueError, match="causal sequence classifier"):
        RewardGuidedLogitsProcessor(BertForSequenceClassification(config))


def test_a_reward_model_that_reads_ahead_is_refused():
    config = tiny_reward_model().config
    config.is_causal = False
    with pytest.raises(ValueError, match="not causal"):
        RewardGuidedLogitsProcessor(LlamaForSequenceClassification(config))


def test_something_that_is_no_model_is_refused(tmp_path):
    with pytest.raises(TypeError, match="`reward_model` is a int"):
        RewardGuidedLogitsProcessor(5)
    with pytest.raises(OSError, match="no-such-folder"):
        RewardGuidedLogitsProcessor(str(tmp_path / "no-such-folder"))


@pytest.mark.parametrize("size", [30, 50])
def test_another_vocabulary_is_refused_at_the_first_step(policy, size):
    processor = RewardGuidedLogitsProcessor(tiny_reward_model(vocab_size=size))
    with pytest.raises(ValueError, match=f"scores 40 tokens.*embedding has {size}"):
        generate(policy, processor, torch.tensor([[5, 6]]))


def test_padding_that_cannot_be_told_is_refused_and_told_by_the_mask(policy):
    ids, mask = left_padded([[5, 6, 7], [8, 9, 10, 11]])
    reward_model = tiny_reward_model(bos_token_id=PAD)
    with pytest.raises(ValueError, match="padding cannot be told"):
        generate(policy, RewardGuidedLogitsProcessor(reward_model), ids, mask)
    told = generate(policy, RewardGuidedLogitsProcessor(reward_model, attention_mask=mask), ids, mask)
    assert torch.equal(told, generate(policy, RewardGuidedLogitsProcessor(tiny_reward_model()), ids, mask))


def test_a_mask_of_other_prompts_is_refused(policy, reward_model):
    ids, mask = left_padded([[5, 6, 7], [8, 9, 10, 11]])
    processor = RewardGuidedLogitsProcessor(reward_model, attention_mask=mask)
    with pytest.raises(ValueError, match=r"`attention_mask` has shape \(2, 4\)"):
        generate(policy, processor, ids[:1], mask[:1])
    processor.set_prompts(attention_mask=mask[:1])
    generate(policy, processor, ids[:1], mask[:1])


def test_one_bos_token_that_is_also_the_pad_token_is_no_padding(policy):
    ids = torch.tensor([[PAD, 5, 6], [PAD, 8, 9]])
    processor = RewardGuidedLogitsProcessor(tiny_reward_model(bos_token_id=PAD))
    generate(policy, processor, ids, torch.ones_like(ids))
    assert processor.scorer.reader.held[0, 0] == PAD


def test_rewards_that_are_not_finite_stop_the_generation(policy):
    reward_model = tiny_reward_model()
    processor = RewardGuidedLogitsProcessor(reward_model)
    torch.nn.init.constant_(reward_model.score.weight, float("nan"))
    with pytest.raises(FloatingPointError, match="row 0, after 2 tokens"):
        generate(policy, processor, torch.tensor([[5, 6]]))


def test_a_prompt_hidden_in_embeddings_is_refused(policy, reward_model):
    embeddings = policy.get_input_embeddings()(torch.tensor([[5, 6]]))
    with pytest.raises(ValueError, match="`inputs_embeds` alone"):
        policy.generate(
            inputs_embeds=embeddings, logits_processor=[RewardGuidedLogitsProcessor(reward_model)], max_new_tokens=2
        )


@pytest.mark.parametrize("family", ["llama", "bloom"])
def test_ended_rows_follow_the_policy_and_cost_nothing_once_all_have_ended(family):
    processor = RewardGuidedLogitsProcessor(tiny_reward_model(family), top_k=4)
    scores = torch.randn(2, 40)
    rows = [[5, 6, 7, 8], [5, 6, 9, EOS]]
    for length in (2, 3, 4):
        processor(torch.tensor(rows)[:, :length], scores)
    found = processor(torch.tensor([[*rows[0], EOS], [*rows[1], PAD]]), scores)[1]
    assert torch.equal(found, scores[1].masked_fill(scores[1] < scores[1].topk(4).values[-1], float("-inf")))
    before = processor.scorer.tokens_computed
    processor(torch.tensor([[*rows[0], EOS, PAD], [*rows[1], PAD, PAD]]), scores)
    assert processor.scorer.tokens_computed == before


def test_a_prompt_that_ends_with_the_end_token_is_steered(policy, reward_model):
    processor = RewardGuidedLogitsProcessor(reward_model, beta=5.0, top_k=4)
    scores = policy(torch.tensor([[BOS, 5, EOS, EOS]])).logits[:, -1]
    guided = processor(torch.tensor([[BOS, 5, EOS, EOS]]), scores)
    kept = guided > float("-inf")
    assert not torch.allclose(guided[kept], scores[kept])


def test_a_step_with_one_candidate_costs_nothing_and_is_caught_up(policy, reward_model):
    config = RewardGuidanceConfig(beta=1.0, top_k=4, min_p=0.9)
    processor = RewardGuidedLogitsProcessor(reward_model, guidance_config=config)
    sure, unsure = torch.zeros(1, 40), torch.zeros(1, 40)
    sure[0, 3] = 9.0
    ids = torch.tensor([[5, 6, 7, 8, 9]])
    processor(ids[:, :3], sure)
    processor(ids[:, :4], sure)
    assert processor.scorer.tokens_computed == 0
    skipped = processor(ids, unsure)
    fresh = RewardGuidedLogitsProcessor(reward_model, guidance_config=config)(ids, unsure)
    torch.testing.assert_close(skipped, fresh)


def test_certain_steps_are_not_steered_below_the_entropy_threshold(reward_model):
    processor = RewardGuidedLogitsProcessor(
        reward_model, guidance_config=RewardGuidanceConfig(beta=3.0, top_k=4, min_entropy=1.0)
    )
    scores = torch.zeros(2, 40)
    scores[0, 3] = 20.0
    guided = processor(torch.tensor([[5, 6], [7, 8]]), scores)
    assert guided[0, 3] == 20.0
    assert not torch.equal(guided[1], scores[1].masked_fill(guided[1] == float("-inf"), float("-inf")))


def test_no_padding_is_seen_where_none_is(policy):
    policy = tiny_policy()
    processor = RewardGuidedLogitsProcessor(tiny_reward_model(pad_token_id=None))
    generate(policy, processor, torch.tensor([[5, 6, 7]]))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
@pytest.mark.parametrize("kind", [tiny_reward_model, lambda: tiny_reward_model("bloom"), tiny_next_token_model])
def test_a_copy_gives_the_same_scores_and_has_read_nothing(policy, kind, copied):
    ids, mask = left_padded([[5, 6, 7, 8], [9, 10]])
    prompts = torch.tensor([[9, 8, 7], [6, 5, 4]])
    processor = RewardGuidedLogitsProcessor(kind(), beta=2.0, max_increment=0.5, eos_token_id=[2, 3])
    generate(policy, processor, ids, mask)
    processor.set_prompts(reward_prompts=prompts)
    copy_of_it = copied(processor)
    assert copy_of_it.stats.reward_model_tokens == copy_of_it.stats.steps == 0
    assert (copy_of_it.config, copy_of_it.sources) == (processor.config, processor.sources)
    scores = torch.randn(2, 40)
    assert_close(copy_of_it(ids, scores), processor(ids, scores))
    read = processor.scorer.tokens_computed
    copy_of_it(ids, scores)
    assert processor.scorer.tokens_computed == read
