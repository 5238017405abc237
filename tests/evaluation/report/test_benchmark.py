"""Several reports as one table: the best, ties, seeds, variants, published rows, and the three formats."""

from __future__ import annotations

import io
import math
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from stsa_lightning.cli import main
from stsa_lightning.evaluation.report.benchmark import benchmark_sheet
from stsa_lightning.evaluation.report.published import load_published
from stsa_lightning.evaluation.report.sheet import Sheet
from stsa_lightning.utils.errors import UserError
from tests.evaluation import reports as made

PUBLISHED = Path(__file__).parents[3] / "experiments" / "published"


def best(sheet: Sheet, section: int = 0) -> dict[int, list[str]]:
    """Column -> names of the rows in bold."""
    rows = sheet.sections[section].rows
    return {i: [row[0].text for row in rows if row[i].best] for i in range(1, len(sheet.headings) - 1)}


def cell(sheet: Sheet, name: str, column: int, section: int = 0):
    return next(row[column] for row in sheet.sections[section].rows if row[0].text == name)


def test_best_follows_each_column_s_direction_and_ties_share_it():
    columns = (made.PSNR, made.LSE_D, made.JITTER, made.FLOW)

    def values(*numbers: float) -> dict[str, dict[str, float]]:
        names = [column.name for column in columns]
        return {"1": dict(zip(names, numbers, strict=True)), "2": dict(zip(names, numbers, strict=True))}

    named = [
        ("low", made.report(values(20.0, 6.0, 0.4, -3.0), columns)),
        ("high", made.report(values(25.001, 8.0, 1.1, 0.5), columns)),
        ("tie", made.report(values(25.004, 9.0, 0.9, -0.5), columns)),
    ]
    sheet = benchmark_sheet(named, [column.name for column in columns])
    assert best(sheet) == {1: ["high", "tie"], 2: ["low"], 3: ["high", "tie"], 4: ["high", "tie"]}
    assert [row[0].text for row in sheet.sections[0].rows][-1] == "ground truth"
    assert cell(sheet, "ground truth", 1).text == "∞"
    # Alone nobody is the best, and the ground truth never.
    assert best(benchmark_sheet(named[:1], ["lse_d"])) == {1: []}


def test_groups_are_corpora_and_tasks_and_baselines_are_shown_when_asked():
    named = [
        ("A", made.report(made.flat({"1": 20.0, "2": 22.0}))),
        ("A", made.report(made.flat({"1": 20.0}), dataset="LRS2")),
        ("A", made.report(made.flat({"1": 20.0}), task="unpaired")),
    ]
    sheet = benchmark_sheet(named, baselines=True)
    assert [section.title for section in sheet.sections] == ["HDTF, paired", "HDTF, unpaired", "LRS2, paired"]
    assert [row[0].text for row in sheet.sections[0].rows] == ["mean of references", "A", "ground truth"]
    assert cell(sheet, "A", 1).small == "[20.00, 22.00]"
    assert all(len(row) == len(sheet.headings) for section in sheet.sections for row in section.rows)


def test_seeds_are_mean_and_spread_and_one_checkpoint_is_not_two():
    one, two = (made.report(made.flat({"1": value}), identity=str(value)) for value in (20.0, 22.0))
    sheet = benchmark_sheet([("A", one), ("A", two)])
    assert (cell(sheet, "A", 1).text, cell(sheet, "A", 1).small) == ("21.00", "± 1.41")
    assert not any("one seed says nothing" in note for note in sheet.notes)
    assert any("one seed says nothing" in note for note in benchmark_sheet([("A", one)]).notes)
    with pytest.raises(UserError, match="same checkpoint"):
        benchmark_sheet([("A", one), ("A", one)])


def test_variants_of_a_metric_do_not_share_a_column_unsaid():
    lrs = replace(made.LSE_D, variant="variant lrs")
    a = made.report(made.flat({"1": 7.0}, "lse_d"), (made.LSE_D,))
    b = made.report(made.flat({"1": 6.0}, "lse_d"), (lrs,))
    with pytest.raises(
        UserError, match=r"LSE-D was measured in different variants.*A: variant tracked; B: variant lrs"
    ):
        benchmark_sheet([("A", a), ("B", b)])
    sheet = benchmark_sheet([("A", a), ("B", b)], mix_variants=True)
    assert cell(sheet, "B", 1).marks == "‡"
    assert "‡" in sheet.marks
    assert best(sheet) == {1: []}
    assert any("in different variants" in note for note in sheet.notes)
    # Another corpus may have another variant: the caption says so.
    c = made.report(made.flat({"1": 6.0}, "lse_d"), (lrs,), dataset="LRS2")
    message = " ".join(benchmark_sheet([("A", a), ("A", c)]).notes)
    assert "LSE-D differs between groups (HDTF, paired: variant tracked; LRS2, paired: variant lrs)" in message


def test_conditions_and_clips_that_differ_between_rows_are_said():
    a = made.report(made.flat({"1": 20.0, "2": 20.0}), references="other clip")
    b = made.report(made.flat({"2": 21.0}), references="same clip")
    message = " ".join(benchmark_sheet([("A", a), ("B", b)]).notes)
    assert "references differ between rows (A: other clip; B: same clip)" in message
    assert "clips differ between rows (A 2, B 1; 1 in all of them)" in message


def test_published_rows_are_marked_cited_and_compared_only_when_asked():
    columns = (made.PSNR, replace(made.LSE_D, name="lmd", title="LMD", unit="px"))
    named = [(name, made.report({"1": {"psnr_mouth": value, "lmd": value}}, columns)) for name, value in
             (("A", 20.0), ("B", 30.0))]  # fmt: skip
    published = load_published([PUBLISHED])
    sheet = benchmark_sheet(named, ["psnr_mouth", "lmd", "fid"], published)
    names = [row[0].text for row in sheet.sections[0].rows]
    assert names == ["A", "B", "ground truth", "IP_LAP", "LatentSync", "MuseTalk"]
    assert [cell(sheet, "IP_LAP", i).text for i in range(4)] == ["IP_LAP", "", "7.70", "9.51"]
    assert cell(sheet, "IP_LAP", 0).marks == "†"
    assert best(sheet) == {1: ["B"], 2: ["A"], 3: []}
    message = " ".join(sheet.notes)
    assert "IP_LAP (HDTF): reported by others: OmniSync, table 1; second-hand" in message
    assert "not in these columns: FVD (I3D) 325.7, LSE-C 7.26" in message
    assert "TalkLip" not in message
    asked = benchmark_sheet(named, ["psnr_mouth", "lmd", "fid"], published, compare_published=True)
    assert best(asked) == {1: ["B"], 2: ["IP_LAP"], 3: ["LatentSync"]}


def test_published_files_say_where_each_value_comes_from(tmp_path: Path):
    rows = load_published([PUBLISHED])
    known = {(row.system, row.corpus): row.values for row in rows}
    assert known["IP_LAP", "LRS2"] == {"psnr_unstated": 29.67, "ssim_unstated": 0.87, "fid": 4.10, "lmd": 2.11}
    assert known["TalkLip", "LRS2"] == {"lse_c": 8.53, "lse_d": 6.08}
    assert known["MuseTalk", "HDTF"] == {"fid": 8.76, "fvd_i3d": 231.4, "lmd": 8.70, "lse_c": 6.89}
    assert all(row.source and row.second_hand for row in rows)
    whole = "{system: X, corpus: Y, protocol: p, values: {fid: 1}, source: s, second_hand: true"
    for text, said in {
        "a: 1": "a list of rows",
        "- 1": "row 1: expected keys",
        "- {system: X}": "missing",
        f"- {whole}, colour: red}}": "unknown keys",
        f"- {whole}, task: both}}": "task",
        f"- {whole.replace('fid: 1', 'fid: ~')}}}": "fid: expected a number",
        f"- {whole.replace('fid: 1', 'fdi: 1')}}}": "unknown column 'fdi'",
        f"- {whole.replace('true', 'maybe')}}}": "second_hand",
        "- [": "damaged",
    }.items():
        (tmp_path / "x.yaml").write_text(text)
        with pytest.raises(UserError, match=r"x\.yaml") as error:
            load_published([tmp_path / "x.yaml"])
        assert said in str(error.value), text
    with pytest.raises(FileNotFoundError, match="experiments/published"):
        load_published([tmp_path / "none"])


def test_table_command_writes_markdown_latex_and_csv(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for name, value in (("a", 20.0), ("b", 30.0)):
        made.report(made.flat({"s/1": value, "s/2": value + 1})).save(tmp_path / f"{name}.json")
    words = ["evaluate", "table", f"Mine_1={tmp_path}/a.json", f"O|rs={tmp_path}/b.json", "--columns", "psnr,fid"]
    main([*words, "--published", str(PUBLISHED), "--paired"])
    said = capsys.readouterr().out
    assert "| O\\|rs | **30.50** [30.00, 31.00] |  | 2 |" in said
    assert "| IP\\_LAP† |  | 9.51 |  |" in said
    assert "O\\|rs − Mine\\_1" in said
    rows = [line for line in said.splitlines() if line.startswith("|")]
    assert {line.replace("\\|", "").count("|") for line in rows} == {5, 8}  # the table, and the differences
    main([*words, "--format", "latex"])
    text = capsys.readouterr().out
    body = [line for line in text.splitlines() if line.endswith(r"\\") and "multicolumn" not in line]
    assert {line.count("&") for line in body} == {3}
    assert r"O\textbar{}rs & \textbf{30.50} {\scriptsize [30.00, 31.00]} &  & 2 \\" in body
    assert text.count("{") == text.count("}")
    main([*words, "--format", "csv"])
    table = pd.read_csv(io.StringIO(capsys.readouterr().out)).set_index("system")
    assert table.loc["O|rs", "psnr_mouth"] == 30.5
    assert table.loc["O|rs", "psnr_mouth_best"]
    assert math.isnan(table.loc["Mine_1", "fid"])
    for wrong, expected in (
        (["--columns", "psmr"], "unknown column 'psmr'"),
        (["--format", "csv", "--paired"], "one table"),
    ):
        with pytest.raises(SystemExit):
            main([*words, *wrong])
        assert expected in capsys.readouterr().err
