"""Everything that changes the meaning of a score, in one record: from YAML files and the command line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

from stsa_lightning.dubbing import Resolution
from stsa_lightning.evaluation.clip_sample import NATIVE, ScoredRegion, Task
from stsa_lightning.evaluation.generate import ReferencePolicy
from stsa_lightning.metrics.base import Region
from stsa_lightning.metrics.identity import IdentityName
from stsa_lightning.metrics.sync import Variant
from stsa_lightning.utils.errors import UserError, check_at_least
from stsa_lightning.utils.tables import read_yaml

Split = Literal["val", "test"]


@dataclass(frozen=True)
class Protocol:
    """What is measured, on what, and how.

    Args:
        name: printed above the tables.
        corpus: in words; printed.
        dataset: short name of the corpus; tables of several systems group by it.
        split: clips of a prepared corpus: its own split where it has one, else the speakers held out from training.
        speakers: these speakers' clips in place of a split.
        clips: this many, spread evenly over the sorted names; None: all.
        tasks: `paired`, a clip's own speech; `unpaired`, another speaker's.
        references: what the networks may see: `other-clip` of the same speaker, `same-clip` (leaks the answer in a
            paired task; the references' own frames are not scored), `first-frame` of the clip.
        regions: of picture metrics: `face` crop, its lower half `mouth`, whole `frame` (videos alone), `mouth@native`,
            the lower half at the frame's own resolution: that at which a corpus was prepared, or videos are.
        resolution: of a checkpoint's faces in `mouth@native`, as for `Dubber`.
        crop: side of the face crops in pixels; None: the size of the networks' faces, 128 for videos.
        metrics: names, or `fast` or `all`.
        sync: how SyncNet sees a video: `tracked` crop, or `lrs`, the whole frame squashed to 224 px.
        identity: the network of CSIM.
        baselines: also score baselines that need no training.
        ablate_paths: also score what is left of a checkpoint with one part of the method taken away, in the paired
            task (see `path_ablation`).
        resamples: draws of the bootstrap.
        seed: of the bootstrap and of the random reference.
        notes: printed below the tables.
    """

    name: str = ""
    corpus: str = ""
    dataset: str = ""
    split: Split = "val"
    speakers: tuple[str, ...] | None = None
    clips: int | None = None
    tasks: tuple[Task, ...] = ("paired", "unpaired")
    references: ReferencePolicy = "other-clip"
    regions: tuple[ScoredRegion, ...] = ("mouth", "face")
    resolution: Resolution = "auto"
    crop: int | None = None
    metrics: tuple[str, ...] = ("fast",)
    sync: Variant = "tracked"
    identity: IdentityName = "arcface"
    baselines: bool = True
    ablate_paths: bool = False
    resamples: int = 1000
    seed: int = 0
    notes: str = ""

    def __post_init__(self) -> None:
        check_at_least("seed", self.seed, 0)
        choices: dict[str, tuple[str, ...]] = {
            "split": get_args(Split),
            "references": get_args(ReferencePolicy),
            "sync": get_args(Variant),
            "identity": get_args(IdentityName),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise UserError(f"{name}: expected one of {', '.join(allowed)}, got {getattr(self, name)!r}")
        for name, allowed in {"tasks": get_args(Task), "regions": (*get_args(Region), NATIVE)}.items():
            values = getattr(self, name)
            if not values or set(values) - set(allowed) or len(set(values)) < len(values):
                raise UserError(f"{name}: expected different ones of {', '.join(allowed)}, got {', '.join(values)!r}")
        for name, least in {"clips": 1, "crop": 32, "resamples": 1}.items():
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < least):
                raise UserError(f"{name}: expected a whole number, {least} or more, got {value!r}")
        if not self.metrics:
            raise UserError("metrics: expected names of metrics, or fast or all, got none")

    def changed(self, **options: Any) -> Protocol:
        """With those of the options that are not None."""
        return replace(self, **{name: value for name, value in options.items() if value is not None})

    def record(self) -> dict[str, Any]:
        """As JSON and YAML hold it."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self).items()}


def load_protocol(path: Path | str) -> Protocol:
    """Read a YAML file whose keys are fields of `Protocol`.

    Raises:
        FileNotFoundError: no such file.
        UserError: not a mapping, unknown keys, or values out of range; the file is named.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such protocol; those that come along lie in experiments/protocols/")
    record = read_yaml(path)
    if not isinstance(record, Mapping):
        raise UserError(f"{path}: expected keys and values, found {type(record).__name__}")
    unknown = record.keys() - {field.name for field in fields(Protocol)}
    if unknown:
        allowed = ", ".join(field.name for field in fields(Protocol))
        raise UserError(f"{path}: unknown keys {', '.join(sorted(map(str, unknown)))}; expected some of {allowed}")
    try:
        options: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in record.items()}
        return Protocol(**options)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
