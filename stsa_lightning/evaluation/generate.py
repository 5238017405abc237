"""Both networks of a checkpoint, drawing whole clips of a prepared corpus exactly as dubbing draws them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from stsa_lightning.data.clip import Clip
from stsa_lightning.face.alignment import chosen_transforms, pose_distances
from stsa_lightning.face.box import resize_face
from stsa_lightning.face.crops import to_uint8
from stsa_lightning.face.heatmaps import draw_heatmaps, outer_lip_aperture
from stsa_lightning.face.references import APART, PoseFollower, candidates, choose_references
from stsa_lightning.features.base import feature_windows
from stsa_lightning.models.guidance import Guidance
from stsa_lightning.models.synthesis import References, Synthesis, warp_references
from stsa_lightning.utils.disk_array import in_blocks, to_disk_array

ReferencePolicy = Literal["other-clip", "same-clip", "first-frame"]


@dataclass(frozen=True)
class Offer:
    """C frames of a clip that references are chosen from.

    Attributes:
        clip: the clip.
        frames: (C,) their numbers.
        landmarks: (C, 131, 2) in their boxes.
        images: (C, 3, S, S) in [0, 1].
        maps: (C, 1, S, S), all contours.
    """

    clip: Clip
    frames: np.ndarray
    landmarks: np.ndarray
    images: Tensor
    maps: Tensor

    def apart(self, clip: Clip, frames: np.ndarray) -> np.ndarray:
        """(n, C) bool: which of them do not show the mouth of a clip's frame."""
        return (np.abs(frames[:, None] - self.frames) >= APART) | (self.clip.path != clip.path)

    def on_frames(self, clip: Clip, frames: np.ndarray, chosen: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
        """Images, heatmaps and theta of the N ``chosen`` (n, N) of each frame of a clip, see `warp_references`."""
        theta = chosen_transforms(self.landmarks, clip.face_landmarks_of(frames), chosen)
        return self.images[chosen], self.maps[chosen], torch.from_numpy(theta).to(self.images.device)


class Networks:
    """Draws the faces of clips.

    Args:
        guidance, synthesis: of one checkpoint; put into eval mode and onto ``device``.
        meta: what the checkpoint says of itself: `features`, `num_frames`, `heatmap_sigma`.
    """

    def __init__(self, guidance: Guidance, synthesis: Synthesis, meta: dict[str, Any], device: torch.device) -> None:
        self.guidance, self.synthesis = guidance.to(device).eval(), synthesis.to(device).eval()
        self.features, self.num_frames, self.device = meta["features"], int(meta["num_frames"]), device
        self.size, self.count = synthesis.face_size, synthesis.num_references
        self.heatmap_sigma = float(meta.get("heatmap_sigma", 1.0))

    def reference_frames(self, clip: Clip, policy: ReferencePolicy) -> np.ndarray:
        """Numbers of the N frames of a clip that serve as references: from closed to open lips, or the first face."""
        if policy == "first-frame":
            return np.full(self.count, np.flatnonzero(clip.valid)[0])
        return choose_references(outer_lip_aperture(np.nan_to_num(clip.face_landmarks)), clip.valid, self.count)

    @torch.inference_mode()
    def draw(
        self,
        clip: Clip,
        frames: np.ndarray,
        speech: np.ndarray,
        references: Clip,
        chosen: np.ndarray,
        follow: bool = True,
    ) -> np.ndarray:
        """Faces of some frames of a clip, saying another or the same speech.

        Args:
            clip: whose upper faces are given.
            frames: (n,) numbers of valid frames, rising.
            speech: (steps, D) features, from the clip's first frame on.
            references: the clip that shows what the face looks like, in its frames ``chosen`` (N,).
            follow: networks with `align_references` get the frames of `references` that are nearest in pose, as in
                dubbing; if it is the clip itself, none within half a second of the frame.

        Returns:
            (n, S, S, 3) uint8.
        """
        fixed = self._offer(references, chosen)
        encoded = self._encoder(clip, references, fixed, follow)
        return to_disk_array(
            self._draw_block(clip, block, speech, encoded(block), fixed.maps[None]) for block in in_blocks(frames)
        )

    def _encoder(self, clip: Clip, references: Clip, fixed: Offer, follow: bool) -> Callable[[np.ndarray], References]:
        """What gives the references of a block of frames, for blocks in order."""
        if not self.synthesis.align_references:
            shared = self.synthesis.encode_references(fixed.images[None], fixed.maps[None])
            return lambda block: shared
        if not follow:
            everyone = np.arange(self.count)[None]
            return lambda block: self._encoded(fixed, clip, block, everyone.repeat(len(block), 0))
        offer = self._offer(references, candidates(references.valid))
        choose = PoseFollower(offer.landmarks, outer_lip_aperture(offer.landmarks), self.count)
        return lambda block: self._encoded(
            offer, clip, block, choose(clip.face_landmarks_of(block), offer.apart(clip, block))
        )

    def _encoded(self, offer: Offer, clip: Clip, frames: np.ndarray, chosen: np.ndarray) -> References:
        return self.synthesis.encode_references(*offer.on_frames(clip, frames, chosen))

    @torch.inference_mode()
    def nearest_in_pose(self, clip: Clip, frames: np.ndarray, references: Clip) -> np.ndarray:
        """An answer that hears nothing: lower halves of the frames of ``references`` that are nearest in pose, moved.

        Takes and gives what :meth:`draw` does.
        """
        offer, half = self._offer(references, candidates(references.valid)), self.size // 2

        def moved(block: np.ndarray) -> np.ndarray:
            distances = pose_distances(offer.landmarks, clip.face_landmarks_of(block))
            first = np.where(offer.apart(clip, block), distances, np.inf).argmin(1)
            images, _ = warp_references(*offer.on_frames(clip, block, first[:, None]))
            pictures = resized(clip.faces(block), self.size)
            pictures[:, half:] = to_uint8(images[:, 0])[:, half:]
            return pictures

        return to_disk_array(moved(block) for block in in_blocks(frames))

    def _offer(self, clip: Clip, frames: np.ndarray) -> Offer:
        landmarks = clip.face_landmarks_of(frames)
        images = self._images(resized(clip.faces(frames), self.size))
        return Offer(clip, frames, landmarks, images, self._heatmaps(landmarks))

    def _draw_block(
        self, clip: Clip, frames: np.ndarray, speech: np.ndarray, encoded: References, reference_maps: Tensor
    ) -> np.ndarray:
        # Imported here: dubbing asks for packages of the full installation, training machines lack some.
        from stsa_lightning.dubbing import draw_faces

        valid = np.flatnonzero(clip.valid)
        times = frames[:, None] + np.arange(self.num_frames) - self.num_frames // 2  # (n, T)
        # A neighbour without a face lends the nearest face there is.
        nearest = valid[np.abs(valid - times[..., None]).argmin(-1)]
        masked = self._heatmaps(clip.face_landmarks[nearest], "masked")
        windows = feature_windows(speech, times.ravel()).reshape(*times.shape, speech.shape[1], -1)
        audio = torch.from_numpy(windows).float().to(self.device)
        faces = self._images(resized(clip.faces(frames), self.size))
        return to_uint8(draw_faces(self.guidance, self.synthesis, faces, masked, audio, reference_maps, encoded))

    def _images(self, faces: np.ndarray) -> Tensor:
        return torch.from_numpy(faces).to(self.device).permute(0, 3, 1, 2).float() / 255

    def _heatmaps(self, landmarks: np.ndarray, kind: Any = "whole") -> Tensor:
        return (
            torch.from_numpy(draw_heatmaps(landmarks, kind, self.size, self.heatmap_sigma))
            .to(self.device)
            .unsqueeze(-3)
        )


def resized(faces: np.ndarray, size: int) -> np.ndarray:
    """(n, H, W, 3) uint8 -> (n, size, size, 3) uint8."""
    return np.stack([resize_face(face, size) for face in faces])
