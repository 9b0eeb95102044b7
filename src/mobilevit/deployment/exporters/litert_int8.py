"""What of a captured network LiteRT computes in int8.

XNNPACK has int8 kernels for convolutions, linear layers, sums, products, tables and everything that
moves numbers about; norms, softmax and the products of attention it has in float alone. So whatever
enters those stays in float, the sum that runs through a transformer too, which costs the most
accuracy when it is rounded.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx, nn
from torchao.quantization.pt2e.observer import HistogramObserver, PerChannelMinMaxObserver
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
from torchao.quantization.pt2e.quantizer import (
    FixedQParamsQuantizationSpec,
    QuantizationAnnotation,
    QuantizationSpec,
    Quantizer,
    SharedQuantizationSpec,
)

from mobilevit.deployment.capture import is_inside

aten = torch.ops.aten

ACTIVATION = QuantizationSpec(
    dtype=torch.int8,
    quant_min=-128,
    quant_max=127,
    qscheme=torch.per_tensor_affine,
    observer_or_fake_quant_ctr=HistogramObserver.with_args(eps=2**-12),
)
WEIGHT = QuantizationSpec(
    dtype=torch.int8,
    quant_min=-127,
    quant_max=127,
    qscheme=torch.per_channel_symmetric,
    ch_axis=0,
    observer_or_fake_quant_ctr=PerChannelMinMaxObserver.with_args(eps=2**-12),
)
SIGMOID = FixedQParamsQuantizationSpec(
    dtype=torch.int8,
    scale=1 / 256,
    zero_point=-128,
    quant_min=-128,
    quant_max=127,
    qscheme=torch.per_tensor_affine,
)
"""The one range that LiteRT takes of a sigmoid's output."""

WEIGHTED = {aten.conv2d.default, aten.linear.default}
CUTS = {aten.relu.default, aten.relu_.default, aten.hardtanh.default, aten.hardtanh_.default}
"""What the convolution before it does on its own."""
MOVES = {
    aten.view.default,
    aten.reshape.default,
    aten.flatten.using_ints,
    aten.permute.default,
    aten.transpose.int,
    aten.select.int,
    aten.slice.Tensor,
    aten.squeeze.dim,
    aten.unsqueeze.default,
    aten.clone.default,
}
"""What gives the numbers that it takes, in another order."""
RANGE_KEEPERS = MOVES | {
    aten.mean.dim,
    aten.adaptive_avg_pool2d.default,
    aten.max_pool2d.default,
    aten.upsample_bilinear2d.vec,
}
"""What gives numbers in the range of those that it takes."""


def quantise(
    module: nn.Module, calibration: NDArray[np.float32], float_blocks: tuple[str, ...]
) -> nn.Module:
    """Return a captured network with rounding to int8 in its graph (torchao's PT2E).

    Weights are rounded per channel, activations per tensor, to the ranges that lose least on the
    pictures; what few of them reach is cut off.

    Args:
        module: takes ``image`` (1, H, W, 3), in ATen's operations.
        calibration: (N, 3, H, W) float32 in [0, 1].
        float_blocks: names of modules that stay in float, with all below them.
    """
    observed = prepare_pt2e(module, LiteRTQuantizer(float_blocks))
    pictures = torch.from_numpy(calibration).permute(0, 2, 3, 1).contiguous()
    with torch.no_grad():
        for picture in pictures:
            observed(image=picture[None])
    quantised: nn.Module = convert_pt2e(observed, fold_quantize=False)
    return quantised


class LiteRTQuantizer(Quantizer):  # type: ignore[misc]
    """Says of every operation whether it takes and gives int8.

    Args:
        float_blocks: names of modules that stay in float, with all below them.
    """

    def __init__(self, float_blocks: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.float_blocks = float_blocks

    def annotate(self, model: fx.GraphModule) -> fx.GraphModule:
        """Mark the operations of a graph."""
        nodes = [node for node in model.graph.nodes if node.op == "call_function"]
        free = [node for node in nodes if not is_inside(node, self.float_blocks)]
        for node in free:
            self._annotate_forwards(node)
        for node in reversed(free):
            self._annotate_backwards(node)
        return model

    def validate(self, model: fx.GraphModule) -> None:
        """Do nothing: whatever is not marked stays in float."""

    def _annotate_forwards(self, node: fx.Node) -> None:
        """Mark what computes in int8, and what follows it without a reason to leave int8."""
        target = node.target
        sources = node.all_input_nodes
        if target in WEIGHTED:
            cut = [user for user in node.users if user.target in CUTS and len(node.users) == 1]
            _mark(node, {sources[0]: ACTIVATION, sources[1]: WEIGHT}, None if cut else ACTIVATION)
            for user in cut:
                _mark(user, {}, ACTIVATION)
        elif _is_int8(node) or not all(map(_is_int8, sources)):
            return
        elif target is aten.sigmoid.default:
            _mark(node, {sources[0]: ACTIVATION}, SIGMOID)
        elif target is aten.mul.Tensor and len(sources) == 2:
            _mark(node, dict.fromkeys(sources, ACTIVATION), ACTIVATION)
        elif target is aten.cat.default:
            shared = SharedQuantizationSpec((sources[0], node))
            rest = dict.fromkeys(sources[1:], shared)
            _mark(node, {sources[0]: ACTIVATION, **rest}, shared)
        elif target in RANGE_KEEPERS:
            shared = SharedQuantizationSpec(sources[0])
            _mark(node, {sources[0]: shared}, shared)

    def _annotate_backwards(self, node: fx.Node) -> None:
        """Mark the sums that no float operation reads, and moves that only int8 reads."""
        sources = node.all_input_nodes
        if _is_int8(node):
            return
        if node.target is aten.add.Tensor and len(sources) == 2:
            known = all(_is_int8(source) or source.target is node.target for source in sources)
            if known and all(_computes_int8(user) for user in node.users):
                _mark(node, dict.fromkeys(sources, ACTIVATION), ACTIVATION)
        elif node.target in MOVES and all(map(_is_int8, node.users)):
            _mark(node, {sources[0]: ACTIVATION}, SharedQuantizationSpec((sources[0], node)))


def _mark(node: fx.Node, takes: dict[fx.Node, Any], gives: Any) -> None:
    node.meta["quantization_annotation"] = QuantizationAnnotation(
        input_qspec_map=takes, output_qspec=gives, _annotated=True
    )


def _is_int8(node: fx.Node) -> bool:
    return "quantization_annotation" in node.meta


def _computes_int8(node: fx.Node) -> bool:
    return _is_int8(node) and node.target not in MOVES
