"""Side by side: what was shown, what is true, what was generated, where they differ, and where the mouth is."""

from __future__ import annotations

import cv2
import numpy as np

from stsa_lightning.evaluation.clip_sample import ClipSample, Prediction
from stsa_lightning.face.heatmaps import draw_heatmap

COLUMNS = ("reference", "true", "generated", "difference", "heatmap")
FRAMES = 3
GAIN = 3  # differences are shown this much stronger


def strip(sample: ClipSample, generated: Prediction, ground_truth: Prediction, frames: int = FRAMES) -> np.ndarray:
    """Rows of `COLUMNS` at evenly spaced frames: (frames * S, 5 * S, 3) uint8.

    The difference is that of all channels, three times as strong. The heatmap shows the contours found: green in the
    generated face, red in the true one, yellow where they agree.
    """
    places = np.flatnonzero(sample.scored[sample.valid])
    chosen = places[((np.arange(frames) + 0.5) * len(places) / frames).astype(int)]
    numbers = np.flatnonzero(sample.valid)[chosen]
    rows = []
    for row, (place, number) in enumerate(zip(chosen, numbers, strict=True)):
        made, true = generated.faces[place], sample.ground_truth[place]
        reference = sample.references[row * len(sample.references) // frames]
        difference = cv2.convertScaleAbs(cv2.absdiff(made, true), alpha=GAIN)
        maps = contours(ground_truth.landmarks[number], generated.landmarks[number], made.shape[0])
        rows.append(np.concatenate([reference, true, made, difference, maps], axis=1))
    return np.concatenate(rows)


def contours(true: np.ndarray, generated: np.ndarray, size: int) -> np.ndarray:
    """Contours of (131, 2) landmarks in pixels of the crop, true in red over generated in green: (S, S, 3) uint8."""
    planes = [np.zeros((size, size), np.float32) for _ in range(3)]
    for plane, landmarks in zip(planes, (true, generated), strict=False):
        if np.isfinite(landmarks).all():
            plane += draw_heatmap(landmarks / size, "whole", size, sigma=size / 128)
    return (np.stack(planes, axis=-1) * 255).astype(np.uint8)
