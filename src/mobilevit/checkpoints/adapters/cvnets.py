"""The names of Apple's ml-cvnets, which its successor CoreNet kept.

A classifier's file is a bare state dict under these names. Files of other tasks have the network,
without its classifier, behind ``ENCODER``, and their own parts beside it.
"""

from __future__ import annotations

from mobilevit.checkpoints.adapters.adapter import Adapter

ENCODER = "encoder."
"""What stands before a backbone's names in files of other tasks."""

BESIDE = {
    "seg_head.aux_head.": "auxiliary head of a segmentation network, used in training only",
    "seg_head.": "segmentation head (DeepLabv3, PSPNet)",
    "ssd_heads.": "detection heads of SSD",
    "extra_layers.": "feature maps of SSD beyond stride 32",
    "fpn.": "feature pyramid of SSD",
    "neural_augmentor.": "augmentation learnt by RangeAugment, used in training only",
    "encoder.neural_augmentor.": "augmentation learnt by RangeAugment, used in training only",
}
"""Beginnings of the names that belong to no backbone, and what they are."""

_COMMON = (
    ("transformer", "global_rep"),  # the norm that ends it counts as one layer more
    ("stages.2.1.norm", "stages.2.1.global_rep.2"),
    ("stages.3.1.norm", "stages.3.1.global_rep.4"),
    ("stages.4.1.norm", "stages.4.1.global_rep.3"),
    ("norm", "block.norm"),
    ("conv", "block.conv"),
    ("expand", "block.exp_1x1"),
    ("depthwise", "block.conv_3x3"),
    ("project", "block.red_1x1"),
    ("from_tokens", "conv_proj"),
    ("norm2", "pre_norm_ffn.0"),
    ("stem", "conv_1"),
    ("stages.0", "layer_1"),
    ("stages.1", "layer_2"),
    ("stages.2", "layer_3"),
    ("stages.3", "layer_4"),
    ("stages.4", "layer_5"),
)

MOBILEVIT = Adapter(
    "cvnets",
    (
        *_COMMON,
        ("local", "local_rep.conv_3x3"),
        ("to_tokens", "local_rep.conv_1x1.block.conv"),
        ("norm1", "pre_norm_mha.0"),
        ("attention.qkv", "pre_norm_mha.1.qkv_proj"),
        ("attention.out", "pre_norm_mha.1.out_proj"),
        ("ffn_in", "pre_norm_ffn.1"),
        ("ffn_out", "pre_norm_ffn.4"),
        ("fuse", "fusion"),
        ("final", "conv_1x1_exp"),
        ("head", "classifier.fc"),
    ),
)

MOBILEVITV2 = Adapter(
    "cvnets",
    (
        *_COMMON,
        ("local", "local_rep.0"),
        ("to_tokens", "local_rep.1.block.conv"),
        ("norm1", "pre_norm_attn.0"),
        ("attention.qkv", "pre_norm_attn.1.qkv_proj.block.conv"),
        ("attention.out", "pre_norm_attn.1.out_proj.block.conv"),
        ("ffn_in", "pre_norm_ffn.1.block.conv"),
        ("ffn_out", "pre_norm_ffn.3.block.conv"),
        ("head", "classifier.1"),
    ),
)

DEEPLABV3 = Adapter(
    "cvnets",
    (
        ("norm", "block.norm"),
        ("conv", "block.conv"),
        ("branches.#", "convs.#"),
        ("pool", "convs.4.aspp_pool.conv_1x1"),
        ("aspp", "seg_head.aspp.aspp_layer"),
        ("head", "seg_head.classifier.block.conv"),
    ),
    older=(("seg_head.classifier", "seg_head.classifier.classifier"),),
    begins=("seg_head.aspp.", "seg_head.classifier."),
)
"""The head alone; ``seg_head.aux_head``, which only training uses, is no part of it."""
