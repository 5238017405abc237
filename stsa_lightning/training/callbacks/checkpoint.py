"""The best checkpoint of a run, which stays the best one when the run goes on elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from stsa_lightning.training.callbacks.evaluation import EvaluationCallback
from stsa_lightning.utils.errors import UserError

PATHS = ("best_model_path", "kth_best_model_path", "last_model_path")


class RunCheckpoint(ModelCheckpoint):
    """Lightning's ModelCheckpoint for a run's folder that may be moved.

    Lightning forgets the best score where a folder has another name than it had, and the next model, better or worse,
    takes the best one's place. Here what lies in the folder is what the score belongs to. A `monitor` that nothing
    will log is an error before the first step.
    """

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(moved(state_dict, self.dirpath))

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        check_monitor(self.monitor, trainer, pl_module)


def moved(state: Mapping[str, Any], folder: Any) -> dict[str, Any]:
    """The state of a ModelCheckpoint whose files lie in `folder` now; as it is where its best one does not."""
    best = state.get("best_model_path")
    if not best or folder is None or not (Path(folder) / Path(best).name).is_file():
        return dict(state)

    def here(path: str) -> str:
        return str(Path(folder) / Path(path).name) if path else path

    scores = {here(path): score for path, score in state.get("best_k_models", {}).items()}
    paths = {name: here(state[name]) for name in PATHS if name in state}
    return {**state, **paths, "best_k_models": scores, "dirpath": str(folder)}


def check_monitor(monitor: str | None, trainer: Trainer, module: Any) -> None:
    """Raises `UserError` where the run validates and nothing in it will log `monitor`.

    Callbacks and modules from outside may log what they like: where there are such, nothing is said.
    """
    parts = [module, *trainer.callbacks]  # type: ignore[attr-defined]
    known = all(type(part).__module__.split(".")[0] in ("stsa_lightning", "lightning") for part in parts)
    if monitor is None or not known or not monitor.startswith("val/") or not trainer.enable_validation:
        return
    columns = {f"val/{name}" for part in parts if isinstance(part, EvaluationCallback) for name in part.columns}
    logged = columns | {f"val/{name}" for name in getattr(module, "validated", ())}
    if logged and monitor not in logged:
        raise UserError(
            f"checkpoint.monitor: not every validation logs {monitor}; each logs {', '.join(sorted(logged))}. For "
            "others set evaluation.metrics, evaluation.regions, or (of clips) evaluation.every_n_validations 1"
        )
