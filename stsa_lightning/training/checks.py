"""What can be wrong with a run is said before its first step, or where it happens, in words that help."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from stsa_lightning.features.base import FEATURE_DIMS
from stsa_lightning.losses.objective import LossWeights
from stsa_lightning.training.strategy import AlternatingDDP
from stsa_lightning.utils.errors import UserError, check_choice

AGREED = (
    "features",
    "face_size",
    "num_references",
    "num_frames",
    "heatmap_sigma",
)  # what data and networks must agree on


def check_features(features: str) -> int:
    """Size of a step of this kind of audio features; raises `UserError` where there is no such kind."""
    check_choice("features", features, FEATURE_DIMS)
    return FEATURE_DIMS[features]


def check_agreement(module: Mapping[str, Any], data: Mapping[str, Any]) -> None:
    """Raises `UserError` where arguments of the module and of the data module, of those that it has, do not fit."""
    differ = [name for name in AGREED if name in data and data[name] != module[name]]
    if differ:
        apart = "; ".join(f"{name}: {data[name]!r} in the data, {module[name]!r} in the module" for name in differ)
        raise UserError(f"data and networks must agree. {apart}. Give both the same value")
    cil = module.get("cil") or {}
    if cil.get("weight") and cil.get("negatives") == "clip" and data.get("windows_together") == 1:
        raise UserError(
            "cil.negatives clip: a window of a clip has no other to be told apart from; set data.windows_together to 2 "
            "or more, got 1"
        )


def batch_shapes(module: Mapping[str, Any], audio_dim: int) -> dict[str, tuple[int, ...]]:
    """Entries that a training batch must hold, each with its shape after the batch's own axis."""
    side, frames, references = module["face_size"], module["num_frames"], module["num_references"]
    maps = (frames, 1, side, side)
    return {
        "faces": (frames, 3, side, side),
        **{f"{kind}heatmaps": maps for kind in ("", "masked_", "lip_", "jaw_")},
        "keypoints": (frames, 2, 57),
        "lip_aperture": (frames, 3),
        "lip_aperture_spread": (3,),
        "audio": (frames, audio_dim, 10),
        "references": (references, 3, side, side),
        "reference_heatmaps": (references, 1, side, side),
        "theta": (frames, references, 2, 3),
    }


def check_batch(batch: Mapping[str, Any], module: Mapping[str, Any], audio_dim: int) -> None:
    """Raises `UserError` where an entry of a batch is absent or of another shape than the module's arguments say.

    Looks at no value, so that a device is not waited for.
    """
    for name, shape in batch_shapes(module, audio_dim).items():
        found = tuple(batch[name].shape) if name in batch else None
        if found is None or found[1:] != shape:
            wanted = ", ".join(map(str, shape))
            raise UserError(
                f"a batch's {name}: expected (B, {wanted}), got {'nothing' if found is None else found}; prepare or "
                "read the data with the module's face_size, num_frames, num_references and features"
            )
    if LossWeights(**module.get("losses", {}).get("weights", {})).native and "native_references" not in batch:
        raise UserError(
            "losses.weights.native_warp, native_perceptual: expected faces at the frames' own resolution, got none; "
            "set data.native_size to the side of the prepared faces (stsa prepare --face-size)"
        )


def check_trainer(strategy: object) -> None:
    """Raises `UserError` for a strategy, or its name, under which two optimisers cannot take turns."""
    if isinstance(strategy, str):  # before there is a trainer; of others its kind is known then
        fine = strategy.split("_")[0] not in ("fsdp", "deepspeed", "dp", "xla")
    elif isinstance(strategy, DDPStrategy):
        fine = isinstance(strategy, AlternatingDDP) or bool(strategy._ddp_kwargs.get("find_unused_parameters"))
    else:
        fine = isinstance(strategy, SingleDeviceStrategy)
    name = strategy if isinstance(strategy, str) else type(strategy).__name__
    if not fine:
        raise UserError(
            "trainer.strategy: expected ddp_alternating (or ddp_find_unused_parameters_true) on several devices, got "
            f"{name}; two optimisers take turns here, and each phase leaves some networks alone"
        )


def check_flags(trainer: Mapping[str, Any]) -> None:
    """Raises `UserError` for settings that Lightning refuses where a module has optimisers of its own, naming ours."""
    for flag, idle, ours in (
        ("gradient_clip_val", (None, 0), "model.optim.gradient_clip_val"),
        ("gradient_clip_algorithm", (None,), "model.optim.gradient_clip_val, by norm"),
        ("accumulate_grad_batches", (None, 1), "model.optim.accumulate_grad_batches"),
    ):
        if trainer.get(flag) not in idle:
            raise UserError(f"trainer.{flag}: two optimisers take turns here; give --{ours} in its place")
    check_trainer(trainer.get("strategy") if isinstance(trainer.get("strategy"), str) else "auto")


def check_synchronised(trainer: Trainer, wanted: bool) -> None:
    """Raises `UserError` where batch norm over processes is asked for on processors, for which PyTorch has none."""
    if wanted and trainer.world_size > 1 and trainer.strategy.root_device.type == "cpu":
        raise UserError(
            "trainer.sync_batchnorm: expected false on CPUs, for which PyTorch's SyncBatchNorm is not made, got true"
        )


def plain(settings: Any) -> Any:
    """Settings as JSON gives them back: lists for tuples."""
    return json.loads(json.dumps(settings))


def check_settings(source: str, name: str, theirs: Mapping[str, Any], mine: Mapping[str, Any]) -> None:
    """Raises `UserError` where settings of a network in a file differ from this run's."""
    there, here = plain(dict(theirs)), plain(dict(mine))
    differ = {key: (there.get(key), value) for key, value in here.items() if there.get(key) != value}
    if differ:
        raise UserError(
            f"{source}: its {name} network has other settings than this run's (name: there, here): {differ}. "
            "Give the run the same ones"
        )


def check_parts(theirs: Mapping[str, Any], mine: Mapping[str, Any]) -> None:
    """Raises `UserError` where a checkpoint or this run has tensors that the other lacks, such as of discriminators."""
    apart = {".".join(name.split(".")[:2]) for name in theirs.keys() ^ mine.keys()}
    if apart:
        raise UserError(
            f"the checkpoint and this run do not have the same parts; one of them lacks {', '.join(sorted(apart))}. "
            "Give the run the checkpoint's model.losses and model.cil, or begin from its networks alone: "
            "--model.init_from FILE in place of --ckpt_path"
        )


def check_optimisers(theirs: Mapping[str, Any], mine: Mapping[str, Any]) -> None:
    """Raises `UserError` where a checkpoint holds the state of another kind of optimiser than this run's."""
    for side in ("optim", "optim.discriminator"):
        there, here = (_named(hparams, "").get(f"{side}.optimizer") for hparams in (theirs, mine))
        if there is not None and there != here:
            raise UserError(
                f"model.{side}.optimizer: the checkpoint holds the state of {there}, got {here}. Give the run the "
                "checkpoint's, or begin from its networks alone: --model.init_from FILE in place of --ckpt_path"
            )


def _named(settings: Mapping[str, Any], above: str = "model.") -> dict[str, Any]:
    """Settings by their dotted names."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        found |= _named(value, f"{above}{name}.") if isinstance(value, dict) and value else {f"{above}{name}": value}
    return found


def log_changed_settings(theirs: Mapping[str, Any], mine: Mapping[str, Any]) -> None:
    """Log the settings in which a run differs from the checkpoint that it resumes; the run's own are used."""
    there, here = (_named(plain(dict(settings))) for settings in (theirs, mine))
    differ = [
        f"{name} {here[name]} (the checkpoint: {value})"
        for name, value in there.items()
        if name in here and here[name] != value
    ]
    if differ:
        rank_zero_info(f"settings of this run hold: {'; '.join(differ)}")


def identity(batch: Mapping[str, Any]) -> list[str]:
    """Which windows a batch holds, as `SPEAKER/CLIP frame 17`; waits for the device."""
    frames = batch["frame"].tolist() if isinstance(batch["frame"], Tensor) else batch["frame"]
    return [f"{clip} frame {frame}" for clip, frame in zip(batch["clip"], frames, strict=True)]


class OutOfMemoryError(UserError):
    """A device ran out of memory; the message says what to lower."""


@contextmanager
def memory_advice(batch_size: int) -> Iterator[None]:
    """Within it, a device that runs out of memory is an `OutOfMemoryError`."""
    try:
        yield
    except (torch.cuda.OutOfMemoryError, RuntimeError) as error:
        # On a CPU it is a plain RuntimeError of the allocator.
        if not isinstance(error, torch.cuda.OutOfMemoryError) and "not enough memory" not in str(error):
            raise
        reason = str(error).split(". ")[0]
        raise OutOfMemoryError(
            f"out of memory with {batch_size} windows in a batch ({reason}). Lower data.batch_size (now {batch_size}) "
            "and raise model.optim.accumulate_grad_batches as much, to keep the step's size; or try a smaller "
            "data.num_frames or data.num_references, --trainer.precision bf16-mixed, and "
            "model.losses.weights.temporal_adversarial 0, which generates one frame of a window instead of all"
        ) from error
