from __future__ import annotations

import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

from stsa_lightning.data.filters import Filters, suggested_filters
from stsa_lightning.data.index import COLUMNS, INDEX_FILE
from stsa_lightning.data.measures import MEASURES
from stsa_lightning.data.report import corpus_report
from stsa_lightning.data.report.histograms import histograms
from stsa_lightning.data.report.tables import duration, groups, rejections, removals, speakers
from stsa_lightning.data.report.worst import badness, worst_clips
from stsa_lightning.utils.errors import UserError

_VOID = {"meta", "img", "rect", "line", "br", "link", "input"}
_GOOD = {
    "status": "ok",
    "reason": "",
    "frames": 100,
    "valid_frames": 100,
    "longest_run": 100,
    "duration_s": 4.0,
    "features": "logmel",
    "split": "",
    "language": "en",
    "sync_offset": 0.0,
    "sync_confidence": 0.6,
    "sync_method": "lip_aperture",
    "sync_clear": True,
    "sync_shift": 0,
    "face_px": 200.0,
    "yaw_deg": 5.0,
    "yaw_max_deg": 9.0,
    "sharpness": 300.0,
    "brightness": 0.5,
    "jump": 0.02,
    "speech_ratio": 0.9,
    "loudness_db": -20.0,
    "faces": 1,
    "cuts": 0,
}
_DTYPES = {**COLUMNS, "split": "object", "language": "object", **MEASURES}
_EMPTY = {"object": "", "int64": 0, "float64": 0.0, "bool": False}


def index(*changes: dict[str, object]) -> pd.DataFrame:
    blank = {name: _EMPTY[dtype] for name, dtype in _DTYPES.items()}
    rows = [
        {**blank, "clip": f"s{i}/c", "speaker": f"s{i}", "source": f"s{i}/c.mp4", **_GOOD, **change}
        for i, change in enumerate(changes)
    ]
    return pd.DataFrame(rows, columns=list(_DTYPES)).astype(_DTYPES)


def rejected(reason: str, **changes: object) -> dict[str, object]:
    return {"status": "rejected", "reason": reason, "duration_s": 0.0, "frames": 0, "valid_frames": 0, **changes}


class Page(HTMLParser):
    """Checks that every element is closed; keeps text, tags and addresses."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def write(root, lines: pd.DataFrame) -> None:
    lines.to_parquet(root / INDEX_FILE, index=False)


def test_page_is_one_well_formed_self_contained_file(synthetic, tmp_path):
    synthetic.write_synthetic_clip(tmp_path, "s0/c", np.ones(30, bool))
    write(tmp_path, index({"face_px": 40.0}, {"language": "zh"}, rejected("has no sound")))
    summary = corpus_report(tmp_path, tmp_path / "pages" / "report.html")
    text = (tmp_path / "pages" / "report.html").read_text()
    page = Page(text)
    assert f"Corpus {tmp_path.name}" in page.text
    assert not re.search(r"https?://|//[a-z]+\.|@import|url\(", text)
    assert not page.all("script")
    assert not page.all("link")
    pictures = page.all("img")
    assert len(pictures) == 3  # of the one clip that has a file
    assert all(picture["src"].startswith("data:image/jpeg;base64,") and picture["alt"] for picture in pictures)
    assert all(figure["role"] == "img" and figure["aria-label"] for figure in page.all("svg"))
    assert "the clip file is missing" in page.text
    assert str(summary).splitlines()[0] == "2 clips, 8 s of video, 2 speakers, 1 video rejected"
    assert "rejected 1: has no sound" in str(summary)
    assert "1 of 2 clips (50%), 4 s of 8 s" in str(summary)
    assert not list(tmp_path.rglob("*.part-*"))


def test_names_are_escaped(tmp_path):
    evil = "<script>alert(1)</script>"
    name = {"clip": f"{evil}/'\"&", "speaker": evil, "source": f"{evil}.mp4", "language": evil, "split": evil}
    write(tmp_path, index(name, rejected(f"bad {evil}", **name)))
    corpus_report(tmp_path, tmp_path / "r.html", Filters(languages=[evil]))
    text = (tmp_path / "r.html").read_text()
    assert "<script" not in text
    assert evil in Page(text).text


@pytest.mark.parametrize("lines", [index(), index(rejected("has no sound"))])
def test_a_corpus_without_clips_has_a_page(tmp_path, lines):
    write(tmp_path, lines)
    summary = corpus_report(tmp_path, tmp_path / "r.html")
    assert "0 clips" in str(summary)
    assert "No clip was prepared." in Page((tmp_path / "r.html").read_text()).text


def test_clips_whose_measures_are_missing_have_a_page(tmp_path):
    unmeasured = {name: np.nan for name, dtype in MEASURES.items() if dtype == "float64"}
    write(tmp_path, index({**unmeasured, "sync_method": "none", "sync_clear": False}))
    assert "sync of 1 clip could not be measured" in str(corpus_report(tmp_path, tmp_path / "r.html"))


def test_filters_that_do_not_fit_are_an_error_and_leave_the_old_page(tmp_path):
    write(tmp_path, index({}))
    (tmp_path / "r.html").write_text("old")
    with pytest.raises(UserError, match="min_confidence"):
        corpus_report(tmp_path, tmp_path / "r.html", Filters(min_confidence=3))
    assert (tmp_path / "r.html").read_text() == "old"


def test_sync_is_told_by_method(tmp_path):
    moved = {"sync_offset": -5.0, "sync_shift": -5}
    unclear = {"sync_method": "syncnet", "sync_clear": False}
    write(tmp_path, index({}, moved, {"sync_offset": 4.0, "sync_shift": 4}, unclear))
    said = str(corpus_report(tmp_path, tmp_path / "r.html"))
    assert "3 clips measured by the lip aperture, clear for 3." in said
    assert "1 clip measured by SyncNet, clear for 0." in said
    assert "The sound of 2 was corrected, by -5 to +4 frames." in said


def test_groups_are_shares_of_the_time():
    lines = index({"split": "train", "duration_s": 6.0}, {"split": "train", "duration_s": 3.0}, {"duration_s": 1.0})
    found = [(row.name, row.clips, row.speakers, row.time, row.share) for row in groups(lines, "split")]
    assert found == [("train", 2, 2, "9 s", 0.9), ("not said", 1, 1, "1 s", 0.1)]
    assert groups(index({}), "split") == []


def test_reasons_are_grouped_without_their_numbers():
    lines = index(*(rejected(f"too few faces: {n} of 75 frames") for n in range(5)), rejected("has no sound"))
    first, second = rejections(lines)
    assert (first.reason, first.count, len(first.examples)) == ("too few faces: … of … frames", 5, 3)
    assert first.examples[1] == ("s1/c.mp4", "too few faces: 1 of 75 frames")
    assert (second.reason, second.count) == ("has no sound", 1)


def test_removals_count_each_limit_in_all_and_alone():
    lines = index({}, {"face_px": 50.0}, {"face_px": 50.0, "yaw_deg": 80.0}, {"yaw_deg": 90.0, "language": "ja"})
    found = removals(lines, Filters(min_face_px=100, max_yaw=35, languages=["en"]))
    assert [(row.name, row.limit, row.clips, row.alone) for row in found] == [
        ("min_face_px", "100 px", 2, 1),
        ("max_yaw", "35°", 2, 0),
        ("languages", "en", 1, 0),
    ]


def test_speakers_are_cut_to_those_with_most_and_counted():
    lines = index(*({"duration_s": float(i)} for i in range(1, 8)), rejected("x", speaker="s6"), rejected("x"))
    shown, total = speakers(lines, lines[lines["status"] == "ok"], most=3)
    assert [(row.name, row.time, row.rejected) for row in shown] == [
        ("s6", "7 s", 1),
        ("s5", "6 s", 0),
        ("s4", "5 s", 0),
    ]
    assert total == 8


def test_badness_by_hand():
    lines = index({"face_px": 50.0}, {"face_px": 200.0, "yaw_deg": 70.0}, {"yaw_deg": np.nan})
    missed = badness(lines, Filters(min_face_px=100, max_yaw=35, languages=["en"]))
    assert missed["min_face_px"].tolist() == [0.5, -1, -1]
    assert missed["max_yaw"].iloc[:2].tolist() == [-1, 0.5]  # 1 - 35 / 5 is less than the least that is told
    assert np.isnan(missed["max_yaw"].iloc[2])
    lines = index({"valid_frames": 60}, {"valid_frames": 80}, {})
    assert badness(lines, Filters(min_valid=0.8)).iloc[:, 0].tolist() == pytest.approx([0.5, 0, -1])
    lines = index({"sync_offset": 0.0}, {"sync_offset": 3.0})
    assert badness(lines, Filters(max_offset=0)).iloc[:, 0].tolist() == [0, 1]


def test_worst_clips_come_first_with_what_is_wrong(tmp_path):
    lines = index({}, {"face_px": 30.0, "yaw_deg": 50.0}, {"yaw_deg": 140.0})
    worst = worst_clips(tmp_path, lines, Filters(min_face_px=100, max_yaw=35), count=2)
    assert [(clip.clip, clip.badness) for clip in worst] == [("s2/c", 0.75), ("s1/c", 0.7)]
    assert worst[0].worst == "turn of the head 140° (at most 35°)"
    assert worst[1].others == ["turn of the head 50° (at most 35°)"]


def test_histogram_holds_every_clip_and_its_limit():
    rng = np.random.default_rng(0)
    values = [*rng.normal(200, 30, 500), 5000.0]
    lines = index(*({"face_px": float(value)} for value in values))
    figure = next(
        figure for figure in histograms(lines, Filters(min_face_px=80)) if figure.title == "Height of the face"
    )
    counts = [int(re.search(r": (\d+) clip", bar.label).group(1)) for bar in figure.bars]
    assert sum(counts) == figure.count == 501
    assert figure.most == max(counts)
    assert figure.limit is not None
    assert figure.limit[1] == "80 px"
    assert 0 <= figure.limit[0] <= 300
    assert all(0 <= bar.x <= 300 and 0 <= bar.height <= 110 for bar in figure.bars)
    assert all(0 <= x <= 300 for x, _ in figure.ticks)


def test_histogram_of_offsets_has_a_bin_for_each_frame_and_tells_the_unclear():
    lines = index({"sync_offset": -5.0}, {"sync_offset": -5.0, "sync_clear": False}, {"sync_offset": 0.0})
    figure = next(figure for figure in histograms(lines, suggested_filters(lines)) if figure.title.startswith("Offset"))
    assert [(bar.label, bar.height, bar.pale) for bar in figure.bars] == [
        ("-5 frames: 2 clips", 110, 55),
        ("0 frames: 1 clip", 55, 0),
    ]


def test_a_large_corpus_gives_a_small_page(tmp_path):
    count = 144_000
    rng = np.random.default_rng(0)
    lines = pd.DataFrame(np.repeat(index({}).to_numpy(), count, axis=0), columns=list(_DTYPES)).astype(_DTYPES)
    lines["clip"] = [f"s{i % 5000}/{i}" for i in range(count)]
    lines["speaker"] = [f"s{i % 5000}" for i in range(count)]
    lines["face_px"] = rng.normal(150, 40, count)
    lines.loc[rng.random(count) < 0.05, ["status", "reason"]] = ["rejected", "too few faces: 3 of 75"]
    write(tmp_path, lines)
    corpus_report(tmp_path, tmp_path / "r.html")
    assert (tmp_path / "r.html").stat().st_size < 300_000
    assert "of 5,000" in Page((tmp_path / "r.html").read_text()).text


@pytest.mark.parametrize(
    ("seconds", "text"), [(45, "45 s"), (720, "12 min"), (12_240, "3.4 h"), (4_320_000, "1,200 h")]
)
def test_durations_are_read_at_a_glance(seconds, text):
    assert duration(seconds) == text
