"""What every network of this package is: a stem, five stages and a classifier.

The stages halve the sides, down to the output stride, and differ in their blocks; ``mobilevit.py``
and ``mobilevitv2.py`` say which.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from mobilevit.networks.layers import ConvNormAct, InvertedResidual, initialise


@dataclass(frozen=True, kw_only=True)
class BackboneConfig:
    """The numbers that make a network.

    Attributes:
        num_classes: outputs of the classifier; 0 leaves the pooled features as they are.
        in_chans: channels of the input.
        stem_width: channels after the first convolution.
        widths: channels of the five stages.
        expansion: width of an inverted residual's middle over its input.
        token_widths: D, the width of the transformers in the last three stages.
        layers: transformer layers in the last three stages.
        output_stride: stride of the last feature map: 32, or 16 or 8 for dense prediction, where
            the last one or two stages keep the sides and dilate their filters instead.
        patch_sizes: side of the square patches in the last three stages, in feature-map pixels.
        ffn_expansion: inner width of the feed-forward part over D.
        dropout: rate after attention and after the feed-forward part.
        attention_dropout: rate on the attention weights.
        ffn_dropout: rate inside the feed-forward part.
        head_dropout: rate before the classifier.
    """

    num_classes: int = 1000
    in_chans: int = 3
    stem_width: int
    widths: tuple[int, int, int, int, int]
    expansion: int
    token_widths: tuple[int, int, int]
    layers: tuple[int, int, int] = (2, 4, 3)
    output_stride: int = 32
    patch_sizes: tuple[int, int, int] = (2, 2, 2)
    ffn_expansion: int = 2
    dropout: float = 0.0
    attention_dropout: float = 0.0
    ffn_dropout: float = 0.0
    head_dropout: float = 0.0


class Backbone(nn.Module):
    """A network with a classifier: (B, in_chans, H, W) RGB in [0, 1] to (B, num_classes) logits.

    Args:
        config: its numbers.
        block: makes what stands at the end of the last three stages, from its channels, its D, its
            number of layers and its patch size.
        depth: inverted residuals in the second stage.
        final_width: channels of the 1x1 convolution before pooling; none leaves it out.

    Attributes:
        feature_info: for each of the five stages its ``num_chs``, ``reduction`` (stride) and
            ``module`` name, as timm has it.
        num_features: channels of the pooled features.

    Raises:
        ValueError: for an output stride other than 32, 16 and 8.
    """

    def __init__(
        self,
        config: BackboneConfig,
        block: Callable[[int, int, int, int], nn.Module],
        depth: int,
        final_width: int | None = None,
    ) -> None:
        super().__init__()
        if config.output_stride not in (32, 16, 8):
            raise ValueError(f"output_stride is 32, 16 or 8, not {config.output_stride}")
        self.config = config
        self.num_classes = config.num_classes
        self.num_features = final_width or config.widths[-1]
        widths, expansion = config.widths, config.expansion
        self.stem = ConvNormAct(config.in_chans, config.stem_width, 3, stride=2)
        stages: list[list[nn.Module]] = [
            [InvertedResidual(config.stem_width, widths[0], 1, expansion)],
            [InvertedResidual(widths[0], widths[1], 2, expansion)],
        ]
        stages[1] += [
            InvertedResidual(widths[1], widths[1], 1, expansion) for _ in range(depth - 1)
        ]
        for reduction, inputs, outputs, tokens, layers, patch in zip(
            (8, 16, 32),
            widths[1:-1],
            widths[2:],
            config.token_widths,
            config.layers,
            config.patch_sizes,
            strict=True,
        ):
            stride = 2 if reduction <= config.output_stride else 1
            # The first filters that do not stride are not dilated yet, as in the papers' code.
            dilation = max(1, reduction // config.output_stride // 2)
            stages.append(
                [
                    InvertedResidual(inputs, outputs, stride, expansion, dilation),
                    block(outputs, tokens, layers, patch),
                ]
            )
        self.stages = nn.ModuleList(nn.Sequential(*blocks) for blocks in stages)
        self.feature_info = FeatureInfo(
            {
                "num_chs": channels,
                "reduction": min(2 << i, config.output_stride),
                "module": f"stages.{i}",
            }
            for i, channels in enumerate(widths)
        )
        self.final = ConvNormAct(widths[-1], final_width, 1) if final_width else nn.Identity()
        self.dropout = nn.Dropout(config.head_dropout)
        self.head = _classifier(self.num_features, config.num_classes)
        self.apply(initialise)

    def forward_stages(self, x: Tensor) -> list[Tensor]:
        """Return the five stages' feature maps, at the strides that ``feature_info`` tells."""
        return _run(self.stem, self.stages, x)

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the last feature map, (B, num_features, H / output_stride, W / output_stride)."""
        return self.final(self.forward_stages(x)[-1])

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Pool a last feature map and classify it.

        Args:
            x: (B, num_features, H, W), of ``forward_features``.
            pre_logits: return the pooled features, (B, num_features), instead.
        """
        x = x.mean((2, 3))
        return x if pre_logits else self.head(self.dropout(x))

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Put a new, untrained classifier in.

        Args:
            num_classes: its outputs; 0 for none.
            global_pool: as timm has it; the average is the only one here.

        Raises:
            ValueError: for another pooling.
        """
        if global_pool not in (None, "avg"):
            raise ValueError(f"global_pool is 'avg' here, not '{global_pool}'")
        weight = self.stem.conv.weight
        self.num_classes = num_classes
        self.head = _classifier(self.num_features, num_classes)
        self.head.apply(initialise).to(weight.device, weight.dtype)

    def get_classifier(self) -> nn.Module:
        """Return the last layer."""
        return self.head


class FeatureInfo(list[dict[str, Any]]):
    """What is known of feature maps, a dictionary for each, with timm's words to ask for it."""

    def channels(self) -> list[int]:
        """Return how many channels each map has."""
        return [info["num_chs"] for info in self]

    def reduction(self) -> list[int]:
        """Return each map's stride."""
        return [info["reduction"] for info in self]

    def module_name(self) -> list[str]:
        """Return the name of the module that gives each map."""
        return [info["module"] for info in self]


class FeatureExtractor(nn.Module):
    """A network without its head: a picture to the list of the stages' feature maps.

    The last of them is the fifth stage's; timm gives what its final convolution makes of that.

    Args:
        network: the network to take the stages from; its weights are shared.
        out_indices: which of the five stages to return, in order.

    Attributes:
        config: the network's numbers.
        feature_info: that of the network, of the returned stages.
    """

    def __init__(self, network: Backbone, out_indices: Sequence[int] = (0, 1, 2, 3, 4)) -> None:
        super().__init__()
        if not out_indices or any(not 0 <= i < 5 for i in out_indices):
            raise ValueError(f"out_indices are stages from 0 to 4, not {tuple(out_indices)}")
        self.config = network.config
        self.out_indices = tuple(out_indices)
        self.feature_info = FeatureInfo(network.feature_info[i] for i in self.out_indices)
        self.stem = network.stem
        self.stages = network.stages[: max(self.out_indices) + 1]

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = _run(self.stem, self.stages, x)
        return [maps[i] for i in self.out_indices]


def _run(stem: nn.Module, stages: nn.ModuleList, x: Tensor) -> list[Tensor]:
    """Return the feature map of every stage."""
    x = stem(x)
    maps = []
    for stage in stages:
        x = stage(x)
        maps.append(x)
    return maps


def _classifier(features: int, num_classes: int) -> nn.Module:
    return nn.Linear(features, num_classes) if num_classes else nn.Identity()
