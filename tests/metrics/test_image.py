from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter, laplace
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from stsa_lightning.metrics.image import PSNR, SSIM, Sharpness, mouth_region, psnr, sharpness, ssim


@pytest.fixture
def pair() -> tuple[torch.Tensor, torch.Tensor]:
    """Smooth pictures with noise of a different strength in each frame."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(6, 3, 8, 8, generator=generator)
    true = torch.nn.functional.interpolate(coarse, (64, 48), mode="bicubic").clamp(0, 1)
    strength = torch.tensor([0.01, 0.02, 0.05, 0.1, 0.2, 0.4]).view(6, 1, 1, 1)
    return (true + strength * torch.randn(true.shape, generator=generator)).clamp(0, 1), true


def reference(pred: torch.Tensor, true: torch.Tensor) -> tuple[list[float], list[float]]:
    frames = [
        (a.permute(1, 2, 0).double().numpy(), b.permute(1, 2, 0).double().numpy())
        for a, b in zip(pred, true, strict=True)
    ]
    gaussian = {
        "gaussian_weights": True,
        "sigma": 1.5,
        "use_sample_covariance": False,
        "data_range": 1.0,
        "channel_axis": -1,
    }
    return (
        [peak_signal_noise_ratio(b, a, data_range=1.0) for a, b in frames],
        [structural_similarity(b, a, **gaussian) for a, b in frames],
    )


@pytest.mark.parametrize("region", ["face", "mouth", "frame"])
def test_every_frame_equals_skimage(pair, region):
    cut = (lambda x: x[:, :, 32:]) if region == "mouth" else (lambda x: x)
    expected_psnr, expected_ssim = reference(*map(cut, pair))
    np.testing.assert_allclose(psnr(*pair, region), expected_psnr, rtol=1e-5)
    np.testing.assert_allclose(ssim(*pair, region), expected_ssim, atol=1e-5)
    assert PSNR(region)(*pair).item() == pytest.approx(np.mean(expected_psnr), rel=1e-5)
    assert SSIM(region)(*pair).item() == pytest.approx(np.mean(expected_ssim), abs=1e-5)


def laplacian(frames: torch.Tensor) -> np.ndarray:
    """(N,) mean absolute Laplacian of grey pictures (N, H, W), their rims left out."""
    return np.array([np.abs(laplace(frame))[1:-1, 1:-1].mean() for frame in frames.double().numpy()])


@pytest.mark.parametrize("region", ["face", "mouth"])
def test_sharpness_is_the_laplacian_over_that_of_the_truth(pair, region):
    cut = mouth_region if region == "mouth" else (lambda x: x)
    made, true = (laplacian(cut(frames).mean(1)) for frames in pair)
    np.testing.assert_allclose(sharpness(*pair, region), made / true, rtol=1e-4)
    assert Sharpness(region)(*pair).item() == pytest.approx(np.mean(made / true), rel=1e-4)


def test_sharpness_of_a_blur_is_below_one_and_of_a_flat_truth_unknown(pair):
    blurred = torch.from_numpy(gaussian_filter(pair[0].numpy(), (0, 0, 1.5, 1.5)))
    assert (sharpness(blurred, pair[0]) < 0.6).all()
    assert (sharpness(pair[0], pair[0]) == 1).all()
    flat = torch.full_like(pair[0], 0.5)
    assert sharpness(pair[0], flat).isnan().all()


@pytest.mark.parametrize("metric_class", [PSNR, SSIM])
def test_batches_of_any_size_are_one_set(pair, metric_class):
    whole, parts = metric_class(), metric_class()
    whole.update(*pair)
    for start, stop in ((0, 1), (1, 6)):
        parts.update(pair[0][start:stop], pair[1][start:stop])
    assert parts.compute().item() == pytest.approx(whole.compute().item(), rel=1e-6)
    assert parts.count == 6
    parts.reset()
    assert parts.count == 0


def test_a_window_of_frames_counts_each(pair):
    windows = [x.view(2, 3, 3, 64, 48) for x in pair]
    torch.testing.assert_close(psnr(*windows), psnr(*pair))
    torch.testing.assert_close(ssim(*windows), ssim(*pair))


def test_one_frame_and_identity(pair):
    true = pair[1]
    assert ssim(true[:1], true[:1]).shape == psnr(true[0], true[0]).shape == (1,)
    torch.testing.assert_close(ssim(true, true), torch.ones(6))
    assert psnr(true, true).isinf().all()
    assert psnr(torch.zeros(1, 3, 4, 4), torch.full((1, 3, 4, 4), 0.1)).item() == pytest.approx(20, abs=1e-4)


def test_mean_of_frames_is_not_the_pooled_value(pair):
    pooled = -10 * ((pair[0] - pair[1]) ** 2).mean().log10()
    assert PSNR()(*pair) > pooled + 3


def test_mouth_region_is_the_lower_half():
    faces = torch.arange(8.0).view(1, 1, 8, 1).expand(2, 3, 8, 8)
    assert mouth_region(faces)[0, 0, :, 0].tolist() == [4, 5, 6, 7]


def test_states_sum_over_ranks(pair):
    first, second = PSNR(), PSNR()
    first.update(pair[0][:2], pair[1][:2])
    second.update(pair[0][2:], pair[1][2:])
    first.total, first.count = first.total + second.total, first.count + second.count
    assert first.compute().item() == pytest.approx(psnr(*pair).mean().item(), rel=1e-6)
    assert {name for name in first._reductions if first._reductions[name].__name__ == "dim_zero_sum"} == {
        "total",
        "count",
        "unmeasured",
    }


def test_bad_input_is_refused(pair):
    with pytest.raises(TypeError, match=r"torch\.uint8.*255"):
        psnr((pair[0] * 255).byte(), (pair[1] * 255).byte())
    with pytest.raises(ValueError, match=r"\[0, 1\].*255"):
        psnr(pair[0], pair[1] * 255)
    with pytest.raises(ValueError, match="RGB"):
        psnr(pair[0], pair[1][:, :1])
    with pytest.raises(ValueError, match="region"):
        SSIM("nose")
    with pytest.raises(ValueError, match="at least 11 x 11"):
        ssim(pair[0][..., :16, :16], pair[1][..., :16, :16], "mouth")


@pytest.mark.slow
def test_metrics_need_no_lightning():
    code = (
        "import sys; sys.modules['lightning'] = sys.modules['pytorch_lightning'] = None;"
        "import stsa_lightning.metrics.image, stsa_lightning.metrics.landmarks"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
