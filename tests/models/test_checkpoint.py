from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from stsa_lightning.models.checkpoint import load_networks, save_networks
from stsa_lightning.models.guidance import Guidance
from stsa_lightning.models.synthesis import Synthesis
from stsa_lightning.utils.errors import UserError

META = {"features": "logmel", "num_frames": 5}


def same_state(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    ours, theirs = a.state_dict(), b.state_dict()
    return ours.keys() == theirs.keys() and all(ours[k].equal(theirs[k]) for k in ours)


@pytest.fixture
def saved(tmp_path: Path, tiny_guidance: Guidance, tiny_synthesis: Synthesis) -> Path:
    return save_networks(tmp_path / "new" / "networks.safetensors", tiny_guidance, tiny_synthesis, META)


def test_networks_come_back_with_settings_and_meta(
    saved: Path, tiny_guidance: Guidance, tiny_synthesis: Synthesis
) -> None:
    guidance, synthesis, meta = load_networks(saved)
    assert meta == META
    assert guidance.settings == tiny_guidance.settings
    assert synthesis.settings == tiny_synthesis.settings
    assert same_state(guidance, tiny_guidance)
    assert same_state(synthesis, tiny_synthesis)
    assert not guidance.training
    assert [p.name for p in saved.parent.iterdir()] == [saved.name]
    audio, heatmaps = torch.randn(1, 2, 80, 10), torch.rand(1, 2, 1, 64, 64)
    torch.testing.assert_close(
        guidance(audio, heatmaps, heatmaps).heatmap, tiny_guidance(audio, heatmaps, heatmaps).heatmap
    )


def test_meta_that_leaves_out_what_a_dub_needs(
    tmp_path: Path, tiny_guidance: Guidance, tiny_synthesis: Synthesis
) -> None:
    path = save_networks(tmp_path / "bare.safetensors", tiny_guidance, tiny_synthesis, {"num_frames": 5})
    with pytest.raises(UserError, match=r"bare\.safetensors: its meta does not say features"):
        load_networks(path)


def test_training_checkpoints_load_too(tmp_path: Path, tiny_guidance: Guidance, tiny_synthesis: Synthesis) -> None:
    state = {f"guidance.{k}": v for k, v in tiny_guidance.state_dict().items()}
    state |= {f"synthesis.{k}": v for k, v in tiny_synthesis.state_dict().items()}
    networks = {"guidance": tiny_guidance.settings, "synthesis": tiny_synthesis.settings, "meta": META}
    path = tmp_path / "last.ckpt"
    torch.save({"state_dict": {**state, "discriminator.x": torch.zeros(1)}, "networks": networks, "epoch": 3}, path)
    guidance, synthesis, meta = load_networks(path)
    assert same_state(guidance, tiny_guidance)
    assert same_state(synthesis, tiny_synthesis)
    assert meta == META


def test_a_failed_write_leaves_nothing_and_keeps_the_old_file(
    saved: Path, tiny_guidance: Guidance, tiny_synthesis: Synthesis
) -> None:
    before = saved.read_bytes()
    with pytest.raises(TypeError):
        save_networks(saved, tiny_guidance, tiny_synthesis, {"not JSON": object()})
    assert saved.read_bytes() == before
    assert [p.name for p in saved.parent.iterdir()] == [saved.name]


def test_errors_name_the_file_and_the_way_out(tmp_path: Path, saved: Path, tiny_guidance: Guidance) -> None:
    with pytest.raises(FileNotFoundError, match=r"absent\.safetensors"):
        load_networks(tmp_path / "absent.safetensors")
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(saved.read_bytes()[:5000])
    with pytest.raises(UserError, match=r"cut\.safetensors: not a complete safetensors file"):
        load_networks(cut)
    foreign = tmp_path / "foreign.safetensors"
    save_file({"x": torch.zeros(1)}, foreign)
    with pytest.raises(UserError, match="not written by this project"):
        load_networks(foreign)
    for content in ({"state_dict": {}}, [1, 2]):
        pickled = tmp_path / "other.ckpt"
        torch.save(content, pickled)
        with pytest.raises(UserError, match=r"other\.ckpt: expected"):
            load_networks(pickled)
    (tmp_path / "text.ckpt").write_text("not a checkpoint")
    with pytest.raises(UserError, match=r"text\.ckpt: cannot be read"):
        load_networks(tmp_path / "text.ckpt")


def test_weights_that_do_not_fit_their_settings_are_refused(
    tmp_path: Path, tiny_guidance: Guidance, tiny_synthesis: Synthesis
) -> None:
    tiny_guidance.settings["width"] = 32
    path = save_networks(tmp_path / "misfit.safetensors", tiny_guidance, tiny_synthesis, META)
    with pytest.raises(UserError, match=r"misfit\.safetensors: its Guidance weights do not fit"):
        load_networks(path)


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX's")
def test_files_have_the_mode_of_other_files(tmp_path: Path, saved: Path) -> None:
    (tmp_path / "other").touch()
    assert saved.stat().st_mode == (tmp_path / "other").stat().st_mode


def test_half_precision_is_half_the_size_and_reads_back_as_floats(tmp_path, tiny_guidance, tiny_synthesis):
    whole = save_networks(tmp_path / "whole.safetensors", tiny_guidance, tiny_synthesis, META)
    half = save_networks(tmp_path / "half.safetensors", tiny_guidance, tiny_synthesis, META, half=True)
    assert half.stat().st_size < 0.6 * whole.stat().st_size
    for network, theirs in zip((tiny_guidance, tiny_synthesis), load_networks(half)[:2], strict=True):
        mine = network.state_dict()
        for name, tensor in theirs.state_dict().items():
            assert tensor.dtype == mine[name].dtype, name
            torch.testing.assert_close(tensor, mine[name], rtol=1e-3, atol=1e-6)
