"""Sync of lips and sound: how far the measure without a network can be trusted, and what SyncNet costs.

    python benchmarks/sync.py speed                     SyncNet's embeddings, sliding against window by window
    python benchmarks/sync.py trials --data DIR ...     delays found again, halves of a clip, sound of other clips
    python benchmarks/sync.py fit --data DIR ... --out FILE   the weights of metrics/mouth_sync.py anew

DIR is a corpus prepared with `--features moonshine`; trials are worth something on people whom the fit has not seen.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import median_time, parser, table, write_json
from safetensors.numpy import save_file
from scipy.signal import butter, sosfiltfilt

from stsa_lightning.data.clip import Clip
from stsa_lightning.data.index import clip_path, load_index
from stsa_lightning.face.heatmaps import inner_lip_aperture
from stsa_lightning.features.base import FEATURE_RATE_HZ, feature_windows
from stsa_lightning.metrics import mouth_sync
from stsa_lightning.models.syncnet import STEPS_PER_FRAME, WINDOW_FRAMES, WINDOW_STEPS, SyncNet

# Offsets that are known, frames: of SyncNet's own example, and of a corpus recorded in a studio (GRID). The measure's
# zero is theirs.
KNOWN = {"spk35_01": 3, **{f"spk{n}_01": 0 for n in (37, 38, 39, 41, 43, 44, 45, 46)}}
DELAYS = range(-12, 13, 2)
LONG = 60  # frames of a clip that tells its own offset; shorter ones of a speaker tell theirs together
RIDGE = 0.3  # of the mean of the normal equations' diagonal
ROUNDS = 3


@dataclass
class Recording:
    """Lips and sound of a clip: quick changes of the inner aperture (F,) over their deviation, features (steps, D)."""

    name: str
    speaker: str
    lip_aperture: np.ndarray
    mouth: np.ndarray
    features: np.ndarray
    known: float | None


def recordings(folders: list[Path]) -> list[Recording]:
    """All clips of prepared corpora; their sound as it was in the video, whatever preparation moved."""
    found = []
    for folder in folders:
        for row in load_index(folder).itertuples():
            clip = Clip.open(clip_path(folder, row.clip))
            aperture = np.where(clip.valid, inner_lip_aperture(clip.face_landmarks), np.nan)
            frames, seen = np.arange(len(aperture)), np.isfinite(aperture)
            mouth = mouth_sync.quick_changes(np.interp(frames, frames[seen], aperture[seen]))
            sound = _moved(clip.features("moonshine").astype(np.float32), -2 * row.sync_shift)
            known = KNOWN.get(Path(row.clip).name)
            found.append(Recording(row.clip, row.speaker, aperture, mouth / max(mouth.std(), 1e-6), sound, known))
    return found


def _moved(features: np.ndarray, steps: int) -> np.ndarray:
    """Features of the same sound, so many steps of 20 ms later."""
    return features[np.clip(np.arange(len(features)) - steps, 0, len(features) - 1)]


def fit(clips: list[Recording]) -> np.ndarray:
    """Ridge regression of the lip aperture on the sound, (D, 10); everybody weighs as the root of how long they speak.

    Each clip's offset is found meanwhile, by the weights of the round before; at first all are taken to be in sync.
    """
    frames = defaultdict(int)
    for clip in clips:
        frames[clip.speaker] += len(clip.mouth)
    offsets = {clip.name: 0.0 for clip in clips}
    for _ in range(ROUNDS):
        weights = _regression(clips, offsets, {s: n**-0.5 for s, n in frames.items()})
        offsets = _offsets(clips, weights)
        print(f"{len(offsets)} of {len(clips)} clips; median offset {np.median(list(offsets.values())):+.2f} frames")
    return _regression(clips, offsets, {s: n**-0.5 for s, n in frames.items()})


def _regression(clips: list[Recording], offsets: dict[str, float], importance: dict[str, float]) -> np.ndarray:
    high_pass = butter(2, mouth_sync.SLOWEST_HZ, "highpass", fs=FEATURE_RATE_HZ, output="sos")
    size = clips[0].features.shape[1] * mouth_sync.WINDOW_STEPS
    products, sums = np.zeros((size, size)), np.zeros(size)
    for clip in clips:
        if clip.name in offsets:
            sound = _moved(clip.features, round(2 * offsets[clip.name]))
            sound = sosfiltfilt(high_pass, sound, axis=0, padlen=min(len(sound) - 1, 15))
            windows = feature_windows(sound, np.arange(len(clip.mouth))).reshape(-1, size)
            products += importance[clip.speaker] * (windows.T @ windows)
            sums += importance[clip.speaker] * (windows.T @ clip.mouth)
    ridge = RIDGE * np.trace(products) / size
    return np.linalg.solve(products + ridge * np.eye(size), sums).reshape(-1, mouth_sync.WINDOW_STEPS)


def _offsets(clips: list[Recording], weights: np.ndarray) -> dict[str, float]:
    """Frames by which each clip's sound is early, where that is clear; the known ones are right on average."""
    groups = defaultdict(list)
    for clip in clips:
        groups[clip.name if len(clip.mouth) >= LONG else clip.speaker].append(clip)
    found = {}
    for members in groups.values():
        offset, confidence = mouth_sync.best_shift(sum(_curve(clip, weights) for clip in members))
        if confidence >= mouth_sync.CLEAR_CONFIDENCE * len(members) ** 0.5:
            found.update({clip.name: offset for clip in members})
    zero = np.mean([found[clip.name] - clip.known for clip in clips if clip.known is not None and clip.name in found])
    return {name: offset - zero for name, offset in found.items()}


def _curve(clip: Recording, weights: np.ndarray | None = None, delay: int = 0) -> np.ndarray:
    """The measure's clearness at every shift, with weights of one's own, the sound `delay` frames later."""
    weights = mouth_sync.aperture_weights() if weights is None else weights
    sound = _moved(clip.features, 2 * delay)
    predicted = mouth_sync.quick_changes(mouth_sync.predicted_aperture(sound, len(clip.mouth), weights))
    return mouth_sync.clearness(clip.mouth, predicted, np.isfinite(clip.lip_aperture))


def trials(clips: list[Recording]) -> dict[str, Any]:
    """Every clip of three seconds and more with its sound moved by every delay, in halves, and with others' sound."""
    clips = [clip for clip in clips if len(clip.mouth) >= 75]
    own = [mouth_sync.best_shift(_curve(clip)) for clip in clips]
    moved = [
        (abs(offset - (here - delay)), confidence)
        for clip, (here, _) in zip(clips, own, strict=True)
        for delay in DELAYS
        for offset, confidence in [mouth_sync.best_shift(_curve(clip, delay=delay))]
        if abs(here - delay) < mouth_sync.MAX_SHIFT - 1
    ]
    halves = [_halves(clip) for clip in clips if len(clip.mouth) >= 120]
    others = [
        mouth_sync.best_shift(_curve(Recording("", "", a.lip_aperture, a.mouth, _length(b, a), None)))[1]
        for a in clips
        for b in clips
        if a.speaker != b.speaker
    ]
    error, confidence = np.array(moved).T
    unrelated = np.array(others)
    rows = []
    for threshold in (0.0, 4.0, 5.0, 5.5, 6.0, 7.0, 8.0):
        clear = confidence >= threshold
        apart = np.array([abs(a - b) for a, b, least in halves if least >= threshold] or [np.nan])
        shares = [clear, error[clear] > 1, apart <= 1, unrelated >= threshold]
        rows.append([threshold, *(float(share.mean()) for share in shares), len(apart)])
    print(f"{len(clips)} clips, {len(error)} trials, {len(halves)} pairs of halves, {len(others)} with others' sound")
    head = ["confidence from", "trials above", "off by > 1 frame", "halves within 1", "others' sound above", "pairs"]
    print(table(head, rows))
    each = [
        [clip.name, "" if clip.known is None else clip.known, *found] for clip, found in zip(clips, own, strict=True)
    ]
    print(table(["clip", "known", "offset", "confidence"], each))
    return {"clips": len(clips), "trials": len(error), "unrelated": len(others), "rows": rows}


def _halves(clip: Recording) -> tuple[float, float, float]:
    """Offsets of both halves, and the smaller confidence."""
    middle = len(clip.mouth) // 2
    parts = [slice(0, middle), slice(middle, None)]
    found = []
    for part in parts:
        sound = clip.features[2 * part.start : None if part.stop is None else 2 * part.stop]
        found.append(
            mouth_sync.best_shift(_curve(Recording("", "", clip.lip_aperture[part], clip.mouth[part], sound, None)))
        )
    return found[0][0], found[1][0], min(found[0][1], found[1][1])


def _length(sound: Recording, lips: Recording) -> np.ndarray:
    """Another clip's sound, as long as this one's lips."""
    return np.resize(sound.features, (2 * len(lips.mouth), sound.features.shape[1]))


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
    options.add_argument("--data", type=Path, nargs="+", help="prepared corpora with the features moonshine")
    options.add_argument("--out", type=Path, help="where fit writes the weights")
    chosen = options.parse_args()
    if chosen.what != "speed" and not chosen.data:
        options.error(f"{chosen.what} needs --data")
    if chosen.what == "fit" and not chosen.out:
        options.error("fit needs --out")
    if chosen.what == "speed":
        figures: dict[str, Any] = speed(chosen.runs)
    elif chosen.what == "trials":
        figures = trials(recordings(chosen.data))
    else:
        weights = fit(recordings(chosen.data)).astype(np.float16)
        save_file({"weights": weights}, chosen.out)
        figures = {"shape": list(weights.shape)}
    if chosen.json:
        write_json(chosen.json, figures)


if __name__ == "__main__":
    main()
