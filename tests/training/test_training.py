"""Runs of the whole trainer: all phases, exact resume, two processes with equal weights."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger

from stsa_lightning.data.datamodule import STSADataModule
from stsa_lightning.losses.objective import LossWeights
from stsa_lightning.models.checkpoint import load_networks
from stsa_lightning.training.callbacks.ema import GeneratorEMA
from stsa_lightning.training.callbacks.evaluation import EvaluationCallback
from stsa_lightning.training.callbacks.phases import PhaseSchedule
from stsa_lightning.training.callbacks.pictures import ValidationPictures
from stsa_lightning.training.module import STSA
from stsa_lightning.training.phases import PhaseSpec
from tests.pair import Pair

WEIGHTS = LossWeights(
    warp=0.0, perceptual=0.0, warp_pixel=1.0, pixel=1.0, adversarial=0.1, feature_matching=0.1, temporal_adversarial=0.1
)
PHASES = [
    PhaseSpec("guidance", 1),
    PhaseSpec("warp", 1),
    PhaseSpec("synthesis", 1),
    PhaseSpec("end_to_end", 1, lr=1e-4),
]

NARROW: dict[str, Any] = {
    "guidance": {"width": 16, "base": 4, "layers": 1, "heads": 2, "feedforward": 16},
    "synthesis": {"width": 2, "audio_width": 8, "spade_hidden": 4},
}


class Recorder(Callback):
    """The generator's loss and the phase of every step."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.phases: list[str] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        self.losses.append(float(trainer.callback_metrics["train/loss"]))
        self.phases.append(pl_module.phase)


def data(root: Path, windows_per_clip: int = 2) -> STSADataModule:
    return STSADataModule(
        root=str(root),
        face_size=64,
        num_frames=3,
        num_references=2,
        batch_size=2,
        num_workers=0,
        windows_per_clip=windows_per_clip,
        validation_speakers=["speaker03"],
    )


def module(**options: Any) -> STSA:
    seed_everything(0)
    settings = {"preset": "tiny", "face_size": 64, "num_frames": 3, "num_references": 2, "losses": {"weights": WEIGHTS}}
    return STSA(**{**settings, **NARROW, "discriminator": {"width": 8, "scales": 1}, "optim": {"lr": 1e-3}, **options})


def trainer(folder: Path, epochs: int, *callbacks: Callback, **options: Any) -> Trainer:
    saving = ModelCheckpoint(dirpath=folder, filename="{epoch}", save_top_k=-1, save_last="link")
    return Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=epochs,
        num_sanity_val_steps=0,
        log_every_n_steps=1,
        enable_progress_bar=False,
        enable_model_summary=False,
        logger=CSVLogger(folder, name=None, version="logs"),
        callbacks=[PhaseSchedule(PHASES), GeneratorEMA(0.9), saving, *callbacks],
        **options,
    )


@pytest.fixture(scope="module")
def uninterrupted(prepared_sample: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Recorder, STSA]:
    """Four epochs, one of each phase, with everything that a run has."""
    folder, recorder, model = tmp_path_factory.mktemp("run"), Recorder(), module()
    measuring = EvaluationCallback(landmark_frames=2, clips=1, every_n_validations=4)
    run = trainer(folder, 4, recorder, measuring, ValidationPictures(count=2))
    run.fit(model, data(prepared_sample))
    return folder, recorder, model


def test_a_run_goes_through_all_phases_and_counts_batches(uninterrupted):
    folder, recorder, _ = uninterrupted
    assert list(dict.fromkeys(recorder.phases)) == [spec.name for spec in PHASES]
    checkpoint = torch.load(folder / "last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == len(recorder.losses)
    assert checkpoint["phase"] == "end_to_end"
    assert len(list((folder / "logs" / "pictures").glob("*.png"))) == 4
    logged = (folder / "logs" / "metrics.csv").read_text().splitlines()[0].split(",")
    assert {"val/psnr_mouth", "val/ssim_face", "val/lmd", "train/discriminator", "train/cil"} <= set(logged)


@pytest.mark.slow
def test_a_resumed_run_repeats_the_uninterrupted_one(uninterrupted, prepared_sample: Path, tmp_path: Path):
    folder, recorder, model = uninterrupted
    again, resumed = Recorder(), module()
    seed_everything(17)  # what a new process happens to draw must not matter
    trainer(tmp_path, 4, again).fit(resumed, data(prepared_sample), ckpt_path=folder / "epoch=1.ckpt")
    assert again.losses == recorder.losses[-len(again.losses) :]
    assert len(again.losses) == len(recorder.losses) // 2
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name


def test_a_checkpoint_gives_the_averaged_networks(uninterrupted):
    folder, _, model = uninterrupted
    guidance, synthesis, meta = load_networks(folder / "last.ckpt")
    assert (meta["features"], meta["num_frames"], meta["heatmap_sigma"]) == ("logmel", 3, 1.0)
    assert meta["validation_speakers"] == ["speaker03"]
    averages = torch.load(folder / "last.ckpt", weights_only=True)["callbacks"]["GeneratorEMA"]["average"]
    for network, name in ((guidance, "guidance"), (synthesis, "synthesis")):
        for key, tensor in network.state_dict().items():
            assert torch.equal(tensor, averages[f"{name}.{key}"])
    live = model.synthesis.state_dict()
    assert any(not torch.equal(live[key], tensor) for key, tensor in synthesis.state_dict().items())


def test_validation_of_a_checkpoint_repeats_the_runs_own(uninterrupted, prepared_sample: Path):
    folder, _, _ = uninterrupted
    with (folder / "logs" / "metrics.csv").open() as file:
        logged = [float(row["val/psnr_mouth"]) for row in csv.DictReader(file) if row["val/psnr_mouth"]]
    measuring = Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        callbacks=[GeneratorEMA(0.9), EvaluationCallback(landmark_frames=0, clips=0)],
    )
    (values,) = measuring.validate(module(), data(prepared_sample), ckpt_path=folder / "last.ckpt", verbose=False)
    assert values["val/psnr_mouth"] == pytest.approx(logged[-1], abs=1e-3)


def test_each_phase_runs_alone_from_a_checkpoint(uninterrupted, prepared_sample: Path, tmp_path: Path):
    folder, _, _ = uninterrupted
    model = module(init_from=str(folder / "last.ckpt"), cil={"estimator": "mine"})
    Trainer(accelerator="cpu", fast_dev_run=1, enable_progress_bar=False).fit(model, data(prepared_sample))
    assert model.phase == "end_to_end"


def train_as_rank(rank: int, folder: str, root: str) -> dict[str, dict[str, torch.Tensor]]:
    model = module()
    run = Trainer(
        accelerator="cpu",
        devices=2,
        strategy="ddp_alternating",
        max_epochs=4,
        check_val_every_n_epoch=2,
        logger=False,
        default_root_dir=folder,
        enable_progress_bar=False,
        enable_checkpointing=False,
        num_sanity_val_steps=0,
        callbacks=[
            PhaseSchedule(PHASES),
            EvaluationCallback(landmark_frames=2, clips=1),
            ValidationPictures(count=1),
        ],
    )
    run.fit(model, data(Path(root)))
    assert (run.world_size, run.global_rank) == (2, rank)
    return {"state": model.state_dict(), "metrics": dict(run.callback_metrics)}


def test_a_phase_with_frozen_parts_leaves_them_and_logs_the_balance_of_the_others(
    prepared_sample: Path, tmp_path: Path
):
    losses = {"weights": WEIGHTS, "balance_every_n_steps": 1}
    model = module(losses=losses, cil={"gradient_share": 0.05})
    before = {name: tensor.clone() for name, tensor in model.synthesis.state_dict().items()}
    frozen = PhaseSpec("synthesis", 1, freeze=("synthesis.temporal", "synthesis.audio_encoder"))
    run = Trainer(
        **{"max_epochs": 1, "limit_train_batches": 2, "limit_val_batches": 0, "log_every_n_steps": 1},
        **{"accelerator": "cpu", "devices": 1, "enable_progress_bar": False, "enable_model_summary": False},
        **{"logger": False, "enable_checkpointing": False, "callbacks": [PhaseSchedule([frozen])]},
    )
    run.fit(model, data(prepared_sample))
    assert {"balance/face/pixel", "balance/paths/cil"} <= run.logged_metrics.keys()
    moved = {
        name.split(".")[0] for name, tensor in model.synthesis.state_dict().items() if not tensor.equal(before[name])
    }
    assert moved == {"spatial", "fusion", "inpainting"}


@pytest.mark.slow
def test_two_processes_end_with_equal_weights_and_statistics(pair: Pair, prepared_sample: Path, tmp_path: Path):
    ranks = pair(train_as_rank, str(tmp_path), str(prepared_sample))
    start = dict(module().named_parameters())
    for name, tensor in ranks[0]["state"].items():
        assert torch.equal(tensor, ranks[1]["state"][name]), name
    assert any(not torch.equal(tensor, ranks[0]["state"][name]) for name, tensor in start.items())
    for name in ("val/psnr_mouth", "val/lmd"):
        torch.testing.assert_close(*(rank["metrics"][name] for rank in ranks), equal_nan=True)
