"""Cuts: where one shot of a video ends and the next begins."""

from __future__ import annotations

from collections import deque
from statistics import median

import cv2
import numpy as np

from stsa_lightning.media.shown_frame import Frame, thinned

_SIDE = 32  # frames are compared as pictures of 32 x 32
_NOISE = 4.0  # grey levels: differences within a flat picture that mean nothing
_LEAST = 1.5  # change of a cut; within shots up to 0.8 was seen, between two talking heads 2.1 and more 99 times in 100
_TIMES_USUAL = 6.0  # how far a cut stands out from the frames before it
_MEMORY = 12  # frames at 25/s that say what is usual


class CutDetector:
    """Finds hard cuts, frame by frame, in the order of one video.

    The change from a frame to the next is the product of three measures, each of which something other than a cut can
    raise, but seldom all: the difference of pixels (an arm that is waved), the share of pixels by which the colours
    differ as a whole (a lamp that is switched on), and the lack of correlation between the two pictures (a small shift
    of a fine pattern). A cut is a change that is large and many times that of the frames before.

    Dissolves are not found, nor cuts between two pictures that are nearly alike (within one take of one camera).
    """

    def __init__(self) -> None:
        self._before: _Picture | None = None
        self._changes: deque[float] = deque(maxlen=_MEMORY)

    def __call__(self, frame: Frame) -> bool:
        """(H, W, 3) uint8 RGB -> True for the first frame of a new shot; the video's first frame is none."""
        before, self._before = self._before, _Picture(frame)
        if before is None:
            return False
        change = self._before.change(before)
        usual = median(self._changes) if self._changes else 0.0
        cut = change > max(_LEAST, _TIMES_USUAL * usual)
        if cut:
            self._changes.clear()
        else:
            self._changes.append(change)
        return cut


class _Picture:
    """What is kept of a frame to compare the next one with."""

    def __init__(self, frame: Frame) -> None:
        # Large frames are thinned first: to average all of their pixels costs more than it is worth.
        thin = thinned(frame, 4 * _SIDE)
        self.pixels = cv2.resize(thin, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
        colours = cv2.calcHist([self.pixels], [0, 1, 2], None, [8, 8, 8], [0, 256] * 3)
        self.histogram = colours / _SIDE**2  # shares of 8 x 8 x 8 colours
        grey = cv2.cvtColor(self.pixels, cv2.COLOR_RGB2GRAY).astype(np.float32).ravel()
        self.grey = grey - grey.mean()
        self.variance = float(self.grey @ self.grey) / len(grey) + _NOISE**2

    def change(self, before: _Picture) -> float:
        difference = float(cv2.absdiff(self.pixels, before.pixels).mean())
        recoloured = float(np.abs(self.histogram - before.histogram).sum()) / 2
        covariance = float(self.grey @ before.grey) / len(self.grey) + _NOISE**2
        return difference * recoloured * (1 - covariance / (self.variance * before.variance) ** 0.5)
