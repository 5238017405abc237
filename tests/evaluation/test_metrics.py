"""Metrics with large networks, here untrained: what reaches them, and how their figures come back."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from stsa_lightning.evaluation.clip_result import TRUTH, Case, View
from stsa_lightning.evaluation.metrics.columns import NotMeasuredError
from stsa_lightning.evaluation.metrics.identity import Identity
from stsa_lightning.evaluation.metrics.registry import METRICS, Bench, Options
from stsa_lightning.evaluation.metrics.sync import LipSync
from stsa_lightning.evaluation.report.report import Report, table_rows
from stsa_lightning.evaluation.run import Gaussian, _with_sets
from stsa_lightning.evaluation.scoring import Pending, score_all
from stsa_lightning.metrics.perceptual import FrechetDistance
from stsa_lightning.metrics.sync import crop_tracked, tracked_boxes
from stsa_lightning.models.syncnet import SyncNet

FRAMES, SIZE = 20, 64


def landmarks(faces: np.ndarray) -> np.ndarray:
    grid = np.stack(np.meshgrid(np.linspace(8, 56, 12), np.linspace(8, 56, 11)), -1).reshape(-1, 2)[:131]
    return np.repeat(grid[None], len(faces), 0).astype(np.float32)


@pytest.fixture
def case() -> Case:
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 255, (FRAMES, 120, 160, 3), dtype=np.uint8)
    frames = np.stack([cv2.GaussianBlur(frame, (0, 0), 4) for frame in frames])
    boxes = np.tile([50, 20, 110, 90], (FRAMES, 1))
    truth = np.stack([cv2.resize(frame[20:90, 50:110], (SIZE, SIZE)) for frame in frames])
    valid = np.ones(FRAMES, bool)
    valid[3] = False
    wave = rng.normal(0, 0.1, FRAMES * 640).astype(np.float32)
    made = truth[valid][:, ::-1].copy()
    answers = {"mean": made, "made": made, TRUTH: truth[valid]}
    times_s = np.arange(FRAMES) / 25
    case = Case("c", "s", "paired", truth[valid], answers, valid, valid, boxes, times_s, truth[:2], wave, wave)
    case.frames = {"made": lambda: iter(np.split(frames[:, ::-1], 2)), TRUTH: lambda: iter(np.split(frames, 2))}
    return case


def views(case: Case) -> tuple[View, View]:
    truth = View(case, TRUTH, landmarks)
    return View(case, "made", landmarks, truth), truth


@pytest.mark.parametrize("variant", ["tracked", "lrs"])
def test_sync_sees_whole_frames(case: Case, variant):
    torch.manual_seed(0)
    figures = LipSync(SyncNet().eval(), variant)(views(case)[0])
    assert figures.keys() == {"lse_d", "lse_c", "offset"}
    assert figures["lse_d"].value > 0
    case.answers["other"] = case.truth
    with pytest.raises(NotMeasuredError, match="whole frames"):
        LipSync(SyncNet(), variant)(View(case, "mean", landmarks, views(case)[1]))


def test_of_prepared_clips_the_face_stands_in_its_place_on_grey(case: Case):
    true = np.concatenate(list(case.frames[TRUTH]()))
    case.frames = {}
    meter = LipSync(SyncNet().eval(), "tracked")
    crops = np.concatenate(list(meter._blocks(views(case)[1])))
    assert crops.shape == (FRAMES, 224, 224, 3)
    whole = crop_tracked(true, tracked_boxes(case.boxes.astype(float)))
    inside = (crops != 110).any(-1)
    difference = np.abs(crops.astype(int) - whole)[inside]
    assert inside[6].mean() == pytest.approx(60 * 70 / 98**2, abs=0.05)
    assert np.median(difference) < 6  # the very same pixels, resized twice
    assert meter(views(case)[0])["lse_d"].value > 0
    with pytest.raises(NotMeasuredError, match="lrs"):
        LipSync(SyncNet(), "lrs")(views(case)[0])
    case.wave = None
    with pytest.raises(NotMeasuredError, match="no sound"):
        meter(views(case)[0])


def test_identity_gets_faces_of_their_own_proportions(case: Case):
    seen = []

    def network(picture: np.ndarray, points: np.ndarray) -> np.ndarray:
        seen.append((picture.shape, points.max(0)))
        return picture.mean((0, 1)).astype(np.float32) - 100

    made, truth = views(case)
    figure = Identity(network)(made)["csim"]
    assert figure.value == pytest.approx(1, abs=0.02)  # upside down, of the same mean colour
    assert (figure.weight, figure.missed) == (FRAMES - 1, 0)
    assert seen[0][0] == (64, 55, 3)
    assert seen[0][1] == pytest.approx([56 * 55 / 64, 56], abs=0.1)
    assert len(seen) == 2 * (FRAMES - 1)
    Identity(network)(truth)


class Colours(FrechetDistance):
    """A distance of mean colours, in place of Inception's."""

    def __init__(self) -> None:
        super().__init__(nn.Identity(), 3)

    def features(self, frames: torch.Tensor) -> torch.Tensor:
        return frames.mean((2, 3))


def test_distances_of_sets_come_from_kept_features(case: Case, tmp_path):
    case.answers["made"] = np.clip(case.truth.astype(int) + 40, 0, 255).astype(np.uint8)
    bench = Bench(set_meters={"fid": Colours()}, owned={"fid": ["fid"]})
    bench.columns["fid"] = METRICS["fid"].columns(Options())[0]
    clips = [Pending(name, "", lambda: [case]) for name in ("a", "b")]
    for _ in range(2):  # the second time from what is kept
        scores, failed = score_all(clips, {}, bench, landmarks, tmp_path, "cpu")
    rows = _with_sets(table_rows(scores, bench.columns.values()), bench, clips, {}, tmp_path)
    by_answer = {row.answer: row.cells["fid"].value for row in rows}
    expected = Colours()
    pair = [torch.from_numpy(case.answers[n]).permute(0, 3, 1, 2).float() / 255 for n in ("made", TRUTH)]
    for _ in range(2):
        expected.update(*pair)
    assert not failed
    assert by_answer[TRUTH] == pytest.approx(0, abs=1e-6)
    assert by_answer["made"] == pytest.approx(float(expected.compute()), rel=0.02)
    assert by_answer["made"] > 0.05
    assert Report("", "made", {}, [], rows).row("paired", "made").videos == 2


def test_sums_are_those_of_numpy():
    x = np.random.default_rng(0).normal(size=(30, 4))
    sums = Gaussian()
    sums.add(x[:10])
    sums.add(x[10:])
    mean, covariance = sums.moments()
    np.testing.assert_allclose(mean, x.mean(0))
    np.testing.assert_allclose(covariance, np.cov(x.T))
