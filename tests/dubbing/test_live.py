"""A prepared person, in a file and live: the rendered speaker, tiny networks."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import count, islice, pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from stsa_lightning.dubbing import Dubber, DubError, LiveFrame, Person, Stream, paced
from stsa_lightning.dubbing.face_selection import FaceSelector
from stsa_lightning.media.audio import write_wav
from stsa_lightning.utils.errors import UserError
from tests.field.long_lived import held

FRAME = 640


@pytest.fixture(scope="module")
def dubber(checkpoint: Path) -> Dubber:
    return Dubber.from_checkpoint(checkpoint, check=False, block=8)


@pytest.fixture(scope="module")
def video(sample_root: Path) -> Path:
    return min(sample_root.rglob("*.mp4"))


@pytest.fixture(scope="module")
def stored(dubber: Dubber, video: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    with dubber.prepare(video) as person:
        return person.save(tmp_path_factory.mktemp("person") / "one.person")


@pytest.fixture
def person(dubber: Dubber, stored: Path) -> Iterator[Person]:
    with dubber.load_person(stored) as person:
        yield person


@pytest.fixture
def stream(person: Person) -> Iterator[Stream]:
    with person.stream() as stream:
        yield stream


def ticking(stream: Stream, seconds: float) -> None:
    """Each look at the clock is so much later: a frame takes that long."""
    ticks = count()
    stream._clock = lambda: next(ticks) * seconds


# ------------------------------------------------------------------------------------------------------------- prepared


@pytest.mark.slow
def test_a_prepared_person_is_dubbed_as_the_video_is_without_a_search(
    dubber: Dubber, video: Path, spoken: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_wav(tmp_path / "a.wav", spoken[:12_800])
    searched = list(dubber.frames(video, tmp_path / "a.wav"))
    with dubber.prepare(video) as person:
        monkeypatch.setattr(FaceSelector, "update", lambda *_: pytest.fail("searched again"))
        prepared = list(dubber.frames(person, tmp_path / "a.wav"))
        report = dubber.dub(person, tmp_path / "a.wav", tmp_path / "out.mp4", progress=False)
    assert len(prepared) == 20
    np.testing.assert_array_equal(np.stack(searched), np.stack(prepared))
    assert (report.frames, report.faces, report.seconds) == (20, 20, 0.8)


def test_a_saved_person_needs_no_video_and_shows_the_same_frames(
    dubber: Dubber, short_clips: list[Path], spoken: np.ndarray, tmp_path: Path
) -> None:
    copy = shutil.copy(short_clips[0], tmp_path / "me.mp4")
    write_wav(tmp_path / "a.wav", spoken[:12_800])
    with dubber.prepare(copy) as person:
        own = np.stack(list(dubber.frames(person, tmp_path / "a.wav"))).astype(int)
        person.save(tmp_path / "me.person")
    copy.unlink()
    with dubber.load_person(tmp_path / "me.person") as person:
        found = np.stack(list(dubber.frames(person, tmp_path / "a.wav"))).astype(int)
        assert dubber.dub(person, tmp_path / "a.wav", tmp_path / "out.mp4", progress=False).frames == 20
        person.save(tmp_path / "again.person")
    assert -10 * np.log10(np.square((found - own) / 255).mean()) > 40
    with safe_open(tmp_path / "again.person", "np") as file:  # by the format's own reader
        assert file.get_tensor("landmarks").shape == (16, 131, 2)
        assert set(file.metadata()) == {"stsa_person"}


def test_a_person_belongs_to_the_dubber_that_opened_it(checkpoint: Path, person: Person, tmp_path: Path) -> None:
    other = Dubber.from_checkpoint(checkpoint)
    with pytest.raises(DubError, match="prepared by another dubber"):
        other.dub(person, tmp_path / "a.wav", tmp_path / "out.mp4", progress=False)
    with pytest.raises(DubError, match=r"one\.person: is what the person was made from"):
        person.save(person.video.path)
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder"):
        person.save(tmp_path / "nowhere" / "a.person")


def altered(stored: Path, out: Path, header: dict[str, Any] | None = None, **arrays: np.ndarray) -> Path:
    """A person's file with other contents, whole as a safetensors file."""
    with safe_open(stored, "np") as file:
        metadata = json.loads(file.metadata()["stsa_person"]) | (header or {})
        tensors = {name: file.get_tensor(name) for name in file.keys()} | arrays  # noqa: SIM118
    save_file(tensors, out, {"stsa_person": json.dumps(metadata)})
    return out


def test_files_that_are_no_person_are_named(dubber: Dubber, stored: Path, checkpoint: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.person"
    with pytest.raises(FileNotFoundError, match=r"none\.person: no such file"):
        dubber.load_person(tmp_path / "none.person")
    with pytest.raises(UserError, match=r"tiny\.safetensors: a safetensors file, but no prepared person"):
        dubber.load_person(checkpoint)
    for size in (0, 7, 100, stored.stat().st_size - 1):
        bad.write_bytes(stored.read_bytes()[:size])
        with pytest.raises(UserError, match=r"bad\.person: not a complete file"):
            dubber.load_person(bad)
    for expected, header in {
        "format 2": {"format": 2},
        "not complete": {"colours": 3},
        "rate": {"rate": "x/y"},
    }.items():
        with pytest.raises(UserError, match=rf"bad\.person: .*{expected if expected != 'rate' else 'x/y'}"):
            dubber.load_person(altered(stored, bad, header))
    for expected, array in {
        "boxes: expected shape": {"boxes": np.zeros((3, 4), np.int32)},
        "differ in number": {"times_s": np.arange(3.0)},
        "not finite": {"degrees": np.full(50, np.nan, np.float32)},
    }.items():
        with pytest.raises(UserError, match=rf"bad\.person: damaged: .*{expected}"):
            dubber.load_person(altered(stored, bad, **array))


# ----------------------------------------------------------------------------------------------------------------- live


@pytest.mark.slow
def test_a_stream_shows_what_a_dub_of_the_same_sound_shows(
    dubber: Dubber, person: Person, stream: Stream, spoken: np.ndarray, tmp_path: Path
) -> None:
    """Silence, speech, silence, over the turn of the video."""
    ticking(stream, 0.001)
    said = spoken[: 20 * FRAME]
    stream.push(said)
    stream.end()
    frames = list(islice(stream, 55))
    sound = np.concatenate([frame.sound for frame in frames])
    np.testing.assert_array_equal(sound, np.pad(said, (5 * FRAME, 30 * FRAME)))
    write_wav(tmp_path / "a.wav", sound)
    dubbed = list(dubber.frames(person, tmp_path / "a.wav"))
    apart = [np.abs(frame.picture.astype(int) - other).max() for frame, other in zip(frames, dubbed, strict=True)]
    assert max(apart[6:50]) <= 3
    assert not any(frame.repeated for frame in frames)
    moved = [np.abs(a.picture.astype(int) - b.picture).mean() for a, b in pairwise(frames)]
    assert max(moved) < 3 * np.median(moved)  # no jump where speech begins, ends, or the video turns


def test_a_slow_processor_repeats_pictures_and_says_so(
    stream: Stream, spoken: np.ndarray, caplog: pytest.LogCaptureFixture
) -> None:
    ticking(stream, 0.1)
    stream.push(spoken[: 20 * FRAME])
    stream.end()
    frames = list(islice(stream, 40))
    fresh = [frame.number for frame in frames if not frame.repeated]
    assert set(np.diff(fresh[1:])) == {3}
    assert stream.repeated == 40 - len(fresh)
    assert stream.rendered_fps == pytest.approx(25 / 3)
    assert caplog.text.count("pictures are repeated") == 1
    for before, frame in pairwise(frames):
        assert frame.repeated == (frame.picture is before.picture)
    np.testing.assert_array_equal(np.concatenate([f.sound for f in frames if f.speaking]), spoken[: 20 * FRAME])


def test_an_interruption_drops_what_is_queued(stream: Stream, spoken: np.ndarray) -> None:
    ticking(stream, 1.0)
    stream.push(spoken)
    first = list(islice(stream, 20))
    assert first[-1].speaking
    stream.clear()
    stream.push(spoken[:FRAME] + 1)
    stream.end()
    after = list(islice(stream, 12))
    assert [frame.speaking for frame in after] == [False] * 5 + [True] + [False] * 6
    assert not stream.busy


@pytest.mark.parametrize("rate_hz", [24_000, 44_100])
def test_sound_of_another_rate_comes_out_as_it_came_and_lips_hear_it_at_theirs(
    person: Person, rate_hz: int, spoken: np.ndarray
) -> None:
    """A tone of 1 kHz in 16 bits: its log-mel is that of the same tone at 16 kHz."""
    tones = {hz: np.sin(2 * np.pi * 1000 * np.arange(hz) / hz) for hz in (rate_hz, 16_000)}
    rows = {}
    for hz, tone in tones.items():
        with person.stream(hz) as stream:
            ticking(stream, 1.0)
            whole = np.round(tone * 10_000).astype(np.int16)
            for chunk in np.array_split(whole, 37):
                stream.push(chunk)
            stream.end()
            frames = list(islice(stream, 18))
            rows[hz] = stream._timeline.rows(26, 44)
            frames += list(islice(stream, 20))
        said = np.concatenate([frame.sound for frame in frames if frame.speaking])
        np.testing.assert_array_equal(said, whole.astype(np.float32) / 2**15)
    strong = rows[16_000] > rows[16_000].max() - 3
    assert np.abs(rows[rate_hz] - rows[16_000])[strong].max() < 0.2


def test_bad_sound_and_rates_are_named(person: Person, stream: Stream) -> None:
    for sound, found in (
        (np.zeros((2, 5), np.float32), r"float32 \(2, 5\)"),
        (np.zeros(5, np.int32), "int32"),
        ([0.0], "list"),
        (np.array([0, np.nan]), "not finite"),
    ):
        with pytest.raises(DubError, match=f"sound: .*{found}"):
            stream.push(sound)  # type: ignore[arg-type]
    for rate_hz in (11_025 * 2 + 1, 4000):
        with pytest.raises(DubError, match=f"rate_hz: expected a multiple of 25 .* got {rate_hz}"):
            person.stream(rate_hz)


def test_a_closed_stream_is_at_its_end_and_others_of_the_person_go_on(person: Person) -> None:
    with person.stream() as one, person.stream() as other:
        ticking(one, 1.0), ticking(other, 1.0)
        assert next(one).number == next(other).number == 0
        one.close()
        assert list(one) == []
        assert next(other).number == 1


def test_paced_waits_until_each_time_stamp_and_lets_what_is_late_catch_up() -> None:
    clock, slept = [10.0], list[float]()

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        clock[0] += seconds

    taken = []
    frames = (LiveFrame(i, i / 25, np.zeros(0), np.zeros(0), False, False, False) for i in range(10))
    for frame in paced(frames, lambda: clock[0], sleep):
        taken.append(clock[0])
        clock[0] += 0.1 if frame.number == 3 else 0.001
    due = 10 + np.arange(10) / 25
    np.testing.assert_allclose(taken, [*due[:4], due[3] + 0.1, due[3] + 0.101, *due[6:]])


@pytest.mark.slow
def test_ten_minutes_in_chunks_of_20_ms_with_five_interruptions(
    checkpoint: Path, stored: Path, spoken: np.ndarray
) -> None:
    """Constant memory, and every frame with exactly its own samples; of 25 frames a second five are rendered."""
    # In a process of its own: what the tests before left behind is given back, and taken, at any moment.
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        memory = process.submit(_ten_minutes, checkpoint, stored, spoken).result()
    assert memory[-1] - memory[0] < 8


def _ten_minutes(checkpoint: Path, stored: Path, spoken: np.ndarray) -> list[float]:
    """Megabytes held after each minute."""
    rng, chunk = np.random.default_rng(0), 320
    dubber = Dubber.from_checkpoint(checkpoint, check=False, block=8)
    with dubber.load_person(stored) as person, person.stream() as stream:
        ticking(stream, 0.2)
        pushed, memory = 0, list[float]()
        interruptions = set(rng.integers(500, 14_500, 5).tolist())
        for number in range(15_000):
            pause = number % 250 > 200  # speech of eight seconds, then two of silence
            if number % 250 == 200:
                stream.end()
            for half in range(0 if pause else 2):
                place = (2 * number + half) % (len(spoken) // chunk) * chunk
                stream.push(spoken[place : place + chunk])
                pushed += chunk
            if number in interruptions:
                stream.clear()
            frame = next(stream)
            assert (frame.number, len(frame.sound)) == (number, FRAME)
            assert frame.time_s == number / 25
            if number in interruptions:
                assert not frame.speaking
            if number % 1500 == 1499:
                memory.append(held()["megabytes"])
        assert stream.late == 0
    assert pushed > 15_000 * FRAME * 0.7
    return memory
