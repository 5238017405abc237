"""A run's folder: what a training wrote in it, who may go on there, and where the other commands write."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_info, rank_zero_only

from stsa_lightning.utils.errors import UserError
from stsa_lightning.utils.safe_load import load_tensors

CONFIG = "config.yaml"
LOGS = "logs"
WRITTEN = ("*.ckpt", "config*.yaml", LOGS, "wandb", "wandb_id", "pictures", "evaluation")  # by a training
MARKS = ("*.ckpt", CONFIG, LOGS)  # what only a training that began leaves


@dataclass(frozen=True)
class RunFolder:
    """`path` holds a training's checkpoints, settings, logs and pictures; `path/validate` and so on the rest."""

    path: Path

    def holds(self, patterns: tuple[str, ...] = MARKS) -> list[Path]:
        """What is there of a training."""
        return sorted(path for pattern in patterns for path in self.path.glob(pattern))

    def newest(self, kind: str) -> Path | None:
        """The newest checkpoint whose name begins with `kind`, such as `last`."""
        found = [path for path in self.path.glob("*.ckpt") if path.name.startswith(kind)]
        return max(found, key=lambda path: path.stat().st_mtime_ns, default=None)

    def checkpoint(self, asked: str | None, command: str) -> Path | None:
        """The file that `--ckpt_path` means: `last`, `best` or a file.

        None where nothing was asked for, or where a training asks for its last checkpoint and has none yet.

        Raises:
            UserError: there is no such checkpoint.
        """
        found = self._found(asked, command)
        if found is not None:
            load_tensors(found)  # one that is damaged, or would run code, is refused before anything is built
        return found

    def _found(self, asked: str | None, command: str) -> Path | None:
        if asked is None:
            return None
        if asked in ("last", "best"):
            found = self.newest(asked)
            if found is None and (command != "fit" or asked == "best"):
                have = ", ".join(path.name for path in self.holds(("*.ckpt",))) or "none"
                raise UserError(f"--ckpt_path {asked}: no such checkpoint in {self.path}/ (found {have}); see --run")
            if found is None:
                rank_zero_info(f"--ckpt_path last: no checkpoint in {self.path}/ yet, the run begins")
            return found
        if not Path(asked).is_file():
            raise UserError(f"--ckpt_path {asked}: no such file; expected last, best or the path of a checkpoint")
        return Path(asked)

    def claim(self, asked: str | None, checkpoint: Path | None, overwrite: bool) -> None:
        """Let a training begin, or go on, here.

        Args:
            asked, checkpoint: what `--ckpt_path` said and means.
            overwrite: remove what is there of an earlier one, and say what.

        Raises:
            UserError: there is a training here that this one would neither go on with nor may replace.
        """
        if not self.holds():
            return
        written = self.holds(WRITTEN)
        names = ", ".join(path.name for path in written)
        last = self.newest("last")
        if overwrite:
            if asked == "last" or (checkpoint and any(path.samefile(checkpoint) for path in written)):
                raise UserError(
                    f"--overwrite would remove {checkpoint or self.path}, which --ckpt_path goes on from: leave "
                    "out one of them, or begin elsewhere with --run FOLDER"
                )
            remove(written)
            rank_zero_info(f"--overwrite: removed from {self.path}/: {names}")
        elif asked != "last" and not (checkpoint and last and checkpoint.samefile(last)):
            raise UserError(
                f"{self.path}: holds a run already ({names}). Go on with it: --ckpt_path last; begin elsewhere: "
                f"--run FOLDER; or begin anew here: --overwrite, which removes these files"
            )


@rank_zero_only
def remove(paths: list[Path]) -> None:
    for path in paths:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def sweep_trial(run: Path, environment: Mapping[str, str] = os.environ) -> Path | None:
    """The folder of the trial that a W&B agent started this process for, `sweeps/SWEEP/RUN` beside the run's.

    W&B tells sweep and trial through the environment alone; both are known before the record of the trial begins.
    """
    sweep, trial = environment.get("WANDB_SWEEP_ID"), environment.get("WANDB_RUN_ID")
    return run.parent / "sweeps" / sweep / trial if sweep and trial else None
