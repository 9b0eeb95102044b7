"""What exporters that write attention anew share."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mobilevit.networks.mobilevit import Attention


class SplitAttention(nn.Module):
    """Multi-head self-attention, (B, N, D) to (B, N, D), of linear layers and ``torch.bmm``.

    Queries, keys and values have a layer each, for a joint one would be cut up again; the scale of
    the products lies in the weights of the queries.
    """

    def __init__(self, attention: Attention) -> None:
        super().__init__()
        self.heads = attention.heads
        self.query, self.key, self.value = split_projection(attention)
        scale = (attention.out.in_features // self.heads) ** -0.5
        self.query.weight.mul_(scale)
        self.query.bias.mul_(scale)
        self.out = attention.out

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        depth = width // self.heads
        x = x.reshape(-1, width)
        q, k, v = (
            layer(x).view(batch, tokens, self.heads, depth)
            for layer in (self.query, self.key, self.value)
        )
        q = q.permute(0, 2, 1, 3).reshape(-1, tokens, depth)  # (B * heads, N, D / heads)
        k = k.permute(0, 2, 3, 1).reshape(-1, depth, tokens)  # (B * heads, D / heads, N)
        v = v.permute(0, 2, 1, 3).reshape(-1, tokens, depth)
        y = torch.bmm(torch.bmm(q, k).softmax(-1), v)
        y = y.view(batch, self.heads, tokens, depth).permute(0, 2, 1, 3)
        merged: Tensor = self.out(y.reshape(-1, width))
        return merged.view(batch, tokens, width)


def split_projection(attention: Attention) -> tuple[nn.Linear, nn.Linear, nn.Linear]:
    """Return the joint layer of an attention as three: of the queries, the keys and the values."""
    weights, biases = attention.qkv.weight.chunk(3), attention.qkv.bias.chunk(3)
    query, key, value = map(_linear, weights, biases)
    return query, key, value


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    linear = nn.Linear(weight.shape[1], weight.shape[0])
    linear.weight = nn.Parameter(weight.clone(), requires_grad=False)
    linear.bias = nn.Parameter(bias.clone(), requires_grad=False)
    return linear
