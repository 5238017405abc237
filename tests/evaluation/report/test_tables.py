"""Tables from hand-made scores, intervals against NumPy, and signs that LaTeX, Markdown and HTML would misread."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from stsa_lightning.evaluation.metrics.columns import Column, MetricValue
from stsa_lightning.evaluation.report.intervals import interval, weighted_mean
from stsa_lightning.evaluation.report.page import ranked, write_page
from stsa_lightning.evaluation.report.report import Report, clip_records, load_report, reasons_of_absence, table_rows
from stsa_lightning.evaluation.report.tables import latex, markdown, number, print_report, tex, write_tables
from stsa_lightning.evaluation.scoring import ClipScores
from stsa_lightning.utils.errors import UserError

COLUMNS = [
    Column("psnr_mouth", "PSNR mouth", "dB", "higher", "RGB <b>", 2),
    Column("offset", "offset", "frames", "zero", "SyncNet", 1, "mean_abs"),
    Column("lse_d", "LSE-D", "", "lower", "SyncNet", 2),
]
EVIL = "A_1 & <script>alert('x')</script> 50% |"


def scores() -> list[ClipScores]:
    values = {"one": (30.0, 10, -2.0), "two": (20.0, 30, 1.0), "three": (10.0, 10, 0.0)}
    return [
        ClipScores(
            name,
            "s",
            {"paired": weight},
            values={
                "paired": {
                    EVIL: {"psnr_mouth": MetricValue(psnr, weight, 1), "offset": MetricValue(offset, 1)},
                    "ground truth": {"psnr_mouth": MetricValue(math.inf, weight)},
                }
            },
            reasons={"paired": {EVIL: {"lse_d": "no weights"}, "ground truth": {}}},
            pictures={"paired": b"jpeg"},
        )
        for name, (psnr, weight, offset) in values.items()
    ]


def report() -> Report:
    rows = table_rows(scores(), COLUMNS)
    absent = reasons_of_absence(scores(), COLUMNS, rows, EVIL)
    return Report("Trial & error", EVIL, {"crop": "64 px"}, COLUMNS, rows, absent, ["a <note>"], clip_records(scores()))


def test_means_are_weighted_by_frames_and_offsets_by_magnitude():
    row = report().row("paired", EVIL)
    assert row.value("psnr_mouth") == pytest.approx((30 * 10 + 20 * 30 + 10 * 10) / 50)
    assert row.value("offset") == pytest.approx(1.0)
    assert (row.videos, row.frames, row.unmeasured) == (3, 50, 3)
    assert math.isnan(row.value("lse_d"))
    assert report().absent == {"lse_d": "no weights"}
    ground_truth = report().row("paired", "ground truth").cells["psnr_mouth"]
    assert ground_truth.value == math.inf
    assert math.isnan(ground_truth.low)


def test_interval_is_that_of_a_plain_loop():
    rng = np.random.default_rng(3)
    values, weights = rng.normal(size=12), rng.integers(1, 50, 12).astype(float)
    draws = np.random.default_rng(7)
    means = []
    for _ in range(500):
        chosen = draws.integers(12, size=12)
        means.append(np.average(values[chosen], weights=weights[chosen]))
    expected = np.percentile(means, [2.5, 97.5])
    assert interval(values, weights, resamples=500, seed=7) == pytest.approx(tuple(expected))
    low, high = interval(values, weights)
    assert low < weighted_mean(values, weights) < high
    assert interval(values, weights) == interval(values, weights)


def test_what_was_not_measured_stays_out_of_means_and_intervals():
    values, weights = np.array([1.0, np.nan, 3.0, 9.0]), np.array([1.0, 1.0, 1.0, 0.0])
    assert weighted_mean(values, weights) == 2
    assert interval(values, weights) == interval(values[[0, 2]], weights[[0, 2]])
    for lonely in (values[:2], np.array([1.0, math.inf])):
        assert all(map(math.isnan, interval(lonely, np.ones(2))))
    assert math.isnan(weighted_mean(values[1:2], weights[1:2]))


def test_latex_escapes():
    assert tex("50% of A_b & {x} ↑") == r"50\% of A\_b \& \{x\} $\uparrow$"
    assert tex("\\") == r"\textbackslash{}"
    table = latex(report())
    body = [line for line in table.splitlines() if not line.startswith("%")]
    assert r"Trial \& error" in table
    assert r"A\_1 \&" in table
    assert "<" not in "".join(body)
    rows = [line for line in body if line.endswith(r"\\")]
    assert len({line.replace(r"\&", "").count("&") for line in rows}) == 1


def test_markdown_tables_have_one_width():
    rows = [line for line in markdown(report()).splitlines() if line.startswith("|")]
    assert len(rows) == 4
    assert len({line.replace("\\|", "").count("|") for line in rows}) == 1
    assert "| ∞ |" in rows[-1]


def test_the_page_escapes_and_ranks(tmp_path):
    write_page(report(), scores(), tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "a &lt;note&gt;" in page
    assert "http" not in page  # self-contained
    column, order = ranked(report(), "paired")
    assert column is COLUMNS[0]
    assert order == ["one", "two", "three"]
    assert page.index("best: one") < page.index("worst: three")


def test_files_read_back(tmp_path):
    write_tables(report(), tmp_path)
    clips = pd.read_csv(tmp_path / "clips.csv")
    assert len(clips) == 6
    assert clips[clips["method"] == EVIL]["psnr_mouth"].tolist() == [30, 20, 10]
    report().save(tmp_path / "report.json")
    assert "NaN" not in (tmp_path / "report.json").read_text()
    again = load_report(tmp_path)
    assert again.row("paired", EVIL) == report().row("paired", EVIL)
    assert again.columns == COLUMNS
    (tmp_path / "report.json").write_text("{}")
    with pytest.raises(UserError, match=r"report\.json"):
        load_report(tmp_path)


def printed(methods: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Lines of an unpaired table of one metric on a terminal of 80 columns."""
    column = Column("mouth_sound", "mouth-sound", "z", "higher", "no network", 1)
    values = {"unpaired": {method: {"mouth_sound": MetricValue(-2.5, 1)} for method in methods}}
    clip = ClipScores("one", "s", {"unpaired": 400}, values=values, reasons={"unpaired": {m: {} for m in methods}})
    monkeypatch.setenv("COLUMNS", "80")
    print_report(Report("Sample", "STSA", {}, [column], table_rows([clip], [column]), {}, [], clip_records([clip])))
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    return lines


BASELINES = ["masked input", "random reference", "mean of references", "nearest in pose"]


def test_the_demo_s_widest_table_fits_80_columns(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    methods = [*BASELINES, "source frame", "STSA", "ground truth"]
    (line,) = (line for line in printed(methods, monkeypatch, capsys) if "mouth-sound" in line)
    assert line.split()[:3] == ["mouth-sound", "(z)", "↑"]  # its heading and all values stand on one line
    assert line.split()[3:] == ["-2.5"] * len(methods)


def test_more_methods_than_fit_80_columns_stand_in_a_second_table(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    ablated = ["no spatial path", "no temporal path", "warped references", "heatmap shuffled", "audio shuffled"]
    methods = [*BASELINES, *ablated, "STSA", "ground truth"]
    lines = printed(methods, monkeypatch, capsys)
    values = [line.split()[3:] for line in lines if "mouth-sound" in line]
    assert len(values) == 2
    assert [value for part in values for value in part] == ["-2.5"] * len(methods)  # none is cut
    words = "\n".join(lines).split()
    assert all(word in words for method in methods for word in method.split())


def test_numbers():
    assert [number(v, 2) for v in (1.234, math.inf, -math.inf, math.nan)] == ["1.23", "∞", "-∞", "–"]
