"""The training step: samples/s, memory, arithmetic rate, waiting for data; the plain fp32 step is the baseline.

    python benchmarks/train_step.py                     # tiny networks on a CPU, the released ones on a GPU
    python benchmarks/train_step.py --batches 16 32 64 --data CORPUS --curves 200 --json FILE
    python benchmarks/train_step.py --processes 2       # strategies for two processes beside each other

Every variant runs through Lightning's trainer as `stsa fit` does: phase `end_to_end` with all terms, both optimisers,
averaged weights, loss watch, logging. Batches lie in the host's memory, so the copy to the device counts and loading
does not; with `--data` the same step is fed from a prepared corpus, and what it loses is its waiting. VGG has random
weights: speed does not depend on them. Operations are counted by PyTorch (convolutions and matrix products, forward
and backward); the share of the peak is that of dense bf16. `--curves` trains twice in fp32, with other dropout, and
once with the fastest variant: the first two say what noise is.
"""

from __future__ import annotations

import argparse
import copy
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from common import machine, parser, table, write_json
from lightning.pytorch import Callback, Trainer, seed_everything
from torch.utils.data import DataLoader, Dataset
from torch.utils.flop_counter import FlopCounterMode

from stsa_lightning.data.datamodule import STSADataModule
from stsa_lightning.losses import perceptual
from stsa_lightning.losses.objective import LossSettings, LossWeights
from stsa_lightning.models.discriminators import DiscriminatorSettings
from stsa_lightning.training.callbacks.ema import GeneratorEMA
from stsa_lightning.training.callbacks.watch import LossWatch
from stsa_lightning.training.checks import OutOfMemoryError, batch_shapes
from stsa_lightning.training.compilation import SpeedSettings
from stsa_lightning.training.module import STSA
from stsa_lightning.training.optim import OptimSettings

# Dense bf16 TFLOP/s of the makers' data sheets, by a part of the device's name.
PEAKS = {"H200": 989.0, "H100 80GB HBM3": 989.0, "H100": 989.0, "A100": 312.0, "L40S": 362.0, "4090": 165.0}
STRATEGIES = ("ddp_find_unused_parameters_true", "ddp_alternating")


@dataclass(frozen=True)
class Variant:
    """A way to run the same step."""

    name: str
    precision: str = "32-true"
    tf32: bool = False
    options: tuple[str, ...] = ()  # of the module, switched on


GPU = (
    Variant("eager fp32"),
    Variant("tf32", tf32=True),
    Variant("bf16", "bf16-mixed", True),
    Variant("bf16, channels last", "bf16-mixed", True, ("channels_last",)),
    Variant("bf16, channels last, compiled", "bf16-mixed", True, ("channels_last", "compile")),
)
CPU = (
    Variant("eager fp32"),
    Variant("channels last", options=("channels_last",)),
    Variant("compiled", options=("compile",)),
)


class Repeated(Dataset):
    """`count` windows that all hold the same random numbers, made once."""

    def __init__(self, settings: argparse.Namespace, count: int) -> None:
        self.count = count
        generator = torch.Generator().manual_seed(0)
        shapes = batch_shapes(vars(settings), settings.audio_dim)
        self.item = {name: torch.rand(shape, generator=generator) for name, shape in shapes.items()}
        self.item["theta"] = torch.eye(2, 3).expand(shapes["theta"])  # references where they are

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {**self.item, "frame": index, "clip": "random"}


class Clock(Callback):
    """Seconds of the steps after the first `warm`, and every step's loss, left on the device until the end."""

    def __init__(self, warm: int) -> None:
        self.warm, self.begun, self.seconds, self.steps = warm, 0.0, 0.0, 0
        self.losses: list[torch.Tensor] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.losses.append(outputs["terms"]["loss"])
        self.steps += 1
        if self.steps == self.warm:
            synchronise()
            self.begun = time.perf_counter()

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        synchronise()
        self.seconds = time.perf_counter() - self.begun


def synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def make_module(settings: argparse.Namespace, variant: Variant, seed: int = 0) -> STSA:
    seed_everything(0, verbose=False)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = variant.tf32
    sizes = {
        "face_size": settings.face_size,
        "num_references": settings.num_references,
        "num_frames": settings.num_frames,
    }
    tiny: dict[str, Any] = {}
    if settings.size == "tiny":
        weights = LossWeights(warp=0, perceptual=0, warp_pixel=1, pixel=4)
        tiny["losses"] = LossSettings(weights, perceptual_net="vgg11")
        tiny["discriminator"] = DiscriminatorSettings(width=8, scales=1)
        tiny["optim"] = OptimSettings(gradient_clip_val=5.0)
    switched = dict.fromkeys(variant.options, True)
    module = STSA(settings.size, features=settings.features, **sizes, **tiny, speed=SpeedSettings(**switched))
    module.seed = seed  # of dropout alone: the networks begin alike
    return module


def fit(settings: argparse.Namespace, variant: Variant, loader: Any, steps: int, warm: int, **options: Any) -> Clock:
    """Train `steps` batches after `warm` and time them; `loader`: a DataLoader or a data module."""
    clock = Clock(warm)
    seed, strategy = options.pop("seed", 0), options.pop("strategy", "auto")
    trainer = Trainer(
        accelerator="gpu" if settings.device == "cuda" else "cpu",
        devices=options.pop("devices", 1),
        strategy=strategy,
        precision=variant.precision,  # type: ignore[arg-type]
        benchmark=settings.device == "cuda",
        max_steps=steps + warm,
        max_epochs=-1,
        limit_val_batches=0,
        log_every_n_steps=50,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tempfile.gettempdir(),
        callbacks=[GeneratorEMA(0.999), LossWatch(), clock],
    )
    trainer.fit(make_module(settings, variant, seed), loader)
    return clock


def operations(settings: argparse.Namespace, batch: int) -> float:
    """TFLOP of one step for each sample: both networks, their discriminators, forward and backward."""
    module = make_module(settings, Variant("count")).to(settings.device)
    items: Any = next(iter(DataLoader(Repeated(settings, batch), batch)))
    items = {name: value.to(settings.device) if torch.is_tensor(value) else value for name, value in items.items()}
    with FlopCounterMode(display=False) as counter:
        generated = module.generate(items)
        module.total_loss(generated)[0].backward()
        assert generated.face is not None
        assert generated.real is not None
        fake = module.objective.discriminate(generated.face.detach(), generated.frames)
        torch.stack(list(module.objective.discriminator_terms(generated.real, fake).values())).sum().backward()
    return counter.get_total_flops() / batch / 1e12


def measure(settings: argparse.Namespace, variant: Variant, batch: int, tera: float) -> dict[str, Any]:
    """One row of the table."""
    row: dict[str, Any] = {"variant": variant.name, "batch": batch}
    if settings.device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    try:
        loader = DataLoader(Repeated(settings, batch), batch, pin_memory=settings.device == "cuda")
        batches = Looped(next(iter(loader)), settings.steps + settings.warm)
        clock = fit(settings, variant, DataLoader(batches, None), settings.steps, settings.warm)
    except OutOfMemoryError as error:
        return row | {"samples_s": float("nan"), "error": str(error)[:200]}
    row["samples_s"] = settings.steps * batch / clock.seconds
    row["ms_step"] = 1000 * clock.seconds / settings.steps
    row["tflop_s"] = tera * row["samples_s"]
    if settings.device == "cuda":
        row["peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
        name = torch.cuda.get_device_name()
        peak = next((value for part, value in PEAKS.items() if part in name), None)
        row["share_of_peak"] = row["tflop_s"] / peak if peak else None
    return row


class Looped(Dataset):
    """One whole batch, again and again."""

    def __init__(self, batch: Any, count: int) -> None:
        self.batch, self.count = batch, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Any:
        return copy.copy(self.batch)


def corpus(settings: argparse.Namespace, batch: int) -> STSADataModule:
    sizes = {
        "face_size": settings.face_size,
        "num_references": settings.num_references,
        "num_frames": settings.num_frames,
    }
    return STSADataModule(
        str(settings.data),
        features=settings.features,
        **sizes,
        batch_size=batch,
        num_workers=settings.workers,
        windows_per_clip=max(50, batch * (settings.steps + settings.warm + 2) // 4),
        validation_fraction=0.2,
    )


def waiting(settings: argparse.Namespace, variant: Variant, row: dict[str, Any]) -> float:
    """Share of its time that a variant waits for a corpus."""
    clock = fit(settings, variant, corpus(settings, row["batch"]), settings.steps, settings.warm)
    return max(0.0, 1 - row["ms_step"] / (1000 * clock.seconds / settings.steps))


def curves(settings: argparse.Namespace, fast: Variant, batch: int) -> dict[str, list[float]]:
    """Loss curves, each the means of ten parts of the run: two of fp32 and one of the fastest variant."""
    runs = {"fp32": (Variant("eager fp32"), 0), "fp32 again": (Variant("eager fp32"), 1), fast.name: (fast, 0)}
    found = {}
    for name, (variant, seed) in runs.items():
        clock = fit(settings, variant, corpus(settings, batch), settings.curves, 1, seed=seed)
        losses = torch.stack(clock.losses).float().cpu()
        found[name] = [float(part.mean()) for part in losses[: len(losses) // 10 * 10].chunk(10)]
    return found


def compare_strategies(settings: argparse.Namespace) -> list[dict[str, Any]]:
    """Milliseconds of a step in several processes, one strategy after the other, each in its own program."""
    rows = []
    for strategy in STRATEGIES:
        words = [sys.executable, __file__, "--strategy", strategy, "--size", settings.size]
        words += ["--processes", str(settings.processes), "--steps", str(settings.steps), "--warm", str(settings.warm)]
        words += ["--batches", str(settings.batches[0])]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(done.stderr[-2000:])
        told = next(line for line in done.stdout.splitlines() if line.startswith("ms_step "))
        rows.append({"strategy": strategy, "ms_step": float(told.split()[1])})
    return rows


def options() -> argparse.Namespace:
    words = parser(__doc__)
    gpu = torch.cuda.is_available()
    words.add_argument("--size", choices=("tiny", "released"), default="released" if gpu else "tiny")
    words.add_argument("--batches", type=int, nargs="+", default=[16, 32, 64] if gpu else [4])
    words.add_argument("--steps", type=int, default=30 if gpu else 8, help="that are timed")
    words.add_argument("--warm", type=int, default=8 if gpu else 2, help="steps before them")
    words.add_argument("--variants", nargs="+", help="parts of names; all without it")
    words.add_argument("--data", type=Path, help="a prepared corpus, for waiting and curves")
    words.add_argument("--workers", type=int, default=12 if gpu else 1, help="that load from it")
    words.add_argument("--features", default=None, help="that the corpus holds")
    words.add_argument("--curves", type=int, default=0, metavar="STEPS", help="also compare loss curves (needs --data)")
    words.add_argument("--processes", type=int, default=0, help="compare strategies over this many processes instead")
    words.add_argument("--strategy", help=argparse.SUPPRESS)
    settings = words.parse_args()
    released = settings.size == "released"
    settings.device = "cuda" if gpu else "cpu"
    settings.face_size, settings.num_frames = (128, 5) if released else (64, 5)
    settings.num_references = 5 if released else 3
    settings.features = settings.features or ("logmel" if settings.data or not released else "wav2vec2")
    settings.audio_dim = 768 if settings.features == "wav2vec2" else 80
    return settings


def main() -> None:
    settings = options()
    perceptual.load_entries = lambda *_args: None  # random weights
    batch = settings.batches[0]
    if settings.strategy:
        loader = DataLoader(Repeated(settings, batch * 2 * (settings.steps + settings.warm)), batch, shuffle=True)
        several = {"strategy": settings.strategy, "devices": settings.processes}
        clock = fit(settings, Variant("eager fp32"), loader, settings.steps, settings.warm, **several)
        print("ms_step", 1000 * clock.seconds / settings.steps)
        return
    print(machine())
    if settings.processes:
        rows = compare_strategies(settings)
        print(table(list(rows[0]), [list(row.values()) for row in rows]))
        if settings.json:
            write_json(settings.json, {"processes": settings.processes, "strategies": rows})
        return
    tera = operations(settings, batch)
    figures: dict[str, Any] = {"size": settings.size, "tflop_per_sample": tera, "steps": []}
    variants = [
        variant
        for variant in (GPU if settings.device == "cuda" else CPU)
        if not settings.variants or any(part in variant.name for part in settings.variants)
    ]
    best: tuple[float, Variant, dict[str, Any]] | None = None
    for variant in variants:
        for size in settings.batches:
            row = measure(settings, variant, size, tera)
            figures["steps"].append(row)
            print(row, flush=True)
            if best is None or row["samples_s"] > best[0]:
                best = (row["samples_s"], variant, row)
            if settings.json:
                write_json(settings.json, figures)
    assert best is not None
    base = max(row["samples_s"] for row in figures["steps"] if row["variant"] == variants[0].name)
    figures["speedup"] = best[0] / base
    if settings.data:
        best[2]["waiting"] = waiting(settings, best[1], best[2])
        if settings.curves:
            figures["curves"] = curves(settings, best[1], min(batch, 16))
    columns = ["variant", "batch", "samples_s", "ms_step", "tflop_s", "share_of_peak", "peak_gib", "waiting"]
    print(table(columns, [[row.get(column, "") for column in columns] for row in figures["steps"]]))
    print(f"{tera:.3f} TFLOP for each sample; fastest against {variants[0].name}: {figures['speedup']:.2f} times")
    for name, values in figures.get("curves", {}).items():
        print(f"{name:32}", " ".join(f"{value:.3f}" for value in values))
    if settings.json:
        write_json(settings.json, figures)


if __name__ == "__main__":
    main()
