"""Both networks of a checkpoint, generating faces for whole clips of a prepared corpus exactly as dubbing does."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache, cached_property, lru_cache, partial
from typing import Any, Literal, cast

import numpy as np
import torch

from stsa_lightning.data.calibration_speech import calibration_windows
from stsa_lightning.data.clip import Clip
from stsa_lightning.face.alignment import chosen_transforms, pose_distances
from stsa_lightning.face.box import resize_face, resize_faces
from stsa_lightning.face.crops import to_uint8
from stsa_lightning.face.heatmaps import outer_lip_aperture
from stsa_lightning.face.native_resolution import for_reading, native_face, native_size, shrunk
from stsa_lightning.face.references import APART, candidates, choose_references
from stsa_lightning.features.base import AudioFeatures, feature_windows
from stsa_lightning.features.build import audio_features
from stsa_lightning.inference.engine import Guided, Rendered
from stsa_lightning.inference.frame_inputs import ChosenReferences, FrameInputBuilder, FrameInputs, ReferenceInputs
from stsa_lightning.inference.keypoint_calibration import Calibrator, KeypointCalibration
from stsa_lightning.inference.reference import PlainEngine
from stsa_lightning.inference.reference_chooser import ReferenceChooser, ToServe, with_next
from stsa_lightning.models.guidance import Guidance
from stsa_lightning.models.synthesis import Synthesis, warp_references
from stsa_lightning.utils.disk_array import in_blocks, to_disk_array, to_disk_arrays

ReferencePolicy = Literal["other-clip", "same-clip", "first-frame"]


@dataclass(frozen=True)
class ReferencePool:
    """M frames of a clip that references are chosen from.

    Attributes:
        frames: (M,) their numbers.
        landmarks: (M, 131, 2) normalised to the face box.
        encoded: what the engine makes of these, once for all that is generated with them.
        matched: the first N references serve guidance alone; synthesis gets those nearest in pose among the others.
        calibration: of guidance to the person, by these frames.
    """

    clip: Clip
    frames: np.ndarray
    landmarks: np.ndarray
    inputs: ReferenceInputs
    encoded: Any = None
    matched: bool = False
    calibration: KeypointCalibration | None = None

    def excluded(self, clip: Clip, frames: np.ndarray) -> np.ndarray:
        """(n, M) bool: which of them show the mouth of a clip's frame, and so may not serve it."""
        return (np.abs(frames[:, None] - self.frames) < APART) & (self.clip.path == clip.path)


class Networks:
    """Generates faces for clips.

    Args:
        guidance, synthesis: of one checkpoint; put into eval mode and onto `device`.
        meta: what the checkpoint says of itself: `features`, `num_frames`, `heatmap_sigma`.
    """

    def __init__(self, guidance: Guidance, synthesis: Synthesis, meta: dict[str, Any], device: torch.device) -> None:
        self.engine = PlainEngine(guidance, synthesis, device)
        self.builder = FrameInputBuilder(synthesis.face_size, float(meta.get("heatmap_sigma", 1.0)))
        self.features, self.num_frames, self.device = meta["features"], int(meta["num_frames"]), device
        self.size, self.num_references = synthesis.face_size, synthesis.num_references
        self.align_references = synthesis.align_references
        self.calibrated = self.align_references and guidance.draws_keypoints

    def reference_frames(self, clip: Clip, policy: ReferencePolicy) -> np.ndarray:
        """Numbers of the N frames of a clip that serve as references: from closed to open lips, or the first face."""
        if policy == "first-frame":
            return np.full(self.num_references, np.flatnonzero(clip.valid)[0])
        return choose_references(
            outer_lip_aperture(np.nan_to_num(clip.face_landmarks)), clip.valid, self.num_references
        )

    def encode(self, clip: Clip, chosen: np.ndarray, pose_matched: bool = True) -> ReferencePool:
        """The references that `generate` takes.

        Args:
            clip: shows what the face looks like, in its frames `chosen` (N,).
            pose_matched: networks with `align_references` get the frames of `clip` that are nearest in pose, as in
                dubbing; if the clip generated is the same, none within half a second of the frame. So it is with what
                guidance is calibrated by.
        """
        matched = self.align_references and pose_matched
        pool = self._pool(clip, np.append(chosen, candidates(clip.valid)) if matched else chosen)
        pool = replace(pool, encoded=self.engine.encode(pool.inputs), matched=matched)
        if not (matched and self.calibrated):
            return pool
        return replace(pool, calibration=self._calibrator(pool.encoded, pool.landmarks))

    @cached_property
    def extractor(self) -> AudioFeatures:
        """Of the features that the networks were trained on."""
        return audio_features(cast(Any, self.features))

    @cached_property
    def _calibrator(self) -> Calibrator:
        speech = cache(lambda: calibration_windows(self.extractor, self.num_frames))
        return Calibrator(self.engine, self.builder, speech)

    def generate(self, clip: Clip, frames: np.ndarray, speech: np.ndarray, pool: ReferencePool) -> np.ndarray:
        """Faces of some frames of a clip under another or the same speech.

        Args:
            clip: whose upper faces are given.
            frames: (n,) numbers of valid frames, rising.
            speech: (steps, D) features, from the clip's first frame on.

        Returns:
            (n, S, S, 3) uint8.
        """
        rendered = self._rendered(clip, frames, speech, pool)
        return to_disk_array(to_uint8(answer.faces) for _, answer in rendered)

    def generate_native(
        self, clip: Clip, frames: np.ndarray, speech: np.ndarray, pool: ReferencePool, largest: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """What `generate` gives, and the same at the size H at which the clip is stored, as dubbing renders them.

        Above the side `largest`, pixels, faces are enlarged.

        Returns:
            (n, S, S, 3) and (n, H, H, 3) uint8.
        """
        stored = clip.meta.face_size
        size = native_size(np.array([0, 0, stored, stored]), self.size, largest)

        @lru_cache(self.num_references + 1)
        def reference(number: int) -> np.ndarray:
            return for_reading(shrunk(pool.clip.faces(pool.frames[[number]])[0], largest))

        def native(faces: np.ndarray, chosen: ChosenReferences, answer: Rendered) -> Iterator[np.ndarray]:
            warps = answer.warps(chosen.theta if self.align_references else None)
            for face, warp, numbers in zip(faces, warps, chosen.numbers.tolist(), strict=True):
                sharp = native_face(face, warp, [reference(i) for i in numbers], size) if size else face
                yield resize_face(sharp, stored)

        def both() -> Iterator[tuple[np.ndarray, np.ndarray]]:
            for chosen, answer in self._rendered(clip, frames, speech, pool):
                faces = to_uint8(answer.faces)
                yield faces, np.stack(list(native(faces, chosen, answer)))

        return to_disk_arrays(both())

    def _rendered(
        self, clip: Clip, frames: np.ndarray, speech: np.ndarray, pool: ReferencePool
    ) -> Iterator[tuple[ChosenReferences, Rendered]]:
        """Block by block; arguments as for `generate`."""
        choose = ReferenceChooser(pool.landmarks, self.num_references, pool.matched)
        guided = (self._guided(clip, block, speech, pool) for block in in_blocks(frames))
        for (inputs, lips, block), following in with_next(guided):
            chosen = choose(block, None if following is None else following[2])
            yield chosen, self.engine.render(inputs, lips, chosen, pool.encoded)

    def _guided(
        self, clip: Clip, block: np.ndarray, speech: np.ndarray, pool: ReferencePool
    ) -> tuple[FrameInputs, Guided, ToServe]:
        landmarks, allowed = clip.face_landmarks_of(block), ~pool.excluded(clip, block)
        inputs = self._inputs(clip, block, speech)
        calibrate = None if pool.calibration is None else partial(pool.calibration, frames=landmarks, allowed=allowed)
        guided = self.engine.guide(inputs, pool.encoded, calibrate)
        return inputs, guided, ToServe(guided.inner_lip_aperture(), landmarks, clip.valid[block], allowed)

    def nearest_in_pose(self, clip: Clip, frames: np.ndarray, references: Clip) -> np.ndarray:
        """A baseline without speech: lower halves of the frames of `references` that are nearest in pose, warped.

        Returns what `generate` does.
        """
        pool, half = self._pool(references, candidates(references.valid)), self.size // 2
        maps = pool.inputs.to(self.device)

        def warped(block: np.ndarray) -> np.ndarray:
            landmarks = clip.face_landmarks_of(block)
            distances = np.where(pool.excluded(clip, block), np.inf, pose_distances(pool.landmarks, landmarks))
            nearest = distances.argmin(1)[:, None]
            theta = torch.from_numpy(chosen_transforms(pool.landmarks, landmarks, nearest)).to(self.device)
            with torch.inference_mode():
                images, _ = warp_references(maps.images[0][nearest], maps.heatmaps[0][nearest], theta)
            pictures = resize_faces(clip.faces(block), self.size)
            pictures[:, half:] = to_uint8(images[:, 0])[:, half:]
            return pictures

        return to_disk_array(warped(block) for block in in_blocks(frames))

    def _pool(self, clip: Clip, frames: np.ndarray) -> ReferencePool:
        landmarks = clip.face_landmarks_of(frames)
        inputs = self.builder.references(resize_faces(clip.faces(frames), self.size), landmarks)
        return ReferencePool(clip, frames, landmarks, inputs)

    def _inputs(self, clip: Clip, frames: np.ndarray, speech: np.ndarray) -> FrameInputs:
        valid = np.flatnonzero(clip.valid)
        times = frames[:, None] + np.arange(self.num_frames) - self.num_frames // 2  # (n, T)
        return self.builder.frames(
            resize_faces(clip.faces(frames), self.size),
            feature_windows(speech, times.ravel()).reshape(*times.shape, speech.shape[1], -1),
            # A neighbour without a face lends the nearest face there is.
            valid[np.abs(valid - times[..., None]).argmin(-1)],
            clip.face_landmarks_of,
        )
