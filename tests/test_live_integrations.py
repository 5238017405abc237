"""LiveKit's, Pipecat's and LiveTalking's avatars, with fakes of what they take from there."""

from __future__ import annotations

import asyncio
import importlib.util
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from stsa_lightning.constants import FPS
from stsa_lightning.dubbing.live import LiveFrame, checked_sound
from stsa_lightning.dubbing.timeline import Timeline
from tests.dubbing.test_timeline import Loudness

FOLDER = Path(__file__).parents[1] / "integrations"
WIDTH, HEIGHT = 32, 24


class QuickStream(Iterator[LiveFrame]):
    """A stream whose pictures are their numbers."""

    def __init__(self, rate_hz: int) -> None:
        self._timeline, self._closed = Timeline(Loudness(), rate_hz), False
        self.end, self.clear = self._timeline.end, self._timeline.clear

    def push(self, sound: np.ndarray) -> None:
        sound = checked_sound(sound)
        self._timeline.push(sound, sound)

    @property
    def busy(self) -> bool:
        return self._timeline.busy

    def __next__(self) -> LiveFrame:
        if self._closed:
            raise StopIteration
        moment = self._timeline.advance()
        picture = np.full((HEIGHT, WIDTH, 3), (moment.number % 256, 0, 200), np.uint8)
        return LiveFrame(moment.number, moment.number / FPS, picture, moment.sound, moment.speaking, moment.last, False)

    def close(self) -> None:
        self._closed = True

    def __enter__(self) -> QuickStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class QuickPerson:
    video = SimpleNamespace(size=(WIDTH, HEIGHT))

    def stream(self, rate_hz: int) -> QuickStream:
        return QuickStream(rate_hz)

    def __enter__(self) -> QuickPerson:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def load(monkeypatch: pytest.MonkeyPatch, name: str, fakes: dict[str, dict[str, Any]]) -> ModuleType:
    """An integration's module, with the modules that it imports."""
    for module, contents in fakes.items():
        monkeypatch.setitem(sys.modules, module, fake := ModuleType(module))
        vars(fake).update(contents)
    spec = importlib.util.spec_from_file_location(f"stsa_{name}", FOLDER / name / "stsa_avatar.py")
    assert spec is not None
    assert spec.loader is not None
    spec.loader.exec_module(loaded := importlib.util.module_from_spec(spec))
    return loaded


def tone(frames: int, rate_hz: int) -> np.ndarray:
    return np.arange(1, frames * rate_hz // FPS + 1).astype(np.int16)


# -------------------------------------------------------------------------------------------------------------- LiveKit


@dataclass
class AudioFrame:
    data: bytes
    sample_rate: int
    num_channels: int
    samples_per_channel: int


@dataclass
class VideoFrame:
    width: int
    height: int
    type: str
    data: bytes


class AudioSegmentEnd:
    pass


@pytest.fixture
def livekit(monkeypatch: pytest.MonkeyPatch) -> Any:
    rtc = SimpleNamespace(AudioFrame=AudioFrame, VideoFrame=VideoFrame, VideoBufferType=SimpleNamespace(RGBA="rgba"))
    avatar = {"AudioSegmentEnd": AudioSegmentEnd, "AvatarOptions": SimpleNamespace, "VideoGenerator": object}
    fakes: dict[str, dict[str, Any]] = {name: {} for name in ("livekit", "livekit.agents", "livekit.agents.voice")}
    fakes["livekit"] = {"rtc": rtc}
    return load(monkeypatch, "livekit", {**fakes, "livekit.agents.voice.avatar": avatar})


def test_livekit_gets_pictures_always_sound_while_speaking_and_the_end_of_each_segment(livekit: Any) -> None:
    said = tone(6, 24_000)

    async def run() -> list[Any]:
        generator = livekit.STSAVideoGenerator(QuickPerson(), 24_000)
        assert vars(generator.options) == {
            "video_width": WIDTH,
            "video_height": HEIGHT,
            "video_fps": 25,
            "audio_sample_rate": 24_000,
            "audio_channels": 1,
        }
        await generator.push_audio(AudioFrame(said.tobytes(), 24_000, 1, len(said)))
        await generator.push_audio(AudioSegmentEnd())
        with pytest.raises(ValueError, match="mono speech at 24000 Hz, got 2 channels at 48000"):
            await generator.push_audio(AudioFrame(b"", 48_000, 2, 0))
        taken = list[Any]()
        async for frame in generator:
            taken.append(frame)
            if len(taken) == 30:
                await generator.aclose()
        return taken

    taken = asyncio.run(run())
    kinds = "".join({VideoFrame: "v", AudioFrame: "a", AudioSegmentEnd: "e"}[type(frame)] for frame in taken)
    assert kinds.startswith("v" * 5 + "va" * 6 + "e" + "v")
    assert kinds.count("a") == 6
    sound = b"".join(frame.data for frame in taken if isinstance(frame, AudioFrame))
    assert np.abs(np.frombuffer(sound, np.int16) - said.astype(int)).max() <= 1
    picture = np.frombuffer(taken[3].data, np.uint8).reshape(HEIGHT, WIDTH, 4)
    assert picture[0, 0].tolist() == [3, 0, 200, 255]


def test_livekit_is_silent_at_once_when_its_buffer_is_cleared(livekit: Any) -> None:
    async def run() -> list[Any]:
        generator, taken = livekit.STSAVideoGenerator(QuickPerson(), 16_000), list[Any]()
        said = tone(100, 16_000)
        await generator.push_audio(AudioFrame(said.tobytes(), 16_000, 1, len(said)))
        async for frame in generator:
            taken.append(frame)
            if len(taken) == 20:
                generator.clear_buffer()
            if len(taken) == 40:
                await generator.aclose()
        return taken

    taken = asyncio.run(run())
    assert any(isinstance(frame, AudioFrame) for frame in taken[:20])
    assert all(isinstance(frame, VideoFrame) for frame in taken[22:])


# -------------------------------------------------------------------------------------------------------------- Pipecat


class FrameProcessor:
    """Keeps what is pushed."""

    def __init__(self) -> None:
        self.pushed = list[Any]()

    async def process_frame(self, frame: Any, direction: Any) -> None:
        pass

    async def push_frame(self, frame: Any, direction: Any = None) -> None:
        self.pushed.append(frame)

    def create_task(self, coroutine: Any) -> asyncio.Task:
        return asyncio.create_task(coroutine)

    async def cancel_task(self, task: asyncio.Task) -> None:
        task.cancel()


PIPECAT = (
    *("CancelFrame", "EndFrame", "Frame", "InterruptionFrame", "OutputImageRawFrame"),
    *("StartFrame", "TTSAudioRawFrame", "TTSStoppedFrame", "TextFrame"),
)


@pytest.fixture
def pipecat(monkeypatch: pytest.MonkeyPatch) -> Any:
    frames = {name: type(name, (SimpleNamespace,), {}) for name in PIPECAT}
    fakes: dict[str, dict[str, Any]] = {name: {} for name in ("pipecat", "pipecat.frames", "pipecat.processors")}
    fakes |= {
        "pipecat.frames.frames": frames,
        "pipecat.processors.frame_processor": {"FrameProcessor": FrameProcessor, "FrameDirection": object},
    }
    module = load(monkeypatch, "pipecat", fakes)
    vars(module)["TextFrame"] = frames["TextFrame"]
    return module


def test_pipecat_gives_speech_on_with_its_pictures_and_all_else_at_once(pipecat: Any) -> None:
    said = tone(6, 24_000)

    async def run() -> list[Any]:
        avatar = pipecat.STSAAvatar(QuickPerson(), 24_000)
        speech = pipecat.TTSAudioRawFrame(audio=said.tobytes(), sample_rate=24_000, num_channels=1)
        for frame in (pipecat.StartFrame(), speech, pipecat.TextFrame(), pipecat.TTSStoppedFrame(), pipecat.EndFrame()):
            await avatar.process_frame(frame, None)
        with pytest.raises(ValueError, match="mono speech at 24000 Hz, got 1 channels at 8000"):
            await avatar.process_frame(pipecat.TTSAudioRawFrame(audio=b"", sample_rate=8000, num_channels=1), None)
        return avatar.pushed

    pushed = asyncio.run(run())
    names = [type(frame).__name__ for frame in pushed]
    assert names[:2] == ["StartFrame", "TextFrame"]
    assert names[-1] == "EndFrame"
    sounds = [i for i, name in enumerate(names) if name == "TTSAudioRawFrame"]
    assert len(sounds) == 6
    assert all(names[i - 1] == "OutputImageRawFrame" for i in sounds)
    assert names[sounds[-1] + 1] == "TTSStoppedFrame"
    heard = np.frombuffer(b"".join(pushed[i].audio for i in sounds), np.int16)
    assert np.abs(heard - said.astype(int)).max() <= 1
    picture = pushed[names.index("OutputImageRawFrame")]
    assert (picture.size, picture.format, len(picture.image)) == ((WIDTH, HEIGHT), "RGB", 3 * WIDTH * HEIGHT)


def test_pipecat_drops_speech_at_an_interruption(pipecat: Any) -> None:
    async def run() -> list[str]:
        avatar, said = pipecat.STSAAvatar(QuickPerson(), 16_000), tone(500, 16_000)
        await avatar.process_frame(pipecat.StartFrame(), None)
        speech = pipecat.TTSAudioRawFrame(audio=said.tobytes(), sample_rate=16_000, num_channels=1)
        for frame in (speech, pipecat.InterruptionFrame(), pipecat.EndFrame()):  # else 20 s are waited for
            await avatar.process_frame(frame, None)
        return [type(frame).__name__ for frame in avatar.pushed]

    assert "TTSAudioRawFrame" not in asyncio.run(run())


# ---------------------------------------------------------------------------------------------------------- LiveTalking


class Output:
    def __init__(self) -> None:
        self.pictures, self.sound, self.state = list[np.ndarray](), list[tuple[np.ndarray, dict]](), list[str]()

    def start(self) -> None:
        self.state.append("start")

    def stop(self) -> None:
        self.state.append("stop")

    def push_video_frame(self, picture: np.ndarray) -> None:
        self.pictures.append(picture)

    def push_audio_frame(self, chunk: np.ndarray, event: dict) -> None:
        self.sound.append((chunk, event))


class BaseAvatar:
    def __init__(self, opt: Any) -> None:
        self.opt, self.output, self.tts = opt, Output(), SimpleNamespace(render=lambda quit_event: None)
        self.flushed = self.speaking = False

    def flush_talk(self) -> None:
        self.flushed = True

    def record_video_data(self, picture: np.ndarray) -> None:
        pass

    def record_audio_data(self, chunk: np.ndarray) -> None:
        pass


def test_livetalking_shows_frames_and_sound_with_their_events(monkeypatch: pytest.MonkeyPatch) -> None:
    known = dict[tuple[str, str], type]()

    def register(kind: str, name: str) -> Any:
        return lambda avatar: known.setdefault((kind, name), avatar)

    fakes: dict[str, dict[str, Any]] = {
        "avatars": {},
        "avatars.base_avatar": {"BaseAvatar": BaseAvatar},
        "registry": {"register": register},
    }
    module = load(monkeypatch, "livetalking", fakes)
    monkeypatch.setattr(module, "paced", lambda frames: frames)
    dubber = SimpleNamespace(load_person=lambda path: QuickPerson())
    avatar = known["avatar", "stsa"](SimpleNamespace(), dubber, module.load_avatar("ann"))  # type: ignore[call-arg]
    said = tone(4, 16_000).astype(np.float32) / 32767
    for number, chunk in enumerate(said.reshape(-1, 320)):
        avatar.put_audio_frame(chunk, {"status": {0: "start", 7: "end"}.get(number, "")})
    looks = iter([False] * 15 + [True])
    avatar.render(SimpleNamespace(is_set=lambda: next(looks)))
    output = avatar.output
    assert output.state == ["start", "stop"]
    assert [picture[0, 0].tolist() for picture in output.pictures] == [[200, 0, i] for i in range(15)]  # BGR
    heard = np.concatenate([chunk for chunk, _ in output.sound])
    assert len(heard) == 15 * 640
    np.testing.assert_allclose(heard[5 * 640 : 9 * 640], np.arange(1, 4 * 640 + 1), atol=1)
    events = {i: event["status"] for i, (_, event) in enumerate(output.sound) if event}
    assert events == {10: "start", 17: "end"}
    avatar.put_audio_frame(said[:320], {"status": "start"})
    avatar.flush_talk()
    assert avatar.flushed
    assert not avatar.stream.busy
