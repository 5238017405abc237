"""A decoded frame as players show it: upright RGB of square pixels. The one way for all readers; and the way back."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast

import cv2
import numpy as np

if TYPE_CHECKING:
    from av import VideoFrame, VideoStream
    from av.sidedata.sidedata import SideData

BT709, BT601, BT2020 = 1, 5, 9  # colour matrices by the numbers of FFmpeg's scaler
LIMITED, FULL = 1, 2  # FFmpeg's numbers of the 16-235 range and of the 0-255 range
ACCURATE_RND = 0x40000  # FFmpeg's flag; PyAV has a name for it from version 18 on, which Python 3.10 does not get
HD_WIDTH, HD_HEIGHT = 1280, 720
_UNSAID = (0, 2, 3)  # FFmpeg's numbers for no, an unspecified and a reserved colour property
_MATRICES = {1: BT709, 4: 4, 5: BT601, 6: BT601, 7: 7, 9: BT2020, 10: BT2020}  # FFmpeg's number -> its scaler's
_WEIGHTS = {BT709: (0.2126, 0.0722), BT601: (0.299, 0.114), BT2020: (0.2627, 0.0593)}  # of red and blue in luma
_PLANAR = ("yuv420p", "yuvj420p", "yuv422p", "yuvj422p", "yuv444p", "yuvj444p")
_STRIP_PIXELS = 2**16
_RANGE_IN_THE_STREAM = ("h264", "hevc")  # grey without a word on its range is 16-235 by their standards
_SEE_THROUGH = ("gif", "apng", "webp", "png")  # alpha of other codecs is ignored, as players do
_WIDEST_ASPECT = 10  # a pixel that claims to be longer is taken for square
_LIMITED_TO_FULL = np.clip(np.round((np.arange(256) - 16) * 255 / 219), 0, 255).astype(np.uint8)


@dataclass(frozen=True)
class Colours:
    """How RGB is stored as YUV: `matrix` by the number of FFmpeg's scaler, `primaries` and `transfer` by FFmpeg's."""

    matrix: int = BT709
    primaries: int = 1
    transfer: int = 1

    @property
    def tag(self) -> int:
        """FFmpeg's number of the matrix, as a file states it."""
        return 6 if self.matrix == BT601 else self.matrix


def usual_matrix(width: int, height: int) -> int:
    """What players take for the colour matrix of a picture (stored size, pixels) that does not say."""
    return BT709 if width >= HD_WIDTH or height >= HD_HEIGHT else BT601


def usual_colours(width: int, height: int) -> Colours:
    """What players take for the colours of a picture (stored size, pixels) that does not say."""
    if usual_matrix(width, height) == BT709:
        return Colours()
    return Colours(BT601, 5 if height in (288, 576) else 6, 6)


class RGBConverter:
    """Turns the decoded frames of one stream into (height, width, 3) uint8 RGB as players show them.

    Pixels that are not square are made so by stretching the shorter side, which loses nothing; turns and mirrorings
    that the file asks for are done; the colour matrix and range are the stream's, or what players assume. HDR is not
    tone-mapped. Frames of another size than the first one's are fitted into it, with black beside them where their
    shape differs.

    Args:
        stream: where the frames come from.
        first: its first frame.

    Attributes:
        size: width and height, of all frames as shown.
        colours: those in which a result looks as the source does.
    """

    def __init__(self, stream: VideoStream | None, first: VideoFrame) -> None:
        from av.video.reformatter import Interpolation, VideoReformatter

        aspect = Fraction((stream.sample_aspect_ratio if stream is not None else None) or 1)
        if not Fraction(1, _WIDEST_ASPECT) <= aspect <= _WIDEST_ASPECT:
            aspect = Fraction(1)
        self._stretch = (max(aspect, Fraction(1)), max(1 / aspect, Fraction(1)))
        self._codec = stream.codec_context.name if stream is not None else ""
        self._box = self._stretched(first)
        self._turned, self._mirrored, self._upside_down = _orientation(first)
        self.size = self._box[::-1] if self._turned else self._box
        self.colours = _colours(stream, first, self.size)
        self._reformatter: Any = VideoReformatter()
        # Without the second flag the scaler is 0.7 to 1.8 levels too dark on average.
        self._scaling = int(Interpolation.BICUBIC) | ACCURATE_RND

    def is_plain(self, frame: VideoFrame) -> bool:
        """Whether other readers show such a frame so, too: upright, square pixels, 8 bits in 4:2:0, a stated matrix."""
        turned = self._turned or self._mirrored or self._upside_down
        known = frame.colorspace in _MATRICES or usual_matrix(frame.width, frame.height) == BT601
        limited = frame.color_range != FULL
        return frame.format.name == "yuv420p" and not turned and self._stretch == (1, 1) and known and limited

    def __call__(self, frame: VideoFrame) -> np.ndarray:
        """(height, width, 3) uint8 RGB, contiguous."""
        pixels = self._fitted(frame)
        if self._turned:
            pixels = pixels.transpose(1, 0, 2)
        pixels = pixels[:: -1 if self._upside_down else 1, :: -1 if self._mirrored else 1]
        return np.ascontiguousarray(pixels)

    def reads_parts(self, frame: VideoFrame) -> bool:
        """Whether `part` and `thinned` can be asked for, which are cheaper than the whole frame."""
        turned = self._turned or self._mirrored or self._upside_down
        return not turned and self._stretched(frame) == self._box and self._direct(frame, self._box) is not None

    def part(self, frame: VideoFrame, box: tuple[int, int, int, int], out: np.ndarray) -> None:
        """Columns x0 to x1 and rows y0 to y1 of a frame that `reads_parts`, into (y1 - y0, x1 - x0, 3) uint8 RGB.

        They begin and end between samples of chroma: at even numbers, or at the frame's edge.
        """
        matrix = self._direct(frame, self._box)
        assert matrix is not None
        _planar_rgb(_parts_of(_planes(frame), *box), matrix, out)

    def thinned(self, frame: VideoFrame, box: tuple[int, int, int, int], side: int) -> np.ndarray:
        """(side, side, 3): single rows and columns of a `part`, whose corners are even."""
        matrix = self._direct(frame, self._box)
        assert matrix is not None
        planes = (cv2.resize(p, (side, side), interpolation=cv2.INTER_NEAREST) for p in _parts_of(_planes(frame), *box))
        return cv2.transform(cv2.merge(list(planes)), matrix)

    def _stretched(self, frame: VideoFrame) -> tuple[int, int]:
        """Width and height of a frame with square pixels; a stretched side is even, for 4:2:0 colour."""
        sides = zip((frame.width, frame.height), self._stretch, strict=True)
        wide, high = (side if by == 1 else 2 * round(side * by / 2) for side, by in sides)
        return wide, high

    def _fitted(self, frame: VideoFrame) -> np.ndarray:
        wide, high = self._stretched(frame)
        scale = min(self._box[0] / wide, self._box[1] / high)
        inner = (round(wide * scale), round(high * scale))
        if max(self._box[0] - inner[0], self._box[1] - inner[1]) <= 2:  # rounding
            return self._rgb(frame, self._box)
        pixels = np.zeros((self._box[1], self._box[0], 3), np.uint8)
        x, y = (self._box[0] - inner[0]) // 2, (self._box[1] - inner[1]) // 2
        pixels[y : y + inner[1], x : x + inner[0]] = self._rgb(frame, inner)
        return pixels

    def _rgb(self, frame: VideoFrame, size: tuple[int, int]) -> np.ndarray:
        """The frame, not yet turned, at a width and height."""
        name, see_through = frame.format.name, self._codec in _SEE_THROUGH
        if name == "rgb24" and (frame.width, frame.height) == size:
            return frame.to_ndarray()
        direct = self._direct(frame, size)
        if direct is not None:
            out = np.empty((size[1], size[0], 3), np.uint8)
            _planar_rgb(_planes(frame), direct, out)
            return out
        limited, grey = self._limited(frame), name.startswith("gray")
        matrix = _MATRICES.get(frame.colorspace, usual_matrix(frame.width, frame.height))
        converted = self._reformatter.reformat(
            frame,
            *size,
            format="rgba" if see_through else "gbrp",
            src_colorspace=matrix,
            src_color_range=LIMITED if limited else FULL,
            dst_color_range=FULL,
            interpolation=self._scaling,
            threads=1,
        )
        if see_through:
            return on_white(converted.to_ndarray())
        green, blue, red = _planes(converted)
        pixels = cv2.merge([red, green, blue])
        return _LIMITED_TO_FULL[pixels] if grey and limited else pixels  # the scaler takes any grey for 0-255

    def _direct(self, frame: VideoFrame, size: tuple[int, int]) -> np.ndarray | None:
        """The matrix that makes RGB of the planes of a frame as they are; None where the scaler has to."""
        name = frame.format.name
        matrix = _MATRICES.get(frame.colorspace, usual_matrix(frame.width, frame.height))
        even = name.endswith("444p") or not (frame.width % 2 or frame.height % 2)
        if name in _PLANAR and matrix in _WEIGHTS and even and (frame.width, frame.height) == size:
            return _to_rgb(matrix, self._limited(frame))
        return None

    def _limited(self, frame: VideoFrame) -> bool:
        if frame.color_range in (LIMITED, FULL):
            return frame.color_range == LIMITED
        name = frame.format.name
        if name.startswith("gray"):
            return self._codec in _RANGE_IN_THE_STREAM
        stored_as_yuv = len(frame.format.components) >= 3 and not frame.format.is_rgb
        return stored_as_yuv and not name.startswith(("yuvj", "xyz"))


def _planes(frame: VideoFrame) -> list[np.ndarray]:
    """(height, width) uint8 each, not copied."""
    return [np.frombuffer(cast("Any", p), np.uint8).reshape(p.height, p.line_size)[:, : p.width] for p in frame.planes]


def _parts_of(planes: list[np.ndarray], left: int, top: int, right: int, bottom: int) -> list[np.ndarray]:
    """The same part of luma and of chroma, which may be stored at half the size."""
    height, width = planes[0].shape
    parts = []
    for plane in planes:
        down, across = height // plane.shape[0], width // plane.shape[1]
        parts.append(plane[top // down : -(-bottom // down), left // across : -(-right // across)])
    return parts


def _planar_rgb(planes: list[np.ndarray], matrix: np.ndarray, out: np.ndarray) -> None:
    """What most frames go through: within half a level, in less time than FFmpeg's scaler takes for that.

    Chroma is repeated, not interpolated: halved again when the frame is written, it is what it was. Strips of rows stay
    in the processor's cache, and OpenCV does not share out what is so small among threads.
    """
    luma, *chroma = planes
    height, width = luma.shape
    by = height // len(chroma[0])  # rows of luma to one of chroma
    rows = max(1, _STRIP_PIXELS // width)  # of chroma
    for top in range(0, len(chroma[0]), rows):
        bottom = min(top + rows, len(chroma[0]))
        wide = [_doubled(plane[top:bottom]) if plane.shape[1] < width else plane[top:bottom] for plane in chroma]
        for row in range(by):  # rows that share their chroma are as far apart as they are many
            strip = slice(top * by + row, bottom * by, by)
            cv2.transform(cv2.merge([luma[strip], *wide]), matrix, out[strip])


def _doubled(plane: np.ndarray) -> np.ndarray:
    """(h, w) -> (h, 2 w): every column twice."""
    return cv2.merge([plane, plane]).reshape(len(plane), -1)


@lru_cache
def _to_rgb(matrix: int, limited: bool) -> np.ndarray:
    """(3, 4) float32 from Y, U, V and 1, all of 8 bits, to R, G, B (ITU-T H.273, section 8.3)."""
    red, blue = _WEIGHTS[matrix]
    green = 1 - red - blue
    luma, chroma = (255 / 219, 255 / 224) if limited else (1.0, 1.0)
    of_v, of_u = 2 * (1 - red) * chroma, 2 * (1 - blue) * chroma
    rows = np.array([[luma, 0, of_v], [luma, -of_u * blue / green, -of_v * red / green], [luma, of_u, 0]])
    return np.hstack([rows, -rows @ [[16 if limited else 0], [128], [128]]]).astype(np.float32)


def stored_frame(pixels: np.ndarray, matrix: int) -> VideoFrame:
    """RGB as a file stores it, in limited range: `RGBConverter` back again, with half of FFmpeg's scaler's work.

    What came from 4:2:0 is what it was, but for the roundings of colours that RGB has no place for: each chroma is the
    mean of its pixels, as it was repeated in them.

    Args:
        pixels: (H, W, 3) uint8 RGB.
        matrix: see `Colours`.

    Returns:
        `yuv420p`, or `yuv444p` where a side is odd.
    """
    from av import VideoFrame

    height, width = pixels.shape[:2]
    by = 1 if height % 2 or width % 2 else 2
    frame = VideoFrame(width, height, "yuv420p" if by == 2 else "yuv444p")
    luma, *chroma = _planes(frame)
    rows = max(2, _STRIP_PIXELS // width // 2 * 2)
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        luma[top:bottom], *full = cv2.split(cv2.transform(pixels[top:bottom], _from_rgb(matrix)))
        for plane, values in zip(chroma, full, strict=True):
            size = (width // by, (bottom - top) // by)
            plane[top // by : bottom // by] = cv2.resize(values, size, interpolation=cv2.INTER_AREA)
    return frame


@lru_cache
def _from_rgb(matrix: int) -> np.ndarray:
    """(3, 4) float32 from R, G, B and 1 to Y, U, V in limited range: the inverse of `_to_rgb`."""
    whole = np.vstack([_to_rgb(matrix, True), [0, 0, 0, 1]])
    return np.linalg.inv(whole)[:3].astype(np.float32)


def on_white(rgba: np.ndarray) -> np.ndarray:
    """(H, W, 4) uint8 with straight alpha, laid on white as viewers do: (H, W, 3) uint8 RGB."""
    alpha = rgba[..., 3:].astype(np.float32) / 255
    return np.round(rgba[..., :3] * alpha + 255 * (1 - alpha)).astype(np.uint8)


def _orientation(frame: VideoFrame) -> tuple[bool, bool, bool]:
    """What makes a frame upright: rows and columns exchanged, then left and right, then above and below."""
    try:
        matrix = frame.side_data.get("DISPLAYMATRIX")
    except ValueError:  # beside it lies something that PyAV has no name for
        turned = round(frame.rotation / 90) % 4  # counterclockwise; mirroring is not stated
        return turned % 2 == 1, turned in (2, 3), turned in (1, 2)
    if matrix is None:
        return False, False, False
    a, b, _, c, d, *_ = struct.unpack("=9i", bytes(cast("SideData", matrix)))
    # A stored (x, y) is shown at (a x + c y, b x + d y).
    turned_ = abs(b) + abs(c) > abs(a) + abs(d)
    across, down = (c, b) if turned_ else (a, d)
    return turned_, across < 0, down < 0


def _colours(stream: VideoStream | None, first: VideoFrame, size: tuple[int, int]) -> Colours:
    """Those of a result of this size: what the source says of its primaries and transfer stays.

    The matrix is the one that players assume for the size, for some read no tags; BT.2020 alone has its own.
    """
    usual = usual_colours(*size)
    if stream is None or first.format.is_rgb:
        return Colours(usual.matrix)
    context = stream.codec_context
    primaries, transfer = int(context.color_primaries or 2), int(context.color_trc or 2)
    said = usual_colours(first.width, first.height)
    return Colours(
        BT2020 if _MATRICES.get(first.colorspace) == BT2020 else usual.matrix,
        said.primaries if primaries in _UNSAID else primaries,
        said.transfer if transfer in _UNSAID else transfer,
    )
