"""CSIM: does the generated face show the same person?"""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch.nn import functional as F

from stsa_lightning.evaluation.clip_result import View
from stsa_lightning.evaluation.metrics.columns import Figure, NotMeasuredError
from stsa_lightning.evaluation.metrics.sync import _found
from stsa_lightning.metrics.identity import IdentityNetwork


class Identity:
    """CSIM: cosine of identity embeddings of generated and true face, frame by frame."""

    def __init__(self, network: IdentityNetwork) -> None:
        self.network = network

    def __call__(self, view: View) -> dict[str, Figure]:
        generated, true = self._embeddings(view), self._embeddings(view.truth)
        both = sorted(generated.keys() & true.keys())
        if not both:
            raise NotMeasuredError("no frame in which both faces were found")
        pair = [torch.from_numpy(np.stack([vectors[i] for i in both])) for vectors in (generated, true)]
        cosine = F.cosine_similarity(pair[0], pair[1], dim=-1)
        return {"csim": Figure(float(cosine.double().mean()), len(both), int(view.case.scored.sum()) - len(both))}

    def _embeddings(self, view: View) -> dict[int, np.ndarray]:
        """Frame number -> vector, of the scored frames in which a face was found."""
        if self not in view.kept:
            view.kept[self] = {number: self._embed(view, number) for number in _found(view)}
        return view.kept[self]

    def _embed(self, view: View, number: int) -> np.ndarray:
        face = view.faces[int(view.case.valid[:number].sum())]
        x0, y0, x1, y1 = view.case.boxes[number]
        # The square crop is stretched; people are told apart by their proportions.
        size = face.shape[0]
        width, height = (round(size * float(side) / max(x1 - x0, y1 - y0)) for side in (x1 - x0, y1 - y0))
        picture = cv2.resize(face, (width, height), interpolation=cv2.INTER_AREA)
        return self.network(picture, view.landmarks[number] * np.array([width, height], np.float32) / size)
