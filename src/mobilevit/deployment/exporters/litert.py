"""LiteRT, once TensorFlow Lite: for Android, browsers and small computers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from mobilevit.deployment.attachment import attach
from mobilevit.deployment.capture import PLAIN_ATTENTION, PLAIN_SILU, Decompositions, prepare
from mobilevit.deployment.config import ExportConfig
from mobilevit.deployment.contract import Contract
from mobilevit.deployment.exporters.litert_file import (
    count_delegated,
    count_quantised,
    take_and_give_floats,
)
from mobilevit.deployment.quiet import quiet
from mobilevit.networks.mobilevit import MobileViTBlock, TransformerLayer


class LiteRTExporter:
    """Writes a network as one ``.tflite`` file, channels-last, with its weights inside.

    The input is ``image`` (1, H, W, 3), the output has the name that the contract gives it; both
    are float32, whatever lies between. With int8-weights the weights are stored in int8, and what
    multiplies them is rounded to int8 while it runs, each row to its own range: that needs no
    pictures to calibrate on, and is faster than weights that are turned to float again.
    """

    def export(
        self,
        network: nn.Module,
        contract: Contract,
        path: Path,
        config: ExportConfig,
        calibration: NDArray[np.float32] | None = None,
    ) -> Contract:
        """Write an artefact that says nothing of itself yet, see ``Exporter``."""
        network = ChannelsLast(centre_tokens(prepare(network)), contract.output).eval()
        example = {"image": torch.zeros(1, *contract.size, 3)}
        with quiet():
            exported = torch.export.export(network, (), example)
            module = exported.run_decompositions(dict(DECOMPOSITIONS)).module()
            if config.precision == "int8":
                assert calibration is not None
                content = _convert_int8(module, example, calibration, config.float_blocks)
            else:
                content = _convert(module, example)
            if config.precision == "int8-weights":
                content = _round_weights(content)
        path.write_bytes(content)
        return replace(contract, layout="NHWC")

    def annotate(self, path: Path, entries: Mapping[str, str]) -> None:
        """Add entries to the end of a file, see ``Exporter``."""
        attach(path, entries)

    def count_quantised(self, path: Path) -> dict[str, Any] | None:
        """Count in a file what became int8, see ``Exporter``."""
        return count_quantised(path)

    def count_delegated(self, path: Path) -> float | None:
        """Return the share of the multiply-adds that XNNPACK takes, see ``Exporter``."""
        return count_delegated(path)


class ChannelsLast(nn.Module):
    """A network with its channels last: (1, H, W, 3) to its output, under its name."""

    def __init__(self, network: nn.Module, output: str) -> None:
        super().__init__()
        self.network = network
        self.output = output

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        return {self.output: self.network(image.permute(0, 3, 1, 2))}


class RootMeanSquareNorm(nn.Module):
    """Divides each row by the root of its mean square: layer norm, where the mean is zero."""

    def __init__(self, eps: float) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt((x * x).mean(-1, keepdim=True) + self.eps)


def centre_tokens(network: nn.Module) -> nn.Module:
    """Make the tokens of MobileViT's blocks have the mean zero; the outputs stay the same.

    Tokens are a sum of what linear layers give, and only norms read it, which take the mean away:
    it can be taken out of those layers' weights. A norm's own weight and bias go into the layer
    that follows. Of the nine operations of a layer norm, which LiteRT has none of, five remain.

    Args:
        network: as ``prepare`` gives it; it is changed in place.
    """
    for block in network.modules():
        if isinstance(block, MobileViTBlock):
            _centre(block.to_tokens)
            for layer in block.transformer:
                assert isinstance(layer, TransformerLayer)
                _centre(layer.attention.out)
                _centre(layer.ffn_out)
                _fold(layer, "norm1", layer.attention.qkv)
                _fold(layer, "norm2", layer.ffn_in)
            _fold(block, "norm", block.from_tokens.conv)
    return network


def _centre(layer: nn.Linear | nn.Conv2d) -> None:
    """Take their mean out of a layer's outputs."""
    layer.weight -= layer.weight.mean(0, keepdim=True)
    if layer.bias is not None:
        layer.bias -= layer.bias.mean()


def _fold(parent: nn.Module, name: str, layer: nn.Linear | nn.Conv2d) -> None:
    """Move what a norm multiplies by and adds into the layer behind it, and replace the norm."""
    norm = getattr(parent, name)
    weight = layer.weight.flatten(1)
    bias = weight @ norm.bias + (0 if layer.bias is None else layer.bias)
    layer.bias = nn.Parameter(bias, requires_grad=False)
    weight *= norm.weight
    setattr(parent, name, RootMeanSquareNorm(norm.eps))


def _expand(x: Tensor, size: list[int], *, implicit: bool = False) -> Any:
    """Resize a map of one pixel; the converter loses the channels' place when it repeats one."""
    if x.dim() != 4 or tuple(x.shape[2:]) != (1, 1) or size[2] == 1:
        return NotImplemented
    return F.interpolate(x, size[2:], mode="bilinear", align_corners=False)


DECOMPOSITIONS: Decompositions = {
    torch.ops.aten.expand.default: _expand,
    **PLAIN_SILU,
    **PLAIN_ATTENTION,
}
"""How operations are written that LiteRT has not.

Of SiLU's sigmoid and product in int8, XNNPACK makes one table to look up.
"""


def _convert(module: nn.Module, example: dict[str, Tensor], config: Any = None) -> bytes:
    import litert_torch

    model = litert_torch.convert(module, sample_kwargs=example, quant_config=config)
    content: bytes = model.model_content()
    return content


def _convert_int8(
    module: nn.Module,
    example: dict[str, Tensor],
    calibration: NDArray[np.float32],
    float_blocks: tuple[str, ...],
) -> bytes:
    from litert_torch.quantize.pt2e_quantizer import (
        PT2EQuantizer,
        get_symmetric_quantization_config,
    )
    from litert_torch.quantize.quant_config import QuantConfig

    from mobilevit.deployment.exporters.litert_int8 import quantise

    module = quantise(module, calibration, tuple(f"network.{name}" for name in float_blocks))
    static = PT2EQuantizer().set_global(get_symmetric_quantization_config())
    return take_and_give_floats(_convert(module, example, QuantConfig(pt2e_quantizer=static)))


def _round_weights(content: bytes) -> bytes:
    from ai_edge_quantizer import quantizer, recipe

    rounded = quantizer.Quantizer(content, recipe.dynamic_wi8_afp32()).quantize()
    return bytes(rounded.quantized_model)
