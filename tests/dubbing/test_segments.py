"""Lists of segments, and dialogues dubbed by them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stsa_lightning.cli import main
from stsa_lightning.dubbing import DubError, Segment, dub_segments, read_segments
from stsa_lightning.dubbing.people import PeopleFinder, TrackedPerson, choose_person
from stsa_lightning.face.tracks import FaceTrack
from stsa_lightning.media.audio import load_audio, write_wav
from stsa_lightning.media.video import VideoReader, write_video
from stsa_lightning.utils.errors import UserError
from tests.dubbing.test_dubber import HEIGHT, WIDTH, Steps, landmarks_of, numbered, stub_dubber
from tests.field.media import SoundTrack, make_media

FRAMES, FPS = 50, 25
RAMP = 5  # frames, 0.2 s


class TwoFaces:
    """Follows two people who sit side by side in one shot, and sees the right one in the second half alone."""

    def __init__(self, _model: object = None) -> None:
        self.left, self.right, self.frames = FaceTrack(), FaceTrack(), 0

    def update(self, frames: np.ndarray) -> None:
        for _ in frames:
            self.left.add(self.frames, landmarks_of(self.frames))
            if self.frames >= FRAMES // 2:
                self.right.add(self.frames, landmarks_of(self.frames) + np.float32([WIDTH, 0]))
            self.frames += 1

    @property
    def seen(self) -> list[FaceTrack]:
        return [track for track in (self.left, self.right) if track.frames and track.frames[-1] == self.frames - 1]

    def everyone(self) -> list[tuple[int, int, list[FaceTrack]]]:
        return [(0, self.frames, [self.right, self.left])]

    shots = everyone

    def close(self) -> None:
        pass


class Ones(Steps):
    """As `Steps`, from another number on, so that it shows whose speech it is."""

    def chunks(self, wave: np.ndarray) -> Iterator[np.ndarray]:
        begins = 0.0 if not wave.any() else 1000 * round(float(np.abs(wave).max()) * 10)
        yield begins + np.arange(1, -(-len(wave) // 320) + 1, dtype=np.float32)[:, None]


@pytest.fixture
def dialogue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A video of two people, and speech of 0.4 s of either, told apart by how loud it is."""
    monkeypatch.setattr("stsa_lightning.dubbing.face_selection.FaceFollower", TwoFaces)
    frames = numbered(FRAMES)
    write_video(tmp_path / "two.mp4", np.concatenate([frames, frames], axis=2), FPS)
    for name, loud in (("a", 0.1), ("b", 0.2)):
        write_wav(tmp_path / f"{name}.wav", np.full(6400, loud, np.float32))
    return tmp_path


def dubber() -> Any:
    made = stub_dubber(block=7)
    made.features = Ones()
    return made


def green(path: Path) -> np.ndarray:
    """(F, 2) how green the left and the right mouth are, in grey levels."""
    with VideoReader(path) as reader:
        frames = reader.get(range(len(reader))).astype(int)
    return np.stack([frames[:, 80, 70 + side, 1] - frames[:, 80, 70 + side, 0] for side in (0, WIDTH)], axis=1)


def test_each_mouth_moves_in_its_own_segments_alone(dialogue: Path) -> None:
    said = [
        Segment(1.2, None, dialogue / "a.wav", face="right", where="row 2"),
        Segment(0.4, None, dialogue / "a.wav", face="left", where="row 1"),
        Segment(1.4, 1.8, dialogue / "b.wav", face="left", where="row 3"),
    ]
    report = dub_segments(dubber(), dialogue / "two.mp4", said, dialogue / "out.mp4", progress=False)
    left, right = green(dialogue / "out.mp4").T
    whole_left, whole_right = np.zeros(FRAMES, bool), np.zeros(FRAMES, bool)
    whole_left[10:20], whole_left[35:45], whole_right[30:40] = True, True, True
    for levels, whole in ((left, whole_left), (right, whole_right)):
        near = np.convolve(whole, np.ones(2 * RAMP + 1), "same") > 0
        assert levels[whole].min() > 100
        assert np.abs(levels[~near]).max() < 12
    assert [(s.where, s.person, s.frames, s.rendered) for s in report.segments] == [
        ("row 1", "p1", 10, 10),
        ("row 2", "p2", 10, 10),
        ("row 3", "p1", 10, 10),
    ]
    assert (report.frames, report.face, report.seconds) == (FRAMES, "p1, p2", 2.0)
    assert set(report.passed) == {"between segments"}
    assert report.faces + report.passed["between segments"] == FRAMES


def test_lips_follow_their_own_speech_from_its_start_on(dialogue: Path) -> None:
    made = dubber()
    said = [Segment(1.21, None, dialogue / "b.wav", face="p2"), Segment(1.2, None, dialogue / "a.wav", face="p1")]
    dub_segments(made, dialogue / "two.mp4", said, dialogue / "out.mp4", progress=False)
    audio = np.stack([window.numpy() for window in made.engine.guidance.audio])  # (n, 5, 1, 10)
    of_a, of_b = (audio[(audio >= low).any(axis=(1, 2, 3))] for low in (1000, 2000))
    of_a = of_a[of_a.max(axis=(1, 2, 3)) < 2000]
    middle = np.array([window[2, 0] for window in of_a])  # of the frame itself
    times = np.unique(middle[middle >= 1000] - 1001)
    np.testing.assert_array_equal(times, np.arange(20))  # 0.4 s: every step, none beyond
    # b begins 10 ms after a step: half a step of silence before it, so one step more.
    middle = np.array([window[2, 0] for window in of_b])
    np.testing.assert_array_equal(np.unique(middle[middle >= 2000] - 2001), np.arange(21))


def test_closed_mouths_are_rendered_between_segments_in_silence(dialogue: Path) -> None:
    said = [Segment(0.4, None, dialogue / "a.wav", face="left")]
    report = dub_segments(dubber(), dialogue / "two.mp4", said, dialogue / "out.mp4", between="close", progress=False)
    left, right = green(dialogue / "out.mp4").T
    assert left.min() > 100
    assert np.abs(right).max() < 12
    assert (report.faces, report.passed) == (FRAMES, {})


def test_speech_sounds_at_its_start_louder_by_its_gain_from_its_offset_on(dialogue: Path) -> None:
    wave = 0.2 * np.sin(2 * np.pi * 300 * np.arange(16_000) / 16_000).astype(np.float32)
    wave[:8000] = 0
    write_wav(dialogue / "late.wav", wave)
    said = [
        Segment(1.0, None, dialogue / "late.wav", face="none", gain_db=6.0, offset_s=0.5),
        Segment(0.2, None, dialogue / "a.wav", face="left"),
    ]
    report = dub_segments(dubber(), dialogue / "two.mp4", said, dialogue / "out.mp4", progress=False)
    sound = load_audio(dialogue / "out.mp4")
    loud = np.abs(sound[:32_000]).reshape(-1, 1600).max(axis=1)
    assert loud[11:14].min() > 0.35
    assert loud[[0, 8, 16, 18]].max() < 0.03
    assert [segment.person for segment in report.segments] == ["p1", ""]
    assert report.warnings == ()


def test_too_loud_a_mix_is_softened_and_stereo_stays(dialogue: Path) -> None:
    tone = 0.8 * np.sin(2 * np.pi * 300 * np.arange(22_050) / 44_100).astype(np.float32)
    make_media(dialogue / "s.wav", SoundTrack(np.stack([tone, 0 * tone], 1), 44_100, "pcm_s16le"))
    said = [Segment(0.5, None, dialogue / "s.wav", face="none"), Segment(0.5, None, dialogue / "s.wav", face="none")]
    report = dub_segments(dubber(), dialogue / "two.mp4", said, dialogue / "out.mp4", progress=False)
    sound = load_audio(dialogue / "out.mp4", 44_100, mono=False)
    assert sound.shape[1] == 2
    assert 0.9 < np.abs(sound[:, 0]).max() <= 1
    assert np.abs(sound[:, 1]).max() < 0.05
    assert report.warnings == ("the segments' speech together is too loud: it was made 4.1 dB softer",)
    assert report.faces == 0


def test_sound_of_another_file_is_taken_as_it_is_and_lengthens_the_video(dialogue: Path) -> None:
    make_media(dialogue / "mix.wav", SoundTrack(np.full((48_000, 2), 0.1, np.float32), 16_000, "pcm_s16le"))
    said = [Segment(0.4, None, dialogue / "a.wav", face="left")]
    out = dialogue / "out.mp4"
    report = dub_segments(dubber(), dialogue / "two.mp4", said, out, sound=dialogue / "mix.wav", progress=False)
    assert (report.seconds, report.frames) == (3.0, 75)
    assert load_audio(out, mono=False).shape == (48_000, 2)
    assert green(out)[60:].max() < 12  # the video has turned: the segment is a time of the result, not of the source


def test_what_does_not_fit_is_said_with_its_row(dialogue: Path) -> None:
    said = [
        Segment(0.2, 0.3, dialogue / "a.wav", face="right", where="row 1"),  # comes in at 1 s
        Segment(1.2, 1.3, dialogue / "a.wav", face="p1", where="row 2"),
        Segment(1.4, None, dialogue / "a.wav", face="p1", where="row 3"),
        Segment(1.9, None, dialogue / "b.wav", face="0.9,0.9@0.2", where="row 4"),
    ]
    made = dubber()
    made.fit = "trim"
    report = dub_segments(made, dialogue / "two.mp4", said, dialogue / "out.mp4", progress=False)
    assert report.segments[0].person == "p1"  # alone there, and so the rightmost
    assert report.warnings == (
        "row 1: the speech is 0.30 s longer than its segment; it goes on",
        "row 2: the speech is 0.30 s longer than its segment; it goes on",
        "row 4: 0.30 s of the speech were cut off (--fit trim)",
        "row 4: no mouth follows it: nobody is seen there",
        "row 3: begins 0.20 s before p1 has said that of row 2; the lips follow the later one",
    )
    with pytest.raises(DubError, match=r"row 9, column face: expected a person of the video \(p1 to p2; .*got p3"):
        dub_segments(
            dubber(),
            dialogue / "two.mp4",
            [Segment(0, None, dialogue / "a.wav", face="p3", where="row 9")],
            dialogue / "out2.mp4",
            progress=False,
        )
    assert not (dialogue / "out2.mp4").exists()
    made.fit = "remap"
    with pytest.raises(DubError, match="would move the times that segments name"):
        dub_segments(made, dialogue / "two.mp4", said, dialogue / "out2.mp4", progress=False)


# ------------------------------------------------------------------------------------------------------------- people


def people() -> list[TrackedPerson]:
    follower = TwoFaces()
    follower.update(np.zeros(FRAMES))
    nothing = np.zeros((1, 1, 3), np.uint8)
    return [
        TrackedPerson(name, [track], nothing, np.array(track.frames))
        for name, track in (("p1", follower.left), ("p2", follower.right))
    ]


@pytest.mark.parametrize(
    ("face", "frames", "expected"),
    [
        ("left", range(FRAMES), "p1"),
        ("right", range(30, 40), "p2"),
        ("right", range(10), "p1"),
        ("2", range(30, 40), "p2"),
        ("2", range(10), None),
        ("p2", range(10), "p2"),
        ("0.7,0.5", range(30, 40), "p2"),
        ("0.7,0.5", range(10), None),
        ("0.7,0.5@1.5", range(10), "p2"),
        ("0.2,0.5", range(FRAMES), "p1"),
        ("auto", range(30, 40), "p1"),  # no sound decides: the largest, of two as large the first
    ],
)
def test_word_for_a_face_finds_its_person_in_the_frames_that_matter(
    face: str, frames: range, expected: str | None
) -> None:
    times_s = np.arange(FRAMES) / FPS
    found = choose_person(people(), face, np.array(frames), times_s, (2 * WIDTH, HEIGHT))
    assert (found and found[0].id) == expected


@pytest.mark.parametrize("face", ["middle", "0", "p0", "1.5,0.5", "0.5", "0.5,0.5@", "P1", "0.5,.", "none"])
def test_word_that_is_no_face_is_refused_with_those_that_are(face: str) -> None:
    with pytest.raises(DubError, match=r"expected auto, largest, left, right, a number .* X,Y"):
        choose_person(people(), face, np.arange(5), np.arange(FRAMES) / FPS, (2 * WIDTH, HEIGHT))


def test_people_are_recognised_after_a_cut_though_they_have_changed_places(sample_root: Path) -> None:
    clips = sorted(sample_root.rglob("*.mp4"))[:2]
    with VideoReader(clips[0]) as a, VideoReader(clips[1]) as b:
        frames = [a.get(range(12)), b.get(range(12))]
    frames[1] = np.clip(frames[1] * np.array([0.55, 0.42, 0.36]), 0, 255).astype(np.uint8)  # darker skin
    before = np.concatenate(frames, axis=2)
    after = np.concatenate([0.9 * part + 25 for part in frames[::-1]], axis=2)  # in another light
    with PeopleFinder() as finder:
        for frame in (*before, *np.clip(after, 0, 255).astype(np.uint8)):
            finder.update(frame)
        assert finder.shots == [(0, 12), (12, 24)]
        found = finder.people(25)
    width = frames[0].shape[2]
    sides = [[track.middle_x > width for track in person.tracks] for person in found]
    assert sides == [[False, True], [True, False]]
    assert [person.id for person in found] == ["p1", "p2"]


# -------------------------------------------------------------------------------------------------------------- lists


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.wav", "b.wav"):
        (tmp_path / name).touch()
    (tmp_path / "voices").mkdir()
    for name in ("line_1.wav", "0002.mp3", "notes.txt"):
        (tmp_path / "voices" / name).touch()
    return tmp_path


EXPECTED = [(1.5, 3.0, "a.wav", "p2", "", 0.0, 0.0), (62.25, None, "b.wav", "auto", "Ann", -3.0, 0.5)]


def fields(segments: list[Segment]) -> list[tuple]:
    return [(s.start_s, s.end_s, s.speech.name, s.face, s.speaker, s.gain_db, s.offset_s) for s in segments]


def test_csv_and_json_say_the_same_in_any_order(folder: Path) -> None:
    (folder / "list.csv").write_text(
        "Speech;start;END;face;speaker;gain;offset;note\nb.wav;00:01:02,25;;;Ann;-3;0.5;x\na.wav;1.5;00:00:03;p2\n"
    )
    (folder / "list.json").write_text(
        json.dumps(
            {
                "segments": [
                    {"start": "1:02.25", "speech": "b.wav", "speaker": "Ann", "gain": -3, "offset": 0.5, "end": None},
                    {"start": 1.5, "end": 3, "speech": "a.wav", "face": "p2", "text": "Hello"},
                ]
            }
        )
    )
    assert fields(read_segments(folder / "list.csv")) == EXPECTED
    assert fields(read_segments(folder / "list.json")) == EXPECTED


def test_subtitles_name_their_files_or_are_numbered_as_a_folder_is(folder: Path) -> None:
    (folder / "named.srt").write_text(
        "1\n00:00:01,500 --> 00:00:03,000\n[p2] a.wav\n\n2\n00:01:02,250 --> 00:01:04,000\n[Ann]\nb.wav\n"
    )
    (folder / "said.srt").write_text(
        "\ufeff1\n00:00:01,500 --> 00:00:03,000\np2: Hello,\nyou\n\n2\n00:01:02,250 --> 00:01:04,000\n[none] 12 men\n\n"
    )
    one, two = read_segments(folder / "named.srt")
    assert fields([one])[0] == EXPECTED[0]
    assert (two.start_s, two.end_s, two.speaker, two.speech) == (62.25, 64, "Ann", folder / "b.wav")
    one, two = read_segments(folder / "said.srt", folder / "voices")
    assert (one.speech.name, one.face) == ("line_1.wav", "p2")
    assert (two.speech.name, two.face) == ("0002.mp3", "none")
    (folder / "voices/b-02.wav").touch()
    with pytest.raises(DubError, match=r"said\.srt: line 7: expected one file numbered 2 in .*found 0002\.mp3, b-02"):
        read_segments(folder / "said.srt", folder / "voices")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("l.csv", "start,speech\nsoon,a.wav\n", r"line 2, column start: expected seconds or HH:MM:SS\.mmm, got 'soon'"),
        ("l.csv", "start,speech\n1,\n", "line 2: expected start and speech, speech is empty"),
        ("l.csv", "start,speech\n1,c.wav\n", r"line 2, column speech: .*c\.wav: no such file"),
        ("l.csv", "start,speech,end\n2,a.wav,1\n", r"line 2, column end: expected a time after the start, 2 s, got 1"),
        ("l.csv", "start,speech,face\n2,a.wav,top\n", "line 2, column face: expected auto.*got 'top'; or none"),
        ("l.csv", "start,speech,gain\n2,a.wav,loud\n", "line 2, column gain: expected a number, got 'loud'"),
        ("l.csv", "start,speech,gain\n2,a.wav,nan\n", "line 2, column gain: expected decibels"),
        ("l.csv", "start,audio\n2,a.wav\n", "expected the columns start, speech in its first line, speech is missing"),
        ("l.csv", "start,speech\n", "holds no segments"),
        ("l.json", '[{"start": 1}]', "segment 1, column speech: expected a file, found none"),
        ("l.json", '[{"start": 1, "speech": "a.wav", "who": 1}]', "segment 1, column who: expected one of start"),
        ("l.json", "{", "line 1: expected JSON"),
        ("l.json", "3", "expected a list of segments"),
        ("l.srt", "1\n00:00:01 --> 00:00:02\n\n", "line 2, column speech: expected a file, found none"),
        ("l.txt", "", r"l\.txt: expected a list of segments that ends in \.csv, \.json, \.srt"),
    ],
)
def test_list_that_cannot_be_read_names_row_and_column(folder: Path, name: str, text: str, message: str) -> None:
    (folder / name).write_text(text)
    with pytest.raises((UserError, FileNotFoundError), match=message):
        read_segments(folder / name)


def test_folder_of_speech_goes_with_subtitles_alone(folder: Path) -> None:
    (folder / "l.csv").write_text("start,speech\n1,a.wav\n")
    with pytest.raises(DubError, match=r"a folder of numbered files goes with \.srt alone"):
        read_segments(folder / "l.csv", folder / "voices")


# -------------------------------------------------------------------------------------------------------- command line


def test_two_rendered_speakers_are_dubbed_by_one_command(
    sample_root: Path, tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clips = sorted(sample_root.rglob("*.mp4"))[:2]
    with VideoReader(clips[0]) as a, VideoReader(clips[1]) as b:
        write_video(tmp_path / "two.mp4", np.concatenate([a.get(range(20)), b.get(range(20))], axis=2), 25)
    (tmp_path / "l.csv").write_text(f'start,end,speech,face\n0,0.4,{clips[0]},"0.75,0.5"\n0.2,0.7,{clips[1]},p1\n')
    words = ["dub", str(tmp_path / "two.mp4"), "--segments", str(tmp_path / "l.csv"), "-o", str(tmp_path / "out.mp4")]
    main([*words, "--checkpoint", str(checkpoint), "--device", "cpu", "--no-check", "--fit", "trim", "--json"])
    report = json.loads(capsys.readouterr().out)
    assert [(s["face"], s["rendered"] == s["frames"] > 8) for s in report["segments"]] == [("p2", True), ("p1", True)]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a.mp4", "--segments", "l.csv"], "dub needs a video, speech and a result"),
        (["a.mp4", "--segments", "l.csv", "-o", "o.mp4", "--face", "p1"], "each row names its own"),
        (["a.mp4", "b.wav", "-o", "o.mp4", "--between", "close"], "--between is about --segments"),
        (["--manifest", "m.csv", "--segments", "l.csv"], "give one of them"),
    ],
)
def test_words_that_do_not_go_together_are_refused(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["dub", *words])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
