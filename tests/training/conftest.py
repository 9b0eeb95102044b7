from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tiny import make_pictures


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three colours, 8 pictures to train and 4 to validate on each; do not change them."""
    return make_pictures(tmp_path_factory.mktemp("tiny") / "colours")


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Sums over several threads would differ from those of the processes that are started."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
