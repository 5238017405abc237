"""The evaluation callback's sums and what it leaves out; whole runs with it are in test_training."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from stsa_lightning.evaluation.metrics.columns import Column, MetricValue
from stsa_lightning.metrics.image import psnr
from stsa_lightning.training.callbacks.evaluation import EvaluationCallback, WeightedMeans, batch_prediction

COLUMNS = [Column("a", "a", "", "higher", ""), Column("offset", "o", "", "zero", "", reduce="mean_abs")]


def test_sums_weigh_and_join():
    one, two = WeightedMeans(COLUMNS), WeightedMeans(COLUMNS)
    one.update({"a": MetricValue(1.0, 3), "offset": MetricValue(-2.0, 1)})
    two.update({"a": MetricValue(5.0, 1, 4)})
    two.update({"a": MetricValue(float("nan"), 0, 2)})
    joined = WeightedMeans(COLUMNS)
    joined.update({})
    for name in ("total", "weight", "missed"):  # what a reduction over ranks does
        setattr(joined, name, getattr(one, name) + getattr(two, name))
    assert joined.compute() == {"a": 2.0, "a_unmeasured": 6.0, "offset": 2.0}
    empty = WeightedMeans(COLUMNS)
    empty.update({})
    assert empty.compute() == {}


def test_frames_of_batches_give_the_metrics_own_mean():
    torch.manual_seed(0)
    generated, true = torch.rand(2, 6, 3, 32, 32)
    callback = EvaluationCallback(metrics=["psnr"], clips=0, landmark_frames=0)
    module = SimpleNamespace(device=torch.device("cpu"))
    callback.setup(None, module, "validate")
    callback._reset(module.device)
    callback._update({"generated": generated[:4], "true": true[:4]})
    callback._update({"generated": generated[4:], "true": true[4:]})
    values = callback.frame_sums.compute()
    assert values["psnr_face"] == pytest.approx(float(psnr(generated, true).mean()), abs=1e-4)
    assert values["psnr_mouth"] == pytest.approx(float(psnr(generated, true, "mouth").mean()), abs=1e-4)
    assert callback.detector is None


def test_absent_weights_are_a_warning(tmp_path, monkeypatch: pytest.MonkeyPatch):
    from stsa_lightning.utils.weights import WeightsError

    def nowhere(*_):
        raise WeightsError("nowhere")

    monkeypatch.setattr("stsa_lightning.metrics.perceptual.weights_path", nowhere)
    callback = EvaluationCallback(metrics=["psnr", "lpips_alex"], clips=0, landmark_frames=0)
    with pytest.warns(UserWarning, match="lpips_alex_face is not measured: nowhere"):
        callback.setup(None, SimpleNamespace(device=torch.device("cpu")), "fit")
    assert list(callback.frames.clip_metrics) == ["psnr"]


def test_a_view_of_unrelated_frames():
    generated, true = torch.rand(2, 3, 3, 16, 16)
    prediction = batch_prediction(generated, true, lambda faces: np.zeros((len(faces), 131, 2), np.float32))
    assert torch.equal(torch.cat([made for made, _ in prediction.images(2)]), generated)
    assert prediction.faces.shape == (3, 16, 16, 3)
    assert prediction.landmarks.shape == (3, 131, 2)
