"""The registry of metrics: what each needs, how it is built, and what its columns mean."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from stsa_lightning.evaluation.clip_sample import NATIVE, Prediction, ScoredRegion
from stsa_lightning.evaluation.metrics.columns import Better, ClipMetric, Column, MetricValue, NotMeasuredError
from stsa_lightning.evaluation.metrics.identity import Identity
from stsa_lightning.evaluation.metrics.image import FlowWarped, ImageMetric
from stsa_lightning.evaluation.metrics.landmarks import (
    landmark_distances,
    landmark_jitter,
    landmark_velocities,
    lip_aperture,
    lip_aperture_offset,
    silence,
)
from stsa_lightning.evaluation.metrics.sync import LipSync
from stsa_lightning.metrics.base import FrameMean, Region
from stsa_lightning.metrics.identity import IdentityName, identity_network
from stsa_lightning.metrics.image import PSNR, SSIM, Sharpness
from stsa_lightning.metrics.perceptual import FID, FVD, LPIPS, FrechetDistance, LPIPSNet, LPIPSNetwork
from stsa_lightning.metrics.sync import Variant
from stsa_lightning.models.syncnet import load_syncnet
from stsa_lightning.utils.errors import UserError
from stsa_lightning.utils.weights import KNOWN

# frames: one frame at a time suffices. clip: frames in their order, usually with sound. set: all frames together.
Needs = Literal["frames", "clip", "set"]


@dataclass(frozen=True)
class Options:
    """Options of all metrics. `crop`: side of the face crops, pixels."""

    regions: tuple[ScoredRegion, ...] = ("mouth", "face")
    crop: int = 128
    sync: Variant = "tracked"
    identity: IdentityName = "arcface"
    weights_dir: Path | str | None = None
    device: str = "cpu"


Columns = Callable[[Options], list[Column]]


@dataclass(frozen=True)
class MetricSpec:
    """One entry of the registry.

    Attributes:
        needs: what it is computed from.
        columns: the columns it fills; needs no weights.
        build: makes it; raises WeightsError or ImportError where weights or packages are missing.
        build_set: in place of `build`, for a distance of whole sets.
        fast: needs no weights and takes some 20 ms a frame at most.
        landmarks: needs landmarks of every image.
        weights: names of the weights in `utils.weights`.
    """

    needs: Needs
    columns: Columns
    build: Callable[[Options], ClipMetric] | None = None
    build_set: Callable[[Options], FrechetDistance] | None = None
    fast: bool = False
    landmarks: bool = True
    weights: Callable[[Options], tuple[str, ...]] = lambda options: ()


def _image_columns(name: str, title: str, unit: str, better: Better, digits: int, variant: str) -> Columns:
    regions = {
        "mouth": "lower half of the crop",
        "face": "whole crop (an upper half that was copied flatters it)",
        "frame": "whole frames",
        NATIVE: "lower half at the frame's own resolution",
    }
    return lambda options: [
        Column(f"{name}_{r}", f"{title} {r}", unit, better, f"{variant}; {regions[r]}, mean over frames", digits)
        for r in options.regions
    ]


def _lmd_columns(options: Options) -> list[Column]:
    common = "40 mouth points, FaceMesh in each crop on its own"
    return [
        Column("lmd", "LMD", "px", "lower", f"{common}, L2, pixels of the {options.crop} px crop", 2),
        Column("lmd_normalised", "LMD", "% eyes", "lower", f"{common}, L2, per cent of the inter-ocular distance", 2),
        Column("lmd_vico", "LMD ViCo", "px", "lower", f"{common}, mean of |dx| and |dy|, {options.crop} px crop", 2),
    ]


def _lmv_columns(options: Options) -> list[Column]:
    common = "LMD of frame-to-frame differences"
    return [
        Column("lmv", "LMV", "px", "lower", f"{common}, L2, pixels of the {options.crop} px crop", 2),
        Column("lmv_normalised", "LMV", "% eyes", "lower", f"{common}, per cent of the inter-ocular distance", 2),
    ]


def _lip_aperture_columns(options: Options) -> list[Column]:
    common = "of the inner lip aperture"
    corr = f"Pearson correlation {common} with that of the driving speaker, mean over clips"
    amplitude = f"standard deviation {common}, over that of the driving speaker (pixels of the crops), mean over clips"
    return [
        Column("lip_aperture_corr", "lip aperture r", "", "higher", corr, 2),
        Column("lip_aperture_amplitude", "lip amplitude", "", "one", amplitude, 2),
    ]


def _jitter_columns(options: Options) -> list[Column]:
    variant = "energy of the acceleration of 131 FaceMesh points, generated over true; each crop on its own"
    return [Column("jitter", "jitter", "", "one", variant, 2)]


def _flow_columns(options: Options) -> list[Column]:
    variant = "mean abs error of neighbouring crops along the true optical flow (DIS), generated minus true, 1/1000"
    columns = [Column("flow_warped", "flow error", "‰", "zero", variant, 2)]
    if NATIVE in options.regions:
        native = f"{variant}; lower halves at the frame's own resolution"
        columns.append(Column(f"flow_warped_{NATIVE}", f"flow error {NATIVE}", "‰", "zero", native, 2))
    return columns


def _silence_columns(options: Options) -> list[Column]:
    variant = "range of the lip aperture under digital silence over that under speech (5 % to 95 % quantile)"
    return [Column("silence", "silence leak", "", "zero", variant, 2)]


def _mouth_sound_columns(options: Options) -> list[Column]:
    common = "lip aperture against what a speech recogniser's states say of it, no SyncNet"
    sound = f"{common}: confidence atanh(r) sqrt(n) at the best shift"
    offset = f"{common}: mean magnitude of the offset, clips in which it is clear; 25 frames/s"
    return [
        Column("mouth_sound", "mouth-sound", "z", "higher", sound, 1),
        Column("mouth_offset", "mouth offset", "frames", "zero", offset, 1, "mean_abs"),
    ]


def _sync_columns(options: Options) -> list[Column]:
    seen = {
        "tracked": "variant tracked (smoothed box, scale 0.4; of prepared clips the face alone, on grey 110)",
        "lrs": "variant lrs (whole frame squashed to 224 px)",
    }[options.sync]
    net = f"SyncNet v2, {seen}, 25 frames/s"
    return [
        Column("lse_d", "LSE-D", "", "lower", f"{net}, at the best shift, mean over clips", 2),
        Column("lse_c", "LSE-C", "", "higher", f"{net}, at the best shift, mean over clips", 2),
        Column("offset", "offset", "frames", "zero", f"{net}, mean magnitude over clips", 1, "mean_abs"),
    ]


def _identity_columns(options: Options) -> list[Column]:
    variant = f"{options.identity} embeddings, face aligned by its landmarks, against the true frame"
    return [Column("csim", "CSIM", "", "higher", variant, 3)]


def _fid_columns(options: Options) -> list[Column]:
    variant = "InceptionV3 pool3, 2048-d, 299 px, over the set of all face crops (no interval; biased in small sets)"
    return [Column("fid", "FID", "", "lower", variant, 2)]


def _fvd_columns(options: Options) -> list[Column]:
    variant = "R3D-18 on Kinetics, 16 face crops at a time: not the I3D of papers"
    return [Column("fvd", "FVD (R3D-18)", "", "lower", variant, 1)]


def _image_metric(options: Options, metric: type[FrameMean], *args: Any, region: Region) -> FrameMean:
    # Each rank of a training measures its own clips, so that none may wait for another's here.
    return metric(*args, region=region, sync_on_compute=False).to(options.device)


def _picture(name: str, metric: type[FrameMean], *column: Any) -> MetricSpec:
    """A metric of pictures without weights; `column`: what `_image_columns` takes after the name."""
    return MetricSpec(
        "frames",
        _image_columns(name, *column),
        lambda options: ImageMetric(name, partial(_image_metric, options, metric), options.regions),
        fast=True,
        landmarks=False,
    )


def _lpips(net: LPIPSNet, backbone: str, weights: str) -> MetricSpec:
    name = f"lpips_{net}"

    def build_it(options: Options) -> ClipMetric:
        network = LPIPSNetwork(net, options.weights_dir)
        return ImageMetric(name, partial(_image_metric, options, LPIPS, network), options.regions)

    columns = _image_columns(name, f"LPIPS {net}", "", "lower", 3, f"{backbone}, v0.1")
    return MetricSpec("frames", columns, build_it, landmarks=False, weights=lambda options: (weights,))


METRICS: dict[str, MetricSpec] = {
    "psnr": _picture("psnr", PSNR, "PSNR", "dB", "higher", 2, "RGB, data range 1"),
    "ssim": _picture("ssim", SSIM, "SSIM", "", "higher", 3, "RGB, Gaussian window 11, sigma 1.5"),
    "sharpness": _picture("sharpness", Sharpness, "sharpness", "", "one", 2, "mean abs Laplacian, generated over true"),
    "lpips_alex": _lpips("alex", "AlexNet", "alexnet"),
    "lpips_vgg": _lpips("vgg", "VGG16", "vgg16"),
    "fid": MetricSpec(
        "set",
        _fid_columns,
        build_set=lambda options: FID(options.weights_dir).to(options.device),
        landmarks=False,
        weights=lambda options: ("inception",),
    ),
    "fvd": MetricSpec(
        "set",
        _fvd_columns,
        build_set=lambda options: FVD(options.weights_dir).to(options.device),
        landmarks=False,
        weights=lambda options: ("r3d_18",),
    ),
    "lmd": MetricSpec("frames", _lmd_columns, lambda options: landmark_distances, fast=True),
    "lmv": MetricSpec("clip", _lmv_columns, lambda options: landmark_velocities, fast=True),
    "lip_aperture": MetricSpec("clip", _lip_aperture_columns, lambda options: lip_aperture, fast=True),
    "mouth_sound": MetricSpec("clip", _mouth_sound_columns, lambda options: lip_aperture_offset, fast=True),
    "sync": MetricSpec(
        "clip",
        _sync_columns,
        lambda options: LipSync(load_syncnet(options.weights_dir).to(options.device), options.sync),
        landmarks=False,
        weights=lambda options: ("syncnet",),
    ),
    "csim": MetricSpec(
        "frames",
        _identity_columns,
        lambda options: Identity(identity_network(options.identity, options.weights_dir)),
        weights=lambda options: tuple({options.identity} & KNOWN.keys()),
    ),
    "jitter": MetricSpec("clip", _jitter_columns, lambda options: landmark_jitter, fast=True),
    "flow": MetricSpec(
        "clip", _flow_columns, lambda options: FlowWarped(NATIVE in options.regions), fast=True, landmarks=False
    ),
    "silence": MetricSpec("clip", _silence_columns, lambda options: silence, fast=True),
}


def chosen_metrics(names: Sequence[str]) -> list[str]:
    """Names in the registry's order; `fast` and `all` stand for several.

    Raises:
        UserError: an unknown name.
    """
    unknown = set(names) - METRICS.keys() - {"fast", "all"}
    if unknown:
        raise UserError(
            f"metrics: unknown {', '.join(sorted(unknown))}; expected fast, all, or some of {', '.join(METRICS)}"
        )
    every, fast = "all" in names, "fast" in names
    return [name for name, metric in METRICS.items() if every or (fast and metric.fast) or name in names]


@dataclass(frozen=True)
class MetricSuite:
    """The metrics of an evaluation.

    Attributes:
        columns: by name, also of metrics that could not be built.
        clip_metrics, set_metrics: the metrics that could be built, by name and by column.
        absent: column -> why its metric could not be built.
        owned: metric -> its columns.
    """

    columns: dict[str, Column] = field(default_factory=dict)
    clip_metrics: dict[str, ClipMetric] = field(default_factory=dict)
    set_metrics: dict[str, FrechetDistance] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    owned: dict[str, list[str]] = field(default_factory=dict)

    def measure(
        self, prediction: Prediction, clip_metrics: Mapping[str, ClipMetric] | None = None
    ) -> tuple[dict[str, MetricValue], dict[str, str]]:
        """Values of one prediction by all clip metrics or by these, and for each column without one the reason."""
        values: dict[str, MetricValue] = {}
        reasons: dict[str, str] = {}
        for name, metric in (self.clip_metrics if clip_metrics is None else clip_metrics).items():
            try:
                values |= metric(prediction)
            except (NotMeasuredError, ValueError) as error:
                reasons |= dict.fromkeys(self.owned[name], str(error))
        return values, reasons


def build(names: Sequence[str], options: Options) -> MetricSuite:
    """Build metrics; missing weights and packages become entries of `absent`, not errors."""
    suite = MetricSuite()
    for name in chosen_metrics(names):
        metric = METRICS[name]
        mine = metric.columns(options)
        suite.columns.update({column.name: column for column in mine})
        suite.owned[name] = [column.name for column in mine]
        try:
            if metric.build is not None:
                suite.clip_metrics[name] = metric.build(options)
            if metric.build_set is not None:
                suite.set_metrics[mine[0].name] = metric.build_set(options)
        except (FileNotFoundError, ImportError) as error:
            suite.absent.update(dict.fromkeys(suite.owned[name], str(error)))
    return suite
