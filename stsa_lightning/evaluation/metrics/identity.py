"""CSIM: whether the generated face shows the same person."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import Tensor

from stsa_lightning.evaluation.clip_sample import Prediction
from stsa_lightning.evaluation.metrics.columns import MetricValue, NotMeasuredError
from stsa_lightning.metrics.identity import CSIM, IdentityNetwork


class Identity:
    """CSIM: cosine of identity embeddings of generated and true faces, frame by frame."""

    def __init__(self, network: IdentityNetwork) -> None:
        self.network = network

    def __call__(self, prediction: Prediction) -> dict[str, MetricValue]:
        generated, true = self._embeddings(prediction), self._embeddings(prediction.ground_truth)
        both = sorted(generated.keys() & true.keys())
        if not both:
            raise NotMeasuredError("no frame in which both faces were found")
        metric = CSIM(sync_on_compute=False)
        metric.update(_stacked(generated, both), _stacked(true, both))
        missed = int(prediction.sample.scored.sum()) - len(both)
        return {"csim": MetricValue(float(metric.compute()), len(both), missed)}

    def _embeddings(self, prediction: Prediction) -> dict[int, np.ndarray]:
        """Frame number -> embedding, of the scored frames with a face; those of the ground truth serve every method."""
        if self not in prediction.cache:
            found = prediction.sample.scored & np.isfinite(prediction.landmarks).all(axis=(1, 2))
            prediction.cache[self] = {n: self._embed(prediction, n) for n in np.flatnonzero(found).tolist()}
        return prediction.cache[self]

    def _embed(self, prediction: Prediction, number: int) -> np.ndarray:
        face = prediction.faces[int(prediction.sample.valid[:number].sum())]
        x0, y0, x1, y1 = prediction.sample.boxes[number]
        # The square crop is stretched, but proportions are part of identity: undo it.
        size = face.shape[0]
        width, height = (round(size * float(side) / max(x1 - x0, y1 - y0)) for side in (x1 - x0, y1 - y0))
        picture = cv2.resize(face, (width, height), interpolation=cv2.INTER_AREA)
        return self.network(picture, prediction.landmarks[number] * np.array([width, height], np.float32) / size)


def _stacked(embeddings: dict[int, np.ndarray], numbers: list[int]) -> Tensor:
    return torch.from_numpy(np.stack([embeddings[number] for number in numbers]))
