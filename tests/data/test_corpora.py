"""Miniature corpora in the layout of the real ones: what is found, what is left out, and what an error shows."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path

import av
import numpy as np
import pandas as pd
import pytest
from scipy.io import wavfile

from stsa_lightning.data.clip import Clip
from stsa_lightning.data.corpora import CORPORA, LayoutError, MissingVideosWarning, Source, find_sources
from stsa_lightning.data.corpora.hdtf import read_lists, speaker
from stsa_lightning.data.index import clip_path, load_index
from stsa_lightning.data.prepare import PrepareSettings, prepare
from stsa_lightning.media.audio import load_audio
from stsa_lightning.utils.errors import UserError


def _write(root: Path, files: dict[str, str] | list[str]) -> Path:
    for name in files:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(files[name] if isinstance(files, dict) else name)
    return root


def _found(corpus: str, root: Path, **options: object) -> dict[str, Source]:
    return {source.clip: source for source in find_sources(corpus, root, **options)}


# ---- any folder


def test_the_first_folder_or_the_name_is_the_speaker(tmp_path: Path) -> None:
    _write(tmp_path, ["ann/a.mp4", "ann/a.avi", "bob/day/b.mov", "carl_02.mp4", "ann/.hidden.mp4", "notes.txt"])
    found = _found("folder", tmp_path, language="de")
    assert {clip: source.speaker for clip, source in found.items()} == {
        "ann/a": "ann",
        "ann/a.avi": "ann",
        "bob/day/b.mov": "bob",
        "carl/carl_02": "carl",
    }
    assert {source.language for source in found.values()} == {"de"}
    assert found["ann/a"].bytes == len("ann/a.mp4")
    assert found["ann/a"].relative == "ann/a.mp4"


def test_two_videos_of_one_clip_name(tmp_path: Path) -> None:
    _write(tmp_path, ["ann/ann_1.mp4", "ann_1.mp4"])
    with pytest.raises(UserError, match=r"ann/ann_1\.mp4 and ann_1\.mp4 would both become the clip ann/ann_1"):
        find_sources("folder", tmp_path)


def test_a_rule_for_speakers(tmp_path: Path) -> None:
    _write(tmp_path, ["2024/clip_ann_1.mp4", "2024/clip_bob_1.mp4"])
    assert set(_found("folder", tmp_path, speaker=r"clip_([a-z]+)_")) == {
        "ann/2024/clip_ann_1",
        "bob/2024/clip_bob_1",
    }
    with pytest.raises(UserError, match="--speaker: expected 'zoe' to find a name"):
        find_sources("folder", tmp_path, speaker="zoe")
    with pytest.raises(UserError, match=r"--speaker: expected one of \['mead', 'voxceleb2'\] or a regular expression"):
        find_sources("folder", tmp_path, speaker="(")


def test_voxceleb2(tmp_path: Path) -> None:
    _write(tmp_path, ["dev/mp4/id00012/21Uxsk56VDQ/00001.mp4", "test/mp4/id00017/01dfn2spqyE/00001.mp4"])
    found = _found("folder", tmp_path, speaker="voxceleb2")
    assert {clip: (source.speaker, source.split) for clip, source in found.items()} == {
        "id00012/dev/mp4/21Uxsk56VDQ/00001": ("id00012", "train"),
        "id00017/test/mp4/01dfn2spqyE/00001": ("id00017", "test"),
    }


def test_mead_takes_the_sound_from_its_own_file(tmp_path: Path) -> None:
    _write(
        tmp_path,
        [
            "M003/video/front/angry/level_1/001.mp4",
            "M003/video/left_30/angry/level_1/001.mp4",
            "M003/audio/angry/level_1/001.m4a",
            "W009/video/front/sad/level_2/003.mp4",
        ],
    )
    found = _found("folder", tmp_path, speaker="mead")
    sound = tmp_path / "M003/audio/angry/level_1/001.m4a"
    assert found["M003/video/front/angry/level_1/001"].audio == sound
    assert found["M003/video/left_30/angry/level_1/001"].audio == sound
    assert found["W009/video/front/sad/level_2/003"].audio is None


def test_an_empty_or_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="expected videos"):
        find_sources("folder", tmp_path)
    with pytest.raises(FileNotFoundError, match="no such folder of videos"):
        find_sources("folder", tmp_path / "no")
    with pytest.raises(UserError, match=r"corpus: expected one of \['folder', 'sample', 'lrs2', 'hdtf', 'cmlr'\]"):
        find_sources("vox", tmp_path)


def test_a_source_hashes_all_that_is_read(tmp_path: Path) -> None:
    _write(tmp_path, {"video/s1/d/a.mp4": "picture", "audio/s1/d/a.wav": "sound"})
    source = _found("cmlr", tmp_path)["s1/d/a"]
    before = source.sha256()
    assert source.bytes == len("picture") + len("sound")
    (tmp_path / "audio/s1/d/a.wav").write_text("other")
    assert _found("cmlr", tmp_path)["s1/d/a"].sha256() != before


# ---- LRS2

ID, OTHER = "5535415699068794046", "6330311066473698535"


def _lrs2(root: Path) -> Path:
    clips = [f"main/{ID}/{n:05d}" for n in (1, 2, 3)] + [f"main/{OTHER}/00011", f"main/{OTHER}/00012"]
    clips += [f"pretrain/{ID}/00001", f"pretrain/{OTHER}/00001"]
    _write(root / "mvlrs_v1", [f"{clip}{suffix}" for clip in clips for suffix in (".mp4", ".txt")])
    return _write(
        root,
        {
            "train.txt": f"{ID}/00001\n{ID}/00002 \n\n",
            "val.txt": f"{ID}/00003\r\n",
            "test.txt": f"{OTHER}/00011 NF\n{OTHER}/00012 MV\n",
        },
    )


@pytest.mark.parametrize("root", [".", "mvlrs_v1", "mvlrs_v1/main"])
def test_lrs2_with_the_lists_of_its_authors(tmp_path: Path, root: str) -> None:
    _lrs2(tmp_path)
    found = _found("lrs2", tmp_path / root)
    assert {clip: source.split for clip, source in found.items()} == {
        f"{ID}/00001": "train",
        f"{ID}/00002": "train",
        f"{ID}/00003": "val",
        f"{OTHER}/00011": "test",
        f"{OTHER}/00012": "test",
    }
    source = found[f"{OTHER}/00011"]
    assert (source.speaker, source.language, source.audio, source.part) == (OTHER, "en", None, "")
    assert (tmp_path / root / source.relative).samefile(source.path)


def test_lrs2_pretrain_keeps_away_from_what_validates_or_tests(tmp_path: Path) -> None:
    _lrs2(tmp_path)
    (tmp_path / "val.txt").unlink()  # its clip is of the broadcast that shall pretrain
    with pytest.warns(MissingVideosWarning, match=r"no val\.txt"):
        found = _found("lrs2", tmp_path, with_pretrain=True)
    extra = {clip: source.split for clip, source in found.items() if "pretrain" in clip}
    assert extra == {f"{ID}/pretrain/00001": "train"}
    (tmp_path / "pretrain.txt").write_text(f"{ID}/00001\n{ID}/00009\n")
    with pytest.warns(MissingVideosWarning) as caught:
        assert set(_found("lrs2", tmp_path, with_pretrain=True)) == set(found)
    assert f"1 of 6 clips are left out: named by the lists, but not there (pretrain/{ID}/00009.mp4)" in str(
        caught[1].message
    )


def test_lrs2_lists_elsewhere_and_missing_videos(tmp_path: Path) -> None:
    _lrs2(tmp_path / "corpus")
    lists = tmp_path / "lists"
    lists.mkdir()
    for name in ("train", "val"):
        (tmp_path / "corpus" / f"{name}.txt").rename(lists / f"{name}.txt")
    (tmp_path / "corpus/mvlrs_v1/main" / ID / "00002.mp4").unlink()
    with pytest.warns(MissingVideosWarning) as caught:
        found = _found("lrs2", tmp_path / "corpus", lists=lists)
    assert set(found) == {f"{ID}/00001", f"{ID}/00003"}
    assert "no test.txt" in str(caught[0].message)
    assert "1 of 3 clips are left out" in str(caught[1].message)


def test_lrs2_errors_show_both_trees(tmp_path: Path) -> None:
    _write(tmp_path / "wrong", ["lrs2_part_aa", "videos/1.mp4"])
    with pytest.raises(LayoutError) as caught:
        find_sources("lrs2", tmp_path / "wrong")
    message = str(caught.value)
    assert "main/5535415699068794046/00001.mp4" in message.split("found:")[0]
    assert "lrs2_part_aa" in message.split("found:")[1]
    assert "videos/1.mp4" in message.split("found:")[1]

    root = _lrs2(tmp_path / "right")
    (root / "val.txt").write_text("00003.mp4\n")
    with pytest.raises(UserError, match=r"val\.txt: line 1: expected ID/CLIP .* got '00003\.mp4'"):
        find_sources("lrs2", root)
    (root / "val.txt").write_text(f"{ID}/00001\n")
    with pytest.raises(UserError, match=rf"found {ID}/00001 in train and in val"):
        find_sources("lrs2", root)
    (root / "train.txt").write_text("1/00001\n")
    (root / "val.txt").write_text("1/00002\n")
    (root / "test.txt").write_text("1/00003 NF\n")
    with pytest.raises(LayoutError, match="none of the 3 videos that the lists name is there"):
        find_sources("lrs2", root)
    for name in ("train", "val", "test"):
        (root / f"{name}.txt").unlink()
    with pytest.raises(LayoutError, match=r"stsa prepare folder --root .*main"):
        find_sources("lrs2", root)


# ---- HDTF

HDTF_LISTS = {
    # As in the authors' files: a space at the end, several ranges, a range that cannot be meant, hyphens in names.
    "HDTF_dataset/RD_annotion_time.txt": "Radio11.mp4 00:30-01:00 01:30-02:30\nRadio6.mp4 00:25-02:00\n",
    "HDTF_dataset/RD_crop_wh.txt": "Radio11_0.mp4 412 599 0 599\nRadio11_1.mp4 557 478 0 478\n",
    "HDTF_dataset/RD_resolution.txt": "Radio11.mp4 720\nRadio6.mp4 720\n",
    "HDTF_dataset/RD_video_url.txt": "Radio11 https://example.org/watch?v=x\n",
    "HDTF_dataset/WRA_annotion_time.txt": "KevinMcCarthy1.mp4 00:22-00:45 01:05-01:20 \n"
    "MittRomney.mp4 08:10-08:30 00:33-08:53\nKevinMcCarthy0.mp4 1:03:20-1:04:00",
    "HDTF_dataset/WRA_crop_wh.txt": "KevinMcCarthy1_0.mp4 412 465 0 465\nKevinMcCarthy1_1.mp4 421 459 14 459\n"
    "MittRomney_0.mp4 614 964 0 964\nKevinMcCarthy0_0.mp4 412 440 24 440\n",
    "HDTF_dataset/WRA_resolution.txt": "KevinMcCarthy1.mp4 0\nMittRomney.mp4 1080\n",
}


def test_hdtf_clips_are_parts_of_longer_videos(tmp_path: Path) -> None:
    _write(tmp_path, HDTF_LISTS)
    _write(tmp_path, ["Radio11.mp4", "_videos_raw/WRA_KevinMcCarthy1.mp4", "KevinMcCarthy0.mkv"])
    with pytest.warns(MissingVideosWarning) as caught:
        found = _found("hdtf", tmp_path)
    assert [str(warning.message).split("clips are ")[1] for warning in caught] == [
        "left out: their videos are not there (MittRomney.mp4)",
        "left out: the lists have no crop for them (Radio6_0, MittRomney_1)",
    ]
    assert list(found) == [
        "KevinMcCarthy/KevinMcCarthy0_0",
        "Radio11/Radio11_0",
        "Radio11/Radio11_1",
        "KevinMcCarthy/KevinMcCarthy1_0",
        "KevinMcCarthy/KevinMcCarthy1_1",
    ]
    second = found["Radio11/Radio11_1"]
    assert (second.start_s, second.stop_s) == (90.0, 150.0)
    assert (second.crop, second.crop_height) == ((557, 0, 478, 478), 720)
    assert second.part == "90-150 s, 478x478+557+0 of 720 lines"
    assert second.split == ""
    assert found["KevinMcCarthy/KevinMcCarthy0_0"].start_s == 3800.0
    unknown = found["KevinMcCarthy/KevinMcCarthy1_1"]
    assert (unknown.crop, unknown.crop_height) == ((421, 14, 459, 459), None)


def test_hdtf_prefers_clips_that_are_cut_already(tmp_path: Path) -> None:
    _write(tmp_path, {name: text for name, text in HDTF_LISTS.items() if "RD_" in name})
    _write(tmp_path, ["RD_Radio11_000.mp4", "Radio11.mp4"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = _found("hdtf", tmp_path)
    assert found["Radio11/Radio11_0"].path.name == "RD_Radio11_000.mp4"
    assert found["Radio11/Radio11_0"].part == ""
    assert found["Radio11/Radio11_1"].path.name == "Radio11.mp4"


def test_hdtf_cut_clips_need_no_lists(tmp_path: Path) -> None:
    _write(
        tmp_path, ["clips/RD_Radio1_000.mp4", "clips/WDA_JoeCrowley1_2.mp4", "clips/WDA_LucilleRoybal-Allard_000.mp4"]
    )
    assert {clip: source.speaker for clip, source in _found("hdtf", tmp_path).items()} == {
        "Radio1/Radio1_0": "Radio1",
        "JoeCrowley/JoeCrowley1_2": "JoeCrowley",
        "LucilleRoybal-Allard/LucilleRoybal-Allard_0": "LucilleRoybal-Allard",
    }


def test_hdtf_names() -> None:
    assert [speaker(name) for name in ("Radio11", "JohnBoehner1", "AllenWest")] == [
        "Radio11",
        "JohnBoehner",
        "AllenWest",
    ]


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("RD_annotion_time.txt", "Radio1.mp4 00:20-01:35 01:40\n", "line 1: expected a time range .* got '01:40'"),
        ("RD_annotion_time.txt", "\nRadio1.mp4 1:x-2:y\n", "line 2: expected a time range"),
        ("RD_crop_wh.txt", "Radio1_0.mp4 466 535 0\n", "line 1: expected X WIDTH Y HEIGHT, four whole numbers"),
        ("RD_resolution.txt", "Radio1.mp4 720p\n", "line 1: expected the height"),
    ],
)
def test_hdtf_lines_of_another_form(tmp_path: Path, name: str, text: str, expected: str) -> None:
    right = {
        "RD_annotion_time.txt": "Radio1.mp4 00:20-01:35\n",
        "RD_crop_wh.txt": "Radio1_0.mp4 466 535 0 535\n",
        "RD_resolution.txt": "Radio1.mp4 720\n",
    }
    assert len(read_lists(_write(tmp_path, right))) == 1
    _write(tmp_path, {name: text})
    with pytest.raises(UserError, match=rf"{name}: {expected}"):
        find_sources("hdtf", tmp_path)


def test_hdtf_errors_show_both_trees(tmp_path: Path) -> None:
    _write(tmp_path, ["interview.mp4"])
    with pytest.raises(LayoutError, match=r"(?s)found neither.*RD_annotion_time\.txt.*found:\n    interview\.mp4"):
        find_sources("hdtf", tmp_path)
    _write(tmp_path, HDTF_LISTS)
    with pytest.raises(LayoutError, match="none of the 4 videos that the lists name is there"):
        find_sources("hdtf", tmp_path)


def _cropped(crop: tuple[int, int, int, int] | None, lines: int | None) -> Source:
    return Source(Path("a.mp4"), "a.mp4", "a", "a/a", 0, 0, crop=crop, crop_height=lines)


@pytest.mark.parametrize(
    ("crop", "lines", "size", "box"),
    [
        (None, None, (1280, 720), (0, 0, 1280, 720)),
        ((412, 0, 599, 599), 720, (1280, 720), (412, 0, 599, 599)),
        ((412, 10, 600, 600), 720, (1920, 1080), (618, 15, 900, 900)),
        ((412, 0, 599, 599), None, (1920, 1080), (412, 0, 599, 599)),
        ((688, 0, 599, 599), 720, (1280, 720), (688, 0, 592, 599)),  # by what rounding may do
    ],
)
def test_a_crop_follows_the_resolution(
    crop: tuple[int, int, int, int] | None, lines: int | None, size: tuple[int, int], box: tuple[int, int, int, int]
) -> None:
    assert _cropped(crop, lines).crop_box(*size) == box


# ---- CMLR

SENTENCES = ["s1/20120904/section_4_003", "s1/20120904/section_4_004", "s11/20170121/section_2_005.38_008.56"]


def _cmlr(root: Path, video: str = "video") -> Path:
    return _write(root, [f"{video}/{name}.mp4" for name in SENTENCES] + [f"audio/{name}.wav" for name in SENTENCES[:2]])


@pytest.mark.parametrize(
    ("train", "test"),
    [
        (f"{SENTENCES[0]}\n{SENTENCES[1]}\n", f"{SENTENCES[2]}\n"),
        (
            f"path,text\nvideo/{SENTENCES[0]}.mp4,习近平\n\nvideo/{SENTENCES[1]}.mp4,中国\n",
            f"path,text\nCMLR/video/{SENTENCES[2]}.mp4,中国\n",
        ),
        (f"1;audio\\{SENTENCES[0]}.wav\n2;{SENTENCES[1]}.txt\n".replace("/", "\\"), f'"{SENTENCES[2]}" ,x\n'),
    ],
    ids=["bare", "header and text", "backslashes"],
)
def test_cmlr_lists(tmp_path: Path, train: str, test: str) -> None:
    _write(_cmlr(tmp_path), {"train.csv": train, "test.csv": test})
    found = _found("cmlr", tmp_path)
    assert {clip: source.split for clip, source in found.items()} == dict(
        zip(SENTENCES, ["train", "train", "test"], strict=True)
    )
    assert [found[name].speaker for name in SENTENCES] == ["s1", "s1", "s11"]
    assert {source.language for source in found.values()} == {"zh"}
    assert found[SENTENCES[0]].audio == tmp_path / "audio" / f"{SENTENCES[0]}.wav"
    assert found[SENTENCES[2]].audio is None


def test_cmlr_without_lists_or_from_the_video_folder(tmp_path: Path) -> None:
    _cmlr(tmp_path)
    found = _found("cmlr", tmp_path)
    assert {source.split for source in found.values()} == {""}
    assert set(found) == set(SENTENCES)
    inside = _found("cmlr", tmp_path / "video")
    assert set(inside) == set(SENTENCES)


def test_cmlr_missing_videos_and_bad_lines(tmp_path: Path) -> None:
    _write(_cmlr(tmp_path), {"video/train.csv": "\n".join([*SENTENCES, "s2/20120904/section_4_001"])})
    with pytest.warns(MissingVideosWarning, match=r"1 of 4 clips are left out.*s2/20120904/section_4_001\.mp4"):
        assert len(_found("cmlr", tmp_path)) == 3
    _write(tmp_path, {"val.csv": f"name\n{SENTENCES[0]}\nnothing\n"})
    with pytest.raises(UserError, match=r"val\.csv: line 3: expected a sentence such as s1/.* got 'nothing'"):
        find_sources("cmlr", tmp_path)


def test_cmlr_errors_show_both_trees(tmp_path: Path) -> None:
    _write(tmp_path, ["video/s1.zip", "audio/s1.zip"])
    with pytest.raises(LayoutError, match=r"(?s)expected:.*video/s1 \.\.\. s11/.*found:.*audio/s1\.zip"):
        find_sources("cmlr", tmp_path)
    with pytest.raises(LayoutError, match="expected the lists"):
        find_sources("cmlr", _cmlr(tmp_path / "right"), lists=tmp_path)


def test_every_corpus_says_how_to_obtain_it() -> None:
    for name, corpus in CORPORA.items():
        advice = corpus.obtain.format(root="data/x", features="mfcc")
        assert f"stsa prepare {name} " in advice
        assert "--out data/x --features mfcc" in advice


# ---- prepared: the sample's videos in the layout of each corpus


def _prepared(corpus: str, root: Path, **options: object) -> pd.DataFrame:
    sources = find_sources(corpus, root, **options)
    report = prepare(sources, root / "out", PrepareSettings(min_frames=20), root=root, workers=0, progress=False)
    assert report.prepared == len(sources), report
    return load_index(root / "out").set_index("clip")


def _videos(sample_root: Path) -> list[Path]:
    return sorted(sample_root.rglob("*.mp4"))


def _put(video: Path, to: Path) -> None:
    to.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(video, to)


def test_lrs2_prepared_keeps_its_split(sample_root: Path, tmp_path: Path) -> None:
    for name, video in zip(("00001", "00002"), _videos(sample_root), strict=False):
        _put(video, tmp_path / "mvlrs_v1/main" / ID / f"{name}.mp4")
    _write(tmp_path, {"train.txt": f"{ID}/00001\n", "test.txt": f"{ID}/00002 NF\n", "val.txt": "\n"})
    index = _prepared("lrs2", tmp_path)
    assert index["split"].to_dict() == {f"{ID}/00001": "train", f"{ID}/00002": "test"}
    assert index["speaker"].tolist() == [ID, ID]
    assert index["language"].tolist() == ["en", "en"]


def test_hdtf_prepared_is_cut_and_cropped(sample_root: Path, tmp_path: Path) -> None:
    _put(_videos(sample_root)[0], tmp_path / "Radio1.mp4")  # 2 s, 256 x 256
    lists = {
        "RD_annotion_time.txt": "Radio1.mp4 00:00-00:01 00:01-00:02\n",
        "RD_crop_wh.txt": "Radio1_0.mp4 64 896 32 896\nRadio1_1.mp4 0 1024 0 1024\n",
        "RD_resolution.txt": "Radio1.mp4 1024\n",  # four times the video that we have
    }
    index = _prepared("hdtf", _write(tmp_path, lists))
    assert index["frames"].tolist() == [25, 25]
    clips = [Clip.open(clip_path(tmp_path / "out", name)) for name in ("Radio1/Radio1_0", "Radio1/Radio1_1")]
    assert [len(clip.audio) for clip in clips] == [16_000, 16_000]
    whole = _prepared("folder", sample_root_of_one(tmp_path / "Radio1.mp4", tmp_path / "whole"))
    both = Clip.open(clip_path(tmp_path / "whole/out", whole.index[0]))
    for start, clip, corner in zip((0, 25), clips, ((16, 8), (0, 0)), strict=True):
        assert clip.valid.all()
        moved = clip.landmarks + np.array(corner, np.float32)
        assert np.median(np.abs(moved - both.landmarks[start : start + 25])) < 1.5
        difference = clip.audio.astype(float) - both.audio[16_000 * start // 25 :][:16_000]
        assert np.abs(difference).mean() < 0.05 * np.abs(clip.audio).mean()


def sample_root_of_one(video: Path, root: Path) -> Path:
    _put(video, root / "someone" / video.name)
    return root


def test_cmlr_prepared_takes_the_sound_from_its_own_file(sample_root: Path, tmp_path: Path) -> None:
    spoken = _videos(sample_root)[0]
    silent = tmp_path / f"video/{SENTENCES[0]}.mp4"
    silent.parent.mkdir(parents=True)
    with av.open(str(spoken)) as source, av.open(str(silent), "w") as target:
        pictures = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = pictures
                target.mux(packet)
    wave = load_audio(spoken)
    sound = tmp_path / f"audio/{SENTENCES[0]}.wav"
    sound.parent.mkdir(parents=True)
    wavfile.write(sound, 16_000, np.round(wave * 32767).astype(np.int16))
    _write(tmp_path, {"train.csv": f"{SENTENCES[0]}\n"})
    index = _prepared("cmlr", tmp_path)
    assert index.loc[SENTENCES[0], ["split", "language", "status"]].tolist() == ["train", "zh", "ok"]
    stored = Clip.open(clip_path(tmp_path / "out", SENTENCES[0])).audio
    assert np.abs(stored - 32767 * wave[: len(stored)]).max() < 4
