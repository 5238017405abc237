"""Every metric by its name: what it needs, how it is built, and what its columns mean."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from stsa_lightning.evaluation.clip_result import View
from stsa_lightning.evaluation.metrics import landmarks as motion
from stsa_lightning.evaluation.metrics.columns import Better, Column, Figure, Meter, NotMeasuredError
from stsa_lightning.evaluation.metrics.identity import Identity
from stsa_lightning.evaluation.metrics.image import PictureMeter, flow_warped
from stsa_lightning.evaluation.metrics.sync import LipSync
from stsa_lightning.metrics.identity import IdentityName, identity_network
from stsa_lightning.metrics.image import psnr, ssim
from stsa_lightning.metrics.perceptual import FID, FVD, FrechetDistance, LPIPSNet, LPIPSNetwork, lpips_distance
from stsa_lightning.metrics.sync import Variant
from stsa_lightning.models.syncnet import load_syncnet
from stsa_lightning.utils.errors import UserError
from stsa_lightning.utils.weights import KNOWN

# frames: one frame at a time suffices. clip: frames in their order, usually with sound. set: all frames together.
Needs = Literal["frames", "clip", "set"]


@dataclass(frozen=True)
class Options:
    """What metrics are built with. ``crop``: side of the face crops, pixels."""

    regions: tuple[str, ...] = ("mouth", "face")
    crop: int = 128
    sync: Variant = "tracked"
    identity: IdentityName = "arcface"
    weights_dir: Path | str | None = None
    device: str = "cpu"


Columns = Callable[[Options], list[Column]]


@dataclass(frozen=True)
class Metric:
    """One entry: ``columns`` without weights at hand, ``build`` raising WeightsError or ImportError where they lack.

    ``build_set`` in place of ``build`` for a distance of whole sets. ``fast``: no weights, some 50 frames/s.
    ``landmarks``: looks for a face in every picture. ``weights``: names of `utils.weights` that it loads.
    """

    needs: Needs
    columns: Columns
    build: Callable[[Options], Meter] | None = None
    build_set: Callable[[Options], FrechetDistance] | None = None
    fast: bool = False
    landmarks: bool = True
    weights: Callable[[Options], tuple[str, ...]] = lambda options: ()


def _pictorial(name: str, title: str, unit: str, better: Better, digits: int, variant: str) -> Columns:
    regions = {
        "mouth": "lower half of the crop",
        "face": "whole crop (an upper half that was copied flatters it)",
        "frame": "whole frames",
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


def _opening_columns(options: Options) -> list[Column]:
    variant = "Pearson correlation of the inner lip opening with that of who really said it, mean over clips"
    return [Column("opening_r", "opening r", "", "higher", variant, 2)]


def _jitter_columns(options: Options) -> list[Column]:
    variant = "energy of the acceleration of 131 FaceMesh points, generated over true; each crop on its own"
    return [Column("jitter", "jitter", "", "one", variant, 2)]


def _flow_columns(options: Options) -> list[Column]:
    variant = "mean abs error of neighbouring crops along the true optical flow (DIS), generated minus true, 1/1000"
    return [Column("flow_warped", "flow error", "‰", "zero", variant, 2)]


def _silence_columns(options: Options) -> list[Column]:
    variant = "range of the lip opening under digital silence over that under speech (5 % to 95 % quantile)"
    return [Column("silence", "silence leak", "", "zero", variant, 2)]


def _mouth_sound_columns(options: Options) -> list[Column]:
    variant = "lip opening against the sound's energy, no network"
    return [
        Column(
            "mouth_sound", "mouth-sound", "z", "higher", f"{variant}: confidence atanh(r) sqrt(n) at the best shift", 1
        ),
        Column(
            "mouth_offset",
            "mouth offset",
            "frames",
            "zero",
            f"{variant}: mean magnitude of the offset, clips in which it is clear; 25 frames/s",
            1,
            "mean_abs",
        ),
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


def _build_lpips(net: LPIPSNet) -> Callable[[Options], Meter]:
    def build_it(options: Options) -> Meter:
        network = LPIPSNetwork(net, options.weights_dir).to(options.device)
        return PictureMeter(f"lpips_{net}", lambda a, b: lpips_distance(a, b, network), options.regions)

    return build_it


def _build_sync(options: Options) -> Meter:
    return LipSync(load_syncnet(options.weights_dir).to(options.device), options.sync)


def _build_identity(options: Options) -> Meter:
    return Identity(identity_network(options.identity, options.weights_dir))


METRICS: dict[str, Metric] = {
    "psnr": Metric(
        "frames",
        _pictorial("psnr", "PSNR", "dB", "higher", 2, "RGB, data range 1"),
        lambda options: PictureMeter("psnr", psnr, options.regions),
        fast=True,
        landmarks=False,
    ),
    "ssim": Metric(
        "frames",
        _pictorial("ssim", "SSIM", "", "higher", 3, "RGB, Gaussian window 11, sigma 1.5"),
        lambda options: PictureMeter("ssim", ssim, options.regions),
        fast=True,
        landmarks=False,
    ),
    "lpips_alex": Metric(
        "frames",
        _pictorial("lpips_alex", "LPIPS alex", "", "lower", 3, "AlexNet, v0.1"),
        _build_lpips("alex"),
        landmarks=False,
        weights=lambda options: ("alexnet",),
    ),
    "lpips_vgg": Metric(
        "frames",
        _pictorial("lpips_vgg", "LPIPS vgg", "", "lower", 3, "VGG16, v0.1"),
        _build_lpips("vgg"),
        landmarks=False,
        weights=lambda options: ("vgg16",),
    ),
    "fid": Metric(
        "set",
        _fid_columns,
        build_set=lambda options: FID(options.weights_dir).to(options.device),
        landmarks=False,
        weights=lambda options: ("inception",),
    ),
    "fvd": Metric(
        "set",
        _fvd_columns,
        build_set=lambda options: FVD(options.weights_dir).to(options.device),
        landmarks=False,
        weights=lambda options: ("r3d_18",),
    ),
    "lmd": Metric("frames", _lmd_columns, lambda options: motion.landmark_distances, fast=True),
    "lmv": Metric("clip", _lmv_columns, lambda options: motion.landmark_velocities, fast=True),
    "opening": Metric("clip", _opening_columns, lambda options: motion.opening, fast=True),
    "mouth_sound": Metric("clip", _mouth_sound_columns, lambda options: motion.opening_offset, fast=True),
    "sync": Metric("clip", _sync_columns, _build_sync, landmarks=False, weights=lambda options: ("syncnet",)),
    "csim": Metric(
        "frames", _identity_columns, _build_identity, weights=lambda options: tuple({options.identity} & KNOWN.keys())
    ),
    "jitter": Metric("clip", _jitter_columns, lambda options: motion.jitter, fast=True),
    "flow": Metric("clip", _flow_columns, lambda options: flow_warped, fast=True, landmarks=False),
    "silence": Metric("clip", _silence_columns, lambda options: motion.silence, fast=True),
}


def chosen_metrics(names: Sequence[str]) -> list[str]:
    """Names in the registry's order; ``fast`` and ``all`` stand for several.

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
class Bench:
    """The metrics that could be built, the columns that each fills (``owned``), and why others could not be built."""

    columns: dict[str, Column] = field(default_factory=dict)
    meters: dict[str, Meter] = field(default_factory=dict)
    set_meters: dict[str, FrechetDistance] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    owned: dict[str, list[str]] = field(default_factory=dict)

    def measure(
        self, view: View, meters: Mapping[str, Meter] | None = None
    ) -> tuple[dict[str, Figure], dict[str, str]]:
        """Figures of one answer by all meters or by these, and for each column that has none the reason."""
        figures: dict[str, Figure] = {}
        reasons: dict[str, str] = {}
        for name, meter in (self.meters if meters is None else meters).items():
            try:
                figures |= meter(view)
            except (NotMeasuredError, ValueError) as error:
                reasons |= dict.fromkeys(self.owned[name], str(error))
        return figures, reasons


def build(names: Sequence[str], options: Options) -> Bench:
    """Build metrics; absent weights and packages become reasons, not errors."""
    bench = Bench()
    for name in chosen_metrics(names):
        metric = METRICS[name]
        mine = metric.columns(options)
        bench.columns.update({column.name: column for column in mine})
        bench.owned[name] = [column.name for column in mine]
        try:
            if metric.build is not None:
                bench.meters[name] = metric.build(options)
            if metric.build_set is not None:
                bench.set_meters[mine[0].name] = metric.build_set(options)
        except (FileNotFoundError, ImportError) as error:
            bench.absent.update(dict.fromkeys(bench.owned[name], str(error)))
    return bench
