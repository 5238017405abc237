from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from stsa_lightning.models.syncnet import SyncNet, load_syncnet
from stsa_lightning.utils.errors import UserError


@pytest.fixture(scope="module")
def released(seeded) -> SyncNet:
    network = SyncNet()
    network.load_state_dict(seeded.seeded_state("syncnet_state.json"))
    return network


@pytest.fixture(scope="module")
def random_network() -> SyncNet:
    torch.manual_seed(0)
    network = SyncNet()
    for module in network.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return network


def relative(found: torch.Tensor, expected: np.ndarray) -> float:
    return float(np.abs(found.numpy() - expected).max() / np.abs(expected).max())


def test_names_and_shapes_are_the_released_ones(parity):
    entries = json.loads((parity / "syncnet_state.json").read_text())
    state = SyncNet().state_dict()
    assert {e["name"]: tuple(e["shape"]) for e in entries} == {n: tuple(v.shape) for n, v in state.items()}


def test_embeddings_are_the_recorded_ones(released, seeded, parity):
    from python_speech_features import mfcc

    record = np.load(parity / "syncnet.npz")
    frames = (255 * seeded.seeded_input("syncnet_frames", (30, 3, 224, 224))).floor()
    pcm = (3000 * seeded.seeded_input("syncnet_pcm", (19200,), "normal")).numpy().astype(np.int16)
    lip = released.lip(frames[:14])
    speech = released.speech(torch.from_numpy(mfcc(pcm, 16000).T).float())
    assert lip.shape == (10, 1024)
    assert speech.shape == (25, 1024)
    assert relative(lip, record["lip"][:10]) < 1e-4
    assert relative(speech, record["audio"]) < 1e-4


def test_sliding_is_window_by_window(random_network, monkeypatch):
    monkeypatch.setattr("stsa_lightning.models.syncnet.BLOCK", 3)  # two borders between blocks
    frames = torch.rand(11, 3, 224, 224) * 255
    each = torch.stack(
        [
            random_network.netfclip(random_network.netcnnlip(frames[t : t + 5].transpose(0, 1)[None]).flatten(1))[0]
            for t in range(7)
        ]
    )
    torch.testing.assert_close(random_network.lip(frames), each, rtol=1e-4, atol=1e-4)


def test_speech_windows_are_four_steps_apart(random_network, monkeypatch):
    monkeypatch.setattr("stsa_lightning.models.syncnet.BLOCK", 4)
    mfcc = torch.randn(13, 59)  # ten windows, the last three steps unused
    each = torch.stack(
        [
            random_network.netfcaud(random_network.netcnnaud(mfcc[None, None, :, 4 * t : 4 * t + 20]).flatten(1))[0]
            for t in range(10)
        ]
    )
    torch.testing.assert_close(random_network.speech(mfcc), each, rtol=1e-4, atol=1e-5)


def test_frozen_but_gradients_reach_the_picture(random_network):
    random_network.train()
    assert not any(module.training for module in random_network.modules())
    assert not any(parameter.requires_grad for parameter in random_network.parameters())
    frames = torch.rand(5, 3, 224, 224, requires_grad=True)
    random_network.lip(frames).sum().backward()
    assert frames.grad.abs().sum() > 0


@pytest.mark.parametrize("shape", [(4, 3, 224, 224), (5, 3, 96, 96), (5, 224, 224, 3), (3, 224, 224)])
def test_pictures_of_another_shape(random_network, shape):
    with pytest.raises(ValueError, match="frames must be"):
        random_network.lip(torch.zeros(shape))


def test_sound_of_another_shape(random_network):
    for shape in ((20, 13), (13, 19), (1, 13, 20)):
        with pytest.raises(ValueError, match="mfcc must be"):
            random_network.speech(torch.zeros(shape))


def test_integers_are_refused(random_network):
    with pytest.raises(TypeError, match="uint8"):
        random_network.lip(torch.zeros(5, 3, 224, 224, dtype=torch.uint8))
    with pytest.raises(TypeError, match="int16"):
        random_network.speech(torch.zeros(13, 20, dtype=torch.int16))


class TestFile:
    name = "syncnet_v2.model"

    def test_read_back_also_in_the_old_format_without_counters(self, random_network, tmp_path):
        state = {k: v for k, v in random_network.state_dict().items() if not k.endswith("num_batches_tracked")}
        torch.save(state, tmp_path / self.name, _use_new_zipfile_serialization=False)
        loaded = load_syncnet(tmp_path)
        for key, value in state.items():
            assert torch.equal(loaded.state_dict()[key], value)
        assert not loaded.training

    @pytest.mark.filterwarnings("ignore:Detected pickle protocol")
    def test_a_pickle_that_runs_code_is_not_run(self, tmp_path):
        class Runs:
            def __reduce__(self):
                return Path.touch, (tmp_path / "has_run",)

        (tmp_path / self.name).write_bytes(pickle.dumps(Runs()))
        with pytest.raises(UserError, match=r"refused|cannot be read"):
            load_syncnet(tmp_path)
        assert not (tmp_path / "has_run").exists()

    def test_a_whole_pickled_network_is_not_opened(self, random_network, tmp_path):
        torch.save(random_network, tmp_path / self.name)
        with pytest.raises(UserError, match="refused, for reading it would call"):
            load_syncnet(tmp_path)

    def test_damaged(self, tmp_path):
        (tmp_path / self.name).write_bytes(b"<html>404</html>")
        with pytest.raises(UserError, match=r"syncnet_v2\.model.*damaged"):
            load_syncnet(tmp_path)

    def test_another_network(self, random_network, tmp_path):
        torch.save({"conv.weight": torch.zeros(1)}, tmp_path / self.name)
        with pytest.raises(UserError, match=r"lacks .* another network"):
            load_syncnet(tmp_path)
        state = random_network.state_dict() | {"netfclip.3.bias": torch.zeros(7)}
        torch.save(state, tmp_path / self.name)
        with pytest.raises(UserError, match=r"netfclip\.3\.bias has shape \(7,\), expected \(1024,\)"):
            load_syncnet(tmp_path)
        torch.save(random_network.state_dict() | {"head.weight": torch.zeros(1)}, tmp_path / self.name)
        with pytest.raises(UserError, match=r"has 1 other entries, the first head\.weight: another network"):
            load_syncnet(tmp_path)
        torch.save([1, 2], tmp_path / self.name)
        with pytest.raises(UserError, match="found list"):
            load_syncnet(tmp_path)
