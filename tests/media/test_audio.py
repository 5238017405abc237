from __future__ import annotations

import wave as wave_file
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import scipy.fftpack
import scipy.signal

from stsa_lightning.features.base import FEATURE_DIMS, FeatureKind, feature_windows
from stsa_lightning.features.build import audio_features
from stsa_lightning.features.spectral import mel_filters
from stsa_lightning.media.audio import AudioError, load_audio, probe_audio, write_wav


def noise(samples: int, rate_hz: int = 16_000, seed: int = 0) -> np.ndarray:
    """Band-limited noise: survives a lossy codec, and has one sharp peak of self-correlation."""
    white = np.random.default_rng(seed).standard_normal(samples)
    band = scipy.signal.butter(4, [200, 3000], "band", fs=rate_hz, output="sos")
    return (0.2 * scipy.signal.sosfilt(band, white)).astype(np.float32)


def lag(found: np.ndarray, true: np.ndarray) -> int:
    """By how many samples `found` is later than `true`."""
    return int(np.argmax(scipy.signal.correlate(found, true))) - (len(true) - 1)


def mux(
    path: Path, wave: np.ndarray, rate_hz: int, codec: str, *, video_from: float | None = None, audio_from: float = 0.0
) -> None:
    """A media file by PyAV alone, its streams beginning at the given times (s)."""
    with av.open(str(path), "w") as container:
        if video_from is not None:
            picture = container.add_stream("libx264", rate=25)
            picture.width = picture.height = 64
            picture.pix_fmt = "yuv420p"
        sound = container.add_stream(codec, rate=rate_hz, layout="mono")
        for k in range(25 if video_from is not None else 0):
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), k, np.uint8), format="rgb24")
            frame.pts = k + round((video_from or 0) * 25)
            container.mux(picture.encode(frame))
        if video_from is not None:
            container.mux(picture.encode())
        for start in range(0, len(wave), 1024):
            block = wave[start : start + 1024]
            frame = av.AudioFrame.from_ndarray(np.round(block[None] * 32767).astype(np.int16), "s16", "mono")
            frame.sample_rate, frame.time_base = rate_hz, Fraction(1, rate_hz)
            frame.pts = start + round(audio_from * rate_hz)
            container.mux(sound.encode(frame))
        container.mux(sound.encode())


# ---------------------------------------------------------------------------------------------------------------- files


def test_wav_round_trip_is_exact(tmp_path: Path) -> None:
    true = np.round(noise(5000) * 32768) / 32768
    write_wav(tmp_path / "a.wav", true)
    found = load_audio(tmp_path / "a.wav")
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, true.astype(np.float32))
    assert [p.name for p in tmp_path.iterdir()] == ["a.wav"]


def test_write_wav_clips_and_stores_16_bit(tmp_path: Path) -> None:
    write_wav(tmp_path / "a.wav", np.array([2.0, -2.0, 0.0], np.float32), 8000)
    with wave_file.open(str(tmp_path / "a.wav")) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (8000, 1, 2)
        assert np.frombuffer(file.readframes(3), "<i2").tolist() == [32767, -32768, 0]


@pytest.mark.parametrize(
    ("name", "codec", "rate_hz"),
    [("a.m4a", "aac", 16_000), ("a.mp4", "aac", 44_100), ("a.flac", "flac", 48_000), ("a.mp3", "libmp3lame", 44_100)],
)
def test_compressed_sound_is_not_shifted(tmp_path: Path, name: str, codec: str, rate_hz: int) -> None:
    wave = noise(2 * rate_hz, rate_hz)
    mux(tmp_path / name, wave, rate_hz, codec)
    assert probe_audio(tmp_path / name).rate_hz == rate_hz
    found = load_audio(tmp_path / name, rate_hz)
    assert abs(lag(found, wave)) <= rate_hz // 1000
    assert abs(len(found) - len(wave)) <= 2400


@pytest.mark.parametrize(("video_from", "audio_from"), [(0.0, 0.0), (0.4, 0.0), (0.0, 0.4), (0.2, 0.52)])
def test_sound_is_on_the_clock_of_the_picture(tmp_path: Path, video_from: float, audio_from: float) -> None:
    wave = noise(32_000)
    mux(tmp_path / "a.mp4", wave, 16_000, "aac", video_from=video_from, audio_from=audio_from)
    found = load_audio(tmp_path / "a.mp4")
    assert abs(lag(found, wave) - (audio_from - video_from) * 16_000) <= 16
    assert len(found) == 32_000 + round((audio_from - video_from) * 16_000)


def test_holes_are_filled_with_silence(tmp_path: Path) -> None:
    wave = noise(32_768)
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=16_000, layout="mono")
        for start in range(0, 32_768, 1024):
            if 10_240 <= start < 20_480:
                continue
            pcm = np.round(wave[None, start : start + 1024] * 32768).astype(np.int16)
            frame = av.AudioFrame.from_ndarray(pcm, "s16", "mono")
            frame.sample_rate, frame.time_base, frame.pts = 16_000, Fraction(1, 16_000), start
            container.mux(stream.encode(frame))
    found = load_audio(tmp_path / "a.mkv")
    assert lag(found[20_480:], wave[20_480:]) == 0
    assert np.abs(found[10_300:20_400]).max() == 0


def test_resampling_keeps_time_and_level(tmp_path: Path) -> None:
    wave = noise(44_100, 44_100)
    write_wav(tmp_path / "a.wav", wave, 44_100)
    found = load_audio(tmp_path / "a.wav", 16_000)
    true = scipy.signal.resample_poly(wave, 160, 441)
    assert abs(len(found) - 16_000) <= 1
    assert lag(found, true) == 0
    assert np.abs(found[200:15_800] - true[200:15_800]).max() < 5e-3


def test_real_clips(corpus: Path) -> None:
    assert len(load_audio(corpus / "clips" / "spk20_01.mp4")) == 9 * 16_000
    late = load_audio(corpus / "clips" / "spk20_02.mp4")  # its first picture comes 66 ms after its first sample
    assert len(late) == round((9 - 1014 / 15_360) * 16_000)
    assert len(load_audio(corpus / "audio" / "zh_bus.wav")) == 54_015
    with pytest.raises(AudioError, match=r"noaudio_expr_01.mp4: has no audio stream"):
        load_audio(corpus / "hard" / "noaudio_expr_01.mp4")


def test_bad_files(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.wav"):
        load_audio(tmp_path / "none.wav")
    (tmp_path / "text.wav").write_text("this is no sound " * 100)
    with pytest.raises(AudioError, match=r"text\.wav: is a text"):
        load_audio(tmp_path / "text.wav")
    with pytest.raises(ValueError, match="sample_rate_hz must be positive"):
        load_audio(tmp_path / "none.wav", 0)
    with wave_file.open(str(tmp_path / "empty.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
    with pytest.raises(AudioError, match=r"empty\.wav"):
        load_audio(tmp_path / "empty.wav")


# ------------------------------------------------------------------------------------------------------------- features


@pytest.mark.parametrize("kind", ["logmel", "mfcc"])
@pytest.mark.parametrize("samples", [1, 319, 320, 321, 400, 16_000, 16_001])
def test_steps(kind: FeatureKind, samples: int) -> None:
    extract = audio_features(kind)
    found = extract(noise(samples))
    assert found.shape == (-(-samples // 320), FEATURE_DIMS[kind])
    assert found.dtype == np.float32
    assert np.isfinite(found).all()


def slaney_hz(mel: float) -> float:
    return 200 * mel / 3 if mel < 15 else 1000 * float(np.exp(np.log(6.4) / 27 * (mel - 15)))


def test_mel_filters_against_their_definition() -> None:
    found = mel_filters(80, 512, 16_000)
    top = 15 + 27 * np.log(8) / np.log(6.4)
    corners = [slaney_hz(top * k / 81) for k in range(82)]
    assert corners[-1] == pytest.approx(8000)
    for band in range(80):
        triangle = np.interp(np.arange(257) * 31.25, corners[band : band + 3], [0, 1, 0], left=0, right=0)
        np.testing.assert_allclose(found[band], triangle, atol=1e-9)
    assert (found.sum(1) > 0).all()


def test_logmel_against_the_slow_formula() -> None:
    wave = noise(3000)
    found = audio_features("logmel")(wave)
    padded = np.concatenate([wave, np.zeros(400)])
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    for step in (0, 4, 9):
        part = padded[320 * step : 320 * step + 400] * window / (window.sum() / 2)
        angles = -2j * np.pi * np.outer(np.arange(257), np.arange(400)) / 512
        power = np.abs(np.exp(angles) @ part) ** 2
        decibels = 10 * np.log10(np.maximum(mel_filters(80, 512, 16_000) @ power, 1e-10))
        np.testing.assert_allclose(found[step], decibels / 12.5 + 4, atol=2e-3)


def test_logmel_range_and_streaming() -> None:
    extract = audio_features("logmel")
    assert (extract(np.zeros(1600, np.float32)) == -4).all()
    sine = np.sin(2 * np.pi * 1000 * np.arange(16_000) / 16_000).astype(np.float32)
    assert extract(sine)[10].max() == pytest.approx(4, abs=0.15)
    wave = noise(64_000)
    whole = extract(wave)
    np.testing.assert_allclose(extract(wave[16_000:40_000])[:74], whole[50:124], atol=1e-5)
    assert -4 <= whole.min() < whole.max() < 4.5


def test_logmel_long_sound_is_the_same() -> None:
    wave = np.tile(noise(320 * 10), 700)  # beyond the block of one minute
    found = audio_features("logmel")(wave)
    np.testing.assert_allclose(found[3100:3110], found[100:110], atol=1e-5)


def test_mfcc_against_its_definition() -> None:
    pcm = noise(4000).astype(np.float64) * 32768
    found = audio_features("mfcc")(noise(4000))
    emphasised = np.append(pcm[0], pcm[1:] - 0.97 * pcm[:-1])
    step = 3
    power = np.abs(np.fft.rfft(emphasised[320 * step : 320 * step + 400], 512)) ** 2 / 512
    edges = np.floor(513 * 700 * (10 ** (np.linspace(0, 2595 * np.log10(1 + 8000 / 700), 28) / 2595) - 1) / 16_000)
    bands = np.array(
        [np.interp(np.arange(257), edges[b : b + 3], [0, 1, 0], left=0, right=0) @ power for b in range(26)]
    )
    lifter = 1 + 11 * np.sin(np.pi * np.arange(13) / 22)
    cepstra = scipy.fftpack.dct(np.log(bands), type=2, norm="ortho")[:13] * lifter
    cepstra[0] = np.log(power.sum())
    np.testing.assert_allclose(found[step], cepstra, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("kind", ["logmel", "mfcc"])
def test_bad_waves(kind: FeatureKind) -> None:
    extract = audio_features(kind)
    with pytest.raises(AudioError, match="empty"):
        extract(np.zeros(0, np.float32))
    with pytest.raises(AudioError, match="NaN"):
        extract(np.array([0.0, np.nan], np.float32))
    with pytest.raises(ValueError, match="mono"):
        extract(np.zeros((2, 100), np.float32))
    with pytest.raises(TypeError, match="int16"):
        extract(np.zeros(100, np.int16))


def test_unknown_kinds_and_options() -> None:
    with pytest.raises(ValueError, match="logmel, mfcc, moonshine, wav2vec2, got 'hubert'"):
        audio_features("hubert")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="take no options, got chunk_s"):
        audio_features("logmel", chunk_s=2)


# ------------------------------------------------------------------------------------------------------------- wav2vec2


@pytest.fixture(scope="module")
def tiny_wav2vec2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The architecture of base-960h with random weights and fewer of them; its strides are the true ones."""
    transformers = pytest.importorskip("transformers")
    import torch

    torch.manual_seed(0)
    config = transformers.Wav2Vec2Config(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, conv_dim=(16,) * 7,
        num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=2,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("wav2vec2")
    transformers.Wav2Vec2Model(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("samples", [1, 320, 321, 16_000, 16_080, 16_081])
def test_wav2vec2_steps(tiny_wav2vec2: Path, samples: int) -> None:
    extract = audio_features("wav2vec2", model=tiny_wav2vec2)
    assert extract.dim == 32
    assert extract(noise(samples)).shape == (-(-samples // 320), 32)


def test_wav2vec2_is_the_network_on_the_normalised_wave(tiny_wav2vec2: Path) -> None:
    import torch
    import transformers

    wave = noise(16_080) + 0.1  # 50 whole steps of 400 samples
    network = transformers.Wav2Vec2Model.from_pretrained(tiny_wav2vec2).eval()
    processor = transformers.Wav2Vec2FeatureExtractor(do_normalize=True)
    values = processor(wave, sampling_rate=16_000, return_tensors="pt").input_values
    with torch.no_grad():
        true = network(torch.nn.functional.pad(values, (0, 320))).last_hidden_state[0].numpy()
    np.testing.assert_allclose(audio_features("wav2vec2", model=tiny_wav2vec2)(wave), true, atol=1e-4)


def test_wav2vec2_in_chunks_is_near_the_whole(tiny_wav2vec2: Path) -> None:
    wave = noise(16_000 * 12)
    whole = audio_features("wav2vec2", model=tiny_wav2vec2)(wave)
    cut = audio_features("wav2vec2", model=tiny_wav2vec2, whole_s=4.0, chunk_s=4.0, overlap_s=1.0)(wave)
    assert cut.shape == whole.shape
    difference = np.sqrt(np.mean((cut - whole) ** 2) / np.mean(whole**2))
    assert 0 < difference < 0.1  # the network normalises over time: near, not equal
    # The same sound over and over is the same in every inner chunk: the pieces are joined at the right steps.
    loop = np.tile(noise(320 * 150), 6)
    steps = audio_features("wav2vec2", model=tiny_wav2vec2, whole_s=4.0, chunk_s=4.0, overlap_s=1.0)(loop)
    error = np.sqrt(np.mean((steps[150:300] - steps[300:450]) ** 2) / np.mean(steps**2))
    assert error < 1e-2


def test_wav2vec2_errors(tiny_wav2vec2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"overlap_s must lie in \[0, chunk_s = 2\)"):
        audio_features("wav2vec2", model=tiny_wav2vec2, chunk_s=2, overlap_s=2)
    with pytest.raises(AudioError, match=r"cannot be loaded[\s\S]*Go online once"):
        audio_features("wav2vec2", model=tmp_path)
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(ImportError, match=r"stsa-lightning\[wav2vec\]"):
        audio_features("wav2vec2", model=tiny_wav2vec2)


# -------------------------------------------------------------------------------------------------------------- windows


def test_feature_windows_against_a_loop() -> None:
    features = np.random.default_rng(0).standard_normal((37, 4)).astype(np.float32)
    centres = [-9, -1, 0, 0.3, 0.5, 2, 7.77, 10.25, 10.5, 16.9, 18, 40]
    found = feature_windows(features, centres)
    assert found.shape == (len(centres), 4, 10)
    for window, centre in zip(found, centres, strict=True):
        start = int(np.floor((centre - 2) * 2))
        for step in range(10):
            at = start + step
            np.testing.assert_array_equal(window[:, step], features[at] if 0 <= at < 37 else 0)


def test_feature_windows_of_whole_frames_follow_the_paper() -> None:
    features = np.arange(1, 41, dtype=np.float32)[:, None]
    found = feature_windows(features, np.arange(20))
    assert found[0, 0].tolist() == [0, 0, 0, 0, 1, 2, 3, 4, 5, 6]
    assert found[5, 0].tolist() == list(range(7, 17))  # int((5 - 2) * 2) = 6, whose value is 7
    seconds = np.arange(20) * 0.04
    np.testing.assert_array_equal(feature_windows(features, seconds * 25), found)
    np.testing.assert_array_equal(feature_windows(features, np.float32(seconds) * 25), found)


def test_feature_windows_errors() -> None:
    with pytest.raises(ValueError, match=r"\(steps, D\)"):
        feature_windows(np.zeros(5), [0])
    with pytest.raises(ValueError, match="finite"):
        feature_windows(np.zeros((5, 2)), [np.nan])


# --------------------------------------------------------------------------------------------------- parts and pieces


@pytest.mark.parametrize(("start_s", "stop_s"), [(0.0, 0.5), (0.7, 1.9), (1.25, None)])
@pytest.mark.parametrize("name", ["a.wav", "a.mp4", "a.mp3"])
def test_a_part_is_that_of_the_whole(tmp_path: Path, name: str, start_s: float, stop_s: float | None) -> None:
    codec = {"a.wav": "pcm_s16le", "a.mp4": "aac", "a.mp3": "libmp3lame"}[name]
    mux(tmp_path / name, noise(48_000), 16_000, codec, video_from=0.0 if name == "a.mp4" else None)
    whole = load_audio(tmp_path / name)
    part = load_audio(tmp_path / name, start_s=start_s, stop_s=stop_s)
    expected = whole[round(start_s * 16_000) : None if stop_s is None else round(stop_s * 16_000)]
    assert abs(len(part) - len(expected)) <= (0 if stop_s else 1)
    length = min(len(part), len(expected)) - 400
    assert abs(lag(part[:length], expected[:length])) <= 16
    if name != "a.mp3":  # whose seeking is good to a packet's part alone
        np.testing.assert_allclose(part[:length], expected[:length], atol=1e-3)


def test_a_part_past_the_end(tmp_path: Path) -> None:
    write_wav(tmp_path / "a.wav", noise(16_000))
    assert len(load_audio(tmp_path / "a.wav", start_s=0.5, stop_s=9.0)) == 8_000
    with pytest.raises(AudioError, match="no samples in this part"):
        load_audio(tmp_path / "a.wav", start_s=3.0)


def test_samples_on_disk_equal_those_in_memory(tmp_path: Path) -> None:
    write_wav(tmp_path / "a.wav", noise(16_000))
    with open(tmp_path / "samples", "w+b") as file:
        mapped = load_audio(tmp_path / "a.wav", out_file=file)
        assert isinstance(mapped, np.memmap)
        np.testing.assert_array_equal(mapped, load_audio(tmp_path / "a.wav"))
        np.testing.assert_array_equal(audio_features("logmel")(mapped), audio_features("logmel")(np.asarray(mapped)))


@pytest.mark.parametrize("kind", ["logmel", "mfcc"])
def test_chunks_are_exactly_the_whole(kind: FeatureKind, monkeypatch: pytest.MonkeyPatch) -> None:
    wave = noise(320 * 200 + 77)
    extract = audio_features(kind)
    whole = extract(wave)
    np.testing.assert_array_equal(np.concatenate(list(extract.chunks(wave))), whole)
    monkeypatch.setattr(type(extract), "chunk_steps", 23)  # cut elsewhere, the sums of a row may round otherwise
    pieces = list(extract.chunks(wave))
    assert [len(piece) for piece in pieces] == [23] * 8 + [17]
    np.testing.assert_allclose(np.concatenate(pieces), whole, rtol=1e-5, atol=1e-4)


def test_wav2vec2_in_batches_is_the_same(tiny_wav2vec2: Path) -> None:
    wave = noise(16_000 * 12)
    options = {"model": tiny_wav2vec2, "whole_s": 2.0, "chunk_s": 2.0, "overlap_s": 0.5, "device": "cpu"}
    one, three = (audio_features("wav2vec2", batch=batch, **options)(wave) for batch in (1, 3))
    np.testing.assert_allclose(three, one, atol=1e-4)
