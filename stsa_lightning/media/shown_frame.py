"""A decoded frame of which no more is turned into RGB than is looked at: of a large one mostly the face alone."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from stsa_lightning.media.rgb_converter import RGBConverter

if TYPE_CHECKING:
    from av import VideoFrame

Crop = tuple[int, int, int, int]


class ShownFrame:
    """A frame as shown, read like an array (H, W, 3) uint8 RGB: `frame[y0:y1, x0:x1]`, `frame.shape`, `np.asarray`.

    What was read once is kept; nothing of it is to be written to.

    Args:
        frame: as decoded.
        converter: of its stream.
        crop: x, y, width, height in pixels of the upright frame; None: all of it.
    """

    dtype, ndim = np.dtype(np.uint8), 3

    def __init__(self, frame: VideoFrame, converter: RGBConverter, crop: Crop | None = None) -> None:
        self._frame: VideoFrame | None = frame
        self._converter = converter
        self._left, self._top, width, height = crop or (0, 0, *converter.size)
        self.shape = (height, width, 3)
        self._pixels: np.ndarray | None = None  # all of it, of which the known parts are filled
        self._room: np.ndarray | None = None  # what they lie in, which begins with a sample of chroma
        self._known: list[tuple[int, int, int, int]] = []

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if copy is False and dtype is not None and dtype != self.dtype:
            raise ValueError(f"a frame of {self.dtype} cannot be read as {dtype} without a copy")
        return self[:, :].astype(dtype or self.dtype, copy=bool(copy))  # NumPy 1 knows no `copy=None`

    def __getitem__(self, part: tuple[slice, slice]) -> np.ndarray:
        """(h, w, 3): rows and columns from slices of step 1."""
        (top, bottom, _), (left, right, _) = (
            wanted.indices(side) for wanted, side in zip(part, self.shape[:2], strict=True)
        )
        return self.showing(left, top, right, bottom)[top:bottom, left:right]

    def showing(self, x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
        """(H, W, 3), of which this part is the frame's; the rest may be anything."""
        if not any(a <= x0 and b <= y0 and x1 <= c and y1 <= d for a, b, c, d in self._known):
            if self._frame is None:
                raise IndexError(f"rows {y0}:{y1}, columns {x0}:{x1} of the frame were not kept")
            if self._converter.reads_parts(self._frame):
                self._convert(self._frame, (x0, y0, x1, y1))
            else:
                self._convert_all(self._frame)
        assert self._pixels is not None
        return self._pixels

    def _convert(self, frame: VideoFrame, box: Crop) -> None:
        (height, width, _), left, top = self.shape, self._left, self._top
        even_left, even_top = left & ~1, top & ~1  # where a sample of chroma begins
        if self._room is None:
            self._room = np.empty((top + height + 1 - even_top, left + width + 1 - even_left, 3), np.uint8)
            self._pixels = self._room[top - even_top :, left - even_left :][:height, :width]
        x0, y0 = left + box[0] & ~1, top + box[1] & ~1
        x1, y1 = min(left + box[2] + 1 & ~1, frame.width), min(top + box[3] + 1 & ~1, frame.height)
        out = self._room[y0 - even_top : y1 - even_top, x0 - even_left : x1 - even_left]
        self._converter.part(frame, (x0, y0, x1, y1), out)
        self._known.append((x0 - left, y0 - top, x1 - left, y1 - top))

    def _convert_all(self, frame: VideoFrame) -> None:
        (height, width, _), left, top = self.shape, self._left, self._top
        pixels = self._converter(frame)[top : top + height, left : left + width]
        self._pixels, self._known, self._frame = np.ascontiguousarray(pixels), [(0, 0, width, height)], None

    def keep(self, boxes: Iterable[Crop]) -> None:
        """Free all but some parts, x0, y0, x1, y1, which alone can be read from now on."""
        height, width, _ = self.shape
        pixels, known = np.empty(self.shape, np.uint8), []  # of memory that is not written to there is none
        for box in boxes:
            x0, y0, x1, y1 = (min(max(0, side), end) for side, end in zip(box, (width, height) * 2, strict=True))
            pixels[y0:y1, x0:x1] = self[y0:y1, x0:x1]
            known.append((x0, y0, x1, y1))
        self._pixels, self._known, self._room, self._frame = pixels, known, None, None

    def thinned(self, side: int) -> np.ndarray:
        """(side, side, 3): of rows and columns those that OpenCV's INTER_NEAREST takes."""
        box = (self._left, self._top, self._left + self.shape[1], self._top + self.shape[0])
        even = not any(corner % 2 for corner in box)
        if even and self._frame is not None and self._converter.reads_parts(self._frame):
            return self._converter.thinned(self._frame, box, side)
        return cv2.resize(np.asarray(self), (side, side), interpolation=cv2.INTER_NEAREST)


Frame = np.ndarray | ShownFrame


def showing(frame: Frame, box: tuple[int, int, int, int]) -> np.ndarray:
    """A frame as an array (H, W, 3), of which the part x0, y0, x1, y1 is right and the rest may be anything."""
    return frame.showing(*box) if isinstance(frame, ShownFrame) else frame


def thinned(frame: Frame, side: int) -> np.ndarray:
    """(H, W, 3) -> (side, side, 3) by leaving rows and columns out."""
    if isinstance(frame, ShownFrame):
        return frame.thinned(side)
    return cv2.resize(frame, (side, side), interpolation=cv2.INTER_NEAREST)
