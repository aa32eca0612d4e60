"""What a processor holds: one cache as long as the sequence, and nothing when it is gone."""

import weakref

import pytest
import torch

from rgtg_hf import RewardGuidanceConfig, RewardGuidedLogitsProcessor
from tests.tiny_models import VOCAB_SIZE, tiny_reward_model


def layers(processor):
    scorer = processor.scorer
    return (scorer.reader.buffer if processor.config.scorer != "expand" else scorer.cache.cache).layers


def cache_bytes(processor):
    tensors = [part for layer in layers(processor) for part in (layer.keys, layer.values)]
    storages = {part.untyped_storage().data_ptr(): part.untyped_storage().nbytes() for part in tensors}
    return sum(storages.values())


@pytest.mark.parametrize(("scorer", "steps"), [("siblings", 600), ("expand", 200)])
def test_many_steps_hold_one_cache_of_their_length(scorer, steps):
    k = 4
    reward_model = tiny_reward_model(num_hidden_layers=1, max_position_embeddings=2 * steps)
    processor = RewardGuidedLogitsProcessor(reward_model, guidance_config=RewardGuidanceConfig(top_k=k, scorer=scorer))
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, VOCAB_SIZE, (1, steps), generator=generator)
    scores = torch.randn(1, VOCAB_SIZE, generator=generator)
    for length in range(1, steps + 1):
        processor(ids[:, :length], scores)
    per_token = 2 * 2 * 8 * 4  # keys and values, two heads of eight dimensions, float32
    # The siblings' cache grows ahead of its length by an eighth, so that it need not be copied at every step.
    assert cache_bytes(processor) <= 1.2 * (steps + k) * per_token


def test_a_dropped_processor_frees_its_cache(policy, reward_model):
    processor = RewardGuidedLogitsProcessor(reward_model)
    policy.generate(torch.tensor([[5, 6, 7]]), logits_processor=[processor], max_new_tokens=3, do_sample=False)
    keys = weakref.ref(layers(processor)[0].keys)
    hooks = len(reward_model.score._forward_hooks)
    del processor
    assert keys() is None
    assert hooks == 0


def test_reset_frees_the_cache(policy, reward_model):
    processor = RewardGuidedLogitsProcessor(reward_model)
    policy.generate(torch.tensor([[5, 6, 7]]), logits_processor=[processor], max_new_tokens=3, do_sample=False)
    keys = weakref.ref(layers(processor)[0].keys)
    processor.reset()
    assert keys() is None
