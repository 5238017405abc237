from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from stsa_lightning.dubbing.growing_features import GrowingFeatures
from stsa_lightning.dubbing.timeline import Moment, Samples, Timeline

FRAME = 640  # samples at 16 kHz


class Loudness:
    """A feature that says which samples a step hears: the first of its 320, 0 in silence."""

    kind, dim = "loudness", 1

    def __call__(self, wave: np.ndarray) -> np.ndarray:
        return np.concatenate(list(self.chunks(wave)))

    def chunks(self, wave: np.ndarray) -> Iterator[np.ndarray]:
        yield np.ascontiguousarray(wave[::320])[:, None]


def ramp(frames: float, first: int = 1) -> np.ndarray:
    """Samples that rise by one each."""
    return np.arange(first, first + round(frames * FRAME), dtype=np.float32)


def push(timeline: Timeline, sound: np.ndarray) -> None:
    timeline.push(sound, sound)


def heard(timeline: Timeline, moment: Moment) -> np.ndarray:
    """(18,) all steps that the windows around a frame hear, as `audio_windows` asks for them."""
    return timeline.rows(2 * moment.number - 8, 2 * moment.number + 10)[:, 0]


def test_sound_lies_on_whole_frames_and_features_on_the_samples_heard() -> None:
    timeline, said = Timeline(Loudness()), ramp(7.5)
    before = [timeline.advance() for _ in range(3)]
    push(timeline, said)
    timeline.end()
    after = [(moment := timeline.advance(), heard(timeline, moment)) for _ in range(25)]
    sound = np.concatenate([moment.sound for moment, _ in after])
    start = 5 * FRAME  # lips open first
    np.testing.assert_array_equal(sound[start : start + len(said)], said)
    assert not sound[:start].any()
    assert not sound[start + len(said) :].any()
    assert [moment.number for moment, _ in after] == list(range(3, 28))
    assert [moment.speaking for moment, _ in after] == [False] * 5 + [True] * 8 + [False] * 12
    assert not any(moment.speaking for moment in before)
    steps = np.concatenate([np.zeros(10 + 2 * 8), said[::320], np.zeros(80)])  # from step -10 on; speech is at frame 8
    for moment, rows in after:
        np.testing.assert_array_equal(rows, steps[2 * moment.number + 2 :][:18])
    assert not timeline.busy


def test_utterances_follow_each_other_without_a_gap_when_they_are_there_in_time() -> None:
    timeline = Timeline(Loudness())
    push(timeline, ramp(6))
    timeline.end()
    push(timeline, ramp(3, first=9000))
    timeline.end()
    moments = [timeline.advance() for _ in range(20)]
    assert [moment.speaking for moment in moments] == [False] * 5 + [True] * 9 + [False] * 6
    assert [moment.number for moment in moments if moment.last] == [10, 13]
    assert moments[11].sound[0] == 9000


def test_speech_waits_for_what_its_features_hear_and_then_keeps_its_pace() -> None:
    """20 ms at a time, two of them a frame, with an extractor that hears 0.2 s ahead."""
    extractor = Loudness()
    extractor.kind = "moonshine"
    timeline, said, sound = Timeline(extractor), ramp(50), list[np.ndarray]()
    for i in range(50):
        push(timeline, said[i * FRAME : i * FRAME + 320])
        push(timeline, said[i * FRAME + 320 : (i + 1) * FRAME])
        sound.append(timeline.advance().sound)
    begun = int(np.flatnonzero(np.concatenate(sound))[0])
    assert 0.2 * 16_000 <= begun <= 0.44 * 16_000
    np.testing.assert_array_equal(np.concatenate(sound)[begun:], said[: len(sound) * FRAME - begun])
    assert timeline.late == 0


def test_speech_that_comes_too_slowly_is_cut_by_silence_and_nothing_of_it_is_lost() -> None:
    timeline, said = Timeline(Loudness()), ramp(40)
    push(timeline, said[: 10 * FRAME])
    moments = [timeline.advance() for _ in range(16)]
    assert timeline.late > 0
    push(timeline, said[10 * FRAME :])
    timeline.end()
    moments += [timeline.advance() for _ in range(60)]
    spoken = [moment.sound for moment in moments if moment.speaking]
    np.testing.assert_array_equal(np.concatenate(spoken), said)


def test_speech_that_stops_coming_is_said_to_its_end_after_a_second() -> None:
    timeline, said = Timeline(Loudness()), ramp(3)
    push(timeline, said)
    moments = [timeline.advance() for _ in range(60)]
    np.testing.assert_array_equal(np.concatenate([moment.sound for moment in moments if moment.speaking]), said)
    assert not timeline.busy


def test_an_interruption_is_silent_at_once_and_lips_fade_over_five_frames() -> None:
    timeline = Timeline(Loudness())
    push(timeline, np.ones(100 * FRAME, np.float32))
    timeline.end()
    push(timeline, ramp(10))
    for _ in range(20):
        assert heard(timeline, timeline.advance()).max() <= 1
    timeline.clear()
    centres = []
    for _ in range(8):
        moment = timeline.advance()
        assert not moment.sound.any()
        centres.append(heard(timeline, moment)[8])
    np.testing.assert_allclose(centres, [0.8, 0.6, 0.4, 0.2, 0, 0, 0, 0], atol=1e-6)
    assert not timeline.busy
    push(timeline, ramp(2))
    timeline.end()
    moments = [timeline.advance() for _ in range(9)]
    assert [moment.speaking for moment in moments] == [False] * 5 + [True] * 2 + [False] * 2


def test_rows_begin_again_with_each_turn() -> None:
    timeline = Timeline(Loudness(), turn=30)
    for _ in range(25):
        timeline.advance()
    push(timeline, ramp(20))
    timeline.end()
    for number in range(25, 50):
        timeline.advance()
        centre = timeline.rows(2 * (number % 30), 2 * (number % 30) + 1)[0, 0]
        assert centre == (max(0, number - 30) * FRAME + 1 if number >= 30 else 0)


@pytest.mark.parametrize("rate_hz", [8000, 22_050, 44_100])
def test_sound_keeps_its_own_rate(rate_hz: int) -> None:
    timeline, sound = Timeline(Loudness(), rate_hz), np.ones(rate_hz, np.float32)
    timeline.push(sound, np.ones(16_000, np.float32))
    timeline.end()
    moments = [timeline.advance() for _ in range(40)]
    assert {len(moment.sound) for moment in moments} == {rate_hz // 25}
    assert sum(moment.sound.sum() for moment in moments) == rate_hz


def test_samples_come_out_in_order_whatever_the_pieces() -> None:
    samples, rng, found = Samples(), np.random.default_rng(0), list[np.ndarray]()
    whole = np.arange(1000, dtype=np.float32)
    for chunk in np.split(whole, sorted(rng.integers(0, 1000, 20))):
        samples.push(chunk)
        found.append(samples.take(int(rng.integers(0, 60))))
    found.append(samples.take(1000))
    np.testing.assert_array_equal(np.concatenate(found), whole)
    assert len(samples) == 0


def test_growing_features_hold_a_bounded_part_of_the_sound() -> None:
    features = GrowingFeatures(Loudness())
    for second in range(60):
        features.push(np.full(16_000, second, np.float32))
        rows = features.rows(50 * second, 50 * second + 50)
        assert (rows == second).all()
        assert features.held < 3 * 16_000
    with pytest.raises(ValueError, match="forgotten"):
        features.rows(0, 10)
