"""The pictures that int8 learns its ranges from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mobilevit.data.folders import spread
from mobilevit.deployment.contract import Contract
from mobilevit.deployment.preprocess import batches
from mobilevit.errors import UserError

FEWEST = 16
"""Pictures below which the ranges are chance."""
MOST = 128
"""Pictures beyond which the ranges hardly change."""
FLATTEST = 0.02
"""Standard deviation of each channel of a picture, of 1, below which it shows nothing."""


def load_calibration(paths: Sequence[Path], contract: Contract) -> NDArray[np.float32]:
    """Read pictures to calibrate on, as the network sees them.

    Args:
        paths: pictures, of which ``MOST`` are taken evenly spread.
        contract: of the network.

    Returns:
        (N, 3, H, W) float32 in [0, 1].

    Raises:
        UserError: when fewer than ``FEWEST`` can be read, or more than half of them show nothing,
            as black ones do.
    """
    chosen = spread(paths, MOST)
    read = list(batches(chosen, contract, 16))
    images = np.concatenate(
        [np.zeros((0, 3, *contract.size), np.float32), *(batch.images for batch in read)]
    )
    taken = [chosen[position] for batch in read for position in batch.positions]
    way_out = "Name a folder of pictures like those it will see with calibrate (--calibrate)."
    if len(images) < FEWEST:
        raise UserError(
            f"int8 is calibrated on pictures, at least {FEWEST}; {len(images)} of the "
            f"{len(chosen)} here can be read. {way_out}"
        )
    flat = images.std(axis=(2, 3)).max(1) < FLATTEST
    if flat.mean() > 0.5:
        raise UserError(
            f"{flat.sum()} of the {len(images)} pictures to calibrate on are of one colour, as "
            f"{taken[int(np.argmax(flat))]} is: int8 would learn nothing from them. {way_out}"
        )
    return images
