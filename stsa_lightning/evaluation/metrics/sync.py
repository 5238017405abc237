"""LSE-D, LSE-C and offset of SyncNet."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import cv2
import numpy as np

from stsa_lightning.evaluation.clip_sample import Prediction
from stsa_lightning.evaluation.metrics.columns import MetricValue, NotMeasuredError
from stsa_lightning.metrics.sync import PADDING_VALUE, SyncMeter, SyncScores, crop_tracked, tracked_boxes
from stsa_lightning.models.syncnet import PICTURE_PX, SyncNet

BLOCK = 32


class LipSync:
    """LSE-D, LSE-C and offset of SyncNet.

    Whole frames are cropped as `variant` says. Prepared clips hold faces alone: the tracked crop is then composed of
    the face in its place, on the grey that pads crops beyond the picture.
    """

    def __init__(self, network: SyncNet, variant: Literal["tracked", "lrs"]) -> None:
        self.network, self.variant = network, variant

    def __call__(self, prediction: Prediction) -> dict[str, MetricValue]:
        if prediction.wave is None:
            raise NotMeasuredError("there is no sound")
        meter, scores = SyncMeter(self.network, self.variant), SyncScores(sync_on_compute=False)
        for block in self._blocks(prediction):
            meter.update(block)
        score = meter.finish(prediction.wave)
        scores.update(score)
        means = scores.compute()
        lse = {name: MetricValue(float(means[name]), 1) for name in ("lse_d", "lse_c")}
        return lse | {"offset": MetricValue(float(score.offset), 1)}

    def _blocks(self, prediction: Prediction) -> Iterator[np.ndarray]:
        if prediction.method in prediction.sample.frames:
            return self._of_frames(prediction)
        if prediction.sample.frames:
            raise NotMeasuredError("no whole frames of this method")
        if self.variant == "lrs":
            raise NotMeasuredError("the lrs variant needs whole frames: evaluate the dubbed videos")
        return self._of_faces(prediction)

    def _of_frames(self, prediction: Prediction) -> Iterator[np.ndarray]:
        squares = _squares(prediction) if self.variant == "tracked" else None
        start = 0
        for block in prediction.sample.frames[prediction.method]():
            if squares is not None:
                block = block[: len(squares) - start]
                part = slice(start, start + len(block))
                degrees = prediction.sample.degrees
                block = crop_tracked(block, squares[part], None if degrees is None else degrees[prediction.clock[part]])
            start += len(block)
            yield block

    def _of_faces(self, prediction: Prediction) -> Iterator[np.ndarray]:
        squares, sample = _squares(prediction), prediction.sample
        known = np.flatnonzero(sample.valid)
        nearest = np.abs(known[None] - prediction.clock[:, None]).argmin(1)  # (ticks,) places among the n faces
        for start in range(0, len(nearest), BLOCK):
            places = nearest[start : start + BLOCK]
            yield np.stack(
                [
                    _on_grey(prediction.faces[place], sample.boxes[known[place]], square)
                    for place, square in zip(places, squares[start : start + BLOCK], strict=True)
                ]
            )


def _squares(prediction: Prediction) -> np.ndarray:
    boxes = np.where(prediction.sample.valid[:, None], prediction.sample.boxes.astype(np.float64), np.nan)
    return tracked_boxes(boxes[prediction.clock])


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
