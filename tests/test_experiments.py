"""Every experiment file parses with the real program and runs; a missing corpus says what to do."""

from __future__ import annotations

from pathlib import Path

import pytest
import wandb

from stsa_lightning.cli import main

FILES = sorted((Path(__file__).parents[1] / "experiments").glob("*.yaml"))
SMALL = [
    "--model.size=tiny",
    "--model.weights.warp=0",
    "--model.weights.perceptual=0",
    "--model.weights.warp_pixel=1",
    "--model.weights.pixel=1",
    '--model.discriminator={"width": 8, "scales": 1}',
    "--data.features=logmel",
    "--data.face_size=64",
    "--data.num_workers=0",
    "--data.batch_size=2",
    "--data.validation_speakers=[speaker03]",
    "--trainer.accelerator=cpu",
    "--trainer.devices=1",
    "--trainer.strategy=auto",
    "--trainer.precision=32-true",
    "--trainer.sync_batchnorm=false",
]


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.stem)
def test_an_experiment_parses(file: Path, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as end:
        main(["fit", "-c", str(file), "--print_config"])
    assert end.value.code in (0, None)
    printed = capsys.readouterr().out
    assert "PhaseSchedule" in printed
    assert "information:" in printed


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.stem)
def test_an_experiment_fits(file: Path, prepared_sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    main(["fit", "-c", str(file), *SMALL, f"--data.root={prepared_sample}", "--trainer.fast_dev_run=2"])


def test_a_run_is_recorded_by_wandb_offline_and_may_be_repeated(
    prepared_sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    file = next(path for path in FILES if path.stem == "hdtf")
    limits = ["--trainer.max_steps=1", "--trainer.limit_train_batches=1", "--trainer.limit_val_batches=1"]
    for _ in range(2):
        main(["fit", "-c", str(file), *SMALL, *limits, f"--data.root={prepared_sample}"])
        wandb.finish()
    run = tmp_path / "runs" / "hdtf"
    records = sorted((run / "wandb").glob("offline-run-*"))
    assert len(records) == 2
    assert all(list(record.rglob("media/images/**/*.png")) for record in records)
    assert (run / "last.ckpt").is_file()


@pytest.mark.parametrize("corpus", ["hdtf", "lrs2", "cmlr"])
def test_a_missing_corpus_says_how_to_get_it(
    corpus: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    file = next(path for path in FILES if path.stem == corpus)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    with pytest.raises(SystemExit) as end:
        main(["fit", "-c", str(file), *SMALL, "--trainer.fast_dev_run=1"])
    assert end.value.code == 2
    message = capsys.readouterr().err
    assert f"data/{corpus}" in message
    assert "stsa prepare" in message
    assert message.splitlines()[-1].startswith("stsa: ")
