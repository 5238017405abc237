"""Reports made by hand, for tests of what puts several side by side."""

from __future__ import annotations

import math
from typing import Any

from stsa_lightning.evaluation.metrics.columns import Column, MetricValue
from stsa_lightning.evaluation.report.report import Report, clip_records, table_rows
from stsa_lightning.evaluation.scoring import ClipScores

PSNR = Column("psnr_mouth", "PSNR mouth", "dB", "higher", "RGB", 2)
LSE_D = Column("lse_d", "LSE-D", "", "lower", "variant tracked", 2)
JITTER = Column("jitter", "jitter", "", "one", "energy", 2)
FLOW = Column("flow_warped", "flow error", "‰", "zero", "DIS", 2)


def report(
    clips: dict[str, dict[str, float]],
    columns: tuple[Column, ...] = (PSNR,),
    *,
    dataset: str = "HDTF",
    task: str = "paired",
    name: str = "STSA",
    identity: str = "",
    weights: dict[str, float] | None = None,
    ground_truth: float = math.inf,
    **settings: Any,
) -> Report:
    """Clip -> column -> value; the speaker is the first part of a clip's name, where it has two."""
    scores = [
        ClipScores(
            clip,
            clip.split("/")[0] if "/" in clip else "",
            {task: 10},
            values={
                task: {
                    "mean of references": {c: MetricValue(1.0, 1) for c in values},
                    name: {c: MetricValue(value, (weights or {}).get(clip, 1)) for c, value in values.items()},
                    "ground truth": {c: MetricValue(ground_truth, 1) for c in values},
                }
            },
            pictures={task: b"jpeg"},
        )
        for clip, values in clips.items()
    ]
    settings = {"crop": "64 px", "clips measured": list(clips), **settings}
    rows = table_rows(scores, columns)
    return Report("title", name, settings, list(columns), rows, {}, [], clip_records(scores), dataset, {}, identity)


def flat(values: dict[str, float], column: str = "psnr_mouth") -> dict[str, dict[str, float]]:
    return {clip: {column: value} for clip, value in values.items()}
