"""Files that are no video or sound, or not all of it: each is named with what it is, wherever it is given."""

from __future__ import annotations

import gzip
import io
import os
import socket
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stsa_lightning.cli import main
from stsa_lightning.data.corpora.source import Source
from stsa_lightning.data.prepare import PrepareReport, PrepareSettings, prepare
from stsa_lightning.dubbing.dubber import check_no_input
from stsa_lightning.dubbing.manifest import Job
from stsa_lightning.dubbing.people_report import find_people
from stsa_lightning.dubbing.segments import read_segments
from stsa_lightning.evaluation.protocol import Protocol
from stsa_lightning.evaluation.run import evaluate_videos
from stsa_lightning.evaluation.videos import match, video_samples
from stsa_lightning.media.audio import AudioError, load_audio, write_wav
from stsa_lightning.media.stills import open_still
from stsa_lightning.media.video import VideoError, VideoReader, probe
from stsa_lightning.media.video_source import VideoSource
from stsa_lightning.utils.errors import UserError
from tests.field.media import Picture, SoundTrack, make_media, noise


def _zip() -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as archive:
        archive.writestr("a.mp4", b"x" * 100)
    return held.getvalue()


CONTENTS: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "is empty (0 bytes)"),
    "zeros": (bytes(5000), "holds nothing but zeros"),
    "text": (b"a text\n", "is a text"),
    "subtitles": (b"1\n00:00:00,000 --> 00:00:01,000\nhello\n", "is a text"),
    "pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12\n", "git lfs pull"),
    "page": (b"\n<!DOCTYPE html><html><title>403</title></html>", "is a web page"),
    "list": (b"ffconcat version 1.0\nfile good.mp4\n", "is a list of files"),
    "marked list": (b"\xef\xbb\xbf#EXTM3U\n#EXTINF:1,\ngood.mp4\n", "is a list of files"),
    "svg": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "is a drawing"),
    "pdf": (b"%PDF-1.7\n\x00\x01", "is a PDF document"),
    "zip": (_zip(), "is a zip archive"),
    "gzip": (gzip.compress(b"x" * 100), "is a gzip archive"),
    "noise": (bytes(range(256)) * 40, "no form that FFmpeg knows"),
}


@pytest.mark.parametrize("kind", CONTENTS)
def test_contents_that_are_no_media_are_named(kind: str, tmp_path: Path) -> None:
    data, expected = CONTENTS[kind]
    path = tmp_path / "a.mp4"
    path.write_bytes(data)
    for read, error in ((probe, VideoError), (load_audio, AudioError), (VideoSource, VideoError)):
        with pytest.raises(error) as raised:
            read(path)  # type: ignore[operator]
        assert str(raised.value).startswith(f"{path}: ")
        assert expected in str(raised.value)


def _bind(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(os.fspath(path))


ENTRIES: dict[str, tuple[Callable[[Path], object], str]] = {
    "pipe": (os.mkfifo, "is a named pipe, not a file"),
    "socket": (_bind, "is a socket, not a file"),
    "folder": (Path.mkdir, "is a folder, not a file"),
    "dead link": (lambda path: path.symlink_to("gone.mp4"), "is a link to gone.mp4, which is not there"),
    "loop": (lambda path: path.symlink_to(path.name), "which leads back to it"),
    "device": (lambda path: path.symlink_to("/dev/zero"), "is a device, not a file"),
}


@pytest.mark.parametrize("kind", ENTRIES)
def test_entry_that_is_no_file_is_named_everywhere(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make, expected = ENTRIES[kind]
    monkeypatch.chdir(tmp_path)  # a socket's path is limited to 108 bytes
    path = Path("a.mp4")
    make(path)
    Path("l.json").write_text('[{"start": 0, "speech": "a.mp4"}]')
    (tmp_path / "videos").mkdir()

    def refused(read: Callable[[], object]) -> str:
        with pytest.raises(UserError) as raised:
            read()
        return str(raised.value)

    messages = [
        refused(lambda: probe(path)),
        refused(lambda: load_audio(path)),
        refused(lambda: read_segments("l.json")),
    ]
    if kind != "folder":  # which may hold videos
        messages += [refused(lambda: match(path, Path("videos"))), refused(lambda: match(Path("videos"), path))]
        messages.append(refused(lambda: evaluate_videos(Path("videos"), path, Path("report"))))
        check_no_input(Path("o.mp4"), [path])
    if not path.exists():
        messages.append(refused(Job(path, path, Path("o.mp4"), "l.csv: line 2").check))
        assert messages[-1].startswith("l.csv: line 2: a.mp4: ")
    for message in messages:
        assert expected in message


@pytest.fixture
def picture() -> Picture:
    noisy = np.random.default_rng(0).integers(0, 256, (30, 48, 64, 3), np.uint8)
    return Picture(noisy, options={"crf": "10"}, gop=5)


def test_picture_without_a_decoder_is_refused(tmp_path: Path, picture: Picture) -> None:
    path = make_media(tmp_path / "a.mp4", picture=picture)
    path.write_bytes(path.read_bytes().replace(b"avc1", b"zzz1"))
    with pytest.raises(VideoError, match=r"a\.mp4: has a picture that FFmpeg has no decoder for; convert it to H\.264"):
        VideoSource(path)


@pytest.mark.parametrize(
    ("at", "value", "expected"),
    [
        (20, 0x1234, "FFmpeg has no decoder for it; convert it to WAV"),
        (24, 1, "2000 samples a second or more, found 1;"),
        (40, 0, "FFmpeg decodes no samples of it"),
    ],
)
def test_sound_with_a_header_that_lies_is_refused(at: int, value: int, expected: str, tmp_path: Path) -> None:
    write_wav(tmp_path / "a.wav", noise(0.1, 16_000))
    data = bytearray((tmp_path / "a.wav").read_bytes())
    data[at : at + 2] = value.to_bytes(2, "little")
    (tmp_path / "a.wav").write_bytes(data if value else data[:44])
    with pytest.raises(AudioError, match=expected):
        load_audio(tmp_path / "a.wav")


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("rate_hz", [16_000, 48_000])
def test_sound_of_numbers_that_are_none_names_its_file(value: float, rate_hz: int, tmp_path: Path) -> None:
    wave = noise(0.3, rate_hz)
    wave[1000:1010] = value
    path = make_media(tmp_path / "a.wav", SoundTrack(wave, rate_hz, codec="pcm_f32le"))
    with pytest.raises(AudioError, match=r"a\.wav: its sound holds NaN or infinite samples"):
        load_audio(path)


def test_video_that_is_cut_short_is_said(tmp_path: Path, picture: Picture) -> None:
    whole = make_media(tmp_path / "a.mp4", picture=picture, options={"movflags": "faststart"}).read_bytes()
    (tmp_path / "b.mp4").write_bytes(whole[: len(whole) // 2])
    with VideoSource(tmp_path / "b.mp4") as source:
        count = sum(1 for _ in source.scan())
        assert 5 < count < 25
        expected = f"{tmp_path / 'b.mp4'}: holds {count} of the 30 frames it states; is it cut short?"
        assert expected in source.warnings(count)
    with VideoSource(tmp_path / "b.mp4") as source:  # not all of it is looked at
        list(source.scan(0.1))
        assert source.warnings(3) == []
    assert expected in find_people(tmp_path / "b.mp4", progress=False).warnings
    with pytest.raises(VideoError, match="is it cut short"):
        VideoReader(tmp_path / "b.mp4")


def test_gif_without_times_runs_as_browsers_show_it(tmp_path: Path) -> None:
    frames = [Image.fromarray(np.full((32, 32, 3), 60 * number, np.uint8)) for number in range(4)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    with VideoSource(tmp_path / "a.gif") as source:
        assert [int(frame[0, 0, 0]) for frame in source.scan()] == [0, 60, 120, 180]
        np.testing.assert_allclose(source.times_s, [0, 0.1, 0.2, 0.3])


def test_large_picture_is_read_without_a_library_s_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # from which on Pillow warns; it refuses twice as many
    still = open_still(tmp_path / "a.png")
    assert still is not None
    still.close()
    # What other tests left open is closed, and warned of, whenever the garbage collector comes by.
    assert not [warning for warning in recwarn if not issubclass(warning.category, ResourceWarning)]
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    with pytest.raises(VideoError, match=r"a\.png: is a picture of more than .* pixels; scale it down"):
        open_still(tmp_path / "a.png")


# --------------------------------------------------------------------------------------------------------------- tracks


@pytest.fixture(scope="module")
def two_tracks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A rendered speaker, 1.2 s, with a second picture and a second sound."""
    import av

    from stsa_lightning.data.sample import render_sample

    root = tmp_path_factory.mktemp("tracks")
    render_sample(root, speakers=1, clips=1, seconds=1.2)
    video = next(root.rglob("*.mp4"))
    path = root / "ann" / "two.mkv"
    path.parent.mkdir()
    with av.open(str(path), "w") as target:
        for _ in range(2):
            with av.open(str(video)) as source:
                for stream in source.streams:
                    target.add_stream_from_template(stream)
        with av.open(str(video)) as source:
            count = len(source.streams)
            for packet in source.demux():
                if packet.dts is None:
                    continue
                index, data, stamps = packet.stream.index, bytes(packet), (packet.pts, packet.dts, packet.time_base)
                for stream in (target.streams[index], target.streams[index + count]):
                    copy = av.Packet(data)
                    copy.pts, copy.dts, copy.time_base = stamps
                    copy.is_keyframe = packet.is_keyframe
                    copy.stream = stream
                    target.mux(copy)
    return path


TRACKS = "has 2 picture tracks: track 1, its default, was taken"
SOUNDS = "has 2 sound tracks: track 1, its default, was taken"


def test_prepare_says_which_of_several_tracks_were_taken(two_tracks: Path, tmp_path: Path) -> None:
    status = two_tracks.stat()
    source = Source(two_tracks, "ann/two.mkv", "ann", "ann/two.mkv", status.st_size, status.st_mtime_ns)

    def run() -> PrepareReport:
        settings = PrepareSettings(face_size=64, sync="none")
        return prepare([source], tmp_path, settings, root=two_tracks.parents[1], workers=0, progress=False)

    report = run()
    assert report.notes == [("ann/two.mkv", f"{TRACKS}; {SOUNDS}")]
    assert f"  ann/two.mkv {TRACKS}; {SOUNDS}" in str(report).splitlines()
    (tmp_path / "index.parquet").unlink()
    again = run()
    assert (again.reused, again.notes) == (1, report.notes)


def test_evaluate_and_faces_say_which_of_several_tracks_were_taken(two_tracks: Path) -> None:
    (sample,) = video_samples("a", two_tracks, two_tracks, Protocol(baselines=False), "made")
    assert sum(TRACKS in note for note in sample.notes) == 2
    report = find_people(two_tracks, progress=False)
    assert report.warnings == (f"{two_tracks} {TRACKS}",)
    assert f"warning: {two_tracks} {TRACKS}" in str(report)


# ------------------------------------------------------------------------------------------------------------- commands


def test_evaluation_of_nothing_leaves_nothing(
    two_tracks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.mp4").write_bytes(b"a text\n")
    with pytest.raises(SystemExit):
        main(["evaluate", "videos", str(tmp_path / "a.mp4"), str(two_tracks), "--out", str(tmp_path / "report")])
    assert "a.mp4: is a text" in capsys.readouterr().err
    assert not (tmp_path / "report").exists()


def test_name_with_control_characters_does_not_reach_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a\x1b[31m\nred.mp4"
    path.write_bytes(b"a text\n")
    with pytest.raises(SystemExit):
        main(["faces", str(path), "-o", str(tmp_path / "o.json")])
    assert r"a\x1b[31m" in capsys.readouterr().err
