from __future__ import annotations

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from stsa_lightning.data.filters import Filters, apply_filters, failures, filtered_values, suggested_filters
from stsa_lightning.utils.errors import UserError

GOOD = {
    "sync_offset": 0.0,
    "sync_confidence": 7.0,
    "sync_method": "syncnet",
    "sync_clear": True,
    "sync_shift": 0,
    "face_px": 200.0,
    "yaw_deg": 5.0,
    "sharpness": 300.0,
    "jump": 0.02,
    "speech_ratio": 0.9,
    "duration_s": 5.0,
    "frames": 125,
    "valid_frames": 125,
    "language": "en",
}
STRICT = {
    "min_confidence": 6,
    "max_offset": 1,
    "min_face_px": 150,
    "max_yaw": 20,
    "min_seconds": 3,
    "min_sharpness": 100,
    "min_valid": 0.9,
    "min_speech": 0.5,
    "max_jump": 0.3,
    "languages": ["en", "zh"],
}
BAD = {
    "min_confidence": {"sync_confidence": 5.9},
    "max_offset": {"sync_offset": -2.0},
    "min_face_px": {"face_px": 149.0},
    "max_yaw": {"yaw_deg": 21.0},
    "min_seconds": {"duration_s": 2.9},
    "min_sharpness": {"sharpness": 99.0},
    "min_valid": {"valid_frames": 100},
    "min_speech": {"speech_ratio": 0.4},
    "max_jump": {"jump": 0.4},
    "languages": {"language": "ja"},
}


def index(*changes: dict[str, object]) -> pd.DataFrame:
    return pd.DataFrame([{"clip": f"a/{i}", **GOOD, **change} for i, change in enumerate(changes)])


@pytest.mark.parametrize("name", STRICT)
def test_each_limit_removes_what_is_beyond_it_and_nothing_else(name):
    lines = index({}, BAD[name])
    kept = apply_filters(lines, Filters(**{name: STRICT[name]}))
    assert kept["clip"].tolist() == ["a/0"]
    others = {limit: value for limit, value in STRICT.items() if limit != name}
    assert len(apply_filters(lines, Filters(**others))) == 2


def test_a_value_at_the_limit_passes():
    at = {"face_px": 150.0, "yaw_deg": 20.0, "duration_s": 3.0, "sync_confidence": 6.0, "sync_offset": 1.0}
    assert len(apply_filters(index(at), Filters(**STRICT))) == 1


def test_no_filters_keep_everything():
    lines = index({}, {"face_px": np.nan})
    assert apply_filters(lines, None) is lines
    assert len(apply_filters(lines, Filters())) == 2


def test_what_was_not_measured_does_not_pass():
    lines = index({}, {"face_px": np.nan}, {"sync_method": "none", "sync_confidence": np.nan, "sync_offset": np.nan})
    assert apply_filters(lines, Filters(min_face_px=1))["clip"].tolist() == ["a/0", "a/2"]
    assert apply_filters(lines, Filters(min_confidence=1))["clip"].tolist() == ["a/0", "a/1"]
    assert apply_filters(lines, Filters(max_offset=1))["clip"].tolist() == ["a/0", "a/1"]


def test_offset_is_what_remains_after_the_correction():
    lines = index({"sync_offset": -5.0, "sync_shift": -5}, {"sync_offset": -5.0})
    assert filtered_values(lines, "max_offset").tolist() == [0, 5]
    assert apply_filters(lines, Filters(max_offset=2))["clip"].tolist() == ["a/0"]


def test_the_two_confidences_are_not_mixed():
    lip_aperture = {"sync_method": "lip_aperture", "sync_confidence": 0.6}
    lines = index({}, {"sync_confidence": 2.0}, lip_aperture, {**lip_aperture, "sync_confidence": 0.2})
    assert apply_filters(lines, Filters(min_confidence=3))["clip"].tolist() == ["a/0", "a/2", "a/3"]
    assert apply_filters(lines, Filters(min_aperture_confidence=0.5))["clip"].tolist() == ["a/0", "a/1", "a/2"]


def test_an_unclear_offset_of_the_opening_is_chance():
    lip_aperture = {"sync_method": "lip_aperture", "sync_offset": 9.0}
    lines = index({**lip_aperture, "sync_clear": False}, {**lip_aperture, "sync_clear": True})
    assert apply_filters(lines, Filters(max_offset=2))["clip"].tolist() == ["a/0"]


def test_a_limit_for_the_other_measure_of_sync_is_an_error():
    lines = index({"sync_method": "lip_aperture"})
    with pytest.raises(
        UserError, match=r"min_confidence: expected .*'syncnet'.*found .*lip_aperture.*min_aperture_conf"
    ):
        apply_filters(lines, Filters(min_confidence=3))
    with pytest.raises(UserError, match="min_aperture_confidence"):
        apply_filters(index({}), Filters(min_aperture_confidence=0.5))


def test_nothing_left_says_what_removed_how_many():
    lines = index({"face_px": 50.0}, {"face_px": 50.0, "yaw_deg": 80.0}, {"yaw_deg": 80.0})
    with pytest.raises(UserError, match="no clip is left of 3; removed by min_face_px 2, max_yaw 2"):
        apply_filters(lines, Filters(min_face_px=100, max_yaw=30, min_seconds=1))


def test_an_index_without_the_measures_is_an_error():
    with pytest.raises(UserError, match=r"'face_px'.*prepare the corpus again"):
        apply_filters(index({}).drop(columns="face_px"), Filters(min_face_px=1))


@pytest.mark.parametrize(
    "wrong",
    [{"min_face_px": -1}, {"min_valid": 1.1}, {"min_speech": -0.1}, {"languages": []}, {"max_yaw": float("nan")}],
)
def test_limits_out_of_range_are_errors(wrong):
    with pytest.raises(UserError, match=next(iter(wrong))):
        Filters(**wrong)


def test_suggestions_fit_the_index():
    assert suggested_filters(index({})).min_confidence == 3
    lip_aperture = index(
        {"sync_method": "lip_aperture", "sync_clear": True}, {"face_px": 20.0, "sync_method": "lip_aperture"}
    )
    suggested = suggested_filters(lip_aperture)
    assert suggested.min_confidence is None
    assert failures(lip_aperture, suggested).any(axis=1).tolist() == [False, True]


def test_works_on_the_command_line(tmp_path):
    jsonargparse = pytest.importorskip("jsonargparse")

    class Data:
        def __init__(self, filters: Filters | None = None) -> None:
            self.filters = filters

    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--filters", type=Filters | None)
    arguments = ["--filters.min_face_px=80", "--filters.languages=[en, zh]"]
    parsed = parser.parse_args(arguments)
    assert Filters(**parsed.filters.as_dict()) == Filters(min_face_px=80, languages=["en", "zh"])


def test_needs_nothing_heavy():
    code = "import sys, stsa_lightning.data.filters; print({'torch', 'cv2', 'lightning'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "set()"
