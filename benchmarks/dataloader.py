"""Windows per second out of a prepared corpus: with 0, 1 and 2 workers, and where the time of a window goes.

    python benchmarks/dataloader.py --data CORPUS [--sizes 128 256] [--json FILE]

Windows are those of training: 5 frames and 5 references of random clips, all heatmaps. Without `--data` a sample with
faces of 256 px is rendered first (about a minute). Stages are in milliseconds of processor time for one window;
`augment` is every augmentation at strength 1, which the windows per second do not contain.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from common import machine, median_time, parser, table, write_json
from torch.utils.data import DataLoader, default_collate

from stsa_lightning.data.augment import AugmentSettings
from stsa_lightning.data.clip import Clip
from stsa_lightning.data.index import clip_path, load_index
from stsa_lightning.data.windows import WindowDataset, planes
from stsa_lightning.face.heatmaps import draw_all_kinds, draw_heatmaps

BATCH = 8
STAGES = ("open", "decode", "heatmaps", "to float", "audio", "collate", "augment")
_AUGMENTED = AugmentSettings(mirror=True, geometry=1.0, colour=1.0, resolution=1.0, jpeg=1.0)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--data", type=Path, metavar="ROOT", help="a prepared corpus; without it, the sample")
    options.add_argument("--sizes", type=int, nargs="+", default=[128, 256], help="sides of the faces, pixels")
    options.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2], help="worker processes to try")
    options.add_argument("--windows", type=int, default=400, help="windows of one timing (400)")
    arguments = options.parse_args()
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        root = arguments.data or _sample(Path(folder))
        index = load_index(root)
        clips = index.loc[(index["status"] == "ok") & (index["longest_run"] >= 5), "clip"].tolist()
        stored = Clip.open(clip_path(root, clips[0])).meta.face_size
        print(
            f"{machine()}\n{len(clips)} clips with faces of {stored} px, windows of 5 + 5 frames, batches of {BATCH}\n"
        )
        figures = {
            str(size): _measure(root, clips, size, arguments.workers, arguments.windows, arguments.runs)
            for size in arguments.sizes
            if size <= stored
        }
    _print(figures, arguments.workers)
    if arguments.json:
        write_json(arguments.json, {"stored_px": stored, "clips": len(clips), "batch": BATCH, "sizes": figures})


def _sample(folder: Path) -> Path:
    command = [sys.executable, "-m", "stsa_lightning", "prepare", "sample", "--out", str(folder), "--face-size", "256"]
    subprocess.run([*command, "--speakers", "3", "--clips", "1"], check=True)
    return folder


def _measure(root: Path, clips: list[str], size: int, workers: list[int], windows: int, runs: int) -> dict[str, Any]:
    per_clip = -(-windows // len(clips))
    dataset = WindowDataset(root, clips, face_size=size, windows_per_clip=per_clip)
    rates = {str(count): _rate(dataset, count, runs) for count in workers}
    return {"windows_per_s": rates, "stages_ms": _stages(dataset, runs)}


def _rate(dataset: WindowDataset, workers: int, runs: int) -> float:
    loader = DataLoader(
        dataset,
        batch_size=BATCH,
        shuffle=True,
        num_workers=workers,
        persistent_workers=workers > 0,
        worker_init_fn=_one_thread,
    )
    return len(dataset) / median_time(lambda: [None for _ in loader], runs)


def _one_thread(_worker: int) -> None:
    cv2.setNumThreads(0)


def _stages(dataset: WindowDataset, runs: int) -> dict[str, float]:
    """Milliseconds of processor time for one window, the least of several runs: others may be at work beside."""
    path = clip_path(dataset.root, str(dataset.clips[0]))
    clip = Clip.open(path)
    rng = np.random.default_rng(0)
    chosen = rng.choice(np.flatnonzero(clip.valid), 10)
    faces = clip.faces(chosen, dataset.face_size)
    landmarks = clip.face_landmarks_of(chosen)
    items = [dataset[i] for i in range(min(BATCH, len(dataset)))]

    def opened() -> None:
        fresh = Clip.open(path)
        _ = fresh.valid, fresh.boxes, fresh.face_landmarks_of(chosen)

    def heatmaps() -> None:
        draw_all_kinds(landmarks[:5], dataset.face_size)
        draw_heatmaps(landmarks[5:], "whole", dataset.face_size)

    stages: tuple[Callable[[], Any], ...] = (
        opened,
        lambda: clip.faces(chosen, dataset.face_size),
        heatmaps,
        lambda: planes(faces),
        lambda: dataset._audio(clip, int(chosen[0]), rng),
        lambda: default_collate(items),
        lambda: _AUGMENTED.pictures(faces, landmarks, rng),
    )
    figures = {name: _processor_ms(stage, runs) for name, stage in zip(STAGES, stages, strict=True)}
    figures["collate"] /= len(items)
    return figures | {"whole window": _processor_ms(lambda: [dataset[1, i] for i in range(BATCH)], runs) / BATCH}


def _processor_ms(fn: Callable[[], Any], runs: int, calls: int = 20) -> float:
    fn()
    times = []
    for _ in range(max(runs, 5)):
        begun = time.process_time()
        for _ in range(calls):
            fn()
        times.append((time.process_time() - begun) / calls)
    return 1000 * min(times)


def _print(figures: dict[str, Any], workers: list[int]) -> None:
    head = [f"{size} px" for size in figures]
    rates = []
    for count in workers:
        found = [of_size["windows_per_s"][str(count)] for of_size in figures.values()]
        rates.append([f"{count} workers", *found])
        if count > 1:
            rates.append([f"{count} workers, each", *(rate / count for rate in found)])
    print(table(["windows/s", *head], rates))
    names = list(next(iter(figures.values()))["stages_ms"])
    rows = [[name, *(of_size["stages_ms"][name] for of_size in figures.values())] for name in names]
    print("\n" + table(["ms of processor time", *head], rows))


if __name__ == "__main__":
    main()
