"""Whole frames of prepared clips: the source's own, with generated faces pasted back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from stsa_lightning.constants import FPS, SAMPLE_RATE_HZ, SAMPLES_PER_FRAME
from stsa_lightning.data.clip import Clip
from stsa_lightning.data.corpora import Source
from stsa_lightning.dubbing import block_size
from stsa_lightning.evaluation.clip_sample import GROUND_TRUTH
from stsa_lightning.face.blend import blend_face
from stsa_lightning.media.stream import VideoStream
from stsa_lightning.media.video import VideoWriter, probe
from stsa_lightning.utils.disk_array import BLOCK

VIDEO_CRF = 12  # the videos are for the eye and for other systems; what is measured are the frames themselves


@dataclass(frozen=True)
class SourceVideos:
    """The videos that a corpus was prepared from: generated faces are pasted back into their frames.

    Attributes:
        sources: by the clip's name.
        videos: folder for what is generated, `TASK/CLIP.mp4`, beside the true clips, `true/CLIP.mp4`; a file that
            is there is kept. None: no videos are written.
    """

    sources: Mapping[str, Source]
    videos: Path | None = None

    def frames(self, clip: Clip) -> Iterator[np.ndarray]:
        """(m, H, W, 3) blocks of the clip's frames as they were prepared: cut, cropped, at 25/s."""
        source = self.sources[clip.meta.clip]
        info = probe(source.path)
        crop = source.crop_box(info.width, info.height)
        count = block_size(BLOCK, (crop[2], crop[3]))
        start = 0
        for block in VideoStream(source.path, FPS, source.start_s, source.stop_s, crop).blocks(count):
            yield block[: clip.frames - start]
            start += len(block)

    def pasted(self, clip: Clip, faces: np.ndarray, face_size: int) -> Iterator[np.ndarray]:
        """The same frames with (n, H, H, 3) faces of the valid ones blended in, as dubbing does.

        `face_size`: side S of the networks' faces; H is S, or above it where they were rendered at the frame's own
        resolution.
        """
        compared_at = face_size if faces.shape[1] > face_size else None
        landmarks, generated, frame = clip.landmarks, iter(faces), 0
        for block in self.frames(clip):
            for number, picture in enumerate(block, start=frame):
                if clip.valid[number]:
                    face = next(generated)
                    block[number - frame] = blend_face(
                        picture, face, clip.boxes[number], landmarks[number], compared_at=compared_at
                    )
            frame += len(block)
            yield block

    def of(
        self,
        clip: Clip,
        task: str,
        predictions: Mapping[str, np.ndarray],
        main: str,
        wave: np.ndarray,
        face_size: int,
    ) -> dict[str, Any]:
        """What a `ClipSample` knows of whole frames; the video of `main`, which says `wave`, is written first.

        `predictions` and `face_size`: faces by method, as `pasted` takes them.
        """
        blocks = {
            name: partial(self.pasted, clip, faces, face_size)
            for name, faces in predictions.items()
            if name != GROUND_TRUTH
        }
        blocks[GROUND_TRUTH] = partial(self.frames, clip)
        if self.videos is not None:
            self._write(clip, "true", blocks[GROUND_TRUTH](), clip.wave)
            self._write(clip, task, blocks[main](), wave)
        pairs = (lambda: zip(blocks[main](), blocks[GROUND_TRUTH](), strict=True)) if task == "paired" else None
        return {"frames": blocks, "pairs": pairs}

    def _write(self, clip: Clip, folder: str, blocks: Iterator[np.ndarray], wave: np.ndarray) -> None:
        assert self.videos is not None
        path = self.videos / folder / f"{clip.meta.clip}.mp4"
        if path.is_file():
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        first = next(blocks)
        size = (first.shape[2], first.shape[1])
        sound = wave[: clip.frames * SAMPLES_PER_FRAME]
        with VideoWriter(path, FPS, size, sound, SAMPLE_RATE_HZ, crf=VIDEO_CRF) as writer:
            for block in chain([first], blocks):
                writer.write(block)
