"""Both networks of a checkpoint, drawing whole clips of a prepared corpus exactly as dubbing draws them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from stsa_lightning.audio import feature_windows
from stsa_lightning.data.clip import Clip
from stsa_lightning.evaluation.spool import in_blocks, spooled
from stsa_lightning.face.alignment import pose_distances, reference_places
from stsa_lightning.face.box import resize_face
from stsa_lightning.face.crops import to_uint8
from stsa_lightning.face.heatmaps import draw_heatmaps, lip_openness
from stsa_lightning.face.references import APART, PoseFollower, candidates, choose_references
from stsa_lightning.nets.guidance import Guidance
from stsa_lightning.nets.synthesis import References, Synthesis, moved_references

ReferencePolicy = Literal["other-clip", "same-clip", "first-frame"]


class Networks:
    """Draws the faces of clips.

    Args:
        guidance, synthesis: of one checkpoint; put into eval mode and onto ``device``.
        meta: what the checkpoint says of itself: ``features``, ``window``, ``sigma``.
    """

    def __init__(self, guidance: Guidance, synthesis: Synthesis, meta: dict[str, Any], device: torch.device) -> None:
        self.guidance, self.synthesis = guidance.to(device).eval(), synthesis.to(device).eval()
        self.features, self.window, self.device = meta["features"], int(meta["window"]), device
        self.size, self.count, self.sigma = synthesis.face_size, synthesis.references, float(meta.get("sigma", 1.0))

    def reference_frames(self, clip: Clip, policy: ReferencePolicy) -> np.ndarray:
        """Numbers of the N frames of a clip that serve as references: from closed to open lips, or the first face."""
        if policy == "first-frame":
            return np.full(self.count, np.flatnonzero(clip.valid)[0])
        return choose_references(lip_openness(np.nan_to_num(clip.face_landmarks)), clip.valid, self.count)

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
            follow: networks that move references (``aligned``) look at those of its frames that are nearest in pose, as
                in dubbing; if it is the clip itself, at none within half a second of the frame.

        Returns:
            (n, S, S, 3) uint8.
        """
        maps = self._heatmaps(references.face_landmarks[chosen])[None]
        following = follow and self.synthesis.aligned
        encoded = self._following(clip, references) if following else self._staying(clip, references, chosen)
        return spooled(self._draw_block(clip, block, speech, encoded(block), maps) for block in in_blocks(frames))

    def _staying(self, clip: Clip, references: Clip, chosen: np.ndarray) -> Callable[[np.ndarray], References]:
        """References of a block of frames: the same for all."""
        landmarks = references.face_landmarks[chosen]
        seen = self._images(resized(references.faces(chosen), self.size))[None], self._heatmaps(landmarks)[None]
        shared = None if self.synthesis.aligned else self.synthesis.encode_references(*seen)
        return lambda block: shared or self.synthesis.encode_references(*seen, self._places(clip, block, landmarks))

    def _following(self, clip: Clip, references: Clip) -> Callable[[np.ndarray], References]:
        """References of a block of frames, for blocks in order: those nearest to each frame's pose."""
        offered = candidates(references.valid)
        landmarks = references.face_landmarks[offered]
        follow = PoseFollower(landmarks, lip_openness(landmarks), self.count)
        images, maps = self._images(resized(references.faces(offered), self.size)), self._heatmaps(landmarks)

        def encoded(block: np.ndarray) -> References:
            chosen = torch.from_numpy(follow(clip.face_landmarks[block], _apart(clip, block, references, offered)))
            places = self._places(clip, block, landmarks)
            mine = places.gather(1, chosen.to(self.device)[..., None, None].expand(-1, -1, 2, 3))
            return self.synthesis.encode_references(images[chosen], maps[chosen], mine)

        return encoded

    @torch.inference_mode()
    def nearest_in_pose(self, clip: Clip, frames: np.ndarray, references: Clip) -> np.ndarray:
        """An answer that hears nothing: lower halves of the frames of ``references`` that are nearest in pose, moved.

        Takes and gives what :meth:`draw` does.
        """
        offered = candidates(references.valid)
        landmarks = references.face_landmarks[offered]
        images, maps = self._images(resized(references.faces(offered), self.size)), self._heatmaps(landmarks)

        def moved(block: np.ndarray) -> np.ndarray:
            distances = pose_distances(landmarks, clip.face_landmarks[block])
            first = np.where(_apart(clip, block, references, offered), distances, np.inf).argmin(1)
            places = self._places(clip, block, landmarks)[torch.arange(len(block)), first]
            pictures = resized(clip.faces(block), self.size)
            lower = to_uint8(moved_references(images[first][:, None], maps[first][:, None], places[:, None])[0][:, 0])
            pictures[:, self.size // 2 :] = lower[:, self.size // 2 :]
            return pictures

        return spooled(moved(block) for block in in_blocks(frames))

    def _places(self, clip: Clip, frames: np.ndarray, landmarks: np.ndarray) -> Tensor:
        return torch.from_numpy(reference_places(landmarks, clip.face_landmarks[frames])).to(self.device)

    def _draw_block(
        self, clip: Clip, frames: np.ndarray, speech: np.ndarray, encoded: References, reference_maps: Tensor
    ) -> np.ndarray:
        # Imported here: dubbing asks for packages of the full installation, training machines lack some.
        from stsa_lightning.dubbing import draw_faces

        valid = np.flatnonzero(clip.valid)
        times = frames[:, None] + np.arange(self.window) - self.window // 2  # (n, T)
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
        return torch.from_numpy(draw_heatmaps(landmarks, kind, self.size, self.sigma)).to(self.device).unsqueeze(-3)


def _apart(clip: Clip, frames: np.ndarray, references: Clip, offered: np.ndarray) -> np.ndarray:
    """(n, C) bool: which of the frames on offer do not show a frame's own mouth."""
    return (np.abs(frames[:, None] - offered) >= APART) | (references.path != clip.path)


def resized(faces: np.ndarray, size: int) -> np.ndarray:
    """(n, H, W, 3) uint8 -> (n, size, size, 3) uint8."""
    return np.stack([resize_face(face, size) for face in faces])
