"""Generated faces at the frame's own resolution: the references' own pixels, moved as the network moves them.

The temporal path says where in the references each pixel of a face comes from. Read there at their own resolution, they
have the skin, lips and teeth that the network's small faces cannot show; of the small face the rest is taken: colours,
shading, and what no reference shows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from stsa_lightning.face.blend import each_colour, largest_colour

LARGEST_SIDE = 512  # pixels; larger faces are rendered at this size and enlarged
_CONTEXT_ROWS = 6  # of the network's face, above its middle: what smoothing at the middle reaches
# The small face corrects the warped references with what is wider than this, in pixels of the network's face; finer, it
# is blurred itself. On four people LPIPS fell by 31 % at 0.6, 34 % at 1.3 and 33 % at 3, PSNR by 0.17, 0.28, 0.38 dB.
_SMOOTHING_SIGMA = 1.3
AGREE_LEVELS, AGREE_SIGMA = 40.0, 1.5  # levels by which both may differ; beyond, the network painted something else


@dataclass(frozen=True)
class FaceWarp:
    """Where one generated face is read in each of its N references.

    Attributes:
        flow: (N, 2, R, S) pixels of the network's face, x then y; the last R of its S rows.
        confidence: (N, R, S), above 0: the references' weights.
        theta: (N, 2, 3) similarity transforms that carry places of the face, from -1 to 1, to those of each reference.
    """

    flow: np.ndarray
    confidence: np.ndarray
    theta: np.ndarray


def native_size(box: np.ndarray, face_size: int, largest: int) -> tuple[int, int] | None:
    """Width and height at which the face in a box is rendered, neither above `largest`; None: at the network's size.

    Args:
        box: (4,) x0, y0, x1, y1.
        face_size: side S of the network's faces.
        largest: pixels.
    """
    size = _at_most((int(box[2] - box[0]), int(box[3] - box[1])), largest)
    return size if min(size) > face_size else None


def for_reading(face: np.ndarray) -> np.ndarray:
    """A reference as `native_face` wants it: twice as large.

    Read bilinearly there it loses 1 % of LPIPS against bicubic reading, which takes 3.5 times as long, and unenlarged
    6 %.
    """
    return cv2.resize(face, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC)


def shrunk(face: np.ndarray, largest: int) -> np.ndarray:
    """A face (h, w, 3) uint8 as it is, or with its larger side made `largest` pixels."""
    own = face.shape[1], face.shape[0]
    size = _at_most(own, largest)
    return face if size == own else cv2.resize(face, size, interpolation=cv2.INTER_AREA)


def _at_most(size: tuple[int, int], largest: int) -> tuple[int, int]:
    """Width and height, in proportion, neither above `largest`."""
    scale = min(1.0, largest / max(size))
    return max(1, round(scale * size[0])), max(1, round(scale * size[1]))


def last_rows(face_size: int) -> int:
    """How many of a face's S rows `native_face` needs the flow of: the half that is generated, and a few above."""
    return min(face_size, face_size // 2 + _CONTEXT_ROWS)


def native_face(
    face: np.ndarray, warp: FaceWarp, references: Sequence[np.ndarray], size: tuple[int, int]
) -> np.ndarray:
    """A generated face at another size, its lower half with the detail of its references.

    Args:
        face: (S, S, 3) uint8, as the network generated it.
        warp: where it is read in the references.
        references: N faces (h, w, 3) uint8 of any sizes, each what lies in its own box, see `for_reading`.
        size: width and height of the result, S or more each.

    Returns:
        (height, width, 3) uint8.
    """
    side, rows = len(face), warp.flow.shape[-2]
    top = -(-(side - rows) * size[1] // side)  # the first row that is wholly warped
    mean = _warped_mean(warp, references, size, top)
    levels = face.astype(np.float32)
    own, warped = levels[side - rows :], _reduced(mean, side, size[1])[side - rows :]
    if rows < side:
        warped[0] = warped[1]  # partly of rows that are not warped
    agrees = _agreement(own, warped)
    whole = cv2.resize(levels, size, interpolation=cv2.INTER_CUBIC)
    low = whole[top:]
    mean += _enlarged(_smoothed(own - warped, min(size) / side), size, top) - low
    low += each_colour(_enlarged(agrees, size, top)) * mean
    return np.clip(np.rint(whole, out=whole), 0, 255, out=whole).astype(np.uint8)


def sampling_grid(
    flow: np.ndarray, theta: np.ndarray, size: tuple[int, int], reference: tuple[int, int], top: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Where each pixel of a face lies in a reference: the similarity transform after the flow, composed once.

    Args:
        flow: (2, R, S) pixels, the last R of S rows.
        theta: (2, 3), see `FaceWarp`.
        size: width and height of the face.
        reference: width and height of the reference.
        top: first row of the face wanted.

    Returns:
        x and y, (height - top, width) float32 each, pixels of the reference, 0 the middle of its first one.
    """
    half = np.divide(reference, 2, dtype=np.float32)
    moved = _displacement(np.asarray(flow, np.float32))
    # Places are linear in themselves: only what the network adds to them has to be enlarged.
    own = [(2 * np.arange(count, dtype=np.float32) + 1) / count - 1 for count in size]
    places = []
    for (a, b, c), scale in zip((theta * half[:, None]).tolist(), half.tolist(), strict=True):
        place = _enlarged(a * moved[0] + b * moved[1], size, top)
        place += a * own[0]
        place += (b * own[1][top:] + (c + scale - 0.5))[:, None]
        places.append(place)
    return places[0], places[1]


def _displacement(flow: np.ndarray) -> np.ndarray:
    """(2, R, S): how far from itself each pixel is read, in coordinates from -1 to 1, see `temporal_path.deformation`.

    The network's own pixels lie on `linspace(-1, 1)` and are read where half a pixel is left at the rims.
    """
    rows, side = flow.shape[1:]
    off = np.linspace(-1, 1, side, dtype=np.float32) - (2 * np.arange(side, dtype=np.float32) + 1) / side + 1
    moved = flow * np.float32(2 / (side - 1))
    moved[0] += off
    moved[1] += off[side - rows :, None]
    return moved


def _warped_mean(warp: FaceWarp, references: Sequence[np.ndarray], size: tuple[int, int], top: int) -> np.ndarray:
    """(height - top, width, 3) float32: the references' mean by confidence."""
    confidence = np.asarray(warp.confidence, np.float32)
    shares = confidence / np.maximum(confidence.sum(0), 1e-6)
    mean = np.zeros((size[1] - top, size[0], 3), np.float32)
    for flow, theta, share, reference in zip(warp.flow, warp.theta, shares, references, strict=True):
        grid = sampling_grid(flow, theta, size, (reference.shape[1], reference.shape[0]), top)
        moved = cv2.remap(reference, *grid, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        mean += cv2.multiply(moved, each_colour(_enlarged(share, size, top)), dtype=cv2.CV_32F)
    return mean


def _enlarged(rows: np.ndarray, size: tuple[int, int], top: int) -> np.ndarray:
    """The last R rows (R, S[, C]) of a map, or all, enlarged to `size`: its rows from `top` on."""
    missing = rows.shape[1] - len(rows)
    whole = cv2.copyMakeBorder(rows, missing, 0, 0, 0, cv2.BORDER_REPLICATE) if missing else rows
    return cv2.resize(whole, size, interpolation=cv2.INTER_LINEAR)[top:]


def _reduced(rows: np.ndarray, side: int, height: int) -> np.ndarray:
    """The last rows of a face of some height, as the network would see them: (side, side, 3), above them no meaning."""
    whole = cv2.copyMakeBorder(rows, height - len(rows), 0, 0, 0, cv2.BORDER_REPLICATE)
    return cv2.resize(whole, (side, side), interpolation=cv2.INTER_AREA)


def smoothing_sigma(times: float) -> float:
    """Of a face enlarged so many times; hardly enlarged, the network's own detail is kept, as at its own size."""
    return _SMOOTHING_SIGMA * min(1.0, 2 * (times - 1))


def _smoothed(correction: np.ndarray, times: float) -> np.ndarray:
    sigma = smoothing_sigma(times)
    return cv2.GaussianBlur(correction, (0, 0), sigma) if sigma > 0.1 else correction


def _agreement(face: np.ndarray, warped: np.ndarray) -> np.ndarray:
    """(R, S) in [0, 1]: where the network's face shows what the warped references show."""
    apart = cv2.GaussianBlur(largest_colour(cv2.absdiff(face, warped)), (0, 0), AGREE_SIGMA)
    return np.exp(-np.square(apart / AGREE_LEVELS))
