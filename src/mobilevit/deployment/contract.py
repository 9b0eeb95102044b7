"""The contract: what a network expects of a picture and what its outputs mean.

It is data, needs no torch, and travels inside every checkpoint and every artefact.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from typing import Any

from mobilevit.errors import UserError

VERSION = 1
INTERPOLATIONS = ("bilinear", "bicubic")
LAYOUTS = ("NCHW", "NHWC", "image")
OUTPUTS = ("logits", "detections", "candidates", "pixel_logits", "coarse_logits")
LARGEST = 16384
"""Side of the largest input, in pixels."""


@dataclass(frozen=True)
class Contract:
    """How to feed a network and how to read it.

    A picture becomes an input like this: turn it upright (EXIF), make it RGB, resize its
    shorter side to ``resize`` with ``interpolation``, crop ``size`` from the centre, divide by 255.
    Without ``resize`` the whole of it is stretched to ``size``.

    Attributes:
        task: the task whose outputs these are, ``"classification"``, ``"detection"`` or
            ``"segmentation"``.
        class_names: one name for each class, in order.
        size: height and width of the input, in pixels.
        resize: length of the shorter side before the centre crop, in pixels; ``None``: no crop,
            both sides are resized to ``size``, whatever the picture's aspect.
        interpolation: ``"bilinear"`` or ``"bicubic"``, antialiased, as Pillow does it.
        channel_order: always ``"RGB"``.
        value_range: always ``(0.0, 1.0)``; there is no further mean or standard deviation.
        layout: ``"NCHW"`` or ``"NHWC"``, float32, or ``"image"``: an RGB picture of 8 bit, divided
            by 255 inside (Core ML).
        output: what the numbers that come out are: ``"logits"`` (N, K); of detectors
            ``"detections"`` (N, D, 6), each left, top, right and bottom as shares of the picture's
            sides, score, index of the class, by falling score, or ``"candidates"`` (N, A, 4 + K),
            each a box likewise and the probability of every class, to be chosen from; of segmenters
            ``"pixel_logits"`` (N, K, H, W), of every pixel of the input, or ``"coarse_logits"``
            (N, K, h, w), of the last map, to be upsampled bilinearly, corners not aligned.
        class_ids: the user's own number of each class; empty: 0, 1, 2 …
        version: version of this description.
    """

    task: str
    class_names: tuple[str, ...]
    size: tuple[int, int]
    resize: int | None
    interpolation: str = "bilinear"
    channel_order: str = "RGB"
    value_range: tuple[float, float] = (0.0, 1.0)
    layout: str = "NCHW"
    output: str = "logits"
    class_ids: tuple[int, ...] = ()
    version: int = VERSION

    def to_json(self) -> str:
        """Return the contract as one line of JSON."""
        return json.dumps(asdict(self), ensure_ascii=False)

    def validated(self, source: str) -> Contract:
        """Return the contract itself.

        Raises:
            UserError: when it asks for what cannot be done, naming it.
        """
        sides = (*self.size, *([] if self.resize is None else [self.resize]))
        whole = all(isinstance(side, int) and 1 <= side <= LARGEST for side in sides)
        for right, what in (
            (len(self.size) == 2 and whole, f"sizes {self.size} and {self.resize}"),
            (all(isinstance(name, str) for name in self.class_names), "class names are no words"),
            (self.output in OUTPUTS, f"output '{self.output}'"),
            (
                len(self.class_ids) in (0, len(self.class_names)),
                f"{len(self.class_ids)} numbers of {len(self.class_names)} classes",
            ),
            (self.interpolation in INTERPOLATIONS, f"interpolation '{self.interpolation}'"),
            (self.layout in LAYOUTS, f"layout {self.layout}"),
            (self.channel_order == "RGB", f"channel order {self.channel_order}"),
            (self.value_range == (0.0, 1.0), f"value range {self.value_range}"),
        ):
            if not right:
                raise UserError(f"{source}: its contract cannot be kept ({what}).")
        return self

    @classmethod
    def from_json(cls, text: str, source: str) -> Contract:
        """Read a contract.

        Args:
            text: what ``to_json`` wrote.
            source: the file it came from, for the error.

        Raises:
            UserError: when it is no contract, or one of a newer version.
        """
        try:
            values: dict[str, Any] = json.loads(text)
            version = values["version"]
            if version > VERSION:
                raise UserError(
                    f"{source}: its contract has version {version}, this package reads up to "
                    f"{VERSION}. Upgrade with: pip install -U mobilevit"
                )
            known = {field.name for field in fields(cls)}
            values = {key: value for key, value in values.items() if key in known}
            for key in {"class_names", "size", "value_range", "class_ids"} & values.keys():
                values[key] = tuple(values[key])
            return cls(**values).validated(source)
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{source}: its contract cannot be read ({error!r}).") from error
