"""All settings of a run, as a file in its folder and with every logger."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback

from stsa_lightning.training.run_folder import CONFIG
from stsa_lightning.utils.files import set_aside, written_whole


class LoggedSettings(SaveConfigCallback):
    """`config.yaml` in the run's folder, and what is no argument of the module or of the data with every logger.

    A run that goes on keeps the settings of each start: earlier ones are `config-1.yaml`, `config-2.yaml` ...
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "save_to_log_dir": False})

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        text = self.parser.dump(self.config, skip_none=False)
        path = Path(trainer.default_root_dir) / CONFIG
        if not path.is_file() or path.read_text() != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            set_aside(path)
            with written_whole(path) as part:
                part.write_text(text)
        settings = yaml.safe_load(text)
        logged = {name: settings[name] for name in ("seed_everything", "phases", "trainer") if name in settings}
        for logger in trainer.loggers:
            logger.log_hyperparams({"settings": logged})
