"""The embedded sample: determinism, files, speech that goes with the lips, a face that FaceMesh finds and follows."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from stsa_lightning.constants import SAMPLE_RATE_HZ
from stsa_lightning.data.sample import ClipSettings, SampleClip, render_clip, render_sample, sample_truth
from stsa_lightning.data.sample.face import MAX_APERTURE, Face, Pose
from stsa_lightning.data.sample.speakers import make_speaker
from stsa_lightning.data.sample.speech import PAUSE, PHONES, SENTENCES, sentence
from stsa_lightning.face.heatmaps import inner_lip_aperture
from stsa_lightning.face.landmarks import landmark_detector
from stsa_lightning.utils.errors import UserError

SHORT = {"seconds": 1.0, "size": 128}


@pytest.fixture(scope="module")
def clip() -> SampleClip:
    return render_clip(ClipSettings(speaker=0, seconds=4.0, size=64))


def level_db(clip: SampleClip, width_s: float = 0.04) -> np.ndarray:
    """Level of the sound around the middle of each frame."""
    fps = clip.truth["settings"]["fps"]
    centres = ((np.arange(len(clip.frames)) + 0.5) / fps * SAMPLE_RATE_HZ).astype(int)
    half = int(width_s * SAMPLE_RATE_HZ / 2)
    return np.array([20 * np.log10(clip.wave[max(c - half, 0) : c + half].std() + 1e-5) for c in centres])


def test_equal_settings_give_equal_arrays_and_others_differ() -> None:
    settings = ClipSettings(speaker=1, clip=2, seed=5, **SHORT)
    first, second = render_clip(settings), render_clip(settings)
    np.testing.assert_array_equal(first.frames, second.frames)
    np.testing.assert_array_equal(first.wave, second.wave)
    assert first.truth["phones"] == second.truth["phones"]
    for change in ({"speaker": 2}, {"clip": 1}, {"seed": 6}):
        other = render_clip(ClipSettings(**{"speaker": 1, "clip": 2, "seed": 5, **SHORT, **change}))
        assert not np.array_equal(first.frames, other.frames)
        assert not np.array_equal(first.wave, other.wave)


def test_clip_shapes_and_truth(clip: SampleClip) -> None:
    assert clip.frames.shape == (100, 64, 64, 3)
    assert clip.frames.dtype == np.uint8
    assert clip.wave.shape == (64_000,)
    assert clip.wave.dtype == np.float32
    assert 0.5 < np.abs(clip.wave).max() <= 1
    for name in ("lip_aperture", "lip_aperture_px", "width_px", "rounding", "phones"):
        assert len(clip.truth[name]) == 100
    assert set(clip.truth["phones"]) <= set(PHONES)
    assert clip.truth["segments"][-1]["end_s"] == pytest.approx(4.0)
    assert all(0 <= number < SENTENCES for number in clip.truth["sentences"])


def test_lips_meet_in_closures_and_open_in_vowels(clip: SampleClip) -> None:
    lip_aperture, phones = clip.truth["lip_aperture"], np.array(clip.truth["phones"])
    middle = (np.arange(100) + 0.5) / 25
    for segment in clip.truth["segments"]:
        inside = (middle > segment["start_s"] + 0.02) & (middle < segment["end_s"] - 0.02)
        if PHONES[segment["phone"]].closed:
            assert np.all(lip_aperture[inside] < 1e-6)
    assert 0.1 < lip_aperture.max() < 0.2
    assert lip_aperture[np.isin(phones, list("aeo"))].mean() > 5 * lip_aperture[np.isin(phones, list("mbpf"))].mean()


def test_speech_sounds_while_lips_are_open_and_pauses_are_quiet(clip: SampleClip) -> None:
    level, lip_aperture, phones = level_db(clip), clip.truth["lip_aperture"], np.array(clip.truth["phones"])
    assert np.corrcoef(10 ** (level / 20), lip_aperture)[0, 1] > 0.7
    assert level[lip_aperture > 0.03].min() > -40
    assert np.median(level[phones == PAUSE]) < -60


def test_mouth_is_a_function_of_the_sound_around_it() -> None:
    """A linear map of 200 ms of log spectrum, fitted on some clips, tells the lip aperture of another one."""

    def spectra(clip: SampleClip) -> np.ndarray:
        size, bands = 1600, np.geomspace(2, 260, 14).astype(int)
        wave = np.pad(clip.wave, size)
        centres = ((np.arange(len(clip.frames)) + 0.5) / 25 * SAMPLE_RATE_HZ).astype(int) + size
        rows = []
        for c in centres:
            parts = wave[c - size : c + size].reshape(5, -1)
            power = np.abs(np.fft.rfft(parts * np.hanning(parts.shape[1]))) ** 2
            rows.append(np.log(np.add.reduceat(power, bands, axis=1) + 1e-3).ravel())
        return np.array(rows)

    clips = [render_clip(ClipSettings(clip=k, seconds=6.0, size=64)) for k in range(5)]
    x = [np.c_[spectra(clip), np.ones(len(clip.frames))] for clip in clips]
    seen, target = np.concatenate(x[:-1]), np.concatenate([clip.truth["lip_aperture"] for clip in clips[:-1]])
    weights = np.linalg.solve(seen.T @ seen + 10 * np.eye(seen.shape[1]), seen.T @ target)
    assert np.corrcoef(x[-1] @ weights, clips[-1].truth["lip_aperture"])[0, 1] > 0.8


def test_the_drawn_gap_is_the_true_opening() -> None:
    """The dark between rounded lips (no teeth) along the middle of the mouth is as high as the truth says."""
    face = Face(make_speaker(0, seed=0), 256)
    for lip_aperture in (0.4, 0.7, 1.0):
        pose = Pose(lip_aperture=lip_aperture, rounding=0.8)
        column = face.render(pose)[150:205, 128].mean(-1)
        dark = (column < 0.5 * np.median(column)).sum()
        assert dark == pytest.approx(face.lip_aperture_px(pose), abs=3.0)
    assert face.lip_aperture_px(Pose(lip_aperture=1.0)) == pytest.approx(MAX_APERTURE, rel=0.15)


def test_speakers_look_and_sound_different() -> None:
    frames = [Face(make_speaker(k, seed=0), 64).render(Pose()).astype(float) for k in range(6)]
    differences = [np.abs(frames[i] - frames[k]).mean() for i in range(6) for k in range(i)]
    assert min(differences) > 12
    assert len({round(make_speaker(k, seed=0).voice.pitch_hz) for k in range(6)}) == 6


def test_sentence_numbers_name_fixed_phones() -> None:
    assert sentence(3) == sentence(3) != sentence(4)
    with pytest.raises(ValueError, match="number must be in"):
        sentence(SENTENCES)


def test_folder_layout_reuse_and_renewal(tmp_path: Path) -> None:
    paths = render_sample(tmp_path, speakers=2, clips=1, **SHORT)
    assert [str(p.relative_to(tmp_path)) for p in paths] == ["speaker01/clip01.mp4", "speaker02/clip01.mp4"]
    assert sorted(p.name for p in paths[0].parent.iterdir()) == ["clip01.json", "clip01.mp4"]
    before = [p.stat().st_mtime_ns for p in paths]
    assert render_sample(tmp_path, speakers=2, clips=1, **SHORT) == paths
    assert [p.stat().st_mtime_ns for p in paths] == before
    paths[1].with_suffix(".json").write_text("{ broken")
    render_sample(tmp_path, speakers=2, clips=1, **SHORT)
    assert paths[0].stat().st_mtime_ns == before[0]
    assert paths[1].stat().st_mtime_ns > before[1]
    render_sample(tmp_path, speakers=1, clips=1, seed=1, **SHORT)
    assert json.loads(paths[0].with_suffix(".json").read_text())["settings"]["seed"] == 1


@pytest.mark.parametrize(
    ("name", "value"), [("speakers", 0), ("clips", 100), ("seconds", 0.1), ("size", 32), ("fps", 0), ("seed", -1)]
)
def test_arguments_out_of_range_are_named(tmp_path: Path, name: str, value: float) -> None:
    with pytest.raises(UserError, match=f"{name} must be .*, got {value}"):
        render_sample(tmp_path, **{name: value})
    assert not list(tmp_path.iterdir())


def test_truth_of_a_foreign_video_is_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="render_sample"):
        sample_truth(tmp_path / "mine.mp4")


def test_facemesh_finds_and_follows_the_mouth(sample_root: Path) -> None:
    av = pytest.importorskip("av")
    videos = sorted(sample_root.glob("*/*.mp4"))
    assert len(videos) == 3
    for video in videos:
        truth = sample_truth(video)
        with av.open(str(video)) as container:
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        assert len(frames) == len(truth["lip_aperture"])
        assert frames[0].shape == (256, 256, 3)
        detector = landmark_detector()
        seen = np.array([_inner_opening(detector(frame)) for frame in frames])
        found = ~np.isnan(seen)
        assert found.mean() > 0.98
        lip_aperture = truth["lip_aperture"]
        assert np.corrcoef(seen[found], lip_aperture[found])[0, 1] > 0.9
        # Full lips are read as a little apart even when they meet; well below any open vowel all the same.
        assert np.median(seen[found & (lip_aperture < 1e-6)]) < 0.035


def _inner_opening(landmarks: np.ndarray | None) -> float:
    """Gap between the lips over the height of the brows above the chin; NaN without a face."""
    if landmarks is None:
        return float("nan")
    return float(inner_lip_aperture(landmarks) / np.ptp(landmarks[:, 1]))
