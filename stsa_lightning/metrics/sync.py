"""Lips and sound: LSE-D, LSE-C and offset of SyncNet v2.

A positive offset: the sound is early, as in `metrics.mouth_sync`, which needs no weights.

LSE-D and LSE-C are taken at the best shift, so neither sees a constant delay: print the offset beside them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from stsa_lightning.constants import SAMPLE_RATE_HZ, SAMPLES_PER_FRAME
from stsa_lightning.face.upright_box import UprightBox
from stsa_lightning.metrics.base import Summed
from stsa_lightning.metrics.mouth_sync import MAX_SHIFT
from stsa_lightning.models.syncnet import PICTURE_PX, WINDOW_FRAMES, SyncNet
from stsa_lightning.utils.errors import UserError, check_choice, required

PADDING_VALUE = 110  # outside the picture, in the tracked variant
SMOOTHING_FRAMES = 13
CROP_SCALE = 0.4
BLOCK_FRAMES = 20

Variant = Literal["lrs", "tracked"]


# ---------------------------------------------------------------------------------------------------------------- score


@dataclass(frozen=True)
class SyncScore:
    """What SyncNet says of one clip.

    Attributes:
        lse_d: mean distance of lips and sound at the best shift; lower is better.
        lse_c: median of the mean distances over all shifts, minus the least; higher is better.
        offset: frames by which the sound is early (negative: late).
        frames: windows of five frames that entered.
        distances: (2 max_shift + 1,) mean distance at each shift; entry i compares the mouth of frame t with the sound
            of frame t + i - max_shift.
    """

    lse_d: float
    lse_c: float
    offset: int
    frames: int
    distances: np.ndarray


def sync_score(lip: Tensor, speech: Tensor, max_shift: int = MAX_SHIFT) -> SyncScore:
    """Score of one clip from its embeddings, (W, 1024) each; where the sound ends, zeros stand for it, as released.

    Raises:
        ValueError: other shapes, no window at all, or a negative `max_shift`.
    """
    if lip.dim() != 2 or lip.shape != speech.shape or not len(lip):
        raise ValueError(f"lip and speech must both be (W, D), W >= 1, got {tuple(lip.shape)}, {tuple(speech.shape)}")
    if max_shift < 0:
        raise ValueError(f"max_shift must be 0 frames or more, got {max_shift}")
    padded = F.pad(speech, (0, 0, max_shift, max_shift))
    shifts = range(2 * max_shift + 1)
    distances = torch.stack([F.pairwise_distance(lip, padded[i : i + len(lip)]).mean() for i in shifts])
    best = int(distances.argmin())
    return SyncScore(
        lse_d=float(distances[best]),
        lse_c=float(distances.median() - distances[best]),
        offset=max_shift - best,
        frames=len(lip),
        distances=distances.detach().cpu().numpy(),
    )


def speech_mfcc(wave: np.ndarray) -> Tensor:
    """SyncNet's MFCC: (samples,) float in [-1, 1] at 16 kHz -> (13, steps) float32 at 100 Hz, of 16-bit samples.

    Raises:
        MissingPackageError: python_speech_features is not installed.
    """
    mfcc = required("python_speech_features", "LSE-D and LSE-C: pip install python_speech_features").mfcc
    pcm = np.clip(np.round(np.asarray(wave, np.float64) * 32768), -32768, 32767).astype(np.int16)
    return torch.from_numpy(mfcc(pcm, SAMPLE_RATE_HZ).T.astype(np.float32))


# ---------------------------------------------------------------------------------------------------------------- clips


def tracked_boxes(boxes: np.ndarray) -> np.ndarray:
    """Squares of the `tracked` variant: the face's box, median filtered over 13 frames and widened by 0.4.

    The square begins at the top of the box's own square and reaches as far below it as both margins together. As in
    the released pipeline the filter takes zeros beyond the ends, so that the first and the last squares are a little
    smaller. Boxes (F, 4) are of the face, pixels, forehead to chin; NaN rows (no face) are interpolated.

    Returns:
        (F, 4) int64 x0, y0, x1, y1; may leave the picture.

    Raises:
        UserError: fewer than 13 frames, or no face in any.
    """
    from scipy.signal import medfilt

    boxes = np.asarray(boxes, np.float64)
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(f"boxes must be (F, 4), got {boxes.shape}")
    found = np.isfinite(boxes).all(axis=1)
    if len(boxes) < SMOOTHING_FRAMES or not found.any():
        raise UserError(
            f"the tracked variant needs {SMOOTHING_FRAMES} frames or more with a face in some of them, got "
            f"{len(boxes)} frames, {found.sum()} with a face"
        )
    frames = np.arange(len(boxes))
    x0, y0, x1, y1 = (np.interp(frames, frames[found], edge[found]) for edge in boxes.T)
    half, x, y = (
        medfilt(values, SMOOTHING_FRAMES) for values in (np.maximum(x1 - x0, y1 - y0) / 2, (x0 + x1) / 2, (y0 + y1) / 2)
    )
    reach = half * (1 + CROP_SCALE)
    squares = [x - reach, y - half, x + reach, y + half * (1 + 2 * CROP_SCALE)]
    return np.floor(np.stack(squares, axis=1)).astype(np.int64)


def crop_tracked(frames: np.ndarray, squares: np.ndarray, degrees: np.ndarray | None = None) -> np.ndarray:
    """Cut `tracked_boxes` out of their frames: (n, H, W, 3) uint8 and (n, 4) -> (n, 224, 224, 3) uint8.

    What lies outside the picture has the value 110. Where a head is tilted by `degrees` (n,), its square is upright,
    see `face.upright_box.UprightBox`, and filled up with the picture's outermost pixels.
    """
    if len(frames) != len(squares):
        raise ValueError(f"one square for each frame, got {len(squares)} for {len(frames)} frames")
    crops = np.empty((len(frames), PICTURE_PX, PICTURE_PX, 3), np.uint8)
    turns = np.zeros(len(squares)) if degrees is None else degrees
    for crop, frame, (x0, y0, x1, y1), turn in zip(crops, frames, np.asarray(squares).tolist(), turns, strict=True):
        if turn:
            crop[:] = UprightBox(np.array([x0, y0, x1, y1]), float(turn)).crop(frame, PICTURE_PX)
            continue
        height, width = frame.shape[:2]
        square = np.full((y1 - y0, x1 - x0, 3), PADDING_VALUE, np.uint8)
        top, bottom, left, right = max(y0, 0), min(y1, height), max(x0, 0), min(x1, width)
        if top < bottom and left < right:
            square[top - y0 : bottom - y0, left - x0 : right - x0] = frame[top:bottom, left:right]
        cv2.resize(square, (PICTURE_PX, PICTURE_PX), dst=crop)
    return crops


class SyncMeter:
    """Score of one clip whose frames come in blocks; of each frame its 4 kB embedding is kept, not the picture.

    Args:
        network: from `models.syncnet.load_syncnet`, on the device that shall do the work.
        variant: "lrs", whole frames squashed to 224 x 224 (right for face-centred clips alone); "tracked", crops that
            `crop_tracked` made.
    """

    def __init__(self, network: SyncNet, variant: Variant = "lrs") -> None:
        check_choice("variant", variant, get_args(Variant))
        self.network, self.variant = network, variant
        self._reset()

    def _reset(self) -> None:
        self._waiting = np.zeros((0, PICTURE_PX, PICTURE_PX, 3), np.uint8)
        self._embeddings: list[Tensor] = []
        self._frames = 0

    def update(self, frames: np.ndarray) -> None:
        """The clip's next frames at 25/s: (n, H, W, 3) uint8 RGB; (n, 224, 224, 3) in the tracked variant."""
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3:
            raise ValueError(f"frames must be (n, H, W, 3) uint8 RGB, got {frames.dtype} {frames.shape}")
        if self.variant == "tracked" and frames.shape[1:3] != (PICTURE_PX, PICTURE_PX):
            raise ValueError(f"the tracked variant takes crops of 224 x 224 (see crop_tracked), got {frames.shape}")
        self._frames += len(frames)
        for start in range(0, len(frames), BLOCK_FRAMES):
            block = [_squashed(frame) for frame in frames[start : start + BLOCK_FRAMES]]
            self._waiting = np.concatenate([self._waiting, block])
            if len(self._waiting) >= BLOCK_FRAMES + WINDOW_FRAMES - 1:
                self._embed()

    @torch.inference_mode()
    def _embed(self) -> None:
        device = next(self.network.parameters()).device
        bgr = torch.from_numpy(np.ascontiguousarray(self._waiting[..., ::-1])).to(device)
        self._embeddings.append(self.network.lip(bgr.permute(0, 3, 1, 2).float()).cpu())
        self._waiting = self._waiting[-(WINDOW_FRAMES - 1) :]

    @torch.inference_mode()
    def finish(self, wave: np.ndarray, max_shift: int = MAX_SHIFT) -> SyncScore:
        """The score of the frames given so far against their sound; the meter is then ready for the next clip.

        Args:
            wave: (samples,) float in [-1, 1] at 16 kHz; sample 0 sounds when the first frame is shown.

        Raises:
            UserError: less than six frames of picture or of sound.
        """
        windows = (
            min(self._frames, len(wave) // SAMPLES_PER_FRAME) - WINDOW_FRAMES
        )  # one less than there are, as released
        if windows < 1:
            frames = self._frames
            self._reset()
            raise UserError(
                f"SyncNet needs {WINDOW_FRAMES + 1} frames (0.24 s) of picture and sound or more, got {frames} frames "
                f"and {len(wave)} samples of sound"
            )
        if len(self._waiting) >= WINDOW_FRAMES:
            self._embed()
        lip = torch.cat(self._embeddings)[:windows]
        self._reset()
        device = next(self.network.parameters()).device
        mfcc = speech_mfcc(wave[: (windows + WINDOW_FRAMES) * SAMPLES_PER_FRAME])
        speech = self.network.speech(mfcc.to(device)).cpu()[:windows]
        return sync_score(lip, speech, max_shift)


def _squashed(frame: np.ndarray) -> np.ndarray:
    return frame if frame.shape[:2] == (PICTURE_PX, PICTURE_PX) else cv2.resize(frame, (PICTURE_PX, PICTURE_PX))


class SyncScores(Summed):
    """Mean LSE-D and LSE-C over clips, and how their offsets lie; exact over any number of ranks.

    `compute` gives `lse_d`, `lse_c` (means over clips; NaN when there are none), `offset_abs` (mean of
    |offset|, frames), `offsets` (2 max_shift + 1,), clips at each offset, the first at -max_shift; `clips`,
    `frames`.
    """

    total_d: Tensor
    total_c: Tensor
    offsets: Tensor
    frames: Tensor

    def __init__(self, max_shift: int = MAX_SHIFT, **kwargs) -> None:
        super().__init__(**kwargs)
        self.max_shift = max_shift
        self._add_sums(["total_d", "total_c"], ["frames"])
        self.add_state("offsets", torch.zeros(2 * max_shift + 1, dtype=torch.long), dist_reduce_fx="sum")

    def update(self, score: SyncScore) -> None:
        if abs(score.offset) > self.max_shift:
            raise ValueError(f"offset must lie within {self.max_shift} frames, got {score.offset}; raise max_shift")
        self.total_d += score.lse_d
        self.total_c += score.lse_c
        self.offsets[score.offset + self.max_shift] += 1
        self.frames += score.frames

    def compute(self) -> dict[str, Tensor]:
        clips = self.offsets.sum()
        distances = torch.arange(-self.max_shift, self.max_shift + 1, device=self.offsets.device).abs()
        return {
            "lse_d": (self.total_d / clips).float(),
            "lse_c": (self.total_c / clips).float(),
            "offset_abs": (distances * self.offsets).sum() / clips,
            "offsets": self.offsets.clone(),
            "clips": clips,
            "frames": self.frames.clone(),
        }
