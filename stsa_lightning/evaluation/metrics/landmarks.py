"""Metrics of landmarks: where the mouth is, how it moves, how steadily, and whether it moves with the sound."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from stsa_lightning.evaluation.clip_result import View
from stsa_lightning.evaluation.metrics.columns import Figure, NotMeasuredError
from stsa_lightning.face.heatmaps import inner_lip_opening
from stsa_lightning.face.topology import MOUTH, positions
from stsa_lightning.metrics.landmarks import inter_ocular_distance, lmd, opening_correlation, velocity, vico
from stsa_lightning.metrics.mouth_sync import CLEAR_CONFIDENCE, opening_sync
from stsa_lightning.metrics.stability import acceleration_energy, landmark_jitter, silence_leak

LEFT_EYE, RIGHT_EYE = positions([362, 263]).tolist(), positions([33, 133]).tolist()


def landmark_distances(view: View) -> dict[str, Figure]:
    """LMD in pixels of the crop, per cent of the inter-ocular distance, and in the L1 variant."""
    generated, true, eyes = _landmarks(view)
    return {
        "lmd": _mean(lmd(generated, true, MOUTH.tolist()), view),
        "lmd_normalised": _mean(100 * lmd(generated, true, MOUTH.tolist(), eyes), view),
        "lmd_vico": _mean(vico(generated, true, MOUTH.tolist()), view),
    }


def landmark_velocities(view: View) -> dict[str, Figure]:
    """The same distances of frame-to-frame differences: motion in place of position."""
    generated, true, eyes = _landmarks(view)
    moved = velocity(generated), velocity(true)
    return {
        "lmv": _mean(lmd(*moved, MOUTH.tolist()), view),
        "lmv_normalised": _mean(100 * lmd(*moved, MOUTH.tolist(), eyes[1:]), view),
    }


def opening(view: View) -> dict[str, Figure]:
    """Correlation of the inner lip opening with that of whoever really said it."""
    found, true = view.opening, view.true_opening
    found = np.where(view.case.scored, found, np.nan)
    both = min(len(found), len(true))
    r = opening_correlation(torch.from_numpy(found[:both]), torch.from_numpy(true[:both].astype(found.dtype)))
    missed = int(np.isnan(found[view.case.scored]).sum())
    # A mouth that never moves (or is never found) follows nothing.
    return {"opening_r": Figure(float(r.nan_to_num(0.0)), 1, missed)}


def _landmarks(view: View) -> tuple[Tensor, Tensor, Tensor]:
    if view.case.task == "unpaired":
        raise NotMeasuredError("an unpaired task has no true landmarks")
    generated, true = view.scored_landmarks
    return generated, true, inter_ocular_distance(true, LEFT_EYE, RIGHT_EYE)


def _mean(values: Tensor, view: View) -> Figure:
    """Over the frames that were measured; of the scored ones, those that were not are counted."""
    found = values[values.isfinite()].double()
    scored = view.case.scored if len(values) == len(view.case.scored) else view.case.scored[1:] & view.case.scored[:-1]
    return Figure(float(found.mean()), len(found), int(scored.sum()) - len(found))


def jitter(view: View) -> dict[str, Figure]:
    """Energy of the landmark acceleration relative to the true video's; weighted so that a mean is a ratio of sums."""
    generated, true = (torch.from_numpy(x.frame_landmarks) for x in (view, view.truth))
    ratio = float(landmark_jitter(generated, true))
    energy = acceleration_energy(true)
    both = energy.isfinite() & acceleration_energy(generated).isfinite()
    if not np.isfinite(ratio):
        raise NotMeasuredError("no three frames in a row with a face, or a true face that never moves")
    return {"jitter": Figure(ratio, float(energy[both].sum()), int((~both).sum()))}


def silence(view: View) -> dict[str, Figure]:
    """Range of the mouth's opening under digital silence, relative to that under speech."""
    if view.case.silence is None or view.answer != view.case.main:
        raise NotMeasuredError("needs the networks, driven by silence")
    silent = inner_lip_opening(view.found_in(view.case.silence))
    leak = float(silence_leak(torch.from_numpy(silent), torch.from_numpy(view.opening)))
    if np.isnan(leak):
        raise NotMeasuredError("no mouth was found, or it does not move to speech either")
    return {"silence": Figure(leak, 1)}


def opening_offset(view: View) -> dict[str, Figure]:
    """Offset of the mouth's opening against the sound's energy, where it is clear."""
    if view.wave is None:
        raise NotMeasuredError("there is no sound")
    offset, confidence = opening_sync((view.opening / view.faces.shape[1])[view.clock], view.wave)
    figures = {"mouth_sound": Figure(float(confidence), 1)}
    if confidence >= CLEAR_CONFIDENCE:
        figures["mouth_offset"] = Figure(float(offset), 1)
    return figures
