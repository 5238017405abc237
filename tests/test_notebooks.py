"""Notebooks run top to bottom: on the rendered sample, with networks that were trained for a moment."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from stsa_lightning.cli import main
from stsa_lightning.data.sample import render_sample
from tests import miniatures

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `make demo` leaves behind, made small: `sample/` and `run/`."""
    folder = tmp_path_factory.mktemp("demo")
    main(["prepare", "sample", "--out", str(folder / "sample"), "--clips", "1", "--seconds", "1.2"])
    text = (ROOT / "experiments/sample.yaml").read_text().replace("outputs/demo", str(folder))
    settings = yaml.safe_load(text)
    settings["data"] |= {"windows_per_clip": 4, "num_workers": 0}
    settings["trainer"] |= {"check_val_every_n_epoch": 2, "log_every_n_steps": 1}
    settings["epochs"] = 4
    (folder / "short.yaml").write_text(yaml.safe_dump(settings))
    main(["fit", "-c", str(folder / "short.yaml")])
    for name in ("first", "second"):
        words = [
            "--data",
            str(folder / "sample"),
            "--out",
            str(folder / "reports" / name),
            "--metrics",
            "psnr,lip_aperture",
        ]
        main(["evaluate", "checkpoint", str(folder / "run/last.ckpt"), *words])
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path, demo: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("STSA_RUN", str(demo / "run"))
    monkeypatch.setenv("STSA_DATA", str(demo / "sample"))
    monkeypatch.setenv("STSA_REPORTS", str(demo / "reports"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.chdir(path.parent)
    run(path)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_stored_with_outputs_that_name_no_machine(path: Path):
    """`scripts/run-notebooks` stores them."""
    cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert outputs
    assert not [output for output in outputs if output["output_type"] == "error" or output.get("name") == "stderr"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    texts = [value for output in outputs for name, value in output.get("data", output).items() if name != "image/png"]
    assert not re.search(r"/(root|home|tmp|work|Users)/", json.dumps(texts))
    assert path.stat().st_size < 700_000


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_protocols_are_reproduced_on_miniatures_of_the_corpora(
    demo: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    render_sample(tmp_path / "videos", speakers=2, clips=1, seconds=2.0)
    videos = sorted((tmp_path / "videos").rglob("*.mp4"))
    for corpus in ("hdtf", "lrs2", "cmlr"):
        root = tmp_path / corpus
        root.mkdir()
        monkeypatch.setenv(f"STSA_{corpus.upper()}", str(getattr(miniatures, corpus)(root, videos)))
    for name, value in {"RUN": demo / "run", "OUT": tmp_path / "out", "METRICS": "psnr", "SPEAKERS": "all"}.items():
        monkeypatch.setenv(f"STSA_{name}", str(value))
    monkeypatch.chdir(ROOT / "notebooks")
    run(ROOT / "notebooks/07_reproduce.ipynb")
    assert len(list((tmp_path / "out").rglob("table.md"))) == 3


def run(path: Path) -> None:
    """Every cell of a notebook, one after another."""
    import matplotlib

    matplotlib.use("Agg")
    names: dict[str, object] = {}
    for cell in json.loads(path.read_text())["cells"]:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), names)
