"""Pictures per second out of the loader: this package beside torchvision's ImageFolder.

Decode, random resized crop to 256, flip, batch of 64, float32 in the main process; two workers.
The files are like ImageNet's (long side 500, JPEG quality 90); for information, also like a
phone's (12 megapixels).
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

from common import DATA, Bar, parser, report, take_turns
from mobilevit import MultiScaleSampler, Recipe
from mobilevit.data.folders import pictures, read_folders
from mobilevit.data.transforms import collate
from mobilevit.tasks.classification.training import ClassificationTraining
from mobilevit.training.memory import keep_memory

BATCH, WORKERS = 64, 2


def main() -> None:
    """Run the benchmark."""
    options = parser(__doc__)
    options.add_argument("--photos", type=Path, default=DATA / "coco", help="folder of photos")
    chosen = options.parse_args()
    size = 64 if chosen.quick else 256
    rows, bars = [], []
    with tempfile.TemporaryDirectory() as folder:
        for kind, long_side, count, copies, epochs in (
            ("ImageNet-sized", 500, *((8, 1, 1) if chosen.quick else (250, 4, 7))),
            ("12 megapixels", 4000, *((2, 1, 1) if chosen.quick else (32, 4, 3))),
        ):
            data = Path(folder) / kind
            megapixels = make_files(chosen.photos, data, long_side, count, copies)
            files = len(pictures(data / "train"))
            contestants = {
                "torchvision": standard(data / "train", size),
                "ours": ours(data, size),
            }
            seconds = take_turns(contestants, epochs)
            rates = {name: files / float(np.median(taken)) for name, taken in seconds.items()}
            base = rates["torchvision"]
            for name, taken in seconds.items():
                rows.append(
                    {
                        "contestant": name,
                        "files": kind,
                        "megapixels": megapixels,
                        "pictures": files,
                        "pictures/s": rates[name],
                        "slowest epoch": files / max(taken),
                        "fastest epoch": files / min(taken),
                        "x torchvision": rates[name] / base,
                    }
                )
            if kind == "ImageNet-sized":
                bars.append(Bar("ours over torchvision", rates["ours"] / base, 1.5))
    notes = f"""torchvision: ImageFolder with RandomResizedCrop, RandomHorizontalFlip, ToTensor and
        Normalize (v1). {WORKERS} workers, batch {BATCH}, crops of {size} x {size}; medians of
        epochs. Freed memory is kept by the process, for both."""
    report(chosen, rows, bars, ("torchvision", "pillow"), notes)


def make_files(source: Path, data: Path, long_side: int, count: int, copies: int) -> float:
    """Write resized photos, each some times over, and return their mean megapixels."""
    found = [path for path in pictures(source) if path.suffix.lower() in (".jpg", ".jpeg")][:count]
    areas = []
    for index, path in enumerate(found):
        image = Image.open(path).convert("RGB")
        scale = long_side / max(image.size)
        width, height = (round(side * scale) for side in image.size)
        areas.append(width * height / 1e6)
        for split in ("train", "val"):
            place = data / split / f"class{index % 2}"
            place.mkdir(parents=True, exist_ok=True)
        first = data / "train" / f"class{index % 2}" / f"{index}-0.jpg"
        image.resize((width, height), Image.Resampling.BICUBIC).save(first, quality=90)
        for copy in range(1, copies):
            shutil.copy(first, first.with_name(f"{index}-{copy}.jpg"))
        if index < 2:
            shutil.copy(first, data / "val" / f"class{index}")
    return float(np.mean(areas))


def standard(folder: Path, size: int) -> Callable[[], None]:
    """Return an epoch of what torchvision's own recipes and tutorials do."""
    transform = transforms.Compose(
        [
            transforms.RandomResizedCrop(size),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    dataset = ImageFolder(str(folder), transform)
    loader = DataLoader(dataset, BATCH, True, num_workers=WORKERS, persistent_workers=True)

    def epoch() -> None:
        seen = sum(checked(x, size) for x, _ in loader)
        assert seen == len(dataset)

    return epoch


def ours(data: Path, size: int) -> Callable[[], None]:
    """Return an epoch of what ``mobilevit train`` does."""
    keep_memory()
    folders = read_folders(data)
    side = ClassificationTraining(Recipe(), folders.class_names)
    sampler = MultiScaleSampler(len(folders.train), BATCH, (size,), size)
    loader = DataLoader(
        side.train_dataset(folders.train),
        batch_sampler=sampler,
        collate_fn=collate,
        num_workers=WORKERS,
        persistent_workers=True,
    )

    def epoch() -> None:
        sampler.set_epoch(sampler.epoch + 1)
        seen = sum(checked(side.prepare(*batch)[0], size) for batch in loader)
        assert seen == len(folders.train)

    return epoch


def checked(x: Tensor, size: int) -> int:
    """Return how many pictures a batch has, if it is what a network takes."""
    assert x.dtype == torch.float32
    assert x.shape[1:] == (3, size, size)
    return len(x)


if __name__ == "__main__":
    main()
