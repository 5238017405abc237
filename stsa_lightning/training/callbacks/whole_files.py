"""Checkpoints of a training that appear whole or not at all, with no room needed but their own."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch import Trainer

from stsa_lightning.utils.errors import UserError


class WholeFiles(TorchCheckpointIO):
    """Writes beside the checkpoint and renames. Lightning's own way holds it in memory and in `$TMPDIR` as well."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Raises `UserError` where the disk does not take it: what stood under the name stays, nothing else is left."""
        if "://" in str(path):  # another machine's storage
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        path = Path(path)
        part = path.with_name(f".{path.name}.part")  # one name, so that what a killed run left is written over
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(part, "wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, path)
        except OSError as error:
            raise UserError(_message(path, error)) from error
        except RuntimeError as error:  # PyTorch's writer reports the disk's error so
            cause = error.__context__
            if not isinstance(cause, OSError):
                raise
            raise UserError(_message(path, cause)) from error
        finally:
            part.unlink(missing_ok=True)


def _message(path: Path, error: OSError) -> str:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    what = "the disk is full; make room" if full else f"cannot be written ({error.strerror}); choose another folder"
    earlier = " The checkpoint that was there stands." if path.is_file() else ""
    return f"{path}: {what}, and run the same command again with --ckpt_path last.{earlier}"


def use_whole_files(trainer: Trainer) -> None:
    """Have a trainer write its checkpoints so, unless it was given another way."""
    if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
        trainer.strategy.checkpoint_io = WholeFiles()
