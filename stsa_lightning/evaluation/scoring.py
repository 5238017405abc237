"""The loop of an evaluation: clip after clip, each one's figures kept on disk as soon as they are known."""

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
from stsa_lightning.evaluation.clip_result import TRUTH, Case, FindLandmarks, View
from stsa_lightning.evaluation.metrics.columns import Figure
from stsa_lightning.evaluation.metrics.registry import Bench
from stsa_lightning.evaluation.pictures import strip
from stsa_lightning.metrics.perceptual import FVD, FrechetDistance
from stsa_lightning.utils.errors import UserError
from stsa_lightning.utils.files import written_whole

# task -> answer -> column -> figure, or the reason why there is none.
Figures = dict[str, dict[str, dict[str, Figure]]]
Reasons = dict[str, dict[str, dict[str, str]]]


@dataclass
class ClipScores:
    """Everything that is kept of one clip. By task: ``frames`` scored, ``pictures`` side by side (JPEG)."""

    clip: str
    speaker: str
    frames: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    figures: Figures = field(default_factory=dict)
    reasons: Reasons = field(default_factory=dict)
    features: dict[str, np.ndarray] = field(default_factory=dict)
    pictures: dict[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class Pending:
    """A clip that is to be measured. ``identity`` changes when its contents do; ``cases`` reads and draws it."""

    name: str
    identity: str
    cases: Callable[[], list[Case]]


def score_clip(name: str, cases: Sequence[Case], bench: Bench, find: FindLandmarks, device: str = "cpu") -> ClipScores:
    """Measure all answers to one clip, of each task."""
    scores = ClipScores(name, cases[0].speaker)
    find = _once(find)  # both tasks have the same truth and the same trivial answers
    for case in cases:
        scores.notes += [note for note in case.notes if note not in scores.notes]
        truth = View(case, TRUTH, find, device=device)
        views = {answer: View(case, answer, find, truth, device) for answer in case.answers if answer != TRUTH}
        figures, reasons = scores.figures.setdefault(case.task, {}), scores.reasons.setdefault(case.task, {})
        for answer, view in {**views, TRUTH: truth}.items():
            figures[answer], reasons[answer] = bench.measure(view)
            for column, meter in bench.set_meters.items():
                scores.features[feature_key(case.task, answer, column)] = _features(meter, view)
        scores.frames[case.task] = int(case.scored.sum())
        scores.pictures[case.task] = encode_picture(strip(case, views[case.main], truth))
    return scores


@torch.inference_mode()
def _features(meter: FrechetDistance, view: View) -> np.ndarray:
    samples = [meter.features(generated).cpu().numpy() for generated, _ in view.images(10 * FVD.WINDOW)]
    return np.concatenate(samples).astype(np.float16)


def _once(find: FindLandmarks) -> FindLandmarks:
    """The same for the same array, which stays alive as long as what is returned here."""
    found: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def look(faces: np.ndarray) -> np.ndarray:
        if id(faces) not in found:
            found[id(faces)] = faces, find(faces)
        return found[id(faces)][1]

    return look


def feature_key(task: str, answer: str, column: str) -> str:
    return f"{task}|{answer}|{column}"


def score_all(
    pending: Sequence[Pending], settings: dict[str, Any], bench: Bench, find: FindLandmarks, parts: Path, device: str
) -> tuple[list[ClipScores], list[str]]:
    """Measure every clip, taking over what an interrupted run with the same settings left in `parts`.

    Features of whole-set metrics stay on disk; see `kept_features`.

    Returns:
        The clips' scores, and a line for each clip that could not be measured.
    """
    # Imported here: training scores clips too, on machines without it.
    from rich.progress import track

    parts.mkdir(parents=True, exist_ok=True)
    done, failed = [], []
    for clip in track(pending, description="measuring"):
        path = parts / f"{part_key(clip, settings)}.json"
        scores = _load(path)
        if scores is None:
            try:
                scores = score_clip(clip.name, clip.cases(), bench, find, device)
            except (UserError, FileNotFoundError) as error:
                failed.append(f"{clip.name}: not measured: {error}")
                continue
            _save(path, scores)
        scores.features = {}
        done.append(scores)
    return done, failed


def part_key(clip: Pending, settings: dict[str, Any]) -> str:
    """Names what is kept of a clip: another clip or other settings, another name."""
    text = json.dumps([settings, clip.name, clip.identity], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def kept_features(parts: Path, clip: Pending, settings: dict[str, Any]) -> dict[str, np.ndarray]:
    """`feature_key` -> (frames, D) float16 of a measured clip."""
    path = parts / f"{part_key(clip, settings)}.npz"
    if not path.is_file():
        return {}
    with np.load(path) as arrays:
        return dict(arrays)


def _save(path: Path, scores: ClipScores) -> None:
    if scores.features:
        with written_whole(path.with_suffix(".npz")) as part, open(part, "wb") as file:
            np.savez(file, **cast(dict[str, Any], scores.features))
    for task, picture in scores.pictures.items():
        with written_whole(path.with_suffix(f".{task}.jpg")) as part:
            part.write_bytes(picture)
    record = {name: getattr(scores, name) for name in ("clip", "speaker", "frames", "notes", "figures", "reasons")} | {
        "tasks": list(scores.pictures)
    }
    with written_whole(path) as part:  # last: with it the clip is done
        part.write_text(json.dumps(record))


def _load(path: Path) -> ClipScores | None:
    if not path.is_file():
        return None
    record = json.loads(path.read_text())
    tasks = record.pop("tasks")
    record["figures"] = {
        task: {answer: {name: Figure(*f) for name, f in row.items()} for answer, row in rows.items()}
        for task, rows in record["figures"].items()
    }
    pictures = {task: path.with_suffix(f".{task}.jpg").read_bytes() for task in tasks}
    return ClipScores(**record, pictures=pictures)
