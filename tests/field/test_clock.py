"""Sound lies on the clock of the picture to 5 ms, whatever container, rate, starts, holes and cuts."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile

import av
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stsa_lightning.data.corpora import find_sources
from stsa_lightning.data.extract import _load_sound
from stsa_lightning.dubbing.speech_features import Speech
from stsa_lightning.media.audio import AudioError, load_audio, other_audible_tracks, probe_audio
from stsa_lightning.media.audio_clock import in_seconds, placed, stretch
from stsa_lightning.media.mixing import to_mono
from stsa_lightning.media.stream import VideoStream
from stsa_lightning.media.video import VideoError, VideoReader, VideoWriter, probe
from stsa_lightning.media.video_source import VideoSource
from tests.field.media import (
    FRAGMENTED,
    Picture,
    SoundTrack,
    lags_ms,
    make_media,
    noise,
    picture_begins_s,
    resampled,
    sound_by_stamps,
)

RATE = 16_000
CONTAINERS = {  # suffix -> options of the muxer
    "mp4": ("mp4", None),
    "mov": ("mov", None),
    "mkv": ("mkv", None),
    "webm": ("webm", None),
    "ts": ("ts", None),
    "fragmented": ("mp4", FRAGMENTED),
}
FORMS = [
    *(("mp4", "aac", rate) for rate in (8000, 22_050, 44_100)),
    *(("mov", "pcm_s16le", rate) for rate in (8000, 16_000, 44_100, 96_000)),
    *(("mkv", "flac", rate) for rate in (22_050, 48_000, 96_000)),
    *(("ts", "aac", rate) for rate in (16_000, 44_100)),
    ("mkv", "aac", 44_100),
    ("mkv", "libmp3lame", 22_050),
    ("ts", "mp2", 48_000),
    ("webm", "libopus", 48_000),
    ("fragmented", "aac", 44_100),
    ("fragmented", "flac", 44_100),
]
STARTS = [(0, 0), (0, 0.3), (0.3, 0), (1, 1), (1, 1.3), (1000, 1000.3)]  # of the picture, of the sound
CUTS = [(None, 1.1), (0.7, 2.2), (2.6, None), (2.25, 3.4)]


def media(
    path: Path, container: str, sound: SoundTrack, picture_s: float | None = 0.0, frames: int = 20, fps: int = 5
) -> Path:
    suffix, options = CONTAINERS[container]
    codec = "libvpx" if suffix == "webm" else "libx264"
    picture = None if picture_s is None else Picture(frames, fps, codec, picture_s)
    return make_media(path / f"a.{suffix}", sound, picture, options=options)


def true_sound(path: Path) -> np.ndarray:
    return resampled(*sound_by_stamps(path))


def assert_on_the_clock(found: np.ndarray, true: np.ndarray, within_ms: float = 5.0) -> None:
    lags = lags_ms(found, true)
    assert np.isfinite(lags).any()
    assert np.nanmax(np.abs(lags)) <= within_ms, lags.round(2)


@pytest.mark.parametrize(("container", "codec", "rate_hz"), FORMS)
def test_load_audio_of_any_start_and_cut_is_on_the_clock(
    tmp_path: Path, container: str, codec: str, rate_hz: int
) -> None:
    number = FORMS.index((container, codec, rate_hz))
    picture_s, sound_s = STARTS[number % len(STARTS)]
    file = media(tmp_path, container, SoundTrack(noise(3.5, rate_hz), rate_hz, codec, sound_s), picture_s)
    true, whole = true_sound(file), load_audio(file)
    assert_on_the_clock(whole, true)
    start_s, stop_s = CUTS[number % len(CUTS)]
    part = load_audio(file, start_s=start_s, stop_s=stop_s)
    first, last = round((start_s or 0) * RATE), None if stop_s is None else round(stop_s * RATE)
    assert len(part) == len(whole[first:last]) or (last is None and abs(len(part) - len(whole[first:])) <= 16)
    assert_on_the_clock(part, true[first:last])


@pytest.mark.parametrize(("container", "codec", "rate_hz"), [("mp4", "flac", 22_050), ("mov", "pcm_s16le", 44_100)])
def test_load_audio_of_a_part_equals_the_whole_there(tmp_path: Path, container: str, codec: str, rate_hz: int) -> None:
    stereo = np.stack([noise(9, rate_hz, 1), noise(9, rate_hz, 2)], axis=1)
    file = media(tmp_path, container, SoundTrack(stereo, rate_hz, codec, 0.3), frames=45)
    for mono in (True, False):
        whole = load_audio(file, mono=mono)
        for start_s, stop_s in ((0.0, 1.0), (1.0, 1.04), (4.123, 6.7), (5.0, 9.0)):
            part = load_audio(file, start_s=start_s, stop_s=stop_s, mono=mono)
            expected = whole[round(start_s * RATE) : round(stop_s * RATE)]
            assert part.shape == expected.shape
            np.testing.assert_allclose(part[100:-100], expected[100:-100], atol=2e-5)


@pytest.mark.parametrize("hole_ms", [10, 40, 60, 99, 1500])
def test_load_audio_fills_holes_of_any_length(tmp_path: Path, hole_ms: int) -> None:
    wave = noise(4, 44_100)
    file = media(tmp_path, "mkv", SoundTrack(wave, 44_100, "pcm_s16le", holes=[(1.2, 1.2 + hole_ms / 1000)]))
    whole = load_audio(file)
    silent = wave.copy()
    silent[round(1.2 * 44_100) : round((1.2 + hole_ms / 1000) * 44_100)] = 0
    assert_on_the_clock(whole, resampled(silent, 44_100), within_ms=1.1)
    inside = whole[round(1.202 * RATE) : round((1.198 + hole_ms / 1000) * RATE)]
    assert np.abs(inside).max() < 0.05
    part = load_audio(file, start_s=3.0, stop_s=3.9)
    assert_on_the_clock(part, resampled(silent, 44_100)[3 * RATE : round(3.9 * RATE)], within_ms=1.1)


@pytest.mark.parametrize(("container", "codec"), [("mkv", "aac"), ("ts", "aac"), ("mp4", "aac"), ("mkv", "libmp3lame")])
def test_load_audio_of_many_lost_and_damaged_packets_does_not_drift(tmp_path: Path, container: str, codec: str) -> None:
    at = np.arange(0.5, 7, 0.45)
    lost, damaged = ([(t, t + 0.03) for t in times] for times in (at[::2], at[1::2]))
    sound = SoundTrack(noise(7, 44_100), 44_100, codec, holes=lost, damaged=damaged)
    file = media(tmp_path, container, sound, frames=35)
    assert_on_the_clock(load_audio(file), true_sound(file))
    # And against the sound that went in: what came first and what comes last are as far apart as they were.
    late = lags_ms(load_audio(file), resampled(sound.wave, 44_100))
    assert abs(late[0] - np.nanmedian(late[-4:])) <= 5


@settings(max_examples=6, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow], database=None)
@given(
    form=st.sampled_from(FORMS),
    picture_s=st.sampled_from([0, 0.04, 0.3, 2.0, 1000.0]),
    sound_late_s=st.floats(-0.5, 0.9),
    holes=st.lists(st.tuples(st.floats(0.2, 3.2), st.floats(0.01, 0.4)), max_size=4),
    cut=st.tuples(st.floats(0, 2.0), st.floats(0.7, 1.5)),
)
def test_load_audio_property(
    form: tuple[str, str, int],
    picture_s: float,
    sound_late_s: float,
    holes: list[tuple[float, float]],
    cut: tuple[float, float],
) -> None:
    container, codec, rate_hz = form
    sound_s = max(0.0, picture_s + sound_late_s)
    spans = [(start, start + length) for start, length in holes]
    with TemporaryDirectory() as folder:
        sound = SoundTrack(noise(3.6, rate_hz), rate_hz, codec, sound_s, holes=spans)
        file = media(Path(folder), container, sound, picture_s)
        true, whole = true_sound(file), load_audio(file)
        assert_on_the_clock(whole, true)
        start_s, stop_s = cut[0], cut[0] + cut[1]
        part = load_audio(file, start_s=start_s, stop_s=stop_s)
        assert len(part) == len(whole[round(start_s * RATE) : round(stop_s * RATE)])
        expected = true[round(start_s * RATE) : round(stop_s * RATE)]
        if np.isfinite(lags_ms(expected, expected)).any():
            assert_on_the_clock(part, expected)


def recut(source: Path, path: Path, from_s: float, later_s: float) -> Path:
    """Packets as they are from a time on, all of them later by some seconds; mp4 hides those before 0."""
    with av.open(str(source)) as old, av.open(str(path), "w") as new:
        streams = {s.index: new.add_stream_from_template(s) for s in (*old.streams.video, *old.streams.audio)}
        for packet in old.demux():
            if packet.pts is not None and packet.pts * packet.time_base >= from_s:
                packet.pts += round(later_s / packet.time_base)
                packet.dts += round(later_s / packet.time_base)
                packet.stream = streams[packet.stream.index]
                new.mux(packet)
    return path


@pytest.mark.parametrize(
    ("suffix", "start_s", "from_s", "later_s", "lost"),
    [
        ("ts", 0, 2.9, 0, True),  # cut within a group of pictures: the first cannot be decoded
        ("ts", 1000, 1002.9, 0, True),
        ("ts", 1000, 0, 0, False),
        ("mp4", 0, 0, -0.5, False),  # an edit list hides the first half second
    ],
)
def test_sound_and_every_reader_of_pictures_count_from_one_time(
    tmp_path: Path, suffix: str, start_s: float, from_s: float, later_s: float, lost: bool
) -> None:
    sound = SoundTrack(noise(4, 48_000), 48_000, "mp2" if suffix == "ts" else "aac", start_s)
    source = make_media(tmp_path / f"a.{suffix}", sound, Picture(100, 25, start_s=start_s))
    file = recut(source, tmp_path / f"cut.{suffix}", from_s, later_s)
    begin_s = picture_begins_s(file)
    with av.open(str(file)) as container:
        shown = [
            (float(f.pts * f.time_base - begin_s), f.to_ndarray(format="gray").mean())
            for f in container.decode(video=0)
        ]
    true_s, grey = np.array(shown).T
    assert (true_s[0] > 0.2) == lost
    assert_on_the_clock(load_audio(file), true_sound(file))

    true_s[0] = 0  # the first that can be shown stands for those before it
    served = np.array([frame.mean() for frame in VideoStream(file, 25)])
    nearest = np.abs(np.arange(len(served))[:, None] / 25 - true_s).argmin(1)
    assert len(np.unique(grey[nearest])) > 10  # each frame is a little brighter than the one before
    np.testing.assert_allclose(served, grey[nearest], atol=0.7)
    with VideoSource(file) as video_source, VideoReader(file) as reader:
        assert len(list(video_source.scan())) == len(true_s)
        np.testing.assert_allclose(video_source.times_s, true_s, atol=2e-3)
        np.testing.assert_allclose(reader.timestamps_s, true_s, atol=2e-3)


def test_hdtf_ranges_of_a_long_video_have_their_own_sound(tmp_path: Path) -> None:
    """The tree of HDTF: ranges of one video at 44.1 kHz, loaded as preparation loads them."""
    sound = SoundTrack(noise(26, 44_100), 44_100, "aac")
    make_media(tmp_path / "JohnDoe1.mp4", sound, Picture(26, 1))
    (tmp_path / "RD_annotion_time.txt").write_text("JohnDoe1.mp4 00:01-00:04 00:13-00:15 00:16-00:18 00:19-00:25\n")
    (tmp_path / "RD_crop_wh.txt").write_text("".join(f"JohnDoe1_{k}.mp4 0 48 0 48\n" for k in range(4)))
    true = true_sound(tmp_path / "JohnDoe1.mp4")
    sources = find_sources("hdtf", tmp_path)
    assert len(sources) == 4
    for source in sources:
        assert source.start_s is not None
        assert source.stop_s is not None
        with TemporaryFile() as file:
            found = _load_sound(source, probe(source.path), file)
            assert len(found) == (source.stop_s - source.start_s) * RATE
            assert_on_the_clock(np.array(found), true[round(source.start_s * RATE) : round(source.stop_s * RATE)], 1.0)


# ------------------------------------------------------------------------------------------- recordings put end to end


@pytest.mark.parametrize("frames", [8, 12])
@pytest.mark.parametrize("suffix", ["ts", "mkv"])
def test_recordings_of_a_fraction_of_a_second_put_end_to_end_are_one(tmp_path: Path, suffix: str, frames: int) -> None:
    seconds, count = frames / 25, 5
    with open(tmp_path / f"all.{suffix}", "wb") as out:
        for number in range(count):
            sound = SoundTrack(noise(seconds, 48_000, number), 48_000, "mp2" if suffix == "ts" else "flac", 0.0)
            grey = np.full((frames, 48, 64, 3), 60 + 30 * number, np.uint8)
            options = {"mpegts_copyts": "1"} if suffix == "ts" else {}
            part = make_media(tmp_path / f"{number}.{suffix}", sound, Picture(grey, 25, "libx264"), options=options)
            out.write(part.read_bytes())
    shown = np.array([frame.mean() for frame in VideoStream(tmp_path / f"all.{suffix}", 25)])
    np.testing.assert_allclose(shown, np.repeat(60 + 30 * np.arange(count), frames), atol=4)
    found = load_audio(tmp_path / f"all.{suffix}")
    for number in range(count):
        true = resampled(noise(seconds, 48_000, number), 48_000)
        first = round(number * seconds * RATE)
        assert_on_the_clock(found[first : first + len(true)], true, within_ms=40 if suffix == "ts" else 1.0)


@pytest.mark.parametrize("sound_late_s", [0.0, 0.3])
@pytest.mark.parametrize(
    ("suffix", "codecs", "starts_s"),
    [
        ("ts", ("libx264", "aac"), (0, 0, 0)),  # as `cat a.ts b.ts c.ts` makes them
        ("ts", ("libx264", "mp2"), (100, 50, 80_000)),  # back, and a day ahead
        ("mpg", ("mpeg1video", "mp2"), (0, 50, 0)),
        ("webm", ("libvpx", "libopus"), (0, 0, 0)),  # of Matroska FFmpeg alone reads two
        ("mkv", ("libx264", "flac"), (3, 0, 0)),
    ],
)
def test_recordings_put_end_to_end_are_one(
    tmp_path: Path, suffix: str, codecs: tuple[str, str], starts_s: tuple[float, ...], sound_late_s: float
) -> None:
    file, options = tmp_path / f"all.{suffix}", {"mpegts_copyts": "1"} if suffix == "ts" else {}
    with open(file, "wb") as out:
        for number, start_s in enumerate(starts_s):
            sound = SoundTrack(noise(1.5, 48_000, number), 48_000, codecs[1], start_s + sound_late_s)
            grey = np.full((40, 48, 64, 3), 60 + 60 * number, np.uint8)
            base = Fraction(1, 25) if suffix == "mpg" else None
            picture = Picture(grey, 25, codecs[0], start_s, time_base=base)
            part = make_media(
                tmp_path / f"{number}.{suffix}", sound, picture, format={"mpg": "mpeg"}.get(suffix), options=options
            )
            out.write(part.read_bytes())
    found, frames = load_audio(file), np.array([frame.mean() for frame in VideoStream(file, 25)])
    assert len(frames) == 40 * len(starts_s)
    for number in range(len(starts_s)):
        begin = 40 * number
        np.testing.assert_allclose(frames[begin : begin + 40], 60 + 60 * number, atol=3)
        true = resampled(noise(1.5, 48_000, number), 48_000)
        first = round((begin / 25 + sound_late_s) * RATE)
        assert_on_the_clock(found[first:], true[: round((1.6 - sound_late_s) * RATE)])
    first_s, stop_s = 1.7, 3.1
    part = load_audio(file, start_s=first_s, stop_s=stop_s)
    np.testing.assert_allclose(part[100:-100], found[27_200:49_600][100:-100], atol=2e-5)
    assert probe(file).duration_s == pytest.approx(1.6 * len(starts_s), abs=0.5)
    with VideoReader(file) as reader:
        np.testing.assert_allclose(reader.timestamps_s, np.arange(len(frames)) / 25, atol=2e-3)


DIFFERENT = {
    "another codec of the picture": (
        {"codec": "ffv1"},
        {},
        "track 1 is V_MPEG4/ISO/AVC of 64 x 48 pixels in the first",
    ),
    "another size": ({"size": (96, 80)}, {}, "V_MPEG4/ISO/AVC of 96 x 80 pixels in number 3"),
    "other pixels": ({"pixels": "yuv444p"}, {}, "track 1 is"),
    "another codec of the sound": ({}, {"codec": "aac"}, "track 2 is A_PCM/INT/LIT of 48000 Hz in the first, A_AAC of"),
    "another rate": ({}, {"rate_hz": 44_100}, "A_PCM/INT/LIT of 44100 Hz in number 3"),
    "no picture": (None, {}, "track 1 is V_MPEG4/ISO/AVC of 64 x 48 pixels in the first, A_PCM/INT/LIT of 48000 Hz"),
}


@pytest.mark.parametrize("kind", DIFFERENT)
def test_recordings_put_end_to_end_that_differ_are_refused(tmp_path: Path, kind: str) -> None:
    """A decoder would cut the picture where the other form begins, and play the other sound's bytes as noise."""
    picture, sound, expected = DIFFERENT[kind]
    track = SoundTrack(noise(0.4, 48_000), 48_000, "pcm_s16le")
    usual = make_media(tmp_path / "a.mkv", track, Picture(10)).read_bytes()
    other = replace(track, **sound)
    make_media(tmp_path / "b.mkv", other, None if picture is None else replace(Picture(10), **picture))
    file = tmp_path / "all.mkv"
    file.write_bytes(2 * usual + (tmp_path / "b.mkv").read_bytes())
    for read, error in ((probe, VideoError), (load_audio, AudioError)):
        with pytest.raises(error) as raised:
            read(file)  # type: ignore[operator]
        assert f"{file}: holds 3 recordings end to end whose tracks differ: " in str(raised.value)
        assert expected in str(raised.value)


def test_recordings_put_end_to_end_of_which_a_later_one_is_silent_are_one(tmp_path: Path) -> None:
    sound = SoundTrack(noise(0.4, 48_000), 48_000, "flac")
    parts = [make_media(tmp_path / "a.mkv", sound, Picture(10)), make_media(tmp_path / "b.mkv", (), Picture(10))]
    (tmp_path / "all.mkv").write_bytes(b"".join(part.read_bytes() for part in parts))
    assert sum(1 for _ in VideoStream(tmp_path / "all.mkv")) == 20
    assert len(load_audio(tmp_path / "all.mkv")) == pytest.approx(0.4 * RATE, abs=100)


@pytest.mark.parametrize(("suffix", "codec"), [("mp4", "aac"), ("mov", "pcm_s16le"), ("avi", "pcm_s16le")])
@pytest.mark.parametrize("options", [{}, FRAGMENTED], ids=["whole", "fragmented"])
def test_files_put_end_to_end_that_decoders_stop_reading_are_refused(
    tmp_path: Path, suffix: str, codec: str, options: dict[str, str]
) -> None:
    """`cat a.mp4 b.mp4`: only the first is ever read."""
    options = {} if suffix == "avi" else options
    sound = SoundTrack(noise(0.4, 48_000), 48_000, codec)
    one = make_media(tmp_path / f"a.{suffix}", sound, Picture(10), options=options)
    assert probe(one).has_audio
    file = tmp_path / f"all.{suffix}"
    file.write_bytes(2 * one.read_bytes())
    said = f"{file}: expected one recording, found another from byte {one.stat().st_size:,} on"
    for read, error in ((probe, VideoError), (load_audio, AudioError)):
        with pytest.raises(error) as raised:
            read(file)  # type: ignore[operator]
        assert said in str(raised.value)


def test_sound_files_put_end_to_end_are_refused_and_others_are_not(tmp_path: Path) -> None:
    one = make_media(tmp_path / "a.wav", SoundTrack(noise(0.4, 48_000), 48_000, "pcm_s16le"))
    (tmp_path / "two.wav").write_bytes(2 * one.read_bytes())
    with pytest.raises(AudioError, match="expected one recording"):
        load_audio(tmp_path / "two.wav")
    stated = bytearray(one.read_bytes())
    stated[4:8] = b"\xff" * 4  # as programs write that do not know the length yet
    for name, content in {"stream.wav": bytes(stated), "tail.wav": one.read_bytes() + b"RIFFnoise"}.items():
        (tmp_path / name).write_bytes(content)
        assert len(load_audio(tmp_path / name)) == pytest.approx(0.4 * RATE, abs=10)


# ---------------------------------------------------------------------------------------------------- frames by stamps


def frame(
    position: int | None, samples: np.ndarray, rate_hz: int = 1000, base: Fraction | None = None
) -> av.AudioFrame:
    made = av.AudioFrame.from_ndarray(samples[None].astype(np.float32), "flt", "mono")
    made.sample_rate, made.pts, made.time_base = rate_hz, position, base or Fraction(1, rate_hz)
    return made


def on_grid(frames: list[av.AudioFrame], follows_picture: bool = True) -> np.ndarray:
    counted = [(made, made.samples) for made in frames]
    pieces = placed(counted, 1000, Fraction(1, 1000), Fraction(0), follows_picture)
    return np.concatenate([block[0] for block in stretch(in_seconds(pieces, 1000, 0), 1000, 0, None)])


def test_placed_jitter_is_joined_without_a_break() -> None:
    wave = np.arange(1, 2001, dtype=np.float32)
    jitter = np.random.default_rng(0).integers(-1, 2, 100)
    jitter[0] = 0
    found = on_grid([frame(20 * k + int(jitter[k]), wave[20 * k : 20 * k + 20]) for k in range(100)])
    np.testing.assert_array_equal(found, wave)


def test_placed_overlap_keeps_the_earlier_frame() -> None:
    found = on_grid([frame(0, np.full(100, 1.0)), frame(50, np.full(100, 2.0)), frame(150, np.full(10, 3.0))])
    np.testing.assert_array_equal(found, np.repeat([1.0, 2.0, 3.0], [100, 50, 10]))


def test_placed_without_stamps_goes_on() -> None:
    found = on_grid([frame(None, np.full(30, k + 1.0)) for k in range(4)])
    np.testing.assert_array_equal(found, np.repeat([1.0, 2.0, 3.0, 4.0], 30))


def test_placed_one_wrong_stamp_moves_nothing() -> None:
    frames = [frame(20 * k, np.full(20, k + 1.0)) for k in range(100)]
    frames[60].pts = 36_000_000
    np.testing.assert_array_equal(on_grid(frames), np.repeat(np.arange(1.0, 101), 20))


def test_placed_stamps_that_begin_anew_go_on_where_there_is_no_picture() -> None:
    frames = [frame(20 * (k % 100), np.full(20, k + 1.0)) for k in range(200)]
    np.testing.assert_array_equal(on_grid(frames, follows_picture=False), np.repeat(np.arange(1.0, 201), 20))
    np.testing.assert_array_equal(on_grid(frames), np.repeat(np.arange(1.0, 101), 20))


def test_load_audio_of_a_rate_that_changes_midway_is_on_the_clock(tmp_path: Path) -> None:
    """MPEG-TS as broadcasters join it: another rate and another number of channels."""
    parts = []
    for number, (rate_hz, wide) in enumerate([(48_000, False), (32_000, True)]):
        wave = noise(2, rate_hz, number)
        sound = SoundTrack(np.stack([wave, wave], 1) if wide else wave, rate_hz, "mp2", 2.1 * number)
        options = {"mpegts_copyts": "1"}
        parts.append(make_media(tmp_path / f"{number}.ts", sound, options=options).read_bytes())
    (tmp_path / "a.ts").write_bytes(b"".join(parts))
    found = load_audio(tmp_path / "a.ts")
    assert_on_the_clock(
        found[: 2 * RATE], resampled(noise(2, 48_000, 0), 48_000), within_ms=40
    )  # the codec's own delay
    assert_on_the_clock(found[round(2.1 * RATE) :], resampled(noise(2, 32_000, 1), 32_000), within_ms=40)


# -------------------------------------------------------------------------------------------------------------- mixing


def mixed(channels: np.ndarray, names: list[str]) -> np.ndarray:
    blocks = [(k, channels[:, k : k + 8000].astype(np.float32)) for k in range(0, channels.shape[1], 8000)]
    return np.concatenate([block[0] for _, block in to_mono(blocks, 8000, names)])


def level(wave: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(wave, dtype=np.float64))))


SPEECH, OTHER = noise(4, 8000, 1), noise(4, 8000, 2)
FIVE_ONE = ["FL", "FR", "FC", "LFE", "BL", "BR"]
ZERO = np.zeros_like(SPEECH)


@pytest.mark.parametrize(
    ("channels", "names"),
    [
        ([SPEECH, SPEECH], ["FL", "FR"]),
        ([SPEECH, -SPEECH], ["FL", "FR"]),
        ([SPEECH, -0.5 * SPEECH], ["FL", "FR"]),
        ([-0.7 * SPEECH, SPEECH], ["FL", "FR"]),
        ([SPEECH, ZERO], ["FL", "FR"]),
        ([ZERO, SPEECH], ["FL", "FR"]),
        ([SPEECH + 0.3, -SPEECH + 0.3], ["FL", "FR"]),
        ([ZERO, ZERO, SPEECH, 4 * OTHER, ZERO, ZERO], FIVE_ONE),
        ([SPEECH, -SPEECH, ZERO, ZERO, SPEECH, -SPEECH], FIVE_ONE),
        ([ZERO, ZERO, ZERO, ZERO, ZERO, ZERO, -SPEECH, SPEECH], [*FIVE_ONE, "SL", "SR"]),
        ([SPEECH, -SPEECH, -SPEECH], ["FL", "FR", "FC"]),
        ([SPEECH], ["FC"]),
        ([SPEECH], ["LFE"]),
    ],
)
def test_to_mono_is_as_loud_as_the_loudest_and_nothing_cancels(channels: list[np.ndarray], names: list[str]) -> None:
    found = mixed(np.array(channels), names)
    found = found - found.mean()
    assert abs(20 * np.log10(level(found) / level(SPEECH))) < 0.5
    assert abs(np.corrcoef(found, SPEECH)[0, 1]) > 0.999


def test_to_mono_of_equal_channels_is_their_mean() -> None:
    np.testing.assert_allclose(mixed(np.array([SPEECH, SPEECH]), ["FL", "FR"]), SPEECH, atol=1e-6)


def test_to_mono_keeps_two_speakers() -> None:
    found = mixed(np.array([SPEECH, OTHER]), ["FL", "FR"])
    for voice in (SPEECH, OTHER):
        assert np.corrcoef(found, voice)[0, 1] > 0.65


def test_to_mono_of_phases_that_change_never_fades() -> None:
    turned = SPEECH * np.repeat([1, -1, 1, -1], 8000)  # as joined takes may
    found = mixed(np.array([SPEECH, turned]), ["FL", "FR"])
    loudness = [level(found[k : k + 2000]) / level(SPEECH[k : k + 2000]) for k in range(0, len(found), 2000)]
    assert min(loudness) > 0.5


def test_load_audio_of_opposite_phases_is_loud(tmp_path: Path) -> None:
    wave = noise(3, 44_100)
    file = make_media(tmp_path / "a.m4a", SoundTrack(np.stack([wave, -wave], 1), 44_100, "aac"))
    found, true = load_audio(file), resampled(wave, 44_100)
    assert 0.8 < level(found) / level(true) < 1.2
    assert_on_the_clock(found, true)


# -------------------------------------------------------------------------------------------------------------- tracks


def two_tracks(path: Path, first_speaks: bool = False, second_is_default: bool = True) -> Path:
    silence, speech = np.zeros(RATE, np.float32), noise(1, RATE)
    first, second = (speech, silence) if first_speaks else (silence, speech)
    tracks = [
        SoundTrack(first, RATE, "flac", default=not second_is_default, language="eng"),
        SoundTrack(second, RATE, "flac", default=second_is_default, language="deu"),
    ]
    return make_media(path / "two.mkv", tracks, Picture(5, 5))


def test_load_audio_takes_the_default_track(tmp_path: Path) -> None:
    file = two_tracks(tmp_path)
    assert level(load_audio(file)) > 0.01
    assert level(load_audio(file, track=1)) == 0
    track = probe_audio(file)
    assert (track.number, track.count) == (2, 2)
    assert track.note == f"{file} has 2 sound tracks: track 2 (deu), its default, was taken"
    assert probe_audio(file, 2).note == ""
    with pytest.raises(AudioError, match=r"two\.mkv: expected a sound track \(--audio-track\) from 1 to 2, got 3"):
        load_audio(file, track=3)


def test_speech_of_a_silent_default_track_names_the_one_that_speaks(tmp_path: Path) -> None:
    from stsa_lightning.features.spectral import LogMel

    file = two_tracks(tmp_path, second_is_default=False)
    assert other_audible_tracks(probe_audio(file)) == [2]
    with Speech(file, LogMel()) as speech:
        assert not speech.audible
        assert "track 1 (eng), its default, was taken" in speech.notes[0]
        assert speech.notes[1] == (
            "the speech is silent throughout, but its sound track 2 is not: choose one with --audio-track"
        )
    with Speech(file, LogMel(), track=2) as speech:
        assert speech.audible
        assert speech.notes == ()


# ------------------------------------------------------------------------------------------------------------ channels


@pytest.mark.parametrize(
    ("layout", "channels", "written"),
    [("mono", 1, "mono"), ("stereo", 2, "stereo"), ("quad", 4, "quad"), ("5.1(side)", 6, "5.1"), ("7.1", 8, "7.1")],
)
def test_speech_and_writer_keep_channels_and_rate(tmp_path: Path, layout: str, channels: int, written: str) -> None:
    from stsa_lightning.features.spectral import LogMel

    own_hz = 44_100
    tones = [220 * (k + 2) for k in range(channels)]  # each channel a tone of its own; the LFE's is low
    if channels > 3 and "1" in layout:
        tones[3] = 60
    times = np.arange(own_hz) / own_hz
    wave = np.stack([0.3 * np.sin(2 * np.pi * hz * times) for hz in tones], axis=1).astype(np.float32)
    source = make_media(tmp_path / "a.wav", SoundTrack(wave, own_hz, "pcm_s16le", layout=layout))
    assert (probe_audio(source).layout, probe_audio(source).channels) == (layout, channels)
    with Speech(source, LogMel()) as speech:
        assert (speech.rate_hz, speech.layout) == (own_hz, layout)
        frames = np.zeros((15, 48, 64, 3), np.uint8)
        sound = speech.cut(0.6)
        with VideoWriter(tmp_path / "out.mp4", 25, (64, 48), sound, own_hz, layout=speech.layout) as writer:
            writer.write(frames)
    track = probe_audio(tmp_path / "out.mp4")
    assert (track.rate_hz, track.channels, track.layout) == (own_hz, channels, written)
    found = load_audio(tmp_path / "out.mp4", own_hz, mono=False).reshape(-1, channels)
    assert abs(len(found) - round(0.6 * own_hz)) <= 1
    for channel, hz in enumerate(tones):
        spectrum = np.abs(np.fft.rfft(found[4096 : 4096 + 16_384, channel] * np.hanning(16_384)))
        assert abs(np.argmax(spectrum) * own_hz / 16_384 - hz) < 5


def test_video_writer_refuses_channels_that_aac_has_not(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="1 to 8 channels, got 9"):
        VideoWriter(tmp_path / "a.mp4", 25, (64, 48), np.zeros((10, 9), np.float32))
    with pytest.raises(ValueError, match=r"layout: expected one of 2 channels, as the audio has, got '5\.1'"):
        VideoWriter(tmp_path / "a.mp4", 25, (64, 48), np.zeros((10, 2), np.float32), layout="5.1")
    assert not list(tmp_path.iterdir())
