"""Metrics of generated faces during validation and test."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from stsa_lightning.face.crops import landmarks_in_crops, to_uint8
from stsa_lightning.face.landmarks import LandmarkDetector, landmark_detector
from stsa_lightning.face.topology import MOUTH
from stsa_lightning.metrics.image import PSNR, SSIM
from stsa_lightning.metrics.landmarks import LandmarkDistance


class FaceMetrics(Callback):
    """PSNR and SSIM of face and mouth (mean over frames), LMD of the mouth in pixels of the crop (FaceMesh points, L2).

    Logged as ``val/psnr_face``, ``val/psnr_mouth``, ``val/ssim_face``, ``val/ssim_mouth``, ``val/lmd`` and
    ``val/lmd_unmeasured`` (frames without a found face); ``test/...`` in tests. Exact across ranks. Nothing of it
    enters the checkpoint.

    Args:
        landmark_frames: frames per rank that LMD looks at, from the first batches on; 0 leaves LMD out. Without
            mediapipe installed, LMD is left out with a warning.
        landmark_model: a FaceLandmarker ``.task`` file in place of FaceMesh.
    """

    def __init__(self, landmark_frames: int = 64, landmark_model: str | None = None) -> None:
        self.landmark_frames, self.landmark_model = landmark_frames, landmark_model
        self.image_metrics = {
            "psnr_face": PSNR("face"),
            "psnr_mouth": PSNR("mouth"),
            "ssim_face": SSIM("face"),
            "ssim_mouth": SSIM("mouth"),
        }
        self.distance = LandmarkDistance(points=MOUTH.tolist())
        self.detector: LandmarkDetector | None = None
        self.seen = 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self.landmark_frames and self.detector is None:
            try:
                self.detector = landmark_detector(self.landmark_model, static=True)
            except ImportError as error:
                rank_zero_warn(f"LMD is not measured: {error}")

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self.detector is not None:
            self.detector.close()
            self.detector = None

    def _reset(self, device: torch.device) -> None:
        for metric in (*self.image_metrics.values(), self.distance):
            metric.to(device).reset()
        self.seen = 0

    def _update(self, outputs: Mapping[str, Tensor]) -> None:
        generated, true = outputs["generated"].float(), outputs["true"].float()
        for metric in self.image_metrics.values():
            metric.update(generated, true)
        frames = min(len(true), self.landmark_frames - self.seen)
        if self.detector is not None and frames > 0:
            self.seen += frames
            pair = [landmarks_in_crops(to_uint8(faces[:frames]), self.detector) for faces in (generated, true)]
            self.distance.update(*(torch.from_numpy(landmarks).to(true.device) for landmarks in pair))

    def _log(self, pl_module: LightningModule, stage: str) -> None:
        values = {f"{stage}/{name}": metric.compute() for name, metric in self.image_metrics.items()}
        if self.detector is not None:
            distance = self.distance.compute()
            values |= {f"{stage}/lmd": distance["pixels"], f"{stage}/lmd_unmeasured": distance["unmeasured"].float()}
        pl_module.log_dict(values, prog_bar=False)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._reset(pl_module.device)

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, *args: Any
    ) -> None:
        self._update(outputs)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._log(pl_module, "val")

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._reset(pl_module.device)

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, *args: Any
    ) -> None:
        self._update(outputs)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._log(pl_module, "test")
