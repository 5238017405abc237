"""Metrics that compare images with the true ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from stsa_lightning.evaluation.clip_sample import GROUND_TRUTH, NATIVE, Prediction, ScoredRegion, as_images
from stsa_lightning.evaluation.metrics.columns import MetricValue, NotMeasuredError
from stsa_lightning.face.box import mouth_region
from stsa_lightning.metrics.base import FrameMean
from stsa_lightning.metrics.stability import FlowWarpedError

BATCH = 16


class ImageMetric:
    """One image metric in several regions, in columns NAME_REGION; `build` makes it for a `region`."""

    def __init__(self, name: str, build: Callable[..., FrameMean], regions: Sequence[ScoredRegion]) -> None:
        self.name = name
        self.metrics = {region: build(region="mouth" if region == NATIVE else region) for region in regions}

    @torch.no_grad()
    def __call__(self, prediction: Prediction) -> dict[str, MetricValue]:
        if prediction.sample.task == "unpaired":
            raise NotMeasuredError("an unpaired task has no true pictures")
        values = {}
        for region, metric in self.metrics.items():
            batches = _batches(prediction, region)
            metric.reset()
            for generated, true in batches or ():
                metric.update(generated, true)
            if metric.count:
                values[f"{self.name}_{region}"] = MetricValue(float(metric.compute()), int(metric.count))
        if not values:
            raise NotMeasuredError("whole frames are known of videos alone: evaluate the dubbed videos")
        return values


def _batches(prediction: Prediction, region: ScoredRegion) -> Iterator[tuple[Tensor, Tensor]] | None:
    if region == "frame":
        return prediction.whole_images()
    return prediction.native_images(BATCH) if region == NATIVE else prediction.images(BATCH)


class FlowWarped:
    """Flow-warped error over pairs of consecutive crops; `native`: also of lower halves at the frame's resolution."""

    def __init__(self, native: bool = False) -> None:
        self.metric, self.native = FlowWarpedError(sync_on_compute=False), native

    def __call__(self, prediction: Prediction) -> dict[str, MetricValue]:
        if prediction.sample.task == "unpaired":
            raise NotMeasuredError("an unpaired task has no true pictures")
        sample = prediction.sample
        values = self._measured("flow_warped", prediction, lambda part: prediction.faces[part], sample.ground_truth)
        if self.native and GROUND_TRUTH in sample.native:
            true = sample.native[GROUND_TRUTH]
            values |= self._measured(f"flow_warped_{NATIVE}", prediction, prediction.native_faces, true, mouth_region)
        return values

    def _measured(
        self,
        name: str,
        prediction: Prediction,
        faces: Callable[[np.ndarray], np.ndarray],
        ground_truth: np.ndarray,
        region: Callable[[Tensor], Tensor] = lambda images: images,
    ) -> dict[str, MetricValue]:
        self.metric.reset()
        numbers = np.flatnonzero(prediction.sample.valid)
        for run in np.split(np.arange(len(numbers)), np.flatnonzero(np.diff(numbers) != 1) + 1):
            for start in range(0, len(run) - 1, BATCH):
                part = run[start : start + BATCH + 1]  # the last is the first of the next
                self.metric.update(*(region(as_images(each)) for each in (faces(part), ground_truth[part])))
        count = int(self.metric.count)
        if not count:
            raise NotMeasuredError("no two neighbouring frames with a face")
        return {name: MetricValue(1000 * float(self.metric.compute()), count, int(self.metric.unmeasured))}
