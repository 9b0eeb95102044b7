"""What is asked of an export, for every format."""

from __future__ import annotations

from dataclasses import dataclass

from mobilevit.errors import UserError

PRECISIONS = ("fp32", "fp16", "bf16", "int8", "int8-weights")


@dataclass(frozen=True)
class ExportConfig:
    """The options of an export; which of them a format honours stands in ``formats.FORMATS``.

    Attributes:
        precision: ``"fp32"``, ``"fp16"``, ``"bf16"``, ``"int8"`` (weights and activations, which
            takes pictures to calibrate on) or ``"int8-weights"`` (computed in float); ``None``:
            the format's own first choice.
        dynamic_batch: take any number of pictures at once instead of one.
        float_blocks: of int8 alone: names of the network's modules that stay in float, with all
            below them.
        backend: of ExecuTorch alone: who computes, ``"xnnpack"`` (its first choice) or
            ``"coreml"``.

    Raises:
        UserError: when ``float_blocks`` is one word instead of several.
    """

    precision: str | None = None
    dynamic_batch: bool = False
    float_blocks: tuple[str, ...] = ()
    backend: str | None = None

    def __post_init__(self) -> None:
        if isinstance(self.float_blocks, str):
            raise UserError(
                f"float_blocks is {self.float_blocks!r}; it must be a tuple of names, "
                f"({self.float_blocks!r},)."
            )
