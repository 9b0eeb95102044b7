"""What exporters that write attention anew share."""

from __future__ import annotations

from torch import Tensor, nn

from mobilevit.networks.mobilevit import Attention


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
