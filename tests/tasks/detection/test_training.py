from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mobilevit import Recipe
from mobilevit.data.boxes import Box, Boxes
from mobilevit.data.decoding import Picture
from mobilevit.data.folders import Folders, Sample
from mobilevit.data.samplers import SampleKey
from mobilevit.data.transforms import collate
from mobilevit.networks import SSDLite, SSDLiteConfig, create_model
from mobilevit.tasks.detection.training import DetectionTraining, DetectionTransform

WIDE = (300, 120)
BOX = Box(30, 20, 120, 80, 1)
PLAIN = {"iou_crop": 0.0, "distort": 0.0, "flip": 0.0, "label_smoothing": 0.0}


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """A grey picture with one red rectangle, exactly in its box."""
    pixels = np.full((WIDE[1], WIDE[0], 3), 90, np.uint8)
    pixels[20:80, 30:120] = (250, 10, 10)
    Image.fromarray(pixels).save(tmp_path / "red.png")
    return tmp_path / "red.png"


def recipe(**settings: object) -> Recipe:
    return Recipe().override(head="ssdlite", size=64, **settings)


def side(**settings: object) -> DetectionTraining:
    network = SSDLite(create_model("mobilevit_xxs", num_classes=0), SSDLiteConfig(num_classes=3))
    folders = Folders[Boxes](("blue", "red"), (), (), Path())
    return DetectionTraining(recipe(**settings), folders, network)


def red_box(image: torch.Tensor) -> list[int]:
    """Return where the red pixels begin and end, in pixels."""
    red = (image[0].int() - image[1].int() > 60).nonzero()
    (top, left), (bottom, right) = red.amin(0).tolist(), (red.amax(0) + 1).tolist()
    return [left, top, right, bottom]


def test_without_augmentation_the_whole_picture_is_stretched(picture: Path) -> None:
    transform = DetectionTransform(recipe(**PLAIN))
    image, corners, labels = transform(Picture(picture), Boxes((BOX,), *WIDE), 64)
    assert (image.shape, image.dtype) == ((3, 64, 64), torch.uint8)
    assert labels.tolist() == [1]
    expected = [30 / 300, 20 / 120, 120 / 300, 80 / 120]
    np.testing.assert_allclose(corners[0], expected, atol=1e-6)


def test_a_box_stays_where_its_object_is(picture: Path) -> None:
    transform = DetectionTransform(recipe(iou_crop=1.0, zoom_out=0.5, flip=0.5, distort=0.0))
    moved, seen = set(), 0
    for seed in range(40):
        torch.manual_seed(seed)
        image, corners, _ = transform(Picture(picture), Boxes((BOX,), *WIDE), 64)
        if len(corners) and min((corners[0, 2:] - corners[0, :2]) * 64) > 4:
            np.testing.assert_allclose(corners[0] * 64, red_box(image), atol=1.6)
            moved.add(tuple((corners[0] * 8).round().tolist()))
            seen += 1
    assert seen > 25
    assert len(moved) > 10  # the crops do differ


def test_boxes_of_a_picture_that_was_made_smaller_since_still_fit(picture: Path) -> None:
    transform = DetectionTransform(recipe(**PLAIN))
    twice = Boxes((Box(60, 40, 240, 160, 1),), 600, 240)
    corners = transform(Picture(picture), twice, 64)[1]
    np.testing.assert_allclose(corners[0], [0.1, 1 / 6, 0.4, 2 / 3], atol=1e-6)


def test_the_colours_change_and_the_channels_keep_their_places(picture: Path) -> None:
    transform = DetectionTransform(recipe(iou_crop=0.0, flip=0.0, distort=1.0))
    means = []
    for seed in range(12):
        torch.manual_seed(seed)
        image = transform(Picture(picture), Boxes((BOX,), *WIDE), 64)[0].float()
        left, top, right, bottom = (7, 12, 24, 40)
        red, green, blue = image[:, top:bottom, left:right].mean((1, 2)).tolist()
        assert red > green + 40
        assert red > blue + 40
        means.append(image.mean().item())
    assert np.std(means) > 2


def test_the_same_key_gives_the_same_sample(picture: Path) -> None:
    samples = [Sample(picture, Boxes((BOX,), *WIDE))]
    dataset = side().train_dataset(samples)
    one, same, other = (dataset[SampleKey(0, 64, seed)] for seed in (5, 5, 6))
    assert one is not None
    assert same is not None
    assert other is not None
    assert torch.equal(one[0], same[0])
    assert torch.equal(one[1], same[1])
    assert not torch.equal(one[0], other[0])


def test_a_picture_that_is_gone_is_left_out_with_a_warning(tmp_path: Path) -> None:
    dataset = side().train_dataset([Sample(tmp_path / "gone.png", Boxes((BOX,), *WIDE))])
    with pytest.warns(UserWarning, match=r"gone\.png"):
        assert dataset[SampleKey(0, 64, 0)] is None


def test_ignored_boxes_are_not_learnt(picture: Path) -> None:
    crowd = Boxes((BOX, BOX._replace(label=0, ignored=True)), *WIDE)
    labels = DetectionTransform(recipe(**PLAIN))(Picture(picture), crowd, 64)[2]
    assert labels.tolist() == [1]


def test_the_loss_of_a_batch_counts_its_pictures(picture: Path) -> None:
    task = side(**PLAIN)
    dataset = task.train_dataset([Sample(picture, Boxes((BOX,), *WIDE))])
    images, targets = collate([dataset[SampleKey(0, 64, seed)] for seed in range(2)])
    x, targets = task.prepare(images, targets)
    assert x.max() <= 1
    anchors = targets.shape[1]
    outputs = (torch.zeros(2, anchors, 3), torch.zeros(2, anchors, 4))
    assert task.loss(outputs, targets) == pytest.approx(
        2 * task.loss((outputs[0][:1], outputs[1][:1]), targets[:1]).item()
    )
    right = torch.nn.functional.one_hot(targets[..., 4].long(), 3).float() * 9
    assert task.score((right, targets[..., :4]), targets) == 2
    assert task.loss((right, targets[..., :4]), targets) < 0.01
    assert task.score(outputs, targets) == 0


def test_the_batch_is_drawn_with_the_boxes_that_are_to_be_found(
    picture: Path, tmp_path: Path
) -> None:
    task = side(**PLAIN)
    dataset = task.train_dataset([Sample(picture, Boxes((BOX,), *WIDE))])
    sample = dataset[SampleKey(0, 64, 0)]
    x, targets = task.prepare(*collate([sample]))
    (found,) = task._to_boxes(targets[0], 64, 64).items
    np.testing.assert_allclose(found[:4], [6.4, 64 / 6, 25.6, 128 / 3], atol=0.6)
    assert found.label == 1
    task.draw_batch(tmp_path / "batch.png", x, targets)
    with Image.open(tmp_path / "batch.png") as drawn:
        assert np.asarray(drawn).std() > 5
