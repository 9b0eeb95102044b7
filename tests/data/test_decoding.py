from __future__ import annotations

import contextlib
import gc
import io
import pickle
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile, ImageOps, features

from mobilevit.data.decoding import EXTENSIONS, Picture, PictureError, read_picture

# Four flat quarters, so that a turn or a flip cannot go unseen: red, green / blue, grey.
QUARTERS = np.zeros((32, 64, 3), np.uint8)
QUARTERS[:16, :32] = (255, 0, 0)
QUARTERS[:16, 32:] = (0, 255, 0)
QUARTERS[16:, :32] = (0, 0, 255)
QUARTERS[16:, 32:] = (128, 128, 128)

# What a camera held that way stores, so that it shows the quarters: the inverse of the turn.
STORED = {
    1: QUARTERS,
    2: QUARTERS[:, ::-1],
    3: QUARTERS[::-1, ::-1],
    4: QUARTERS[::-1],
    5: QUARTERS.transpose(1, 0, 2),
    6: np.rot90(QUARTERS, 1),
    7: np.rot90(QUARTERS, 2).transpose(1, 0, 2),
    8: np.rot90(QUARTERS, -1),
}


def pixels(path: Path) -> np.ndarray:
    image = read_picture(path)
    assert image.mode == "RGB"
    return np.asarray(image)


def header(path: Path) -> tuple[tuple[int, int], str]:
    with Picture(path) as picture:
        return (picture.width, picture.height), picture.mode


def save(path: Path, array: np.ndarray | Image.Image, **options: object) -> Path:
    image = array if isinstance(array, Image.Image) else Image.fromarray(array)
    image.save(path, **options)
    return path


def exif(orientation: int) -> Image.Exif:
    block = Image.Exif()
    block[0x0112] = orientation
    return block


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "tif"])
def test_a_turned_picture_comes_out_upright(tmp_path, ending, orientation):
    lossless = {"jpg": {"quality": 100, "subsampling": 0}, "webp": {"lossless": True}}
    stored = np.ascontiguousarray(STORED[orientation])
    options = lossless.get(ending, {})
    path = save(tmp_path / f"a.{ending}", stored, exif=exif(orientation), **options)
    with Picture(path) as picture:
        assert (picture.width, picture.height) == (64, 32)
        image = picture.decode()
        assert np.abs(np.asarray(image).astype(int) - QUARTERS).max() <= 3
        assert np.array_equal(ImageOps.exif_transpose(image), image)
        assert (picture.width, picture.height) == (64, 32)


def test_orientation_from_xmp_and_from_behind_the_pixels_of_a_png(tmp_path):
    plain = save(tmp_path / "a.png", np.ascontiguousarray(STORED[6])).read_bytes()
    block = io.BytesIO()
    Image.new("L", (1, 1)).save(block, "PNG", exif=exif(6))
    start = block.getvalue().index(b"eXIf") - 4
    length = int.from_bytes(block.getvalue()[start : start + 4], "big")
    chunk = block.getvalue()[start : start + length + 12]
    end = plain.index(b"IEND") - 4
    late = tmp_path / "late.png"
    late.write_bytes(plain[:end] + chunk + plain[end:])
    assert header(late)[0] == (64, 32)
    assert np.array_equal(pixels(late), QUARTERS)

    tag = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf tiff:Orientation="6"/></x:xmpmeta>'
    path = save(tmp_path / "x.webp", np.ascontiguousarray(STORED[6]), lossless=True, xmp=tag)
    assert np.array_equal(pixels(path), QUARTERS)


@pytest.mark.parametrize("value", [0, 9, 4711])
def test_an_orientation_that_does_not_exist_means_upright(tmp_path, value):
    path = save(tmp_path / "a.png", QUARTERS, exif=exif(value))
    assert np.array_equal(pixels(path), QUARTERS)


def test_a_broken_exif_block_does_not_cost_the_picture(tmp_path):
    path = save(tmp_path / "a.png", QUARTERS, exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12")
    assert np.array_equal(pixels(path), QUARTERS)


@pytest.mark.parametrize(
    ("mode", "value", "expected"),
    [
        ("1", 1, (255, 255, 255)),
        ("L", 77, (77, 77, 77)),
        ("LA", (100, 255), (100, 100, 100)),
        ("LA", (100, 0), (255, 255, 255)),
        ("RGBA", (10, 20, 30, 255), (10, 20, 30)),
        ("RGBA", (10, 20, 30, 0), (255, 255, 255)),
        ("RGBA", (255, 0, 0, 128), (255, 127, 127)),
        ("I;16", 257 * 91, (91, 91, 91)),
        ("I;16", 65535, (255, 255, 255)),
    ],
)
def test_png_modes(tmp_path, mode, value, expected):
    path = save(tmp_path / "a.png", Image.new(mode, (5, 3), value))
    assert pixels(path).shape == (3, 5, 3)
    assert (pixels(path) == expected).all()


def test_palettes(tmp_path):
    image = Image.new("P", (4, 4), 1)
    image.putpalette([255, 0, 0, 10, 20, 30, 0, 0, 255])
    image.putpixel((0, 0), 0)
    opaque = save(tmp_path / "opaque.png", image)
    assert pixels(opaque)[0, 0].tolist() == [255, 0, 0]
    assert pixels(opaque)[1, 1].tolist() == [10, 20, 30]
    by_index = save(tmp_path / "index.png", image, transparency=0)
    assert pixels(by_index)[0, 0].tolist() == [255, 255, 255]
    assert pixels(by_index)[1, 1].tolist() == [10, 20, 30]
    by_alpha = save(tmp_path / "alpha.png", image, transparency=bytes([255, 0, 255]))
    assert pixels(by_alpha)[0, 0].tolist() == [255, 0, 0]
    assert pixels(by_alpha)[1, 1].tolist() == [255, 255, 255]


@pytest.mark.parametrize(
    ("array", "transparency"),
    [
        (np.array([[[1, 2, 3], [9, 9, 9]]], np.uint8), (1, 2, 3)),
        (np.array([[7, 9]], np.uint8), 7),
        (np.array([[500, 257 * 9]], np.uint16), 500),
    ],
)
def test_one_transparent_colour_of_a_png(tmp_path, array, transparency):
    path = save(tmp_path / "a.png", array, transparency=transparency)
    assert pixels(path).tolist() == [[[255, 255, 255], [9, 9, 9]]]


def test_16_bit_grey_is_scaled_not_clipped(tmp_path):
    ramp = np.arange(256, dtype=np.uint16).reshape(16, 16) * 257
    expected = np.repeat((ramp // 257).astype(np.uint8)[..., None], 3, axis=2)
    assert np.array_equal(pixels(save(tmp_path / "a.png", ramp)), expected)
    assert np.array_equal(pixels(save(tmp_path / "a.tif", ramp)), expected)
    (tmp_path / "big.pgm").write_bytes(b"P5 16 16 65535\n" + ramp.astype(">u2").tobytes())
    assert np.array_equal(pixels(tmp_path / "big.pgm"), expected)
    save(tmp_path / "big.tif", Image.frombytes("I;16B", (16, 16), ramp.astype(">u2").tobytes()))
    assert np.array_equal(pixels(tmp_path / "big.tif"), expected)
    assert np.array_equal(pixels(save(tmp_path / "i.tif", ramp.astype(np.int32))), expected)


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ([0.0, 0.2, 1.0], [0, 51, 255]),
        ([0.0, 51.0, 255.0], [0, 51, 255]),
        ([0.0, 0.0, 0.0], [0, 0, 0]),
        ([-1.0, 0.0, 4.0], [0, 51, 255]),
        ([0.0, np.nan, 1.0], [0, 0, 255]),
        ([0.0, 1000.0, 5000.0], [0, 51, 255]),
    ],
)
def test_floating_point(tmp_path, row, expected):
    path = save(tmp_path / "a.tif", np.array([row], np.float32))
    assert pixels(path)[0, :, 0].tolist() == expected


def test_wide_integers_are_stretched(tmp_path):
    path = save(tmp_path / "a.tif", np.array([[0, 200_000, 1_000_000]], np.int32))
    assert pixels(path)[0, :, 1].tolist() == [0, 51, 255]


@pytest.mark.parametrize("ending", ["jpg", "tif"])
@pytest.mark.parametrize(
    ("ink", "expected"),
    [
        ((0, 0, 0, 0), (255, 255, 255)),
        ((255, 0, 0, 0), (0, 255, 255)),
        ((0, 255, 255, 0), (255, 0, 0)),
        ((0, 0, 0, 255), (0, 0, 0)),
    ],
)
def test_cmyk(tmp_path, ending, ink, expected):
    path = save(tmp_path / f"a.{ending}", Image.new("CMYK", (16, 16), ink))
    assert header(path)[1] == "CMYK"
    assert np.abs(pixels(path).astype(int) - expected).max() <= 3


def test_ycck_jpeg_of_adobe(tmp_path):
    """The same planes, declared as YCCK: luma and neutral chroma give equal inks."""
    data = bytearray(
        save(tmp_path / "a.jpg", Image.new("CMYK", (16, 16), (55, 127, 127, 0))).read_bytes()
    )
    flag = data.index(b"Adobe") + 11
    assert data[flag] == 0
    data[flag] = 2
    (tmp_path / "ycck.jpg").write_bytes(data)
    assert np.abs(pixels(tmp_path / "ycck.jpg").astype(int) - 55).max() <= 3


@pytest.mark.skipif(not features.check("littlecms2"), reason="Pillow is built without littlecms")
@pytest.mark.parametrize(
    ("lab", "expected"),
    [
        ((255, 128, 128), (255, 255, 255)),
        ((0, 128, 128), (0, 0, 0)),
        ((138, 209, 198), (255, 0, 0)),
    ],
)
def test_lab(tmp_path, lab, expected):
    path = save(tmp_path / "a.tif", Image.new("LAB", (4, 4), lab))
    assert header(path)[1] == "LAB"
    # L*a*b* in 8 bit is coarse: red comes back as (251, 5, 4).
    assert np.abs(pixels(path).astype(int) - expected).max() <= 5


def test_the_first_frame_of_an_animation(tmp_path):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    for ending in ("gif", "png", "webp", "tif"):
        path = tmp_path / f"a.{ending}"
        options = {"lossless": True} if ending == "webp" else {}
        frames[0].save(path, save_all=True, append_images=frames[1:], **options)
        assert (pixels(path) == (255, 0, 0)).all(), ending


@pytest.mark.parametrize("ending", ["jp2", "avif", "ppm", "bmp", "mpo"])
def test_rarer_formats(tmp_path, ending):
    if ending == "avif" and not features.check("avif"):
        pytest.skip("Pillow is built without AVIF")
    options = {"jp2": {"irreversible": False}, "avif": {"quality": 100, "subsampling": "4:4:4"}}
    more = {"save_all": True, "append_images": [Image.new("RGB", (64, 32))], "quality": 100}
    path = save(
        tmp_path / f"a.{ending}",
        QUARTERS,
        **options.get(ending, {}),
        **(more if ending == "mpo" else {}),
    )
    path = path.rename(tmp_path / "renamed.jpg")
    inner = np.abs(pixels(path).astype(int) - QUARTERS)[2:14, 2:30]
    assert inner.max() <= 6
    assert header(path)[0] == (64, 32)


def test_a_jpeg_is_decoded_smaller_but_never_too_small(tmp_path):
    path = save(tmp_path / "a.jpg", Image.new("RGB", (1001, 603), "teal"), exif=exif(6))
    sizes = {}
    for reduce in (1, 1.9, 2, 3.5, 4, 7.9, 8, 100):
        with Picture(path) as picture:
            image = picture.decode(reduce)
            assert (picture.width, picture.height) == (603, 1001)
        assert image.width >= 603 / reduce
        assert image.height >= 1001 / reduce
        sizes[reduce] = image.size
    assert sizes[1] == sizes[1.9] == (603, 1001)
    assert sizes[2] == sizes[3.5] == (302, 501)
    assert sizes[4] == sizes[7.9] == (151, 251)
    assert sizes[8] == sizes[100] == (76, 126)


def test_other_formats_keep_their_size_and_thin_jpegs_survive(tmp_path):
    png = save(tmp_path / "a.png", QUARTERS)
    assert np.array_equal(np.asarray(Picture(png).decode(8)), QUARTERS)
    thin = save(tmp_path / "thin.jpg", Image.new("RGB", (3, 200)))
    assert Picture(thin).decode(8).height >= 25


def test_decoding_twice_gives_the_same(tmp_path):
    picture = Picture(save(tmp_path / "a.jpg", QUARTERS))
    assert picture.decode(2).size == (32, 16)
    assert picture.decode().size == (64, 32)


def test_real_photos_are_what_pillow_reads(shared_data):
    paths = sorted((shared_data / "coco" / "val2017").glob("*.jpg"))[:20]
    assert paths
    for path in paths:
        with Image.open(path) as image:
            assert np.array_equal(pixels(path), np.asarray(image.convert("RGB")))
            assert "exif" not in image.info


def broken(tmp_path: Path, kind: str) -> Path:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    path = tmp_path / f"{kind}.jpg"
    ending = kind.rpartition(" ")[2]
    if kind == "empty":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("<!DOCTYPE html><html>404 not found</html>")
    elif kind == "note":
        path.write_text("hi\n")
    elif kind.startswith("photo"):
        path = tmp_path / f"x.{ending}"
        path.write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    elif kind == "folder":
        path.mkdir()
    elif kind == "postscript":
        path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n")
    elif kind.startswith("half"):
        data = save(tmp_path / f"whole.{ending}", noise).read_bytes()
        path.write_bytes(data[: len(data) // 2])
    elif kind.startswith("header"):
        path.write_bytes(save(tmp_path / f"whole.{ending}", noise).read_bytes()[:20])
    return path


@pytest.mark.parametrize(
    ("kind", "cause"),
    [
        ("missing", "no such file"),
        ("empty", "empty"),
        ("text", "not a picture"),
        ("note", "not a picture"),
        ("photo HEIC", r"\.heic is not read here, convert it to JPEG or PNG"),
        ("folder", "directory"),
        ("postscript", "not a picture"),
        *(
            (f"{part} {ending}", "truncated|corrupt|broken|not a picture")
            for part in ("half", "header")
            for ending in ("jpg", "png", "webp", "bmp", "tif", "gif")
        ),
    ],
)
def test_what_cannot_be_read_is_named_with_its_cause(tmp_path, kind, cause):
    path = broken(tmp_path, kind)
    for reduce in (1, 8):
        with pytest.raises(PictureError, match=cause) as caught:
            Picture(path).decode(reduce)
        assert str(caught.value).startswith(f"{path}: ")
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_corrupt_bytes_never_raise_anything_else(tmp_path):
    random = np.random.default_rng(1)
    noise = random.integers(0, 256, (40, 40, 3), np.uint8)
    path = tmp_path / "a"
    for ending in ("jpg", "png", "gif", "tif", "webp", "bmp", "ppm"):
        whole = save(tmp_path / f"whole.{ending}", noise).read_bytes()
        for _ in range(60):
            data = bytearray(whole)
            for place in random.integers(0, min(len(data), 600), 4):
                data[place] = random.integers(0, 256)
            path.write_bytes(data)
            with contextlib.suppress(PictureError):
                assert read_picture(path).mode == "RGB"


def test_a_decompression_bomb_is_refused_and_a_large_picture_read_in_silence(tmp_path, monkeypatch):
    path = save(tmp_path / "a.png", Image.new("RGB", (100, 100)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 5_000)
        assert read_picture(path).size == (100, 100)
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4_999)
        with pytest.raises(PictureError, match=r"10,000 pixels.* 9,998 ") as caught:
            Picture(path)
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
        assert read_picture(path).size == (100, 100)
    assert str(path) in str(caught.value)


@pytest.mark.filterwarnings("error")
def test_files_are_closed_and_nothing_global_changes(tmp_path):
    paths = [save(tmp_path / f"a.{ending}", QUARTERS) for ending in ("jpg", "png", "gif", "tif")]
    before = (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, list(warnings.filters))
    for path in [*paths, broken(tmp_path, "half jpg"), broken(tmp_path, "text")]:
        try:
            picture = Picture(path)
            picture.decode()
        except PictureError:
            pass
        path.unlink()
    with Picture(save(tmp_path / "b.png", QUARTERS)) as picture:
        assert picture.width == 64
    gc.collect()
    after = (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, list(warnings.filters))
    assert before == after


def test_threads_read_the_same(tmp_path):
    paths = [
        save(tmp_path / f"{index}.png", Image.new("L", (20, 20), index)) for index in range(40)
    ]
    with ThreadPoolExecutor(8) as pool:
        values = [image.getpixel((3, 3))[0] for image in pool.map(read_picture, paths)]
    assert values == list(range(40))


def test_every_ending_is_one_that_pillow_opens():
    known = Image.registered_extensions()
    assert {ending for ending in EXTENSIONS if ending not in known} <= {".avif"}
