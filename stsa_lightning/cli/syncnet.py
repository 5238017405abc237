"""`stsa syncnet fit | validate | test`: train a lip-sync expert on a prepared corpus."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence

from stsa_lightning.cli.command import command
from stsa_lightning.cli.words import files_first, lightning_words
from stsa_lightning.utils.errors import UserError


def add(commands: argparse._SubParsersAction) -> None:
    """For the list of commands alone: its options are Lightning's, see `run`."""
    command(commands, "syncnet", _say, "a lip-sync expert of your own: stsa syncnet fit -c experiments/syncnet.yaml")


def _say(_: argparse.Namespace) -> None:
    raise UserError("syncnet needs fit, validate or test: stsa syncnet fit -c experiments/syncnet.yaml (or --help)")


def run(argv: Sequence[str]) -> None:
    """Lightning's commands on `SyncExpertModule`; `argv` begins with one of them."""
    os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
    from lightning.pytorch.cli import LightningArgumentParser

    from stsa_lightning.cli.settings import LoggedSettings
    from stsa_lightning.cli.training import RunCLI
    from stsa_lightning.data.datamodule import STSADataModule
    from stsa_lightning.training.sync_expert import SyncExpertModule

    class SyncCLI(RunCLI):
        def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
            super().add_arguments_to_parser(parser)
            for name in ("features", "face_size", "num_frames"):
                parser.link_arguments(f"data.{name}", f"model.{name}")
            self.add_checkpoint(parser, "val/loss", "min")

    with lightning_words():
        SyncCLI(
            SyncExpertModule,
            STSADataModule,
            args=[argv[0], *files_first(argv[1:])],
            save_config_callback=LoggedSettings,
            parser_kwargs={"parser_mode": "omegaconf"},
            seed_everything_default=0,
        )
