"""Metrics that compare pictures with the true ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from stsa_lightning.evaluation.clip_result import TRUTH, FramePairs, View, as_images
from stsa_lightning.evaluation.metrics.columns import Figure, NotMeasuredError
from stsa_lightning.metrics.image import mouth_region
from stsa_lightning.metrics.stability import flow_warped_error

# (m, 3, H, W) twice, in [0, 1] -> (m,)
Compare = Callable[[Tensor, Tensor], Tensor]
BATCH = 16


class PictureMeter:
    """One comparison in several regions.

    Args:
        name: columns are ``name_region``.
        compare: of two batches of pictures, a value each.
        regions: face, mouth, frame.
    """

    def __init__(self, name: str, compare: Compare, regions: Sequence[str]) -> None:
        self.name, self.compare, self.regions = name, compare, regions

    @torch.inference_mode()
    def __call__(self, view: View) -> dict[str, Figure]:
        if view.case.task == "unpaired":
            raise NotMeasuredError("an unpaired task has no true pictures")
        figures = {}
        for region in self.regions:
            pairs = frame_pairs(view) if region == "frame" else None
            if region == "frame" and pairs is None:
                continue
            values = self._faces(view, region) if pairs is None else self._frames(pairs, view)
            if len(values):
                figures[f"{self.name}_{region}"] = Figure(float(values.double().mean()), len(values))
        if not figures:
            raise NotMeasuredError("whole frames are known of videos alone: evaluate the dubbed videos")
        return figures

    def _faces(self, view: View, region: str) -> Tensor:
        values = []
        for generated, true in view.images(BATCH):
            if region == "mouth":
                generated, true = mouth_region(generated), mouth_region(true)
            values.append(self.compare(generated, true).cpu())
        return torch.cat(values) if values else torch.zeros(0)

    def _frames(self, pairs: FramePairs, view: View) -> Tensor:
        values = []
        for generated, true in pairs():
            shown = true if view.answer == TRUTH else generated
            values.append(self.compare(as_images(shown, view.device), as_images(true, view.device)).cpu())
        return torch.cat(values) if values else torch.zeros(0)


def frame_pairs(view: View) -> FramePairs | None:
    """Whole frames, where they exist: of the system's own videos and of the truth."""
    return view.case.pairs if view.answer in (view.case.main, TRUTH) else None


def flow_warped(view: View) -> dict[str, Figure]:
    """Flow-warped error over neighbouring face crops, of the frames that follow on one another."""
    if view.case.task == "unpaired":
        raise NotMeasuredError("an unpaired task has no true pictures")
    numbers = np.flatnonzero(view.case.valid)
    runs = np.split(np.arange(len(numbers)), np.flatnonzero(np.diff(numbers) != 1) + 1)
    errors = [torch.zeros(0)]
    for run in runs:
        for start in range(0, len(run) - 1, BATCH):
            part = run[start : start + BATCH + 1]  # the last is the first of the next
            errors.append(flow_warped_error(as_images(view.faces[part]), as_images(view.case.truth[part])))
    values = torch.cat(errors)
    found = values[values.isfinite()].double()
    if not len(found):
        raise NotMeasuredError("no two neighbouring frames with a face")
    return {"flow_warped": Figure(1000 * float(found.mean()), len(found), len(values) - len(found))}
