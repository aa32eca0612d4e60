"""Merges linear steering heads into the policy's output embedding: an ordinary checkpoint that is always steered.

The logits of a policy are s E h, with a factor s that is 1 for most families. A head without nonlinearity has the
advantages A(h, v) = e_v · Pᵀ W h, so that

    pi ∝ exp( s (E + sum over heads i of beta_i · Δ_i / s) h ),        Δ_i = E P_iᵀ W_i

which any engine runs without this package.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from rgtg_hf.arguments import check_number
from rgtg_hf.rewards.next_token import NextTokenRewardModel, check_heads
from rgtg_hf.rewards.policy_identity import output_embedding

__all__ = ["LowRankChange", "SteeredLogits", "check_finite", "low_rank_change", "merge_heads", "steered_logits"]


class LowRankChange(NamedTuple):
    """A change of the output embedding, `up @ down`, in float32.

    Attributes:
        up: Shape `[vocabulary, rank]`.
        down: Shape `[rank, hidden_size]`.
    """

    up: Tensor
    down: Tensor


class SteeredLogits(NamedTuple):
    """Logits that a policy with heads has to give, to compare with what a merged policy gives.

    Attributes:
        ids: Some tokens, shape `[1, length]`.
        logits: The steered logits after them, float32, shape `[1, length, vocabulary]`.
        scale: s, the factor between the policy's output embedding and its logits.
    """

    ids: Tensor
    logits: Tensor
    scale: float

    def check(self, policy: PreTrainedModel, found: Tensor) -> None:
        """Refuses a policy whose logits for `ids` are others than these.

        Raises:
            ValueError: If they differ by more than rounding.
        """
        tolerance = 1e-3 if policy.dtype == torch.float32 else 5e-2
        if not torch.allclose(found.float(), self.logits, atol=tolerance * float(self.logits.abs().max())):
            raise ValueError(
                f"A {type(policy).__name__} does more to its last hidden state than one linear map (it caps logits, "
                "say), so a head cannot be merged into its output embedding. Use `steering`, which serves it."
            )


@torch.no_grad()
def merge_heads(policy: PreTrainedModel, heads: Sequence[tuple[NextTokenRewardModel, float]]) -> PreTrainedModel:
    """Makes a copy of a policy that is steered over its whole vocabulary.

    The copy's output embedding is its own, no longer tied to the input's. It does not know candidates: `top_k` of
    `generate()` keeps the copy's most likely tokens, not the policy's.

    Args:
        policy: The policy. It is left as it is.
        heads: Steering heads without nonlinearity (the default), and the beta of each.

    Returns:
        The copy, of the policy's class and dtype. Save it with `save_pretrained`.

    Raises:
        TypeError: If the policy is not a causal LM, or `heads` is not a list of pairs of a head and a number.
        ValueError: If there is no head, a head is not linear or belongs to another policy, a beta or the weights that
            it makes are not finite, or if the policy does more to its last hidden state than a linear map (soft-capped
            logits, for example), or ties layers by the switch that ties its embeddings.

    Example:
        ```python
        from transformers import LlamaConfig, LlamaForCausalLM
        from rgtg_hf import NextTokenRewardModel, merge_heads

        policy = LlamaForCausalLM(LlamaConfig(vocab_size=32, hidden_size=16, intermediate_size=32,
                                              num_hidden_layers=1, num_attention_heads=2))
        head = NextTokenRewardModel.from_policy(policy, rank=4)
        merge_heads(policy, [(head, 1.5)]).save_pretrained("steered-policy")
        ```
    """
    change = low_rank_change(policy, heads)
    added = change.up @ change.down
    check_finite(heads, added)
    _check_ties(policy)
    steered = steered_logits(policy, change)
    merged = copy.deepcopy(policy)
    for config in {id(config): config for config in (merged.config, merged.config.get_text_config())}.values():
        config.tie_word_embeddings = False
    output = merged.get_output_embeddings()
    weight: Tensor = output.weight  # type: ignore[union-attr, assignment]
    output.weight = nn.Parameter((weight.float() + added / steered.scale).to(weight.dtype))  # type: ignore[union-attr]
    steered.check(policy, merged(steered.ids).logits)
    return merged


@torch.no_grad()
def low_rank_change(policy: PreTrainedModel, heads: Sequence[tuple[NextTokenRewardModel, float]]) -> LowRankChange:
    """The change of a policy's output embedding that adds linear heads to its logits, where s is 1.

    Args:
        policy: The policy.
        heads: Steering heads without nonlinearity, and the beta of each.

    Raises:
        TypeError: If the policy is not a causal LM, or `heads` is not a list of pairs of a head and a number.
        ValueError: If there is no head, a head is not linear or belongs to another policy, or a beta is not finite.
    """
    embeddings: Tensor = output_embedding(policy).weight  # type: ignore[assignment]
    check_heads(heads)
    ups, downs = [], []
    for head, beta in heads:
        check_number("beta", beta)
        if head.config.nonlinear:
            raise ValueError(
                "One of `heads` has a nonlinearity, so it cannot be merged into the output embedding. Train one with "
                "`NextTokenRewardModel.from_policy(policy)`, without `nonlinear=True`."
            )
        head.attach(policy)
        ups.append(beta * (embeddings.float() @ head.score.key.weight.float().T))
        downs.append(head.score.linear_map().float())
    return LowRankChange(torch.cat(ups, dim=1), torch.cat(downs))


def check_finite(heads: Sequence[tuple[NextTokenRewardModel, float]], *made: Tensor) -> None:
    """Refuses heads that make weights or logits which are not finite.

    Raises:
        ValueError: If there are such.
    """
    if not all(bool(torch.isfinite(one).all()) for one in made):
        betas = ", ".join(f"{beta}" for _, beta in heads)
        raise ValueError(f"`beta` is {betas}, which makes weights that are not finite: check the head's, or lower it.")


@torch.no_grad()
def steered_logits(policy: PreTrainedModel, change: LowRankChange) -> SteeredLogits:
    """Computes the steered logits after a few tokens, by which a policy with heads is checked."""
    output = output_embedding(policy)
    ids = torch.arange(3, 9, device=policy.device)[None] % len(change.up)
    before = policy(ids, output_hidden_states=True)
    hidden = before.hidden_states[-1]
    # The factor of the logits, by least squares. Where it is not constant, the check of the logits fails.
    plain = output(hidden).double()
    scale = float((plain * before.logits).sum() / plain.square().sum())
    return SteeredLogits(ids, before.logits.float() + hidden.float() @ change.down.T @ change.up.T, scale)


def _check_ties(policy: PreTrainedModel) -> None:
    """Refuses a policy whose layers are one by the same switch as its embeddings, which merging has to turn off."""
    if not getattr(policy.config.get_text_config(), "tie_word_embeddings", False):
        return
    names: dict[int, str] = {}
    ends = (policy.get_input_embeddings().weight, policy.get_output_embeddings().weight)  # type: ignore[union-attr]
    for name, weight in policy.named_parameters(remove_duplicate=False):
        if any(weight is end for end in ends):
            continue
        if names.setdefault(id(weight), name) != name:
            raise ValueError(
                f"A {type(policy).__name__} ties layers by the switch that ties its embeddings: `{name}` is "
                f"`{names[id(weight)]}`. A merged checkpoint has embeddings of its own and would lose both ties, so a "
                "head cannot be merged. Use `steering`, which serves it."
            )
