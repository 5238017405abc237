from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from stsa_lightning.dubbing import Dubber, DubError, make_schedule, ping_pong
from stsa_lightning.dubbing.face_track import ramp_frames
from stsa_lightning.dubbing.renderer import Block, Renderer
from stsa_lightning.face.check import ResultCheck
from stsa_lightning.face.heatmaps import draw_heatmap
from stsa_lightning.face.topology import LIP_MEASURE_KEYPOINTS, LIP_MEASURES
from stsa_lightning.features.base import feature_windows
from stsa_lightning.features.spectral import LogMel
from stsa_lightning.inference.engine import Calibrate, Guided, Rendered
from stsa_lightning.inference.frame_inputs import ChosenReferences, FrameInputs, ReferenceInputs
from stsa_lightning.inference.reference import PlainEngine, PlainReferences
from stsa_lightning.media.audio import AudioError, load_audio, write_wav
from stsa_lightning.media.video import VideoError, VideoReader, VideoWriter, probe, write_video
from stsa_lightning.models.guidance import Guidance, GuidanceOutput
from stsa_lightning.models.presets import GUIDANCE, SYNTHESIS
from stsa_lightning.models.synthesis import Synthesis
from tests.field.media import SoundTrack, make_media

WIDTH, HEIGHT, SIZE = 160, 120, 64


def numbered(count: int) -> np.ndarray:
    """Grey frames that carry their number in a stripe at the top, away from the face."""
    frames = np.full((count, HEIGHT, WIDTH, 3), 100, np.uint8)
    frames[:, :12] = (20 + 4.5 * np.arange(count))[:, None, None, None]
    return frames


def number(frame: np.ndarray) -> int:
    return round((float(frame[2:10].mean()) - 19.75) / 4.5)


def landmarks_of(index: int) -> np.ndarray:
    """A face that drifts and opens its mouth with the frame's number."""
    points = np.random.default_rng(5).uniform(0.3, 0.7, (131, 2)).astype(np.float32)
    points[:25] = np.stack([np.linspace(0.1, 0.9, 25), 0.5 + 0.4 * np.sin(np.linspace(0, np.pi, 25))], -1)
    points[25:45, 1] = 0.1
    points[59:91, 1] = 0.3
    points[96, 1], points[106, 1] = 0.6, 0.65 + 0.005 * (index % 11)
    return points * np.float32([80, 90]) + np.float32([30 + 0.5 * (index % 7), 22])


class Detector:
    """Knows the face by the number in the frame; sees none in `blind` frames."""

    def __init__(self, blind: tuple[int, ...] = ()) -> None:
        self.blind, self.seen = blind, list[int]()

    def __call__(self, frame: np.ndarray) -> np.ndarray | None:
        self.seen.append(number(frame))
        return None if self.seen[-1] in self.blind else landmarks_of(self.seen[-1])

    def close(self) -> None:
        raise AssertionError("the detector belongs to the caller")


class Steps:
    """A feature that says its own step, from 1 on: zeros are padding."""

    kind, dim = "steps", 1

    def __call__(self, wave: np.ndarray) -> np.ndarray:
        return np.concatenate(list(self.chunks(wave)))

    def chunks(self, wave: np.ndarray) -> Iterator[np.ndarray]:
        yield np.arange(1, -(-len(wave) // 320) + 1, dtype=np.float32)[:, None]


@dataclass
class Kept:
    images: Tensor

    def expand(self, frames: int) -> Kept:
        return Kept(self.images.expand(frames, *self.images.shape[1:]))


class EchoGuidance(nn.Module):
    """Remembers what it is asked."""

    audio_dim, face_size, draws_keypoints = 1, SIZE, False

    def __init__(self) -> None:
        super().__init__()
        self.audio, self.masked, self.references = list[Tensor](), list[Tensor](), list[Tensor]()

    def forward(self, audio: Tensor, masked: Tensor, references: Tensor) -> GuidanceOutput:
        assert not self.training
        assert torch.is_inference_mode_enabled()
        self.audio += [*audio]
        self.masked += [*masked]
        self.references += [*references]
        return GuidanceOutput(masked, masked, torch.zeros(*audio.shape[:2], 2, 57), masked, audio)


class GreenSynthesis(nn.Module):
    """Paints the hidden half green."""

    audio_dim, face_size, num_references, align_references = 1, SIZE, 3, False

    def __init__(self) -> None:
        super().__init__()
        self.encoded = 0

    def encode_references(self, images: Tensor, heatmaps: Tensor) -> Kept:
        assert images.shape == (1, 3, 3, SIZE, SIZE)
        assert heatmaps.shape == (1, 3, 1, SIZE, SIZE)
        self.encoded += 1
        return Kept(images)

    def render(self, masked: Tensor, heatmap: Tensor, audio: Tensor, references: Kept) -> Any:
        assert heatmap.shape == (len(masked), 1, SIZE, SIZE)
        assert audio.shape == (len(masked), 1, 10)
        assert references.images.shape == (len(masked), 3, 3, SIZE, SIZE)
        assert (masked[:, :, SIZE // 2 :] == 0).all()
        assert masked[:, :, : SIZE // 2].min() > 0.3
        face = masked.clone()
        face[:, 1, SIZE // 2 :] = 1
        flow = torch.zeros(len(masked), 3, 2, SIZE, SIZE)
        return type("Output", (), {"face": face, "flow": flow, "confidence": torch.ones_like(flow[:, :, :1])})


@pytest.fixture
def speech(tmp_path: Path) -> Any:
    def make(seconds: float, rate_hz: int = 16_000) -> Path:
        path = tmp_path / f"speech{seconds}.wav"
        wave = 0.2 * np.random.default_rng(0).standard_normal(round(seconds * rate_hz))
        write_wav(path, wave.astype(np.float32), rate_hz)
        return path

    return make


def stub_dubber(**options: Any) -> Dubber:
    """Takes landmarks as they are found, so that what the networks are given can be foretold."""
    guidance: Any = EchoGuidance()
    synthesis: Any = GreenSynthesis()
    engine = PlainEngine(guidance, synthesis, torch.device("cpu"))
    return Dubber(guidance, synthesis, Steps(), steady=False, engine=engine, **{"check": False, **options})


# ------------------------------------------------------------------------------------------------------------- schedule


def test_ping_pong_turns_without_repeating() -> None:
    found = ping_pong(np.arange(4) / 25, 25, 0.44)
    assert found.source.tolist() == [0, 1, 2, 3, 2, 1, 0, 1, 2, 3, 2]
    np.testing.assert_allclose(found.times_s, np.arange(11) / 25)


@pytest.mark.parametrize(("seconds", "count"), [(6.84, 171), (6.841, 172), (0.001, 1), (0.04, 1), (0.041, 2)])
def test_ping_pong_covers_the_speech(seconds: float, count: int) -> None:
    assert len(ping_pong(np.arange(50) / 25, 25, seconds).source) == count


def test_ping_pong_keeps_a_varying_pace_and_single_frames() -> None:
    found = ping_pong(np.array([0, 0.1, 0.15, 0.35]), 25, 1.0)
    assert found.source.tolist() == [0, 1, 2, 3, 2, 1, 0, 1, 2]
    np.testing.assert_allclose(np.diff(found.times_s), [0.1, 0.05, 0.2, 0.2, 0.05, 0.1, 0.1, 0.05])
    one = ping_pong(np.zeros(1), 20, 0.2)
    assert one.source.tolist() == [0, 0, 0, 0]
    np.testing.assert_allclose(one.times_s, [0, 0.05, 0.1, 0.15])


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0.32, [0, 0, 1, 1, 2, 2, 3, 3]), (0.16, [0, 1, 2, 3]), (0.08, [0, 2]), (0.12, [0, 1, 2])],
)
def test_remap_shows_all_of_the_video_at_its_own_rate_for_as_long_as_the_speech(
    seconds: float, expected: list[int]
) -> None:
    found = make_schedule(np.arange(4) / 25, 25, seconds, "remap").at(Fraction(25), seconds)
    assert found.source.tolist() == expected
    np.testing.assert_allclose(found.times_s, np.arange(len(expected)) / 25)


# --------------------------------------------------------------------------------------------------------- with stubs


@pytest.mark.parametrize(("fps", "seconds"), [(25, 1.2), (30, 1.0), (15, 2.0), (30, 3.0)])
def test_every_frame_gets_audio_and_pose_of_its_own_time(tmp_path: Path, speech: Any, fps: int, seconds: float) -> None:
    write_video(tmp_path / "a.mp4", numbered(40), fps)
    blind, detector = (7, 8, 20), Detector((7, 8, 20))
    dubber = stub_dubber(detector=detector, block=7, check=False)
    report = dubber.dub(tmp_path / "a.mp4", speech(seconds), tmp_path / "out.mp4", progress=False)

    count = round(seconds * fps)
    schedule = [k % 78 if k % 78 < 40 else 78 - k % 78 for k in range(count)]
    shown = [(k / fps, source) for k, source in enumerate(schedule) if source not in blind]
    assert (report.frames, report.faces, report.fps) == (count, len(shown), fps)
    assert detector.seen == list(range(40))  # each source frame once, in order

    engine: Any = dubber.engine
    guidance = engine.guidance
    assert len(guidance.audio) == len(shown)
    steps = np.arange(1, round(seconds * 50) + 1, dtype=np.float32)[:, None]
    for (time_s, _), audio, masked in zip(shown, guidance.audio, guidance.masked, strict=True):
        for place, offset in enumerate((-2, -1, 0, 1, 2)):
            centre = time_s * 25 + offset
            np.testing.assert_array_equal(audio[place].numpy(), feature_windows(steps, [centre])[0])
            at = schedule[int(np.argmin([abs(k / fps - time_s - offset / 25 + 1e-9) for k in range(count)]))]
            at = min((k for k in range(40) if k not in blind), key=lambda k: abs(k - at))
            points = landmarks_of(at)
            low, high = np.floor(points.min(0)) - 5, np.ceil(points.max(0)) + 5
            true = draw_heatmap(((points - low) / (high - low)).astype(np.float32), "masked", SIZE)
            np.testing.assert_allclose(masked[place, 0].numpy(), true, atol=1e-4)
    assert engine.synthesis.encoded == 1

    with VideoReader(tmp_path / "out.mp4") as reader:
        assert [number(frame) for frame in reader.get(range(len(reader)))] == schedule
        assert (reader.info.width, reader.info.height, reader.fps) == (WIDTH, HEIGHT, fps)
        middle = reader.get([0, 7])[:, 80, 70]  # below the mouth
    assert middle[0, 1] > 200 > middle[0, 0]  # green
    assert np.abs(middle[1].astype(int) - 100).max() < 8  # frame 7 has no face
    assert abs(len(load_audio(tmp_path / "out.mp4")) - seconds * 16_000) <= 1


def turned_by(index: int) -> np.ndarray:
    """A face whose left half is the narrower the higher the number."""
    points, middle = landmarks_of(index), 70.0
    points[:, 0] -= np.where(points[:, 0] < middle, (points[:, 0] - middle) * 0.02 * index, 0)
    return points.astype(np.float32)


class Turning(Detector):
    def __call__(self, frame: np.ndarray) -> np.ndarray | None:
        return None if super().__call__(frame) is None else turned_by(self.seen[-1])


class ChoosingEngine(PlainEngine):
    """Records the references on offer and which of them serve each frame; renders with the first three."""

    def encode(self, references: ReferenceInputs) -> PlainReferences:
        self.offered = references.heatmaps[0, :, 0].numpy()
        first = ReferenceInputs(references.images[:, :3], references.heatmaps[:, :3])
        return PlainReferences(first, self.synthesis.encode_references(first.images, first.heatmaps))

    def render(
        self, frames: FrameInputs, guided: Guided, chosen: ChosenReferences, references: PlainReferences
    ) -> Rendered:
        self.chosen = np.concatenate([getattr(self, "chosen", np.empty((0, 3), int)), chosen.numbers.numpy()])
        return super().render(frames, guided, chosen, references)


def frames_offered(engine: ChoosingEngine, landmarks: Callable[[int], np.ndarray]) -> np.ndarray:
    """Which frames of the video the references on offer are."""
    known = []
    for index in range(40):
        points = landmarks(index)
        low, high = np.floor(points.min(0)) - 5, np.ceil(points.max(0)) + 5
        known.append(draw_heatmap(((points - low) / (high - low)).astype(np.float32), "whole", SIZE))
    return np.array([np.abs(np.stack(known) - drawn).mean((1, 2)).argmin() for drawn in engine.offered])


def choosing_dubber(
    detector: Detector, engine_type: type[ChoosingEngine] = ChoosingEngine, align_references: bool = True
) -> tuple[Dubber, ChoosingEngine]:
    networks: Any = EchoGuidance(), GreenSynthesis()
    networks[1].align_references = align_references
    engine = engine_type(*networks, torch.device("cpu"))
    return Dubber(*networks, Steps(), steady=False, engine=engine, detector=detector, block=7, check=False), engine


def opened_by(index: int) -> np.ndarray:
    """A face that opens its lips the wider the higher the number, at most by a tenth of its height."""
    points = landmarks_of(0)
    upper, lower = LIP_MEASURES[1]
    points[[upper, lower], 0] = 70
    points[[upper, lower], 1] = 80 + np.array([0, index / 4])
    return points.astype(np.float32)


class Opening(Detector):
    def __call__(self, frame: np.ndarray) -> np.ndarray | None:
        super().__call__(frame)
        return opened_by(self.seen[-1])


class WideThenShut(ChoosingEngine):
    """Wants lips wide open in the first half of a video, and shut in the second."""

    asked = 0

    def guide(self, frames: FrameInputs, references: PlainReferences, calibrate: Calibrate | None = None) -> Guided:
        keypoints = torch.full((len(frames), 2, 57), 0.5)
        for one in keypoints:
            one[1, LIP_MEASURE_KEYPOINTS[1][1]] += 0.2 if self.asked < 20 else 0.0
            self.asked += 1
        return Guided(super().guide(frames, references).heatmaps, keypoints)


def test_references_are_chosen_for_the_lips_that_guidance_wants(tmp_path: Path, speech: Any) -> None:
    write_video(tmp_path / "a.mp4", numbered(40), 25)
    dubber, engine = choosing_dubber(Opening(), WideThenShut)
    dubber.dub(tmp_path / "a.mp4", speech(1.6), tmp_path / "out.mp4", progress=False)
    last = frames_offered(engine, opened_by)[engine.chosen][:, -1]  # lips open with the number
    assert last[:20].min() > 25
    assert last[20:].max() < 15


@pytest.mark.parametrize("align_references", [False, True])
def test_aligned_networks_get_references_of_the_same_pose(tmp_path: Path, speech: Any, align_references: bool) -> None:
    write_video(tmp_path / "a.mp4", numbered(40), 25)
    dubber, engine = choosing_dubber(Turning((17,)), align_references=align_references)
    assert dubber.dub(tmp_path / "a.mp4", speech(1.6), tmp_path / "out.mp4", progress=False).faces == 39
    if not align_references:
        assert len(engine.offered) == 3
        assert (engine.chosen == [0, 1, 2]).all()
        return
    of = frames_offered(engine, turned_by)
    assert 3 < len(of) <= 3 + 39
    shown = np.delete(np.arange(40), 17)
    assert np.abs(of[engine.chosen] - shown[:, None]).mean() < 6  # of three fixed ones: 13
    assert not np.isin(17, of)


def test_pixels_outside_the_face_are_untouched(tmp_path: Path, speech: Any) -> None:
    write_video(tmp_path / "a.mp4", numbered(20), 25)
    with VideoReader(tmp_path / "a.mp4") as reader:
        true = reader.get(range(20))
    dubber = stub_dubber(detector=Detector((3, 4)), block=6)
    found = list(dubber.frames(tmp_path / "a.mp4", speech(0.8)))
    assert len(found) == 20
    for index in range(20):
        changed = (found[index] != true[index]).any(-1)
        if index in (3, 4):
            assert not changed.any()
            continue
        points = landmarks_of(index)
        rows, columns = np.nonzero(changed)
        assert changed.sum() > 500
        assert points[:, 0].min() <= columns.min() <= columns.max() <= points[:, 0].max() + 1
        assert points[:, 1].min() + 20 <= rows.min() <= rows.max() <= points[:, 1].max() + 1


def test_blind_beginnings_and_ends(tmp_path: Path, speech: Any) -> None:
    write_video(tmp_path / "a.mp4", numbered(20), 25)
    dubber = stub_dubber(detector=Detector((*range(6), *range(14, 20))))
    report = dubber.dub(tmp_path / "a.mp4", speech(0.8), tmp_path / "out.mp4", progress=False)
    assert (report.frames, report.faces) == (20, 8)


def test_a_varying_rate_is_kept(tmp_path: Path, speech: Any) -> None:
    times = np.cumsum([0, *[0.03, 0.05, 0.08] * 6])
    with VideoWriter(tmp_path / "a.mp4", 20, (WIDTH, HEIGHT), timestamps=times) as writer:
        writer.write(numbered(len(times)))
    stub_dubber(detector=Detector()).dub(tmp_path / "a.mp4", speech(0.7), tmp_path / "out.mp4", progress=False)
    with VideoReader(tmp_path / "out.mp4") as reader:
        np.testing.assert_allclose(reader.timestamps_s, times[times < 0.7], atol=1e-3)


def test_sound_keeps_its_rate(tmp_path: Path, speech: Any) -> None:
    write_video(tmp_path / "a.mp4", numbered(10), 25)
    stub_dubber(detector=Detector()).dub(tmp_path / "a.mp4", speech(0.5, 44_100), tmp_path / "out.mp4", progress=False)
    assert len(load_audio(tmp_path / "out.mp4", 44_100)) == 22_050


def test_sound_keeps_its_channels_whatever_the_fit(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", numbered(10), 25)
    wave = 0.2 * np.random.default_rng(0).standard_normal((26_460, 2)).astype(np.float32)
    wave[:, 1] *= 0.25
    make_media(tmp_path / "a.wav", SoundTrack(wave, 44_100, "pcm_s16le"))
    for fit, seconds in (("loop", 0.6), ("trim", 0.4)):
        dubber = stub_dubber(detector=Detector(), fit=fit)
        dubber.dub(tmp_path / "a.mp4", tmp_path / "a.wav", tmp_path / "out.mp4", progress=False)
        found = load_audio(tmp_path / "out.mp4", 44_100, mono=False)
        assert found.shape[1] == 2
        assert abs(len(found) - round(seconds * 44_100)) <= 1
        assert found[4096:, 0].std() / found[4096:, 1].std() == pytest.approx(4, rel=0.2)


@pytest.mark.parametrize(("speech_s", "rest"), [(0.4, "as in silence"), (0.9, "its end is not shown")])
def test_sound_of_another_file_sets_the_length_and_is_kept_as_it_is(
    tmp_path: Path, speech: Any, speech_s: float, rest: str
) -> None:
    write_video(tmp_path / "a.mp4", numbered(20), 25)
    mix = 0.3 * np.sin(2 * np.pi * np.outer(np.arange(26_460) / 44_100, [300, 700])).astype(np.float32)
    make_media(tmp_path / "mix.wav", SoundTrack(mix, 44_100, "pcm_s16le"))
    dubber, out = stub_dubber(detector=Detector()), tmp_path / "out.mp4"
    report = dubber.dub(tmp_path / "a.mp4", speech(speech_s), out, progress=False, sound=tmp_path / "mix.wav")
    assert (report.frames, report.faces, report.seconds) == (15, 15, 0.6)
    assert [rest in warning for warning in report.warnings] == [True]
    found = load_audio(out, 44_100, mono=False)
    assert found.shape == (26_460, 2)
    assert min(np.corrcoef(found[:, side], mix[:, side])[0, 1] for side in (0, 1)) > 0.95
    engine: Any = dubber.engine
    last = engine.guidance.audio[-1].max()  # a step's feature is its number, from 1 on
    assert last == 30  # of 0.6 s, whether the speech or the silence after it fills them


def test_dub_takes_the_sound_track_asked_for_and_says_which(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", numbered(10), 25)
    tracks = [
        SoundTrack(0.2 * np.ones(length, np.float32), 16_000, "flac", default=length > 5000) for length in (4800, 8000)
    ]
    make_media(tmp_path / "a.mkv", tracks)
    for track, seconds in ((None, 0.5), (1, 0.3)):
        report = stub_dubber(detector=Detector()).dub(
            tmp_path / "a.mp4", tmp_path / "a.mkv", tmp_path / "out.mp4", progress=False, audio_track=track
        )
        assert report.seconds == pytest.approx(seconds)
        message = f"{tmp_path / 'a.mkv'} has 2 sound tracks: track 2, its default, was taken"
        assert (message in report.warnings) == (track is None)


def test_only_what_is_shown_is_searched_for_faces(tmp_path: Path, speech: Any) -> None:
    write_video(tmp_path / "a.mp4", numbered(50), 4)  # 12.5 s
    detector = Detector()
    stub_dubber(detector=detector).dub(tmp_path / "a.mp4", speech(1.0), tmp_path / "out.mp4", progress=False)
    assert detector.seen == list(range(40))  # the speech needs 4, references come from 10 s


def test_remap_looks_at_the_whole_video_though_the_speech_is_short(tmp_path: Path, speech: Any) -> None:
    write_video(tmp_path / "a.mp4", numbered(40), 25 / 8)  # 12.8 s
    detector = Detector()
    dubber = stub_dubber(detector=detector, fit="remap")
    report = dubber.dub(tmp_path / "a.mp4", speech(0.8), tmp_path / "out.mp4", progress=False)
    assert (report.frames, report.seconds, detector.seen) == (20, 0.8, list(range(40)))
    with VideoReader(tmp_path / "out.mp4") as reader:
        assert [number(frame) for frame in reader.get(range(20))] == list(range(0, 40, 2))


def test_errors(tmp_path: Path, speech: Any) -> None:
    video, out = tmp_path / "a.mp4", tmp_path / "out.mp4"
    write_video(video, numbered(5), 25)
    out.write_bytes(b"earlier")
    dubber = stub_dubber(detector=Detector(tuple(range(5))))
    with pytest.raises(DubError, match=r"a\.mp4: no face was found in any of 5 frames"):
        dubber.dub(video, speech(0.2), out, progress=False)
    with pytest.raises(FileNotFoundError, match=r"none\.mp4"):
        dubber.dub(tmp_path / "none.mp4", speech(0.2), out, progress=False)
    with pytest.raises(FileNotFoundError, match=r"none\.wav"):
        dubber.dub(video, tmp_path / "none.wav", out, progress=False)
    with pytest.raises(AudioError, match=r"a\.mp4: has no audio stream"):
        dubber.dub(tmp_path / "a.mp4", video, out, progress=False)
    with pytest.raises(VideoError, match=r"speech0\.2\.wav: has no video stream"):
        dubber.dub(speech(0.2), speech(0.2), out, progress=False)
    with pytest.raises(FileNotFoundError, match=r"nowhere: no such folder"):
        dubber.dub(video, speech(0.2), tmp_path / "nowhere" / "out.mp4", progress=False)
    with pytest.raises(DubError, match=r"a\.mp4: is an input"):
        dubber.dub(video, speech(0.2), video, progress=False)
    assert out.read_bytes() == b"earlier"
    assert not list(tmp_path.glob("*.part-*"))


def test_networks_that_do_not_fit() -> None:
    guidance, synthesis = Guidance(**GUIDANCE["tiny"]), Synthesis(**SYNTHESIS["tiny"])
    with pytest.raises(DubError, match=r"take 80 audio features a step \(logmel\), got steps with 1"):
        Dubber(guidance, synthesis, Steps())
    other = Synthesis(**{**SYNTHESIS["tiny"], "face_size": 128})
    with pytest.raises(DubError, match="face_size is 64 in guidance, 128 in synthesis"):
        Dubber(guidance, other, LogMel())
    with pytest.raises(DubError, match="num_frames must be odd"):
        Dubber(guidance, synthesis, LogMel(), num_frames=4)


# --------------------------------------------------------------------------------------------------- with the networks


@pytest.mark.slow
def test_blocks_of_any_size_give_the_same_frames(tmp_path: Path, checkpoint: Path, speech: Any) -> None:
    write_video(tmp_path / "a.mp4", numbered(10), 25)
    found = []
    for block in (1, 4, 32):
        dubber = Dubber.from_checkpoint(checkpoint, detector=Detector((5,)), block=block, check=False)
        found.append(np.stack(list(dubber.frames(tmp_path / "a.mp4", speech(0.6)))).astype(int))
    assert len(found[0]) == 15
    assert np.abs(found[1] - found[0]).max() <= 1
    assert np.abs(found[2] - found[0]).max() <= 1


def dub_real(folder: Path, checkpoint: Path, video: str, audio: str, out: Path) -> tuple[Any, Any]:
    report = Dubber.from_checkpoint(checkpoint, check=False).dub(folder / video, folder / audio, out, progress=False)
    source, result = probe(folder / video), probe(out)
    speech = load_audio(folder / audio)
    assert (result.width, result.height, result.fps) == (source.width, source.height, source.fps)
    assert result.frames == report.frames == int(np.ceil(len(speech) / 16_000 * source.fps - 1e-4))
    sound = load_audio(out)
    assert abs(len(sound) - len(speech)) <= 1  # the container counts milliseconds
    assert np.corrcoef(sound[: len(speech)], speech[: len(sound)])[0, 1] > 0.95
    return report, result


def test_a_real_clip_forward_and_backward(tmp_path: Path, corpus: Path, checkpoint: Path) -> None:
    """Of its first 20 frames, for a second of speech."""
    with VideoReader(corpus / "clips" / "spk37_01.mp4") as reader:
        write_video(tmp_path / "a.mp4", reader.get(range(20)), 25)
    write_wav(tmp_path / "a.wav", load_audio(corpus / "audio" / "zh_bus.wav")[:16_000], 16_000)
    report, _ = dub_real(tmp_path, checkpoint, "a.mp4", "a.wav", tmp_path / "out.mp4")
    assert report.faces == report.frames == 25
    with VideoReader(tmp_path / "a.mp4") as true, VideoReader(tmp_path / "out.mp4") as found:
        for index in (0, 19, 22):  # 22 is 16 backward
            corner = found.get([index])[0, :60].astype(int) - true.get([min(index, 38 - index)])[0, :60]
            assert np.abs(corner).mean() < 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("video", "audio", "least", "most"),
    [
        ("clips/spk20_02.mp4", "audio/de_dt_german4.wav", 206, 206),
        ("hard/shotcut_broll_01.mp4", "audio/en_education.wav", 60, 230),
        ("hard/fps15_generated_01.mp4", "audio/fr_dt_french3.wav", 79, 79),
    ],
)
def test_real_clips(
    tmp_path: Path, corpus: Path, checkpoint: Path, video: str, audio: str, least: int, most: int
) -> None:
    report, _ = dub_real(corpus, checkpoint, video, audio, tmp_path / "out.mp4")
    assert least <= report.faces <= most


# ------------------------------------------------------------------------------------- generated faces that are wrong

FRAMES, BAD = 40, range(18, 22)


class Verdicts(ResultCheck):
    """Calls the faces of some frames wrong."""

    def __call__(self, faces: Any, seen: np.ndarray, landmarks: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        return np.isin(numbers, BAD)


@pytest.fixture
def clip(tmp_path: Path) -> tuple[Path, Path]:
    write_video(tmp_path / "a.mp4", numbered(FRAMES), 25)
    write_wav(tmp_path / "a.wav", np.full(FRAMES * 640, 0.1, np.float32), 16_000)
    return tmp_path / "a.mp4", tmp_path / "a.wav"


def checking_dubber(monkeypatch: pytest.MonkeyPatch, block: int) -> Dubber:
    made = stub_dubber(detector=Detector(), block=block)
    monkeypatch.setattr(made, "check", True)
    monkeypatch.setattr(made, "result_check", Verdicts)
    monkeypatch.setattr(
        "stsa_lightning.dubbing.face_track.no_lips", lambda contrast, frames: np.zeros(len(contrast), bool)
    )
    return made


def changes(frames: list[np.ndarray], video: Path) -> np.ndarray:
    """(F,) how far each frame is from the source's, the most green one 1."""
    with VideoReader(video) as reader:
        true = reader.get(range(len(reader)))
    apart = np.abs(np.stack(frames).astype(int) - true).mean(axis=(1, 2, 3))
    return apart / apart.max()


@pytest.mark.parametrize("block", [1, 7, 32])
def test_frames_that_fail_pass_through_with_ramps_on_both_sides(
    clip: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    change = changes(list(checking_dubber(monkeypatch, block).frames(*clip)), clip[0])
    ramp = ramp_frames(25)
    assert not change[BAD].any()
    assert (np.diff(change[BAD.start - ramp : BAD.start + 1]) < 0).all()
    assert (np.diff(change[BAD.stop - 1 : BAD.stop + ramp]) > 0).all()
    rest = np.r_[: BAD.start - ramp, BAD.stop + ramp : FRAMES]
    assert change[rest].min() > 0.9


def test_live_speech_waits_for_no_later_frame(clip: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    chunks = [np.full(640, 0.1, np.float32)] * FRAMES
    change = changes(list(checking_dubber(monkeypatch, 1).frames(clip[0], chunks))[:FRAMES], clip[0])
    assert not change[BAD].any()
    assert change[BAD.start - 1] > 0.9
    assert 0 < change[BAD.stop] < 0.5


@pytest.mark.parametrize("live", [True, False])
def test_references_are_chosen_for_the_next_block_as_well_unless_speech_is_live(
    clip: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, live: bool
) -> None:
    followed: list[bool] = []
    render = Renderer._render

    def noted(self: Renderer, block: Block, following: Block | None = None) -> Block:
        followed.append(following is not None)
        return render(self, block, following)

    monkeypatch.setattr(Renderer, "_render", noted)
    speech = [np.full(640, 0.1, np.float32)] * FRAMES if live else clip[1]
    list(stub_dubber(detector=Detector(), block=8).frames(clip[0], speech))
    assert len(followed) > 2
    assert followed == ([False] * len(followed) if live else [True] * (len(followed) - 1) + [False])


def test_frames_that_fail_are_counted_and_warned_of(
    clip: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    report = checking_dubber(monkeypatch, 16).dub(*clip, tmp_path / "out.mp4", progress=False)
    assert report.passed == {"failed check": len(BAD)}
    assert report.faces == FRAMES - len(BAD)
    assert "failed the check" in report.warnings[0]


def test_a_face_of_nan_passes_through(clip: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    made = stub_dubber(detector=Detector(), block=8)
    render = made.engine.render

    def broken(*inputs: Any) -> Rendered:
        answer = render(*inputs)
        faces = answer.faces.clone()
        faces[3] = float("nan")
        return replace(answer, faces=faces)

    monkeypatch.setattr(made.engine, "render", broken)
    change = changes(list(made.frames(*clip)), clip[0])
    assert not change[3::8].any()
    assert change.max() == 1
