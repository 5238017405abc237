"""Pictures as they come: shapes of pixels, orientations, stills, rates, containers, holes, broken starts."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.stream import Disposition
from PIL import Image

from stsa_lightning.dubbing.dubber import fitted_schedule
from stsa_lightning.media.container import VideoError
from stsa_lightning.media.stream import VideoStream
from stsa_lightning.media.video import VideoReader, probe
from stsa_lightning.media.video_source import VideoSource
from tests.field.pictures import corners, encode, turn


def shown(path: Path) -> np.ndarray:
    """The first frame, the same by all three readers and of the size that `probe` says."""
    info = probe(path)
    with VideoReader(path) as reader:
        found = reader.get([0])[0]
    with VideoSource(path) as video_source:
        np.testing.assert_array_equal(next(video_source.scan()), found)
    np.testing.assert_array_equal(next(iter(VideoStream(path))), found)
    assert found.shape == (info.height, info.width, 3)
    return found


def same(found: np.ndarray, picture: np.ndarray, limit: float = 6) -> bool:
    """Whether the quarters of two pictures have the same colours, at any size."""
    spots = [(y, x) for y in (0.25, 0.75) for x in (0.25, 0.75)]

    def colours(image: np.ndarray) -> np.ndarray:
        places = [(int(y * image.shape[0]), int(x * image.shape[1])) for y, x in spots]
        return np.array([image[y - 2 : y + 3, x - 2 : x + 3].mean((0, 1)) for y, x in places])

    return bool(np.abs(colours(found) - colours(picture)).max() < limit)


def numbered(count: int, width: int = 64, height: int = 48) -> list[np.ndarray]:
    """Grey frames that tell their number."""
    return [np.full((height, width, 3), 10 + 4 * number, np.uint8) for number in range(count)]


def numbers(frames: list[np.ndarray]) -> list[int]:
    return [round((float(frame.mean()) - 10) / 4) for frame in frames]


# --------------------------------------------------------------------------------------------------- shape and position

# Display matrix (a, b, c, d) -> what a viewer does to the stored picture.
ORIENTATIONS = {
    (1, 0, 0, 1): lambda p: p,
    (-1, 0, 0, 1): lambda p: p[:, ::-1],
    (-1, 0, 0, -1): lambda p: p[::-1, ::-1],
    (1, 0, 0, -1): lambda p: p[::-1],
    (0, 1, 1, 0): lambda p: p.transpose(1, 0, 2),
    (0, 1, -1, 0): lambda p: np.rot90(p, -1),
    (0, -1, -1, 0): lambda p: np.rot90(p.transpose(1, 0, 2), 2),
    (0, -1, 1, 0): lambda p: np.rot90(p, 1),
}


@pytest.mark.parametrize("matrix", ORIENTATIONS)
@pytest.mark.parametrize("aspect", [None, Fraction(4, 3), Fraction(8, 9)])
def test_video_any_pixel_aspect_and_orientation_is_shown_as_players_show_it(
    tmp_path: Path, matrix: tuple[int, int, int, int], aspect: Fraction | None
) -> None:
    picture = corners(96, 64)
    path = encode(tmp_path / "a.mp4", [picture] * 2, aspect=aspect)
    turn(path, matrix)
    expected = ORIENTATIONS[matrix](picture)
    width, height = {None: (96, 64), Fraction(4, 3): (128, 64), Fraction(8, 9): (96, 72)}[aspect]
    found = shown(path)
    assert found.shape[:2] == ((width, height) if expected.shape[0] == 96 else (height, width))
    assert same(found, expected)


def test_video_impossible_pixel_aspect_is_taken_for_square(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.mkv", [corners(64, 48)], aspect=Fraction(255, 1))
    assert shown(path).shape == (48, 64, 3)


def test_video_size_that_changes_is_fitted_into_the_first(tmp_path: Path) -> None:
    small = encode(tmp_path / "a.ts", [corners(64, 48)] * 20, format="mpegts")
    large = encode(tmp_path / "b.ts", [corners(128, 64)] * 20, format="mpegts")
    (tmp_path / "c.ts").write_bytes(small.read_bytes() + large.read_bytes())
    with VideoSource(tmp_path / "c.ts") as video_source:
        frames = list(video_source.scan())
        assert {frame.shape for frame in frames} == {(48, 64, 3)}
        assert len(frames) == 40
        assert same(frames[-1][8:40], corners(64, 32))
        assert frames[-1][:7].max() < 3  # black above what is wider
        np.testing.assert_array_equal(next(video_source.read([25])), frames[25])


@pytest.mark.parametrize("default", [0, 1])
def test_of_two_pictures_the_default_one_is_shown(tmp_path: Path, default: int) -> None:
    pictures = [np.full((48, 64, 3), 60, np.uint8), corners(64, 48)]
    with av.open(str(tmp_path / "a.mkv"), "w") as file:
        streams = [file.add_stream("libx264", rate=25, options={"crf": "0"}) for _ in pictures]
        for number, stream in enumerate(streams):
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            stream.disposition = Disposition.default if number == default else Disposition(0)
        for _ in range(5):
            for stream, picture in zip(streams, pictures, strict=True):
                file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        for stream in streams:
            file.mux(stream.encode())
    assert same(shown(tmp_path / "a.mkv"), pictures[default], limit=12)


def test_raw_dv_has_the_rate_of_its_frames(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.dv", [corners(720, 576)] * 6, codec="dvvideo", format="dv")
    assert probe(path).fps == 25
    assert probe(path).frames == 6
    assert shown(path).shape == (576, 768, 3)


# --------------------------------------------------------------------------------------------------------------- stills


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "avif", "tiff"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_still_any_exif_orientation_is_upright(tmp_path: Path, suffix: str, orientation: int) -> None:
    picture = corners(64, 48)
    exif = Image.Exif()
    exif[274] = orientation
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(picture).save(path, exif=exif, quality=95)
    viewer: dict[int, np.ndarray] = {
        1: picture,
        2: picture[:, ::-1],
        3: picture[::-1, ::-1],
        4: picture[::-1],
        5: picture.transpose(1, 0, 2),
        6: np.rot90(picture, -1),
        7: np.rot90(picture.transpose(1, 0, 2), 2),
        8: np.rot90(picture, 1),
    }
    found = shown(path)
    assert found.shape == viewer[orientation].shape
    assert same(found, viewer[orientation], limit=12)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "avif", "bmp", "tiff", "gif", "tga", "ppm", "jp2"])
def test_still_any_format_is_a_video_of_one_frame(tmp_path: Path, suffix: str) -> None:
    Image.fromarray(corners(64, 48)).save(tmp_path / f"a.{suffix}")
    assert same(shown(tmp_path / f"a.{suffix}"), corners(64, 48), limit=12)
    info = probe(tmp_path / f"a.{suffix}")
    assert (info.fps, info.frames, info.duration_s, info.has_audio) == (25, 1, 0.04, False)


def test_still_any_kind_of_pixel_is_shown_on_white(tmp_path: Path) -> None:
    picture = corners(64, 48)
    grey = np.round(picture.astype(float) @ [0.299, 0.587, 0.114])[..., None].repeat(3, -1)
    half = np.round(255 - (255 - picture.astype(float)) * 128 / 255)
    image = Image.fromarray(picture)
    deep = Image.fromarray((grey[..., 0] * 257).astype(np.uint16))
    veil = image.copy()
    veil.putalpha(128)
    for name, made, expected in [
        ("cmyk.jpg", image.convert("CMYK"), picture),
        ("grey.png", image.convert("L"), grey),
        ("deep.png", deep, grey),
        ("deep.tiff", deep, grey),
        ("palette.png", image.quantize(16), picture),
        ("alpha.png", veil, half),
        ("alpha.webp", veil, half),
        ("bits.png", image.convert("1"), None),
    ]:
        made.save(tmp_path / name)
        found = shown(tmp_path / name)
        assert expected is None or same(found, expected, limit=12), name


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("packing", ["raw", "packbits", "lzw", "deflate"])
@pytest.mark.parametrize("pixels", ["yuv420p", "yuv422p", "yuv444p"])
def test_still_tiff_of_luma_and_chroma_is_read(tmp_path: Path, pixels: str, packing: str) -> None:
    picture, path = corners(64, 48), tmp_path / "a.tiff"
    with av.open(str(path), "w", format="image2") as file:
        stream = file.add_stream("tiff", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, pixels
        stream.options = {"compression_algo": packing}
        for packet in (*stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")), *stream.encode()):
            file.mux(packet)
    assert same(shown(path), picture, limit=12)
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(VideoError, match="is it damaged"):
        shown(path)


def test_still_tiff_of_luma_and_chroma_that_is_stored_turned_is_refused(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(corners(64, 48)).convert("YCbCr").save(tmp_path / "a.tiff", exif=exif)
    with pytest.raises(VideoError, match=r"a.tiff: is a TIFF of uncompressed YCbCr.*; save it as PNG or JPEG"):
        shown(tmp_path / "a.tiff")


@pytest.mark.parametrize("suffix", ["webp", "gif", "png", "avif"])
def test_animation_any_format_is_a_video(tmp_path: Path, suffix: str) -> None:
    frames = [Image.fromarray(frame) for frame in numbered(5)]
    frames[0].save(tmp_path / f"a.{suffix}", save_all=True, append_images=frames[1:], duration=80, lossless=True)
    with VideoSource(tmp_path / f"a.{suffix}") as video_source:
        assert numbers(list(video_source.scan())) == list(range(5))
        np.testing.assert_allclose(video_source.times_s, 0.08 * np.arange(5), atol=0.011)
        assert numbers(list(video_source.read([3, 1, 4]))) == [3, 1, 4]
        assert float(video_source.rate) == pytest.approx(12.5, rel=0.05)


def test_still_that_is_damaged_is_reported_with_its_name(tmp_path: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 90, 3), np.uint8)).save(tmp_path / "a.jpg")
    (tmp_path / "a.jpg").write_bytes((tmp_path / "a.jpg").read_bytes()[:900])
    with pytest.raises(VideoError, match=r"a\.jpg: cannot be read as a picture"):
        probe(tmp_path / "a.jpg")


# ---------------------------------------------------------------------------------------------------------------- rates


@pytest.mark.parametrize("fps", [1, 3, 6, 10])
def test_schedule_rate_too_low_for_lips_is_raised_and_reported(tmp_path: Path, fps: int) -> None:
    path = encode(tmp_path / "a.mkv", numbered(2 * fps), base=Fraction(1, fps))
    with VideoSource(path) as video_source:
        list(video_source.scan())
        schedule = fitted_schedule(video_source, 1.6, "loop")
        assert video_source.out_fps == 25
        np.testing.assert_allclose(schedule.times_s, np.arange(40) / 25)
        assert schedule.source.tolist() == [int(k * fps / 25 + 1e-6) for k in range(40)]
        (message,) = video_source.warnings(len(video_source.times_s))
        assert f"has {fps} frames/s" in message


@pytest.mark.parametrize("fps", [Fraction(15), Fraction(15_000, 1001), Fraction(2997, 200)], ids=str)
def test_schedule_rate_of_15_however_it_is_counted_is_the_video_s_own(
    tmp_path: Path, fps: Fraction, monkeypatch: pytest.MonkeyPatch
) -> None:
    with VideoSource(encode(tmp_path / "a.mkv", numbered(9), base=1 / fps)) as video_source:
        monkeypatch.setattr(VideoSource, "rate", fps)  # as a container that holds a fraction states it
        list(video_source.scan())
        assert video_source.out_fps == fps
        assert video_source.warnings(9) == []


@pytest.mark.parametrize("hole_s", [0.2, 0.6])
def test_footage_hole_in_the_picture_is_reported_and_filled(tmp_path: Path, hole_s: float) -> None:
    stamps = [k + (round(25 * hole_s) if k > 9 else 0) for k in range(20)]
    path = encode(tmp_path / "a.mp4", numbered(20), stamps=stamps)
    with VideoSource(path) as video_source:
        list(video_source.scan())
        (message,) = video_source.warnings(20)
        assert f"stands still at 0.36 s (for {hole_s + 0.04:.2f} s)" in message
        assert video_source.warnings(9) == []
        schedule = fitted_schedule(video_source, 0.8 + hole_s, "loop")
        assert schedule.varying_times_s(Fraction(25)) is None
        assert (schedule.source == 9).sum() == 1 + round(25 * hole_s)


# ----------------------------------------------------------------------------------------------------------- containers


@pytest.mark.parametrize(
    ("name", "codec", "pixel", "format"),
    [
        ("a.mp4", "libsvtav1", "yuv420p", "mp4"),
        ("a.webm", "libvpx", "yuv420p", "webm"),
        ("a.webm", "libvpx-vp9", "yuv420p", "webm"),
        ("a.ts", "libx264", "yuv420p", "mpegts"),
        ("a.mts", "mpeg2video", "yuv420p", "mpegts"),
        ("a.mpg", "mpeg1video", "yuv420p", "mpeg"),
        ("a.wmv", "wmv2", "yuv420p", "asf"),
        ("a.flv", "flv", "yuv420p", "flv"),
        ("a.avi", "mpeg4", "yuv420p", "avi"),
        ("a.avi", "mjpeg", "yuvj420p", "avi"),
        ("a.mjpeg", "mjpeg", "yuvj420p", "mjpeg"),
        ("a.mov", "prores_ks", "yuv422p10le", "mov"),
        ("a.mkv", "ffv1", "yuv444p", "matroska"),
        ("a.mkv", "libx265", "yuv420p", "matroska"),
        ("a.h264", "libx264", "yuv420p", "h264"),
    ],
)
def test_readers_any_codec_and_container_serve_every_frame_in_any_order(
    tmp_path: Path, name: str, codec: str, pixel: str, format: str
) -> None:
    quiet = {"x265-params": "log-level=none"} if codec == "libx265" else {}
    path = encode(tmp_path / name, numbered(30, 64, 64), codec, pixel, options=quiet, format=format)
    expected = list(range(30))
    with VideoSource(path) as video_source:
        assert numbers(list(video_source.scan())) == expected
        assert numbers(list(video_source.read([29, 3, 4, 2, 20, 0]))) == [29, 3, 4, 2, 20, 0]
        assert video_source.out_fps == 25
        assert abs(video_source.info.duration_s - 1.2) < 0.1
    with VideoReader(path, fps=25) as reader:
        assert numbers(list(reader.get(expected))) == expected
    assert numbers(list(VideoStream(path))) == expected


def test_readers_start_anywhere_time_begins_at_the_first_frame(tmp_path: Path) -> None:
    for start in (-250, 1, 25_000):
        path = encode(tmp_path / f"{start}.mkv", numbered(30), stamps=[start + k for k in range(30)])
        with VideoSource(path) as video_source:
            assert numbers(list(video_source.scan())) == list(range(30))
            np.testing.assert_allclose(video_source.times_s, np.arange(30) / 25, atol=2e-3)
        assert numbers(list(VideoStream(path, 25, 0.4, 0.6))) == list(range(10, 15))


def test_footage_open_groups_of_pictures_are_sought_without_broken_frames(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 60, (60, 48, 64, 1), np.uint8)
    frames = [np.clip(f.astype(int) + n, 0, 255).astype(np.uint8) for f, n in zip(numbered(60), noise, strict=True)]
    options = {"crf": "10", "x264-params": "open-gop=1:keyint=12:min-keyint=12:bframes=3:scenecut=0:b-adapt=0"}
    path = encode(tmp_path / "a.mp4", frames, options=options)
    with VideoSource(path) as video_source:
        scanned = list(video_source.scan())
        for number in (36, 35, 34, 33, 50, 11, 59, 24, 22):
            np.testing.assert_array_equal(next(video_source.again().read([number])), scanned[number])


def test_readers_broken_first_packets_are_left_out(tmp_path: Path) -> None:
    options = {"x264-params": "keyint=10:min-keyint=10:scenecut=0:bframes=0"}
    path = encode(tmp_path / "a.ts", numbered(40), options=options, format="mpegts")
    data = bytearray(path.read_bytes())
    packets = len(data) // 188
    cut = tmp_path / "cut.ts"
    cut.write_bytes(bytes(data[: 3 * 188]) + bytes(data[(packets // 5) * 188 :]))
    with VideoSource(cut) as video_source:
        found = numbers(list(video_source.scan()))
        assert len(found) >= 20
        assert found == list(range(found[0], 40))
        assert found[0] % 10 == 0  # a key frame
        assert numbers(list(video_source.read([0, len(found) - 1]))) == [found[0], 39]
    with VideoReader(cut) as reader:
        assert numbers(list(reader.get(range(len(reader))))) == found


def test_footage_recordings_end_to_end_are_all_shown(tmp_path: Path) -> None:
    first = encode(tmp_path / "a.ts", numbered(60), format="mpegts")
    (tmp_path / "b.ts").write_bytes(2 * first.read_bytes())
    with VideoSource(tmp_path / "b.ts") as video_source:
        assert numbers(list(video_source.scan())) == 2 * list(range(60))
        assert numbers(list(video_source.read([100, 30, 60]))) == [40, 30, 0]


def test_probe_edit_list_that_hides_most_is_no_sign_of_damage(tmp_path: Path) -> None:
    whole = encode(tmp_path / "a.mp4", numbered(50), options={"x264-params": "keyint=50"})
    with av.open(str(whole)) as source, av.open(str(tmp_path / "b.mp4"), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.pts, packet.dts = packet.pts - 30 * 512, packet.dts - 30 * 512
                packet.stream = stream
                target.mux(packet)
    found = numbers(list(VideoStream(tmp_path / "b.mp4")))
    assert found[-1] == 49
    with VideoReader(tmp_path / "b.mp4") as reader:
        assert numbers(list(reader.get(range(len(reader))))) == found
