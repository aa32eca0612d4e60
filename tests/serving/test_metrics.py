"""The metrics of guidance follow a batch. A server's endpoint with them is tested in test_vllm_online.py."""

import pytest
import torch

from rgtg_hf.config import resolve_guidance
from rgtg_hf.serving.batch import GuidedBatch
from rgtg_hf.serving.metrics import guidance_metrics
from rgtg_hf.serving.rows import make_row_scorer
from tests.tiny_models import VOCAB_SIZE, tiny_reward_model


def test_there_is_one_set_that_shows_the_cache_and_what_went_wrong():
    registry = pytest.importorskip("prometheus_client").REGISTRY
    metrics = guidance_metrics()
    assert guidance_metrics() is metrics
    reward_model = tiny_reward_model()
    batch = GuidedBatch(make_row_scorer(reward_model))
    for key in range(3):
        batch.join(key, resolve_guidance({"beta": 1.0}).config)
    batch.guide([0, 1, 2], [[5, 6], [5, 7], [8]], torch.randn(3, VOCAB_SIZE))
    metrics.look_at(batch)
    assert registry.get_sample_value("rgtg_cache_rows") == 3
    assert registry.get_sample_value("rgtg_cache_bytes") == batch.scorer.cache_bytes > 0
    before = registry.get_sample_value("rgtg_not_finite_total")
    torch.nn.init.constant_(reward_model.score.weight, float("nan"))
    batch.guide([0, 1, 2], [[5, 6, 7], [5, 7, 7], [8, 7]], torch.randn(3, VOCAB_SIZE))
    batch.keep_only(set())
    for _ in range(2):
        metrics.look_at(batch)
    assert registry.get_sample_value("rgtg_not_finite_total") == before + 3
    assert registry.get_sample_value("rgtg_cache_rows") == registry.get_sample_value("rgtg_cache_bytes") == 0
