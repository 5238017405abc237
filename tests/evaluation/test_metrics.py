"""Metrics with large networks, here untrained: what reaches them, and how their values come back."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from stsa_lightning.evaluation.clip_sample import GROUND_TRUTH, ClipSample, Prediction
from stsa_lightning.evaluation.metrics.columns import NotMeasuredError
from stsa_lightning.evaluation.metrics.identity import Identity
from stsa_lightning.evaluation.metrics.registry import METRICS, MetricSuite, Options
from stsa_lightning.evaluation.metrics.sync import LipSync
from stsa_lightning.evaluation.report.report import Report, table_rows
from stsa_lightning.evaluation.run import _with_sets
from stsa_lightning.evaluation.scoring import Job, score_all
from stsa_lightning.metrics.perceptual import FrechetDistance
from stsa_lightning.metrics.sync import crop_tracked, tracked_boxes
from stsa_lightning.models.syncnet import SyncNet

FRAMES, SIZE = 20, 64


def landmarks(faces: np.ndarray) -> np.ndarray:
    grid = np.stack(np.meshgrid(np.linspace(8, 56, 12), np.linspace(8, 56, 11)), -1).reshape(-1, 2)[:131]
    return np.repeat(grid[None], len(faces), 0).astype(np.float32)


@pytest.fixture
def sample() -> ClipSample:
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 255, (FRAMES, 120, 160, 3), dtype=np.uint8)
    frames = np.stack([cv2.GaussianBlur(frame, (0, 0), 4) for frame in frames])
    boxes = np.tile([50, 20, 110, 90], (FRAMES, 1))
    ground_truth = np.stack([cv2.resize(frame[20:90, 50:110], (SIZE, SIZE)) for frame in frames])
    valid = np.ones(FRAMES, bool)
    valid[3] = False
    wave = rng.normal(0, 0.1, FRAMES * 640).astype(np.float32)
    made = ground_truth[valid][:, ::-1].copy()
    predictions = {"mean": made, "made": made, GROUND_TRUTH: ground_truth[valid]}
    times_s = np.arange(FRAMES) / 25
    sample = ClipSample(
        "c", "s", "paired", ground_truth[valid], predictions, valid, valid, boxes, times_s, ground_truth[:2], wave, wave
    )
    sample.frames = {
        "made": lambda: iter(np.split(frames[:, ::-1], 2)),
        GROUND_TRUTH: lambda: iter(np.split(frames, 2)),
    }
    return sample


def predictions(sample: ClipSample) -> tuple[Prediction, Prediction]:
    ground_truth = Prediction(sample, GROUND_TRUTH, landmarks)
    return Prediction(sample, "made", landmarks, ground_truth), ground_truth


@pytest.mark.parametrize("variant", ["tracked", "lrs"])
def test_sync_sees_whole_frames(sample: ClipSample, variant):
    torch.manual_seed(0)
    values = LipSync(SyncNet().eval(), variant)(predictions(sample)[0])
    assert values.keys() == {"lse_d", "lse_c", "offset"}
    assert values["lse_d"].value > 0
    sample.predictions["other"] = sample.ground_truth
    with pytest.raises(NotMeasuredError, match="whole frames"):
        LipSync(SyncNet(), variant)(Prediction(sample, "mean", landmarks, predictions(sample)[1]))


def test_of_prepared_clips_the_face_stands_in_its_place_on_grey(sample: ClipSample):
    true = np.concatenate(list(sample.frames[GROUND_TRUTH]()))
    sample.frames = {}
    metric = LipSync(SyncNet().eval(), "tracked")
    crops = np.concatenate(list(metric._blocks(predictions(sample)[1])))
    assert crops.shape == (FRAMES, 224, 224, 3)
    whole = crop_tracked(true, tracked_boxes(sample.boxes.astype(float)))
    inside = (crops != 110).any(-1)
    difference = np.abs(crops.astype(int) - whole)[inside]
    assert inside[6].mean() == pytest.approx(60 * 70 / 98**2, abs=0.05)
    assert np.median(difference) < 6  # the very same pixels, resized twice
    assert metric(predictions(sample)[0])["lse_d"].value > 0
    with pytest.raises(NotMeasuredError, match="lrs"):
        LipSync(SyncNet(), "lrs")(predictions(sample)[0])
    sample.wave = None
    with pytest.raises(NotMeasuredError, match="no sound"):
        metric(predictions(sample)[0])


def test_identity_gets_faces_of_their_own_proportions(sample: ClipSample):
    seen = []

    def network(picture: np.ndarray, points: np.ndarray) -> np.ndarray:
        seen.append((picture.shape, points.max(0)))
        return picture.mean((0, 1)).astype(np.float32) - 100

    made, ground_truth = predictions(sample)
    value = Identity(network)(made)["csim"]
    assert value.value == pytest.approx(1, abs=0.02)  # upside down, of the same mean colour
    assert (value.weight, value.missed) == (FRAMES - 1, 0)
    assert seen[0][0] == (64, 55, 3)
    assert seen[0][1] == pytest.approx([56 * 55 / 64, 56], abs=0.1)
    assert len(seen) == 2 * (FRAMES - 1)
    Identity(network)(ground_truth)


class Colours(FrechetDistance):
    """A distance of mean colours, in place of Inception's."""

    def __init__(self) -> None:
        super().__init__(nn.Identity(), 3)

    def features(self, frames: torch.Tensor) -> torch.Tensor:
        return frames.mean((2, 3))


def test_distances_of_sets_come_from_saved_features(sample: ClipSample, tmp_path):
    sample.predictions["made"] = np.clip(sample.ground_truth.astype(int) + 40, 0, 255).astype(np.uint8)
    suite = MetricSuite(set_metrics={"fid": Colours()}, owned={"fid": ["fid"]})
    suite.columns["fid"] = METRICS["fid"].columns(Options())[0]
    clips = [Job(name, "", lambda: [sample]) for name in ("a", "b")]
    for _ in range(2):  # the second time from the saved results
        scores, failed = score_all(clips, {}, suite, landmarks, tmp_path, "cpu")
    rows = _with_sets(table_rows(scores, suite.columns.values()), suite, clips, {}, tmp_path)
    by_method = {row.method: row.cells["fid"].value for row in rows}
    expected = Colours()
    pair = [torch.from_numpy(sample.predictions[n]).permute(0, 3, 1, 2).float() / 255 for n in ("made", GROUND_TRUTH)]
    for _ in range(2):
        expected.update(*pair)
    assert not failed
    assert by_method[GROUND_TRUTH] == pytest.approx(0, abs=1e-6)
    assert by_method["made"] == pytest.approx(float(expected.compute()), rel=0.02)
    assert by_method["made"] > 0.05
    assert Report("", "made", {}, [], rows).row("paired", "made").videos == 2
