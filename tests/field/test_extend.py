"""The page "Extend it": its classes are written to files as they stand there, and run."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import torch
import yaml

from stsa_lightning.cli import main
from stsa_lightning.losses.objective import LossSettings, LossWeights, Objective
from stsa_lightning.losses.term import GeneratorStep, TermSettings
from stsa_lightning.models.checkpoint import load_networks, save_networks
from stsa_lightning.training.module import STSA
from stsa_lightning.utils.errors import UserError
from stsa_lightning.utils.own import ALLOWED, allow_classes, imported
from tests.field.test_runs import NARROW, rows, stsa, tree  # noqa: F401 (a fixture)

PAGE = Path(__file__).parents[2] / "docs" / "extend.md"
BLOCK = re.compile(r'^```\w+ title="([^"]+)"\n(.*?)^```$', re.MULTILINE | re.DOTALL)
NONE = LossWeights(**{name: 0.0 for name in vars(LossWeights())})
FIT = ["--epochs=4", "--evaluation.clips=0", "--evaluation.landmark_frames=0", "--pictures.count=0"]


@pytest.fixture
def mine(tree: Path, monkeypatch: pytest.MonkeyPatch) -> Path:  # noqa: F811
    """The page's files in a researcher's folder, which Python finds."""
    for name, text in BLOCK.findall(PAGE.read_text()):
        path = tree / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    monkeypatch.syspath_prepend(tree)
    monkeypatch.delenv(ALLOWED, raising=False)
    for name in [name for name in sys.modules if name.split(".")[0] == "mine"]:
        monkeypatch.delitem(sys.modules, name)
    return tree


@pytest.mark.slow
def test_a_term_is_logged_weighted_and_balanced_like_the_others(mine: Path):
    stsa("-c", "sharpness.yaml", *FIT, "--model.losses.balance=shares", "--model.losses.balance_every_n_steps=1")
    logged = {name for row in rows(mine / "runs/mine") for name, value in row.items() if value}
    assert {"train/sharpness", "weight/sharpness", "balance/face/sharpness"} <= logged
    stored = torch.load(mine / "runs/mine/last.ckpt", weights_only=True)["hyper_parameters"]
    assert stored["losses"]["terms"]["sharpness"]["loss"] == "mine.losses.Sharpness"


def test_the_page_s_term_costs_what_its_difference_is(mine: Path):
    settings = {"sharpness": TermSettings("mine.losses.Sharpness", 0.5)}
    objective = Objective(LossSettings(NONE, settings), (4, 8, 8))
    true = torch.zeros(1, 3, 4, 4)
    made = true.clone()
    made[..., 2:] = 1.0  # one edge: a third of the columns' differences, none of the rows'
    output = type("Output", (), {"face": made})
    (value,) = objective.own_terms("face", GeneratorStep({}, None, output, true)).values()  # type: ignore[typeddict-item, arg-type]
    assert float(value) == pytest.approx(1 / 3)
    assert objective.term_weights["sharpness"] == 0.5
    assert objective.own_terms("warped", GeneratorStep({})) == {}  # type: ignore[typeddict-item]


@pytest.mark.slow
def test_a_generator_is_trained_and_dubbed_with_where_the_user_allows_it(
    mine: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    settings = yaml.safe_load((mine / "mine.yaml").read_text())
    narrow = settings["model"].pop("synthesis")
    (mine / "mine.yaml").write_text(yaml.safe_dump(settings))
    over = {"network": "mine.networks.Retouched", "options": {"strength": 0.2}, **narrow}
    (mine / "retouched.yaml").write_text(yaml.safe_dump({"model": {"synthesis": over}}))
    stsa("-c", "retouched.yaml", *FIT)
    checkpoint = mine / "runs/mine/last.ckpt"
    with pytest.raises(
        UserError, match=r"mine\.networks\.Retouched, code that does not come with this .* --allow-class mine"
    ):
        load_networks(checkpoint)
    with pytest.raises(SystemExit):
        main(["weights", "export", str(checkpoint), "-o", "out.safetensors"])
    assert "--allow-class mine.networks.Retouched" in capsys.readouterr().err
    monkeypatch.setenv(ALLOWED, "")
    main(["weights", "export", str(checkpoint), "-o", "out.safetensors", "--allow-class", "mine.networks.Retouched"])
    guidance, synthesis, _ = load_networks(mine / "out.safetensors")
    assert (type(synthesis).__name__, synthesis.strength, type(guidance).__name__) == ("Retouched", 0.2, "Guidance")
    # Drawn by the engine as by the network itself.
    from stsa_lightning.inference.render_engine import RenderEngine

    engine = RenderEngine(guidance, synthesis, precision="fast")
    assert engine.precision == "exact"
    assert type(engine.synthesis).__name__ == "Retouched"
    # A run that names the class may begin from it, one that does not may not.
    monkeypatch.setenv(ALLOWED, "")
    same = {**NARROW, "face_size": 64, "num_frames": 2, "num_references": 2, "init_from": str(checkpoint)}
    begun = STSA(**{**same, "synthesis": over})
    assert torch.equal(begun.synthesis.retouch.weight, synthesis.retouch.weight)
    with pytest.raises(UserError, match="--allow-class"):
        STSA(**{**same, "synthesis": narrow})


def test_code_that_a_checkpoint_names_is_not_imported_unasked(mine: Path, monkeypatch: pytest.MonkeyPatch):
    """Its import would leave a file."""
    trap = mine / "trap.py"
    trap.write_text("from pathlib import Path\nPath('sprung').touch()\n")
    model = STSA("tiny", face_size=64, losses={"weights": NONE}, cil={"weight": 0.0})
    path = save_networks(
        mine / "a.safetensors", model.guidance, model.synthesis, {"features": "logmel", "num_frames": 5}
    )
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    with safe_open(path, framework="pt") as file:
        stored = file.metadata()["stsa"]
    for lie in ('{"class_path": "trap.Net", "init_args": ', '{"class_path": 5, "init_args": '):
        import json

        said = json.loads(stored)
        said["synthesis"] = json.loads(lie + json.dumps(said["synthesis"]) + "}")
        save_file(load_file(path), mine / "b.safetensors", metadata={"stsa": json.dumps(said)})
        with pytest.raises(UserError, match=r"trap\.Net|class_path"):
            load_networks(mine / "b.safetensors")
    assert "trap" not in sys.modules
    assert not (mine / "sprung").exists()
    monkeypatch.setenv(ALLOWED, "some.Other")
    allow_classes(["mine.networks.Retouched"])
    with pytest.raises(UserError, match=r"allow-class trap\.Net|class_path"):
        load_networks(mine / "b.safetensors")


@pytest.mark.slow
def test_data_of_one_s_own_train(mine: Path):
    """Bytes for faces, floats for references."""
    settings = yaml.safe_load((mine / "mine.yaml").read_text())
    del settings["data"]
    (mine / "mine.yaml").write_text(yaml.safe_dump(settings))
    stsa("-c", "noise.yaml", *FIT)
    assert (mine / "runs/mine/last.ckpt").is_file()
    kept = yaml.safe_load((mine / "runs/mine/config.yaml").read_text())["data"]
    assert kept == {"class_path": "mine.data.NoiseData", "init_args": {
        "length": 4, "batch_size": 2, "face_size": 64, "num_frames": 5, "num_references": 3,
    }}  # fmt: skip


@pytest.mark.slow
def test_a_metric_of_one_s_own_chooses_the_best_checkpoint(mine: Path):
    stsa("-c", "brightness.yaml", *FIT)
    state = torch.load(mine / "runs/mine/best.ckpt", weights_only=True)["callbacks"]
    (best,) = (entry for name, entry in state.items() if name.startswith("RunCheckpoint"))
    assert best["monitor"] == "val/brightness"
    assert any(row.get("val/brightness") for row in rows(mine / "runs/mine"))


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("Synthesis", "expected the path of a Synthesis"),
        ("nowhere.Synthesis", "cannot be imported.*PYTHONPATH"),
        ("torch.nn.Nothing", "cannot be imported"),
        ("torch.nn.Linear", "is <class"),
        ("os.system", "is <built-in"),
    ],
)
def test_a_class_that_will_not_do_is_named(path: str, message: str):
    from stsa_lightning.models.synthesis import Synthesis

    with pytest.raises(UserError, match=message):
        imported(path, Synthesis, "model.synthesis.network")


@pytest.mark.parametrize("name", ["pixel", "a/b", "loss", "keys"])
def test_a_term_s_name_must_be_free(name: str):
    with pytest.raises(UserError, match="that is not taken"):
        Objective(LossSettings(NONE, {name: TermSettings("mine.losses.Sharpness")}), (4, 8, 8))
