"""A picture strip: heads of a dub below the source's and above those of whoever says it.

    python benchmarks/strip.py VIDEO SPEAKER -o strip.png        # SPEAKER: a video whose sound VIDEO is to say

Frames are those in which the speaker's lips are farthest apart and closest, in turn: where a dub shows what it can.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from stsa_lightning.dubbing import Dubber
from stsa_lightning.face.heatmaps import outer_lip_aperture
from stsa_lightning.face.landmarks import landmark_detector
from stsa_lightning.media.video import VideoReader
from stsa_lightning.models import BUNDLED
from stsa_lightning.utils.files import written_whole

ROWS = ("source", "dubbed", "says it")
APART = 6  # frames, at least, between two that are shown


def extremes(aperture: np.ndarray, count: int) -> list[int]:
    """Frames of wide and of closed lips in turn, none near another, in order of time."""
    left, chosen = aperture.copy(), []
    for number in range(count):
        best = int(np.nanargmin(left) if number % 2 else np.nanargmax(left))
        chosen.append(best)
        left[max(0, best - APART + 1) : best + APART] = np.nan
    return sorted(chosen)


def followed(frames: Sequence[np.ndarray] | np.ndarray) -> list[np.ndarray | None]:
    """Landmarks (131, 2) of each frame's face."""
    detector = landmark_detector()
    points = [detector(frame) for frame in frames]
    detector.close()
    return points


def labelled(picture: np.ndarray, text: str, width: int) -> np.ndarray:
    """A row of pictures with its name at the left."""
    name = np.full((len(picture), width, 3), 255, np.uint8)
    cv2.putText(name, text, (6, len(picture) // 2), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (60, 60, 60), 1, cv2.LINE_AA)
    return np.concatenate([name, picture], axis=1)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("video", type=Path)
    options.add_argument("speaker", type=Path)
    options.add_argument("-o", "--out", type=Path, required=True)
    options.add_argument("--checkpoint", type=Path, default=BUNDLED)
    options.add_argument("--count", type=int, default=8, help="frames shown (8)")
    options.add_argument("--size", type=int, default=112, help="side of one, pixels (112)")
    chosen = options.parse_args()
    with VideoReader(chosen.video) as reader:
        source = reader.get(range(len(reader)))
    with VideoReader(chosen.speaker) as reader:
        says = reader.get(range(len(reader)))
    dubbed = list(Dubber.from_checkpoint(chosen.checkpoint).frames(chosen.video, chosen.speaker))
    count = min(len(source), len(dubbed), len(says))
    source_points, points = (followed(frames[:count]) for frames in (source, says))
    aperture = np.array([np.nan if p is None else float(outer_lip_aperture(p[None])[0]) for p in points])
    aperture[[i for i, p in enumerate(source_points) if p is None]] = np.nan
    frames = extremes(aperture, chosen.count)

    def row(pictures: Sequence[np.ndarray] | np.ndarray, where: list[np.ndarray | None]) -> np.ndarray:
        found = [p for i in frames if (p := where[i]) is not None]
        side = round(1.4 * float(np.median([np.ptp(p, axis=0).max() for p in found])))
        heads = [
            cv2.getRectSubPix(pictures[i], (side, side), p.mean(axis=0)) for i, p in zip(frames, found, strict=True)
        ]
        shown = cv2.INTER_AREA if side > chosen.size else cv2.INTER_CUBIC
        return np.concatenate([cv2.resize(head, (chosen.size,) * 2, interpolation=shown) for head in heads], axis=1)

    videos = row(source, source_points), row(dubbed, source_points), row(says, points)
    rows = [labelled(video, name, 64) for name, video in zip(ROWS, videos, strict=True)]
    sheet = np.concatenate(rows)
    with written_whole(chosen.out) as part:
        part.write_bytes(cv2.imencode(chosen.out.suffix, cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))[1].tobytes())


if __name__ == "__main__":
    main()
