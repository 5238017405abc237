"""stsa reproduce on miniatures in the corpora's true layouts: the plan, the whole way, going on, what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from stsa_lightning.cli import main
from stsa_lightning.data.index import load_index
from stsa_lightning.evaluation import reproduction
from stsa_lightning.evaluation.report.report import load_report
from stsa_lightning.evaluation.reproduction import Rates, Reproduction, make_plan, reproduce, seconds
from stsa_lightning.media.video import VideoReader, probe
from stsa_lightning.models.checkpoint import save_networks
from stsa_lightning.models.guidance import Guidance
from stsa_lightning.models.presets import GUIDANCE, SYNTHESIS
from stsa_lightning.models.syncnet import SyncNet
from stsa_lightning.models.synthesis import Synthesis
from stsa_lightning.utils.errors import UserError
from tests import miniatures

EXPERIMENTS = Path(__file__).parents[2] / "experiments"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    nets = Guidance(**{**GUIDANCE["tiny"], "face_size": 64}), Synthesis(**{**SYNTHESIS["tiny"], "face_size": 64})
    meta = {"features": "logmel", "num_frames": 5, "validation_speakers": ["Radio1", "KevinMcCarthy"]}
    return save_networks(tmp_path_factory.mktemp("networks") / "random.safetensors", *nets, meta)


@pytest.fixture
def no_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reproduction, "trial", lambda job, plan: Rates(90.0, dict.fromkeys(job.protocols(), 3600.0)))


@pytest.fixture
def no_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("STSA_WEIGHTS", "STSA_CACHE", "TORCH_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "nothing"))


@pytest.mark.usefixtures("no_trial", "no_weights")
@pytest.mark.parametrize(
    ("corpus", "clips", "video_s", "protocols"),
    [
        ("hdtf", ["KevinMcCarthy/KevinMcCarthy1_0", "Radio1/Radio1_0"], 3.2, ["hdtf"]),
        ("lrs2", ["5535415699068794046/00001", "6330311066473698535/00011"], 4.0, ["lrs2_paired", "lrs2_unpaired"]),
        ("cmlr", ["s1/20120904/section_4_003", "s11/20170121/section_2_005"], 4.0, ["cmlr"]),
    ],
)
def test_reproduce_dry_run_prints_the_plan_and_writes_nothing(
    sample_root: Path,
    checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    corpus: str,
    clips: list[str],
    video_s: float,
    protocols: list[str],
):
    (tmp_path / "root").mkdir()
    root = getattr(miniatures, corpus)(tmp_path / "root", sorted(sample_root.rglob("*.mp4")))
    out = tmp_path / "out"
    where = ["--root", str(root), "--checkpoint", str(checkpoint), "--out", str(out)]
    main(["reproduce", corpus, *where, "--experiments", str(EXPERIMENTS), "--dry-run"])
    said = capsys.readouterr().out
    assert not out.exists()
    assert "2 measured" in said
    assert "1. prepare: about 5 min" in said or "1. prepare: about 6 min" in said
    for name in protocols:
        assert f"generate and measure, {name}: about {video_s:.1f} h" in said
    assert "syncnet" in said
    assert "not in the hours" in said
    job = Reproduction(corpus, root, checkpoint, out, metrics=("fast",), experiments=EXPERIMENTS)
    plan = make_plan(job)
    assert sorted(plan.measured) == clips
    assert plan.measured_s == pytest.approx(video_s, abs=0.1)
    assert not plan.missing
    assert sum(plan.hours().values()) == pytest.approx(video_s * (90 / 3600 + len(protocols)), abs=0.2)


@pytest.mark.usefixtures("no_trial")
def test_reproduce_says_who_must_be_named(sample_root: Path, checkpoint: Path, tmp_path: Path):
    root = miniatures.hdtf(tmp_path, sorted(sample_root.rglob("*.mp4")))
    stranger = tmp_path / "stranger.safetensors"
    nets = Guidance(**{**GUIDANCE["tiny"], "face_size": 64}), Synthesis(**{**SYNTHESIS["tiny"], "face_size": 64})
    save_networks(stranger, *nets, {"features": "logmel", "num_frames": 5})
    job = Reproduction("hdtf", root, stranger, tmp_path / "out", experiments=EXPERIMENTS)
    with pytest.raises(UserError, match="--speakers A,B, or --speakers all"):
        make_plan(job)
    every = Reproduction("hdtf", root, stranger, tmp_path / "out", speakers=("all",), experiments=EXPERIMENTS)
    assert make_plan(every).speakers == ("KevinMcCarthy", "Radio1")
    with pytest.raises(UserError, match="has no Nobody"):
        make_plan(Reproduction("hdtf", root, checkpoint, tmp_path, speakers=("Nobody",), experiments=EXPERIMENTS))
    with pytest.raises(UserError, match="expected one of hdtf, lrs2, cmlr"):
        Reproduction("vox", root, checkpoint, tmp_path)
    with pytest.raises(FileNotFoundError, match="protocols"):
        make_plan(Reproduction("hdtf", root, checkpoint, tmp_path, experiments=tmp_path))


def test_a_lone_clip_of_a_speaker_brings_another_for_its_references():
    def source(name: str) -> reproduction.Source:
        return reproduction.Source(Path(name), name, name.split("/")[0], name, 0, 0)

    split = [source(name) for name in ("a/1", "a/2", "a/3", "b/1", "b/2", "c/1")]
    chosen = reproduction._with_partners([split[0], split[3], split[4], split[5]], split)
    assert [one.clip for one in chosen] == ["a/1", "a/2", "b/1", "b/2", "c/1"]


@pytest.mark.slow
def test_reproduce_hdtf_from_its_videos_to_the_table_and_goes_on(
    sample_root: Path,
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    (tmp_path / "root").mkdir()
    root, out = miniatures.hdtf(tmp_path / "root", sorted(sample_root.rglob("*.mp4"))), tmp_path / "out"
    torch.manual_seed(0)
    monkeypatch.setattr("stsa_lightning.evaluation.metrics.registry.load_syncnet", lambda folder: SyncNet().eval())
    where = [
        "--root",
        str(root),
        "--checkpoint",
        str(checkpoint),
        "--out",
        str(out),
        "--metrics",
        "psnr,lip_aperture,sync",
    ]
    words = ["reproduce", "hdtf", *where, "--experiments", str(EXPERIMENTS), "--weights-dir", str(tmp_path)]
    (tmp_path / "syncnet_v2.model").touch()
    main(words)
    said = capsys.readouterr().out
    assert "in all: about" in said
    index = load_index(out / "prepared").set_index("clip")
    assert set(index["sync_shift"]) == {0}
    report = load_report(out / "reports/hdtf")
    assert report.tasks == ["paired", "unpaired"]
    assert report.settings["whole frames"].startswith("pasted back")
    for task in report.tasks:  # whole frames: of every method and of the ground truth
        assert all({"lse_c", "lse_d"} <= row.cells.keys() for row in report.task_rows(task))
    assert sorted(path.relative_to(out / "videos").as_posix() for path in out.rglob("*.mp4")) == [
        f"{kind}/{clip}.mp4"
        for kind in ("paired", "true", "unpaired")
        for clip in ("KevinMcCarthy/KevinMcCarthy1_0", "Radio1/Radio1_0")
    ]
    for clip, size in (("KevinMcCarthy/KevinMcCarthy1_0", 256), ("Radio1/Radio1_0", 250)):
        generated, true = (out / "videos" / kind / f"{clip}.mp4" for kind in ("paired", "true"))
        assert (probe(generated).width, probe(generated).height, probe(generated).has_audio) == (size, size, True)
        with VideoReader(generated) as made, VideoReader(true) as real:
            assert len(made) == len(real) == 40
            apart = np.abs(made.get(range(40)).astype(int) - real.get(range(40))).max(axis=(0, 3))
        assert apart[: size // 8].max() < 24  # the frame around the face is the source's
        assert apart.max() > 60  # and the mouth is not
    table = (out / "table.md").read_text()
    assert "## HDTF, paired" in table
    assert "LatentSync†" in table
    assert "ground truth" in table
    csv = pd.read_csv(out / "table.csv")
    assert {"STSA", "ground truth", "MuseTalk", "nearest in pose"} <= set(csv["system"])
    assert csv[csv["system"] == "STSA"]["lse_d"].notna().all()

    # Again: everything is kept; a stop within the measuring goes on; another checkpoint has no place here.
    written = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.suffix in (".mp4", ".safetensors")}
    main(words)
    assert "done before, kept" in capsys.readouterr().out
    (out / "reports/hdtf/done.json").unlink()
    main(words)
    assert {path: path.stat().st_mtime_ns for path in written} == written
    assert json.loads((out / "reports/hdtf/done.json").read_text())
    torch.manual_seed(1)
    other = tmp_path / "other.safetensors"
    nets = Guidance(**{**GUIDANCE["tiny"], "face_size": 64}), Synthesis(**{**SYNTHESIS["tiny"], "face_size": 64})
    save_networks(
        other, *nets, {"features": "logmel", "num_frames": 5, "validation_speakers": ["Radio1", "KevinMcCarthy"]}
    )
    job = Reproduction("hdtf", root, other, out, metrics=("psnr",), experiments=EXPERIMENTS)
    with pytest.raises(UserError, match="other checkpoint"):
        reproduce(job)
    assert seconds(reproduction.find_sources("hdtf", root)[0]) == pytest.approx(1.6)


@pytest.mark.slow
@pytest.mark.usefixtures("no_trial", "no_weights")
@pytest.mark.parametrize(("corpus", "reports"), [("lrs2", ["lrs2_paired", "lrs2_unpaired"]), ("cmlr", ["cmlr"])])
def test_reproduce_others_from_their_videos_to_the_table(
    sample_root: Path, checkpoint: Path, tmp_path: Path, corpus: str, reports: list[str]
):
    (tmp_path / "root").mkdir()
    root, out = getattr(miniatures, corpus)(tmp_path / "root", sorted(sample_root.rglob("*.mp4"))), tmp_path / "out"
    where = ["--root", str(root), "--checkpoint", str(checkpoint), "--out", str(out), "--metrics", "psnr"]
    main(["reproduce", corpus, *where, "--experiments", str(EXPERIMENTS)])
    assert sorted(path.name for path in (out / "reports").iterdir()) == reports
    table = pd.read_csv(out / "table.csv")
    assert table.loc[table["system"] == "STSA", "psnr_mouth"].notna().any()


@pytest.mark.slow
@pytest.mark.usefixtures("no_trial", "no_weights")
def test_reproduce_renders_faces_at_the_frames_own_resolution(
    sample_root: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "root").mkdir()
    root = miniatures.cmlr(tmp_path / "root", sorted(sample_root.rglob("*.mp4")))
    where = ["--root", str(root), "--checkpoint", str(checkpoint), "--metrics", "psnr", "--clips", "1"]
    where += ["--experiments", str(EXPERIMENTS)]
    videos = {}
    for resolution in ("network", "100"):
        out = tmp_path / resolution
        main(["reproduce", "cmlr", *where, "--out", str(out), "--resolution", resolution])
        videos[resolution] = {path.relative_to(out): path for path in out.rglob("videos/*paired/**/*.mp4")}
    row = pd.read_csv(tmp_path / "100" / "table.csv").set_index("system").loc["STSA"]
    assert np.isfinite(row["psnr_mouth@native"])
    assert row["psnr_mouth@native"] != row["psnr_mouth"]
    assert "psnr_mouth@native" not in pd.read_csv(tmp_path / "network" / "table.csv")
    assert videos["100"].keys() == videos["network"].keys()
    for name, path in videos["100"].items():  # other faces, in paired and in unpaired videos; the same frames around
        with VideoReader(path) as sharp, VideoReader(videos["network"][name]) as soft:
            apart = np.abs(sharp.get(range(20)).astype(int) - soft.get(range(20))).max(axis=(0, 3))
        assert apart.max() > 20
        assert apart[:8].max() < 12
    with pytest.raises(SystemExit):
        main(["reproduce", "cmlr", *where, "--out", str(tmp_path / "network"), "--resolution", "100"])
    assert "other resolution" in capsys.readouterr().err
