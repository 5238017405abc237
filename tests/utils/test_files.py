from __future__ import annotations

from pathlib import Path

import pytest

from stsa_lightning.utils.files import written_whole


def test_the_new_file_takes_the_old_ones_place(tmp_path: Path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with written_whole(path) as part:
        part.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(UnicodeEncodeError), written_whole(path) as part:
        part.write_text("half \udc80")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
