from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from mobilevit import Recipe
from mobilevit.data.decoding import Picture, PictureError
from mobilevit.data.folders import Folders, Sample
from mobilevit.data.masks import IGNORED, Mask, MaskFile
from mobilevit.data.samplers import SampleKey
from mobilevit.tasks.segmentation.training import (
    GREY,
    SegmentationTraining,
    SegmentationTransform,
    class_weights,
    count_pixels,
)

WIDE, HIGH = 160, 96
NUMBERS = {0: 0, 1: 1, 7: 2}


@pytest.fixture
def sample(tmp_path: Path) -> Sample[Mask]:
    """A picture in blue and red with a corner in green, and a mask of the same areas."""
    areas = np.zeros((HIGH, WIDE), np.uint8)
    areas[:, WIDE // 2 :] = 1
    areas[:24, :24] = 7
    areas[-8:, -8:] = 200  # in no class
    colours = np.zeros((256, 3), np.uint8)
    colours[[0, 1, 7, 200]] = [(0, 0, 250), (250, 0, 0), (0, 250, 0), (0, 0, 0)]
    Image.fromarray(colours[areas]).save(tmp_path / "picture.png")
    Image.fromarray(areas).save(tmp_path / "mask.png")
    return Sample(tmp_path / "picture.png", MaskFile(tmp_path / "mask.png", NUMBERS, WIDE, HIGH))


def recipe(**settings: object) -> Recipe:
    return Recipe().override(head="deeplabv3", size=64, **settings)


def side(samples: tuple[Sample[Mask], ...] = (), **settings: object) -> SegmentationTraining:
    folders = Folders[Mask](("blue", "red", "green"), samples, (), Path())
    return SegmentationTraining(recipe(**settings), folders)


def test_a_picture_and_its_mask_stay_together_however_they_are_cut(sample):
    transform = SegmentationTransform(recipe(scale=(0.3, 4.0), flip=0.5))
    channel_of = {0: 2, 1: 0, 2: 1}
    seen = set()
    for seed in range(60):
        torch.manual_seed(seed)
        image, mask = transform(Picture(sample.path), sample.label, 64)
        assert (image.shape, image.dtype) == ((3, 64, 64), torch.uint8)
        assert (mask.shape, mask.dtype) == ((64, 64), torch.uint8)
        for index, channel in channel_of.items():
            pixels = image[:, mask == index].float()
            if pixels.shape[1] > 60:
                seen.add(index)
                right = pixels.argmax(0) == channel
                assert right.float().mean() > 0.85  # but for blurred borders
        assert (image[:, (image == GREY).all(0) & (mask != IGNORED)]).numel() < 3 * 64 * 4
    assert seen == {0, 1, 2}


def test_at_its_own_size_nothing_is_resampled(sample):
    transform = SegmentationTransform(recipe(scale=(1.5, 1.5), flip=0.0))  # 96 / 64
    torch.manual_seed(3)
    image, mask = transform(Picture(sample.path), sample.label, 64)
    whole = np.asarray(Image.open(sample.path))
    classes = sample.label.read()
    places = [
        (top, left)
        for top in range(HIGH - 63)
        for left in range(WIDE - 63)
        if np.array_equal(classes[top : top + 64, left : left + 64], mask)
    ]
    assert places
    difference = [
        np.abs(whole[t : t + 64, s : s + 64].astype(int) - image.permute(1, 2, 0).numpy()).mean()
        for t, s in places
    ]
    assert min(difference) < 4  # the cut begins at a fraction of a pixel


def test_what_lies_outside_a_small_picture_is_grey_and_ignored(sample):
    transform = SegmentationTransform(recipe(scale=(0.5, 0.5), flip=0.0))
    filled = set()
    for seed in range(20):
        torch.manual_seed(seed)
        image, mask = transform(Picture(sample.path), sample.label, 64)
        inside = ~(image == GREY).all(0)
        rows, columns = inside.nonzero().unbind(1)
        filled.add((int(rows.min()), int(columns.min())))
        shown = (int(rows.max() - rows.min()) + 1, int(columns.max() - columns.min()) + 1)
        assert shown == (32, 53)
        assert (mask[~inside] == IGNORED).all()
        assert (mask[inside] != IGNORED).float().mean() > 0.9
    assert len(filled) > 5


def test_with_the_same_seed_a_sample_is_cut_alike(sample):
    data = side(distort=0.5).train_dataset([sample])
    first, again, other = (data[SampleKey(0, 64, seed)] for seed in (5, 5, 6))
    assert first is not None
    assert again is not None
    assert other is not None
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0])


def test_a_mask_that_is_gone_leaves_the_picture_out(sample):
    data = side().train_dataset([sample])
    sample.label.path.unlink()
    with pytest.warns(UserWarning, match=r"left out: .*mask\.png"):
        assert data[SampleKey(0, 64, 0)] is None
    with pytest.raises(PictureError):
        sample.label.read()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_the_mean_over_labelled_pixels_times_the_pictures(smoothing):
    torch.manual_seed(0)
    logits = torch.randn(2, 3, 4, 5)
    targets = torch.randint(0, 3, (2, 16, 20))
    targets[0, :8] = IGNORED
    up = F.interpolate(logits, (16, 20), mode="bilinear", align_corners=False)
    kept = targets != IGNORED
    expected = F.cross_entropy(
        up.permute(0, 2, 3, 1)[kept], targets[kept], label_smoothing=smoothing
    )
    task = side(label_smoothing=smoothing, aux_weight=0.4)
    assert float(task.loss(logits, targets)) == pytest.approx(2 * float(expected), rel=1e-5)
    both = task.loss((logits, logits), targets)
    assert float(both) == pytest.approx(2.8 * float(expected), rel=1e-5)


def test_the_score_is_the_share_of_labelled_places_that_are_right():
    targets = torch.zeros(2, 8, 8, dtype=torch.long)
    targets[:, :, 4:] = 1
    targets[0, :4] = IGNORED
    logits = torch.zeros(2, 3, 4, 4)
    logits[:, 0] = 1  # class 0 everywhere: half of what is labelled
    assert float(side().score((logits, logits), targets)) == pytest.approx(1.0)


def test_a_batch_without_a_labelled_pixel_has_no_loss():
    logits = torch.randn(2, 3, 4, 4, requires_grad=True)
    nothing = torch.full((2, 8, 8), IGNORED)
    task = side()
    loss = task.loss(logits, nothing)
    loss.backward()
    assert float(loss.detach()) == 0
    assert logits.grad is not None
    assert not logits.grad.any()
    assert float(task.score(logits, nothing)) == 0


def test_balanced_classes_weigh_alike_whatever_their_pixels(sample):
    pixels = count_pixels([sample], 3)
    assert pixels.tolist() == [HIGH * WIDE // 2 - 24 * 24, HIGH * WIDE // 2 - 64, 24 * 24]
    weights = class_weights(pixels, 1.0)
    np.testing.assert_allclose(weights * pixels, float(pixels.sum()) / 3, rtol=1e-5)
    assert class_weights(pixels, 0.0).tolist() == [1, 1, 1]
    absent = class_weights(torch.tensor([0, 30, 10]), 0.5)
    assert absent[0] == 0
    assert absent[2] > absent[1] > 0


def test_weighed_classes_count_in_the_loss(sample):
    torch.manual_seed(0)
    logits, targets = torch.randn(1, 3, 8, 8), torch.randint(0, 3, (1, 8, 8))
    weights = class_weights(count_pixels([sample], 3), 1.0)
    expected = F.cross_entropy(logits, targets, weights, reduction="sum") / 64
    got = side((sample,), balance=1.0, label_smoothing=0.0).loss(logits, targets)
    assert float(got) == pytest.approx(float(expected), rel=1e-5)


def test_prepared_pictures_are_in_0_to_1(sample):
    pictures = torch.tensor([0, 51, 255], dtype=torch.uint8).reshape(1, 3, 1, 1)
    x, y = side().prepare(pictures, torch.zeros(1, 1, 1, dtype=torch.uint8))
    assert x.flatten().tolist() == [0, pytest.approx(0.2), 1]
    assert y.dtype == torch.long


def test_a_mask_that_is_gone_does_not_count(sample):
    sample.label.path.unlink()
    assert count_pixels([sample], 3).tolist() == [0, 0, 0]
