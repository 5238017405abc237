"""What a training takes from checkpoints and puts into them, beside Lightning's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule
from lightning.pytorch.trainer.states import TrainerFn
from torch import nn

from stsa_lightning.data.datamodule import STSADataModule
from stsa_lightning.models.checkpoint import averaged_weights, load_networks
from stsa_lightning.training.checks import check_optimisers, check_parts, check_settings, log_changed_settings
from stsa_lightning.utils.own import description, is_own

NETWORKS = ("guidance", "synthesis")


class Checkpointed(LightningModule):
    """A module whose checkpoints hold what dubbing reads, and are checked against the run that loads them."""

    seed: int  # of the run, from its first step to its last

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """What `load_networks` needs to rebuild the networks without this class, and the seed of the run."""
        meta = {name: self.hparams[name] for name in ("features", "num_frames", "heatmap_sigma")}
        data = getattr(self.trainer, "datamodule", None)
        if isinstance(data, STSADataModule):
            meta["validation_speakers"] = sorted(set(data.splits["val"]["speaker"]))  # an evaluation measures these
        checkpoint["networks"] = {name: description(getattr(self, name)) for name in NETWORKS} | {"meta": meta}
        checkpoint["seed"] = self.seed

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Whoever does not go on training gets the averaged weights, as dubbing does.

        Raises:
            UserError: networks, optimisers or parts differ.
        """
        for name in NETWORKS:
            check_settings("the checkpoint", name, checkpoint["networks"][name], description(getattr(self, name)))
        fitting = self._trainer is not None and self.trainer.state.fn == TrainerFn.FITTING
        theirs = checkpoint.get("hyper_parameters", {})
        log_changed_settings(theirs, self.hparams)
        if fitting:
            check_optimisers(theirs, self.hparams)
        check_parts(checkpoint["state_dict"], self.state_dict())
        if not fitting:
            checkpoint["state_dict"] |= averaged_weights(checkpoint)
        self.seed = checkpoint["seed"]


def load_generator(path: str | Path, guidance: nn.Module, synthesis: nn.Module) -> None:
    """Take both networks' weights, averaged ones where there are such, from a checkpoint of the same settings."""
    mine = {"guidance": guidance, "synthesis": synthesis}
    # Classes that this run names are allowed for the checkpoint, too.
    described = [description(network) for network in mine.values()]
    *theirs, _ = load_networks(path, [entry["class_path"] for entry in described if is_own(entry)])
    for (name, network), said, stored in zip(mine.items(), described, theirs, strict=True):
        check_settings(str(path), name, description(stored), said)
        network.load_state_dict(stored.state_dict())
