"""The names of Hugging Face's transformers, with its classifier on top.

Its MobileViTv2 leaves zeros at the right and lower edge of maps that patches do not fill, where the
authors' code, timm and ours resize: at such input sizes the same weights give other outputs there.
"""

from __future__ import annotations

from mobilevit.checkpoints.adapters.adapter import Adapter

_COMMON = (
    ("stages.#.1.norm", "stages.#.1.layernorm"),
    ("norm", "normalization"),
    ("conv", "convolution"),
    ("expand", "expand_1x1"),
    ("depthwise", "conv_3x3"),
    ("project", "reduce_1x1"),
    ("local", "conv_kxk"),
    ("to_tokens", "conv_1x1.convolution"),
    ("from_tokens", "conv_projection"),
    ("transformer.#", "transformer.layer.#"),
    ("norm1", "layernorm_before"),
    ("norm2", "layernorm_after"),
    ("head", "classifier"),
)


def _places(backbone: str) -> tuple[tuple[str, str], ...]:
    """Return where the blocks stand in a backbone of that name."""
    layer = f"{backbone}.encoder.layer"
    return (
        ("stages.0.#", f"{layer}.0.layer.#"),
        ("stages.1.#", f"{layer}.1.layer.#"),
        ("stages.2.1", f"{layer}.2"),
        ("stages.3.1", f"{layer}.3"),
        ("stages.4.1", f"{layer}.4"),
        ("stages.2.0", f"{layer}.2.downsampling_layer"),
        ("stages.3.0", f"{layer}.3.downsampling_layer"),
        ("stages.4.0", f"{layer}.4.downsampling_layer"),
        ("stem", f"{backbone}.conv_stem"),
    )


MOBILEVIT = Adapter(
    "transformers",
    (
        *_COMMON,
        ("fuse", "fusion"),
        ("attention.query", "attention.attention.query"),
        ("attention.key", "attention.attention.key"),
        ("attention.value", "attention.attention.value"),
        ("ffn_in", "intermediate.dense"),
        ("ffn_out", "output.dense"),
        ("attention.out", "attention.output.dense"),
        ("final", "mobilevit.conv_1x1_exp"),
        *_places("mobilevit"),
    ),
    qkv=("query", "key", "value"),
)

MOBILEVITV2 = Adapter(
    "transformers",
    (
        *_COMMON,
        ("attention.qkv", "attention.qkv_proj.convolution"),
        ("attention.out", "attention.out_proj.convolution"),
        ("ffn_in", "ffn.conv1.convolution"),
        ("ffn_out", "ffn.conv2.convolution"),
        *_places("mobilevitv2"),
    ),
)

DEEPLABV3 = Adapter(
    "transformers",
    (
        ("norm", "normalization"),
        ("conv", "convolution"),
        ("branches.#", "convs.#"),
        ("pool", "convs.4.conv_1x1"),
        ("aspp", "segmentation_head.aspp"),
        ("head", "segmentation_head.classifier.convolution"),
    ),
    begins=("segmentation_head.",),
)
"""The head alone, of either family."""
