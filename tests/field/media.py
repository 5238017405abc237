"""Media files of any kind made by code (PyAV alone), and an independent reading of their sound.

`make_media` writes a picture and any number of sound tracks into any container that FFmpeg has a muxer for, with the
oddities that files have in the field: late starts, holes, damaged packets, turned or anamorphic pictures, tags.
`sound_by_stamps` is what tests compare with: frames as PyAV decodes them, put where their time stamps say by NumPy.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import scipy.signal
from av.stream import Disposition

Spans = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class SoundTrack:
    """One sound track of a file.

    Args:
        wave: (samples,) or (samples, channels) float in [-1, 1].
        rate_hz: of the wave and of the track.
        codec: FFmpeg's name of the encoder ("aac", "flac", "libmp3lame", "libopus", "mp2", "pcm_s16le", ...).
        start_s: time stamp of the first sample.
        layout: of the channels, by FFmpeg's name; None: the usual one of so many channels.
        holes: spans of the wave, seconds from its first sample, whose packets are left out.
        damaged: spans whose packets hold garbage.
        default: whether the track is marked as the one to be played.
        language: ISO 639-2, "" for none.
        packet_s: length of a packet where the codec leaves that open (PCM).
    """

    wave: np.ndarray
    rate_hz: int = 48_000
    codec: str = "aac"
    start_s: float = 0.0
    layout: str | None = None
    holes: Spans = ()
    damaged: Spans = ()
    default: bool = True
    language: str = ""
    packet_s: float = 0.01


@dataclass(frozen=True)
class Picture:
    """The picture of a file.

    Args:
        frames: (n, H, W, 3) uint8 RGB, or how many grey frames, each a little brighter than the one before.
        fps: frames a second.
        codec: FFmpeg's name of the encoder ("libx264", "libvpx", "mpeg4", ...).
        start_s: time stamp of the first frame.
        size: width and height of frames that are only counted.
        holes: spans, seconds from the first frame, whose frames are left out.
        rotation: by how many degrees a player turns the picture counter-clockwise; 0, 90, 180 or 270.
        sample_aspect_ratio: width of a pixel over its height.
        colour: FFmpeg's numbers by the codec context's names: {"colorspace": 1, "color_range": 1, ...}.
        pixels: FFmpeg's name of the pixel format.
        gop: frames from one key frame to the next.
        options: of the encoder.
        time_base: of the encoder's time stamps; None: 1/60000 s. AVI takes nothing but 1 / fps.
    """

    frames: np.ndarray | int = 25
    fps: Fraction | int = 25
    codec: str = "libx264"
    start_s: float = 0.0
    size: tuple[int, int] = (64, 48)
    holes: Spans = ()
    rotation: int = 0
    sample_aspect_ratio: Fraction | None = None
    colour: dict[str, int] = field(default_factory=dict)
    pixels: str = "yuv420p"
    gop: int = 12
    options: dict[str, str] = field(default_factory=dict)
    time_base: Fraction | None = None


FRAGMENTED = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}


def make_media(
    path: Path,
    sounds: Iterable[SoundTrack] | SoundTrack = (),
    picture: Picture | None = None,
    *,
    format: str | None = None,
    options: dict[str, str] | None = None,
) -> Path:
    """Write a media file.

    Args:
        path: of the file; its suffix names the container unless `format` does.
        sounds: its sound tracks, in their order.
        picture: None: sound alone.
        format: FFmpeg's name of the muxer.
        options: of the muxer; `FRAGMENTED` makes a fragmented mp4.

    Returns:
        `path`.
    """
    sounds = [sounds] if isinstance(sounds, SoundTrack) else list(sounds)
    packets: list[Any] = []
    with av.open(str(path), "w", format=format, options=options or {}) as container:
        picture_stream = None if picture is None else _picture_stream(container, picture)
        streams = [_sound_stream(container, sound) for sound in sounds]
        if picture is not None:
            packets += _picture_packets(picture_stream, picture)
        for stream, sound in zip(streams, sounds, strict=True):
            packets += _sound_packets(stream, sound)
        container.mux(sorted(packets, key=lambda packet: packet.dts * packet.time_base))
    return path


def _picture_stream(container: Any, picture: Picture) -> Any:
    options = {"preset": "ultrafast"} if picture.codec == "libx264" else {}
    stream = container.add_stream(picture.codec, rate=picture.fps, options=options | picture.options)
    whole = isinstance(picture.frames, np.ndarray)
    stream.width, stream.height = picture.frames.shape[2:0:-1] if whole else picture.size
    stream.pix_fmt, stream.gop_size = picture.pixels, picture.gop
    for name, value in picture.colour.items():
        setattr(stream.codec_context, name, value)
    if picture.sample_aspect_ratio is not None:
        stream.codec_context.sample_aspect_ratio = picture.sample_aspect_ratio
    if picture.rotation:
        stream.set_display_rotation(picture.rotation)
    return stream


def _picture_packets(stream: Any, picture: Picture) -> list[Any]:
    shown = range(picture.frames) if isinstance(picture.frames, int) else range(len(picture.frames))
    base = picture.time_base or Fraction(1, 60_000)
    stream.codec_context.time_base = base
    packets: list[Any] = []
    for number in shown:
        time_s = float(number / Fraction(picture.fps))
        if _lies_in(time_s, picture.holes):
            continue
        if isinstance(picture.frames, int):
            width, height = picture.size
            pixels = np.full((height, width, 3), 40 + number % 160, np.uint8)
        else:
            pixels = picture.frames[number]
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
        frame.pts, frame.time_base = round((time_s + picture.start_s) / base), base
        packets += stream.encode(frame)
    return packets + stream.encode(None)


def _sound_stream(container: Any, sound: SoundTrack) -> Any:
    stream = container.add_stream(sound.codec, rate=sound.rate_hz, layout=_layout(sound))
    stream.disposition = Disposition.default if sound.default else Disposition(0)
    if sound.language:
        stream.metadata["language"] = sound.language
    return stream


def _sound_packets(stream: Any, sound: SoundTrack) -> list[Any]:
    wave = np.asarray(sound.wave, np.float32)
    wave = wave[:, None] if wave.ndim == 1 else wave
    step = round(sound.packet_s * sound.rate_hz) if sound.codec.startswith("pcm") else 1024
    packets: list[Any] = []
    for start in range(0, len(wave), step):
        block = np.ascontiguousarray(wave[start : start + step]).reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(block, "flt", _layout(sound))
        frame.sample_rate, frame.time_base = sound.rate_hz, Fraction(1, sound.rate_hz)
        frame.pts = start + round(sound.start_s * sound.rate_hz)
        packets += stream.encode(frame)
    packets += stream.encode(None)
    kept = [packet for packet in packets if not _lies_in(_since_start_s(packet, sound), sound.holes)]
    return [_garbled(p) if _lies_in(_since_start_s(p, sound), sound.damaged) else p for p in kept]


def _garbled(packet: Any) -> Any:
    garbage = av.Packet(np.random.default_rng(packet.size).integers(0, 256, packet.size, np.uint8).tobytes())
    garbage.stream = packet.stream
    garbage.pts, garbage.dts, garbage.time_base = packet.pts, packet.dts, packet.time_base
    garbage.duration = packet.duration
    return garbage


def _since_start_s(packet: Any, sound: SoundTrack) -> float:
    return float(packet.pts * packet.time_base) - sound.start_s


def _lies_in(time_s: float, spans: Spans) -> bool:
    return any(start - 1e-9 <= time_s < stop - 1e-9 for start, stop in spans)


def _layout(sound: SoundTrack) -> str:
    channels = 1 if sound.wave.ndim == 1 else sound.wave.shape[1]
    usual = {1: "mono", 2: "stereo", 3: "3.0", 4: "quad", 5: "5.0", 6: "5.1", 7: "6.1", 8: "7.1"}
    return sound.layout or usual[channels]


# ---------------------------------------------------------------------------------------------------- what is compared


def noise(seconds: float, rate_hz: int, seed: int = 0) -> np.ndarray:
    """(samples,) band-limited noise: survives lossy codecs, and has one sharp peak of self-correlation."""
    white = np.random.default_rng(seed).standard_normal(round(seconds * rate_hz))
    band = scipy.signal.butter(4, [200, 3000], "band", fs=rate_hz, output="sos")
    return (0.2 * scipy.signal.sosfilt(band, white)).astype(np.float32)


def sound_by_stamps(path: Path, track: int = 0) -> tuple[np.ndarray, int]:
    """An independent reading: the mono sound (its channels' mean) at the file's own rate, and this rate.

    Sample 0 sounds when the first picture that can be decoded is shown; each frame lies where its stamp says.
    """
    origin = None
    with av.open(str(path)) as container:
        if container.streams.video:
            first = next(container.decode(video=0))
            origin = first.pts * first.time_base
    found: list[tuple[Fraction, np.ndarray]] = []
    with av.open(str(path)) as container:
        stream = container.streams.audio[track]
        for packet in container.demux(stream):
            try:
                frames = packet.decode()
            except av.error.FFmpegError:
                continue
            for frame in frames:
                samples = frame.to_ndarray().astype(np.float64)
                if frame.format.name in ("s16", "s16p"):
                    samples /= 32768
                if frame.format.name in ("s32", "s32p"):
                    samples /= 2.0**31
                channels = frame.layout.nb_channels
                samples = samples.mean(0) if frame.format.is_planar else samples.reshape(-1, channels).mean(1)
                found.append((frame.pts * frame.time_base, samples))
                rate_hz = frame.sample_rate
    origin = found[0][0] if origin is None else origin
    starts = [round((time - origin) * rate_hz) for time, _ in found]
    wave = np.zeros(max(0, max(start + len(s) for start, (_, s) in zip(starts, found, strict=True))))
    for start, (_, samples) in zip(starts, found, strict=True):
        if start + len(samples) > 0:
            wave[max(0, start) : start + len(samples)] = samples[max(0, -start) :]
    return wave.astype(np.float32), rate_hz


def resampled(wave: np.ndarray, rate_hz: int, to_hz: int = 16_000) -> np.ndarray:
    """(samples,) at another rate."""
    ratio = Fraction(to_hz, rate_hz)
    return scipy.signal.resample_poly(wave, ratio.numerator, ratio.denominator).astype(np.float32)


def lags_ms(found: np.ndarray, true: np.ndarray, rate_hz: int = 16_000, window_s: float = 0.3) -> np.ndarray:
    """By how many milliseconds `found` is later than `true`, window by window; NaN where it is half silent or more.

    Looks up to 60 ms to each side.
    """
    size, reach = round(window_s * rate_hz), round(0.06 * rate_hz)
    lags = []
    for start in range(0, len(true) - size + 1, size):
        window = true[start : start + size]
        around = np.pad(found, (reach, reach + size))[start : start + size + 2 * reach]
        steps = window[: size // 160 * 160].reshape(-1, 160)
        if np.mean(np.sqrt(np.mean(steps**2, axis=1)) > 5e-3) < 0.5:
            lags.append(np.nan)
            continue
        match = scipy.signal.correlate(around, window, "valid")
        lags.append((int(np.argmax(match)) - reach) / rate_hz * 1e3)
    return np.array(lags)
