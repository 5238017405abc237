"""Loggers by name, all of them in the run's folder; what they wrote stays when a run goes on."""

from __future__ import annotations

import csv
import os
import secrets
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from lightning.pytorch.utilities import rank_zero_only

from stsa_lightning.training.run_folder import LOGS
from stsa_lightning.utils.errors import UserError
from stsa_lightning.utils.files import set_aside, written_whole

NAMES = ("csv", "tensorboard", "wandb")
WANDB_ID = "wandb_id"


@dataclass(frozen=True)
class WandbSettings:
    """Settings of the logger `wandb`.

    Attributes:
        project: name of the project.
        entity: user or team; None: the account's own.
        name: of the run; None: that of its folder.
        group: of runs that belong together.
        tags: words to find it by.
        checkpoints: keep checkpoints with W&B as artifacts, at the end or (`all`) whenever one is written.
    """

    project: str = "stsa"
    entity: str | None = None
    name: str | None = None
    group: str | None = None
    tags: tuple[str, ...] = ()
    checkpoints: bool | Literal["all"] = False


class KeptRows(ExperimentWriter):
    """`metrics.csv` whose rows stay: others are appended, columns that are new are added to all."""

    def _check_log_dir_exists(self) -> None:
        path = Path(self.metrics_file_path)
        text = path.read_text() if path.is_file() else ""
        if text and not text.endswith("\n"):  # the run was killed while it wrote a row
            with path.open("a") as file:
                file.write("\n")
        self.metrics_keys = next(csv.reader(text.splitlines()[:1]), [])
        self._begun = False

    def _rewrite_with_new_header(self, fieldnames: list[str]) -> None:
        path = Path(self.metrics_file_path)
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        with written_whole(path) as part, part.open("w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=fieldnames, extrasaction="ignore")
            writer.writeheader()
            writer.writerows(rows)

    def log_hparams(self, params: dict[str, Any]) -> None:
        """The settings of this start; those of earlier ones are set aside as `hparams-1.yaml` and so on."""
        if not self._begun:
            set_aside(Path(self.log_dir) / self.NAME_HPARAMS_FILE)
            self._begun = True
        super().log_hparams(params)


class KeptCSVLogger(CSVLogger):
    """Lightning's, which deletes the rows that it finds, with `KeptRows`."""

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        if self._experiment is None:
            os.makedirs(self.root_dir, exist_ok=True)
            self._experiment = KeptRows(log_dir=self.log_dir)
        return self._experiment


class ToldWandbLogger(WandbLogger):
    """Lightning's, that says what to do where W&B does not know who is there."""

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        from wandb.errors import AuthenticationError, UsageError

        try:
            return super().experiment
        except (AuthenticationError, UsageError) as error:
            raise UserError(
                f"W&B: {error}. Log in with `wandb login`, keep its record on this machine (WANDB_MODE=offline), or do "
                "without it: --logger csv"
            ) from error


def check_login() -> None:
    """Raises `UserError` where W&B's record would go to its servers and nobody is logged in."""
    import wandb

    settings = wandb.setup().settings
    if settings.mode in (None, "online", "run") and not settings.api_key and not wandb.api.api_key:
        raise UserError(
            "W&B: no API key. Log in with `wandb login`, keep its record on this machine (WANDB_MODE=offline), or do "
            "without it: --logger csv"
        )


def with_rows_kept(logger: Logger) -> Logger:
    """Lightning's own CSVLogger as one that keeps its rows, with the same settings; others as they are."""
    if type(logger) is not CSVLogger:
        return logger
    return KeptCSVLogger(
        logger.save_dir, logger.name or None, logger.version, logger._prefix, logger._flush_logs_every_n_steps
    )


def chosen_names(names: str | Sequence[str]) -> list[str]:
    """Names of loggers, `csv,wandb` or a list; `none`: no logger.

    Raises:
        UserError: there is no logger of a name.
    """
    chosen = [name.strip() for name in names.split(",")] if isinstance(names, str) else list(names)
    chosen = [name for name in dict.fromkeys(chosen) if name and name != "none"]
    if unknown := [name for name in chosen if name not in NAMES]:
        raise UserError(f"--logger: expected some of {','.join(NAMES)}, or none, got {','.join(unknown)}")
    return sorted(chosen, key=NAMES.index)  # the first decides where Lightning's others write


def make_loggers(names: str | Sequence[str], folder: Path, wandb: WandbSettings, going_on: bool) -> list[Logger]:
    """Loggers that write into `folder`; with `going_on` W&B's record stays one whenever a run is taken up again."""
    kinds: dict[str, Callable[[], Logger]] = {
        "csv": lambda: KeptCSVLogger(folder, name=None, version=LOGS),
        "tensorboard": lambda: TensorBoardLogger(folder, name=None, version=LOGS),
        "wandb": lambda: _wandb(folder, wandb, going_on),
    }
    return [kinds[name]() for name in chosen_names(names)]


def _wandb(folder: Path, settings: WandbSettings, going_on: bool) -> WandbLogger:
    given = {name: value for name, value in asdict(settings).items() if value and name != "checkpoints"}
    # In a sweep W&B has chosen both.
    trial = os.environ.get("WANDB_SWEEP_ID")
    name = settings.name or (None if trial else folder.name)
    identity = os.environ.get("WANDB_RUN_ID")
    if identity is None and going_on:
        path = folder / WANDB_ID
        identity = path.read_text().strip() if path.is_file() else secrets.token_hex(4)
        _keep(path, identity)
    folder.mkdir(parents=True, exist_ok=True)  # else W&B writes into some temporary folder
    # Absolute: W&B's service writes the record, from wherever this process stood when it made its first run.
    return ToldWandbLogger(
        **{**given, "name": name},
        save_dir=folder.absolute(),
        id=None if trial else identity,
        log_model=settings.checkpoints,
    )


@rank_zero_only
def _keep(path: Path, identity: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(path) as part:
        part.write_text(f"{identity}\n")
