"""Windows of consecutive frames with their references, sound and heatmaps: what the networks are trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Literal, NamedTuple, TypedDict, cast

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from stsa_lightning.data.augment import AugmentSettings, augment_voice
from stsa_lightning.data.clip import Clip, ClipError
from stsa_lightning.data.index import clip_path
from stsa_lightning.data.quiet import quiet_features
from stsa_lightning.face.alignment import pose_distances, reference_transforms
from stsa_lightning.face.box import denormalise_landmarks, resize_faces
from stsa_lightning.face.heatmaps import draw_all_kinds, inner_lip_aperture, lip_measures, outer_lip_aperture
from stsa_lightning.face.mouth_motion import on_poses
from stsa_lightning.face.references import APART, choose_references, reference_costs
from stsa_lightning.face.topology import KEYPOINT_POSITIONS
from stsa_lightning.features.base import WINDOW_STEPS, FeatureKind, feature_windows
from stsa_lightning.inference.frame_inputs import FrameInputBuilder
from stsa_lightning.utils.errors import UserError, check_at_least

MIXED_SHARE = (0.2, 1.0)  # "mixed" and "pose_matched" choose references from a random share of the clip's frames

SHUT_SHARE = 0.05  # of a clip's frames are taken for those where the mouth is shut

AROUND = 125  # frames before and after a window over which the mouth's motion is measured
LEAST_SPREAD, LEAST_SPREAD_PX = 0.003, 0.3  # of the box and in pixels: below that a mouth does not move

WindowPolicy = Literal["random", "even"]
ReferencePolicy = Literal["random", "aperture", "mixed", "pose_matched", "pose_nearest"]


class NativePictures(TypedDict, total=False):
    """The pictures of a `Batch` at the side H of `native_size`, where one is given."""

    native_faces: Tensor  # (B, T, 3, H, H)
    native_references: Tensor  # (B, N, 3, H, H)


class Batch(NativePictures):
    """B windows of T frames with N references, faces of S x S pixels, audio features of D values.

    All tensors are float32 unless said; images are RGB in [0, 1], heatmaps in [0, 1]. A loader hands images over as
    bytes, a quarter of the size; they become floats on the device (`as_floats`).
    """

    faces: Tensor  # (B, T, 3, S, S)
    heatmaps: Tensor  # (B, T, 1, S, S), all contours
    masked_heatmaps: Tensor  # (B, T, 1, S, S)
    lip_heatmaps: Tensor  # (B, T, 1, S, S)
    jaw_heatmaps: Tensor  # (B, T, 1, S, S)
    landmarks: Tensor  # (B, T, 131, 2) normalised to the face box; may leave [0, 1] at the edge of the video's frame
    keypoints: Tensor  # (B, T, 2, 57) the same limited to [0, 1]: 17 jaw, then 40 lip
    lip_aperture: Tensor  # (B, T, 3) outer and inner lip aperture, width of the mouth: mean 0, deviation 1 around
    lip_aperture_spread: Tensor  # (B, 3) that deviation, normalised to the face box
    audio: Tensor  # (B, T, D, 10)
    references: Tensor  # (B, N, 3, S, S)
    reference_heatmaps: Tensor  # (B, N, 1, S, S)
    theta: Tensor  # (B, T, N, 2, 3) warp references onto the frame's pose, see `reference_transforms`
    frame: Tensor  # (B,) int64, number of the centre frame within its clip
    clip: list[str]


class Speaker(NamedTuple):
    """A speaker's clips, and with which chance each is drawn."""

    clips: tuple[str, ...]
    chances: tuple[float, ...]


@dataclass(eq=False)
class WindowDataset(Dataset):
    """Windows of `num_frames` consecutive frames with a face, and references from elsewhere in the same clip.

    Item i belongs to clip i // windows_per_clip. It is a function of (seed, epoch, i) alone, whatever worker or process
    reads it; the epoch comes with the index, as a pair (epoch, i) (see `WindowSampler`), and is 0 for a bare index.

    Args:
        clips: names of clips; a `Speaker` in the place of a name stands for one of their clips, drawn for each item.
        features, face_size, native_size, num_frames, num_references, windows_per_clip, augment, swap_mouth_epochs,
            quiet_share, heatmap_sigma, seed: see `STSADataModule`.
        window_policy: "random" draws a place for each item; "even" spreads a clip's items over it, always the same.
        reference_policy: which frames of the clip serve as references. "random": any. "aperture": from closed to wide
            open lips, as dubbing chooses them. "mixed": the same among a random part of the clip. "pose_nearest":
            those nearest to the window's pose, half a second away or more, as dubbing chooses them for networks with
            `align_references`. "pose_matched": "mixed" or "pose_nearest", with equal chance, as in dubbing guidance
            gets the one and synthesis the other. A frame of the window itself serves only if the clip has no other.
        span: the part of every clip that is read, from and to as shares of its length.

    Raises:
        UserError: an argument out of range.
    """

    root: Path | str
    clips: Sequence[str | Speaker]
    _: KW_ONLY
    features: FeatureKind = "logmel"
    face_size: int = 128
    native_size: int | None = None
    num_frames: int = 5
    num_references: int = 5
    windows_per_clip: int = 1
    window_policy: WindowPolicy = "random"
    reference_policy: ReferencePolicy = "random"
    augment: AugmentSettings = field(default_factory=AugmentSettings)
    swap_mouth_epochs: int = 0
    quiet_share: float = 0.0
    heatmap_sigma: float = 1.0
    span: tuple[float, float] = (0.0, 1.0)
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("face_size", "num_frames", "num_references", "windows_per_clip"):
            check_at_least(name, getattr(self, name), 1)
        if self.augment.voice and self.features != "logmel":
            raise UserError(
                f"augment.voice: changes log-mel features only, got features {self.features!r}; set it to 0"
            )
        if not 0 <= self.quiet_share < 1:
            raise UserError(f"quiet_share: expected a share from 0 to below 1, got {self.quiet_share}")
        self._quiet = quiet_features(self.features) if self.quiet_share else None
        if not 0 <= self.span[0] < self.span[1] <= 1:
            raise UserError(f"span: expected two rising shares from 0 to 1, got {self.span}")

    def __len__(self) -> int:
        return len(self.clips) * self.windows_per_clip

    def __getitem__(self, index: int | tuple[int, int]) -> Batch:
        """One item: `Batch` without its first dimension, images as bytes; `frame` is an int, `clip` a name."""
        epoch, index = index if isinstance(index, tuple) else (0, index)
        if not 0 <= index < len(self):
            raise IndexError(f"expected an index below {len(self)}, got {index}")
        rng = np.random.default_rng((self.seed, epoch, index))
        name = self.clips[index // self.windows_per_clip]
        if isinstance(name, Speaker):
            name = name.clips[rng.choice(len(name.clips), p=name.chances)]
        clip = _opened(clip_path(self.root, name))
        start = self._window_start(clip, index % self.windows_per_clip, rng)
        frames = np.arange(start, start + self.num_frames)
        chosen = np.concatenate([frames, self._references(clip, frames, rng)])
        landmarks, mouths, audio = clip.face_landmarks_of(chosen), frames, None
        if epoch < self.swap_mouth_epochs:
            elsewhere = self._window_start(clip, index % self.windows_per_clip, rng) + np.arange(self.num_frames)
            if self._quiet is not None and rng.random() < self.quiet_share:
                mouths, audio = self._shut(clip, rng), self._part_of(self._quiet, rng)
            # A tight box ends at the chin, so the place of brows, eyes and nose in it tells how far the mouth is open,
            # and guidance that is given a frame's own upper contours learns to ignore the audio. Those of another
            # moment tell nothing. Dubbing has the same mismatch.
            poses = clip.face_landmarks_of(elsewhere)
            landmarks[: self.num_frames] = on_poses(poses, clip.face_landmarks_of(mouths))
        pictures = clip.faces(chosen, self.native_size or self.face_size)
        item = {
            **self._tensors(*self.augment.pictures(pictures, landmarks, rng)),
            **_lip_aperture(clip, mouths),
            "audio": torch.from_numpy(self._audio(clip, start, rng) if audio is None else audio),
            "frame": start + self.num_frames // 2,
            "clip": name,
        }
        return cast(Batch, item)

    def _window_start(self, clip: Clip, slot: int, rng: np.random.Generator) -> int:
        faces_within = np.convolve(self._readable(clip), np.ones(self.num_frames, np.int64), mode="valid")
        starts = (
            np.flatnonzero(faces_within == self.num_frames) if clip.frames >= self.num_frames else np.empty(0, np.int64)
        )
        if not len(starts):
            part = "" if self.span == (0, 1) else f" between {self.span[0]:.0%} and {self.span[1]:.0%} of it"
            raise ClipError(f"{clip.path}: expected {self.num_frames} frames with a face in a row{part}, found fewer")
        if self.window_policy == "random":
            return int(rng.choice(starts))
        return int(starts[int((slot + 0.5) * len(starts) / self.windows_per_clip)])

    def _readable(self, clip: Clip) -> np.ndarray:
        """(F,) bool: frames with a face within the span."""
        first, last = (round(share * clip.frames) for share in self.span)
        frames = np.arange(clip.frames)
        return clip.valid & (frames >= first) & (frames < last)

    def _references(self, clip: Clip, frames: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        eligible = self._readable(clip)
        eligible[frames] = False
        if not eligible.any():
            eligible = self._readable(clip)
        centre, policy = int(frames[len(frames) // 2]), self.reference_policy
        partly = policy in ("mixed", "pose_matched")
        if policy == "pose_matched":
            policy = "pose_nearest" if rng.random() < 0.5 else "aperture"
        if policy == "pose_nearest":
            apart = eligible & (np.abs(np.arange(clip.frames) - centre) >= APART)
            eligible = apart if apart.any() else eligible
        if partly:
            some = eligible & (rng.random(clip.frames) < rng.uniform(*MIXED_SHARE))
            eligible = some if some.sum() >= self.num_references else eligible
        if policy == "pose_nearest":
            return self._nearest_in_pose(clip, centre, np.flatnonzero(eligible))
        if policy != "random":
            return choose_references(outer_lip_aperture(clip.landmarks), eligible, self.num_references)
        candidates = np.flatnonzero(eligible)
        return rng.choice(candidates, self.num_references, replace=len(candidates) < self.num_references)

    def _nearest_in_pose(self, clip: Clip, centre: int, others: np.ndarray) -> np.ndarray:
        landmarks = clip.face_landmarks_of(np.append(others, centre))
        distances = pose_distances(landmarks[:-1], landmarks[-1:])[0]
        aperture = inner_lip_aperture(landmarks)
        costs = reference_costs(distances, aperture[:-1], aperture[-1], self.num_references)
        return others[costs.argmin(0)]

    def _audio(self, clip: Clip, start: int, rng: np.random.Generator) -> np.ndarray:
        """(T, D, 10), reading only the steps of the window."""
        first = max(0, start - 2)  # in frames: two steps each
        last = start + self.num_frames - 1 - 2
        features = clip.features(self.features, 2 * first, 2 * max(last, 0) + WINDOW_STEPS)
        features = augment_voice(features, self.augment.voice, rng)
        return feature_windows(features, np.arange(self.num_frames) + start - first)

    def _shut(self, clip: Clip, rng: np.random.Generator) -> np.ndarray:
        """(T,) times one frame of those where the mouth is most shut."""
        frames = np.flatnonzero(self._readable(clip))
        order = frames[np.argsort(inner_lip_aperture(clip.landmarks[frames]))]
        return np.full(self.num_frames, rng.choice(order[: 1 + int(SHUT_SHARE * len(order))]))

    def _part_of(self, features: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """(T, D, 10) at a random place of features (steps, D)."""
        first = rng.integers(len(features) - 2 * self.num_frames - WINDOW_STEPS)
        return feature_windows(features[first:], np.arange(self.num_frames) + WINDOW_STEPS // 4)

    def _tensors(self, faces: np.ndarray, landmarks: np.ndarray) -> dict[str, Tensor]:
        """Pictures, heatmaps and points: of the window's frames, which come first, and of the references."""
        count = self.num_frames
        pictures = planes(resize_faces(faces, self.face_size))
        maps = draw_all_kinds(landmarks[:count], self.face_size, self.heatmap_sigma)
        builder = FrameInputBuilder(self.face_size, self.heatmap_sigma)
        keypoints = np.clip(landmarks[:count, KEYPOINT_POSITIONS], 0, 1).transpose(0, 2, 1)
        native = {}
        if self.native_size is not None:
            large = planes(faces)
            native = {"native_faces": large[:count], "native_references": large[count:]}
        return {
            **native,
            "faces": pictures[:count],
            "references": pictures[count:],
            "heatmaps": torch.from_numpy(maps["whole"][:, None]),
            "masked_heatmaps": torch.from_numpy(maps["masked"][:, None]),
            "lip_heatmaps": torch.from_numpy(maps["lip"][:, None]),
            "jaw_heatmaps": torch.from_numpy(maps["jaw"][:, None]),
            "reference_heatmaps": builder.heatmaps(landmarks[count:], "whole"),
            "theta": torch.from_numpy(reference_transforms(landmarks[count:], landmarks[:count])),
            "landmarks": torch.from_numpy(landmarks[:count]),
            "keypoints": torch.from_numpy(np.ascontiguousarray(keypoints)),
        }


def _lip_aperture(clip: Clip, frames: np.ndarray) -> dict[str, Tensor]:
    """In pixels of the video's frame, where the box does not matter; its deviation besides in sides of the box."""
    first = max(0, int(frames[0]) - AROUND)
    part = slice(first, min(int(frames[-1]) + 1 + AROUND, clip.frames))
    faces, boxes = clip.face_landmarks_of(part), clip.boxes[part]
    in_pixels = lip_measures(denormalise_landmarks(faces, boxes))
    spread = np.maximum(np.nanstd(in_pixels, axis=0), LEAST_SPREAD_PX)
    standard = (in_pixels[frames - first] - np.nanmean(in_pixels, axis=0)) / spread
    in_box = np.maximum(np.nanstd(lip_measures(faces), axis=0), LEAST_SPREAD)
    return {
        "lip_aperture": torch.from_numpy(standard.astype(np.float32)),
        "lip_aperture_spread": torch.from_numpy(in_box.astype(np.float32)),
    }


def planes(faces: np.ndarray) -> Tensor:
    """(n, S, S, 3) uint8 -> (n, 3, S, S) uint8."""
    separate = np.empty((len(faces), 3, *faces.shape[1:3]), np.uint8)
    for face, channels in zip(faces, separate, strict=True):
        for channel, plane in enumerate(channels):
            cv2.extractChannel(face, channel, plane)  # several times as fast as a transposed copy
    return torch.from_numpy(separate)


def as_floats(batch: Batch) -> Batch:
    """A batch, or an item, as loaded -> as the networks are given it: images in [0, 1] on the device they are on."""
    images = {
        name: batch[name] if batch[name].is_floating_point() else batch[name].float() / 255
        for name in ("faces", "references", "native_faces", "native_references")
        if name in batch  # `check_batch` reports what is missing
    }
    return cast(Batch, {**batch, **images})


def _opened(path: Path) -> Clip:
    """A clip, kept open for its next window as long as it is the same file."""
    return _cached_open(path, path.stat().st_mtime_ns) if path.is_file() else Clip.open(path)


@lru_cache(maxsize=16)
def _cached_open(path: Path, _written_ns: int) -> Clip:
    return Clip.open(path)
