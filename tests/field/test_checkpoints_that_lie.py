"""Checkpoints whose header or weights cannot be true, and disks that take none: one line, and nothing lost."""

from __future__ import annotations

import json
import re
import resource
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from safetensors.torch import save_file

from stsa_lightning.cli.words import lightning_words
from stsa_lightning.models.checkpoint import load_networks, save_networks
from stsa_lightning.models.guidance import Guidance
from stsa_lightning.models.synthesis import Synthesis
from stsa_lightning.training.callbacks.whole_files import WholeFiles, use_whole_files
from stsa_lightning.utils.errors import UserError

SIZES = {
    "guidance": {"audio_dim": 80, "face_size": 64, "width": 16, "base": 4, "layers": 2, "heads": 2, "feedforward": 16},
    "synthesis": {"audio_dim": 80, "face_size": 64, "width": 2, "audio_width": 8, "spade_hidden": 4},
}
META = {"features": "logmel", "num_frames": 5, "heatmap_sigma": 1.0}


@pytest.fixture(scope="module")
def networks() -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Weights and description of a small checkpoint."""
    torch.manual_seed(0)
    guidance, synthesis = Guidance(**SIZES["guidance"]), Synthesis(**SIZES["synthesis"])
    tensors = {f"guidance.{name}": value for name, value in guidance.state_dict().items()}
    tensors |= {f"synthesis.{name}": value for name, value in synthesis.state_dict().items()}
    return tensors, {"guidance": guidance.settings, "synthesis": synthesis.settings, "meta": META}


def _written(path: Path, tensors: dict[str, torch.Tensor], described: Any) -> Path:
    if path.suffix == ".ckpt":
        torch.save({"state_dict": tensors, "networks": described}, path)
    else:
        save_file(tensors, path, metadata={"stsa": json.dumps({"format": 1, **described})})
    return path


WRONG = [None, "x", [], {}, 1.5, float("nan"), float("inf"), True, -1, 10**7, 10**400]
LIES = [
    *(("meta", value) for value in (None, [], "x", 5, {}, {"features": "logmel"}, {"num_frames": 5})),
    *(("meta.num_frames", value) for value in (*WRONG, 0, 513)),
    *(("meta.heatmap_sigma", value) for value in (None, "x", [], float("nan"), -1, 10**400)),
    *(("meta.features", value) for value in (None, "x", [], {}, 5, True)),
    *(("meta.validation_speakers", value) for value in (None, "x", [5], {})),
    *((part, value) for part in ("guidance", "synthesis") for value in (None, [], "x", 5, {"unknown": 1})),
    *(
        (f"{part}.{name}", value)
        for part, names in {
            "guidance": ("audio_dim", "face_size", "width", "base", "layers", "heads", "feedforward"),
            "synthesis": ("num_references", "width", "audio_width", "spade_hidden", "residuals", "base_reduction"),
        }.items()
        for name in names
        for value in WRONG
    ),
    *(
        ("synthesis.align_kernels", value)
        for value in (None, [5], [5, "x"], [5, 10**9], [0, 0], "53", {"a": 1, "b": 2})
    ),
    *(("synthesis.paths", value) for value in (None, "x", [], 5)),
    *(("synthesis.on_warped", value) for value in (None, "x", 1)),
    *(("synthesis.temporal_dropout", value) for value in (None, "x", -1, 2, float("nan"))),
    *(("guidance.dropout", value) for value in (None, "x", -1, 2, float("nan"))),
]


@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
def test_description_that_cannot_be_true_is_refused(
    suffix: str, networks: tuple[dict[str, torch.Tensor], dict[str, Any]], tmp_path: Path
) -> None:
    tensors, described = networks
    few = {name: tensors[name] for name in list(tensors)[:2]}  # what is refused before any weight is looked at
    for place, value in LIES:
        part, _, name = place.partition(".")
        lie = {**described, part: {**described[part], name: value} if name else value}
        path = _written(tmp_path / f"lie{suffix}", few, lie)
        with pytest.raises(UserError, match=re.escape(path.name)) as raised:
            load_networks(path)
        assert "do not fit" not in str(raised.value), place
        assert len(str(raised.value)) < 400 + len(str(path)), place


@pytest.mark.parametrize(
    "sizes",
    [{"width": 8192}, {"base": 1024}, {"layers": 128}, {"feedforward": 65_536}, {"width": 8192, "layers": 128}],
)
def test_sizes_beyond_the_weights_are_refused_before_room_is_taken(
    sizes: dict[str, int], networks: tuple[dict[str, torch.Tensor], dict[str, Any]], tmp_path: Path
) -> None:
    tensors, described = networks
    lie = {**described, "guidance": {**described["guidance"], **sizes}}
    path = _written(tmp_path / "large.safetensors", tensors, lie)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError, match="do not fit its settings"):
        load_networks(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB


@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", ["guidance.norm.weight", "synthesis.inpainting", "running_var"])
def test_weight_that_is_not_finite_is_named(
    suffix: str, value: float, name: str, networks: tuple[dict[str, torch.Tensor], dict[str, Any]], tmp_path: Path
) -> None:
    tensors, described = networks
    name = next(key for key in tensors if name in key and tensors[key].is_floating_point())
    changed = tensors[name].clone()
    changed.view(-1)[-1] = value
    path = _written(tmp_path / f"bad{suffix}", {**tensors, name: changed}, described)
    with pytest.raises(UserError, match=rf"{re.escape(path.name)}: {re.escape(name)}: 1 of \d+ weights are not finite"):
        load_networks(path)


@pytest.mark.parametrize("value", [5, "x", None, torch.zeros(16, dtype=torch.int32), torch.zeros(16).to_sparse()])
def test_entry_that_is_no_weight_is_named(
    value: object, networks: tuple[dict[str, torch.Tensor], dict[str, Any]], tmp_path: Path
) -> None:
    tensors, described = networks
    path = _written(tmp_path / "odd.ckpt", {**tensors, "guidance.norm.weight": value}, described)  # type: ignore[dict-item]
    with pytest.raises(UserError, match=r"odd\.ckpt: guidance\.norm\.weight: expected"):
        load_networks(path)


def test_half_precision_keeps_numbers_that_it_cannot_hold(tmp_path: Path) -> None:
    guidance, synthesis = Guidance(**SIZES["guidance"]), Synthesis(**SIZES["synthesis"])
    with torch.no_grad():
        guidance.norm.weight[0] = 1e6
    path = save_networks(tmp_path / "half.safetensors", guidance, synthesis, META, half=True)
    assert load_networks(path)[0].norm.weight[0] == 1e6


def test_misconfiguration_of_lightning_is_one_line() -> None:
    from lightning.pytorch.utilities.exceptions import MisconfigurationException

    with pytest.raises(UserError, match=r"max_epochs=2.; raise --trainer.max_epochs to go on"), lightning_words():
        raise MisconfigurationException("You restored with current_epoch=3,\n but Trainer(max_epochs=2).")


# ---- a disk that takes no checkpoint


@pytest.fixture
def small_disk() -> Any:
    """No file may grow beyond 100 kB, which fails as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_full_disk_leaves_the_last_checkpoint_and_nothing_else(tmp_path: Path, small_disk: None) -> None:
    last = tmp_path / "last.ckpt"
    WholeFiles().save_checkpoint({"epoch": 1}, last)
    (tmp_path / ".last.ckpt.part").write_bytes(b"of a killed run")
    with pytest.raises(UserError, match=r"last\.ckpt: the disk is full; make room.*that was there stands"):
        WholeFiles().save_checkpoint({"epoch": 2, "weights": torch.zeros(100_000)}, last)
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]
    assert torch.load(last, weights_only=True) == {"epoch": 1}


def test_checkpoint_does_not_pass_through_the_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "absent"))
    trainer = Trainer(accelerator="cpu", devices=1, logger=False, enable_checkpointing=False)
    use_whole_files(trainer)
    trainer.strategy.checkpoint_io.save_checkpoint({"epoch": 1}, tmp_path / "new" / "last.ckpt")
    assert torch.load(tmp_path / "new" / "last.ckpt", weights_only=True) == {"epoch": 1}
