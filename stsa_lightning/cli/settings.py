"""All settings of a run, as a file in its folder and with every logger."""

from __future__ import annotations

import yaml
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback


class LoggedSettings(SaveConfigCallback):
    """``config.yaml`` beside the logs (Lightning's own), and the trainer's settings with every logger.

    Arguments of the module and of the data module are logged as hyperparameters already; what is left is how long, on
    what and with which callbacks they were used.
    """

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        settings = yaml.safe_load(self.parser.dump(self.config, skip_none=False))
        logged = {name: settings[name] for name in ("seed_everything", "trainer") if name in settings}
        for logger in trainer.loggers:
            logger.log_hyperparams({"settings": logged})
