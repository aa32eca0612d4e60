"""Metrics of guidance, for operators, in the server's Prometheus endpoint.

Guidance runs in the process that samples, and the endpoint in another one. They meet where `PROMETHEUS_MULTIPROC_DIR`
names an empty folder when the server is started.
"""

from __future__ import annotations

from functools import cache

from rgtg_hf.serving.batch import GuidedBatch

__all__ = ["GuidanceMetrics", "guidance_metrics"]

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


class GuidanceMetrics:
    """Counters of guided requests and steps, the time of the reward model, and what its cache holds."""

    def __init__(self) -> None:
        from prometheus_client import Counter, Gauge, Histogram

        self.requests = Counter("rgtg_guided_requests", "Guided requests that were taken in.")
        self.tokens = Counter("rgtg_guided_tokens", "Tokens that were chosen with guidance, refused drafts included.")
        self.not_finite = Counter("rgtg_not_finite", "Guided tokens whose reward was not finite, so not guided.")
        self.seconds = Histogram("rgtg_guidance_seconds", "Seconds of a pass over the guided rows.", buckets=_SECONDS)
        # A process that has ended holds nothing any more.
        live = {"multiprocess_mode": "livesum"}
        self.rows = Gauge("rgtg_cache_rows", "Requests in the reward model's cache.", **live)
        self.bytes = Gauge("rgtg_cache_bytes", "Bytes of the reward model's cache.", **live)

    def look_at(self, batch: GuidedBatch) -> None:
        """Notes what the cache holds, and which rewards could not be used."""
        self.not_finite.inc(batch.take_not_finite())
        self.rows.set(batch.scorer.row_count)
        self.bytes.set(batch.scorer.cache_bytes)


@cache
def guidance_metrics() -> GuidanceMetrics:
    """The metrics of this process: one set, however many processors it makes."""
    return GuidanceMetrics()
