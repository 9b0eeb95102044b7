"""What holds for the outputs of every network."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobilevit.errors import DivergedError


def check_finite(outputs: NDArray[np.floating[Any]]) -> None:
    """Do nothing for outputs (N, …) that are numbers.

    Raises:
        DivergedError: when one is NaN or infinite.
    """
    if not np.isfinite(outputs).all():
        broken = sum(not np.isfinite(output).all() for output in outputs)
        raise DivergedError(
            f"the network's outputs are NaN or infinite for {broken} of {len(outputs)} pictures: "
            "its weights are damaged, or its training diverged. A lower learning rate, clip_norm "
            "or fp32 precision prevents that."
        )
