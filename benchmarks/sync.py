"""Sync of lips and sound: how far the measure without a network can be trusted, and what SyncNet costs.

    python benchmarks/sync.py speed                     SyncNet's embeddings, sliding against window by window
    python benchmarks/sync.py trials --data DIR ...     delays found again, halves of a clip, sound of other clips
    python benchmarks/sync.py fit --data DIR ... --out FILE   the weights of metrics/mouth_sync.py anew

DIR is a corpus prepared with `--features moonshine`; trials are worth something on people whom the fit has not seen.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import median_time, parser, table, write_json
from safetensors.numpy import save_file

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
    """Lips and sound of a clip: inner aperture (F,), its quick changes over their deviation, features (steps, D)."""

    name: str
    speaker: str
    lip_aperture: np.ndarray
    mouth: np.ndarray
    features: np.ndarray
    known: float | None

    def part(self, first: int, stop: int) -> Recording:
        frames, steps = slice(first, stop), slice(2 * first, 2 * stop)
        lip_aperture, mouth, features = self.lip_aperture[frames], self.mouth[frames], self.features[steps]
        return replace(self, lip_aperture=lip_aperture, mouth=mouth, features=features)

    def clearness(self, weights: np.ndarray, delay: int = 0) -> np.ndarray:
        """See `mouth_sync.clearness`: by these weights, the sound `delay` frames later."""
        sound = _moved(self.features, 2 * delay)
        predicted = mouth_sync.quick_changes(mouth_sync.predicted_aperture(sound, len(self.mouth), weights))
        return mouth_sync.clearness(self.mouth, predicted, np.isfinite(self.lip_aperture))


def recordings(folders: list[Path]) -> list[Recording]:
    """All clips of prepared corpora; their sound as it was in the video, whatever preparation moved."""
    found = []
    for folder in folders:
        index = load_index(folder)
        for name, speaker, shift in zip(index["clip"], index["speaker"], index["sync_shift"], strict=True):
            clip = Clip.open(clip_path(folder, name))
            aperture = np.where(clip.valid, inner_lip_aperture(clip.face_landmarks), np.nan)
            mouth = mouth_sync.mouth_changes(aperture)
            sound = _moved(clip.features("moonshine").astype(np.float32), -2 * shift)
            known = KNOWN.get(Path(name).name)
            found.append(Recording(name, speaker, aperture, mouth / max(mouth.std(), 1e-6), sound, known))
    return found


def _moved(features: np.ndarray, steps: int) -> np.ndarray:
    """Features of the same sound, so many steps of 20 ms later."""
    return features[np.clip(np.arange(len(features)) - steps, 0, len(features) - 1)]


def fit(clips: list[Recording]) -> np.ndarray:
    """Ridge regression of the lip aperture on the sound, (D, 10); everybody weighs as the root of how long they speak.

    Each clip's offset is found meanwhile, by the weights of the round before; at first all are taken to be in sync.
    """
    frames = Counter[str]()
    for clip in clips:
        frames[clip.speaker] += len(clip.mouth)
    importance = {speaker: count**-0.5 for speaker, count in frames.items()}
    weights = _regression(clips, {clip.name: 0.0 for clip in clips}, importance)
    for _ in range(ROUNDS):
        offsets = _offsets(clips, weights)
        print(f"{len(offsets)} of {len(clips)} clips; median offset {np.median(list(offsets.values())):+.2f} frames")
        weights = _regression(clips, offsets, importance)
    return weights


def _regression(clips: list[Recording], offsets: dict[str, float], importance: dict[str, float]) -> np.ndarray:
    size = clips[0].features.shape[1] * mouth_sync.WINDOW_STEPS
    products, sums = np.zeros((size, size)), np.zeros(size)
    for clip in clips:
        if clip.name in offsets:
            sound = _moved(clip.features, round(2 * offsets[clip.name]))
            sound = mouth_sync.quick_changes(sound, FEATURE_RATE_HZ)
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
        offset, confidence = mouth_sync.best_shift(np.sum([clip.clearness(weights) for clip in members], axis=0))
        if confidence >= mouth_sync.CLEAR_CONFIDENCE * len(members) ** 0.5:
            found.update({clip.name: offset for clip in members})
    zero = np.mean([found[clip.name] - clip.known for clip in clips if clip.known is not None and clip.name in found])
    return {name: offset - zero for name, offset in found.items()}


def trials(clips: list[Recording]) -> dict[str, Any]:
    """Every clip of three seconds and more with its sound moved by every delay, in halves, and with others' sound."""
    clips = [clip for clip in clips if len(clip.mouth) >= 75]

    def reading(clip: Recording, delay: int = 0) -> tuple[float, float]:
        return mouth_sync.best_shift(clip.clearness(mouth_sync.aperture_weights(), delay))

    own = [reading(clip) for clip in clips]
    errors, confidences = [], []
    for clip, (here, _) in zip(clips, own, strict=True):
        for delay in DELAYS:
            if abs(here - delay) < mouth_sync.MAX_SHIFT - 1:
                offset, sure = reading(clip, delay)
                errors.append(abs(offset - (here - delay)))
                confidences.append(sure)
    halves = []
    for clip in clips:
        if len(clip.mouth) >= 120:
            middle = len(clip.mouth) // 2
            one, other = reading(clip.part(0, middle)), reading(clip.part(middle, len(clip.mouth)))
            halves.append((abs(one[0] - other[0]), min(one[1], other[1])))
    pairs = ((lips, sound) for lips in clips for sound in clips if lips.speaker != sound.speaker)
    others = [reading(replace(lips, features=_as_long_as(lips, sound.features)))[1] for lips, sound in pairs]
    error, confidence, unrelated = np.array(errors), np.array(confidences), np.array(others)
    rows = []
    for threshold in (0.0, 4.0, 5.0, 5.5, 6.0, 7.0, 8.0):
        clear = confidence >= threshold
        apart = np.array([between for between, least in halves if least >= threshold] or [np.nan])
        shares = [clear, error[clear] > 1, apart <= 1, unrelated >= threshold]
        rows.append([threshold, *(float(share.mean()) for share in shares), len(apart)])
    print(f"{len(clips)} clips, {len(errors)} trials, {len(halves)} pairs of halves, {len(others)} with others' sound")
    head = ["confidence from", "trials above", "off by > 1 frame", "halves within 1", "others' sound above", "pairs"]
    print(table(head, rows))
    print(table(["clip", "offset", "confidence"], [[c.name, *found] for c, found in zip(clips, own, strict=True)]))
    return {"clips": len(clips), "trials": len(errors), "unrelated": len(others), "rows": rows}


def _as_long_as(lips: Recording, features: np.ndarray) -> np.ndarray:
    """Another clip's sound, as long as these lips."""
    return np.resize(features, (2 * len(lips.mouth), features.shape[1]))


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
