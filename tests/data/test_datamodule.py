"""The data module: splits, batches, and what a trainer does with them."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer

from stsa_lightning.data.augment import AugmentSettings
from stsa_lightning.data.corpora import CORPORA
from stsa_lightning.data.datamodule import STSADataModule, WindowSampler
from stsa_lightning.data.filters import Filters
from stsa_lightning.data.windows import Speaker
from stsa_lightning.utils.errors import UserError


def _module(root: Path, **options: Any) -> STSADataModule:
    defaults = {"face_size": 32, "num_references": 2, "batch_size": 2, "num_workers": 0, "windows_per_clip": 2}
    return STSADataModule(str(root), **{**defaults, **options})


class Recorder(LightningModule):
    """Learns nothing; remembers which windows came."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen: list[tuple[int, str, int, float]] = []

    def training_step(self, batch: dict[str, Any], _: int) -> torch.Tensor:
        assert batch["faces"].dtype == batch["references"].dtype == torch.float32
        assert 0.1 < batch["faces"].max() <= 1
        references = batch["references"].sum(dim=(1, 2, 3, 4)).tolist()
        rows = zip(batch["clip"], batch["frame"].tolist(), references, strict=True)
        self.seen += [(self.current_epoch, *row) for row in rows]
        return self.weight.sum()

    def validation_step(self, batch: dict[str, Any], _: int) -> None:
        self.seen += [(-1, clip, int(frame), 0.0) for clip, frame in zip(batch["clip"], batch["frame"], strict=True)]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def _trainer(folder: Path, epochs: int, **options: Any) -> Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return Trainer(default_root_dir=folder, max_epochs=epochs, accelerator="cpu", devices=1, **quiet, **options)


def test_speakers_are_disjoint_by_default(synthetic_root: Path) -> None:
    data = _module(synthetic_root, validation_fraction=0.4)
    data.setup("fit")
    speakers = {name: set(lines["speaker"]) for name, lines in data.splits.items()}
    assert len(speakers["val"]) == 2
    assert not speakers["train"] & speakers["val"]
    assert speakers["test"] == speakers["val"]
    assert "speaker0/silent" not in {clip for lines in data.splits.values() for clip in lines["clip"]}


def test_named_speakers(synthetic_root: Path) -> None:
    data = _module(synthetic_root, validation_speakers=["speaker2"])
    data.setup()
    assert set(data.splits["val"]["clip"]) == {"speaker2/clip0", "speaker2/clip1"}


def test_windows_per_speaker_give_everybody_as_many(synthetic_root: Path, tmp_path: Path) -> None:
    frames = {"clip0": 10, "clip1": 30}
    root = _with_columns(synthetic_root, tmp_path, valid_frames=lambda _, clip: frames.get(clip, 0))
    few = tmp_path / "train.txt"
    few.write_text("speaker1/clip0\nspeaker1/clip1\nspeaker2/clip0")
    data = _module(root, train_list=str(few), windows_per_speaker=3)
    data.setup()
    assert data.dataset("train").clips == [
        Speaker(("speaker1/clip0", "speaker1/clip1"), (0.25, 0.75)),
        Speaker(("speaker2/clip0",), (1.0,)),
    ]
    assert len(data.dataset("train")) == 6
    assert len(data.dataset("val")) == 4 * len(data.splits["val"])
    with pytest.raises(UserError, match="windows_per_speaker: expected at least 1, or null, got 0"):
        _module(root, windows_per_speaker=0)


LISTS = {
    "test_list": ["speaker0/clip0"],
    "val_list": ["speaker1/clip0", "speaker1/clip1"],
    "train_list": ["speaker2/clip0"],
}


@pytest.mark.parametrize(
    ("lists", "train", "val", "test"),
    [
        (["val_list"], 8, 2, 2),
        (["val_list", "test_list"], 7, 2, 1),
        (["train_list"], 1, 9, 9),
        (["train_list", "test_list"], 1, 8, 1),
        (["train_list", "val_list", "test_list"], 1, 2, 1),
    ],
)
def test_lists_of_clips(
    synthetic_root: Path, tmp_path: Path, lists: list[str], train: int, val: int, test: int
) -> None:
    for name in lists:
        (tmp_path / name).write_text("\n".join(LISTS[name]))
    data = _module(synthetic_root, **{name: str(tmp_path / name) for name in lists})
    data.setup()
    clips = {name: set(lines["clip"]) for name, lines in data.splits.items()}
    assert [len(clips[name]) for name in ("train", "val", "test")] == [train, val, test]
    assert not clips["train"] & clips["val"]
    assert not clips["train"] & clips["test"]
    for name in lists:
        assert clips[name.removesuffix("_list")] == set(LISTS[name])


def test_list_of_test_clips_beside_a_split_by_speaker(synthetic_root: Path, tmp_path: Path) -> None:
    path = tmp_path / "test.txt"
    path.write_text("speaker0/clip0")
    data = _module(synthetic_root, validation_speakers=["speaker0"], test_list=str(path))
    data.setup()
    assert data.splits["val"]["clip"].tolist() == ["speaker0/clip1"]
    assert data.splits["test"]["clip"].tolist() == ["speaker0/clip0"]
    assert len(data.splits["train"]) == 8


def _with_columns(root: Path, out: Path, **columns: Any) -> Path:
    """The same corpus, its index with other columns: functions of (speaker, clip)."""
    index = pd.read_parquet(root / "index.parquet")
    for name, value in columns.items():
        index[name] = [value(*clip.split("/")) for clip in index["clip"]]
    index.to_parquet(out / "index.parquet")
    (out / "clips").symlink_to(root / "clips")
    return out


def _clips(data: STSADataModule) -> dict[str, set[str]]:
    data.setup()
    return {name: set(lines["clip"]) for name, lines in data.splits.items()}


def test_the_last_part_of_every_clip_validates(synthetic_root: Path, tmp_path: Path) -> None:
    """For a speaker of one's own: training sees neither windows nor references of that part."""
    data = _module(synthetic_root, validation_part=0.4, windows_per_clip=6)
    data.setup("fit")
    assert _clips(data)["train"] == _clips(data)["val"]
    lengths = dict(zip(data.splits["train"]["clip"], data.splits["train"]["frames"], strict=True))
    for split, within in (("train", lambda share: share < 0.6), ("val", lambda share: share > 0.6)):
        dataset = data.dataset(split)
        for item in map(dataset.__getitem__, range(len(dataset))):
            first, last = (int(item["frame"]) + step for step in (-2, 2))
            assert within((first + 0.5) / lengths[item["clip"]])
            assert within((last + 0.5) / lengths[item["clip"]])
    with pytest.raises(UserError, match="validation_part: expected no clips or speakers beside it"):
        _module(synthetic_root, validation_part=0.2, validation_speakers=["a"])
    with pytest.raises(UserError, match="validation_part: expected a share"):
        _module(synthetic_root, validation_part=1.0)


def test_the_split_of_the_authors(synthetic_root: Path, tmp_path: Path) -> None:
    splits = {"clip0": "train", "clip1": "val"}
    root = _with_columns(
        synthetic_root, tmp_path, split=lambda s, c: "test" if s == "speaker4" else splits.get(c, "train")
    )
    clips = _clips(_module(root))
    assert clips["train"] == {f"speaker{i}/clip0" for i in range(4)}
    assert clips["val"] == {f"speaker{i}/clip1" for i in range(4)}
    assert clips["test"] == {"speaker4/clip0", "speaker4/clip1"}
    # What is asked for wins.
    clips = _clips(_module(root, validation_speakers=["speaker0"]))
    assert clips["val"] == clips["test"] == {"speaker0/clip0", "speaker0/clip1"}
    assert len(clips["train"]) == 8
    (tmp_path / "val.txt").write_text("speaker1/clip0")
    clips = _clips(_module(root, val_list=str(tmp_path / "val.txt")))
    assert clips["val"] == {"speaker1/clip0"}
    assert len(clips["train"]) == 9
    clips = _clips(_module(root, test_list=str(tmp_path / "val.txt")))
    assert clips["test"] == {"speaker1/clip0"}
    assert clips["train"] == {"speaker0/clip0", "speaker2/clip0", "speaker3/clip0"}


def test_what_the_authors_leave_open_is_drawn_by_speaker(synthetic_root: Path, tmp_path: Path) -> None:
    root = _with_columns(synthetic_root, tmp_path, split=lambda s, _: "test" if s == "speaker4" else "train")
    clips = _clips(_module(root, validation_fraction=0.25))
    speakers = {name: {clip.split("/")[0] for clip in names} for name, names in clips.items()}
    assert speakers["test"] == {"speaker4"}
    assert len(speakers["val"]) == 1
    assert len(speakers["train"]) == 3
    assert not speakers["train"] & speakers["val"]


def test_filters(synthetic_root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = _with_columns(
        synthetic_root,
        tmp_path,
        face_px=lambda s, _: 60.0 if s == "speaker1" else 200.0,
        yaw_deg=lambda s, c: 50.0 if (s, c) == ("speaker2", "clip0") else 5.0,
        language=lambda *_: "en",
    )
    assert sum(map(len, list(_clips(_module(root)).values())[:2])) == 10
    data = _module(root, filters=Filters(min_face_px=100, max_yaw=30, languages=["en"]))
    with caplog.at_level("INFO", logger="lightning.pytorch.utilities.rank_zero"):
        clips = _clips(data)
        data.setup("test")
    assert clips["train"] | clips["val"] == {f"speaker{s}/clip{c}" for s in (0, 2, 3, 4) for c in (0, 1)} - {
        "speaker2/clip0"
    }
    said = [record.message for record in caplog.records if "filters" in record.message]
    assert said == ["filters keep 7 of 10 clips; removed by min_face_px 2, max_yaw 1"]
    with pytest.raises(UserError, match="no clip is left of 10"):
        _module(root, filters=Filters(languages=["zh"])).setup()


def test_a_checkpoint_holds_the_filters_as_plain_values(synthetic_root: Path, tmp_path: Path) -> None:
    root = _with_columns(synthetic_root, tmp_path, yaw_deg=lambda *_: 5.0)
    data = _module(root, filters=Filters(max_yaw=30))
    trainer = _trainer(tmp_path, 1, limit_train_batches=1, limit_val_batches=0)
    trainer.fit(Recorder(), datamodule=data)
    trainer.save_checkpoint(tmp_path / "end.ckpt")
    torch.load(tmp_path / "end.ckpt", weights_only=True)
    again = STSADataModule.load_from_checkpoint(tmp_path / "end.ckpt")
    assert again.filters == data.filters


def test_faces_are_not_enlarged(synthetic_root: Path) -> None:
    with pytest.raises(
        UserError, match=r"face_size: expected at most 64, .*\(speaker0/clip0\), got 128; .*--face-size 128"
    ):
        _module(synthetic_root, face_size=128).setup()
    with pytest.raises(UserError, match=r"native_size: expected at most 64, .*, got 128; .*--face-size 128"):
        _module(synthetic_root, native_size=128).setup()


def test_training_windows_alone_hold_faces_at_their_own_size(synthetic_root: Path) -> None:
    data = _module(synthetic_root, native_size=64, validation_speakers=["speaker2"])
    data.setup()
    assert data.dataset("train")[0]["native_faces"].shape[-1] == 64
    assert "native_faces" not in data.dataset("val")[0]
    with pytest.raises(UserError, match="native_size must be 33 or more, got 32"):
        _module(synthetic_root, native_size=32)


def test_loaders(synthetic_root: Path) -> None:
    data = _module(synthetic_root, validation_speakers=["speaker2"], validation_windows_per_clip=3)
    data.setup()
    train = list(data.train_dataloader())
    assert len(train) == 8
    assert all(batch["faces"].shape == (2, 5, 3, 32, 32) for batch in train)
    for loader in (data.val_dataloader(), data.test_dataloader(), data.predict_dataloader()):
        batches = list(loader)
        assert [len(batch["clip"]) for batch in batches] == [2, 2, 2]
        assert [clip for batch in batches for clip in batch["clip"]] == ["speaker2/clip0"] * 3 + ["speaker2/clip1"] * 3


def test_only_training_is_augmented(synthetic_root: Path) -> None:
    augment = AugmentSettings(True, 0.1, 0.2, 0.3, 0.4, 0.5)
    data = _module(synthetic_root, augment=augment)
    data.setup()
    assert data.dataset("train").augment == augment
    assert data.dataset("val").augment == AugmentSettings()
    assert data.hparams["augment"] == asdict(augment)  # as a checkpoint holds it
    assert _module(synthetic_root, augment=asdict(augment)).augment == augment


def test_a_corpus_smaller_than_a_batch_still_trains(synthetic_root: Path) -> None:
    data = _module(synthetic_root, validation_speakers=["speaker2"], batch_size=100)
    data.setup()
    assert [len(batch["clip"]) for batch in data.train_dataloader()] == [16]


def test_workers_answer_as_the_process_itself_does(synthetic_root: Path) -> None:
    def windows(workers: int) -> list[list[tuple[str, int]]]:
        data = _module(synthetic_root, num_workers=workers)
        data.setup()
        loader = data.train_dataloader()
        epochs = []
        for epoch in range(2):
            loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
            pairs = [zip(batch["clip"], batch["frame"].tolist(), strict=True) for batch in loader]
            epochs.append([pair for batch in pairs for pair in batch])
        return epochs

    alone = windows(0)
    assert windows(2) == alone
    assert alone[0] != alone[1]


def test_every_epoch_is_drawn_anew_and_resuming_draws_the_same(synthetic_root: Path, tmp_path: Path) -> None:
    whole, first, second = Recorder(), Recorder(), Recorder()
    _trainer(tmp_path, 3, limit_val_batches=0).fit(whole, datamodule=_module(synthetic_root))
    part = _trainer(tmp_path, 1, limit_val_batches=0)
    part.fit(first, datamodule=_module(synthetic_root))
    part.save_checkpoint(tmp_path / "end.ckpt")
    _trainer(tmp_path, 3, limit_val_batches=0).fit(
        second, datamodule=_module(synthetic_root), ckpt_path=tmp_path / "end.ckpt", weights_only=False
    )
    assert first.seen + second.seen == whole.seen
    epochs = [[row[1:] for row in whole.seen if row[0] == epoch] for epoch in range(3)]
    assert epochs[0] != epochs[1] != epochs[2]


def test_ranks_share_the_windows_out(synthetic_root: Path) -> None:
    data = _module(synthetic_root)
    data.setup()
    dataset = data.dataset("train")
    shares = [list(WindowSampler(len(dataset), 2, rank)) for rank in (0, 1)]
    assert sorted(shares[0] + shares[1]) == [(0, i) for i in range(len(dataset))]


def test_windows_together_of_a_clip_come_into_a_batch_together_and_runs_go_on_among_them(synthetic_root: Path) -> None:
    data = _module(synthetic_root, windows_per_clip=8, batch_size=6, windows_together=3)
    data.setup()
    assert len(data.dataset("train")) == 6 * len(data.splits["train"])
    for batch in data.train_dataloader():
        assert sorted(batch["clip"].count(clip) for clip in set(batch["clip"])) in ([3, 3], [6])
    whole, rest = WindowSampler(24, 1, 0, together=3), WindowSampler(24, 1, 0, together=3)
    rest.begin(0, 9)
    assert list(rest) == list(whole)[9:]
    assert sorted(whole) == [(0, index) for index in range(24)]
    for sizes in ({"batch_size": 4}, {"windows_per_clip": 2}, {"windows_together": 0}):
        with pytest.raises(UserError, match="windows_together: expected a divisor of batch_size"):
            _module(synthetic_root, **{"windows_per_clip": 6, "batch_size": 6, "windows_together": 3, **sizes})


@pytest.mark.slow
def test_two_processes_see_different_windows(synthetic_root: Path, tmp_path: Path) -> None:
    """Lightning leaves the sampler in place under DDP."""
    script = f"""
import importlib.util, json, sys
spec = importlib.util.spec_from_file_location("here", {str(Path(__file__))!r})
here = importlib.util.module_from_spec(spec)
sys.modules["here"] = here
spec.loader.exec_module(here)
from pathlib import Path
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import DDPStrategy
model, data = here.Recorder(), here._module(Path({str(synthetic_root)!r}))
trainer = Trainer(default_root_dir={str(tmp_path)!r}, max_epochs=2, accelerator="cpu", devices=2, strategy="ddp",
                  logger=False, enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
                  limit_val_batches=0)
trainer.fit(model, datamodule=data)
Path({str(tmp_path)!r}, f"rank{{trainer.global_rank}}.json").write_text(json.dumps(model.seen))
"""
    path = tmp_path / "run.py"
    path.write_text(script)
    subprocess.run([sys.executable, str(path)], check=True)

    seen = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1)]
    data = _module(synthetic_root)
    data.setup()
    expected = sorted(2 * data.dataset("train").clips * 2)
    assert sorted(row[1] for rank in seen for row in rank) == expected
    assert not {tuple(row) for row in seen[0]} & {tuple(row) for row in seen[1]}


def test_epoch_validates_the_same_windows(synthetic_root: Path, tmp_path: Path) -> None:
    model = Recorder()
    _trainer(tmp_path, 2, num_sanity_val_steps=0).fit(model, datamodule=_module(synthetic_root))
    validated = [row for row in model.seen if row[0] == -1]
    half = len(validated) // 2
    assert half > 0
    assert validated[:half] == validated[half:]


@pytest.mark.parametrize("corpus", sorted(CORPORA))
def test_missing_corpus_says_how_to_get_it(tmp_path: Path, corpus: str) -> None:
    root = tmp_path / "nothing"
    data = _module(root, corpus=corpus, features="mfcc")
    with pytest.raises(FileNotFoundError, match=rf"stsa prepare {corpus} .*--out {root} --features mfcc") as raised:
        data.setup()
    assert "{" not in str(raised.value)


def test_errors(synthetic_root: Path) -> None:
    with pytest.raises(UserError, match="corpus: expected one of"):
        _module(synthetic_root, corpus="vox")
    with pytest.raises(UserError, match="got both"):
        _module(synthetic_root, validation_speakers=["speaker0"], train_list="x")
    with pytest.raises(UserError, match="num_frames: expected at most 30"):
        _module(synthetic_root, num_frames=31).setup()
    with pytest.raises(UserError, match="--features mfcc"):
        _module(synthetic_root, features="mfcc").setup()


@pytest.mark.slow
def test_training_needs_nothing_that_only_preparation_needs() -> None:
    script = """
import sys
for name in ("decord", "av", "mediapipe", "omegaconf", "jsonargparse", "lpips", "jinja2", "ray"):
    sys.modules[name] = None
import stsa_lightning.data.clip, stsa_lightning.data.windows, stsa_lightning.data.datamodule
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_sampler_tells_the_epoch(synthetic_root: Path) -> None:
    data = _module(synthetic_root)
    data.setup()
    loader = data.train_dataloader()
    loader.sampler.set_epoch(3)  # type: ignore[attr-defined]
    assert {epoch for epoch, _ in loader.sampler} == {3}  # type: ignore[misc]


def test_a_quiet_share_without_swapped_mouths_is_refused(synthetic_root: Path) -> None:
    """It would do nothing."""
    with pytest.raises(UserError, match=r"quiet_share: 0.1 of the windows .* are 0; set data.swap_mouth_epochs"):
        _module(synthetic_root, quiet_share=0.1)
    data = _module(synthetic_root, quiet_share=0.1, swap_mouth_epochs=1)
    data.setup()
    assert data.dataset("train").quiet_share == 0.1
    assert data.dataset("val").quiet_share == 0
