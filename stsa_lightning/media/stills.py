"""Still pictures, and animated WebP and AVIF, as viewers show them (Pillow)."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from stsa_lightning.media.container import VideoError
from stsa_lightning.media.rgb_converter import on_white

if TYPE_CHECKING:
    from PIL.Image import Image

_FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "HEIF", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "ICO", "SGI")
_ANIMATED = ("WEBP", "AVIF", "GIF")
_VIDEO = ("PNG", "GIF")  # FFmpeg's, where they hold more than one frame, and a GIF says when each is shown
_STREAMS = (".mjpg", ".mjpeg")  # JPEG pictures end to end: a video
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1")
_ORIENTATION, _PHOTOMETRIC, _YCBCR, _COMPRESSION, _UNCOMPRESSED = 274, 262, 6, 259, 1  # of TIFF
_DEFAULT_MS, _GIF_MS = 40, 100  # of a frame that does not say how long it is shown


class Still:
    """A file that Pillow reads: a picture of one frame, or an animated WebP or AVIF; a context manager.

    Attributes:
        frames: how many.

    Raises:
        VideoError: it is damaged, too large, or HEIC without the package that reads it.
    """

    def __init__(self, path: Path, image: Image) -> None:
        self.path, self._image = path, image
        self.frames = int(getattr(image, "n_frames", 1)) if image.format in _ANIMATED else 1
        self._default_ms = _GIF_MS if image.format == "GIF" and self.frames > 1 else _DEFAULT_MS

    def __iter__(self) -> Iterator[tuple[int, np.ndarray]]:
        """When each frame is shown, milliseconds from 0, and its (H, W, 3) uint8 RGB."""
        time_ms = 0
        for number in range(self.frames):
            try:
                self._image.seek(number)
                image = _with_pixels(self._image, self.path)
                yield time_ms, _upright(image)
            except VideoError:
                raise
            except (OSError, SyntaxError, ValueError, EOFError) as error:
                raise VideoError(f"{self.path}: cannot be read as a picture; is it damaged, or cut short?") from error
            time_ms += int(self._image.info.get("duration") or 0) or self._default_ms

    @property
    def duration_ms(self) -> int:
        """How long it runs; one frame of 25 a second where it is a still."""
        times = [0]
        for number in range(self.frames if self.frames > 1 else 0):
            self._image.seek(number)
            self._image.load()
            times.append(int(self._image.info.get("duration") or 0) or self._default_ms)
        return sum(times) or self._default_ms

    def close(self) -> None:
        self._image.close()


def open_still(path: Path) -> Still | None:
    """The picture in a file; None where there is something else in it, such as a video.

    Raises:
        VideoError: see `Still`.
    """
    from PIL import Image, UnidentifiedImageError

    if path.suffix.lower() in _STREAMS:
        return None
    with open(path, "rb") as file:
        head = file.read(16)
    if head[4:8] == b"ftyp" and head[8:12] in _HEIF_BRANDS:
        _can_read_heif(path)
    formats = ("TGA",) if path.suffix.lower() == ".tga" else _FORMATS  # TGA has no mark of its own
    Image.init()  # makes known what this build of Pillow reads
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # it is the user's own picture
            image: Any = Image.open(path, formats=[name for name in formats if name in Image.OPEN])
    except UnidentifiedImageError:
        return None
    except Image.DecompressionBombError as error:
        most = 2 * (Image.MAX_IMAGE_PIXELS or 0) // 10**6
        raise VideoError(f"{path}: is a picture of more than {most} million pixels; scale it down") from error
    except (OSError, SyntaxError, ValueError) as error:
        raise VideoError(f"{path}: cannot be read as a picture; is it damaged, or cut short?") from error
    timed = image.format != "GIF" or "duration" in image.info  # FFmpeg shows one frame of a GIF without times
    if image.format in _VIDEO and timed and getattr(image, "is_animated", False):
        image.close()
        return None
    return Still(path, image)


def _can_read_heif(path: Path) -> None:
    try:
        from pi_heif import register_heif_opener
    except ImportError as error:
        raise VideoError(
            f"{path}: reading HEIC pictures needs a package: pip install 'stsa_lightning[heif]'; or save it as JPEG"
        ) from error
    register_heif_opener()


def _with_pixels(image: Image, path: Path) -> Image:
    """The picture, read; by OpenCV where Pillow takes one kind of pixels for another."""
    from PIL import Image as Pictures

    tags = getattr(image, "tag_v2", {})
    if (tags.get(_PHOTOMETRIC), tags.get(_COMPRESSION)) != (_YCBCR, _UNCOMPRESSED):
        image.load()
        return image
    if tags.get(_ORIENTATION, 1) != 1:  # which OpenCV heeds by half
        raise VideoError(f"{path}: is a TIFF of uncompressed YCbCr that is stored turned; save it as PNG or JPEG")
    pixels = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)
    if pixels is None:
        raise OSError("its pixels end early")
    found = Pictures.fromarray(pixels[..., ::-1])
    found.info = image.info
    return found


def _upright(image: Image) -> np.ndarray:
    """(H, W, 3) uint8 RGB in sRGB, turned as its EXIF entry says, on white where it is transparent."""
    from PIL import ImageOps

    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I") or image.mode == "F":
        return _deep_grey(image)
    transparent = image.has_transparency_data
    image = _in_srgb(image)
    if not transparent:
        return np.asarray(image.convert("RGB"))
    return on_white(np.asarray(image.convert("RGBA")))


def _deep_grey(image: Image) -> np.ndarray:
    """Grey of 16 bits, or of floats from 0 to 1."""
    values = np.asarray(image).astype(np.float32)
    grey = values * 255 if image.mode == "F" else values / 257
    return np.repeat(np.clip(np.round(np.nan_to_num(grey)), 0, 255).astype(np.uint8)[..., None], 3, axis=-1)


def _in_srgb(image: Image) -> Image:
    """Colours by the profile that the picture carries, if any."""
    from PIL import ImageCms

    profile = image.info.get("icc_profile")
    if not profile or image.mode not in ("RGB", "RGBA", "CMYK", "L"):
        return image
    mode = "RGBA" if image.mode == "RGBA" else "RGB"
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode=mode)
    except (ImageCms.PyCMSError, OSError):  # a broken profile, or one for another kind of picture: as without
        return image
    return converted if converted is not None else image
