"""Covered mouths: clean frames that are taken for covered, and drawn covers that are not.

    python benchmarks/occlusion.py CLIP ... [--frames 100] [--covers [KIND ...]] [--during FIRST STOP]

Clips show a face whose mouth is free. Frames that pass through are counted by their reason; with `--covers`, the frames
that would be re-rendered behind each cover of `covers.py`, or behind those named, drawn onto all of them or onto some.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
from common import parser, table, write_json
from covers import COVERS, covered

from stsa_lightning.dubbing import Faces
from stsa_lightning.dubbing.face_selection import FaceSelector
from stsa_lightning.dubbing.face_track import REASONS
from stsa_lightning.face.landmarks import landmark_detector
from stsa_lightning.media.video import VideoReader


def faces_in(frames: np.ndarray, fps: float) -> Faces:
    """What dubbing finds in frames (F, H, W, 3)."""
    with FaceSelector("largest") as selector:
        for frame in frames:
            selector.update(np.ascontiguousarray(frame))
        return selector.finish(np.arange(len(frames)) / fps, fps, frames.shape[2:0:-1], None, steady=True)


def drawn_over(frames: np.ndarray, kind: str, during: slice) -> np.ndarray:
    """A cover before the mouth in those of the frames that show a face."""
    detector = landmark_detector()
    found = [detector(frame) for frame in frames]
    detector.close()
    drawn = frames.copy()
    for number in range(len(frames))[during]:
        if (points := found[number]) is not None:
            drawn[number] = covered(frames[number], points, kind)
    return drawn


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("clips", nargs="+", type=Path)
    arguments.add_argument("--frames", type=int, default=100, help="of each clip, from its first on")
    arguments.add_argument(
        "--covers", nargs="*", choices=COVERS, metavar="KIND", help="draw covers, too: all, or these"
    )
    arguments.add_argument(
        "--during", nargs=2, type=int, default=(0, None), help="frames that are covered (default: all)"
    )
    options = arguments.parse_args()
    covers = () if options.covers is None else options.covers or COVERS
    during = slice(*options.during)
    reasons, shown, seen, hidden = Counter[str](), Counter[str](), 0, 0
    for clip in options.clips:
        with VideoReader(clip) as reader:
            frames, fps = reader.get(range(min(options.frames, len(reader)))), float(reader.fps)
        counts = Counter(REASONS[i] for i in faces_in(frames, fps).why)
        reasons, seen, hidden = reasons + counts, seen + len(frames), hidden + len(frames[during])
        if counts["rendered"] < len(frames):
            print(clip.name, dict(counts), flush=True)
        for kind in covers:
            shown[kind] += int((faces_in(drawn_over(frames, kind, during), fps).why[during] == 0).sum())
    print(table(["reason", "frames", "share"], [[name, n, n / seen] for name, n in reasons.items()]))
    if covers:
        print(table(["cover", "re-rendered", "share"], [[kind, shown[kind], shown[kind] / hidden] for kind in covers]))
    if options.json:
        write_json(options.json, {"frames": seen, "reasons": reasons, "re-rendered": shown})


if __name__ == "__main__":
    main()
