"""Metrics that look through a large network: SyncNet, identity."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import cv2
import numpy as np

from stsa_lightning.evaluation.clip_result import View
from stsa_lightning.evaluation.metrics.columns import Figure, NotMeasuredError
from stsa_lightning.metrics.sync import PADDING_VALUE, SyncMeter, crop_tracked, tracked_boxes
from stsa_lightning.models.syncnet import PICTURE_PX, SyncNet

BLOCK = 32


class LipSync:
    """LSE-D, LSE-C and offset of SyncNet.

    Where whole frames exist, they are seen in the named variant. Of prepared clips only the faces are kept: the
    tracked crop is then put together from the face in its place, on the grey that stands for "outside the picture".
    """

    def __init__(self, network: SyncNet, variant: Literal["tracked", "lrs"]) -> None:
        self.network, self.variant = network, variant

    def __call__(self, view: View) -> dict[str, Figure]:
        if view.wave is None:
            raise NotMeasuredError("there is no sound")
        meter = SyncMeter(self.network, self.variant)
        for block in self._blocks(view):
            meter.update(block)
        score = meter.finish(view.wave)
        return {
            "lse_d": Figure(score.lse_d, 1),
            "lse_c": Figure(score.lse_c, 1),
            "offset": Figure(float(score.offset), 1),
        }

    def _blocks(self, view: View) -> Iterator[np.ndarray]:
        if view.answer in view.case.frames:
            return self._of_frames(view)
        if view.case.frames:
            raise NotMeasuredError("no whole frames of this answer")
        if self.variant == "lrs":
            raise NotMeasuredError("the lrs variant needs whole frames: evaluate the dubbed videos")
        return self._of_faces(view)

    def _of_frames(self, view: View) -> Iterator[np.ndarray]:
        squares = _squares(view) if self.variant == "tracked" else None
        start = 0
        for block in view.case.frames[view.answer]():
            if squares is not None:
                block = block[: len(squares) - start]
                part = slice(start, start + len(block))
                degrees = view.case.degrees
                block = crop_tracked(block, squares[part], None if degrees is None else degrees[view.clock[part]])
            start += len(block)
            yield block

    def _of_faces(self, view: View) -> Iterator[np.ndarray]:
        squares, case = _squares(view), view.case
        known = np.flatnonzero(case.valid)
        nearest = np.abs(known[None] - view.clock[:, None]).argmin(1)  # (ticks,) places among the n faces
        for start in range(0, len(nearest), BLOCK):
            places = nearest[start : start + BLOCK]
            yield np.stack(
                [
                    _on_grey(view.faces[place], case.boxes[known[place]], square)
                    for place, square in zip(places, squares[start : start + BLOCK], strict=True)
                ]
            )


def _squares(view: View) -> np.ndarray:
    boxes = np.where(view.case.valid[:, None], view.case.boxes.astype(np.float64), np.nan)
    return tracked_boxes(boxes[view.clock])


def _on_grey(face: np.ndarray, box: np.ndarray, square: np.ndarray) -> np.ndarray:
    """A face in its place within the tracked square: (224, 224, 3) uint8."""
    canvas = np.full((PICTURE_PX, PICTURE_PX, 3), PADDING_VALUE, np.uint8)
    scale = PICTURE_PX / (square[2] - square[0])
    x0, y0, x1, y1 = (round(float(v)) for v in (box - np.tile(square[:2], 2)) * scale)
    picture = cv2.resize(face, (max(1, x1 - x0), max(1, y1 - y0)), interpolation=cv2.INTER_AREA)
    left, top = max(x0, 0), max(y0, 0)
    shown = picture[top - y0 : PICTURE_PX - y0, left - x0 : PICTURE_PX - x0]
    canvas[top : top + shown.shape[0], left : left + shown.shape[1]] = shown
    return canvas


def _found(view: View) -> list[int]:
    return np.flatnonzero(view.case.scored & np.isfinite(view.landmarks).all(axis=(1, 2))).tolist()
