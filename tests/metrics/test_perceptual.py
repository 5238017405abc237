from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import scipy.linalg
import torch
import torchvision
from torch import nn

from stsa_lightning.metrics.perceptual import (
    FID,
    FVD,
    LPIPS,
    FrechetDistance,
    LPIPSNetwork,
    frechet_distance,
    lpips_distance,
)
from stsa_lightning.utils.weights import KNOWN, WeightsError


@pytest.fixture(autouse=True)
def _offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STSA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.delenv("STSA_WEIGHTS", raising=False)

    def refuse(url: str, *args: object) -> None:
        raise WeightsError(f"{url} cannot be reached")

    monkeypatch.setattr("stsa_lightning.utils.weights.download", refuse)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seeded weights of AlexNet and R3D-18 in the files that torchvision publishes."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    features = torchvision.models.alexnet(weights=None).features
    state = {f"features.{key}": value for key, value in features.state_dict().items()}
    torch.save(state, folder / KNOWN["alexnet"].filename)
    torch.save(torchvision.models.video.r3d_18(weights=None).state_dict(), folder / KNOWN["r3d_18"].filename)
    return folder


@pytest.fixture(scope="module")
def pair() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    true = torch.rand(5, 3, 64, 64, generator=generator)
    return (true + 0.2 * torch.randn(true.shape, generator=generator)).clamp(0, 1), true


def independent(network: LPIPSNetwork, net: str) -> nn.Module:
    """The `lpips` package with the same backbone and its own heads."""
    lpips = pytest.importorskip("lpips")
    with pytest.warns(UserWarning, match="pretrained"):
        reference = lpips.LPIPS(net=net, pnet_rand=True, verbose=False).eval()
    layers = network.layers.state_dict()
    for name, parameter in reference.net.named_parameters():
        parameter.data.copy_(layers[name.split(".", 1)[1]])
    return reference


def test_lpips_equals_the_lpips_package(folder, pair):
    network = LPIPSNetwork("alex", folder)
    with torch.no_grad():
        expected = independent(network, "alex")(2 * pair[0] - 1, 2 * pair[1] - 1).flatten()
    torch.testing.assert_close(lpips_distance(*pair, network), expected)
    assert LPIPS(network)(*pair).item() == pytest.approx(expected.mean().item(), rel=1e-5)


@pytest.mark.parametrize("net", ["alex", pytest.param("vgg", marks=pytest.mark.slow)])
def test_real_lpips_equals_the_package_and_grows_with_blur(net, weights_dir, corpus):
    clip = cv2.VideoCapture(str(corpus / "clips" / "spk01_01.mp4"))
    frame = cv2.cvtColor(clip.read()[1], cv2.COLOR_BGR2RGB)[:, :, :]
    target = torch.from_numpy(cv2.resize(frame, (128, 128), interpolation=cv2.INTER_AREA)).permute(2, 0, 1)[None] / 255
    network = LPIPSNetwork(net, weights_dir)
    reference = independent(network, net)
    values = [lpips_distance(target, target, network).item()]
    for sigma in (0.5, 1.0, 2.0, 4.0):
        blurred = torchvision.transforms.functional.gaussian_blur(target, 25, sigma)
        values.append(lpips_distance(blurred, target, network).item())
        with torch.no_grad():
            assert values[-1] == pytest.approx(reference(2 * blurred - 1, 2 * target - 1).item(), rel=1e-4)
    assert values[0] == 0
    assert values == sorted(values)
    assert values[1] > 1e-3


def test_lpips_of_batches_regions_and_identity(folder, pair):
    network = LPIPSNetwork("alex", folder)
    whole, parts, mouth = LPIPS(network), LPIPS(network), LPIPS(network, region="mouth")
    whole.update(*pair)
    mouth.update(*pair)
    for frame in zip(*pair, strict=True):
        parts.update(*frame)
    assert parts.compute().item() == pytest.approx(whole.compute().item(), rel=1e-5)
    lower = lpips_distance(pair[0][:, :, 32:], pair[1][:, :, 32:], network)
    assert mouth.compute().item() == pytest.approx(lower.mean().item(), rel=1e-5)
    assert parts.count == 5
    assert lpips_distance(pair[1], pair[1], network).max() == 0
    windows = [x[:4].view(2, 2, 3, 64, 64) for x in pair]
    torch.testing.assert_close(lpips_distance(*windows, network), lpips_distance(pair[0][:4], pair[1][:4], network))


def test_the_network_is_frozen_and_in_no_state(folder, pair):
    parent = nn.Module()
    parent.metric = LPIPS("alex", folder)
    parent.metric.persistent(True)
    parent.train()
    assert set(parent.state_dict()) == {"metric.total", "metric.count", "metric.unmeasured"}
    assert not list(parent.parameters())
    network = parent.metric._frozen[0]
    assert not network.training
    pred = pair[0].clone().requires_grad_()
    assert not network(pred, pair[1]).requires_grad
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(lpips_distance(*pair, network), lpips_distance(*pair, network), rtol=0, atol=0)
        assert lpips_distance(*pair, network).dtype == torch.float32
    parent.to("meta")
    assert network.layers[0].weight.device.type == "meta"


def test_frechet_distance_against_scipy_and_by_hand():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(200, 12)), rng.normal(size=(150, 12)) @ rng.normal(size=(12, 12)) + 0.3
    gaussians = [(x.mean(0), np.cov(x, rowvar=False)) for x in (a, b)]
    (mean_a, cov_a), (mean_b, cov_b) = gaussians
    root = scipy.linalg.sqrtm(cov_a @ cov_b).real
    expected = ((mean_a - mean_b) ** 2).sum() + np.trace(cov_a + cov_b - 2 * root)
    given = [torch.from_numpy(x) for x in (mean_a, cov_a, mean_b, cov_b)]
    assert frechet_distance(*given).item() == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(*given[2:], *given[:2]).item() == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(*given[:2], *given[:2]).item() == pytest.approx(0, abs=1e-9)
    one, four = torch.eye(3), 4 * torch.eye(3)
    assert frechet_distance(torch.zeros(3), one, torch.ones(3), four).item() == pytest.approx(3 + 3 * (2 - 1) ** 2)


class Colours(FrechetDistance):
    """Mean colour of each frame: samples that can be checked by hand."""

    def __init__(self) -> None:
        super().__init__(nn.Identity(), 3)

    def features(self, frames):
        return self._frozen[0](frames).mean(dim=(2, 3))


def test_sets_join_exactly_and_are_not_averages_of_batches(pair):
    whole, parts = Colours(), Colours()
    whole.update(pair[0], pair[1])
    parts.update(pred=pair[0][:2])
    parts.update(true=pair[1][:1])
    parts.update(pair[0][2:], pair[1][1:])
    samples = [x.double().mean(dim=(2, 3)).numpy() for x in pair]
    gaussians = [torch.from_numpy(y) for x in samples for y in (x.mean(0), np.cov(x, rowvar=False))]
    assert whole.compute().item() == pytest.approx(frechet_distance(*gaussians).item(), rel=1e-4)
    assert parts.compute().item() == pytest.approx(whole.compute().item(), rel=1e-6)
    assert (parts.pred_count, parts.true_count) == (5, 5)
    assert Colours()(pair[1], pair[1]).item() == pytest.approx(0, abs=1e-7)
    assert Colours()(pair[1][:1], pair[1]).isnan()
    assert {reduce.__name__ for reduce in whole._reductions.values()} == {"dim_zero_sum"}


@pytest.mark.slow
def test_fid_with_seeded_weights_in_the_published_format(tmp_path, monkeypatch, pair):
    inception = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3").FeatureExtractorInceptionV3
    torch.manual_seed(0)
    torch.save({}, tmp_path / "nothing.pth")
    with monkeypatch.context() as patch:
        patch.setattr(inception, "load_state_dict", lambda self, state: None)
        reference = inception("seeded", ["2048"], feature_extractor_weights_path=str(tmp_path / "nothing.pth"))
    reference.eval().requires_grad_(False)
    for layer in reference.modules():
        if isinstance(layer, nn.Conv2d):  # so that signals neither vanish nor explode on their way
            nn.init.kaiming_normal_(layer.weight)
    torch.save(reference.state_dict(), tmp_path / KNOWN["inception"].filename)
    fid = FID(tmp_path)
    fid.update(pair[0][:3], pair[1][:2])
    fid.update(pair[0][3:4], pair[1][2:4])
    centred, means = [], []
    for images in pair:
        samples = reference((images[:4] * 255).round().byte())[0].double().numpy()
        means.append(samples.mean(0))
        centred.append((samples - means[-1]) / np.sqrt(len(samples) - 1))
    # The trace of the root of the covariances' product is the sum of the singular values of the samples' product.
    cross = np.linalg.svd(centred[0] @ centred[1].T, compute_uv=False).sum()
    expected = ((means[0] - means[1]) ** 2).sum() + sum((x**2).sum() for x in centred) - 2 * cross
    assert expected > 1e-3
    assert fid.compute().item() == pytest.approx(expected, rel=1e-3)
    assert fid.pred_count == fid.true_count == 4
    torch.save({"fc.bias": torch.zeros(3)}, tmp_path / KNOWN["inception"].filename)
    with pytest.raises(ValueError, match="does not hold torch-fidelity's InceptionV3"):
        FID(tmp_path)


@pytest.mark.slow
def test_fvd_sees_windows_of_sixteen_frames(folder):
    metric = FVD(folder)
    clip = torch.rand(35, 3, 40, 40, generator=torch.Generator().manual_seed(0))
    metric.update(clip, clip[:16])
    assert (metric.pred_count, metric.true_count) == (2, 1)
    metric.update(clip[:15], None)
    assert metric.pred_count == 2
    network = torchvision.models.video.r3d_18(weights=None).eval()
    network.load_state_dict(torch.load(folder / KNOWN["r3d_18"].filename, weights_only=True))
    network.fc = nn.Identity()
    resized = torchvision.transforms.functional.resize(clip[:16], [112, 112], antialias=True)
    statistics = torchvision.models.video.R3D_18_Weights.KINETICS400_V1.transforms()
    resized = torchvision.transforms.functional.normalize(resized, statistics.mean, statistics.std)
    with torch.no_grad():
        expected = network(resized.transpose(0, 1)[None])[0]
    torch.testing.assert_close(metric.true_sum.float(), expected, rtol=1e-4, atol=1e-5)
    assert metric.label == "FVD (R3D-18)"
    assert metric.compute().isnan()


def test_absent_weights_say_what_to_do(tmp_path):
    for build, name in ((lambda: LPIPS("vgg"), "vgg16"), (lambda: FVD(), "r3d_18")):
        with pytest.raises(WeightsError, match=f"{name} .*By hand: fetch {KNOWN[name].url}"):
            build()
    pytest.importorskip("torch_fidelity")
    with pytest.raises(WeightsError, match="inception"):
        FID(tmp_path)


def test_an_absent_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_fidelity.feature_extractor_inceptionv3", None)
    with pytest.raises(ImportError, match=r"pip install .torch-fidelity"):
        FID()


def test_bad_input_is_refused(folder, pair, tmp_path):
    network = LPIPSNetwork("alex", folder)
    with pytest.raises(ValueError, match="net must be one of alex, vgg"):
        LPIPSNetwork("squeeze", folder)
    with pytest.raises(ValueError, match="at least 32 x 32"):
        lpips_distance(pair[0][..., :48, :], pair[1][..., :48, :], network, "mouth")
    with pytest.raises(ValueError, match=r"\[0, 1\].*255"):
        lpips_distance(255 * pair[0], pair[1], network)
    with pytest.raises(ValueError, match="region"):
        LPIPS(network, region="nose")
    torch.save({"features.0.weight": torch.zeros(64, 3, 11, 11)}, tmp_path / KNOWN["alexnet"].filename)
    with pytest.raises(ValueError, match=r"lacks 9 of 10 entries, the first features\.0\.bias"):
        LPIPSNetwork("alex", tmp_path)
    with pytest.raises(ValueError, match="must lie in"):
        Colours().update(pair[0] * 255)
