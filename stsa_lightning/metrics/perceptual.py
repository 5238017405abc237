"""What a trained network sees: LPIPS of each frame, Fréchet distances (FID, FVD) of whole sets."""

from __future__ import annotations

from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Literal, get_args

import torch
import torchmetrics
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from stsa_lightning.metrics.base import FrameMean, Region, Summed, checked_frames, checked_pair, checked_region, frozen
from stsa_lightning.models.layers import HoldsFrozen
from stsa_lightning.utils.errors import check_choice, required
from stsa_lightning.utils.safe_load import load_entries, uninitialised
from stsa_lightning.utils.weights import weights_path

LPIPSNet = Literal["alex", "vgg"]
# Backbone, name of its weights, and the layers of torchvision's `features` that are compared.
_BACKBONES = {
    "alex": (torchvision.models.alexnet, "alexnet", (1, 4, 7, 9, 11)),
    "vgg": (torchvision.models.vgg16, "vgg16", (3, 8, 15, 22, 29)),
}
_SMALLEST_PX = 32
_BATCH = 16  # frames that go through a network at once: bounds memory for clips of any length


class LPIPSNetwork(nn.Module):
    """The frozen backbone and heads (version 0.1) of LPIPS (Zhang et al. 2018, equation 1).

    Args:
        net: `alex`, the usual one in tables, or `vgg`.
        weights_dir: folder to look for the backbone in first, see `utils.weights.weights_path`.

    Raises:
        ValueError: unknown net, or a file that does not fit.
        WeightsError: the backbone is neither here nor to be fetched.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, net: LPIPSNet = "alex", weights_dir: str | Path | None = None) -> None:
        super().__init__()
        check_choice("net", net, get_args(LPIPSNet))
        build, name, self.taps = _BACKBONES[net]
        with uninitialised():
            self.layers = build(weights=None).features[: self.taps[-1] + 1]
        # In place, a relu would overwrite what the layer before it gave.
        for layer in self.layers:
            if isinstance(layer, nn.ReLU):
                layer.inplace = False
        load_entries(self.layers, weights_path(name, weights_dir), "features.")
        heads = Path(torchmetrics.__file__).parent / "functional" / "image" / "lpips_models" / f"{net}.pth"
        state = torch.load(heads, map_location="cpu", weights_only=True)
        for index in range(len(self.taps)):
            self.register_buffer(f"head{index}", state[f"lin{index}.model.1.weight"])
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188]).view(3, 1, 1))
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450]).view(3, 1, 1))
        self.eval().requires_grad_(False)

    def features(self, images: Tensor) -> list[Tensor]:
        """RGB (N, 3, H, W) in [0, 1] -> maps (N, C, h, w) of the compared layers."""
        x = (2 * images - 1 - self.shift) / self.scale
        maps = []
        for place, layer in enumerate(self.layers):
            x = layer(x)
            if place in self.taps:
                maps.append(x)
        return maps

    def forward(self, pred: Tensor, target: Tensor) -> Tensor:
        """RGB (N, 3, H, W) in [0, 1] each -> (N,)."""
        total = pred.new_zeros(len(pred))
        with frozen(pred.device):
            for index, (a, b) in enumerate(zip(self.features(pred), self.features(target), strict=True)):
                difference = (_unit(a) - _unit(b)).square()
                total += F.conv2d(difference, self.get_buffer(f"head{index}")).mean(dim=(1, 2, 3))
        return total


def _unit(maps: Tensor) -> Tensor:
    return maps / (maps.square().sum(dim=1, keepdim=True).sqrt() + 1e-10)


def lpips_distance(pred: Tensor, target: Tensor, network: LPIPSNetwork, region: Region = "face") -> Tensor:
    """LPIPS of each frame by a network on its device; equal frames give 0.

    Frames, region and result as for `metrics.image.psnr`, at least 32 x 32 pixels in the region.
    """
    pred, target = checked_pair(pred, target, region)
    if min(pred.shape[-2:]) < _SMALLEST_PX:
        raise ValueError(
            f"LPIPS needs at least {_SMALLEST_PX} x {_SMALLEST_PX} pixels, got {tuple(pred.shape[-2:])} "
            f"in region {region!r}"
        )
    if not len(pred):
        return pred.new_zeros(0)
    batches = zip(pred.split(_BATCH), target.split(_BATCH), strict=True)
    return torch.cat([network(a, b) for a, b in batches])


class LPIPS(HoldsFrozen, FrameMean):
    """Mean `lpips_distance` of the frames; several metrics may share a network."""

    higher_is_better = False

    def __init__(
        self,
        net: LPIPSNet | LPIPSNetwork = "alex",
        weights_dir: str | Path | None = None,
        region: Region = "face",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.region = checked_region(region)
        self._hold(net if isinstance(net, LPIPSNetwork) else LPIPSNetwork(net, weights_dir))

    def update(self, pred: Tensor, target: Tensor) -> None:
        """RGB (..., 3, H, W) in [0, 1]."""
        self._add(lpips_distance(pred, target, self._frozen[0], self.region))


def frechet_distance(mean_a: Tensor, cov_a: Tensor, mean_b: Tensor, cov_b: Tensor) -> Tensor:
    """Squared Fréchet distance of two Gaussians, |mean_a - mean_b|^2 + tr(A + B - 2 (A B)^1/2), float64 scalar.

    Means (D,), covariances (D, D), symmetric; singular ones (fewer samples than dimensions) are fine.
    """
    mean_a, cov_a, mean_b, cov_b = (x.double() for x in (mean_a, cov_a, mean_b, cov_b))
    # The trace of the root of A B is that of the root of A^1/2 B A^1/2, which is symmetric: no complex rests.
    values, vectors = torch.linalg.eigh(cov_a)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.mT
    cross = torch.linalg.eigvalsh(root @ cov_b @ root).clamp(min=0).sqrt().sum()
    distance = (mean_a - mean_b).square().sum() + cov_a.trace() + cov_b.trace() - 2 * cross
    return distance.clamp(min=0)  # rounding can lead a little below


def moments(count: Tensor | int, total: Tensor, outer: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (D,) and covariance (D, D) of `count` samples x, from the sums of x and of x x^T."""
    mean = total / count
    return mean, (outer - count * torch.outer(mean, mean)) / (count - 1)


class FrechetDistance(HoldsFrozen, Summed):
    """Fréchet distance between the features of generated and of true material, over the whole sets.

    States are sums, so batches and ranks join exactly; the mean of distances per batch would be another number.
    `pred_count` and `true_count` are the samples that entered. With few samples the value is biased upwards:
    compare only sets of one size.
    """

    higher_is_better = False
    pred_count: Tensor
    true_count: Tensor

    def __init__(self, network: nn.Module, dimensions: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._hold(network)
        for side in ("pred", "true"):
            self.add_state(f"{side}_sum", torch.zeros(dimensions, dtype=torch.float64), dist_reduce_fx="sum")
            outer = torch.zeros(dimensions, dimensions, dtype=torch.float64)
            self.add_state(f"{side}_outer", outer, dist_reduce_fx="sum")
        self._add_sums([], ["pred_count", "true_count"])

    def features(self, frames: Tensor) -> Tensor:
        """One clip's frames, RGB (F, 3, H, W) in [0, 1] -> samples (N, D)."""
        raise NotImplementedError

    def update(self, pred: Tensor | None = None, true: Tensor | None = None, *, features: bool = False) -> None:
        """Frames of one clip, RGB (F, 3, H, W) in [0, 1], on either or both sides; their numbers may differ.

        With `features`, both are samples (N, D) that `features` returned before.
        """
        for side, given in (("pred", pred), ("true", true)):
            if given is None:
                continue
            samples = given.double() if features else self._samples(side, given)
            getattr(self, f"{side}_sum").add_(samples.sum(dim=0))
            getattr(self, f"{side}_outer").add_(samples.mT @ samples)
            getattr(self, f"{side}_count").add_(len(samples))

    def _samples(self, side: str, frames: Tensor) -> Tensor:
        frames = checked_frames(side, frames)
        with frozen(frames.device):
            return self.features(frames).double()

    def _gaussian(self, side: str) -> tuple[Tensor, Tensor]:
        return moments(*(getattr(self, f"{side}_{name}") for name in ("count", "sum", "outer")))

    def compute(self) -> Tensor:
        """Scalar; NaN while either side has fewer than two samples."""
        if min(self.pred_count, self.true_count) < 2:
            return torch.tensor(torch.nan, device=self.pred_count.device)
        return frechet_distance(*self._gaussian("pred"), *self._gaussian("true")).float()


class FID(FrechetDistance):
    """Fréchet inception distance (Heusel et al. 2017): InceptionV3 pool3, 2048-d, of all frames.

    The network is torch-fidelity's conversion of TensorFlow's, with TensorFlow's own resizing to 299 px.

    Raises:
        MissingPackageError: torch-fidelity is not installed.
        WeightsError: weights `inception` are neither here nor to be fetched.
    """

    def __init__(self, weights_dir: str | Path | None = None, **kwargs: Any) -> None:
        module = "torch_fidelity.feature_extractor_inceptionv3"
        fidelity = required(module, "FID needs torch-fidelity: pip install 'torch-fidelity<0.4'")
        path = weights_path("inception", weights_dir)
        try:
            torch.load(path, map_location="meta", weights_only=True)  # torch-fidelity itself would run what a file says
            network = fidelity.FeatureExtractorInceptionV3(
                "inception-v3-compat", ["2048"], feature_extractor_weights_path=str(path)
            )
        except (RuntimeError, UnpicklingError) as error:
            raise ValueError(f"{path} does not hold torch-fidelity's InceptionV3: {error}") from error
        super().__init__(network, 2048, **kwargs)

    def features(self, frames: Tensor) -> Tensor:
        pixels = (frames.clamp(0, 1) * 255).round().byte()
        return torch.cat([self._frozen[0](batch)[0].flatten(1) for batch in pixels.split(_BATCH)])


def video_samples(frames: Tensor, network: nn.Module) -> Tensor:
    """R3D-18 features of a clip, RGB (F, 3, H, W) in [0, 1] -> (F // 16, 512), one for every 16 frames.

    Frames are resized to 112 x 112 px whole, without the centre crop of the network's own recipe; windows do not
    overlap, and frames that fill no window at the end are left out.
    """
    mean = frames.new_tensor([0.43216, 0.394666, 0.37645]).view(3, 1, 1)
    std = frames.new_tensor([0.22803, 0.22145, 0.216989]).view(3, 1, 1)
    samples = [frames.new_zeros(0, 512)]
    for start in range(0, len(frames) - FVD.WINDOW + 1, FVD.WINDOW):
        window = frames[start : start + FVD.WINDOW]
        window = F.interpolate(window, (FVD.SIDE_PX, FVD.SIDE_PX), mode="bilinear", antialias=True)
        samples.append(network(((window - mean) / std).transpose(0, 1)[None]))
    return torch.cat(samples)


class FVD(FrechetDistance):
    """Fréchet distance of video features: torchvision's R3D-18 (Kinetics-400), 512-d, of 16 frames at a time.

    Its name in tables is `label`; it is not the FVD of papers, which uses I3D. How a clip is seen:
    `video_samples`.

    Raises:
        WeightsError: weights `r3d_18` are neither here nor to be fetched.
    """

    label = "FVD (R3D-18)"
    WINDOW = 16
    SIDE_PX = 112

    def __init__(self, weights_dir: str | Path | None = None, **kwargs: Any) -> None:
        with uninitialised():
            network = torchvision.models.video.r3d_18(weights=None)
        network.fc = nn.Identity()
        load_entries(network, weights_path("r3d_18", weights_dir))
        super().__init__(network, 512, **kwargs)

    def features(self, frames: Tensor) -> Tensor:
        return video_samples(frames, self._frozen[0])
