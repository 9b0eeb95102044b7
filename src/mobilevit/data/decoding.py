"""From a file to an upright RGB picture, whatever the file holds."""

from __future__ import annotations

import struct
from pathlib import Path
from types import TracebackType
from typing import IO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, UnidentifiedImageError

from mobilevit.errors import UserError

EXTENSIONS = frozenset(
    (
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".jp2", ".j2k", ".png", ".apng", ".webp", ".avif"),
        *(".gif", ".bmp", ".dib", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm"),
    )
)
"""Endings, in lower case, of the files that count as pictures."""

FOREIGN = frozenset(
    (".heic", ".heif", ".dng", ".raw", ".cr2", ".cr3", ".nef", ".arw", ".psd", ".svg")
)
"""Endings, in lower case, of photos and drawings that are not read."""

# Only formats that Pillow decodes itself: an EPS under the name of a JPEG would start Ghostscript.
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "JPEG2000", "AVIF")

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ORIENTATION = 0x0112
_EXIF_KEYS = {"exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif"}


class PictureError(UserError):
    """A file cannot be read as a picture; the message is ``<file>: <reason>``."""


class Picture:
    """A picture file of which only the header is read until ``decode`` is called.

    Use it in a ``with`` statement, or call ``decode``: either closes the file.

    Args:
        path: the file.

    Attributes:
        path: the file.
        format: Pillow's name of the format, for example ``"JPEG"``.
        mode: Pillow's name of the pixels in the file, for example ``"CMYK"``.

    Raises:
        PictureError: when there is no such file, when it is no picture, or when it has more
            than twice ``PIL.Image.MAX_IMAGE_PIXELS`` pixels.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._size: tuple[int, int] | None = None
        self._open()
        self.format = self._image.format or ""
        self.mode = self._image.mode

    def __enter__(self) -> Picture:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def width(self) -> int:
        """Width in pixels of the upright picture."""
        return self._measure()[0]

    @property
    def height(self) -> int:
        """Height in pixels of the upright picture."""
        return self._measure()[1]

    @property
    def turned(self) -> bool:
        """Whether the picture lies on its side in the file, as its EXIF orientation tells."""
        self._measure()
        return self._orientation >= 5

    def decode(self, reduce: float = 1.0) -> Image.Image:
        """Read the pixels and close the file.

        Transparent pixels come out over white, the first frame stands for an animation, and
        16-bit grey is scaled to 8 bit.

        Args:
            reduce: how many times smaller the result may be, 1 or more. A JPEG is decoded at 1/2,
                1/4 or 1/8 of its size for less work, never below its size divided by ``reduce``;
                other formats come at their full size. 1 is exact.

        Returns:
            The upright picture, in RGB.

        Raises:
            PictureError: when the file is truncated or corrupt.
        """
        if self._file.closed:
            self._open()
        try:
            self._measure()
            image: Image.Image = self._image
            scale = next((scale for scale in (8, 4, 2) if scale <= reduce), 1)
            if scale > 1:
                width, height = self._image.size
                self._image.draft(None, (max(width // scale, 1), max(height // scale, 1)))
            image.load()
            image = _to_rgb(image)
            if self._orientation > 1:
                image = image.transpose(_UPRIGHT[self._orientation])
                for key in _EXIF_KEYS:  # lest it be turned once more
                    image.info.pop(key, None)
            return image
        except Exception as error:
            raise self._error(error) from error
        finally:
            self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _open(self) -> None:
        try:
            self._file = open(self.path, "rb")  # noqa: PTH123, SIM115
        except OSError as error:
            raise self._error(error) from error
        try:
            self._image = _identify(self._file, str(self.path))
        except Exception as error:
            self.close()
            raise self._error(error) from error

    def _measure(self) -> tuple[int, int]:
        if self._size is None:
            try:
                # A PNG may tell its orientation behind the pixels; Pillow turns a TIFF on loading.
                if self.format in ("PNG", "TIFF"):
                    self._image.load()
                self._orientation = _orientation(self._image)
            except Exception as error:
                self.close()
                raise self._error(error) from error
            width, height = self._image.size
            self._size = (height, width) if self._orientation >= 5 else (width, height)
        return self._size

    def _error(self, error: Exception) -> PictureError:
        """Name the file; a decoder may raise nearly every kind of exception."""
        if isinstance(error, PictureError):
            return error
        return PictureError(f"{self.path}: {_reason(error)}.")


def read_picture(path: str | Path) -> Image.Image:
    """Read a file as an upright RGB picture.

    Raises:
        PictureError: when it cannot be read.
    """
    return Picture(path).decode()


def _identify(file: IO[bytes], name: str) -> ImageFile.ImageFile:
    """Open a picture as ``Image.open`` does, with the formats above and without its warning.

    Silencing the warning about large pictures would change the filters of the whole process.
    """
    prefix = file.read(16)
    if not prefix:
        raise UserError("the file is empty")
    broken: Exception | None = None
    for register in (Image.preinit, Image.init):
        register()
        for format in _FORMATS:
            if format not in Image.OPEN:
                continue
            factory, accepts = Image.OPEN[format]
            try:
                verdict = not accepts or accepts(prefix)
            except (IndexError, struct.error):  # a file shorter than the mark it looks for
                verdict = False
            if isinstance(verdict, str):
                raise UserError(verdict)
            if verdict:
                file.seek(0)
                try:
                    image = factory(file, name)
                except (SyntaxError, IndexError, TypeError, struct.error) as error:
                    broken = error
                else:
                    _refuse_bomb(image.width * image.height)
                    return image
    if broken:
        raise UserError(f"its header is broken ({broken})") from broken
    if (ending := Path(name).suffix.lower()) in FOREIGN:
        raise UserError(f"{ending} is not read here, convert it to JPEG or PNG")
    raise UnidentifiedImageError(f"it is not a picture (it starts with {prefix!r})")


def _refuse_bomb(pixels: int) -> None:
    limit = 2 * Image.MAX_IMAGE_PIXELS if Image.MAX_IMAGE_PIXELS else pixels
    if pixels > limit:
        raise UserError(
            f"it has {pixels:,} pixels, more than the limit of {limit:,} that guards against "
            "decompression bombs. Make it smaller, or raise PIL.Image.MAX_IMAGE_PIXELS if you "
            "trust it"
        )


def _reason(error: Exception) -> str:
    """Return why a picture cannot be read, without the name of the file."""
    if isinstance(error, (UserError, UnidentifiedImageError)):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    if isinstance(error, MemoryError):
        return "there is too little memory to decode it"
    return f"it is truncated or corrupt ({error or type(error).__name__})"


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8; a broken EXIF block counts as 1."""
    if not image.info.keys() & _EXIF_KEYS:
        return 1
    try:
        orientation = image.getexif().get(_ORIENTATION, 1)
    except Exception:
        return 1
    return orientation if orientation in _UPRIGHT else 1


def _to_rgb(image: Image.Image) -> Image.Image:
    """Return a loaded picture in RGB, 8 bit, over white where it is transparent."""
    if image.mode.startswith(("I", "F")):
        return Image.fromarray(_to_bytes(image)).convert("RGB")
    if image.has_transparency_data:
        with_alpha = image.convert("RGBA")
        white = Image.new("RGB", image.size, "white")
        white.paste(with_alpha, mask=with_alpha.getchannel("A"))
        return white
    if image.mode == "LAB":
        from PIL import ImageCms

        lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        return ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB") or image
    return image if image.mode == "RGB" else image.convert("RGB")


def _to_bytes(image: Image.Image) -> NDArray[np.uint8]:
    """Scale grey of 16 or 32 bit, or of floating point, to 8 bit.

    0 to 65535 (integers), 0 to 1 and 0 to 255 (floats) are taken for the full range; values
    beyond them are stretched between the smallest and the largest.
    """
    values = np.asarray(image)  # (H, W)
    floating = values.dtype.kind == "f"
    values = np.nan_to_num(values.astype(np.float64), posinf=0, neginf=0)
    low, high = 0.0, float(values.max())
    if values.min() < 0:
        low = float(values.min())
    elif floating and high <= 255:
        high = 1.0 if high <= 1 else 255.0
    elif not floating and high <= 65535:
        high = 65535.0
    values = (values - low) * (255 / max(high - low, np.finfo(np.float64).tiny))
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        values[np.asarray(image) == transparent] = 255
    scaled: NDArray[np.uint8] = np.rint(values).astype(np.uint8)
    return scaled
