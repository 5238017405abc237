"""Do predicted lips follow the speech, whoever says it, and rest where nobody speaks? The guidance network alone.

    python benchmarks/guidance.py CHECKPOINT ... --data CORPUS [--windows 24] [--others 2] [--json FILE]

CORPUS holds prepared clips of people whom the networks never saw, sound in sync. Keypoints of windows spread over each
clip are predicted under its own speech, under that of clips of other people, and under what is no speech: digital
silence, noise, and breath, which training with `data.quiet_share` does not have. Printed, as means over people: within
a clip, the correlation of predicted and true outer aperture, inner aperture and width of the mouth; how far lips stand
open, and move (from 5 to 95 % of what is seen), without speech, over the same under speech; of other people's speech,
the correlation with the lips of whoever says it, and how often lips are shut (a fifth of their wide aperture, or less)
where that one's are, and elsewhere. With several checkpoints the last column is the last one less the first, with its
95 % interval over people.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from common import parser, table, write_json
from pauses import RMS, at_level, sounds
from torch import Tensor
from torch.utils.data import default_collate

from stsa_lightning.constants import SAMPLE_RATE_HZ
from stsa_lightning.data.index import load_index
from stsa_lightning.data.windows import Batch, WindowDataset
from stsa_lightning.evaluation.report.intervals import interval
from stsa_lightning.face.heatmaps import lip_measures
from stsa_lightning.face.topology import KEYPOINT_POSITIONS, LANDMARKS
from stsa_lightning.features.base import FEATURE_RATE_HZ, feature_windows
from stsa_lightning.features.build import audio_features
from stsa_lightning.models.checkpoint import load_networks
from stsa_lightning.models.guidance import Guidance

MEASURES = ("outer aperture", "inner aperture", "width")
SHUT = 0.2  # of the 95 % quantile of the inner aperture
SECONDS = 4


def without_speech() -> dict[str, np.ndarray]:
    """Waves of four seconds, by their names; levels in decibels of full scale."""
    made, samples, speech_db = sounds(None), SECONDS * SAMPLE_RATE_HZ, 20 * np.log10(RMS)
    waves = {"silence": np.zeros(samples)}
    waves |= {f"noise {db} dB": at_level(made["noise"](samples), db - speech_db) for db in (-60, -40, -25)}
    waves["breath -40 dB"] = at_level(made["breath"](samples), -40 - speech_db)
    return {name: wave.astype(np.float32) for name, wave in waves.items()}


def lips(keypoints: Tensor) -> np.ndarray:
    """Keypoints (n, T, 2, 57) -> `MEASURES` (n, 3) of the windows' centre frames."""
    landmarks = np.zeros((len(keypoints), len(LANDMARKS), 2))
    landmarks[:, KEYPOINT_POSITIONS] = keypoints[:, keypoints.shape[1] // 2].numpy().transpose(0, 2, 1)
    return lip_measures(landmarks)


@torch.inference_mode()
def predicted(guidance: Guidance, windows: Batch, audio: Tensor) -> np.ndarray:
    """`lips` of these windows under some audio windows, (n, T, D, 10)."""
    return lips(guidance(audio, windows["masked_heatmaps"], windows["reference_heatmaps"]).keypoints)


def correlations(found: np.ndarray, true: np.ndarray) -> list[float]:
    return [float(np.corrcoef(found[:, i], true[:, i])[0, 1]) for i in range(len(MEASURES))]


def shut(values: np.ndarray) -> np.ndarray:
    """(n, 3) -> (n,) bool."""
    return values[:, 1] <= SHUT * np.quantile(values[:, 1], 0.95)


def span(values: np.ndarray) -> float:
    return float(np.subtract(*np.quantile(values[:, 1], (0.95, 0.05))))


def measured(path: str, data: str, count: int, others: int) -> dict[str, np.ndarray]:
    """Each figure of a checkpoint, (people,)."""
    guidance, synthesis, meta = load_networks(path)
    guidance.eval()
    index = load_index(data)
    names = index.loc[index["valid_frames"] >= count, "clip"].tolist()
    speakers = dict(zip(index["clip"], index["speaker"], strict=True))
    options = {
        "features": meta["features"],
        "face_size": guidance.face_size,
        "num_frames": int(meta["num_frames"]),
        "num_references": synthesis.num_references,
        "heatmap_sigma": float(meta.get("heatmap_sigma", 1.0)),
    }

    def windows(name: str) -> Batch:
        dataset = WindowDataset(
            data, [name], **options, windows_per_clip=count, window_policy="even", reference_policy="aperture"
        )
        return default_collate([dataset[i] for i in range(count)])

    extractor = audio_features(meta["features"])
    places = np.linspace(10, SECONDS * FEATURE_RATE_HZ / 2 - 10, count).round()[:, None]
    times = places + np.arange(options["num_frames"]) - options["num_frames"] // 2
    quiet = {
        name: torch.from_numpy(feature_windows(extractor(wave), times.ravel())).unflatten(0, times.shape)
        for name, wave in without_speech().items()
    }
    spoken = {}  # by clip: audio windows, and the lips that say them
    for name in names:
        said = windows(name)
        spoken[name] = said["audio"], lips(said["keypoints"])
    people: defaultdict[str, list[dict[str, float]]] = defaultdict(list)
    for number, name in enumerate(names):
        here = windows(name)
        audio, true = spoken[name]
        own = predicted(guidance, here, audio)
        row = dict(zip([f"own speech, {m} r" for m in MEASURES], correlations(own, true), strict=True))
        row |= {f"deviation over the true one, {m}": own[:, i].std() / true[:, i].std() for i, m in enumerate(MEASURES)}
        resting = {kind: predicted(guidance, here, sound) for kind, sound in quiet.items()}
        row |= {f"open in {kind}": values[:, 1].mean() / own[:, 1].mean() for kind, values in resting.items()}
        row |= {f"moving in {kind}": span(values) / span(own) for kind, values in resting.items()}
        people[speakers[name]].append(row)
        strangers = [other for other in names if speakers[other] != speakers[name]]
        for turn in range(min(others, len(strangers))):
            audio, theirs = spoken[strangers[(7 * number + 3 + turn * len(strangers) // others) % len(strangers)]]
            driven = predicted(guidance, here, audio)
            row = dict(zip([f"other speech, {m} r" for m in MEASURES], correlations(driven, theirs), strict=True))
            # A mouth that never shuts, or always is, has no such share.
            row["shut where the speaker is"] = shut(driven)[shut(theirs)].mean() if shut(theirs).any() else np.nan
            row["shut elsewhere"] = shut(driven)[~shut(theirs)].mean()
            people[speakers[name]].append(row)
    keys = dict.fromkeys(key for rows in people.values() for row in rows for key in row)
    return {key: np.array([_mean([row.get(key, np.nan) for row in rows]) for rows in people.values()]) for key in keys}


def _mean(values: list[float]) -> float:
    known = [value for value in values if np.isfinite(value)]
    return float(np.mean(known)) if known else np.nan


def _text(values: np.ndarray) -> str:
    low, high = interval(values, np.ones(len(values)))
    return f"{np.nanmean(values):.2f} ({low:.2f} to {high:.2f})"


def main() -> None:
    options = parser(__doc__)
    options.add_argument("checkpoints", nargs="+", metavar="CHECKPOINT", help="networks, .safetensors or .ckpt")
    options.add_argument("--data", required=True, metavar="CORPUS", help="folder that `stsa prepare` wrote")
    options.add_argument("--windows", type=int, default=24, help="of each clip (24)")
    options.add_argument("--others", type=int, default=2, help="clips of other people that each clip is driven by (2)")
    arguments = options.parse_args()
    figures = {
        path: measured(path, arguments.data, arguments.windows, arguments.others) for path in arguments.checkpoints
    }
    first, last = figures[arguments.checkpoints[0]], figures[arguments.checkpoints[-1]]
    rows = []
    for key in first:
        compared = [_text(last[key] - first[key])] if len(figures) > 1 else []
        rows.append([key, *(_text(each[key]) for each in figures.values()), *compared])
    print(f"{len(next(iter(first.values())))} people")
    print(table(["", *(Path(path).stem for path in figures), *(["difference"] if len(figures) > 1 else [])], rows))
    if arguments.json:
        record = {path: {key: values.tolist() for key, values in each.items()} for path, each in figures.items()}
        write_json(arguments.json, record)


if __name__ == "__main__":
    main()
