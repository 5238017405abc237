"""What is slow to import is not imported where it is not needed; counted, for seconds depend on the machine."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from stsa_lightning.cli import main
from stsa_lightning.cli.training import STSACLI

SLOW = {"torch", "torchvision", "torchmetrics", "lightning", "jsonargparse", "pandas", "cv2", "scipy", "transformers"}


def imported(code: str) -> set[str]:
    """Which packages a fresh interpreter has loaded in the end."""
    code += "\nimport sys; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


def test_dubbing_imports_neither_training_nor_measuring():
    loaded = imported("import stsa_lightning.dubbing")
    assert "torch" in loaded
    assert not loaded & (SLOW - {"torch", "cv2"} | {"wandb", "skimage", "matplotlib", "onnxruntime", "av", "lpips"})


def test_help_of_fit_is_kept_and_shown_without_lightning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("STSA_CACHE", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit) as end:
        main(["fit", "--help"])
    assert not end.value.code
    made = capsys.readouterr().out
    assert "--trainer.max_epochs" in made
    code = "from contextlib import suppress\nfrom stsa_lightning.cli import main\nwith suppress(SystemExit): main({})"
    assert not imported(code.format(["fit", "--help"])) & SLOW
    with pytest.raises(SystemExit) as end:
        main(["fit", "--help"])
    assert end.value.code == 0
    assert capsys.readouterr().out == made
    assert len(list(tmp_path.rglob("*.txt"))) == 1


def test_parser_of_the_asked_command_alone_is_built(monkeypatch: pytest.MonkeyPatch):
    built = []
    kept = STSACLI._prepare_subcommand_parser
    monkeypatch.setattr(
        STSACLI, "_prepare_subcommand_parser", lambda self, k, name, **o: built.append(name) or kept(self, k, name, **o)
    )
    with pytest.raises(SystemExit):
        main(["validate", "-c", "sample", "--print_config"])
    assert built == ["validate"]
