"""A dry run through all phases: does each fit, does every metric work, how much memory does it take?"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info

from stsa_lightning.training.callbacks.evaluation import EvaluationCallback

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]


@dataclass(frozen=True)
class Part:
    """A phase, or the validation: its seconds and the most memory up to then, GiB."""

    name: str
    seconds: float
    memory_gib: float


def peak_bytes() -> float:
    """The most memory that this process had until now; NaN where the system does not report it."""
    if resource is None:
        return float("nan")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


class SmokeReport(Callback):
    """Prints what each phase's step and the validation took; used by `stsa fit --smoke`.

    Memory is the device's peak within the part where there is a GPU, else this process's peak until then.
    """

    def __init__(self) -> None:
        self.parts: list[Part] = []
        self._begun = 0.0

    @staticmethod
    def limits(epochs: int) -> dict[str, Any]:
        """The trainer's settings: a batch in each epoch, one validation at the end."""
        return {
            "limit_train_batches": 1,
            "limit_val_batches": 1,
            "check_val_every_n_epoch": epochs or 1,
            "num_sanity_val_steps": 0,
            "log_every_n_steps": 1,
            "max_steps": -1,
        }

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, EvaluationCallback):
                callback.every_n_validations, callback.clips = 1, min(1, callback.clips)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        self._begun = time.monotonic()
        if pl_module.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(pl_module.device)

    on_validation_start = on_train_batch_start

    def _end(self, name: str, pl_module: LightningModule) -> None:
        on_gpu = pl_module.device.type == "cuda"
        used = torch.cuda.max_memory_allocated(pl_module.device) if on_gpu else peak_bytes()
        self.parts.append(Part(name, time.monotonic() - self._begun, used / 2**30))

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *args: Any) -> None:
        self._end(pl_module.phase, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._end("validation", pl_module)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        lines = [f"{part.name:<12} {part.seconds:8.1f} s {part.memory_gib:8.2f} GiB" for part in self.parts]
        values = sorted((n, float(v)) for n, v in trainer.callback_metrics.items() if n.startswith("val/"))
        lines += [f"{name:<30} {value:10.4f}" for name, value in values]
        rank_zero_info("\n".join(["smoke: all phases ran; nothing was kept", *lines]))
