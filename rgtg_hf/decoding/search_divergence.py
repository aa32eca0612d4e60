"""Upper bounds of the divergence of a search from the policy.

A selection is not a step of a policy, so the divergence is not known exactly. It is bounded:

- for a choice of the best, KL <= log n - (n - 1) / n if rewards are distinct (Beirami et al., arXiv:2401.01879); for
  any other choice of one among n rows, KL <= log n;
- for a particle that is drawn by its weight, KL <= E[ beta (r(x, y) - r(x)) - log Z' ], where Z' is the normalizer as
  the particles estimate it. This is the divergence of all particles together from particles of which one is a response
  of the policy (the extended target of Andrieu et al., 2010, https://doi.org/10.1111/j.1467-9868.2009.00736.x), and
  forgetting the others cannot increase it. It is an expectation: a single response may have a negative term.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from rgtg_hf.config import RewardGuidanceConfig
from rgtg_hf.decoding.search_output import SearchOutput
from rgtg_hf.decoding.selection import draws_rows

__all__ = ["best_of_n_divergence_bound", "search_divergence"]


def best_of_n_divergence_bound(n: int, choices: int = 1) -> float:
    """Upper bound of the divergence of best-of-n from the policy: log n - (n - 1) / n nats for each choice among n.

    Args:
        n: Number of responses or blocks to choose from.
        choices: Number of choices: 1 for whole responses, the number of blocks for blocks.

    Example:
        ```python
        from rgtg_hf.decoding.search_divergence import best_of_n_divergence_bound

        assert best_of_n_divergence_bound(1) == 0.0
        ```
    """
    return choices * (math.log(n) - (n - 1) / n)


def search_divergence(config: RewardGuidanceConfig, found: SearchOutput, lengths: Sequence[int]) -> list[float]:
    """The upper bound of the divergence of the best or drawn response to each prompt.

    Args:
        config: The settings of the search, resolved.
        found: Its output, with one response for each prompt.
        lengths: Tokens of each response.

    Returns:
        Nats per response, compared with the policy under the guide if rows were guided; particles are compared with
        the policy itself. The values of particles are bounds in the mean over responses.

    Example:
        ```python
        import math
        from rgtg_hf import RewardGuidanceConfig
        from rgtg_hf.decoding.search_output import SearchOutput
        from rgtg_hf.decoding.search_divergence import search_divergence

        config = RewardGuidanceConfig(search="halve", num_rows=8)
        assert search_divergence(config, SearchOutput(), [20]) == [math.log(8)]
        ```
    """
    n, beta = config.num_rows or 1, config.beta or 0.0
    if config.search == "resample" and draws_rows(config):
        gains, normalizers = found.rewards.tolist(), found.log_normalizer.tolist()  # type: ignore[union-attr]
        return [beta * gain - normalizer for gain, normalizer in zip(gains, normalizers, strict=True)]
    blocks = config.block_size if config.search in ("best", "resample") else max(lengths)
    is_best = config.search in ("best", "none") and not draws_rows(config)
    a_choice = best_of_n_divergence_bound(n) if is_best else math.log(n)
    return [a_choice * math.ceil(length / blocks) for length in lengths]  # type: ignore[operator]
