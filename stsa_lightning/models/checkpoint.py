"""Both networks in one file, and back: a safetensors export, or a training checkpoint."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from stsa_lightning.models.description import check_description
from stsa_lightning.models.guidance import Guidance
from stsa_lightning.models.synthesis import Synthesis
from stsa_lightning.utils.errors import UserError
from stsa_lightning.utils.files import written_whole
from stsa_lightning.utils.own import allowed, description, is_own
from stsa_lightning.utils.safe_load import load_tensors, uninitialised

FORMAT = 1
_KEY = "stsa"  # the one metadata entry: JSON of format, guidance and synthesis settings, meta

Network = TypeVar("Network", bound=nn.Module)


def save_networks(
    path: str | Path, guidance: Guidance, synthesis: Synthesis, meta: Mapping[str, Any], *, half: bool = False
) -> Path:
    """Write weights (`guidance.*`, `synthesis.*`), constructor settings and `meta` as one safetensors file.

    The file appears complete or not at all.

    Args:
        path: file to write, with its folder made where needed.
        meta: whatever JSON holds; `features` (kind of audio features) and `num_frames` (T) are what dubbing reads.
        half: store weights in 16 bits, half the size; they are read back as float32.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {f"guidance.{k}": v.detach().cpu().contiguous() for k, v in guidance.state_dict().items()}
    tensors |= {f"synthesis.{k}": v.detach().cpu().contiguous() for k, v in synthesis.state_dict().items()}
    if half:
        tensors = {name: _halved(t) for name, t in tensors.items()}
    described = {
        "format": FORMAT,
        "guidance": description(guidance),
        "synthesis": description(synthesis),
        "meta": dict(meta),
    }
    try:
        with written_whole(path) as part:
            mode = part.stat().st_mode
            save_file(tensors, part, metadata={_KEY: json.dumps(described)})
            part.chmod(mode)  # safetensors lets nobody but the owner read
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: cannot be written ({error}); choose another place, or make room") from error
    return path


def _halved(tensor: Tensor) -> Tensor:
    """In 16 bits, unless they do not hold its numbers."""
    half = tensor.half() if tensor.is_floating_point() else tensor
    return half if half.isfinite().all() else tensor


def load_networks(path: str | Path, allow: Collection[str] = ()) -> tuple[Guidance, Synthesis, dict[str, Any]]:
    """Rebuild both networks, in eval mode on the CPU, from a safetensors export or a training checkpoint (`.ckpt`).

    Of a training checkpoint the averaged weights are taken where it holds such; no code in it is run. Networks of
    classes that are not this package's are built if their class paths are in `allow`, or were allowed for the process
    (see `utils.own.allow_classes`).

    Returns:
        The networks and the `meta` that was saved with them.

    Raises:
        FileNotFoundError: no such file.
        UserError: the file is damaged, holds something else, does not fit its own settings, or holds weights that are
            no finite numbers.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such checkpoint")
    described, tensors = (_read_safetensors if path.suffix == ".safetensors" else _read_training)(path)
    described = check_description(path, described)
    guidance = _build(Guidance, described["guidance"], "guidance.", tensors, path, allow)
    synthesis = _build(Synthesis, described["synthesis"], "synthesis.", tensors, path, allow)
    return guidance, synthesis, described["meta"]


def _read_safetensors(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise UserError(f"{path}: not a complete safetensors file ({error}). Export or download it again") from error
    if _KEY not in metadata:
        raise UserError(
            f"{path}: a safetensors file, but not written by this project: its metadata has no {_KEY!r} entry"
        )
    try:
        described = json.loads(metadata[_KEY])
    except (json.JSONDecodeError, RecursionError) as error:
        raise UserError(f"{path}: its metadata is no JSON ({error}). Export it again") from error
    if not isinstance(described, dict) or described.get("format") != FORMAT:
        found = described.get("format") if isinstance(described, dict) else described
        raise UserError(f"{path}: format {found!r}, this version reads {FORMAT}. Export it again")
    return described, tensors


def _read_training(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    stored = load_tensors(path)
    if not isinstance(stored, dict) or not isinstance(stored.get("state_dict"), dict) or "networks" not in stored:
        raise UserError(
            f"{path}: expected a .safetensors export or a training checkpoint with `networks` and `state_dict`. "
            "Published .pth files are imported with `weights import`"
        )
    return stored["networks"], {**stored["state_dict"], **averaged_weights(stored)}


def averaged_weights(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """The averages that a training checkpoint's GeneratorEMA callback keeps; empty where there is none."""
    states = checkpoint.get("callbacks")
    found = [
        state["average"]
        for name, state in (states.items() if isinstance(states, dict) else ())
        if str(name).startswith("GeneratorEMA") and isinstance(state, dict) and isinstance(state.get("average"), dict)
    ]
    return found[0] if found else {}


def _build(
    base: type[Network],
    said: dict[str, Any],
    prefix: str,
    tensors: Mapping[str, Tensor],
    path: Path,
    allow: Collection[str],
) -> Network:
    kind = allowed(said["class_path"], base, str(path), allow) if is_own(said) else base
    settings = said["init_args"] if is_own(said) else said
    own = {name: _weight(path, name, value) for name, value in tensors.items() if str(name).startswith(prefix)}
    try:
        with uninitialised(holding=sum(value.numel() for value in own.values())):
            network = kind(**settings)
        if is_own(said):
            network.settings = settings  # type: ignore[assignment]
        network.load_state_dict({name.removeprefix(prefix): value for name, value in own.items()}, assign=True)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"{path}: its {kind.__name__} weights do not fit its settings: {error}") from error
    return network.eval()


def _weight(path: Path, name: str, value: object) -> Tensor:
    """A tensor of a checkpoint as networks take it; raises UserError where its numbers cannot be weights."""
    if not isinstance(value, Tensor) or value.layout != torch.strided or value.is_quantized or value.is_meta:
        raise UserError(f"{path}: {name}: expected a plain tensor, got {type(value).__name__}. Export it again")
    if not value.is_floating_point():
        if not name.endswith("num_batches_tracked"):  # the one whole number that networks hold
            raise UserError(f"{path}: {name}: expected floating-point weights, got {value.dtype}. Export it again")
        return value
    value = value.float()
    if not value.isfinite().all():
        count = int((~value.isfinite()).sum())
        raise UserError(
            f"{path}: {name}: {count} of {value.numel()} weights are not finite (NaN or infinite). The training went "
            "wrong, or the file is damaged: take an earlier checkpoint"
        )
    if name.endswith("running_var") and value.numel() and value.min() < 0:
        raise UserError(f"{path}: {name}: expected variances, got {value.min():g}. Export it again")
    return value
