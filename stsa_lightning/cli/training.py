"""`fit`, `validate`, `test` and `predict`: Lightning's command line with a folder for each run.

`RunCLI` is what any LightningModule of this package is run by, `STSACLI` what `stsa fit` is.
"""

from __future__ import annotations

import logging
import sys
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn, cast

import yaml
from jsonargparse import ActionConfigFile
from lightning.pytorch import Callback, LightningDataModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, ModelSummary, ProgressBar
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI, _InstantiatorFn
from lightning.pytorch.loggers import Logger
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.trainer.connectors.accelerator_connector import _AcceleratorConnector

from stsa_lightning.cli.settings import LoggedSettings
from stsa_lightning.data.datamodule import STSADataModule
from stsa_lightning.training.callbacks.bar import ParameterCounts, PhaseBar
from stsa_lightning.training.callbacks.checkpoint import RunCheckpoint
from stsa_lightning.training.callbacks.ema import GeneratorEMA
from stsa_lightning.training.callbacks.evaluation import EvaluationCallback
from stsa_lightning.training.callbacks.phases import PhaseSchedule
from stsa_lightning.training.callbacks.pictures import ValidationPictures
from stsa_lightning.training.callbacks.predictions import Predictions
from stsa_lightning.training.callbacks.record import RunRecord
from stsa_lightning.training.callbacks.resume import ResumePoint
from stsa_lightning.training.callbacks.smoke import SmokeReport
from stsa_lightning.training.callbacks.watch import LossWatch
from stsa_lightning.training.checks import AGREED, check_flags, check_synchronised
from stsa_lightning.training.loggers import WandbSettings, check_login, chosen_names, make_loggers, with_rows_kept
from stsa_lightning.training.module import STSA
from stsa_lightning.training.phases import (
    PhaseSettings,
    check_options,
    chosen_phases,
    epochs_without_picture,
    phase_specs,
)
from stsa_lightning.training.run_folder import RunFolder, sweep_trial
from stsa_lightning.utils.errors import UserError
from stsa_lightning.utils.own import class_path

LISTS = ("trainer.callbacks", "trainer.logger")


class LaidOver(ActionConfigFile):
    """`-c FILE`: its lists replace those of an earlier file, its phases are laid over them one by one.

    jsonargparse joins entries of lists that have the same place and lets the later one inherit what it does not say
    from whatever stood there; a setting that maps names to values it replaces as a whole.
    """

    def __call__(self, parser: Any, cfg: Any, values: Any, option_string: str | None = None) -> None:
        phases = cfg.get("phases")
        for name in lists_in(settings_of(values)):
            cfg.pop(name, None)
        super().__call__(parser, cfg, values, option_string)
        if phases and cfg.get("phases"):
            cfg["phases"] = {**phases, **cfg["phases"]}


def settings_of(file: str) -> dict[str, Any]:
    """What a file of settings says; empty where it cannot be read, which the parser reports."""
    try:
        found = yaml.safe_load(Path(file).read_text())
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return found if isinstance(found, dict) else {}


def lists_in(settings: dict[str, Any], above: str = "") -> list[str]:
    """Dotted names of everything that is a list."""
    names: list[str] = []
    for name, value in settings.items():
        if isinstance(value, dict):
            names += lists_in(value, f"{above}{name}.")
        elif isinstance(value, list) and not str(name).endswith("+"):
            names.append(f"{above}{name}")
    return names


def whole_lists(words: list[str]) -> list[str]:
    """Options that give a whole list of classes, so that nothing of an earlier list is left in it."""
    made: list[str] = []
    for place, word in enumerate(words):
        name, _, value = word.removeprefix("--").partition("=")
        following = value or "".join(words[place + 1 : place + 2])
        if word.startswith("--") and name in LISTS and following.lstrip().startswith("["):
            made.append(f"--{name}=null")
        made.append(word)
    return made


class TerseParser(LightningArgumentParser):
    """Says what is wrong without a hundred lines of options before it."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        lines = [line.rstrip() for line in str(message).splitlines() if line.strip()]
        print(f"stsa: {chr(10).join(lines)} (all options: --help, --model.help, --data.help)", file=sys.stderr)
        sys.exit(2)


def whole_help(words: Sequence[str]) -> list[str]:
    """`--data.help` without a class as that of the package's own, rather than of Lightning's empty one."""
    alone = {place for place, word in enumerate(words) if not words[place + 1 :] or words[place + 1].startswith("-")}
    named = f"--data.help={class_path(STSADataModule)}"
    return [named if word == "--data.help" and place in alone else word for place, word in enumerate(words)]


class Instantiator(_InstantiatorFn):
    """Keeps what a class says of its arguments, which jsonargparse would bury among its own guesses."""

    # jsonargparse gives links to whoever names them.
    def __call__(self, class_type: type, *args: Any, applied_instantiation_links: dict, **kwargs: Any) -> Any:
        links = {"applied_instantiation_links": applied_instantiation_links}
        try:
            return super().__call__(class_type, *args, **links, **kwargs)
        except Exception as error:
            cast(RunCLI, self.cli).refusal = error
            raise


class RunCLI(LightningCLI):
    """Lightning's command line, in which `--run FOLDER` says where everything of a run is.

    A training writes there; `validate`, `test` and `predict` take its checkpoints and write into folders of their
    own below it; a dry run (`--trainer.fast_dev_run`) writes into none. A W&B sweep's trial has a folder of its own.
    """

    words: tuple[str, ...] = ()  # as given
    refusal: Exception | None = None  # of model or data
    begin: tuple[str, ...] = ()  # options before all others
    own_strategy: str | None = None  # on several devices, where none is asked for
    scratch: tempfile.TemporaryDirectory | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.asked = (kwargs.get("args") or sys.argv[1:])[:1]
        super().__init__(*args, **kwargs)

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        """Those of Lightning; the parser of the one that is asked for alone, which takes long enough to build."""
        found = LightningCLI.subcommands()
        return {name: found[name] for name in self.asked if name in found} or found

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        kwargs.setdefault("dump_header", None)
        parser = TerseParser(**kwargs)
        parser.add_argument("-c", "--config", action=LaidOver, help="YAML of settings; a later one overrides it")
        return parser

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--run", type=str, default="runs/unnamed", help="folder of the run: everything of it")
        parser.add_argument(
            "--overwrite", action="store_true", help="fit: remove what an earlier run left in the folder, and say what"
        )
        parser.add_argument(
            "--logger", type=str | list[str], default="csv", help="some of csv,tensorboard,wandb; or none"
        )
        parser.add_class_arguments(WandbSettings, "wandb")

    def add_checkpoint(self, parser: LightningArgumentParser, monitor: str, mode: str) -> None:
        """`best.ckpt` by what is monitored, and `last.ckpt`."""
        parser.add_lightning_class_args(RunCheckpoint, "checkpoint")
        options = {"filename": "best", "monitor": monitor, "mode": mode, "save_last": True}
        options["enable_version_counter"] = False
        parser.set_defaults({f"checkpoint.{name}": value for name, value in options.items()})

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        if args is None or isinstance(args, (list, tuple)):
            self.words = tuple(sys.argv[1:] if args is None else args)
            # As words and not as defaults of the parser: a class named later keeps what was said, and is not given
            # the defaults of the one before it.
            self.config = parser.parse_args([*self.words[:1], *self.begin, *whole_lists(whole_help(self.words[1:]))])
        else:
            super().parse_arguments(parser, args)

    def _parse_ckpt_path(self) -> None:
        """The settings of a run are those of its files and options; Lightning would put a checkpoint's over them."""

    @property
    def settings(self) -> Any:
        """Of the command that is run."""
        assert self.subcommand is not None
        return self.config[self.subcommand]

    @property
    def fitting(self) -> bool:
        return self.subcommand == "fit"

    @property
    def dry(self) -> bool:
        """Whether nothing is to stay of this run."""
        return bool(self.settings.trainer.fast_dev_run)

    def before_instantiate_classes(self) -> None:
        """Settle where the run is, what it goes on from, and that nothing there is lost."""
        quiet()
        settings = self.settings
        if settings.trainer.default_root_dir is not None:
            raise UserError(
                f"trainer.default_root_dir: --run alone names a run's folder, got {settings.trainer.default_root_dir}"
            )
        run = Path(settings.run)
        trial = sweep_trial(run) if self.fitting else None
        self.run = RunFolder(trial or run)
        asked = settings.ckpt_path or ("last" if trial else None)
        self.checkpoint = self.run.checkpoint(asked, str(self.subcommand))
        if self.dry:
            self.scratch = tempfile.TemporaryDirectory(prefix="stsa-")
            self.folder = Path(self.scratch.name)
            if self.fitting:
                self.checkpoint = None  # its few steps are the first ones, whatever the run has behind it
        else:
            self.folder = self.run.path if self.fitting else self.run.path / str(self.subcommand)
            if self.fitting:
                self.run.claim(asked, self.checkpoint, settings.overwrite)
            if "wandb" in chosen_names(settings.logger):
                check_login()
        settings.overwrite = False  # whoever takes up these settings again has not asked for it

    def _add_instantiators(self) -> None:
        kinds = (("model", self._model_class), ("data", self._datamodule_class))
        for key, kind in kinds:
            self.parser.add_instantiator(Instantiator(self, key), kind, subclasses=True)

    def instantiate_classes(self) -> None:
        try:
            super().instantiate_classes()
        except ValueError:
            if self.refusal is not None:
                raise self.refusal from None
            raise

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        given = self.config_init[self.subcommand].trainer
        callbacks = [*self.first_callbacks(), *as_list(given.callbacks), *self.last_callbacks()]
        summary = given.enable_model_summary is not False
        if summary and not any(isinstance(callback, ModelSummary) for callback in callbacks):
            callbacks, summary = [*callbacks, ParameterCounts()], False  # Lightning's table counts FLOPs as 0
        kwargs = {
            "default_root_dir": self.folder,
            "logger": False if self.dry else self._loggers(given.logger),
            "callbacks": callbacks,
            "enable_model_summary": summary,
            **self._strategy(),
            **kwargs,
        }
        trainer = super().instantiate_trainer(**kwargs)
        check_synchronised(trainer, bool(given.sync_batchnorm))
        for checkpoint in trainer.checkpoint_callbacks:
            if isinstance(checkpoint, ModelCheckpoint) and (self.dry or checkpoint.dirpath is None):
                checkpoint.dirpath = str(self.folder if self.dry else self.run.path.resolve())
        return trainer

    def first_callbacks(self) -> list[Callback]:
        """Before those of the settings."""
        return []

    def last_callbacks(self) -> list[Callback]:
        """After those of the settings."""
        return []

    def _loggers(self, given: Any) -> list[Logger] | bool:
        if given is False:
            return False
        own = [with_rows_kept(logger) for logger in as_list(given) if isinstance(logger, Logger)]
        settings = self.config_init[self.subcommand]
        return [*make_loggers(settings.logger, self.folder, settings.wandb, self.fitting), *own] or False

    def _strategy(self) -> dict[str, Any]:
        given = self.settings.trainer
        if self.own_strategy is None or given.strategy != "auto":
            return {}
        names = ("devices", "accelerator", "num_nodes")
        found = _AcceleratorConnector(**{name: given[name] for name in names}, strategy="auto")
        return {"strategy": self.own_strategy} if isinstance(found.strategy, DDPStrategy) else {}

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        kwargs = super()._prepare_subcommand_kwargs(subcommand)
        kwargs["ckpt_path"] = self.checkpoint and str(self.checkpoint)
        if subcommand == "predict":
            kwargs["return_predictions"] = False  # they are written, and would fill the memory
        return kwargs


class STSACLI(RunCLI):
    """`stsa fit` and its kin: `STSA` on `STSADataModule`, or classes of one's own in their place.

    Settings name these by `class_path` and `init_args`, or `--model` and `--data`; without it, what stands
    under `model` and `data` are the arguments of the package's own.
    """

    own_strategy = "ddp_alternating"
    begin = (f"--model={class_path(STSA)}", f"--data={class_path(STSADataModule)}")

    def __init__(self, args: ArgsType = None, **kwargs: Any) -> None:
        super().__init__(
            STSA,
            LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            args=args,
            auto_configure_optimizers=False,  # the module has two, with arguments of its own
            save_config_callback=LoggedSettings,
            parser_kwargs={"parser_mode": "omegaconf", "default_env": True, "env_prefix": "STSA"},
            seed_everything_default=0,
            **kwargs,
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        super().add_arguments_to_parser(parser)
        # What data and networks must agree on is said once, under `data`.
        for name in AGREED:
            parser.link_arguments(f"data.init_args.{name}", f"model.init_args.{name}")
        parser.add_argument(
            "--phases", type=dict[str, PhaseSettings], default={}, help="LABEL: {epochs: N, lr: X, ...}, in order"
        )
        parser.add_argument("--epochs", type=int | None, default=None, help="length of the run, phases in proportion")
        parser.add_argument(
            "--smoke", action="store_true", help="fit: a step of each phase, every metric; keeps nothing"
        )
        parser.add_lightning_class_args(GeneratorEMA, "ema")
        parser.add_lightning_class_args(EvaluationCallback, "evaluation")
        parser.add_lightning_class_args(ValidationPictures, "pictures")
        parser.add_lightning_class_args(Predictions, "predictions")
        self.add_checkpoint(parser, "val/psnr_mouth", "max")
        parser.add_lightning_class_args(ResumePoint, "resume")
        parser.add_lightning_class_args(LossWatch, "watch")

    @property
    def dry(self) -> bool:
        return super().dry or self.smoking

    @property
    def smoking(self) -> bool:
        return self.fitting and bool(self.settings.smoke)

    def before_instantiate_classes(self) -> None:
        check_flags(vars(self.settings.trainer))
        super().before_instantiate_classes()
        settings = self.settings
        self._check_corpus()
        given = {label: PhaseSettings(**vars(phase)) for label, phase in settings.phases.items()}
        check_options(self.words, chosen_phases(given))
        epochs = len(chosen_phases(given)) if self.smoking else settings.epochs
        if epochs is None or not given:
            return
        phases = chosen_phases(given, epochs)
        # As said by the settings from here on, so that those which are kept say it, too.
        for label, phase in settings.phases.items():
            phase.epochs = phases[label].epochs if label in phases else 0
        before = epochs_without_picture(chosen_phases(given))
        data = settings.data.init_args
        swapped = data.get("swap_mouth_epochs")
        if swapped and before:
            data["swap_mouth_epochs"] = max(1, swapped * epochs_without_picture(phases) // before)

    def _check_corpus(self) -> None:
        """Before weights are fetched for the module: is the data there?"""
        data = self.settings.data
        if data.class_path == class_path(STSADataModule):
            STSADataModule(**data.init_args.clone().as_dict()).usable_clips()

    def first_callbacks(self) -> list[Callback]:
        settings = self.config_init[self.subcommand]
        specs = phase_specs(chosen_phases(settings.phases))
        given = settings.trainer
        bars = any(isinstance(callback, ProgressBar) for callback in as_list(given.callbacks))
        bar = [] if bars or given.enable_progress_bar is False or given.barebones else [PhaseBar()]
        return [*([PhaseSchedule(specs)] if specs else []), *bar]

    def last_callbacks(self) -> list[Callback]:
        return [RunRecord(), *([SmokeReport()] if self.smoking else [])]

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        settings = self.settings
        total = sum(phase.epochs for phase in settings.phases.values())
        length: dict[str, Any] = {}
        if total and (settings.trainer.max_epochs is None or settings.epochs or self.smoking):
            length["max_epochs"] = total
            # A run ends with a validation, which is when checkpoints are written.
            if settings.epochs and (every := settings.trainer.check_val_every_n_epoch):
                length["check_val_every_n_epoch"] = max(n for n in range(1, every + 1) if total % n == 0)
        if self.smoking:
            length |= SmokeReport.limits(total)
        settings.epochs = None  # what it said is in the phases
        return super().instantiate_trainer(**{**length, **kwargs})


# Adverts of Lightning's, and what nobody can act on, by the logger that says it.
IDLE_MESSAGES = {
    "lightning.pytorch.utilities.rank_zero": ("Tip:", "TPU available"),
    "lightning.pytorch.trainer.connectors.checkpoint_connector": ("`weights_only` was not set",),
}


def is_of_use(record: logging.LogRecord) -> bool:
    """Whether a message says something that a user can act on."""
    return not any(text in record.getMessage() for text in IDLE_MESSAGES.get(record.name, ()))


def quiet() -> None:
    """Leave out what Lightning says of no use."""
    for name in IDLE_MESSAGES:
        logging.getLogger(name).addFilter(is_of_use)  # the same function is added once
    warnings.filterwarnings("ignore", message=".*LeafSpec.* is deprecated")
    warnings.filterwarnings("ignore", message="You have overridden `on_after_batch_transfer`")  # as is meant
    warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")  # see RunFolder.claim
    # It is resumable: the sampler begins where the checkpoint's epoch was left.
    warnings.filterwarnings("ignore", message="You're resuming from a checkpoint that ended before the epoch ended")


def as_list(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, (list, tuple)) else [value]
