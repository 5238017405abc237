"""The loop of an evaluation: each clip's values are saved as soon as they are known, so that it can be resumed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from stsa_lightning.data.clip import encode_picture
from stsa_lightning.evaluation.clip_sample import GROUND_TRUTH, ClipSample, FindLandmarks, Prediction
from stsa_lightning.evaluation.metrics.columns import MetricValue
from stsa_lightning.evaluation.metrics.registry import MetricSuite
from stsa_lightning.evaluation.pictures import strip
from stsa_lightning.metrics.perceptual import FVD, FrechetDistance
from stsa_lightning.utils.errors import UserError
from stsa_lightning.utils.files import written_whole
from stsa_lightning.utils.progress_bar import progress_bar

# task -> method -> column -> value, or the reason why there is none.
Values = dict[str, dict[str, dict[str, MetricValue]]]
Reasons = dict[str, dict[str, dict[str, str]]]


@dataclass
class ClipScores:
    """The results of one clip. By task: number of `frames` scored, `pictures` of the comparison (JPEG)."""

    clip: str
    speaker: str
    frames: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    values: Values = field(default_factory=dict)
    reasons: Reasons = field(default_factory=dict)
    features: dict[str, np.ndarray] = field(default_factory=dict)
    pictures: dict[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class Job:
    """A clip to evaluate. `identity` changes when its files do; `samples` reads it and generates the predictions."""

    name: str
    identity: str
    samples: Callable[[], list[ClipSample]]


def score_clip(
    name: str, samples: Sequence[ClipSample], suite: MetricSuite, find: FindLandmarks, device: str = "cpu"
) -> ClipScores:
    """Measure all predictions for one clip, of each task."""
    scores = ClipScores(name, samples[0].speaker)
    find = _once(find)  # both tasks have the same ground truth and the same baselines
    for sample in samples:
        scores.notes += [note for note in sample.notes if note not in scores.notes]
        ground_truth = Prediction(sample, GROUND_TRUTH, find, device=device)
        predictions = {
            method: Prediction(sample, method, find, ground_truth, device)
            for method in sample.predictions
            if method != GROUND_TRUTH
        }
        values, reasons = scores.values.setdefault(sample.task, {}), scores.reasons.setdefault(sample.task, {})
        for method, prediction in {**predictions, GROUND_TRUTH: ground_truth}.items():
            values[method], reasons[method] = suite.measure(prediction)
            for column, metric in suite.set_metrics.items():
                scores.features[feature_key(sample.task, method, column)] = _features(metric, prediction)
        scores.frames[sample.task] = int(sample.scored.sum())
        scores.pictures[sample.task] = encode_picture(strip(sample, predictions[sample.main], ground_truth))
    return scores


@torch.inference_mode()
def _features(metric: FrechetDistance, prediction: Prediction) -> np.ndarray:
    samples = [metric.features(generated).cpu().numpy() for generated, _ in prediction.images(10 * FVD.WINDOW)]
    return np.concatenate(samples).astype(np.float16)


def _once(find: FindLandmarks) -> FindLandmarks:
    """Cache the result for each array, which is kept alive so that its id is not used again."""
    found: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def cached(faces: np.ndarray) -> np.ndarray:
        if id(faces) not in found:
            found[id(faces)] = faces, find(faces)
        return found[id(faces)][1]

    return cached


def feature_key(task: str, method: str, column: str) -> str:
    return f"{task}|{method}|{column}"


def score_all(
    jobs: Sequence[Job], settings: dict[str, Any], suite: MetricSuite, find: FindLandmarks, parts: Path, device: str
) -> tuple[list[ClipScores], list[str]]:
    """Measure every clip; results of an interrupted run with the same settings are taken from `parts`.

    Features of whole-set metrics stay on disk; see `saved_features`.

    Returns:
        The clips' scores, and a line for each clip that could not be measured.
    """
    done, failed = [], []
    with progress_bar(stays=True) as bar:
        for job in bar.track(jobs, description="measuring"):
            path = parts / f"{part_key(job, settings)}.json"
            scores = _load(path)
            if scores is None:
                try:
                    scores = score_clip(job.name, job.samples(), suite, find, device)
                except (UserError, FileNotFoundError) as error:
                    failed.append(f"{job.name}: not measured: {error}")
                    continue
                _save(path, scores)
            scores.features = {}
            done.append(scores)
    return done, failed


def part_key(job: Job, settings: dict[str, Any]) -> str:
    """Name of the files with a clip's results; it changes with the clip and with the settings."""
    text = json.dumps([settings, job.name, job.identity], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def saved_features(parts: Path, job: Job, settings: dict[str, Any], keys: Sequence[str]) -> list[torch.Tensor]:
    """(frames, D) float16 of a clip for each `feature_key`; nothing if the clip was not measured under that task."""
    path = parts / f"{part_key(job, settings)}.npz"
    if not path.is_file():
        return []
    with np.load(path) as arrays:
        return [torch.from_numpy(arrays[key]) for key in keys] if all(key in arrays for key in keys) else []


def _save(path: Path, scores: ClipScores) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)  # not before: nothing measured leaves nothing behind
    if scores.features:
        with written_whole(path.with_suffix(".npz")) as part, open(part, "wb") as file:
            np.savez(file, **cast(dict[str, Any], scores.features))
    for task, picture in scores.pictures.items():
        with written_whole(path.with_suffix(f".{task}.jpg")) as part:
            part.write_bytes(picture)
    record = {name: getattr(scores, name) for name in ("clip", "speaker", "frames", "notes", "values", "reasons")} | {
        "tasks": list(scores.pictures)
    }
    with written_whole(path) as part:  # last: with it the clip is done
        part.write_text(json.dumps(record))


def _load(path: Path) -> ClipScores | None:
    if not path.is_file():
        return None
    record = json.loads(path.read_text())
    tasks = record.pop("tasks")
    record["values"] = {
        task: {method: {name: MetricValue(*f) for name, f in row.items()} for method, row in rows.items()}
        for task, rows in record["values"].items()
    }
    pictures = {task: path.with_suffix(f".{task}.jpg").read_bytes() for task in tasks}
    return ClipScores(**record, pictures=pictures)
