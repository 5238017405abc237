"""What x264's presets cost and give, on real frames: one run, in turns.

    python benchmarks/encoding.py VIDEO... --frames 100

For each preset and CRF: processor time a frame over that of `medium` at 16, the file's size over that of the same, and
PSNR against the frames given. Encoding runs beside the drawing of faces, so its processor time is what counts.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from common import machine, parser, table, write_json
from skimage.metrics import mean_squared_error

from stsa_lightning.media.video import VideoReader, VideoWriter

YARDSTICK = ("medium", 16)
CHOICES = (YARDSTICK, ("fast", 16), ("faster", 16), ("veryfast", 16), ("veryfast", 15), ("superfast", 14))


def frames_of(path: Path, count: int) -> np.ndarray:
    with VideoReader(path) as reader:
        frames = reader.get(range(min(count, len(reader))))
    height, width = (side - side % 2 for side in frames.shape[1:3])
    return np.ascontiguousarray(frames[:, :height, :width])


def encoded(frames: np.ndarray, preset: str, crf: int, path: Path) -> float:
    """Processor seconds of all threads."""
    begun = time.process_time()
    with VideoWriter(path, 25, (frames.shape[2], frames.shape[1]), preset=preset, crf=crf) as writer:
        writer.write(frames)
    return time.process_time() - begun


def psnr_db(frames: np.ndarray, path: Path) -> float:
    with VideoReader(path) as reader:
        errors = [mean_squared_error(frame, reader.get([i])[0]) for i, frame in enumerate(frames)]
    return float(10 * np.log10(255**2 / np.mean(errors)))


def measure(frames: np.ndarray, runs: int) -> list[tuple[Any, ...]]:
    with TemporaryDirectory() as folder:
        files = {choice: Path(folder, f"{choice[0]}{choice[1]}.mp4") for choice in CHOICES}
        rounds = [{choice: encoded(frames, *choice, files[choice]) for choice in CHOICES} for _ in range(runs)]
        seconds = {choice: statistics.median(taken[choice] for taken in rounds) for choice in CHOICES}
        sizes = {choice: file.stat().st_size for choice, file in files.items()}
        return [
            (
                *choice,
                seconds[choice] / seconds[YARDSTICK],
                sizes[choice] / sizes[YARDSTICK],
                round(psnr_db(frames, files[choice]), 2),
            )
            for choice in CHOICES
        ]


def main() -> None:
    options = parser(__doc__, runs=3)
    options.add_argument("videos", nargs="+", type=Path)
    options.add_argument("--frames", type=int, default=100, help="of each video (100)")
    chosen = options.parse_args()
    figures: dict[str, Any] = {}
    print(machine())
    for video in chosen.videos:
        frames = frames_of(video, chosen.frames)
        rows = measure(frames, chosen.runs)
        name = f"{video.stem}, {frames.shape[2]} x {frames.shape[1]}"
        print(f"\n{name}\n{table(['preset', 'CRF', 'processor time', 'size', 'PSNR (dB)'], rows)}")
        figures[name] = rows
    if chosen.json:
        write_json(chosen.json, figures)


if __name__ == "__main__":
    main()
