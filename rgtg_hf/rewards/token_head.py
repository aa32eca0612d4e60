r"""Scores every next token at once, from one hidden state.

The reward of a prefix is a sum of increments, one per token of the response, and each is read before its token is:

    r(x, y_<=i) = sum over j <= i of A(h_{j-1}, y_j)          A(h, v) = u(h) · P e_v = d(h) · e_v,   d(h) = Pᵀ u(h)

h_{j-1} is the backbone's hidden state after y_<j, e_v the frozen embedding of token v, u a small network into `rank`
dimensions and P a projection into the same. Every function of prefixes is such a sum, so nothing is lost, and one
multiplication gives the increment r(x, y_<t v) - r(x, y_<t) = A(h, v), which decoding needs, for every v. Tokens that
training never showed are scored through their embedding.

    u(h) = b + s · q(h)

b scores a token in the same way in every context, q adds a part for this context, and s sets how fast q is learned
next to b. Hidden states distinguish training pairs by many things that do not depend on the choice of a token (how the
response has begun, for one), so with s = 1 a head on frozen hidden states spends its divergence on those.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["TokenHead", "token_increments"]

_TOKENS_AT_ONCE = 4096  # embeddings that are in float32 at one time


class TokenHead(nn.Module):
    """Increments of next tokens, low-rank in hidden state and embedding.

    Args:
        hidden_size: Size of the hidden states.
        embedding_size: Size of the token embeddings.
        rank: Dimensions in which hidden state and token meet.
        nonlinear: Whether q is a network with one hidden layer. If not, q is linear, and so is all of u: the head is a
            low-rank change of the output embedding.
        dropout: Share of the network's inner activations that training drops.
        context_scale: s, how fast the part for one context is learned, relative to the part for every context.
    """

    mean: Tensor
    spread: Tensor

    def __init__(
        self,
        hidden_size: int,
        embedding_size: int,
        rank: int,
        nonlinear: bool,
        dropout: float,
        context_scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.context_scale = context_scale
        self.query: nn.Module
        if nonlinear:
            self.query = nn.Sequential(
                nn.LayerNorm(hidden_size),
                nn.Linear(hidden_size, rank),
                nn.GELU(),
                nn.Dropout(dropout),
                nn.Linear(rank, rank, bias=False),
            )
        else:
            self.query = nn.Linear(hidden_size, rank, bias=False)
            self.register_buffer("mean", torch.zeros(hidden_size))
            self.register_buffer("spread", torch.ones(()))
        self.bias = nn.Parameter(torch.zeros(rank))
        self.key = nn.Linear(embedding_size, rank, bias=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Sets every increment to zero: an untrained head steers nowhere."""
        for module in self.query.modules():
            if isinstance(module, (nn.LayerNorm, nn.Linear)):
                module.reset_parameters()
        nn.init.orthogonal_(self.key.weight)
        nn.init.zeros_(self.bias)
        last = self.query[-1] if isinstance(self.query, nn.Sequential) else self.query
        nn.init.zeros_(last.weight)  # type: ignore[arg-type]
        if self.is_linear:
            nn.init.zeros_(self.mean)
            nn.init.ones_(self.spread)

    @property
    def is_linear(self) -> bool:
        """Whether u is linear in the hidden state."""
        return isinstance(self.query, nn.Linear)

    @torch.no_grad()
    def center(self, hidden: Tensor) -> None:
        """Sets the mean and the spread of hidden states in a fresh linear head; any other head is left as it is.

        A linear u has no constant b. But the share of the mean m of hidden states in one of them,
        c(h) = m · h / m · m, is nearly 1 everywhere. So b is multiplied by c(h), q reads the rest of h, and all of it
        is linear:

            u(h) = c(h) b + s · q((h - c(h) m) / spread)

        Args:
            hidden: Hidden states of some contexts, shape `[contexts, hidden_size]`.
        """
        if self.is_linear and not bool(self.mean.any()):
            self.mean.copy_(hidden.float().mean(0))
            self.spread.copy_(hidden.float().std(0, correction=0).mean().clamp(min=1e-6))

    def linear_map(self) -> Tensor:
        """Returns the matrix of a linear u, shape `[rank, hidden_size]`."""
        return self._queries(torch.eye(len(self.mean)).to(self.mean)).T

    def _queries(self, hidden: Tensor) -> Tensor:
        """u(h), shape `[..., rank]`."""
        hidden = hidden.to(self.key.weight.dtype)
        if not self.is_linear:
            return self.bias + self.context_scale * self.query(hidden)
        # Without `center` the mean is 0, so c(h) is 0 and b has no effect.
        squared = (self.mean @ self.mean).clamp(min=torch.finfo(self.mean.dtype).tiny)
        common = (hidden @ self.mean / squared)[..., None]
        return common * self.bias + self.context_scale * self.query((hidden - common * self.mean) / self.spread)

    def directions(self, hidden: Tensor) -> Tensor:
        """d(h) = Pᵀ u(h): the direction of a hidden state's increments in the space of token embeddings.

        Args:
            hidden: Hidden states, shape `[..., hidden_size]`.

        Returns:
            Directions in float32, shape `[..., embedding_size]`.
        """
        return self._queries(hidden).float() @ self.key.weight.float()

    def forward(
        self,
        hidden: Tensor,
        input_ids: Tensor,
        attention_mask: Tensor,
        embeddings: Tensor,
        expected: Tensor | None = None,
    ) -> Tensor:
        """Computes the rewards of all prefixes of given sequences.

        Args:
            hidden: Hidden states, shape `[batch, length, hidden_size]`.
            input_ids: Tokens, shape `[batch, length]`.
            attention_mask: 1 for tokens, 0 for padding on either side, shape `[batch, length]`.
            embeddings: Frozen token embeddings, shape `[vocabulary, embedding_size]`.
            expected: The mean embedding of the token that comes next, under the policy, shape
                `[batch, length, embedding_size]`. With it, advantages are added up: A(h, y) less the mean of A(h, v)
                over the tokens v that the policy might have written.

        Returns:
            Rewards in float32, shape `[batch, length, 1]`; 0 at the first token, which has no hidden state before it.
        """
        # In float32 whatever the dtype of the head: the rounding of each increment would stay in every later reward.
        queries = self._queries(hidden[:, :-1]).float()
        tokens = F.embedding(input_ids[:, 1:], embeddings.detach()).float()
        if expected is not None:
            tokens = tokens - expected[:, :-1]
        keys = F.linear(tokens, self.key.weight.float()).float()
        increments = (queries * keys).sum(-1) * (attention_mask[:, 1:] * attention_mask[:, :-1])
        return F.pad(increments.cumsum(1), (1, 0))[..., None]


def token_increments(directions: Tensor, candidate_ids: Tensor | None, embeddings: Tensor) -> Tensor:
    """d · e_v for some tokens v of each row, computed in float32 whatever the dtype of the embeddings.

    Args:
        directions: One direction per row, shape `[rows, embedding_size]`.
        candidate_ids: Tokens, shape `[rows, k]`; `None` for the whole vocabulary.
        embeddings: Token embeddings, shape `[vocabulary, embedding_size]`.

    Returns:
        Increments in float32, shape `[rows, k]`.
    """
    directions = directions.float()
    if candidate_ids is not None and candidate_ids.shape[1] <= len(embeddings) // 8:
        return torch.einsum("re,rke->rk", directions, embeddings[candidate_ids].float())
    # One product is cheaper than copies of most embeddings. In parts, so that there is no float32 copy of them all.
    every = torch.cat([directions @ part.float().T for part in embeddings.split(_TOKENS_AT_ONCE)], dim=1)
    return every if candidate_ids is None else every.gather(1, candidate_ids)
