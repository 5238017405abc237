"""The index: reading, splitting, lists of clips."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest

from stsa_lightning.data.index import (
    COLUMNS,
    INDEX_FILE,
    empty_row,
    load_index,
    read_clip_list,
    save_index,
    select_clips,
    split_by_speaker,
    usable,
)
from stsa_lightning.utils.errors import UserError


@pytest.fixture
def index(synthetic_root: Path) -> pd.DataFrame:
    return load_index(synthetic_root)


def test_round_trip(index: pd.DataFrame, synthetic_root: Path) -> None:
    assert list(index.columns) == list(COLUMNS)
    assert index["clip"].is_monotonic_increasing
    assert len(index) == 11
    assert not list(synthetic_root.glob("*.part-*"))


def test_empty_index_can_be_read(tmp_path: Path) -> None:
    save_index(tmp_path, [])
    assert load_index(tmp_path).empty


def test_every_column_has_its_type(synthetic: ModuleType, tmp_path: Path) -> None:
    save_index(tmp_path, [synthetic.index_row("a/b", split="val", sync_offset=-5.0), {**empty_row(), "clip": "a/a"}])
    index = load_index(tmp_path)
    assert index["clip"].tolist() == ["a/a", "a/b"]
    numbers = {name: dtype for name, dtype in COLUMNS.items() if dtype != "object"}
    assert {name: str(index[name].dtype) for name in numbers} == numbers
    assert index["split"].tolist() == ["", "val"]
    assert np.isnan(index["sync_offset"][0])
    assert index["sync_offset"][1] == -5


def test_what_is_said_of_a_missing_or_damaged_index(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="stsa prepare folder --root VIDEOS --out"):
        load_index(tmp_path)
    (tmp_path / INDEX_FILE).write_bytes(b"nothing")
    with pytest.raises(UserError, match="damaged"):
        load_index(tmp_path)
    pd.DataFrame({"clip": ["a"]}).to_parquet(tmp_path / INDEX_FILE)
    with pytest.raises(UserError, match=r"missing \[.*'status'"):
        load_index(tmp_path)


def test_usable_clips(index: pd.DataFrame, synthetic: ModuleType) -> None:
    clips = usable(index, "logmel", num_frames=30)
    assert len(clips) == 10
    with pytest.raises(UserError, match="num_frames: expected at most 30"):
        usable(index, "logmel", num_frames=31)
    with pytest.raises(UserError, match=r"features: expected one of \['logmel'\].*got 'mfcc'.*--features mfcc"):
        usable(index, "mfcc")
    with pytest.raises(UserError, match=r"all rejected, mostly for \{'has no sound': 1\}"):
        usable(index[index["status"] == "rejected"], "logmel")


@pytest.mark.parametrize(("share", "speakers"), [(0.01, 1), (0.4, 2), (0.7, 4)])
def test_split_by_speaker_is_disjoint_and_whole(index: pd.DataFrame, share: float, speakers: int) -> None:
    clips = usable(index, "logmel")
    train, val = split_by_speaker(clips, share, seed=3)
    assert not set(train["speaker"]) & set(val["speaker"])
    assert val["speaker"].nunique() == speakers
    assert sorted([*train["clip"], *val["clip"]]) == clips["clip"].tolist()
    again = split_by_speaker(clips.sample(frac=1, random_state=0), share, seed=3)[1]
    assert set(again["clip"]) == set(val["clip"])


def test_split_by_named_speakers(index: pd.DataFrame) -> None:
    train, val = split_by_speaker(usable(index, "logmel"), validation_speakers=["speaker1", "speaker4"])
    assert set(val["speaker"]) == {"speaker1", "speaker4"}
    assert len(train) == 6


def test_splits_that_cannot_be(index: pd.DataFrame) -> None:
    clips = usable(index, "logmel")
    with pytest.raises(UserError, match=r"speaker0, .*got \['nobody'\]"):
        split_by_speaker(clips, validation_speakers=["nobody"])
    with pytest.raises(UserError, match="1 of 1"):
        split_by_speaker(clips[clips["speaker"] == "speaker0"])
    with pytest.raises(UserError, match="0 of 5"):
        split_by_speaker(clips, validation_speakers=[])
    with pytest.raises(UserError, match="validation_fraction"):
        split_by_speaker(clips, validation=1.0)


def test_lists_of_clips(index: pd.DataFrame, tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_text("# which train\nspeaker1/clip0\n\nspeaker2/clip1 NF\nspeaker9/clip0\n")
    assert read_clip_list(path) == ["speaker1/clip0", "speaker2/clip1", "speaker9/clip0"]
    with pytest.warns(UserWarning, match=r"1 of 3 clips.*speaker9/clip0"):
        chosen = select_clips(index, path)
    assert chosen["clip"].tolist() == ["speaker1/clip0", "speaker2/clip1"]
    path.write_text("speaker9/clip0\n")
    with pytest.raises(UserError, match=r"such as speaker0/clip0.*found speaker9/clip0"):
        select_clips(index, path)
    path.write_text("\n")
    with pytest.raises(UserError, match="found none"):
        read_clip_list(path)
    with pytest.raises(FileNotFoundError, match="list of clips"):
        read_clip_list(tmp_path / "absent.txt")
