"""Metrics of landmarks: position and movement of the mouth, steadiness, and movement with the audio."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from stsa_lightning.evaluation.clip_sample import Prediction
from stsa_lightning.evaluation.metrics.columns import MetricValue, NotMeasuredError
from stsa_lightning.face.heatmaps import inner_lip_aperture
from stsa_lightning.face.topology import MOUTH, positions
from stsa_lightning.metrics.landmarks import (
    LandmarkDistance,
    inter_ocular_distance,
    lip_aperture_amplitude,
    lip_aperture_correlation,
)
from stsa_lightning.metrics.mouth_sync import CLEAR_CONFIDENCE, lip_aperture_sync
from stsa_lightning.metrics.stability import Jitter, SilenceLeak

LEFT_EYE, RIGHT_EYE = positions([362, 263]).tolist(), positions([33, 133]).tolist()


def landmark_distances(prediction: Prediction) -> dict[str, MetricValue]:
    """LMD in pixels of the crop, in per cent of the inter-ocular distance, and in the L1 variant."""
    scored = int(prediction.sample.scored.sum())
    l2, normalised = _distance(prediction, scored)
    return {"lmd": l2, "lmd_normalised": normalised, "lmd_vico": _distance(prediction, scored, norm="l1")[0]}


def landmark_velocities(prediction: Prediction) -> dict[str, MetricValue]:
    """LMV: the landmark distance of frame-to-frame differences."""
    scored = prediction.sample.scored
    lmv, normalised = _distance(prediction, int((scored[1:] & scored[:-1]).sum()), motion=True)
    return {"lmv": lmv, "lmv_normalised": normalised}


def _distance(prediction: Prediction, scored: int, **options: Any) -> tuple[MetricValue, MetricValue]:
    """In pixels and in per cent of the inter-ocular distance; missed are those of the scored that were not found."""
    if prediction.sample.task == "unpaired":
        raise NotMeasuredError("an unpaired task has no true landmarks")
    generated, true = prediction.scored_landmarks
    metric = LandmarkDistance(MOUTH.tolist(), **options, sync_on_compute=False)
    metric.update(generated, true, inter_ocular_distance(true, LEFT_EYE, RIGHT_EYE))
    result = metric.compute()
    measured = int(result["measured"])
    pixels, share = float(result["pixels"]), float(result["normalised"])
    return MetricValue(pixels, measured, scored - measured), MetricValue(100 * share, measured, scored - measured)


def lip_aperture(prediction: Prediction) -> dict[str, MetricValue]:
    """Correlation and amplitude of the inner lip aperture, against that of the driving speaker."""
    scored = prediction.sample.scored
    found, true = np.where(scored, prediction.lip_aperture, np.nan), prediction.true_lip_aperture
    both = min(len(found), len(true))
    pair = torch.from_numpy(np.stack([found[:both], true[:both]]))
    missed = int(np.isnan(found[scored]).sum())
    # A mouth that never moves (or is never found) follows nothing.
    values = {"lip_aperture_corr": MetricValue(float(lip_aperture_correlation(*pair).nan_to_num(0.0)), 1, missed)}
    amplitude = float(lip_aperture_amplitude(*pair))
    if np.isfinite(amplitude):
        values["lip_aperture_amplitude"] = MetricValue(amplitude, 1, missed)
    return values


def landmark_jitter(prediction: Prediction) -> dict[str, MetricValue]:
    """Energy of the landmark acceleration relative to the true video's; weighted so that a mean is a ratio of sums."""
    metric = Jitter(sync_on_compute=False)
    metric.update(*(torch.from_numpy(one.frame_landmarks) for one in (prediction, prediction.ground_truth)))
    ratio = float(metric.compute())
    if not np.isfinite(ratio):
        raise NotMeasuredError("no three frames in a row with a face, or a true face that never moves")
    return {"jitter": MetricValue(ratio, float(metric.true_energy), int(metric.unmeasured))}


def silence(prediction: Prediction) -> dict[str, MetricValue]:
    """Range of the lip aperture under digital silence, relative to that under speech."""
    if prediction.sample.silence is None or prediction.method != prediction.sample.main:
        raise NotMeasuredError("needs the networks, driven by silence")
    silent = inner_lip_aperture(prediction.landmarks_of(prediction.sample.silence))
    metric = SilenceLeak(sync_on_compute=False)
    metric.update(torch.from_numpy(silent), torch.from_numpy(prediction.lip_aperture))
    if not metric.count:
        raise NotMeasuredError("no mouth was found, or it does not move to speech either")
    return {"silence": MetricValue(float(metric.compute()), 1)}


def lip_aperture_offset(prediction: Prediction) -> dict[str, MetricValue]:
    """Offset of the lip aperture against what the sound says of it, where it is clear."""
    if prediction.wave is None:
        raise NotMeasuredError("there is no sound")
    relative = (prediction.lip_aperture / prediction.faces.shape[1])[prediction.clock]
    offset, confidence = lip_aperture_sync(relative, prediction.wave)
    values = {"mouth_sound": MetricValue(confidence, 1)}
    if confidence >= CLEAR_CONFIDENCE:
        values["mouth_offset"] = MetricValue(offset, 1)
    return values
