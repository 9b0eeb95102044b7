"""The names of timm, where both networks are made of its ``ByobNet``."""

from __future__ import annotations

from mobilevit.checkpoints.adapters.adapter import Adapter

_COMMON = (
    ("norm.weight", "bn.weight"),
    ("norm.bias", "bn.bias"),
    ("norm.running_mean", "bn.running_mean"),
    ("norm.running_var", "bn.running_var"),
    ("norm.num_batches_tracked", "bn.num_batches_tracked"),
    ("stages.#.1.bn", "stages.#.1.norm"),  # the norm after a transformer is no batch-norm
    ("expand", "conv1_1x1"),
    ("depthwise", "conv2_kxk"),
    ("project", "conv3_1x1"),
    ("local", "conv_kxk"),
    ("to_tokens", "conv_1x1"),
    ("from_tokens", "conv_proj"),
    ("ffn_in", "mlp.fc1"),
    ("ffn_out", "mlp.fc2"),
    ("head", "head.fc"),
)

MOBILEVIT = Adapter(
    "timm",
    (
        *_COMMON,
        ("attention.qkv", "attn.qkv"),
        ("attention.out", "attn.proj"),
        ("fuse", "conv_fusion"),
        ("final", "final_conv"),
    ),
)

MOBILEVITV2 = Adapter(
    "timm",
    (
        *_COMMON,
        ("attention.qkv", "attn.qkv_proj"),
        ("attention.out", "attn.out_proj"),
    ),
)
