"""The names of ml-cvnets for what an SSDLite has beside its backbone.

The backbone itself is named as in ``cvnets.py``, behind ``ENCODER``.
"""

from __future__ import annotations

from mobilevit.checkpoints.adapters.adapter import Adapter

CVNETS = Adapter(
    "cvnets",
    (
        ("norm", "block.norm"),
        ("conv", "block.conv"),
        ("extras.#.depthwise", "extras.#.dw_conv"),
        ("extras.3.pointwise", "extras.3.1.block.conv"),  # pooling counts as a layer
        ("extras.#.pointwise", "extras.#.pw_conv"),
        ("extras.0", "extra_layers.os_64"),
        ("extras.1", "extra_layers.os_128"),
        ("extras.2", "extra_layers.os_256"),
        ("extras.3", "extra_layers.os_-1"),
        ("project", "proj_layer"),
        ("depthwise", "loc_cls_layer.dw_conv"),
        ("heads.5.predict", "heads.5.loc_cls_layer.block.conv"),  # one pixel has no neighbours
        ("predict", "loc_cls_layer.pw_conv.block.conv"),
        ("heads", "ssd_heads"),
    ),
    begins=("extra_layers.", "ssd_heads."),
)
