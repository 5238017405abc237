"""Metrics that compare images with the true ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from stsa_lightning.evaluation.clip_sample import Prediction, as_images
from stsa_lightning.evaluation.metrics.columns import MetricValue, NotMeasuredError
from stsa_lightning.metrics.base import FrameMean, Region
from stsa_lightning.metrics.stability import FlowWarpedError

BATCH = 16


class ImageMetric:
    """One image metric in several regions.

    Args:
        name: prefix of the columns, `name_region`.
        build: makes the torchmetrics metric of a `region`.
        regions: any of `face`, `mouth`, `frame`.
    """

    def __init__(self, name: str, build: Callable[..., FrameMean], regions: Sequence[Region]) -> None:
        self.name, self.metrics = name, {region: build(region=region) for region in regions}

    @torch.no_grad()
    def __call__(self, prediction: Prediction) -> dict[str, MetricValue]:
        if prediction.sample.task == "unpaired":
            raise NotMeasuredError("an unpaired task has no true pictures")
        values = {}
        for region, metric in self.metrics.items():
            batches = prediction.whole_images() if region == "frame" else prediction.images(BATCH)
            metric.reset()
            for generated, true in batches or ():
                metric.update(generated, true)
            if metric.count:
                values[f"{self.name}_{region}"] = MetricValue(float(metric.compute()), int(metric.count))
        if not values:
            raise NotMeasuredError("whole frames are known of videos alone: evaluate the dubbed videos")
        return values


class FlowWarped:
    """Flow-warped error over pairs of consecutive face crops."""

    def __init__(self) -> None:
        self.metric = FlowWarpedError(sync_on_compute=False)

    def __call__(self, prediction: Prediction) -> dict[str, MetricValue]:
        if prediction.sample.task == "unpaired":
            raise NotMeasuredError("an unpaired task has no true pictures")
        self.metric.reset()
        numbers = np.flatnonzero(prediction.sample.valid)
        for run in np.split(np.arange(len(numbers)), np.flatnonzero(np.diff(numbers) != 1) + 1):
            for start in range(0, len(run) - 1, BATCH):
                part = run[start : start + BATCH + 1]  # the last is the first of the next
                true = as_images(prediction.sample.ground_truth[part])
                self.metric.update(as_images(prediction.faces[part]), true)
        count = int(self.metric.count)
        if not count:
            raise NotMeasuredError("no two neighbouring frames with a face")
        return {"flow_warped": MetricValue(1000 * float(self.metric.compute()), count, int(self.metric.unmeasured))}
