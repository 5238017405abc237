"""Fine-tuning on the video at hand, before it is dubbed.

A video shows what its speaker looks like while talking: supervision that costs nothing. The synthesis network learns
from all of it but the last second, which decides when to stop and which state to keep. The guidance network stays as it
is: of the few sentences at hand it would remember which pose went with which mouth, and stop following the audio. What
comes of it is kept for the next time.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import signal
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from stsa_lightning.data.augment import AugmentSettings
from stsa_lightning.data.corpora.source import source_of
from stsa_lightning.data.datamodule import STSADataModule
from stsa_lightning.data.index import load_index
from stsa_lightning.data.prepare import PrepareSettings, prepare
from stsa_lightning.data.windows import Batch
from stsa_lightning.dubbing.progress import Bars, ProgressCallback, progress_bars
from stsa_lightning.losses.cil import CILSettings
from stsa_lightning.losses.objective import LossSettings, LossWeights
from stsa_lightning.models.checkpoint import load_networks, save_networks
from stsa_lightning.models.guidance import GuidanceOutput
from stsa_lightning.models.settings import GuidanceSettings, SynthesisSettings, settings_of
from stsa_lightning.models.synthesis import Synthesis, SynthesisOutput
from stsa_lightning.training.callbacks.ema import GeneratorEMA
from stsa_lightning.training.callbacks.evaluation import EvaluationCallback
from stsa_lightning.training.module import STSA
from stsa_lightning.training.optim import OptimSettings
from stsa_lightning.utils.device import choose_device
from stsa_lightning.utils.errors import UserError
from stsa_lightning.utils.examine import not_a_file
from stsa_lightning.utils.files import sha256_of
from stsa_lightning.utils.scratch import scratch_folder
from stsa_lightning.utils.weights import cache_dir

RECIPE = 5  # to be raised when what comes out of the same video and checkpoint changes: nothing older is reused
LEAST_SECONDS = 3.0  # of the speaker: two to train on, one to validate on
STEPS = 16  # between two validations on the held-out second
PATIENCE = 6  # validations without improvement, after which it ends
# All others 0: a discriminator would know this one video by heart.
WEIGHTS = LossWeights(**{**dict.fromkeys(vars(LossWeights()), 0.0), "warp_pixel": 2.0, "pixel": 6.0})
COLUMNS = ("psnr_mouth", "ssim_mouth", "lmd_normalised")  # of the held-out second; the first decides


@dataclass(frozen=True)
class Adaptation:
    """Networks that know one video's speaker.

    Attributes:
        before, after: what the held-out second scored, by metric, drawn under its true heatmaps: PSNR (dB) and SSIM of
            the mouth, LMD.
        cached: whether it stood from an earlier time.
    """

    path: Path
    before: Mapping[str, float]
    after: Mapping[str, float]
    steps: int
    seconds: float
    cached: bool = False

    def __str__(self) -> str:
        scores = ", ".join(f"{name} {value:.3g} -> {self.after[name]:.3g}" for name, value in self.before.items())
        source = "from the cache" if self.cached else f"{self.steps} steps in {self.seconds:.0f} s"
        better = "" if self.after != self.before else "; nothing better was found, the networks stay as they were"
        return f"adapted to the speaker ({source}); held-out second: {scores}{better}"

    def json(self) -> dict[str, Any]:
        return {
            "checkpoint": str(self.path),
            "before": dict(self.before),
            "after": dict(self.after),
            "steps": self.steps,
            "seconds": round(self.seconds, 1),
            "cached": self.cached,
        }


def adapt(
    checkpoint: str | Path,
    video: str | Path,
    minutes: float,
    *,
    device: str | torch.device = "auto",
    landmark_model: str | Path | None = None,
    cache: str | Path | None = None,
    lr: float = 3e-4,
    progress: bool | ProgressCallback = True,
) -> Adaptation:
    """Fine-tune a checkpoint's networks on one video with its own sound.

    Args:
        checkpoint: the networks, `.safetensors` or `.ckpt`.
        video: shows the speaker for three seconds or longer, with the sound of what is said.
        minutes: the most that it may take, preparation included; it ends earlier where the held-out second stops
            getting better.
        device: see `dubbing.Dubber`.
        landmark_model: a FaceLandmarker `.task` file in place of FaceMesh.
        cache: where results are kept, by the contents of video and checkpoint; None: the package's cache.
        progress: show a bar, or call a `ProgressCallback`.

    Raises:
        FileNotFoundError: no such video or checkpoint.
        UserError: too little of a face, no sound, a still picture, or a checkpoint that cannot be used.
    """
    began = time.monotonic()
    if not minutes > 0:
        raise UserError(f"adapt: expected minutes above 0, got {minutes:g}")
    checkpoint, video = Path(checkpoint), Path(video)
    for path, what in ((video, "video"), (checkpoint, "checkpoint")):
        if not path.is_file():
            raise not_a_file(path, what)
    path = _place(Path(cache) if cache else cache_dir() / "adapted", checkpoint, video, minutes, lr)
    if path.is_file():
        return _cached(path)
    guidance, synthesis, meta = load_networks(checkpoint)
    with scratch_folder("stsa-adapt-") as folder, progress_bars(progress) as bars, _quietly():
        seconds = _prepared(video, folder, meta["features"], guidance.face_size, landmark_model, bars)
        data = _data(folder, seconds, meta, synthesis)
        module = _UnderTrueHeatmaps(
            guidance=settings_of(GuidanceSettings, guidance),
            synthesis=settings_of(SynthesisSettings, synthesis),
            features=meta["features"],
            face_size=guidance.face_size,
            num_references=synthesis.num_references,
            num_frames=int(meta["num_frames"]),
            heatmap_sigma=float(meta.get("heatmap_sigma", 1.0)),
            losses=LossSettings(WEIGHTS, mouth_weight=8.0),
            cil=CILSettings(weight=0.0),
            optim=OptimSettings(lr=lr, gradient_clip_val=5.0),
            init_from=str(checkpoint),
        )
        module.set_phase("synthesis")
        held_out = _HeldOut(began + 60 * minutes, bars)
        _fit(_trainer(device, folder, held_out, landmark_model), module, data)
    taken = Adaptation(path, held_out.before, held_out.after, held_out.steps, time.monotonic() - began)
    for name, network in (("guidance", guidance), ("synthesis", synthesis)):
        own = {
            key.removeprefix(f"{name}."): value for key, value in held_out.best.items() if key.startswith(f"{name}.")
        }
        network.load_state_dict(own or network.state_dict())
    save_networks(path, guidance, synthesis, {**meta, "adaptation": taken.json()})
    return taken


class _UnderTrueHeatmaps(STSA):
    """Validated under the true heatmaps: those that the guidance network predicts, which does not learn here, would add
    its own error, and a sharper mouth in another place scores worse."""

    def forward(self, batch: Batch, every_frame: bool = False) -> tuple[GuidanceOutput, SynthesisOutput, Tensor]:
        return self.predict_heatmaps(batch), *self.synthesise(batch, batch["heatmaps"], every_frame)


def _place(folder: Path, checkpoint: Path, video: Path, minutes: float, lr: float) -> Path:
    settings = json.dumps([RECIPE, minutes, lr])
    key = hashlib.sha256(f"{sha256_of(checkpoint)} {sha256_of(video)} {settings}".encode()).hexdigest()
    return folder / f"{key[:32]}.safetensors"


def _cached(path: Path) -> Adaptation:
    record = load_networks(path)[2]["adaptation"]
    return Adaptation(path, record["before"], record["after"], record["steps"], record["seconds"], cached=True)


def _prepared(
    video: Path, folder: Path, features: str, face_size: int, landmark_model: str | Path | None, bars: Bars
) -> float:
    """The video as a corpus of one clip; how many seconds of it show the speaker."""
    model = str(landmark_model) if landmark_model else None
    settings = PrepareSettings(features=(features,), face_size=face_size, landmark_model=model)
    source = source_of(video.parent, video, speaker="speaker", clip="speaker/video")
    for _ in bars.track([None], description="reading the speaker"):
        report = prepare([source], folder, settings, root=video.parent, workers=0, progress=False)
    if report.rejected:
        raise UserError(f"{video}: nothing to adapt to: {report.rejected[0][1]}; dub it without adapting")
    seconds = float(load_index(folder)["longest_run"].iloc[0]) / 25
    if seconds < LEAST_SECONDS:
        raise UserError(
            f"{video}: adapting needs {LEAST_SECONDS:g} s of the speaker without a break, found {seconds:.1f} s; "
            "dub it without adapting"
        )
    return seconds


def _data(folder: Path, seconds: float, meta: Mapping[str, Any], synthesis: Synthesis) -> STSADataModule:
    batch = 4
    return STSADataModule(
        str(folder),
        features=meta["features"],
        face_size=synthesis.face_size,
        num_frames=int(meta["num_frames"]),
        num_references=synthesis.num_references,
        reference_policy="pose_matched" if synthesis.align_references else "random",
        heatmap_sigma=float(meta.get("heatmap_sigma", 1.0)),
        batch_size=batch,
        num_workers=0,
        windows_per_clip=STEPS * batch,
        validation_windows_per_clip=8,
        validation_part=min(0.3, 1 / seconds),
        augment=AugmentSettings(
            mirror=True, geometry=0.5, colour=0.2, voice=0.5 if meta["features"] == "logmel" else 0.0
        ),
    )


def _trainer(
    device: str | torch.device, folder: Path, held_out: _HeldOut, landmark_model: str | Path | None
) -> Trainer:
    place = choose_device(device)
    evaluation = EvaluationCallback(
        metrics=("psnr", "ssim", "lmd"),
        regions=("mouth",),
        clips=0,
        landmark_model=str(landmark_model) if landmark_model else None,
    )
    return Trainer(
        accelerator={"cuda": "gpu"}.get(place.type, place.type),
        devices=[place.index or 0] if place.type == "cuda" else 1,
        max_epochs=-1,
        num_sanity_val_steps=-1,  # what the held-out second scores before
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        callbacks=[GeneratorEMA(decay=0.98), evaluation, held_out],
    )


def _fit(trainer: Trainer, module: STSA, data: STSADataModule) -> None:
    handler = signal.getsignal(signal.SIGINT)
    try:
        trainer.fit(module, data)
    except SystemExit as left:  # Lightning's answer to Ctrl-C, which it also turns off
        signal.signal(signal.SIGINT, handler)
        raise KeyboardInterrupt from left


class _HeldOut(Callback):
    """Keeps the state that is best on the held-out second; ends the training by time, or when nothing improves."""

    def __init__(self, until: float, bars: Bars) -> None:
        self.until = until
        self.before: dict[str, float] = {}
        self.after: dict[str, float] = {}
        self.best: dict[str, torch.Tensor] = {}
        self.steps = self.worse = 0
        self._began = time.monotonic()
        total = max(1, int(until - self._began))
        self._seconds = iter(bars.track(itertools.count(), total, description="adapting to the speaker"))
        self._shown_s = 0

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        self.steps += 1
        now = time.monotonic()
        while self._shown_s < now - self._began:
            self._shown_s = next(self._seconds) + 1
        trainer.should_stop = trainer.should_stop or now > self.until

    # After EvaluationCallback, which logs the scores, and while GeneratorEMA's averages are in place.
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        logged = trainer.callback_metrics
        scores = {name: float(logged[f"val/{name}"]) for name in COLUMNS if f"val/{name}" in logged}
        if not self.before:
            self.before = self.after = scores
            return
        if scores[COLUMNS[0]] > self.after[COLUMNS[0]]:
            self.after, self.worse = scores, 0
            state = pl_module.state_dict()
            average = next(c for c in trainer.callbacks if isinstance(c, GeneratorEMA)).average  # type: ignore[attr-defined]
            self.best = {name: average.get(name, value).detach().clone() for name, value in state.items()}
        else:
            self.worse += 1
            trainer.should_stop = trainer.should_stop or self.worse >= PATIENCE


@contextmanager
def _quietly() -> Iterator[None]:
    """Without Lightning's words about accelerators and data loaders, which are for those who train."""
    names = ("lightning.pytorch", "lightning.fabric")
    levels = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
