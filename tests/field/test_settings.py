"""What a run is asked for and cannot have is said at its start, in one line; rates, optimisers, the run's end."""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch import Callback

from stsa_lightning.cli import main
from stsa_lightning.data.augment import AugmentSettings
from stsa_lightning.data.datamodule import STSADataModule
from stsa_lightning.data.settings import PrepareSettings
from stsa_lightning.data.windows import as_floats
from stsa_lightning.evaluation.protocol import Protocol
from stsa_lightning.losses.cil import CILSettings
from stsa_lightning.losses.mutual_information import MINE, InfoNCE
from stsa_lightning.losses.objective import LossSettings, LossWeights
from stsa_lightning.models.discriminators import DiscriminatorSettings
from stsa_lightning.training.callbacks.checkpoint import RunCheckpoint, check_monitor, moved
from stsa_lightning.training.callbacks.ema import GeneratorEMA
from stsa_lightning.training.callbacks.evaluation import EvaluationCallback
from stsa_lightning.training.callbacks.phases import PhaseSchedule
from stsa_lightning.training.callbacks.pictures import ValidationPictures
from stsa_lightning.training.callbacks.predictions import Predictions
from stsa_lightning.training.callbacks.resume import ResumePoint, ends
from stsa_lightning.training.callbacks.watch import LossWatch
from stsa_lightning.training.checks import check_flags, check_optimisers, check_synchronised
from stsa_lightning.training.loggers import WandbSettings, check_login, make_loggers
from stsa_lightning.training.module import STSA
from stsa_lightning.training.optim import OptimSettings, share_of_rate
from stsa_lightning.training.phases import PhaseSettings, PhaseSpec, check_options
from stsa_lightning.utils.errors import UserError

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
NONE = LossWeights(**{name: 0.0 for name in vars(LossWeights())})
NO_TERMS: dict[str, Any] = {"losses": {"weights": NONE}, "cil": {"weight": 0.0}}


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit) as end:
        main(["fit", *words])
    assert end.value.code == 2
    message = capsys.readouterr().err
    assert "usage:" not in message
    assert "Traceback" not in message
    return message


# ---- optimisers and rates


def test_an_optimiser_is_made_of_its_settings():
    weight = torch.nn.Parameter(torch.ones(2))
    settings = OptimSettings(0.1, weight_decay=0.01, optimizer="torch.optim.SGD", options={"momentum": 0.9})
    optimiser = settings.make([weight], {"foreach": True, "unknown": True})
    assert type(optimiser) is torch.optim.SGD
    group = optimiser.param_groups[0]
    assert (group["lr"], group["weight_decay"], group["momentum"], group["foreach"]) == (0.1, 0.01, 0.9, True)
    OptimSettings(0.2, optimizer="torch.optim.SGD").renew(optimiser)
    assert (group["lr"], group["weight_decay"]) == (0.2, 0.0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr": -1.0}, "optim.lr must be 0 or more, got -1"),
        ({"betas": (0.9, 1.0)}, "betas must be two numbers"),
        ({"weight_decay": float("nan")}, "weight_decay must be 0 or more"),
        ({"schedule": "step"}, "constant, cosine, linear, got 'step'"),
        ({"optimizer": "torch.optim.Nothing"}, "cannot be imported"),
        ({"optimizer": "torch.nn.Linear"}, "is <class"),
        ({"optimizer": "torch.optim.SGD", "betas": (0.5, 0.9)}, "takes no betas; its arguments are params, lr"),
        ({"options": {"momentum": 0.9}}, "takes no momentum"),
    ],
)
def test_optimisers_that_cannot_be_are_named(settings: dict[str, Any], message: str):
    with pytest.raises(UserError, match=message):
        OptimSettings(**settings)


def test_schedules_have_the_values_of_their_curves():
    shares = [share_of_rate("linear", 0, done, 4) for done in range(5)]
    assert shares == [1.0, 0.75, 0.5, 0.25, 0.0]
    assert share_of_rate("cosine", 0, 1, 3) == pytest.approx(0.5 * (1 + math.cos(math.pi / 3)))
    assert [share_of_rate("cosine", 2, done, 6) for done in (0, 1, 2, 4)] == pytest.approx([0.5, 1.0, 1.0, 0.5])
    assert share_of_rate("linear", 0, 9, None) == share_of_rate("constant", 0, 9, 10) == 1.0


def test_each_phase_has_the_whole_curve_and_the_last_one_lasts_to_the_end():
    optim = OptimSettings(0.1, schedule="linear")
    module = STSA("tiny", face_size=64, **NO_TERMS, optim=optim)
    phases = PhaseSchedule([PhaseSpec("guidance", 2), PhaseSpec("synthesis", 1, lr=0.2, schedule="constant")])
    assert phases.rates_at(module, 0, 2, 8)[0] == pytest.approx(0.1 * 0.75)
    assert phases.rates_at(module, 2, 2, 8) == [0.2, 1e-4]
    assert phases.length_of(phases.phases[1], 2, 7) == 5
    assert phases.length_of(phases.phases[1], 2, -1) is None
    assert phases.length_of(phases.phases[0], 0, 7) == 2


def test_options_that_every_phase_overrides_are_refused():
    phases = {"guidance": PhaseSettings(1, lr=0.1), "warp": PhaseSettings(1, lr=0.2)}
    with pytest.raises(UserError, match=r"--model\.optim\.lr: has no effect, as every phase sets its own lr"):
        check_options(["fit", "--model.optim.lr=0.5"], phases)
    check_options(["fit", "--model.optim.lr=0.5"], {**phases, "synthesis": PhaseSettings(1)})
    check_options(["fit", "--model.optim.discriminator.lr", "0.5"], phases)
    check_options(["fit", "--model.optim.lr=0.5"], {})


def test_schedulers_beside_phases_are_refused():
    class Own(STSA):
        pass

    phases = PhaseSchedule([PhaseSpec("guidance", 1)])
    step = SimpleNamespace(scheduler=SimpleNamespace())
    trainer = SimpleNamespace(max_epochs=1, fast_dev_run=False, datamodule=None, lr_scheduler_configs=[step])
    with pytest.raises(UserError, match=r"the phases set the learning rates.*model\.optim\.schedule"):
        phases.on_fit_start(trainer, Own("tiny", face_size=64, **NO_TERMS))  # type: ignore[arg-type]


def test_another_optimiser_than_the_checkpoint_s_is_refused():
    adam = {"optim": {"optimizer": "torch.optim.Adam"}}
    with pytest.raises(UserError, match=r"the state of torch\.optim\.Adam, got torch\.optim\.SGD"):
        check_optimisers(adam, {"optim": {"optimizer": "torch.optim.SGD"}})
    check_optimisers({}, adam)
    check_optimisers(adam, adam)


def test_cil_and_discriminator_are_made_of_their_settings():
    mine, nce = (
        CILSettings(estimator="mine", momentum=0.1).make(8, 3),
        CILSettings(temperature=0.3, critic="mlp").make(8, 3),
    )
    assert isinstance(mine, MINE)
    assert mine.momentum == 0.1
    assert isinstance(nce, InfoNCE)
    assert (nce.temperature, nce.critic) == (0.3, "mlp")
    for wrong in (
        {"estimator": "club"},
        {"temperature": 0.0},
        {"momentum": 0.1},
        {"estimator": "mine", "critic": "mlp"},
        {"estimator": "mine", "negatives": "clip"},
        {"region": "nose"},
    ):
        with pytest.raises(UserError, match=r"^cil\."):
            CILSettings(**wrong)
    own = DiscriminatorSettings(
        network="torch.nn.Conv2d", options={"in_channels": 3, "out_channels": 1, "kernel_size": 1}
    )
    assert isinstance(own.make(), torch.nn.Conv2d)
    module = STSA("tiny", face_size=64, losses={"weights": NONE}, cil={"estimator": "mine"})  # as a checkpoint holds it
    assert module.hparams["cil"]["estimator"] == "mine"
    with pytest.raises(UserError, match="expected some of lr, betas"):
        STSA("tiny", face_size=64, **NO_TERMS, optim={"rate": 1.0})


# ---- checkpoints


@pytest.mark.parametrize(
    ("epochs", "steps", "stop", "last"),
    [(3, -1, False, True), (4, -1, False, False), (-1, 9, False, True), (None, 10, False, False), (9, -1, True, True)],
)
def test_the_last_epoch_is_known(epochs: int | None, steps: int, stop: bool, last: bool):
    trainer = SimpleNamespace(max_epochs=epochs, max_steps=steps, should_stop=stop, current_epoch=2, global_step=9)
    assert ends(trainer) is last  # type: ignore[arg-type]


def test_the_best_stays_the_best_in_a_folder_that_was_moved(tmp_path: Path):
    before, after = tmp_path / "before", tmp_path / "after"
    state = {
        "monitor": "val/x",
        "best_model_score": torch.tensor(3.0),
        "best_model_path": str(before / "best.ckpt"),
        "current_score": torch.tensor(3.0),
        "dirpath": str(before),
        "best_k_models": {str(before / "best.ckpt"): torch.tensor(3.0)},
        "kth_best_model_path": str(before / "best.ckpt"),
        "kth_value": torch.tensor(3.0),
        "last_model_path": str(before / "last.ckpt"),
    }
    after.mkdir()
    assert moved(state, after)["dirpath"] == str(before)  # another run's: nothing of it lies here
    (after / "best.ckpt").touch()
    checkpoint = RunCheckpoint(after, "best", "val/x", mode="max")
    checkpoint.load_state_dict(moved(state, checkpoint.dirpath))
    assert checkpoint.best_model_path == str(after / "best.ckpt")
    alone = SimpleNamespace(strategy=SimpleNamespace(reduce_boolean_decision=bool))
    assert not checkpoint.check_monitor_top_k(alone, torch.tensor(2.0))  # type: ignore[arg-type]


def watched(monitor: str, *callbacks: Callback, validates: bool = True) -> None:
    module = STSA(
        "tiny", face_size=64, losses={"weights": LossWeights(**{**vars(NONE), "keypoints": 1.0})}, cil={"weight": 0.0}
    )
    evaluation = EvaluationCallback(metrics=["psnr"], clips=0, landmark_frames=0)
    evaluation.setup(None, SimpleNamespace(device=torch.device("cpu")), "fit")  # type: ignore[arg-type]
    trainer = SimpleNamespace(callbacks=[evaluation, *callbacks], enable_validation=validates)
    check_monitor(monitor, trainer, module)  # type: ignore[arg-type]


def test_a_monitor_that_nothing_logs_is_reported_at_the_start():
    for monitor in ("val/psnr_mouth", "val/keypoints", "val/pixel", "train/loss"):
        watched(monitor)
    with pytest.raises(UserError, match=r"logs val/fid; each logs val/keypoints, val/pixel, val/psnr_face"):
        watched("val/fid")
    watched("val/fid", validates=False)

    class Own(Callback):
        """May log whatever it likes."""

    watched("val/fid", Own())


def test_strict_metrics_stop_a_run_that_would_go_without(monkeypatch: pytest.MonkeyPatch):
    from stsa_lightning.utils.weights import WeightsError

    def nowhere(*_):
        raise WeightsError("nowhere")

    monkeypatch.setattr("stsa_lightning.metrics.perceptual.weights_path", nowhere)
    callback = EvaluationCallback(metrics=["lpips_alex"], clips=0, landmark_frames=0, strict=True)
    with pytest.raises(UserError, match=r"evaluation\.strict: lpips_alex_face is not measured: nowhere"):
        callback.setup(None, SimpleNamespace(device=torch.device("cpu")), "fit")  # type: ignore[arg-type]


# ---- Lightning's own flags


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"strategy": "fsdp"}, "ddp_alternating.* got fsdp"),
        ({"strategy": "deepspeed_stage_2"}, "got deepspeed_stage_2"),
        ({"gradient_clip_val": 1.0}, r"--model\.optim\.gradient_clip_val"),
        ({"accumulate_grad_batches": 4}, r"--model\.optim\.accumulate_grad_batches"),
    ],
)
def test_flags_that_cannot_work_say_ours(flags: dict[str, Any], message: str):
    idle = {"gradient_clip_val": None, "gradient_clip_algorithm": None, "accumulate_grad_batches": 1}
    check_flags({**idle, "strategy": "ddp_find_unused_parameters_true"})
    with pytest.raises(UserError, match=message):
        check_flags({**idle, "strategy": "auto", **flags})


def test_batch_norm_over_processes_of_processors_is_refused():
    strategy = SimpleNamespace(root_device=torch.device("cpu"))
    two = SimpleNamespace(world_size=2, strategy=strategy)
    with pytest.raises(UserError, match=r"sync_batchnorm: expected false on CPUs"):
        check_synchronised(two, True)  # type: ignore[arg-type]
    check_synchronised(two, False)  # type: ignore[arg-type]
    check_synchronised(SimpleNamespace(world_size=1, strategy=strategy), True)  # type: ignore[arg-type]


def test_nobody_logged_in_is_reported_before_anything_is_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    for key, mode, fine in ((None, "online", False), ("k" * 40, "online", True), (None, "offline", True)):
        settings = SimpleNamespace(settings=SimpleNamespace(mode=mode, api_key=key))
        monkeypatch.setattr("wandb.setup", lambda settings=settings: settings)
        monkeypatch.setattr("wandb.api", SimpleNamespace(api_key=key))
        if fine:
            check_login()
        else:
            with pytest.raises(UserError, match=r"W&B: no API key\. Log in with `wandb login`"):
                check_login()


def test_a_run_keeps_its_id_in_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("WANDB_RUN_ID", "WANDB_SWEEP_ID"):
        monkeypatch.delenv(name, raising=False)
    ids = [make_loggers("wandb", tmp_path, WandbSettings(), True)[0].version for _ in range(2)]
    assert ids[0] == ids[1] == (tmp_path / "wandb_id").read_text().strip()


def test_complaints_are_a_line_or_two(capsys: pytest.CaptureFixture[str]):
    message = refused(capsys, "-c", str(EXPERIMENTS / "sample.yaml"), "--model.sise", "tiny")
    assert len(message.splitlines()) <= 3
    assert "sise" in message
    assert "--model.help" in message


def test_a_corpus_that_is_not_there_is_reported_before_weights_are_searched(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    def fetched(*_: Any, **__: Any) -> None:
        raise AssertionError("weights were asked for")

    monkeypatch.setattr("stsa_lightning.losses.objective.PerceptualLoss", fetched)
    monkeypatch.chdir(tmp_path)
    assert "stsa prepare" in refused(capsys, "-c", str(EXPERIMENTS / "hdtf.yaml"), "--logger=csv")


def shown(capsys: pytest.CaptureFixture[str], words: Sequence[str]) -> str:
    with pytest.raises(SystemExit) as end:
        main(list(words))
    assert not end.value.code
    return capsys.readouterr().out


def test_arguments_of_the_model_and_the_environment_s_settings(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    assert "--model.optim.weight_decay" in shown(capsys, ["fit", "--model.help"])
    assert "--data.windows_per_clip" in shown(capsys, ["fit", "--data.help"])
    monkeypatch.setenv("STSA_FIT__EMA__DECAY", "0.5")
    printed = yaml.safe_load(shown(capsys, ["fit", "--data.root=x", "--print_config"]))
    assert printed["ema"]["decay"] == 0.5


# ---- data


def test_bytes_and_floats_come_to_the_same():
    bytes_ = torch.randint(0, 256, (2, 3, 4, 4), dtype=torch.uint8)
    batch = {"faces": bytes_, "references": bytes_.float() / 255}
    made = as_floats(batch)  # type: ignore[arg-type, typeddict-item]
    assert torch.equal(made["faces"], made["references"])
    assert made["faces"].dtype == torch.float32


def numbers(settings: type) -> list[str]:
    """Arguments whose defaults are numbers."""
    parameters = inspect.signature(settings).parameters.items()
    return [name for name, given in parameters if type(given.default) in (int, float)]


@pytest.mark.parametrize(
    "settings",
    [
        partial(STSADataModule, "corpus"), AugmentSettings, PrepareSettings, LossSettings, CILSettings,
        DiscriminatorSettings, OptimSettings, EvaluationCallback, ValidationPictures, ResumePoint, LossWatch,
        GeneratorEMA, Predictions, Protocol,
    ],
    ids=lambda settings: getattr(settings, "func", settings).__name__,
)  # fmt: skip
def test_no_number_may_be_below_nought(settings: Any) -> None:
    """Before a run begins: at the first validation it would be late."""
    names = numbers(settings)
    for name in names:
        with pytest.raises(UserError, match=rf"{name}.*-1"):
            settings(**{name: -1})
    assert names


@pytest.mark.parametrize(
    ("settings", "name"), [(EvaluationCallback, "every_n_validations"), (ValidationPictures, "every_n_epochs")]
)
def test_every_nought_th_time_is_refused(settings: Any, name: str) -> None:
    with pytest.raises(UserError, match=f"{name} must be 1 or more, got 0"):
        settings(**{name: 0})
