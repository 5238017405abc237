"""The evaluation's metrics during validation and test."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from stsa_lightning.evaluation.clip_sample import ClipSample, Prediction
from stsa_lightning.evaluation.metrics.columns import Column, MetricValue
from stsa_lightning.evaluation.metrics.registry import METRICS, MetricSuite, Options, build, chosen_metrics
from stsa_lightning.face.crops import landmarks_in_crops, to_uint8
from stsa_lightning.face.landmarks import LandmarkDetector, landmark_detector
from stsa_lightning.metrics.base import Region, Summed
from stsa_lightning.metrics.identity import IdentityName
from stsa_lightning.metrics.sync import Variant
from stsa_lightning.utils.errors import UserError, check_at_least
from stsa_lightning.utils.files import unused


class EvaluationCallback(Callback):
    """Any metrics of the registry, in validation and test, exact across ranks; nothing of them enters the checkpoint.

    Metrics of single frames and of whole sets use every validation window. Those of clips (motion, sound, silence)
    need whole clips of the split, rendered as in dubbing, paired, with references from the clip itself. Logged as
    `val/COLUMN` and `test/COLUMN`; what has no weights or packages is left out with a warning. The best and the
    worst of the first rank's clips (PSNR of the mouth) go to the logger, and as files to `evaluation/` in the run's
    folder.

    Args:
        metrics: names, see `evaluation.metrics.registry`.
        regions: of picture metrics.
        clips: whole clips that are rendered, over all ranks; 0: none, and no metrics of clips.
        every_n_validations: render them at each n-th validation of a training; in `validate` and `test` always.
        landmark_frames: frames per rank in which metrics of frames look for landmarks, from the first batches on.
        landmark_model: a FaceLandmarker `.task` file in place of FaceMesh.
        sync, identity, weights_dir: see `stsa evaluate`.
        strict: a metric that cannot be measured (weights or a package are missing) stops the run at its start.
    """

    def __init__(
        self,
        metrics: Sequence[str] = ("psnr", "ssim", "lmd", "lip_aperture", "jitter"),
        regions: Sequence[Region] = ("face", "mouth"),
        clips: int = 2,
        every_n_validations: int = 1,
        landmark_frames: int = 64,
        landmark_model: str | None = None,
        sync: Variant = "tracked",
        identity: IdentityName = "arcface",
        weights_dir: str | None = None,
        strict: bool = False,
    ) -> None:
        check_at_least("clips", clips, 0)
        check_at_least("landmark_frames", landmark_frames, 0)
        check_at_least("every_n_validations", every_n_validations, 1)
        self.strict = strict
        self.names = chosen_metrics(metrics)
        self.options = Options(tuple(regions), 0, sync, identity, weights_dir)
        self.clips, self.every_n_validations = clips, every_n_validations
        self.landmark_frames, self.landmark_model = landmark_frames, landmark_model
        self.detector: LandmarkDetector | None = None
        self.frames = self.whole = MetricSuite()
        self.frame_sums = self.clip_sums = WeightedMeans([])
        self.seen = self.validations = 0
        self.pictures: list[tuple[float, str, bytes]] = []

    # ---- set up

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self.detector is not None:
            return
        names = list(self.names)
        if self.landmark_frames or self.clips:
            try:
                self.detector = landmark_detector(self.landmark_model, static=True)
            except ImportError as error:
                self._tell_absent("metrics of landmarks are", str(error))
        if self.detector is None:
            names = [name for name in names if not METRICS[name].landmarks]
        elif not self.landmark_frames:
            names = [name for name in names if not METRICS[name].landmarks or METRICS[name].needs == "clip"]
        options = Options(**{**vars(self.options), "device": str(pl_module.device)})
        self.frames = build([name for name in names if METRICS[name].needs != "clip"], options)
        self.whole = build([name for name in names if METRICS[name].needs == "clip" and self.clips], options)
        self.frame_sums = WeightedMeans(self.frames.columns.values())
        self.clip_sums = WeightedMeans(self.whole.columns.values())
        for name, reason in (self.frames.absent | self.whole.absent).items():
            self._tell_absent(f"{name} is", reason)

    def _tell_absent(self, what: str, reason: str) -> None:
        if self.strict:
            raise UserError(f"evaluation.strict: {what} not measured: {reason}")
        rank_zero_warn(f"{what} not measured: {reason}")

    @property
    def columns(self) -> list[str]:
        """What each validation logs."""
        of_clips = self.clip_sums.names if self.every_n_validations == 1 else []
        return [*self.frame_sums.names, *of_clips, *self.frames.set_metrics]

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self.detector is not None:
            self.detector.close()
            self.detector = None

    def _reset(self, device: torch.device) -> None:
        for metric in (self.frame_sums, self.clip_sums, *self.frames.set_metrics.values()):
            metric.to(device).reset()
        for sums in (self.frame_sums, self.clip_sums):
            sums.update({})  # a rank without clips has nothing to add, which is no mistake
        self.seen, self.pictures = 0, []

    def _find(self, faces: np.ndarray) -> np.ndarray:
        if self.detector is None:
            return np.full((len(faces), 131, 2), np.nan, np.float32)
        return landmarks_in_crops(faces, self.detector)

    # ---- single frames

    def _update(self, outputs: Mapping[str, Tensor]) -> None:
        generated, true = (outputs[name].detach().float().clamp(0, 1) for name in ("generated", "true"))
        self._measure(batch_prediction(generated, true, self._find), landmarks=False)
        for metric in self.frames.set_metrics.values():
            metric.update(generated, true)
        count = min(len(true), self.landmark_frames - self.seen)
        if self.detector is not None and count > 0:
            self.seen += count
            self._measure(batch_prediction(generated[:count], true[:count], self._find), landmarks=True)

    def _measure(self, prediction: Prediction, landmarks: bool) -> None:
        clip_metrics = {
            n: metric for n, metric in self.frames.clip_metrics.items() if METRICS[n].landmarks == landmarks
        }
        self.frame_sums.update(self.frames.measure(prediction, clip_metrics)[0])

    # ---- whole clips

    def _render_clips(self, trainer: Trainer, pl_module: LightningModule, split: str) -> None:
        from stsa_lightning.evaluation.scoring import score_clip

        count = min(self.clips, 1) if getattr(trainer, "fast_dev_run", False) else self.clips
        for sample in rendered(trainer, pl_module, split, count, silence="silence" in self.whole.clip_metrics):
            scores = score_clip(sample.name, [sample], self.whole, self._find, str(pl_module.device))
            self.clip_sums.update(scores.values["paired"][sample.main])
            self.pictures.append((_mouth_error(sample), sample.name, scores.pictures["paired"]))

    def _show(self, trainer: Trainer, folder: Path, stage: str) -> None:
        """Best and worst of the rendered clips, to loggers and files."""
        import cv2

        if not self.pictures or trainer.global_rank:
            return
        self.pictures.sort(key=lambda picture: picture[0])
        shown = {"best": self.pictures[0], "worst": self.pictures[-1]}
        folder.mkdir(parents=True, exist_ok=True)
        for which, (_, name, jpeg) in shown.items():
            unused(folder / f"{stage}-epoch-{trainer.current_epoch:04d}-{which}.jpg").write_bytes(jpeg)
            bgr = cast(np.ndarray, cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR))
            picture = bgr[..., ::-1].copy()
            title = f"{stage}/{which} clip: reference | true | generated | difference | heatmap"
            for logger in trainer.loggers:
                if isinstance(logger, WandbLogger):
                    logger.log_image(title, [picture], step=trainer.global_step, caption=[name])
                elif isinstance(logger, TensorBoardLogger):
                    logger.experiment.add_image(title, picture, trainer.global_step, dataformats="HWC")

    # ---- hooks

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._reset(pl_module.device)
        self.validations += not trainer.sanity_checking

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        # With the first batch, since the averaged weights are in place only between the epoch's hooks.
        due = trainer.state.fn != "fit" or self.validations % self.every_n_validations == 0
        if batch_idx == 0 and self.clips and due and not trainer.sanity_checking and self.detector is not None:
            self._render_clips(trainer, pl_module, _stage(trainer))
        self._update(outputs)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        stage = _stage(trainer)
        values = self.frame_sums.compute() | self.clip_sums.compute()
        values |= {name: float(metric.compute()) for name, metric in self.frames.set_metrics.items()}
        # Equal on all ranks already; without sync_dist Lightning doubts it.
        named = {f"{stage}/{name}": value for name, value in values.items()}
        pl_module.log_dict(named, prog_bar=False, sync_dist=True)
        folder = Path(trainer.log_dir or trainer.default_root_dir) / "evaluation"  # on every rank: it is broadcast
        self._show(trainer, folder, stage)

    on_test_epoch_start, on_test_epoch_end = on_validation_epoch_start, on_validation_epoch_end
    on_test_batch_end = on_validation_batch_end


def _stage(trainer: Trainer) -> str:
    return "test" if trainer.testing else "val"


def rendered(
    trainer: Trainer, module: Any, split: str, count: int | None, silence: bool = False
) -> Iterator[ClipSample]:
    """This rank's share of `count` clips of a split (None: all), rendered whole, as in dubbing, to their own speech."""
    from stsa_lightning.evaluation.checkpoint import PreparedClips, evenly
    from stsa_lightning.evaluation.generate import Networks
    from stsa_lightning.evaluation.protocol import Protocol

    datamodule: Any = getattr(trainer, "datamodule", None)
    lines = getattr(datamodule, "splits", {}).get(split)
    if lines is None:
        rank_zero_warn("no clips are rendered: the data module has no splits of a prepared corpus")
        return
    networks = Networks(module.guidance, module.synthesis, dict(module.hparams), module.device)
    protocol = Protocol(tasks=("paired",), references="same-clip", baselines=False)
    prepared = PreparedClips(networks, datamodule.hparams.root, lines, protocol, silence=silence)
    names = prepared.names if count is None else evenly(prepared.names, count)
    for name in names[trainer.global_rank :: trainer.world_size]:
        yield from prepared.samples(name)


def _mouth_error(sample: ClipSample) -> float:
    """Mean square of the main method's lower half, in bytes."""
    half = sample.ground_truth.shape[1] // 2
    pairs = zip(sample.predictions[sample.main], sample.ground_truth, strict=True)
    return float(np.mean([np.square(made[half:].astype(np.float32) - true[half:]).mean() for made, true in pairs]))


def batch_prediction(generated: Tensor, true: Tensor, find: Any) -> Prediction:
    """Unrelated frames (B, 3, S, S) in [0, 1] as metrics of single frames take them."""
    made, real = to_uint8(generated), to_uint8(true)
    every = np.ones(len(real), bool)
    boxes = np.tile(np.array([0, 0, real.shape[2], real.shape[1]]), (len(real), 1))
    times_s = np.arange(len(real)) / 25
    sample = ClipSample("batch", "", "paired", real, {"generated": made}, every, every, boxes, times_s, real[:1])
    return Prediction(sample, "generated", find, Prediction(sample, "ground truth", find), pictures=(generated, true))


class WeightedMeans(Summed):
    """Weighted means of values over batches, clips and ranks."""

    total: Tensor
    weight: Tensor
    missed: Tensor

    def __init__(self, columns: Iterable[Column], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.columns = list(columns)
        for name in ("total", "weight", "missed"):
            zeros = torch.zeros(len(self.columns), dtype=torch.float64)
            self.add_state(name, zeros, dist_reduce_fx="sum")

    @property
    def names(self) -> list[str]:
        return [column.name for column in self.columns]

    def update(self, values: Mapping[str, MetricValue]) -> None:
        """Figures by column; others stay as they are."""
        for place, column in enumerate(self.columns):
            value = values.get(column.name)
            if value is not None:
                if value.weight:
                    self.total[place] += float(column.reduced(np.array(value.value))) * value.weight
                    self.weight[place] += value.weight
                self.missed[place] += value.missed

    def compute(self) -> dict[str, float]:
        """Column -> mean, and `COLUMN_unmeasured` where frames were left out or could have been; else nothing."""
        values = {}
        for column, total, weight, missed in zip(self.columns, self.total, self.weight, self.missed, strict=True):
            if weight > 0:
                values[column.name] = float(total / weight)
            if missed > 0 or (weight > 0 and column.name == "lmd"):
                values[f"{column.name}_unmeasured"] = float(missed)
        return values
