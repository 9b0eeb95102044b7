from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from mobilevit import Contract, MultiScaleSampler, Recipe
from mobilevit.data.decoding import Picture, read_picture
from mobilevit.data.folders import Sample
from mobilevit.data.samplers import SampleKey
from mobilevit.data.transforms import EvalDataset, TrainDataset, TrainTransform, collate
from mobilevit.deployment.preprocess import preprocess


def transform(**settings: object) -> TrainTransform:
    return TrainTransform(Recipe().override(**settings).augmentation)


def gradient(path: Path, width: int = 200, height: int = 120) -> Path:
    """Write a picture whose red tells the column and whose green tells the row."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[..., 0] = np.linspace(0, 255, width).round()
    pixels[..., 1] = np.linspace(0, 255, height).round()[:, None]
    options = {"quality": 98, "subsampling": 0} if path.suffix == ".jpg" else {}
    Image.fromarray(pixels).save(path, **options)
    return path


@pytest.mark.parametrize("size", [32, 97, 160])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_any_size_comes_out(tmp_path: Path, size: int, interpolation: str) -> None:
    path = gradient(tmp_path / "a.png")
    make = transform(interpolation=interpolation, randaugment=9, erase=1.0)
    for seed in range(5):
        torch.manual_seed(seed)
        x = make(Picture(path), size)
        assert x.shape == (3, size, size)
        assert x.dtype == torch.uint8


@pytest.mark.parametrize("shape", [(1, 1), (1, 500), (500, 1), (7, 3), (33, 2000)])
def test_odd_pictures(tmp_path: Path, shape: tuple[int, int]) -> None:
    for name in ("a.png", "a.jpg"):
        path = gradient(tmp_path / name, *shape)
        for seed in range(20):
            torch.manual_seed(seed)
            assert transform()(Picture(path), 32).shape == (3, 32, 32)


def test_without_augmentation_it_is_a_plain_resize(tmp_path: Path) -> None:
    path = gradient(tmp_path / "a.png", 96, 96)
    make = transform(crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0), flip=0.0)
    expected = np.asarray(Image.open(path).resize((48, 48), Image.Resampling.BILINEAR))
    x = make(Picture(path), 48).permute(1, 2, 0).numpy()
    assert np.abs(x.astype(int) - expected).max() <= 1


def test_flip_and_crop_are_drawn(tmp_path: Path) -> None:
    path = gradient(tmp_path / "a.png")
    whole = {"crop_scale": (1.0, 1.0), "crop_ratio": (1.0, 1.0)}
    never, always = (transform(flip=flip, **whole) for flip in (0.0, 1.0))
    torch.manual_seed(0)
    one = never(Picture(path), 64)
    torch.manual_seed(0)
    assert torch.equal(always(Picture(path), 64), one.flip(-1))
    cropping = transform(flip=0.0)
    assert len({int(cropping(Picture(path), 32).sum()) for _ in range(10)}) == 10


def test_the_crop_of_a_reduced_jpeg_shows_the_same_place(tmp_path: Path) -> None:
    """Large JPEGs are decoded smaller; what is cropped must not move."""
    large = gradient(tmp_path / "large.jpg", 1600, 1200)
    exact = gradient(tmp_path / "exact.png", 1600, 1200)
    make = transform(flip=0.0)
    for seed in range(20):
        torch.manual_seed(seed)
        one = make(Picture(large), 64).float()
        torch.manual_seed(seed)
        other = make(Picture(exact), 64).float()
        assert (one - other).abs().max() <= 4  # of 255; a pixel is 0.16 of that


def test_it_is_fast_on_large_jpegs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = gradient(tmp_path / "large.jpg", 1600, 1200)
    seen = []
    decode = Picture.decode

    def spy(self: Picture, reduce: float = 1.0) -> Image.Image:
        image = decode(self, reduce)
        seen.append((reduce, image.size))
        return image

    monkeypatch.setattr(Picture, "decode", spy)
    transform(crop_scale=(1.0, 1.0), crop_ratio=(4 / 3, 4 / 3))(Picture(path), 128)
    assert seen == [(1200 / 128, (200, 150))]


@pytest.fixture
def samples(tmp_path: Path) -> list[Sample]:
    return [Sample(gradient(tmp_path / f"{i}.png", 40 + 9 * i, 50), i % 3) for i in range(8)]


def test_a_sample_is_a_function_of_its_key(samples: list[Sample]) -> None:
    dataset = TrainDataset(samples, transform(randaugment=9, erase=0.5))
    torch.manual_seed(0)
    state = torch.get_rng_state()
    one, label = dataset[SampleKey(4, 48, 7)]
    assert (one.shape, label) == ((3, 48, 48), 1)
    assert torch.equal(torch.get_rng_state(), state)  # the caller's numbers are its own
    torch.manual_seed(99)
    assert torch.equal(dataset[SampleKey(4, 48, 7)][0], one)
    assert not torch.equal(dataset[SampleKey(4, 48, 8)][0], one)
    assert not torch.equal(dataset[SampleKey(3, 48, 7)][0], one)


def test_workers_change_nothing(samples: list[Sample]) -> None:
    dataset = TrainDataset(samples, transform(randaugment=9))
    sampler = MultiScaleSampler(8, 3, (32, 48), 48)
    epochs = [
        list(DataLoader(dataset, batch_sampler=sampler, num_workers=n, collate_fn=collate))
        for n in (0, 2)
    ]
    for (x, labels), (y, same) in zip(*epochs, strict=True):
        assert torch.equal(x, y)
        assert torch.equal(labels, same)


def test_evaluation_is_what_the_contract_says(samples: list[Sample]) -> None:
    contract = Contract("classification", ("a", "b", "c"), (32, 40), 45)
    x, label = EvalDataset(samples, contract)[2]
    expected = preprocess(read_picture(samples[2].path), contract)
    assert label == 2
    assert x.dtype == torch.float32
    assert np.array_equal(x.numpy(), expected)
    assert len(EvalDataset(samples, contract)) == 8


@pytest.mark.parametrize("damage", ["truncated", "gone", "text"])
def test_what_became_unreadable_is_left_out_by_name(samples: list[Sample], damage: str) -> None:
    path = samples[5].path
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:60] if damage == "truncated" else b"no picture")
    contract = Contract("classification", ("a", "b", "c"), (32, 32), 36)
    train = TrainDataset(samples, transform())
    evaluation = EvalDataset(samples, contract)
    for get in (lambda: train[SampleKey(5, 32, 0)], lambda: evaluation[5]):
        with pytest.warns(UserWarning, match=r"left out: .*5\.png"):
            assert get() is None


def test_batches_do_without_them() -> None:
    x = torch.zeros(3, 4, 4, dtype=torch.uint8)
    pictures, labels = collate([(x, 1), None, (x + 1, 2)])
    assert pictures.shape == (2, 3, 4, 4)
    assert labels.tolist() == [1, 2]
    assert labels.dtype == torch.int64
    assert pictures.is_contiguous(memory_format=torch.channels_last)
    pictures, labels = collate([None, None])
    assert len(pictures) == len(labels) == 0


def test_a_loader_goes_on_without_them(samples: list[Sample]) -> None:
    samples[0].path.unlink()
    sampler = MultiScaleSampler(8, 4, (32,), 32)
    loader = DataLoader(
        TrainDataset(samples, transform()), batch_sampler=sampler, collate_fn=collate
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert sum(len(labels) for _, labels in loader) == 7
    assert len(caught) == 1
