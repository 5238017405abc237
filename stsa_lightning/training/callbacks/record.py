"""What a result depends on besides its settings: the version of the code and of the data, with every logger."""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only

import stsa_lightning
from stsa_lightning.data.datamodule import STSADataModule
from stsa_lightning.data.index import INDEX_FILE
from stsa_lightning.utils.files import sha256_of


class RunRecord(Callback):
    """Tells every logger the versions of code and data, the machine, and how many clips each split has.

    They stand beside the settings, under `version/...` and `data/...`; a checkpoint holds them too, as `record`.
    """

    def __init__(self) -> None:
        self.record: dict[str, Any] = {}

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.record = versions() | self._data(trainer)
        self._log(trainer)

    @staticmethod
    def _data(trainer: Trainer) -> dict[str, Any]:
        data = getattr(trainer, "datamodule", None)
        if not isinstance(data, STSADataModule):
            return {}
        index = Path(data.hparams["root"]) / INDEX_FILE
        clips = {f"data/{split}_clips": len(lines) for split, lines in data.splits.items()}
        return {"data/index_sha256": sha256_of(index), **clips}

    @rank_zero_only
    def _log(self, trainer: Trainer) -> None:
        device = trainer.strategy.root_device
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
        machine = {"machine/devices": trainer.world_size, "machine/device": name}
        for logger in trainer.loggers:
            logger.log_hyperparams(self.record | machine)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint["record"] = self.record


def versions() -> dict[str, str]:
    """Versions of this package (with its commit, where it runs from a checkout) and of what it computes with."""
    found = {
        "version/stsa_lightning": stsa_lightning.__version__,
        "version/torch": str(torch.__version__),
        "version/lightning": str(lightning.__version__),
        "version/python": platform.python_version(),
    }
    commit = git_commit(Path(stsa_lightning.__file__).parent)
    return found | ({"version/commit": commit} if commit else {})


def git_commit(folder: Path) -> str | None:
    """Commit that the code in `folder` is of, with `-changed` where files differ from it; None outside of git."""

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            return None
        return done.stdout.strip()

    # Installed into some other project's folder, the code is not that project's.
    commit = git("rev-parse", "HEAD") if git("ls-files", "__init__.py") else None
    return commit and commit + ("-changed" if git("status", "--porcelain", "--", ".") else "")
