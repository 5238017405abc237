"""Sync of lips and sound: how far the measure without a network can be trusted, and what SyncNet costs.

    python benchmarks/sync.py speed                  SyncNet's embeddings, sliding against window by window
    python benchmarks/sync.py trials --corpus DIR    delays found again, sound of other clips refused
    python benchmarks/sync.py fit --corpus DIR       the weights of metrics/mouth_sync.py anew

DIR holds MANIFEST.json (a list `files` with `file` and `av_sync`) and the clips. Trials use, for each clip, weights
fitted without its speaker.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import median_time, parser, table, write_json

from stsa_lightning.face.heatmaps import inner_lip_aperture
from stsa_lightning.face.landmarks import landmark_detector
from stsa_lightning.media.audio import load_audio
from stsa_lightning.media.video import VideoReader
from stsa_lightning.metrics import mouth_sync as filters
from stsa_lightning.models.syncnet import STEPS_PER_FRAME, WINDOW_FRAMES, WINDOW_STEPS, SyncNet

LATE = {"spk23_01": -3, "spk24_01": -6, "spk24_03": -4, "spk35_01": 3}  # clips known to be off, frames
DELAYS = range(-12, 13, 2)
RIDGE = 300.0
SEARCH = 2  # frames by which a clip's own offset is refined while fitting

Clip = tuple[np.ndarray, np.ndarray, int]  # lip aperture (F,), wave, offset


def load_clips(corpus: Path) -> dict[str, Clip]:
    """Clips whose lips and sound belong together, by name."""
    clips = {}
    for entry in json.loads((corpus / "MANIFEST.json").read_text())["files"]:
        path = corpus / entry["file"]
        if path.stem in LATE or str(entry.get("av_sync")).startswith("supported"):
            clips[path.stem] = (_lip_aperture(path), load_audio(path), LATE.get(path.stem, 0))
    return clips


def _lip_aperture(path: Path) -> np.ndarray:
    detector = landmark_detector()
    with VideoReader(path, fps=25) as reader:
        found = [detector(frame) for block in reader.blocks() for frame in block]
    detector.close()
    missing = np.full((131, 2), np.nan, np.float32)
    landmarks = np.stack([missing if points is None else points for points in found])
    return inner_lip_aperture(landmarks) / np.nanmedian(np.ptp(landmarks, axis=1)[:, 1])


def fit(clips: list[Clip]) -> np.ndarray:
    """Ridge regression of the lip aperture on the sound, each clip's offset refined to within two frames meanwhile."""
    mouths, sounds = [], []
    for lip_aperture, wave, _ in clips:
        frames = np.arange(len(lip_aperture))
        seen = np.isfinite(lip_aperture)
        mouth = filters.quick_changes(np.interp(frames, frames[seen], lip_aperture[seen]))
        sound = filters.quick_changes(filters.band_energies(wave, len(lip_aperture)))
        mouths.append(mouth / mouth.std())
        sounds.append(filters.neighbours(sound / np.sqrt((sound**2).mean())))
    offsets = [known for _, _, known in clips]
    for _ in range(3):
        pairs = [(np.roll(s, o, axis=0)[8:-8], m[8:-8]) for s, m, o in zip(sounds, mouths, offsets, strict=True)]
        x, y = (np.concatenate(parts) for parts in zip(*pairs, strict=True))
        weights = np.linalg.solve(x.T @ x + RIDGE * np.eye(x.shape[1]), x.T @ y)
        for i, (sound, mouth, clip) in enumerate(zip(sounds, mouths, clips, strict=True)):
            near = range(clip[2] - SEARCH, clip[2] + SEARCH + 1)
            offsets[i] = max(near, key=lambda o: mouth[8:-8] @ np.roll(sound @ weights, o)[8:-8])
    return weights.reshape(filters.WEIGHTS.shape)


def trials(clips: dict[str, Clip]) -> dict[str, Any]:
    """Every clip with its sound moved by every delay, and with the sound of others."""
    shipped = filters.WEIGHTS.copy()
    errors, confidences, false = [], [], []
    names = list(clips)
    for i, name in enumerate(names):
        speaker = name.split("_")[0]
        filters.WEIGHTS[:] = fit([c for n, c in clips.items() if n.split("_")[0] != speaker])
        lip_aperture, wave, known = clips[name]
        for delay in (d for d in DELAYS if abs(known - d) < filters.MAX_SHIFT):
            offset, confidence = filters.lip_aperture_sync(lip_aperture, filters.shift_sound(wave, delay))
            errors.append(abs(offset - (known - delay)))
            confidences.append(confidence)
        others = [names[(i + step) % len(names)] for step in range(2, len(names) - 1, 2)]
        false += [filters.lip_aperture_sync(lip_aperture, clips[other][1])[1] for other in others]
    filters.WEIGHTS[:] = shipped
    error, confidence, unrelated = np.array(errors), np.array(confidences), np.array(false)
    thresholds = (0.0, 3.0, 4.0, 5.0, filters.CLEAR_CONFIDENCE, 6.0, 7.0)
    rows = []
    for threshold in thresholds:
        clear = confidence >= threshold
        shares = [clear, error[clear] > 2, error[clear] > 3, unrelated >= threshold]
        rows.append([threshold, *(float(share.mean()) for share in shares)])
    print(f"{len(clips)} clips, {len(error)} trials, {len(unrelated)} with the sound of another clip")
    head = ["confidence from", "trials above", "of these off by > 2 frames", "by > 3 frames", "unrelated sound above"]
    print(table(head, rows))
    return {"clips": len(clips), "trials": len(error), "unrelated": len(unrelated), "rows": rows}


@torch.inference_mode()
def speed(runs: int) -> dict[str, float]:
    """Seconds for 1 s of picture and of sound: as `SyncNet` does it, and window by window."""
    network = SyncNet()
    frames = torch.rand(25 + WINDOW_FRAMES - 1, 3, 224, 224) * 255
    mfcc = torch.randn(13, 24 * STEPS_PER_FRAME + WINDOW_STEPS)

    def lip_windows() -> None:
        for start in range(25):
            network.lip(frames[start : start + WINDOW_FRAMES])

    def speech_windows() -> None:
        for start in range(0, 25 * STEPS_PER_FRAME, STEPS_PER_FRAME):
            network.speech(mfcc[:, start : start + WINDOW_STEPS])

    figures = {
        "lip, sliding": median_time(lambda: network.lip(frames), runs),
        "lip, window by window": median_time(lip_windows, runs),
        "speech, together": median_time(lambda: network.speech(mfcc), runs),
        "speech, window by window": median_time(speech_windows, runs),
    }
    print(table(["25 windows", "s"], list(figures.items())))
    return figures


def main() -> None:
    options = parser(__doc__, runs=3)
    options.add_argument("what", choices=["speed", "trials", "fit"])
    options.add_argument("--corpus", type=Path, help="folder with MANIFEST.json")
    chosen = options.parse_args()
    if chosen.what != "speed" and chosen.corpus is None:
        options.error(f"{chosen.what} needs --corpus")
    if chosen.what == "speed":
        figures: dict[str, Any] = speed(chosen.runs)
    elif chosen.what == "trials":
        figures = trials(load_clips(chosen.corpus))
    else:
        figures = {"weights": fit(list(load_clips(chosen.corpus).values())).round(3).tolist()}
        print("\n".join(map(str, figures["weights"])))
    if chosen.json:
        write_json(chosen.json, figures)


if __name__ == "__main__":
    main()
