from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from scipy.signal import medfilt
from torch import nn

from stsa_lightning.features.base import WINDOW_STEPS, feature_windows
from stsa_lightning.media.audio import shift_sound
from stsa_lightning.metrics import sync
from stsa_lightning.metrics.mouth_sync import (
    CLEAR_CONFIDENCE,
    aperture_from_audio,
    lip_aperture_sync,
    predicted_aperture,
)
from stsa_lightning.metrics.sync import (
    SyncMeter,
    SyncScore,
    SyncScores,
    crop_tracked,
    speech_mfcc,
    sync_score,
    tracked_boxes,
)
from stsa_lightning.utils.errors import UserError


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def speech_like(rng: np.random.Generator, seconds: float) -> np.ndarray:
    """Syllables: noise of changing colour whose loudness changes some times a second."""
    samples = int(seconds * 16_000)
    knots = np.arange(0, samples + 1600, 1600)
    loud = np.interp(np.arange(samples), knots, rng.random(len(knots)) ** 3)
    noise = np.convolve(rng.standard_normal(samples), [0.5, 1, 0.5], "same")
    return (0.1 * loud * noise).astype(np.float32)


# ---------------------------------------------------------------------------------------------------------------- score


def test_score_is_the_naive_loop(rng):
    lip, speech = (rng.standard_normal((40, 8)) for _ in range(2))
    score = sync_score(torch.tensor(lip), torch.tensor(speech), max_shift=5)
    expected = []
    for shift in range(-5, 6):
        other = [speech[t + shift] if 0 <= t + shift < 40 else np.zeros(8) for t in range(40)]
        expected.append(np.mean([np.linalg.norm(a - b) for a, b in zip(lip, other, strict=True)]))
    np.testing.assert_allclose(score.distances, expected, rtol=1e-5)
    assert score.lse_d == pytest.approx(min(expected), rel=1e-5)
    assert score.lse_c == pytest.approx(np.median(expected) - min(expected), rel=1e-4)
    assert score.offset == 5 - int(np.argmin(expected))
    assert score.frames == 40


def test_a_positive_offset_is_sound_that_comes_early(rng):
    lip = torch.tensor(rng.standard_normal((60, 16)))
    for early in (-15, -4, 0, 3, 15):
        # What belongs to the mouth of frame t + early is heard at frame t.
        heard = torch.zeros_like(lip)
        for t in range(60):
            if 0 <= t + early < 60:
                heard[t] = lip[t + early]
        assert sync_score(lip, heard).offset == early


@pytest.mark.parametrize("offset", [-7, -1, 0, 1, 12])
def test_shifted_sound_plays_with_its_frame(offset):
    """Frame n's sound is the number n; it is early by `offset`, and the shift puts it back."""
    truth = np.repeat(np.arange(1, 41), 640).astype(np.float32)
    early = np.repeat(np.arange(1, 41) + offset, 640).astype(np.float32)
    put_right = shift_sound(early, offset)
    assert put_right.shape == truth.shape
    assert put_right.dtype == np.float32
    kept = slice(max(offset, 0) * 640, len(truth) + min(offset, 0) * 640)
    np.testing.assert_array_equal(put_right[kept], truth[kept])
    silent = np.ones(len(truth), bool)
    silent[kept] = False
    assert (put_right[silent] == 0).all()


def test_shift_longer_than_the_sound_is_silence():
    assert (shift_sound(np.ones(1000, np.float32), 9) == 0).all()
    assert len(shift_sound(np.ones(1000, np.float32), -9)) == 1000
    with pytest.raises(ValueError, match="mono"):
        shift_sound(np.ones((2, 5)), 1)


def test_score_errors():
    with pytest.raises(ValueError, match="lip and speech"):
        sync_score(torch.zeros(3, 4), torch.zeros(2, 4))
    with pytest.raises(ValueError, match="lip and speech"):
        sync_score(torch.zeros(0, 4), torch.zeros(0, 4))
    with pytest.raises(ValueError, match="max_shift"):
        sync_score(torch.zeros(3, 4), torch.zeros(3, 4), max_shift=-1)


# ---------------------------------------------------------------------------------------------------------------- meter


class Echo(nn.Module):
    """Stands in for SyncNet: windows of the brightness of frames, and of the loudness of their sound."""

    def __init__(self) -> None:
        super().__init__()
        self.anything = nn.Parameter(torch.zeros(1))
        self.seen: list[torch.Tensor] = []

    def lip(self, frames: torch.Tensor) -> torch.Tensor:
        self.seen.append(frames)
        return frames.mean(dim=(1, 2, 3)).unfold(0, 5, 1)

    def speech(self, mfcc: torch.Tensor) -> torch.Tensor:
        return mfcc[0].unfold(0, 20, 4)[:, ::4]


def test_blocks_of_any_size_are_the_whole(rng):
    frames = rng.integers(0, 256, (61, 8, 10, 3), dtype=np.uint8)
    wave = speech_like(rng, 61 / 25)
    scores = []
    for size in (1, 7, 61):
        meter = SyncMeter(Echo())
        for start in range(0, 61, size):
            meter.update(frames[start : start + size])
        scores.append(meter.finish(wave))
    assert {score.frames for score in scores} == {61 - 5}
    for score in scores[1:]:
        np.testing.assert_allclose(score.distances, scores[0].distances, rtol=1e-6)


def test_the_shorter_of_picture_and_sound_counts(rng):
    frames = rng.integers(0, 256, (40, 8, 10, 3), dtype=np.uint8)
    for samples, windows in ((40 * 640, 35), (60 * 640, 35), (20 * 640 + 639, 15)):
        meter = SyncMeter(Echo())
        meter.update(frames)
        assert meter.finish(speech_like(rng, 3)[:samples]).frames == windows


def test_meter_keeps_no_pictures_and_is_ready_again(rng):
    frames = rng.integers(0, 256, (30, 8, 10, 3), dtype=np.uint8)
    network = Echo()
    meter = SyncMeter(network)
    for _ in range(10):
        meter.update(frames)
        assert len(meter._waiting) < sync.BLOCK_FRAMES + 4
    assert max(map(len, network.seen)) < 2 * sync.BLOCK_FRAMES + 4
    wave = speech_like(rng, 12)
    meter.finish(wave)
    meter.update(frames)
    again = meter.finish(wave)
    fresh = SyncMeter(Echo())
    fresh.update(frames)
    np.testing.assert_array_equal(again.distances, fresh.finish(wave).distances)


def test_the_network_sees_bgr_of_0_to_255():
    red = np.zeros((6, 20, 30, 3), np.uint8)
    red[..., 0] = 200
    network = Echo()
    meter = SyncMeter(network)
    meter.update(red)
    meter.finish(np.zeros(6 * 640, np.float32))
    seen = torch.cat(network.seen)
    assert seen.shape[1:] == (3, 224, 224)
    assert (seen[:, 2] == 200).all()
    assert (seen[:, :2] == 0).all()


def test_meter_errors(rng):
    with pytest.raises(ValueError, match="variant must be one of lrs, tracked"):
        SyncMeter(Echo(), "square")
    meter = SyncMeter(Echo(), "tracked")
    with pytest.raises(ValueError, match="crop_tracked"):
        meter.update(np.zeros((1, 100, 100, 3), np.uint8))
    with pytest.raises(ValueError, match="uint8 RGB"):
        meter.update(np.zeros((1, 224, 224, 3), np.float32))
    meter.update(np.zeros((5, 224, 224, 3), np.uint8))
    with pytest.raises(UserError, match="got 5 frames and 9000 samples"):
        meter.finish(np.zeros(9000, np.float32))


def test_mfcc_is_of_sixteen_bit_samples(rng):
    from python_speech_features import mfcc

    pcm = rng.integers(-8000, 8000, 16_000).astype(np.int16)
    np.testing.assert_allclose(speech_mfcc(pcm / 32768).numpy(), mfcc(pcm, 16_000).T, rtol=1e-4, atol=1e-4)
    assert speech_mfcc(np.full(16_000, 2.0)).isfinite().all()  # beyond full scale: clipped, not wrapped


# -------------------------------------------------------------------------------------------------------------- tracked


def test_squares_are_those_of_the_released_pipeline(rng):
    """Its way: the frame padded on all sides, then cut."""
    boxes = np.array([90, 60, 170, 150]) + rng.normal(0, 3, (30, 4))
    frames = rng.integers(0, 256, (30, 200, 240, 3), dtype=np.uint8)
    squares = tracked_boxes(boxes)
    sizes = medfilt(np.maximum(boxes[:, 3] - boxes[:, 1], boxes[:, 2] - boxes[:, 0]) / 2, 13)
    middles = [medfilt((boxes[:, i] + boxes[:, i + 2]) / 2, 13) for i in (0, 1)]
    for t in (0, 6, 15, 29):
        pad = int(sizes[t] * 1.8)
        padded = np.pad(frames[t], ((pad, pad), (pad, pad), (0, 0)), constant_values=110)
        y, x, size = middles[1][t] + pad, middles[0][t] + pad, sizes[t]
        expected = padded[int(y - size) : int(y + size * 1.8), int(x - size * 1.4) : int(x + size * 1.4)]
        x0, y0, x1, y1 = squares[t]
        assert (y1 - y0, x1 - x0) == expected.shape[:2]
        np.testing.assert_array_equal(
            crop_tracked(frames[t : t + 1], squares[t : t + 1])[0], cv2.resize(expected, (224, 224))
        )


def test_outside_the_picture_is_110():
    crop = crop_tracked(np.zeros((1, 50, 50, 3), np.uint8), np.array([[-300, -300, -76, -76]]))
    assert (crop == 110).all()
    corner = crop_tracked(np.zeros((1, 224, 224, 3), np.uint8), np.array([[112, -112, 336, 112]]))[0]
    assert (corner[:112] == 110).all()
    assert (corner[112:, :112] == 0).all()
    assert (corner[112:, 112:] == 110).all()


def test_frames_without_a_face_are_bridged():
    boxes = np.tile([10.0, 20.0, 110.0, 120.0], (40, 1)) + np.arange(40)[:, None]
    with_gap = boxes.copy()
    with_gap[15:20] = np.nan
    np.testing.assert_array_equal(tracked_boxes(with_gap), tracked_boxes(boxes))
    with pytest.raises(UserError, match="0 with a face"):
        tracked_boxes(np.full((20, 4), np.nan))
    with pytest.raises(UserError, match="got 12 frames"):
        tracked_boxes(boxes[:12])


# --------------------------------------------------------------------------------------------------------------- metric


def scored(lse_d: float, lse_c: float, offset: int, frames: int = 10) -> SyncScore:
    return SyncScore(lse_d, lse_c, offset, frames, np.zeros(31))


def test_scores_are_means_over_clips():
    metric = SyncScores()
    for score in (scored(6.0, 8.0, 0, 100), scored(7.0, 6.0, -3, 50), scored(8.0, 7.0, 3, 10)):
        metric.update(score)
    result = metric.compute()
    assert result["lse_d"].item() == pytest.approx(7.0)
    assert result["lse_c"].item() == pytest.approx(7.0)
    assert result["offset_abs"].item() == pytest.approx(2.0)
    assert (result["clips"], result["frames"]) == (3, 160)
    assert result["offsets"].nonzero().flatten().tolist() == [12, 15, 18]
    with pytest.raises(ValueError, match="raise max_shift"):
        metric.update(scored(1, 1, 16))


def test_ranks_add_up():
    whole, ranks = SyncScores(), [SyncScores(), SyncScores()]
    for i in range(5):
        score = scored(i, 2 * i, i - 2, i)
        whole.update(score)
        ranks[i > 0].update(score)
    assert {reduce.__name__ for reduce in ranks[0]._reductions.values()} == {"dim_zero_sum"}
    merged = SyncScores()
    for name in merged._defaults:
        setattr(merged, name, getattr(ranks[0], name) + getattr(ranks[1], name))
    merged._update_count = 5
    for name, value in whole.compute().items():
        torch.testing.assert_close(merged.compute()[name], value)


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_no_clip_gives_nan():
    assert SyncScores().compute()["lse_d"].isnan()


# ------------------------------------------------------------------------------------------------------ without network


def test_a_mouth_that_follows_the_sound_and_every_delay_of_it(rng):
    wave = speech_like(rng, 8)
    mouth = aperture_from_audio(wave, 200) + 0.2 * rng.standard_normal(200)
    for offset in (-14, -12, -5, -1, 0, 3, 12, 14):
        # Sound that is early by `offset`: what undoes it, undone.
        found, confidence = lip_aperture_sync(mouth, shift_sound(wave, -offset))
        assert round(found) == offset
        assert confidence > CLEAR_CONFIDENCE
        assert round(lip_aperture_sync(mouth, shift_sound(shift_sound(wave, -offset), round(found)))[0]) == 0


def test_scale_and_slow_changes_of_the_opening_do_not_matter(rng):
    wave = speech_like(rng, 8)
    mouth = aperture_from_audio(wave, 200) + 0.2 * rng.standard_normal(200)
    plain = lip_aperture_sync(mouth, wave)
    scaled = lip_aperture_sync(40 * mouth + 7, 0.1 * wave)
    drifting = lip_aperture_sync(mouth + 5 * np.sin(np.arange(200) / 60), wave)
    assert scaled[0] == pytest.approx(plain[0], abs=0.3)
    assert drifting[0] == pytest.approx(plain[0], abs=0.3)
    assert scaled[1] == pytest.approx(plain[1], rel=0.02)
    assert drifting[1] == pytest.approx(plain[1], rel=0.15)


def test_frames_without_a_face_are_left_out(rng):
    wave = speech_like(rng, 8)
    mouth = aperture_from_audio(wave, 200)
    mouth[rng.random(200) < 0.2] = np.nan
    mouth[60:80] = np.nan
    offset, confidence = lip_aperture_sync(mouth, shift_sound(wave, 6))
    assert round(offset) == -6
    assert confidence > CLEAR_CONFIDENCE


def test_unrelated_sound_is_rarely_clear(rng):
    clear = [
        lip_aperture_sync(aperture_from_audio(speech_like(rng, 8), 200), speech_like(rng, 8))[1] >= CLEAR_CONFIDENCE
        for _ in range(20)
    ]
    assert sum(clear) <= 2


@pytest.mark.parametrize(
    ("mouth", "wave"),
    [
        (np.random.default_rng(1).random(200), np.zeros(8 * 16_000, np.float32)),
        (np.full(200, 0.3), np.random.default_rng(1).standard_normal(8 * 16_000)),
        (np.full(200, np.nan), np.random.default_rng(1).standard_normal(8 * 16_000)),
        (np.random.default_rng(1).random(30), np.random.default_rng(1).standard_normal(30 * 640)),
        (np.zeros(0), np.zeros(0)),
    ],
    ids=["silence", "still mouth", "no face", "short", "nothing"],
)
def test_nothing_to_say(mouth, wave):
    assert lip_aperture_sync(mouth, wave) == (0, 0.0)


def test_opening_of_another_shape():
    with pytest.raises(ValueError, match="lip_aperture must be"):
        lip_aperture_sync(np.zeros((10, 2)), np.zeros(6400))


@pytest.mark.parametrize(
    ("clip", "known"),
    [("clips/spk35_01.mp4", 3), ("clips/spk38_01.mp4", 0)],  # SyncNet's example; a studio's recording
)
def test_real_clips_of_known_offset(corpus, clip, known):
    from stsa_lightning.face.heatmaps import inner_lip_aperture
    from stsa_lightning.face.landmarks import landmark_detector
    from stsa_lightning.media.audio import load_audio
    from stsa_lightning.media.video import VideoReader

    detector = landmark_detector()
    with VideoReader(corpus / clip, fps=25) as reader:
        lip_aperture = [inner_lip_aperture(detector(frame)) for block in reader.blocks() for frame in block]
    detector.close()
    wave = load_audio(corpus / clip)
    for delay in (0, 2, -9):
        offset, confidence = lip_aperture_sync(np.array(lip_aperture), shift_sound(wave, delay))
        assert offset == pytest.approx(known - delay, abs=0.7)
        assert confidence > CLEAR_CONFIDENCE


def test_prediction_is_the_regression_of_each_frames_window(rng):
    features, weights = rng.standard_normal((43, 6)).astype(np.float32), rng.standard_normal((6, WINDOW_STEPS))
    for frames in (1, 15, 40):
        windows = feature_windows(np.pad(features, ((4, 60), (0, 0)), mode="edge"), np.arange(frames) + 2)
        expected = np.einsum("tdk,dk->t", windows, weights)
        np.testing.assert_allclose(predicted_aperture(features, frames, weights), expected, atol=1e-5)
