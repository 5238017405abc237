"""Lists that people write, as spreadsheets and editors save them."""

from __future__ import annotations

import codecs
import os
import unicodedata
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from stsa_lightning.data.corpora import MissingVideosWarning, find_sources
from stsa_lightning.data.corpora.source import Source
from stsa_lightning.data.extract import RejectedError, _check_range
from stsa_lightning.data.index import select_clips
from stsa_lightning.dubbing.manifest import Job, dub_all, read_manifest
from stsa_lightning.evaluation.protocol import load_protocol
from stsa_lightning.media.video import VideoInfo
from stsa_lightning.utils.errors import UserError
from stsa_lightning.utils.tables import read_text, table_rows

ENCODINGS = {
    "utf-8": ("utf-8", b""),
    "utf-8 marked": ("utf-8", codecs.BOM_UTF8),
    "utf-16-le marked": ("utf-16-le", codecs.BOM_UTF16_LE),
    "utf-16-be marked": ("utf-16-be", codecs.BOM_UTF16_BE),
    "utf-16-le": ("utf-16-le", b""),
    "utf-16-be": ("utf-16-be", b""),
    "utf-32": ("utf-32-le", codecs.BOM_UTF32_LE),
    "cp1252": ("cp1252", b""),
}
ROWS = [["vidéo 1.mp4", "söund.wav", "öut 1.mp4"], ["b.mp4", "søund, zwei; drei.wav", "out “2”.mp4"]]


def _table(rows: list[list[str]], separator: str, end: str, header: str) -> str:
    def field(text: str) -> str:
        return f'"{text}"' if separator in text or '"' in text else text

    lines = [separator.join(field(text) for text in row) for row in rows]
    return end.join([header.replace(",", separator), *lines, ""])


@pytest.mark.parametrize("encoding", list(ENCODINGS))
@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_manifest_of_any_encoding_and_separator_is_read(
    encoding: str, separator: str, end: str, tmp_path: Path
) -> None:
    text = _table(ROWS, separator, end, "video,audio,out")
    codec, mark = ENCODINGS[encoding]
    path = tmp_path / "list.csv"
    path.write_bytes(mark + text.encode(codec))
    for name in (name for row in ROWS for name in row[:2]):
        (tmp_path / name).touch()
    assert _names(read_manifest(path)) == ROWS


def _names(jobs: list[Job]) -> list[list[str]]:
    return [[path.name for path in (job.video, job.audio, job.out)] for job in jobs]


LEGACY = {
    "cp850": ["Müller très ñandú.mp4", "Größe.wav", "öut.mp4"],
    "cp1250": ["Łódź žlutý.mp4", "řeč.wav", "výsledek.mp4"],
    "cp1251": ["видео.mp4", "речь.wav", "итог.mp4"],
    "koi8_r": ["видео.mp4", "речь.wav", "итог.mp4"],
    "cp866": ["видео.mp4", "речь.wav", "итог.mp4"],
    "mac_roman": ["vidéo è.mp4", "ça va.wav", "été.mp4"],
    "gb18030": ["视频.mp4", "语音.wav", "结果.mp4"],
    "cp950": ["影片.mp4", "語音.wav", "結果.mp4"],
    "shift_jis": ["動画ソ.mp4", "音声.wav", "結果.mp4"],
    "euc_kr": ["영상.mp4", "음성.wav", "결과.mp4"],
    "cp1255": ["וידאו.mp4", "קול.wav", "פלט.mp4"],
    "cp1256": ["فيديو.mp4", "صوت.wav", "نتيجة.mp4"],
    "cp1253": ["βίντεο.mp4", "φωνή.wav", "έξοδος.mp4"],
}


@pytest.mark.parametrize("encoding", list(LEGACY))
def test_manifest_in_a_legacy_encoding_is_read_as_its_files_are_called(encoding: str, tmp_path: Path) -> None:
    row = LEGACY[encoding]
    (tmp_path / "list.csv").write_bytes(f"video,audio,out\n{','.join(row)}\n".encode(encoding))
    for name in row[:2]:
        (tmp_path / name).touch()
    assert _names(read_manifest(tmp_path / "list.csv")) == [row]
    assert _names(read_manifest(tmp_path / "list.csv", encoding)) == [row]


@pytest.mark.parametrize("encoding", list(LEGACY))
def test_manifest_whose_results_alone_are_in_a_legacy_encoding_is_refused_until_it_is_named(
    encoding: str, tmp_path: Path
) -> None:
    out = LEGACY[encoding][2]
    (tmp_path / "list.csv").write_bytes(f"video,audio,out\na.mp4,b.wav,{out}\n".encode(encoding))
    with pytest.raises(UserError, match=r"list.csv: line 2: .* out is .* or .*; say which with --encoding") as caught:
        read_manifest(tmp_path / "list.csv")
    assert "\n" not in str(caught.value)
    (job,) = read_manifest(tmp_path / "list.csv", encoding)
    assert job.out.name == out


def test_manifest_that_names_files_in_two_encodings_is_refused(tmp_path: Path) -> None:
    data = "vidéo.mp4".encode("cp1252")
    for encoding in ("cp1252", "cp1251"):
        (tmp_path / data.decode(encoding)).touch()
    (tmp_path / "list.csv").write_bytes(b"video,audio,out\n" + data + b",b.wav,c.mp4\n")
    with pytest.raises(UserError, match=r"video is vidйo.mp4 .cp1251. or|video is vidéo.mp4 .cp1252. or vidйo.mp4"):
        read_manifest(tmp_path / "list.csv")


def test_manifest_with_lines_in_two_encodings_is_read(tmp_path: Path) -> None:
    rows = [["видео.mp4", "b.wav", "c.mp4"], ["фильм.mp4", "речь.wav", "d.mp4"]]
    for name in (name for row in rows for name in row[:2]):
        (tmp_path / name).touch()
    lines = [",".join(row) for row in rows]
    (tmp_path / "list.csv").write_bytes(b"video,audio,out\n" + lines[0].encode() + b"\n" + lines[1].encode("cp1251"))
    assert _names(read_manifest(tmp_path / "list.csv")) == rows


def test_manifest_in_the_bytes_of_its_files_names_is_read(tmp_path: Path) -> None:
    name = "видео.mp4".encode("cp1251")
    try:
        (tmp_path / os.fsdecode(name)).touch()
    except OSError:
        pytest.skip("the file system takes Unicode alone")
    (tmp_path / "list.csv").write_bytes(b"video,audio,out\n" + name + b",b.wav,c.mp4\n")
    (job,) = read_manifest(tmp_path / "list.csv")
    assert job.video.is_file()


def test_manifest_with_decomposed_accents_finds_composed_names_and_the_other_way_round(tmp_path: Path) -> None:
    forms = ("NFC", "NFD")
    for form, other in (forms, forms[::-1]):
        folder = tmp_path / form
        folder.mkdir()
        (folder / unicodedata.normalize(form, "vidéo.mp4")).touch()
        text = unicodedata.normalize(other, "video,audio,out\nvidéo.mp4,b.wav,c.mp4\n")
        (folder / "list.csv").write_text(text, encoding="utf-8")
        (job,) = read_manifest(folder / "list.csv")
        assert job.video.is_file()


def test_joined_manifests_marks_are_no_part_of_names(tmp_path: Path) -> None:
    lines = ("video,audio,out\n", "a.mp4,b.wav,c.mp4\n")
    (tmp_path / "list.csv").write_bytes(b"".join(codecs.BOM_UTF8 + line.encode() for line in lines))
    assert _names(read_manifest(tmp_path / "list.csv")) == [["a.mp4", "b.wav", "c.mp4"]]


def test_encoding_that_does_not_exist_or_does_not_fit_is_refused(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_bytes("video,audio,out\nvidéo.mp4,b.wav,c.mp4\n".encode("cp1252"))
    for name in ("martian", "base64"):
        with pytest.raises(UserError, match=f"--encoding: expected the name of an encoding.*{name}"):
            read_manifest(tmp_path / "list.csv", name)
    with pytest.raises(UserError, match="line 2: expected utf-8, found bytes that are none"):
        read_manifest(tmp_path / "list.csv", "utf-8")


@pytest.mark.parametrize("encoding", ["cp1251", "gb18030", "shift_jis", "mac_roman"])
def test_corpus_lists_in_a_legacy_encoding_are_read_as_their_videos_are_called(encoding: str, tmp_path: Path) -> None:
    name = LEGACY[encoding][0].removesuffix(".mp4").replace(" ", "")
    _hdtf(tmp_path, "Radio1.mp4 00:00-00:01\n")
    (tmp_path / f"{name}.mp4").write_bytes(b"x")
    (tmp_path / "RD_annotion_time.txt").write_bytes(f"{name}.mp4 00:02-00:03\n".encode(encoding))
    (tmp_path / "RD_crop_wh.txt").write_bytes(f"{name}_0.mp4 0 8 0 8\n".encode(encoding))
    (clip,) = find_sources("hdtf", tmp_path)
    assert (clip.path.stem, clip.start_s, clip.crop) == (name, 2.0, (0, 0, 8, 8))
    assert find_sources("hdtf", tmp_path, encoding=encoding) == [clip]
    clips = pd.DataFrame({"clip": [f"ann/{name}", "ann/b"]})
    (tmp_path / "list.txt").write_bytes(f"ann/{name}\n".encode(encoding))
    assert select_clips(clips, tmp_path / "list.txt")["clip"].tolist() == [f"ann/{name}"]


def test_lists_whose_odd_names_nothing_has_point_at_their_encoding(tmp_path: Path) -> None:
    _hdtf(tmp_path, "Radio1.mp4 00:00-00:01\n")
    (tmp_path / "RD_crop_wh.txt").write_text("видео_0.mp4 0 8 0 8\n", encoding="cp1251")
    (tmp_path / "RD_annotion_time.txt").write_text("видео.mp4 00:00-00:01\n", encoding="cp1251")
    with pytest.raises(UserError, match="if names look wrong, give the encoding of the lists: --encoding"):
        find_sources("hdtf", tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "video,audio,out\na.mp4,b.wav,c.mp4\n",
        "\n\n Video ,AUDIO,Out\n\n a.mp4 , b.wav,c.mp4 \n,,\n\n",
        '"video";"audio";"out"\n"a.mp4";"b.wav";"c.mp4"\n',
        "sep=;\r\nvideo;audio;out\r\na.mp4;b.wav;c.mp4\r\n",
        "speaker\tout\taudio\tvideo\tnote\nann\tc.mp4\tb.wav\ta.mp4\t1, 2; 3\n",
        "video,audio,out,,\na.mp4,b.wav,c.mp4,,,,\n",
        "out,video,audio,note\nc.mp4,a.mp4,b.wav\n",
    ],
)
def test_manifest_of_any_form_is_read(text: str, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text(text)
    (job,) = read_manifest(tmp_path / "list.csv")
    assert [path.name for path in (job.video, job.audio, job.out)] == ["a.mp4", "b.wav", "c.mp4"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "out is missing .it is empty"),
        (b"video,audio\na,b\n", "out is missing .found video, audio"),
        (b"video,audio,out,video\na,b,c,d\n", "each column once, found video 2 times"),
        (b"video,audio,out\n\na,b,c,d.mp4\n", "line 3: expected 3 fields .* got 4; .* must stand in quotes"),
        (b"video,audio,out\na,,c\n", "line 2: expected video, audio and out"),
        (b'video,audio,out\na,b,c\n"a,b,c\n', "line 3: expected fields with closed quotes"),
        (b"PK\x03\x04" + bytes(range(256)), "found a workbook or an archive; save it as text in UTF-8"),
        (b"\xef\xbb\xbfvideo,audio,out\na\xe9,b,c\n", "line 2: expected utf-8-sig, found bytes that are none; save it"),
        (b"\x7fELF" + bytes(range(1, 256)) * 9, "expected text, found the byte"),
        (codecs.BOM_UTF16_LE + b"a", "expected utf-16, found bytes that are none"),
    ],
)
def test_manifest_that_cannot_be_read_says_how_to_save_it(data: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_bytes(data)
    with pytest.raises(UserError, match=message) as caught:
        read_manifest(tmp_path / "list.csv")
    assert str(tmp_path / "list.csv") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_line_of_a_file_that_is_not_there_is_named_and_the_guess_reported(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_bytes("video,audio,out\nвидео.mp4,b.wav,c.mp4\n".encode("cp1251"))
    (result,) = dub_all(None, read_manifest(tmp_path / "list.csv"))  # type: ignore[arg-type]
    assert f"{tmp_path / 'list.csv'}: line 2: " in str(result.error)
    assert "no such file" in str(result.error)
    assert "was read as cp1252: if names look wrong, name its encoding, or save it as text in UTF-8" in str(
        result.error
    )


@pytest.mark.filterwarnings("ignore:.*not usable in this corpus .name")
@pytest.mark.parametrize("encoding", ["utf-8 marked", "utf-16-le marked", "utf-16-be", "cp1252"])
@pytest.mark.parametrize("form", ["{}\r\n", "{},é\n", '"{}";é\n', "{}\té\n", "{} NF é\n"])
def test_lists_of_corpora_in_any_form(encoding: str, form: str, tmp_path: Path) -> None:
    codec, mark = ENCODINGS[encoding]

    def write(name: str, text: str) -> None:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(mark + text.encode(codec))

    for name in ("lrs/main/55/00001.mp4", "cmlr/video/s1/20120904/section_4_003.mp4", "hdtf/Radio1.mp4"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(b"x")
    for split, names in {"train": ["55/00001"], "val": [], "test": []}.items():
        write(f"lrs/{split}.txt", "name\r\n" + "".join(form.format(name) for name in names))
    write("cmlr/train.csv", "name\n" + form.format("s1/20120904/section_4_003"))
    separator = form[2] if form[2] in ",\t" else ";" if ";" in form else " "
    for kind, words in {"annotion_time": "00:00-00:01", "crop_wh": "0 8 0 8", "resolution": "720"}.items():
        video = "Radio1_0.mp4" if kind == "crop_wh" else "Radio1.mp4"
        write(f"hdtf/RD_{kind}.txt", separator.join([video, *words.split()]) + "\r\n\r\n")
    assert [source.clip for source in find_sources("lrs2", tmp_path / "lrs")] == ["55/00001"]
    assert [source.split for source in find_sources("cmlr", tmp_path / "cmlr")] == ["train"]
    (clip,) = find_sources("hdtf", tmp_path / "hdtf")
    assert (clip.start_s, clip.stop_s, clip.crop, clip.crop_height) == (0.0, 1.0, (0, 0, 8, 8), 720)
    index = pd.DataFrame({"clip": ["s1/20120904/section_4_003", "ann/é 1, 2"]})
    assert len(select_clips(index, tmp_path / "cmlr" / "train.csv")) == 1


def test_list_of_clips_with_blanks_and_commas_in_their_names(tmp_path: Path) -> None:
    names = ["ann/take 1", "Smith, Ann/2", "bob/3"]
    (tmp_path / "list.txt").write_text('# chosen\nann/take 1\nSmith, Ann/2\n"bob/3",x\n')
    assert select_clips(pd.DataFrame({"clip": names}), tmp_path / "list.txt")["clip"].tolist() == names


def test_protocol_in_another_encoding_is_read(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_bytes("# é\r\nclips: 3\r\n".encode("utf-16"))
    assert load_protocol(tmp_path / "p.yaml").clips == 3


def test_any_bytes_are_read_or_refused_in_one_line(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    path = tmp_path / "list.csv"
    for size in range(200):
        data = rng.integers(0, 256, size, np.uint8).tobytes()
        for start in (b"", b"video,audio,out\n", codecs.BOM_UTF16_LE, codecs.BOM_UTF8 + b"video;audio;out\n"):
            path.write_bytes(start + data)
            for read in (read_text, lambda path: table_rows(read_text(path), ("video",)), read_manifest):
                try:
                    read(path)
                except UserError as error:
                    assert str(path) in str(error)  # noqa: PT017


# ---- HDTF's ranges and crops


def _hdtf(root: Path, times: str, crop: str = "0 8 0 8") -> Path:
    (root / "Radio1.mp4").write_bytes(b"x")
    (root / "RD_annotion_time.txt").write_text(times)
    count = len(times.split()) - 1
    (root / "RD_crop_wh.txt").write_text("".join(f"Radio1_{number}.mp4 {crop}\n" for number in range(count)))
    return root


def test_hdtf_empty_range_costs_its_clip_alone(tmp_path: Path) -> None:
    found = find_sources("hdtf", _hdtf(tmp_path, "Radio1.mp4 00:10-00:20 00:30-00:30 00:50-00:40\n"))
    faults = [source.fault for source in found]
    assert faults[0] == ""
    assert "empty time range, 00:30-00:30" in faults[1]
    assert "empty time range, 00:50-00:40" in faults[2]


def test_hdtf_overlapping_ranges_are_reported(tmp_path: Path) -> None:
    with pytest.warns(MissingVideosWarning, match=r"1 pairs of clips overlap in time.*Radio1_0 and 1"):
        assert len(find_sources("hdtf", _hdtf(tmp_path, "Radio1.mp4 00:10-00:20 00:15-00:30\n"))) == 2


def test_hdtf_name_on_two_lines_is_refused(tmp_path: Path) -> None:
    _hdtf(tmp_path, "Radio1.mp4 00:10-00:20\nRadio1.mp4 00:30-00:40\n")
    with pytest.raises(UserError, match=r"line 2: expected each name once, found Radio1 here and in .*line 1"):
        find_sources("hdtf", tmp_path)


def _source(**part: object) -> Source:
    return Source(Path("a.mp4"), "a.mp4", "a", "a/a", 0, 0, **part)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("crop", "size", "message"),
    [
        ((300, 0, 500, 200), (320, 240), r"partly outside the picture: 500x200 pixels from \(300, 0\).*of 320x240"),
        ((400, 0, 50, 50), (320, 240), "lies outside the picture"),
        ((0, 0, 0, 0), (320, 240), "lies outside the picture"),
        ((0, 230, 100, 100), (320, 240), "partly outside the picture"),
    ],
)
def test_crop_outside_the_picture_is_reported_with_both_sizes(
    crop: tuple[int, int, int, int], size: tuple[int, int], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        _source(crop=crop).crop_box(*size)


@pytest.mark.parametrize(
    ("start_s", "stop_s", "message"),
    [
        (20.0, 25.0, "20-25 s begins after the video's end at 12.0 s"),
        (8.0, 30.0, "8-30 s ends after the video's end at 12.0 s"),
        (8.0, 12.5, None),
    ],
)
def test_range_beyond_the_end_is_reported(start_s: float, stop_s: float, message: str | None) -> None:
    info = VideoInfo(Path("a.mp4"), 320, 240, 25, 300, 12.0, True)  # type: ignore[arg-type]
    source = _source(start_s=start_s, stop_s=stop_s)
    if message is None:
        _check_range(source, info)
    else:
        with pytest.raises(RejectedError, match=message):
            _check_range(source, info)
