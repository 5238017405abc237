"""One video under one speech: its faces redrawn block by block."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from stsa_lightning.audio import feature_windows
from stsa_lightning.dubbing.draw import draw_faces
from stsa_lightning.dubbing.faces import Faces
from stsa_lightning.dubbing.schedule import Schedule
from stsa_lightning.face.blend import blend_face
from stsa_lightning.face.box import crop_face
from stsa_lightning.face.heatmaps import draw_heatmaps, lip_openness
from stsa_lightning.face.references import choose_references
from stsa_lightning.nets.synthesis import References
from stsa_lightning.video import VideoReader, nearest

if TYPE_CHECKING:
    from stsa_lightning.dubbing.dubber import Dubber

WINDOW_FPS = 25  # the networks' clock: neighbours in a window are 0.04 s apart, whatever the video's rate
BLOCK_BYTES = 256 * 2**20  # frames of a block together; binds at 4K


class Scene:
    """One video under one speech, ready to be redrawn block by block."""

    def __init__(
        self, dubber: Dubber, reader: VideoReader, faces: Faces, schedule: Schedule, features: np.ndarray
    ) -> None:
        self.guidance, self.synthesis, self.device = dubber.guidance, dubber.synthesis, dubber.device
        self.reader, self.faces, self.schedule, self.features = reader, faces, schedule, features
        self.face_size, self.sigma = dubber.synthesis.face_size, dubber.sigma
        self.step = block_size(dubber.block, (reader.info.width, reader.info.height))
        self.landmarks = faces.normalised
        self.offsets_s = (np.arange(dubber.window) - dubber.window // 2) / WINDOW_FPS
        known, times_s = np.flatnonzero(faces.valid), reader.timestamps_s[: len(faces.valid)]
        self.nearest_face = known[nearest(times_s[known], times_s)]  # (F,) for each source frame
        self.reference_heatmaps, self.references = self._references()

    @property
    def block_count(self) -> int:
        return -(-len(self.schedule.source) // self.step)

    def blocks(self) -> Iterator[np.ndarray]:
        """The dubbed frames, in order."""
        for start in range(0, len(self.schedule.source), self.step):
            shown = np.arange(start, min(start + self.step, len(self.schedule.source)))
            frames = self.reader.get(self.schedule.source[shown])
            with_face = np.flatnonzero(self.faces.valid[self.schedule.source[shown]])
            if len(with_face):
                self._redraw(frames, with_face, shown[with_face])
            yield frames

    @torch.inference_mode()
    def _references(self) -> tuple[Tensor, References]:
        """Heatmaps (1, N, 1, S, S) of the references, and what the synthesis network makes of them."""
        opening = lip_openness(self.landmarks)
        chosen = choose_references(opening, self.faces.valid, self.synthesis.references)
        crops = np.concatenate([self._crops(self.reader.get([i]), np.array([i])) for i in chosen])
        heatmaps = self._tensor(draw_heatmaps(self.landmarks[chosen], "whole", self.face_size, self.sigma))[
            None, :, None
        ]
        return heatmaps, self.synthesis.encode_references(self._images(crops)[None], heatmaps)

    @torch.inference_mode()
    def _redraw(self, frames: np.ndarray, places: np.ndarray, shown: np.ndarray) -> None:
        """Redraw `frames[places]` in place; `shown` (n,) are their numbers in the schedule."""
        sources = self.schedule.source[shown]
        faces = self._images(self._crops(frames[places], sources))
        times_s = self.schedule.times_s[shown][:, None] + self.offsets_s  # (n, T)
        windows = feature_windows(self.features, times_s * WINDOW_FPS)  # (n * T, D, 10)
        audio = self._tensor(windows).unflatten(0, times_s.shape)  # (n, T, D, 10)
        contours = self._masked_heatmaps(times_s)
        drawn = draw_faces(
            self.guidance, self.synthesis, faces, contours, audio, self.reference_heatmaps, self.references
        )
        pictures = drawn.float().permute(0, 2, 3, 1).cpu().numpy()
        for place, source, picture in zip(places, sources, pictures, strict=True):
            box, landmarks = self.faces.boxes[source], self.faces.landmarks[source]
            frames[place] = blend_face(frames[place], picture, box, landmarks)

    def _masked_heatmaps(self, times_s: np.ndarray) -> Tensor:
        """Of the face nearest to each of the times (n, T): (n, T, 1, S, S)."""
        sources = self.nearest_face[self.schedule.source[nearest(self.schedule.times_s, times_s)]]
        unique, back = np.unique(sources, return_inverse=True)
        heatmaps = self._tensor(draw_heatmaps(self.landmarks[unique], "masked", self.face_size, self.sigma))
        return heatmaps[torch.from_numpy(back.reshape(sources.shape)).to(self.device)][:, :, None]

    def _crops(self, frames: np.ndarray, sources: np.ndarray) -> np.ndarray:
        boxes = self.faces.boxes[sources]
        return np.stack([crop_face(f, b, self.face_size) for f, b in zip(frames, boxes, strict=True)])

    def _images(self, faces: np.ndarray) -> Tensor:
        """(n, S, S, 3) uint8 -> (n, 3, S, S) in [0, 1]."""
        return self._tensor(faces).permute(0, 3, 1, 2).float() / 255

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device)


def block_size(frames: int, size: tuple[int, int]) -> int:
    """Frames read at a time: `frames`, or fewer where they are large."""
    return max(1, min(frames, BLOCK_BYTES // (3 * size[0] * size[1])))
