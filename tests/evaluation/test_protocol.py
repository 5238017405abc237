"""Protocols: those that come along, what is refused, and names of metrics."""

from __future__ import annotations

from pathlib import Path

import pytest

from stsa_lightning.evaluation.metrics.registry import METRICS, Options, chosen_metrics
from stsa_lightning.evaluation.protocol import Protocol, load_protocol
from stsa_lightning.utils.errors import UserError

FOLDER = Path(__file__).parents[2] / "experiments" / "protocols"


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.stem)
def test_protocols_that_come_along(path: Path):
    protocol = load_protocol(path)
    assert protocol.name
    assert protocol.corpus
    assert chosen_metrics(protocol.metrics)


def test_all_of_them_are_there():
    assert {path.stem for path in FOLDER.glob("*.yaml")} == {"lrs2_paired", "lrs2_unpaired", "hdtf", "cmlr", "sample"}
    assert load_protocol(FOLDER / "lrs2_paired.yaml").tasks == ("paired",)
    assert load_protocol(FOLDER / "lrs2_unpaired.yaml").tasks == ("unpaired",)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("speed: 3", "unknown keys speed"),
        ("tasks: [both]", "tasks"),
        ("references: any", "other-clip, same-clip, first-frame"),
        ("clips: 0", "clips"),
        ("- 1", "keys and values"),
        ("a: [", "YAML"),
    ],
)
def test_what_is_refused_names_the_file(tmp_path: Path, text: str, said: str):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=r"mine\.yaml") as error:
        load_protocol(path)
    assert said in str(error.value)


def test_options_win_over_the_file():
    protocol = Protocol(clips=5, sync="lrs").changed(clips=2, sync=None)
    assert (protocol.clips, protocol.sync) == (2, "lrs")


def test_metric_names():
    assert chosen_metrics(["lip_aperture", "psnr"]) == ["psnr", "lip_aperture"]
    assert set(chosen_metrics(["fast", "fid"])) == {name for name, m in METRICS.items() if m.fast} | {"fid"}
    assert chosen_metrics(["all"]) == list(METRICS)
    with pytest.raises(UserError, match="psmr"):
        chosen_metrics(["psmr"])
    names = [column.name for metric in METRICS.values() for column in metric.columns(Options())]
    assert len(names) == len(set(names))
