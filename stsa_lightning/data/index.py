"""The index of a prepared corpus: one line for each video that was found, prepared or rejected."""

from __future__ import annotations

import re
import warnings
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from stsa_lightning.data.measures import MEASURES, no_measures
from stsa_lightning.utils.errors import UserError
from stsa_lightning.utils.files import written_whole
from stsa_lightning.utils.names import some, storable
from stsa_lightning.utils.tables import Text, list_lines, read_text

INDEX_FILE = "index.parquet"

# Beside what describes a clip: `longest_run`, most valid frames in a row; `features`, kinds held, separated by commas;
# `status`, ok or rejected (with a `reason`); `source_bytes` and `source_mtime_ns`, which tell whether a source changed;
# `part`, which part of the source it is ("" for all); `split`, of the corpus's authors ("" where they say nothing);
# `language`, ISO 639-1 or ""; `face_choice`, which face was followed, and why; and what was measured of each clip.
COLUMNS: dict[str, str] = {
    "clip": "object",
    "speaker": "object",
    "source": "object",
    "frames": "int64",
    "valid_frames": "int64",
    "longest_run": "int64",
    "duration_s": "float64",
    "width": "int64",
    "height": "int64",
    "fps": "float64",
    "features": "object",
    "status": "object",
    "reason": "object",
    "settings_hash": "object",
    "source_bytes": "int64",
    "source_mtime_ns": "int64",
    "part": "object",
    "split": "object",
    "language": "object",
    "face_choice": "object",
    **MEASURES,
}
_HELD: dict[str, tuple[type, ...]] = {"object": (str,), "int64": (int,), "float64": (float, int), "bool": (bool,)}
_EMPTY = {"object": "", "int64": 0, "float64": 0.0, "bool": False}


def empty_row() -> dict[str, Any]:
    """A line that says nothing yet: 0 and "" in every column, what was not measured as `no_measures` has it."""
    return {**{name: _EMPTY[dtype] for name, dtype in COLUMNS.items()}, **no_measures()}


def is_row(row: object) -> bool:
    """Whether this is a line that the index can hold: all columns, each of its type, text that can be written."""
    if not isinstance(row, dict) or row.keys() != COLUMNS.keys():
        return False
    try:
        for name, dtype in COLUMNS.items():
            value = row[name]
            if type(value) not in _HELD[dtype]:
                return False
            if dtype == "object":
                value.encode()
            elif dtype == "int64":
                np.int64(value)
    except (UnicodeEncodeError, OverflowError):
        return False
    return True


def clip_path(root: Path | str, clip: str) -> Path:
    """Where the file of a clip (its name in the index, `speaker/...`) lies; names too long for a file are cut."""
    return Path(root) / "clips" / f"{storable(clip)}.safetensors"


def load_index(root: Path | str) -> pd.DataFrame:
    """The index of the corpus prepared into `root`, all lines, sorted by clip.

    Raises:
        FileNotFoundError: nothing was prepared there; the message says how to.
        UserError: the file is damaged or has not the columns of `COLUMNS`.
    """
    path = Path(root) / INDEX_FILE
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: no prepared corpus here; prepare one: stsa prepare folder --root VIDEOS --out {root} "
            f"(or the embedded sample: stsa prepare sample --out {root})"
        )
    try:
        index = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: expected a parquet file, found a damaged one ({error}); prepare again") from None
    missing = COLUMNS.keys() - set(index.columns)
    if missing:
        raise UserError(f"{path}: expected the columns {list(COLUMNS)}, missing {sorted(missing)}; prepare again")
    return index.sort_values("clip", ignore_index=True)


def save_index(root: Path | str, rows: Sequence[dict[str, object]]) -> None:
    path = Path(root) / INDEX_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    index = pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)
    with written_whole(path) as part:
        index.sort_values("clip").to_parquet(part, index=False)


def usable(index: pd.DataFrame, features: str, num_frames: int = 1) -> pd.DataFrame:
    """The clips with a face in at least `num_frames` frames in a row that hold audio features of this kind.

    Raises:
        UserError: there is none; the message says what stands in the way.
    """
    prepared = index[index["status"] == "ok"]
    if prepared.empty:
        reasons = index["reason"].value_counts().head(3).to_dict()
        raise UserError(f"the corpus has no usable clip: {len(index)} videos, all rejected, mostly for {reasons}")
    holding = prepared[[features in held.split(",") for held in prepared["features"]]]
    if holding.empty:
        found = sorted({kind for held in prepared["features"] for kind in held.split(",")})
        raise UserError(
            f"features: expected one of {found}, which the corpus holds, got {features!r}; "
            f"prepare it again with --features {features}"
        )
    long_enough = holding[holding["longest_run"] >= num_frames]
    if long_enough.empty:
        raise UserError(
            f"num_frames: expected at most {holding['longest_run'].max()}, the most faces in a row, got {num_frames}"
        )
    return long_enough.reset_index(drop=True)


def split_by_speaker(
    index: pd.DataFrame, validation: float = 0.1, seed: int = 0, validation_speakers: Sequence[str] | None = None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Training and validation clips without a speaker in common.

    Args:
        validation: share of the speakers that validate, at least one; drawn with `seed`.
        seed: of the draw. The draw depends on the names of the speakers alone, not on the clips.
        validation_speakers: the speakers that validate, in place of a draw.

    Raises:
        UserError: a share outside (0, 1), an unknown speaker, or no speaker left on one side.
    """
    speakers = sorted(index["speaker"].unique())
    if validation_speakers is None:
        if not 0 < validation < 1:
            raise UserError(f"validation_fraction: expected a share of the speakers between 0 and 1, got {validation}")
        count = max(1, round(validation * len(speakers)))
        held_out = set(np.random.default_rng(seed).permutation(speakers)[:count].tolist())
    else:
        held_out = set(validation_speakers)
        unknown = sorted(held_out - set(speakers))
        if unknown:
            raise UserError(f"validation_speakers: expected speakers of the corpus ({some(speakers)}), got {unknown}")
    if not held_out or len(held_out) >= len(speakers):
        raise UserError(
            f"a split by speaker needs at least one speaker on each side; {len(held_out)} of {len(speakers)} "
            f"({some(speakers)}) would validate; choose validation_speakers, or give lists of clips"
        )
    validates = index["speaker"].isin(held_out)
    return index[~validates].reset_index(drop=True), index[validates].reset_index(drop=True)


def read_clip_list(path: Path | str, known: Collection[str] = ()) -> list[str]:
    """Clip names from a text file, one on each line; empty lines and those that begin with # are skipped.

    Of a line of several fields or words the first counts, unless the line as it is names one of the `known` clips.

    Raises:
        FileNotFoundError: there is no such file.
        UserError: it names no clip.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such list of clips; expected a text file with a clip name on each line")

    def named(text: Text) -> list[str]:
        lines = (line for _, line in list_lines(text) if not line.startswith("#"))
        return [name for line in lines if (name := _named(line, known))]

    names = named(read_text(path, found=lambda text: sum(name in known for name in named(text))))
    if not names:
        raise UserError(f"{path}: expected a clip name on each line, found none")
    return names


def _named(line: str, known: Collection[str]) -> str:
    """What a line of a list names: all of it, its first field or its first word."""
    fields = re.match(r"\s*(?:\"([^\"]*)\"|([^,;\t]*))", line)
    field = (fields[1] or fields[2] or "").strip() if fields else ""
    return next((name for name in (line, field) if name in known), (field.split() or [""])[0])


def select_clips(index: pd.DataFrame, path: Path | str) -> pd.DataFrame:
    """The lines of the index that a list of clips names; a warning counts those that the corpus does not have.

    Raises:
        UserError: the corpus has none of them. As `read_clip_list` otherwise.
    """
    names = read_clip_list(path, set(index["clip"]))
    chosen = index[index["clip"].isin(names)].reset_index(drop=True)
    if chosen.empty:
        there = some(index["clip"].tolist())
        raise UserError(f"{path}: expected names of clips of the corpus (such as {there}), found {some(names)}")
    absent = sorted(set(names) - set(chosen["clip"]))
    if absent:
        warnings.warn(
            f"{path}: {len(absent)} of {len(names)} clips are not usable in this corpus ({some(absent)})", stacklevel=2
        )
    return chosen
