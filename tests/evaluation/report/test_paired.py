"""Paired differences against plain loops: the interval, the test, weights, speakers, seeds, what is said of them."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import norm

from stsa_lightning.ablation.tables import paired_differences
from stsa_lightning.cli import main
from stsa_lightning.evaluation.report.paired import Comparison, compare, comparison_sheet, interval, sign_test
from tests.evaluation import reports as made


def one(named: list) -> Comparison:
    (comparison,) = compare(named)
    return comparison


def test_interval_of_independent_clips_is_the_bca_interval_of_a_plain_loop():
    rng = np.random.default_rng(3)
    sums, weights = rng.gamma(1.0, 2.0, 15), rng.integers(1, 9, 15).astype(float)
    sums *= weights
    mean = sums.sum() / weights.sum()
    draws = rng.integers(15, size=(40_000, 15))
    means = np.array([sums[draw].sum() / weights[draw].sum() for draw in draws])
    z0 = norm.ppf((means < mean).mean())
    left = np.array([np.delete(sums, i).sum() / np.delete(weights, i).sum() for i in range(15)])
    pull = left.mean() - left
    a = (pull**3).sum() / (6 * (pull**2).sum() ** 1.5)
    bounds = [np.quantile(means, norm.cdf(z0 + (z0 + z) / (1 - a * (z0 + z)))) for z in norm.ppf([0.025, 0.975])]
    assert interval(sums, weights) == pytest.approx(tuple(bounds), rel=0.04)
    assert interval(sums, weights) == interval(sums, weights)


def test_interval_of_one_or_of_equal_differences_needs_no_draws():
    assert all(map(math.isnan, interval(np.ones(1), np.ones(1))))
    assert interval(np.array([2.0, 4.0]), np.array([1.0, 2.0])) == (2.0, 2.0)
    assert np.isfinite(interval(np.array([0.0, 0.0, 0.0, 5.0]), np.ones(4))).all()


def test_sign_test_counts_every_way_to_flip_signs():
    sums = np.array([0.4, 1.0, -0.3, 2.0, 0.7, 0.9])
    flipped = [abs(np.dot(signs, sums)) for signs in itertools.product((-1, 1), repeat=6)]
    assert sign_test(sums) == pytest.approx(np.mean(np.array(flipped) >= abs(sums.sum()) - 1e-9))
    assert math.isnan(sign_test(np.ones(1)))


def test_compare_takes_the_common_clips_and_says_which():
    a = made.report(made.flat({"1": 20.0, "2": 22.0, "3": 30.0}))
    b = made.report(made.flat({"2": 23.0, "3": 30.5, "4": 1.0}))
    comparison = one([("A", a), ("B", b)])
    (line,) = comparison.differences
    assert (line.base, line.other, line.mean, line.clips) == (26.0, 26.75, 0.75, 2)
    assert "the 2 clips in common, of up to 3 (only A: 1; only B: 4)" in comparison.notes[0]
    assert any("too few for a test" in note for note in comparison.notes)
    none = one([("A", a), ("B", made.report(made.flat({"9": 1.0})))])
    assert not none.differences
    assert "no clip in common" in none.notes[0]


def test_compare_weights_clips_as_the_reports_do():
    weights = {"1": 30, "2": 10}
    a = made.report(made.flat({"1": 20.0, "2": 22.0}), weights=weights)
    b = made.report(made.flat({"1": 21.0, "2": 26.0}), weights=weights)
    (line,) = one([("A", a), ("B", b)]).differences
    assert line.mean == pytest.approx((30 * 1 + 10 * 4) / 40)
    assert line.mean == pytest.approx(
        b.row("paired", "STSA").value("psnr_mouth") - a.row("paired", "STSA").value("psnr_mouth")
    )


def test_compare_draws_clips_of_one_speaker_together():
    rng = np.random.default_rng(0)
    offsets = rng.normal(0.3, 1, 8)  # by speaker: clips of one differ alike
    clips = {f"s{s}/{c}": 20.0 for s in range(8) for c in range(10)}
    better = {name: 20 + offsets[int(name[1])] + rng.normal(0, 0.01) for name in clips}
    (line,) = one([("A", made.report(made.flat(clips))), ("B", made.report(made.flat(better)))]).differences
    assert (line.clips, line.units, line.unit) == (80, 8, "speaker")
    apart = {name.replace("/", "_"): value for name, value in better.items()}
    same = {name.replace("/", "_"): value for name, value in clips.items()}
    (alone,) = one([("A", made.report(made.flat(same))), ("B", made.report(made.flat(apart)))]).differences
    assert (alone.units, alone.unit) == (80, "clip")
    assert line.high - line.low > 2 * (alone.high - alone.low)
    assert line.p > alone.p


def test_compare_does_not_pair_a_name_with_another_speaker_s():
    a = made.report(made.flat({"ann/1": 20.0, "ann/2": 20.0}))
    b = made.report(made.flat({"ann/1": 21.0, "ann/2": 25.0}))
    b.clips[3]["speaker"] = b.clips[4]["speaker"] = b.clips[5]["speaker"] = "bob"
    (line,) = one([("A", a), ("B", b)]).differences
    assert (line.mean, line.clips) == (1.0, 1)


def test_compare_leaves_out_what_is_not_finite_and_what_has_another_variant():
    columns = (made.PSNR, made.LSE_D)
    a = made.report({"1": {"psnr_mouth": math.inf, "lse_d": 7.0}, "2": {"psnr_mouth": 3.0, "lse_d": 7.0}}, columns)
    other = (made.PSNR, replace(made.LSE_D, variant="variant lrs"))
    b = made.report({"1": {"psnr_mouth": 4.0, "lse_d": 7.0}, "2": {"psnr_mouth": 4.0, "lse_d": 6.0}}, other)
    comparison = one([("A", a), ("B", b)])
    assert [(line.column.name, line.mean, line.clips) for line in comparison.differences] == [("psnr_mouth", 1.0, 1)]
    assert any("LSE-D: its variants differ" in note for note in comparison.notes)


def test_columns_with_an_ideal_compare_the_distance_from_it():
    columns = (made.JITTER, made.FLOW)
    a = made.report({"1": {"jitter": 0.5, "flow_warped": -2.0}, "2": {"jitter": 1.5, "flow_warped": 2.0}}, columns)
    b = made.report({"1": {"jitter": 1.0, "flow_warped": 1.0}, "2": {"jitter": 0.9, "flow_warped": 1.0}}, columns)
    jitter, flow = one([("A", a), ("B", b)]).differences
    assert (jitter.base, jitter.mean) == (0.5, pytest.approx(-0.45))
    assert (flow.base, flow.mean) == (2.0, -1.0)


def test_seeds_are_paired_and_one_seed_is_flagged():
    def seeds(name: str, *values: tuple[float, float]) -> list:
        return [
            (name, made.report(made.flat({"1": x, "2": y}), identity=f"{name}{i}")) for i, (x, y) in enumerate(values)
        ]

    named = [*seeds("base", (20, 22), (21, 23)), *seeds("more", (21, 23), (24, 26))]
    comparison = one(named)
    (line,) = comparison.differences
    assert (line.mean, line.seeds) == (2.0, (1.0, 3.0))
    assert not any("one seed says nothing" in note for note in comparison.notes)
    lone = one([named[0], named[2]])
    assert "one seed of base, more: one seed says nothing" in lone.notes[-1]
    text = comparison_sheet([comparison]).text("markdown")
    assert "+2.000 ± 1.414 (2)" in text
    # As ablations do it: over the seeds that both have, and a base that failed compares to nothing.
    reports = {("base", 0): named[0][1], ("base", 1): named[1][1], ("more", 1): named[3][1]}
    (found,) = paired_differences(reports, "base")
    assert found.differences[0].mean == 3.0
    assert not paired_differences({("more", 0): named[2][1]}, "base")


def test_compare_command_prints_and_refuses(tmp_path, capsys: pytest.CaptureFixture[str]):
    for name, by in (("a", 0.0), ("b", 1.0)):
        made.report(made.flat({str(i): 20.0 + by * i for i in range(7)})).save(tmp_path / f"{name}.json")
    a, b = (f"{name.upper()}={tmp_path / name}.json" for name in "ab")
    main(["evaluate", "compare", a, b])
    said = capsys.readouterr().out
    assert "B − A" in said
    assert "+3.000" in said
    assert "paired permutation test" in said
    main(["evaluate", "compare", a, b, "--format", "csv", "--out", str(tmp_path / "out/d.csv")])
    assert (tmp_path / "out/d.csv").read_text().startswith("group,base_system,other_system,column")
    with pytest.raises(SystemExit):
        main(["evaluate", "compare", a])
    assert "two systems" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["evaluate", "compare", a.split("=")[1], b.split("=")[1]])
    assert "NAME=" in capsys.readouterr().err
