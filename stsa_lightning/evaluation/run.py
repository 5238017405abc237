"""A whole evaluation, of a checkpoint or of videos, and the folder it writes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from stsa_lightning import __version__
from stsa_lightning.dubbing import choose_device
from stsa_lightning.evaluation.checkpoint import PreparedClips, choose_clips
from stsa_lightning.evaluation.clip_sample import GROUND_TRUTH
from stsa_lightning.evaluation.generate import Networks
from stsa_lightning.evaluation.metrics.registry import MetricSuite, Options, build, chosen_metrics
from stsa_lightning.evaluation.protocol import Protocol
from stsa_lightning.evaluation.report.page import write_page
from stsa_lightning.evaluation.report.report import (
    REPORT_FILE,
    Cell,
    Report,
    Row,
    clip_records,
    reasons_of_absence,
    table_rows,
)
from stsa_lightning.evaluation.report.tables import write_tables
from stsa_lightning.evaluation.scoring import Job, feature_key, saved_features, score_all
from stsa_lightning.evaluation.videos import DEFAULT_CROP_PX, REFERENCES, match, video_jobs
from stsa_lightning.evaluation.whole_frames import SourceVideos
from stsa_lightning.face.crops import landmarks_in_crops
from stsa_lightning.face.landmarks import landmark_detector
from stsa_lightning.models.checkpoint import load_networks
from stsa_lightning.utils.errors import UserError
from stsa_lightning.utils.files import sha256_of

PARTS = "parts"
_REFERENCES = {
    "other-clip": "{count} frames of the speaker's other clip",
    "same-clip": "{count} frames of the same clip (not scored themselves; in a paired task they leak the ground truth)",
    "first-frame": "the first frame with a face",
}


def evaluate_checkpoint(
    checkpoint: Path,
    data: Path,
    out: Path,
    protocol: Protocol | None = None,
    *,
    name: str = "STSA",
    weights_dir: Path | None = None,
    device: str = "auto",
    clips: Sequence[str] | None = None,
    source: SourceVideos | None = None,
) -> Report:
    """Measure a checkpoint on clips of a prepared corpus and write the report's folder.

    Args:
        checkpoint: `.ckpt` of a run or `.safetensors`.
        out: folder of the report; an interrupted evaluation resumes from the results in it.
        weights_dir: folder to look for weights in first.
        device: `auto` takes a GPU if there is one.
        clips: measure only these of the clips of the protocol; references and driving speech still come from all.
        source: the videos that the corpus was prepared from: generated faces are then also measured in whole frames.

    Raises:
        FileNotFoundError, UserError: no such files; no clips; nothing that can be measured.
    """
    protocol = protocol or Protocol()
    guidance, synthesis, meta = load_networks(checkpoint)
    place = choose_device(device)
    networks = Networks(guidance, synthesis, meta, place)
    if source is None and protocol.regions == ("frame",):
        raise UserError("regions: a prepared corpus holds faces alone; measure face or mouth, or the dubbed videos")
    if protocol.crop not in (None, networks.size):
        raise UserError(f"crop: the networks generate {networks.size} px, got {protocol.crop}; leave it out")
    lines, measured, how = choose_clips(data, protocol, networks.features, meta.get("validation_speakers"))
    if clips is not None:
        measured, how = [clip for clip in measured if clip in set(clips)], f"{how}; {len(clips)} named"
    silence = "silence" in chosen_metrics(protocol.metrics)
    prepared = PreparedClips(networks, data, lines, protocol, name, silence, source)
    alone = sum(prepared.references_of(clip) == clip for clip in measured)
    references = _REFERENCES[protocol.references].format(count=networks.num_references)
    if protocol.references == "other-clip" and alone:
        references += f" (of the same clip in {alone} clips, which are then not scored themselves)"
    settings = {
        "checkpoint": checkpoint.name,
        "clips": how,
        "tasks": protocol.tasks,
        "references": references,
        "audio features": networks.features,
        "whole frames": "pasted back into the source's frames, lossless" if source else "none: faces alone",
    }
    protocol = replace(protocol, dataset=protocol.dataset or data.resolve().name)
    identity = sha256_of(checkpoint)
    return _evaluate(
        prepared.jobs(measured), settings, identity, protocol, networks.size, name, out, weights_dir, str(place), []
    )


def evaluate_videos(
    generated: Path,
    true: Path,
    out: Path,
    protocol: Protocol | None = None,
    *,
    name: str | None = None,
    weights_dir: Path | None = None,
    device: str = "auto",
) -> Report:
    """Measure any system's videos against the true ones; arguments as `evaluate_checkpoint`."""
    if protocol is not None and protocol.ablate_paths:
        raise UserError("ablate_paths: expected a checkpoint, got videos; leave it out")
    protocol = replace(protocol or Protocol(), tasks=("paired",))
    protocol = replace(protocol, dataset=protocol.dataset or Path(os.path.realpath(true)).stem)
    name = name or generated.stem or "generated"
    if name == GROUND_TRUTH:
        raise UserError(f"name: {GROUND_TRUTH!r} is the true video's own row; choose another")
    matched = match(generated, true)
    settings = {
        "generated": generated.name,
        "true": true.name,
        "clips": f"{len(matched.pairs)} matched by name; without a partner: {len(matched.alone)}",
        "tasks": protocol.tasks,
        "references": f"of the baselines: {REFERENCES} frames of the true clip, not scored themselves"
        if protocol.baselines
        else "none",
        "boxes": "of the true video's face, for both",
    }
    jobs = video_jobs(matched, protocol, name)
    crop = protocol.crop or DEFAULT_CROP_PX
    place = str(choose_device(device))
    return _evaluate(jobs, settings, "", protocol, crop, name, out, weights_dir, place, matched.alone)


def _evaluate(
    jobs: Sequence[Job],
    settings: dict[str, Any],
    identity: str,
    protocol: Protocol,
    crop: int,
    name: str,
    out: Path,
    weights_dir: Path | None,
    device: str,
    notes: list[str],
) -> Report:
    options = Options(protocol.regions, crop, protocol.sync, protocol.identity, weights_dir, device)
    suite = build(protocol.metrics, options)
    named = (("sync", "SyncNet variant", protocol.sync), ("csim", "identity network", protocol.identity))
    settings |= {
        "crop": f"{crop} px",
        "regions": protocol.regions,
        "detector": "MediaPipe FaceMesh, each crop on its own",
        **{said: value for metric, said, value in named if metric in suite.owned},
        "intervals": f"bootstrap over videos, {protocol.resamples} resamples, seed {protocol.seed}",
        "version": __version__,
    }
    # Metrics whose weights have come since must be measured: the key of saved results includes what was absent.
    key = {**settings, "identity": identity, "protocol": protocol.record(), "absent": sorted(suite.absent)}
    key["name"] = name
    detector = landmark_detector(static=True)
    try:
        scores, failed = score_all(
            jobs, key, suite, lambda faces: landmarks_in_crops(faces, detector), out / PARTS, device
        )
    finally:
        detector.close()
    if not scores:
        raise UserError("no clip could be measured:\n" + "\n".join(failed[:10]))
    columns = list(suite.columns.values())
    rows = table_rows(scores, columns, protocol.resamples, protocol.seed)
    rows = _with_sets(rows, suite, jobs, key, out / PARTS)
    done = {clip.clip for clip in scores}
    settings["videos"] = f"{len(scores)} measured, {len(failed)} not"
    settings["clips measured"] = [clip.name for clip in jobs if clip.name in done]
    lines = [line for text in (protocol.corpus, protocol.notes) for line in [text.strip()] if line]
    if "unpaired" in protocol.tasks:
        lines.append("Unpaired, the ground truth is the source's real video with its own sound.")
    lines += [*notes, *failed, *(note for clip in scores for note in clip.notes)]
    absent = reasons_of_absence(scores, columns, rows, name) | suite.absent
    title = protocol.name or f"Evaluation of {name}"
    record = protocol.record()
    report = Report(
        title, name, settings, columns, rows, absent, lines, clip_records(scores), protocol.dataset, record, identity
    )
    write_tables(report, out)
    write_page(report, scores, out / "report.html")
    report.save(out / REPORT_FILE)
    shutil.rmtree(out / PARTS)  # all of it is in the report now
    return report


def _with_sets(rows: list[Row], suite: MetricSuite, jobs: Sequence[Job], key: dict[str, Any], parts: Path) -> list[Row]:
    """Rows with the distances of whole sets, from the saved features of all clips."""
    complete = []
    for row in rows:
        cells = dict(row.cells)
        for column, metric in suite.set_metrics.items():
            metric.reset()
            keys = [feature_key(row.task, method, column) for method in (row.method, GROUND_TRUTH)]
            for job in jobs:
                if pair := saved_features(parts, job, key, keys):
                    metric.update(*(samples.to(metric.device) for samples in pair), features=True)
            if min(metric.pred_count, metric.true_count) > 1:
                cells[column] = Cell(float(metric.compute()), float("nan"), float("nan"), row.videos)
        complete.append(replace(row, cells=cells))
    return complete
