"""Value models: classifiers that give the distribution of the return at every prefix, read as a reward.

The return is the reward r(x, y) of the whole response. From its distribution p(z | x, y_<t) under the policy follows
the soft value at any b,

    V_b(x, y_<t)  =  (1 / b) log sum_z p(z) exp(b z)          V_0  =  sum_z p(z) z, the mean

V_b of the exact distribution with b = beta is what steers to the RLHF optimum (Controlled Decoding, arXiv:2310.17022;
Q-sharp, arXiv:2502.20548; VAS, arXiv:2405.06639).

A value model is an ordinary sequence classifier. Its labels are the bins of a histogram, and its configuration holds
`value_range`, the returns of the first and the last bin. After an evaluation it also holds `trusted_value_beta`, the
largest b at which V_b was right on held-out responses.
"""

from __future__ import annotations

import copy
import logging
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from rgtg_hf.rewards.parts import find_score_head

__all__ = ["ValueHead", "as_reward_model", "bins_of", "is_value_model", "soft_value", "two_hot"]


logger = logging.getLogger(__name__)
# One object for each model and b, because what is found out of a model (the scorer that is right for it, say) is kept
# for the object.
_known: WeakKeyDictionary[nn.Module, dict[float, nn.Module]] = WeakKeyDictionary()


def is_value_model(model: Any) -> bool:
    """Whether the labels of a model are the bins of a histogram of returns."""
    return getattr(getattr(model, "config", None), "value_range", None) is not None


def bins_of(config: Any) -> Tensor:
    """The return that each bin stands for, evenly spaced, float32, shape `[bins]`.

    Args:
        config: The configuration of a value model.

    Raises:
        ValueError: If its range or its number of labels cannot be that of a histogram.
    """
    low, high = config.value_range
    if not low < high or config.num_labels < 2:
        raise ValueError(
            f"The configuration of the value model has value_range={config.value_range} and {config.num_labels} "
            "labels, but a lower return, a higher one and at least two bins are required."
        )
    return torch.linspace(low, high, config.num_labels)


def soft_value(logits: Tensor, bins: Tensor, value_beta: float) -> Tensor:
    """V_b = (1 / b) log sum_z p(z) exp(b z), and the mean of z for b = 0.

    Args:
        logits: Scores of the bins, before the softmax, shape `[..., bins]`.
        bins: The return of each bin, shape `[bins]`.
        value_beta: b, per unit of reward. Negative values look at the worst that can come.

    Returns:
        float32, shape `[...]`.

    Example:
        ```python
        import torch
        from rgtg_hf.rewards.value_model import soft_value

        even = torch.zeros(2)  # both bins are as likely
        assert soft_value(even, torch.tensor([0.0, 1.0]), 0.0) == 0.5
        assert 0.9 < soft_value(even, torch.tensor([0.0, 1.0]), 20.0) < 1.0
        ```
    """
    log_p = logits.float().log_softmax(-1)
    p = log_p.exp()
    mean = (p * bins).sum(-1)
    if value_beta == 0:
        return mean
    apart = value_beta * (bins - mean[..., None])
    # log E exp and log(1 + E (exp - 1)) are the same. The second loses nothing by rounding where b is small, and the
    # first does not overflow where it is large.
    small = (p * apart.clamp(-1.0, 1.0).expm1()).sum(-1).log1p()
    is_small = abs(value_beta) * (bins[-1] - bins[0]) < 1
    return mean + torch.where(is_small, small, (log_p + apart).logsumexp(-1)) / value_beta


def two_hot(returns: Tensor, bins: Tensor) -> Tensor:
    """Distributions on evenly spaced bins with the returns as their means: each on the two bins around its return.

    Args:
        returns: Within the range of the bins, shape `[...]`.
        bins: The return of each bin, shape `[bins]`.

    Returns:
        float32, shape `[..., bins]`.

    Example:
        ```python
        import torch
        from rgtg_hf.rewards.value_model import two_hot

        assert two_hot(torch.tensor(0.25), torch.tensor([0.0, 1.0])).tolist() == [0.75, 0.25]
        ```
    """
    width = bins[1] - bins[0]
    return (1 - (returns[..., None] - bins).abs() / width).clamp(min=0.0)


class ValueHead(nn.Module):
    """The score head of a value model, read as a reward: V_b in place of the scores of the bins.

    Args:
        head: The head that gives the scores of the bins.
        bins: The return of each bin, shape `[bins]`.
        value_beta: b.
    """

    bins: Tensor

    def __init__(self, head: nn.Module, bins: Tensor, value_beta: float):
        super().__init__()
        self.head, self.value_beta = head, value_beta
        self.register_buffer("bins", bins, persistent=False)

    def forward(self, hidden: Tensor) -> Tensor:
        """V_b of each prefix, from hidden states of shape `[..., hidden]`, as shape `[..., 1]`."""
        return soft_value(self.head(hidden), self.bins.to(hidden.device), self.value_beta)[..., None]


def as_reward_model(reward_model: Any, value_beta: float = 0.0) -> Any:
    """A value model as a reward model with one label, whose reward of a prefix is V_b.

    Args:
        reward_model: A value model, bare or with PEFT adapters; or any other reward model, which is returned as it is.
        value_beta: b.

    Returns:
        A model that shares all weights with the one that was given, and leaves it as it was. A b beyond the model's
        `trusted_value_beta` is warned of.

    Example:
        ```python
        import torch
        from transformers import LlamaConfig, LlamaForSequenceClassification
        from rgtg_hf import prefix_rewards
        from rgtg_hf.rewards.value_model import as_reward_model

        config = LlamaConfig(vocab_size=32, hidden_size=16, intermediate_size=32, num_hidden_layers=1,
                             num_attention_heads=2, num_labels=21, pad_token_id=0, value_range=[-1.0, 1.0])
        values = as_reward_model(LlamaForSequenceClassification(config), value_beta=2.0)
        assert prefix_rewards(values, torch.tensor([[5, 6, 7]])).abs().max() <= 1
        ```
    """
    if not is_value_model(reward_model):
        return reward_model
    head = find_score_head(reward_model)
    known = _known.setdefault(reward_model, {})
    if value_beta in known and find_score_head(known[value_beta]).head is head:
        return known[value_beta]
    trusted = getattr(reward_model.config, "trusted_value_beta", None)
    if trusted is not None and abs(value_beta) > trusted:
        logger.warning(
            "`value_beta` is %.4g, but on held-out responses this value model was right only up to %.4g. Beyond that "
            "it goes by returns that it has seldom seen. A smaller `value_beta` with a larger `beta` steers as far.",
            value_beta,
            trusted,
        )
    path = next(name for name, module in reward_model.named_modules() if module is head).split(".")
    value = ValueHead(head, bins_of(reward_model.config), value_beta)
    config = copy.copy(reward_model.config)
    config.num_labels, config.value_range = 1, None
    known[value_beta] = _with_head(reward_model, path, value.train(head.training), config)
    return known[value_beta]


def _with_head(module: nn.Module, path: list[str], head: nn.Module, config: Any) -> nn.Module:
    """A copy of a module with another head at a path. Only the modules on the path are copied, not their weights."""
    if not path:
        return head
    other = copy.copy(module)
    other._modules = {**module._modules, path[0]: _with_head(module._modules[path[0]], path[1:], head, config)}  # type: ignore[arg-type]
    if "config" in vars(module):
        other.config = config
    return other
