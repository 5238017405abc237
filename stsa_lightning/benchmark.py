"""Held-out clips, drawn as dubbing draws them, measured beside trivial answers and the truth.

Two tasks per clip:

* *paired*: the clip's own speech. Truth is known pixel by pixel.
* *unpaired*: another speaker's speech. Truth is known for the opening of the lips alone: that of the person who said
  it.

References come from the speaker's other clip where there is one (the same clip would leak the answer in the paired
task).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from stsa_lightning.audio import feature_windows
from stsa_lightning.data.clip import Clip
from stsa_lightning.data.index import clip_path, load_index, usable
from stsa_lightning.dubbing import choose_device, draw_faces
from stsa_lightning.errors import UserError
from stsa_lightning.face.box import resize_face
from stsa_lightning.face.crops import landmarks_in_crops, to_uint8
from stsa_lightning.face.heatmaps import draw_heatmaps, inner_lip_opening, lip_openness
from stsa_lightning.face.landmarks import landmark_detector
from stsa_lightning.face.references import choose_references
from stsa_lightning.face.topology import MOUTH, positions
from stsa_lightning.files import written_whole
from stsa_lightning.metrics.image import PSNR, SSIM
from stsa_lightning.metrics.landmarks import LandmarkDistance, inter_ocular_distance, opening_correlation
from stsa_lightning.nets.checkpoint import load_networks
from stsa_lightning.nets.guidance import Guidance
from stsa_lightning.nets.synthesis import References, Synthesis

LEFT_EYE, RIGHT_EYE = positions([362, 263]).tolist(), positions([33, 133]).tolist()
BATCH = 32


@dataclass(frozen=True)
class Row:
    """One answer's figures over all clips; NaN where a figure does not exist.

    ``psnr_mouth`` (dB), ``ssim_mouth``: mean over frames, lower half of the crop. ``lmd``: 40 mouth points, FaceMesh,
    L2, per cent of the inter-ocular distance. ``opening_r``: Pearson correlation of the inner lip opening with the
    truth, mean over clips. ``unmeasured``: frames in which no face was found.
    """

    task: str
    answer: str
    psnr_mouth: float
    ssim_mouth: float
    lmd: float
    opening_r: float
    frames: int
    unmeasured: int


@dataclass(frozen=True)
class Report:
    """The table and what its figures depend on."""

    rows: list[Row]
    settings: dict[str, Any]

    def row(self, task: str, answer: str) -> Row:
        """One line of the table."""
        return next(row for row in self.rows if (row.task, row.answer) == (task, answer))

    def print(self) -> None:
        """The table on the terminal."""
        settings = self.settings
        table = Table(title="Held-out: {speakers} ({clips} clips, {crop} px crops)".format(**settings))
        for title in ("task", "answer"):
            table.add_column(title, no_wrap=True)
        for title in ("PSNR", "SSIM", "LMD", "opening r", "no face"):
            table.add_column(title, justify="right")
        for row in self.rows:
            figures = (f"{row.psnr_mouth:.2f}", f"{row.ssim_mouth:.3f}", f"{row.lmd:.2f}", f"{row.opening_r:.2f}")
            shown = [figure if figure not in ("nan", "inf") else "-" for figure in figures]
            table.add_row(row.task, row.answer, *shown, f"{row.unmeasured}/{row.frames}")
        console = Console()
        console.print(table)
        console.print(
            "PSNR (dB), SSIM: lower half of the crop. LMD: 40 mouth points of FaceMesh, per cent of the distance of "
            "the eyes. opening r: correlation of the inner lip opening with the truth, mean over clips. "
            "References: {references}.".format(**settings)
        )

    def save(self, path: Path) -> None:
        """Write as JSON, whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = [
            {k: None if isinstance(v, float) and not np.isfinite(v) else v for k, v in asdict(row).items()}
            for row in self.rows
        ]
        with written_whole(path) as part:
            part.write_text(json.dumps({"settings": self.settings, "rows": rows}, indent=2))


def load_report(path: Path) -> Report:
    """A report that :meth:`Report.save` wrote."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such report; write one with stsa evaluate --out {path}")
    stored = json.loads(path.read_text())
    rows: list[dict[str, Any]] = stored["rows"]
    for row in rows:
        row.update({name: np.nan for name, value in row.items() if value is None})
    return Report([Row(**row) for row in rows], stored["settings"])


class Networks:
    """Both networks of a checkpoint, drawing whole clips of a prepared corpus."""

    def __init__(self, guidance: Guidance, synthesis: Synthesis, meta: dict[str, Any], device: torch.device) -> None:
        self.guidance, self.synthesis = guidance.to(device).eval(), synthesis.to(device).eval()
        self.features, self.window, self.device = meta["features"], int(meta["window"]), device
        self.size, self.count, self.sigma = synthesis.face_size, synthesis.references, float(meta.get("sigma", 1.0))

    def reference_frames(self, clip: Clip) -> np.ndarray:
        """Numbers of the N frames of a clip that serve as references."""
        return choose_references(lip_openness(np.nan_to_num(clip.face_landmarks)), clip.valid, self.count)

    def references(self, clip: Clip) -> tuple[np.ndarray, np.ndarray]:
        """These frames' faces (N, S, S, 3) and landmarks in the box (N, 131, 2)."""
        chosen = self.reference_frames(clip)
        return resized(clip.faces(chosen), self.size), clip.face_landmarks[chosen]

    @torch.inference_mode()
    def draw(self, clip: Clip, frames: np.ndarray, speech: np.ndarray, references: Clip) -> np.ndarray:
        """Faces (F, S, S, 3) uint8 of some valid frames, saying ``speech`` (steps, D) from the clip's beginning on."""
        faces, landmarks = self.references(references)
        reference_maps = self._heatmaps(landmarks)[None]
        encoded = self.synthesis.encode_references(self._images(faces)[None], reference_maps)
        blocks = np.array_split(np.arange(len(frames)), max(1, len(frames) // BATCH))
        drawn = [self._draw_block(clip, frames[block], speech, encoded, reference_maps) for block in blocks]
        return np.concatenate(drawn)

    def _draw_block(
        self, clip: Clip, frames: np.ndarray, speech: np.ndarray, encoded: References, reference_maps: Tensor
    ) -> np.ndarray:
        valid = np.flatnonzero(clip.valid)
        times = frames[:, None] + np.arange(self.window) - self.window // 2  # (F, T)
        # A neighbour without a face lends the nearest face there is.
        nearest = valid[np.abs(valid - times[..., None]).argmin(-1)]
        masked = self._heatmaps(clip.face_landmarks[nearest], "masked")
        windows = feature_windows(speech, times.ravel()).reshape(*times.shape, speech.shape[1], -1)
        audio = torch.from_numpy(windows).float().to(self.device)
        faces = self._images(resized(clip.faces(frames), self.size))
        drawn = draw_faces(self.guidance, self.synthesis, faces, masked, audio, reference_maps, encoded)
        return to_uint8(drawn)

    def _images(self, faces: np.ndarray) -> Tensor:
        return torch.from_numpy(faces).to(self.device).permute(0, 3, 1, 2).float() / 255

    def _heatmaps(self, landmarks: np.ndarray, kind: Any = "whole") -> Tensor:
        return torch.from_numpy(draw_heatmaps(landmarks, kind, self.size, self.sigma)).to(self.device).unsqueeze(-3)


class Score:
    """Figures of one answer, gathered clip by clip."""

    def __init__(self, find: Callable[[np.ndarray], np.ndarray]) -> None:
        self.find = find
        self.psnr, self.ssim, self.distance = PSNR("mouth"), SSIM("mouth"), LandmarkDistance(points=MOUTH.tolist())
        self.correlations: list[float] = []
        self.frames = self.unmeasured = 0

    def paired(self, answer: np.ndarray, truth: np.ndarray, true_landmarks: np.ndarray) -> None:
        """Add a clip's frames (F, S, S, 3) uint8 with their truth."""
        found = self.find(answer)
        images = [torch.from_numpy(faces).permute(0, 3, 1, 2).float() / 255 for faces in (answer, truth)]
        self.psnr.update(*images)
        self.ssim.update(*images)
        true = torch.from_numpy(true_landmarks)
        self.distance.update(torch.from_numpy(found), true, inter_ocular_distance(true, LEFT_EYE, RIGHT_EYE))
        self._opening(found, inner_lip_opening(true_landmarks))

    def unpaired(self, answer: np.ndarray, true_opening: np.ndarray) -> None:
        """Add a clip's frames with the lip opening (F,) of the person who really said it, in any unit."""
        self._opening(self.find(answer), true_opening)

    def _opening(self, landmarks: np.ndarray, truth: np.ndarray) -> None:
        opening = inner_lip_opening(landmarks)
        self.frames += len(opening)
        self.unmeasured += int(np.isnan(opening).sum())
        r = opening_correlation(torch.from_numpy(opening), torch.from_numpy(truth.astype(opening.dtype)))
        # A mouth that never moves (or is never found) follows nothing.
        self.correlations.append(float(r.nan_to_num(0.0)))

    def row(self, task: str, answer: str) -> Row:
        pictures = (np.nan, np.nan, np.nan)
        if self.psnr.count:  # a paired task
            lmd = 100 * float(self.distance.compute()["normalised"])
            pictures = (float(self.psnr.compute()), float(self.ssim.compute()), lmd)
        return Row(task, answer, *pictures, float(np.mean(self.correlations)), self.frames, self.unmeasured)


def evaluate(
    checkpoint: Path,
    data: Path,
    speakers: list[str] | None = None,
    device: str = "auto",
    sheet: Path | None = None,
) -> Report:
    """Measure a checkpoint on the clips of held-out speakers.

    Args:
        checkpoint: ``.ckpt`` of a run or ``.safetensors``.
        data: prepared corpus.
        speakers: whom to measure; None: those that the checkpoint's run kept for validation.
        device: ``auto`` takes a GPU where there is one.
        sheet: write a contact sheet here.

    Raises:
        UserError: no clips of these speakers, or features that the corpus does not hold.
    """
    guidance, synthesis, meta = load_networks(checkpoint)
    speakers = speakers or meta.get("validation_speakers")
    if not speakers:
        raise UserError(f"{checkpoint} does not say which speakers were held out: name them with --speakers A,B")
    networks = Networks(guidance, synthesis, meta, choose_device(device))
    index = usable(load_index(data), networks.features)
    index = index[index["speaker"].isin(speakers)]
    if index.empty:
        raise UserError(f"{data}: no usable clips of speakers {', '.join(speakers)} in its index")
    clips = [Clip.open(clip_path(data, name)) for name in index["clip"]]
    rows, pictures = measure(networks, clips)
    if sheet is not None:
        write_sheet(sheet, pictures)
    alone = sum(other_clip(clips, index) is clip for index, clip in enumerate(clips))
    references = f"{networks.count} of the speaker's other clip" + (f" (same clip in {alone} clips)" if alone else "")
    settings = {"speakers": ", ".join(speakers), "clips": len(clips), "crop": networks.size, "references": references}
    return Report(rows, {**settings, "checkpoint": checkpoint.name, "features": networks.features})


def measure(networks: Networks, clips: list[Clip]) -> tuple[list[Row], list[dict[str, np.ndarray]]]:
    """Figures of all answers, and each clip's pictures by answer."""
    detector = landmark_detector(static=True)
    answers = ("masked input", "random reference", "mean of references", "STSA", "ground truth")
    scores = {answer: Score(lambda faces: landmarks_in_crops(faces, detector)) for answer in answers}
    crossed = {answer: Score(scores["STSA"].find) for answer in ("source frame", "STSA")}
    pictures = []
    for index, clip in enumerate(track(clips, description="measuring")):
        frames, references = np.flatnonzero(clip.valid), other_clip(clips, index)
        if references is clip:  # a reference is no answer to itself
            frames = np.setdiff1d(frames, networks.reference_frames(clip))
        truth = resized(clip.faces(frames), networks.size)
        true_landmarks = scores["STSA"].find(truth)
        shown = paired_answers(networks, clip, frames, truth, references)
        for answer, faces in shown.items():
            scores[answer].paired(faces, truth, true_landmarks)

        said = next((c for c in clips[index + 1 :] + clips[:index] if c.meta.speaker != clip.meta.speaker), None)
        if said is not None:
            frames = frames[(frames < said.frames) & said.valid[np.minimum(frames, said.frames - 1)]]
            opening = inner_lip_opening(said.face_landmarks[frames])
            speech = said.features(networks.features).astype(np.float32)
            drawn = networks.draw(clip, frames, speech, clip)
            crossed["source frame"].unpaired(resized(clip.faces(frames), networks.size), opening)
            crossed["STSA"].unpaired(drawn, opening)
        pictures.append(shown)
    detector.close()
    rows = [score.row("own speech", answer) for answer, score in scores.items()]
    rows += [score.row("other speech", answer) for answer, score in crossed.items() if score.frames]
    return rows, pictures


def paired_answers(
    networks: Networks, clip: Clip, frames: np.ndarray, truth: np.ndarray, references: Clip
) -> dict[str, np.ndarray]:
    """All answers to "what does the face look like in these frames", each (F, S, S, 3) uint8."""
    chosen, _ = networks.references(references)
    # The upper half is given to everybody, so that only the mouth is compared.
    half = networks.size // 2
    trivial = {
        "masked input": np.zeros_like(truth),
        "random reference": chosen[np.random.default_rng(0).integers(len(chosen), size=len(frames))],
        "mean of references": np.broadcast_to(chosen.mean(0).round().astype(np.uint8), truth.shape),
    }
    answers = {name: np.concatenate([truth[:, :half], faces[:, half:]], axis=1) for name, faces in trivial.items()}
    speech = clip.features(networks.features).astype(np.float32)
    return {**answers, "STSA": networks.draw(clip, frames, speech, references), "ground truth": truth}


def other_clip(clips: list[Clip], index: int) -> Clip:
    """Another clip of the same speaker, or the clip itself where there is none."""
    mine = clips[index]
    return next((c for c in clips if c is not mine and c.meta.speaker == mine.meta.speaker), mine)


def resized(faces: np.ndarray, size: int) -> np.ndarray:
    """(F, H, W, 3) uint8 -> (F, size, size, 3) uint8."""
    return np.stack([resize_face(face, size) for face in faces])


def write_sheet(path: Path, pictures: list[dict[str, np.ndarray]], columns: int = 12) -> None:
    """Contact sheet: per clip a row of masked, generated and true faces at evenly spaced frames."""
    import cv2

    rows = []
    for answers in pictures:
        chosen = np.linspace(0, len(answers["STSA"]) - 1, columns).round().astype(int)
        for name in ("masked input", "STSA", "ground truth"):
            rows.append(np.concatenate(list(answers[name][chosen]), axis=1))
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.concatenate(rows)[..., ::-1])
