from __future__ import annotations

import io
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection.ssd import SSD

from mobilevit.networks import (
    SSDLite,
    SSDLiteConfig,
    TimmFeatures,
    TorchvisionSSDLite,
    create_model,
)
from mobilevit.networks.inference import optimize
from mobilevit.tasks.detection.detector import Detector, Output, choose, choose_array, decode
from mobilevit.tasks.detection.matching import CODER
from peers import enliven


def network(classes: int = 3) -> SSDLite:
    made = SSDLite(
        create_model("mobilevit_xxs", num_classes=0), SSDLiteConfig(num_classes=classes + 1)
    )
    enliven(made)
    return made


def random_candidates(pictures: int, anchors: int, classes: int, likely: int) -> Tensor:
    """Boxes in clusters, of whose scores about ``likely`` of a picture exceed 0.01."""
    random = torch.Generator().manual_seed(likely)
    centre = torch.rand(pictures, 12, 2, generator=random)[:, torch.arange(anchors) % 12]
    centre = (centre + 0.06 * torch.randn(centre.shape, generator=random)).clamp(0.05, 0.95)
    half = 0.1 + 0.1 * torch.rand(pictures, anchors, 2, generator=random)
    corners = torch.cat((centre - half, centre + half), -1).clamp(0, 1)
    scores = torch.rand(pictures, anchors, classes, generator=random)
    chosen = torch.rand(scores.shape, generator=random) < likely / anchors / classes
    return torch.cat((corners, torch.where(chosen, 0.011 + 0.9 * scores, 0.009 * scores)), -1)


def authors_choice(candidates: np.ndarray) -> np.ndarray:
    """What the authors' code chooses on a picture: suppression in each class by brute force."""
    corners, scores = candidates[:, :4].astype(np.float64), candidates[:, 4:]
    kept = []
    for label in range(scores.shape[1]):
        score = scores[:, label]
        order = [i for i in np.argsort(-score) if score[i] > 0.01][:400]
        better: list[int] = []
        for i in order:
            if all(overlap(corners[i], corners[j]) <= 0.5 for j in better):
                better.append(i)
        kept += [(*corners[i], score[i], label) for i in better]
    return np.array(sorted(kept, key=lambda row: -row[4])[:200])


def overlap(one: np.ndarray, other: np.ndarray) -> float:
    sides = np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2])
    shared = np.prod(np.maximum(sides, 0))
    return float(shared / (np.prod(one[2:] - one[:2]) + np.prod(other[2:] - other[:2]) - shared))


@pytest.mark.parametrize(("classes", "likely"), [(1, 300), (3, 700), (80, 800), (3, 40)])
def test_what_is_chosen_above_a_hundredth_is_the_authors_choice(classes: int, likely: int) -> None:
    candidates = random_candidates(2, 600, classes, likely)
    found = choose(candidates).numpy()
    assert found.shape == (2, 200, 6)
    for rows, picture in zip(found, candidates.numpy(), strict=True):
        expected = authors_choice(picture)
        pairs = int((picture[:, 4:] > 0.01).sum())
        assert 10 < len(expected) < pairs < 1000
        rows = rows[rows[:, 4] > 0.01]
        assert len(rows) == len(expected)
        np.testing.assert_allclose(rows, expected, atol=1e-6)


def test_what_is_chosen_is_torchvisions_choice() -> None:
    """Of the decoded boxes too, with torchvision's own code from logits and offsets on."""
    torch.manual_seed(0)
    anchors = network().anchors((128, 128))
    logits, offsets = torch.randn(2, len(anchors), 4) * 2, torch.randn(2, len(anchors), 4)
    logits[..., 0] += 5
    theirs = SimpleNamespace(
        box_coder=CODER,
        score_thresh=0.01,
        topk_candidates=400,
        nms_thresh=0.5,
        detections_per_img=200,
    )
    outputs = {"bbox_regression": offsets, "cls_logits": logits}
    told = SSD.postprocess_detections(theirs, outputs, [anchors] * 2, [(1, 1)] * 2)
    for rows, expected in zip(choose(decode(logits, offsets, anchors)), told, strict=True):
        assert 20 < len(expected["boxes"]) <= 200
        rows = rows[rows[:, 4] > 0.01]
        torch.testing.assert_close(rows[:, :4], expected["boxes"], atol=1e-5, rtol=0)
        torch.testing.assert_close(rows[:, 4], expected["scores"], atol=1e-6, rtol=0)
        assert torch.equal(rows[:, 5], expected["labels"] - 1.0)


def test_boxes_are_decoded_as_they_were_encoded() -> None:
    torch.manual_seed(0)
    anchors = network().anchors((64, 64))
    offsets = torch.randn(2, len(anchors), 4) * 3
    offsets[0, :5] = torch.tensor([400.0, 400, 60, 60])  # far off, and grown beyond all measure
    found = decode(torch.zeros(2, len(anchors), 4), offsets, anchors)
    expected = torch.stack([CODER.decode_single(picture, anchors) for picture in offsets])
    torch.testing.assert_close(found[..., :4], expected.clamp(0, 1), atol=1e-5, rtol=0)
    torch.testing.assert_close(found[..., 4:], torch.full_like(found[..., 4:], 0.25))
    assert found.isfinite().all()


def test_few_anchors_give_as_many_rows_and_unused_ones_are_zero() -> None:
    candidates = torch.tensor([[[0.1, 0.1, 0.5, 0.5, 0.9, 0.3], [0.1, 0.1, 0.5, 0.48, 0.8, 0.7]]])
    found = choose(candidates)
    assert found.shape == (1, 200, 6)
    expected = torch.tensor([[0.1, 0.1, 0.5, 0.5, 0.9, 0], [0.1, 0.1, 0.5, 0.48, 0.7, 1]])
    torch.testing.assert_close(found[0, :2], expected)
    assert not found[0, 2:].any()


def test_arrays_are_chosen_from_like_tensors() -> None:
    candidates = random_candidates(1, 300, 3, 200)
    found = choose_array(candidates.numpy().astype(np.float64))
    assert found.dtype == np.float32
    assert np.array_equal(found, choose(candidates).numpy())


def make(kind: str) -> SSDLite | TorchvisionSSDLite:
    made: SSDLite | TorchvisionSSDLite
    if kind == "torchvision":
        made = TorchvisionSSDLite(4)
    elif kind == "timm":
        pytest.importorskip("timm")
        made = SSDLite(TimmFeatures("mobilenetv3_small_050"), SSDLiteConfig(num_classes=4))
    else:
        made = SSDLite(create_model(kind, num_classes=0), SSDLiteConfig(num_classes=4))
    enliven(made)
    for name, weight in made.named_parameters():  # so that rounding is not amplified
        if name.startswith("head") and weight.ndim == 4:
            weight.data.mul_(0.2)
    return made


@pytest.mark.parametrize("kind", ["mobilevit_xxs", "mobilevitv2_050", "timm", "torchvision"])
def test_the_inference_form_of_a_detector_gives_the_same(kind: str) -> None:
    detector = Detector(make(kind), (96, 128), "candidates").eval()
    x = torch.rand(2, 3, 96, 128)
    fast = optimize(detector)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fast.modules())
    with torch.no_grad():
        expected = detector(x)
    assert expected.std() > 0.1
    torch.testing.assert_close(fast(x), expected, atol=1e-4, rtol=0)


def test_anchors_stay_exact_in_bf16() -> None:
    detector = Detector(network(), (64, 64), "candidates").eval()
    half = optimize(detector, "bf16")
    assert torch.equal(half.network.anchors, detector.anchors)
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        expected = detector(x)
    found = half(x)
    assert found.dtype == torch.float32
    assert (found - expected).norm() / expected.norm() < 0.1


@pytest.mark.parametrize("output", ["candidates", "detections"])
def test_onnx_computes_the_same(output: Output) -> None:
    for module in ("onnx", "onnxscript"):
        pytest.importorskip(module)
    onnxruntime = pytest.importorskip("onnxruntime")
    detector = Detector(network(), (128, 128), output).eval()
    x = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    program = torch.onnx.export(detector, (x,), dynamo=True, opset_version=20, verbose=False)
    assert program is not None
    file = io.BytesIO()
    program.save(file)
    session = onnxruntime.InferenceSession(file.getvalue())
    (told,) = session.get_outputs()
    (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    with torch.no_grad():
        expected = detector(x).numpy()
    assert tuple(told.shape) == found.shape == expected.shape
    if output == "candidates":
        np.testing.assert_allclose(found, expected, atol=1e-4)
        return
    assert (np.diff(found[0, :, 4]) <= 0).all()
    for one, other in ((found[0], expected[0]), (expected[0], found[0])):
        sure = one[:195]  # the last few may change places with the next ones
        gaps = np.abs(sure[:, None] - other[None])  # where scores are all but equal, in any order
        assert gaps.max(2).min(1).max() < 1e-3
