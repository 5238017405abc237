"""What a checkpoint says of itself, checked by type and range before anything is built of it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from torch import nn

from stsa_lightning.features.base import FeatureKind
from stsa_lightning.models.guidance import MAX_TOKENS, Guidance
from stsa_lightning.models.synthesis import Paths, Synthesis
from stsa_lightning.utils.errors import UserError
from stsa_lightning.utils.own import is_own

# Least and largest value of every number that a checkpoint states: far beyond what was ever trained, and within what
# can be built.
RANGES: dict[str, tuple[float, float]] = {
    "audio_dim": (1, 8192),
    "face_size": (64, 2048),
    "width": (1, 8192),
    "base": (1, 1024),
    "layers": (1, 128),
    "heads": (1, 256),
    "feedforward": (1, 65_536),
    "dropout": (0, 1),
    "audio_dropout": (0, 1),
    "heatmap_sigma": (0, 100),
    "num_references": (1, 64),
    "audio_width": (1, 8192),
    "spade_hidden": (1, 8192),
    "align_kernels": (1, 63),
    "stem_kernel": (1, 63),
    "flow_kernel": (1, 63),
    "residuals": (0, 64),
    "base_reduction": (1, 2048),
    "temporal_dropout": (0, 1),
    "num_frames": (1, MAX_TOKENS),
}
_CHOICES: dict[str, tuple[str, ...]] = {"features": get_args(FeatureKind), "paths": get_args(Paths)}
_META: dict[str, Any] = {"features": "logmel", "num_frames": 5, "heatmap_sigma": 1.0}  # by the type of these


def check_description(path: Path, described: object) -> dict[str, Any]:
    """The settings of both networks and the meta of a checkpoint.

    Returns:
        `described`, in which "guidance", "synthesis" and "meta" are mappings that make sense.

    Raises:
        UserError: one of them is missing, or holds a value of another type or out of its range.
    """
    if not isinstance(described, dict) or not {"guidance", "synthesis", "meta"} <= described.keys():
        raise UserError(
            f"{path}: it does not say how its networks are built (guidance, synthesis, meta). Export it again"
        )
    settings = {part: _check_network(path, part, described[part], kind) for part, kind in _PARTS.items()}
    meta = described["meta"]
    _check(path, "meta", meta, _META, closed=False)
    missing = {"features", "num_frames"} - meta.keys()
    if missing:
        raise UserError(f"{path}: its meta does not say {' and '.join(sorted(missing))}. Export it again")
    speakers = meta.get("validation_speakers", [])
    if not isinstance(speakers, list) or not all(isinstance(name, str) for name in speakers):
        raise _wrong(path, "meta", "validation_speakers", "a list of names", speakers)
    for name in ("audio_dim", "face_size"):
        values = [settings[part].get(name, _defaults(kind)[name]) for part, kind in _PARTS.items()]
        if values[0] != values[1]:
            raise UserError(f"{path}: its networks do not fit each other: {name} {values[0]} and {values[1]}")
    return described


_PARTS: dict[str, type[nn.Module]] = {"guidance": Guidance, "synthesis": Synthesis}


def _check_network(path: Path, part: str, said: object, kind: type[nn.Module]) -> dict[str, Any]:
    """The arguments of a network, the package's or one's own, whose further arguments are its own business."""
    own = is_own(said)
    if own:
        assert isinstance(said, dict)
        if said.keys() != {"class_path", "init_args"} or not isinstance(said["class_path"], str):
            raise _wrong(path, part, "class_path", "the path of a class, and init_args", said["class_path"])
        said = said["init_args"]
    _check(path, part, said, _defaults(kind), closed=not own)
    assert isinstance(said, dict)
    return said


def _defaults(kind: type[nn.Module]) -> dict[str, Any]:
    """The settings of a network, each with a value of its type."""
    parameters = inspect.signature(kind).parameters
    return {name: parameter.default for name, parameter in parameters.items()}


def _check(path: Path, part: str, said: object, examples: Mapping[str, Any], closed: bool = True) -> None:
    """Raises UserError where `said` is no mapping of values like the examples; `closed`: of no others."""
    if not isinstance(said, dict):
        raise UserError(f"{path}: its {part}: expected names and values, got {_shown(said)}. Export it again")
    unknown = [name for name in said if name not in examples]
    if closed and unknown:
        raise UserError(f"{path}: its {part} states {_shown(unknown[0])}, which this version does not know")
    for name, example in examples.items():
        if name in said and (expected := _expected(name, said[name], example)):
            raise _wrong(path, part, name, expected, said[name])


def expected_value(kind: type[nn.Module], name: str, value: object) -> str | None:
    """What a network's setting must be, in words, where `value` is not that; None where it is."""
    return _expected(name, value, _defaults(kind)[name])


def _expected(name: str, value: object, example: object) -> str | None:
    if name in _CHOICES:
        return None if value in _CHOICES[name] else f"one of {', '.join(_CHOICES[name])}"
    if isinstance(example, tuple):
        if not isinstance(value, (tuple, list)) or len(value) != len(example):
            return f"{len(example)} numbers"
        found = (_expected(name, one, like) for one, like in zip(value, example, strict=True))
        return next((f"{len(example)} times {expected}" for expected in found if expected), None)
    if isinstance(example, bool):
        return None if isinstance(value, bool) else "true or false"
    least, largest = RANGES[name]
    kinds = (int,) if isinstance(example, int) else (int, float)
    if type(value) in kinds and least <= value <= largest:  # type: ignore[operator]
        return None
    return f"{'a whole number' if isinstance(example, int) else 'a number'} from {least:g} to {largest:g}"


def _wrong(path: Path, part: str, name: str, expected: str, got: object) -> UserError:
    return UserError(f"{path}: its {part}: {name}: expected {expected}, got {_shown(got)}. Export it again")


def _shown(value: object) -> str:
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
