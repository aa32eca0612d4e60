"""Reward models that score the whole vocabulary in one call, with their own backbone or on the policy's."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_outputs import SequenceClassifierOutput

from rgtg_hf.arguments import check_count, check_number
from rgtg_hf.rewards.parts import find_backbone
from rgtg_hf.rewards.policy_identity import check_decoder_only, check_policy, describe_policy
from rgtg_hf.rewards.token_head import TokenHead, token_increments

__all__ = ["NextTokenRewardConfig", "NextTokenRewardModel", "check_heads"]


class NextTokenRewardConfig(PretrainedConfig):
    """Configuration of [`NextTokenRewardModel`].

    Args:
        backbone_config: Configuration of the model's own backbone, as an object or a dictionary. `None` for a
            steering head, whose backbone is the policy.
        policy: For a steering head, which policy it belongs to; see
            [`describe_policy`][rgtg_hf.rewards.policy_identity.describe_policy].
        hidden_size: Size of the hidden states that the head reads.
        embedding_size: Size of the token embeddings that it scores.
        vocab_size: Number of tokens.
        rank: Dimensions in which hidden state and token meet.
        nonlinear: Whether the head has a nonlinearity. Without one it can be merged into the policy.
        dropout: Share of the head's inner activations that training drops (TRL switches all dropout off unless
            `disable_dropout=False`).
        context_scale: How fast the head learns a token's reward in one context, relative to its reward in every
            context. Small values keep a head on a frozen backbone from learning the training pairs by heart, which
            costs divergence; 1 suits a backbone that is trained. With 0, a token has the same reward in all contexts.
    """

    model_type = "next_token_reward"

    def __init__(
        self,
        backbone_config: PretrainedConfig | dict[str, Any] | None = None,
        policy: dict[str, Any] | None = None,
        hidden_size: int = 0,
        embedding_size: int = 0,
        vocab_size: int = 0,
        rank: int = 128,
        nonlinear: bool = True,
        dropout: float = 0.0,
        context_scale: float = 1.0,
        pad_token_id: int | None = None,
        bos_token_id: int | None = None,
        eos_token_id: int | list[int] | None = None,
        **kwargs: Any,
    ) -> None:
        if isinstance(backbone_config, dict):
            backbone_config = AutoConfig.for_model(**backbone_config)
        check_count("rank", rank)
        check_number("dropout", dropout)
        if not 0 <= dropout < 1:
            raise ValueError(f"`dropout` is {dropout}, but must be at least 0 and below 1.")
        check_number("context_scale", context_scale)
        if context_scale < 0:
            raise ValueError(f"`context_scale` is {context_scale}, but must be at least 0.")
        self.backbone_config = backbone_config
        self.policy = policy
        self.hidden_size = hidden_size
        self.embedding_size = embedding_size
        self.vocab_size = vocab_size
        self.rank = rank
        self.nonlinear = nonlinear
        self.dropout = dropout
        self.context_scale = context_scale
        self.pad_token_id = pad_token_id
        self.bos_token_id = bos_token_id
        self.eos_token_id = eos_token_id
        super().__init__(**{"num_labels": 1} | kwargs)


class NextTokenRewardModel(PreTrainedModel):
    """A reward model that reads a prefix and scores every next token at once.

    There are two kinds. [`from_backbone`][rgtg_hf.rewards.next_token.NextTokenRewardModel.from_backbone] makes one
    with its own decoder, which reads one token per decoding step, whatever the number of candidates.
    [`from_policy`][rgtg_hf.rewards.next_token.NextTokenRewardModel.from_policy] makes a *steering head*, which reads
    the hidden states that the frozen policy computes anyway. Its checkpoint holds the head alone, a fraction of a
    megabyte; `attach` puts it back on its policy.

    As with every prefix reward model, the head's output at each position is the reward of the prefix that ends there
    (see [`TokenHead`][rgtg_hf.rewards.token_head.TokenHead] for the equation). The sum starts at 0 with the first
    token, so only rewards of continuations of one prompt can be compared with each other.

    Args:
        config: The configuration.
        backbone: The decoder of a model that has its own. By default a new one is made from the configuration.

    Example:
        ```python
        import torch
        from transformers import LlamaConfig, LlamaForCausalLM
        from rgtg_hf import NextTokenRewardModel

        policy = LlamaForCausalLM(LlamaConfig(vocab_size=32, hidden_size=16, intermediate_size=32,
                                              num_hidden_layers=1, num_attention_heads=2))
        head = NextTokenRewardModel.from_policy(policy, rank=4)
        head.save_pretrained("my-head")
        head = NextTokenRewardModel.from_pretrained("my-head").attach(policy)
        assert head.next_token_rewards(torch.tensor([[5, 6, 7]])).shape == (1, 32)
        ```
    """

    config_class = NextTokenRewardConfig
    base_model_prefix = "backbone"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    config: NextTokenRewardConfig
    backbone: PreTrainedModel

    def __init__(self, config: NextTokenRewardConfig, backbone: PreTrainedModel | None = None) -> None:
        super().__init__(config)
        self._embeddings: nn.Module | None = None
        if config.backbone_config is not None:
            self.backbone = backbone or AutoModel.from_config(config.backbone_config)
        self.score = TokenHead(
            config.hidden_size,
            config.embedding_size,
            config.rank,
            config.nonlinear,
            config.dropout,
            config.context_scale,
        )
        self.post_init()

    @classmethod
    def is_custom_code(cls) -> bool:
        """False: in custom code, buffers that a backbone computes from its configuration are left uninitialized."""
        return False

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, TokenHead):
            module.reset_parameters()

    @classmethod
    def from_backbone(
        cls,
        backbone: PreTrainedModel,
        *,
        rank: int = 128,
        nonlinear: bool = True,
        dropout: float = 0.0,
        context_scale: float = 1.0,
    ) -> NextTokenRewardModel:
        """Makes a reward model around a decoder, which is used as it is and not copied.

        Args:
            backbone: A decoder such as `AutoModel.from_pretrained(name)`, or a causal LM or reward model around one.
            rank: See [`NextTokenRewardConfig`]. Also `nonlinear`, `dropout` and `context_scale`.

        Returns:
            The model, with a fresh head.

        Raises:
            TypeError: If `backbone` is not a pretrained model.
            ValueError: If it is an encoder-decoder.
        """
        if not isinstance(backbone, PreTrainedModel):
            raise TypeError(
                f"`backbone` is a {type(backbone).__name__}, but a loaded decoder is required: pass "
                "`AutoModel.from_pretrained(name)`."
            )
        check_decoder_only("backbone", backbone)
        backbone = find_backbone(backbone)  # type: ignore[assignment]
        weight = backbone.get_input_embeddings().weight  # type: ignore[union-attr]
        inner = backbone.config.get_text_config()
        own = copy.deepcopy(backbone.config)
        own.name_or_path = ""  # where it was loaded from may be a folder of this machine
        config = NextTokenRewardConfig(
            backbone_config=own,
            hidden_size=inner.hidden_size,
            vocab_size=weight.shape[0],  # type: ignore[arg-type, index]
            embedding_size=weight.shape[1],  # type: ignore[arg-type, index]
            rank=rank,
            nonlinear=nonlinear,
            dropout=dropout,
            context_scale=context_scale,
            **_special_tokens(inner),
        )
        return cls(config, backbone)

    @classmethod
    def from_policy(
        cls,
        policy: PreTrainedModel,
        *,
        rank: int = 128,
        nonlinear: bool = False,
        dropout: float = 0.0,
        context_scale: float = 0.001,
    ) -> NextTokenRewardModel:
        """Makes a steering head on a policy.

        Args:
            policy: The causal LM to be steered. It is never changed, and is not part of the head's checkpoint.
            rank: See [`NextTokenRewardConfig`]. Also `dropout`.
            nonlinear: Whether the head has a nonlinearity. Without one, the default, it steered equally well wherever
                it was measured, and it can be merged into the policy.
            context_scale: See [`NextTokenRewardConfig`]. Train a head with a learning rate of about 3e-3.

        Returns:
            The head, fresh and attached.

        Raises:
            TypeError: If `policy` is not a causal LM, or `rank` or `dropout` is not a number.
            ValueError: If `rank` or `dropout` is out of range, or the policy is an encoder-decoder.
        """
        description = describe_policy(policy)
        config = NextTokenRewardConfig(
            policy=description,
            hidden_size=description["hidden_size"],
            vocab_size=description["vocab_size"],
            embedding_size=policy.get_output_embeddings().weight.shape[1],  # type: ignore[union-attr, arg-type]
            rank=rank,
            nonlinear=nonlinear,
            dropout=dropout,
            context_scale=context_scale,
            **_special_tokens(policy.config.get_text_config()),
        )
        head = cls(config)
        head._hold(policy)
        return head.to(policy.device)  # type: ignore[arg-type]

    def attach(self, policy: PreTrainedModel) -> NextTokenRewardModel:
        """Puts a steering head on its policy, and moves the head to the policy's device.

        Args:
            policy: The policy that the head was trained on.

        Returns:
            The head itself.

        Raises:
            ValueError: If this is another policy, or the model has its own backbone.
        """
        if self.config.policy is None:
            raise ValueError(
                "This reward model has a backbone of its own and does not read a policy's hidden states: use it as it "
                "is, not among the `heads` of a policy."
            )
        check_policy(policy, self.config.policy)
        self._hold(policy)
        return self.to(policy.device)  # type: ignore[arg-type]

    def _hold(self, policy: PreTrainedModel) -> None:
        # Not registered as a submodule: the policy must not be saved, moved or trained with the head.
        object.__setattr__(self, "backbone", find_backbone(policy))
        object.__setattr__(self, "_embeddings", policy.get_output_embeddings())

    @property
    def is_frozen(self) -> bool:
        """Whether training leaves the backbone as it is, so that its hidden states need computing only once."""
        if self.config.policy is not None:
            return True
        return not any(parameter.requires_grad for parameter in self.backbone.parameters())

    @property
    def token_embeddings(self) -> Tensor:
        """The embeddings through which tokens are scored, shape `[vocabulary, embedding_size]`."""
        return self.get_input_embeddings().weight.detach()  # type: ignore[union-attr, operator, return-value]

    def get_input_embeddings(self) -> nn.Module:
        """Returns the module that holds the token embeddings: for a steering head the policy's output embedding."""
        if self._embeddings is not None:
            return self._embeddings
        self._require_backbone()
        return self.backbone.get_input_embeddings()

    def hidden_states(self, input_ids: Tensor, attention_mask: Tensor | None = None, **backbone_kwargs: Any) -> Tensor:
        """Computes the last hidden states, shape `[batch, length, hidden_size]`, without gradient if frozen."""
        self._require_backbone()
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.is_frozen):
            return self.backbone(
                input_ids=input_ids, attention_mask=attention_mask, **backbone_kwargs
            ).last_hidden_state

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        hidden_states: Tensor | None = None,
        candidates: tuple[Tensor, Tensor] | None = None,
        **backbone_kwargs: Any,
    ) -> SequenceClassifierOutput:
        """Scores given sequences. The module `score` returns the rewards of all positions.

        Args:
            input_ids: Tokens, shape `[batch, length]`.
            attention_mask: 1 for tokens, 0 for padding, shape `[batch, length]`. Defaults to no padding.
            hidden_states: The backbone's hidden states if they are known, shape `[batch, length, hidden_size]`; the
                backbone is not run then.
            candidates: What the policy might have written after each token: ids and their probabilities, each of
                shape `[batch, length, k]`. With them, the reward is the sum of advantages: of the increment of each
                token, less the mean increment under the policy.
            backbone_kwargs: Passed on to the backbone.

        Returns:
            `logits` of shape `[batch, 1]`: the reward of each whole sequence.
        """
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        if hidden_states is None:
            hidden_states = self.hidden_states(input_ids, attention_mask, **backbone_kwargs)
        expected = None if candidates is None else _mean_embedding(*candidates, self.token_embeddings)
        rewards = self.score(hidden_states, input_ids, mask, self.token_embeddings, expected)
        # Padding adds nothing to the sum, so the last column is the whole sequence's reward after right padding too.
        return SequenceClassifierOutput(logits=rewards[:, -1])

    @torch.no_grad()
    def next_token_rewards(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Computes the increment r(x, y_<t v) - r(x, y_<t) of every token v of the vocabulary in one call.

        Args:
            input_ids: Prefixes x, y_<t, left-padded if of different lengths, shape `[batch, length]`.
            attention_mask: 1 for tokens, 0 for padding, shape `[batch, length]`. Defaults to no padding.

        Returns:
            Float32, shape `[batch, vocabulary]`.
        """
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        hidden = self.hidden_states(input_ids, mask, position_ids=positions)[:, -1]
        return token_increments(self.score.directions(hidden), None, self.token_embeddings)

    def _require_backbone(self) -> None:
        if not hasattr(self, "backbone"):
            assert self.config.policy is not None
            raise ValueError(
                "This steering head is not on its policy yet. Load the policy "
                f"({self.config.policy['name'] or 'unnamed'}) and call `head.attach(policy)`."
            )


def _mean_embedding(ids: Tensor, probabilities: Tensor, embeddings: Tensor) -> Tensor:
    """The mean embedding of candidates, float32, shape `[batch, length, embedding_size]`."""
    mean = torch.zeros(*ids.shape[:2], embeddings.shape[1], device=embeddings.device)
    # One candidate at a time: all at once take k times as much memory.
    for own, probability in zip(ids.unbind(-1), probabilities.unbind(-1), strict=True):
        mean += probability[..., None] * embeddings[own].float()
    return mean


def check_heads(heads: Any) -> None:
    """Refuses anything but a list of steering heads, each with its beta.

    Raises:
        TypeError: If it is not a list of pairs of a `NextTokenRewardModel` and a beta.
        ValueError: If it is empty.
    """
    if not isinstance(heads, (list, tuple)):
        raise TypeError(
            f"`heads` is a {type(heads).__name__}, but a list of pairs of a head and its beta is required."
        )
    if not heads:
        raise ValueError("`heads` is empty: give at least one pair of a head and its beta.")
    for pair in heads:
        if not (isinstance(pair, (list, tuple)) and len(pair) == 2 and isinstance(pair[0], NextTokenRewardModel)):
            raise TypeError(
                f"`heads` holds a {type(pair).__name__}, but pairs of a NextTokenRewardModel and its beta are "
                "required."
            )


def _special_tokens(config: PretrainedConfig) -> dict[str, Any]:
    return {name: getattr(config, name, None) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}


# `Auto...from_pretrained` finds checkpoints of this kind once the package's class has been imported.
AutoConfig.register(NextTokenRewardConfig.model_type, NextTokenRewardConfig)
AutoModel.register(NextTokenRewardConfig, NextTokenRewardModel)
AutoModelForSequenceClassification.register(NextTokenRewardConfig, NextTokenRewardModel)
