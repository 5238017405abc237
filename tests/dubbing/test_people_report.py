"""Who is seen in a video: `stsa faces`."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from stsa_lightning.cli import main
from stsa_lightning.dubbing.people_report import find_people
from stsa_lightning.face.tracks import FaceTrack
from stsa_lightning.media.video import write_video
from tests.dubbing.test_dubber import WIDTH, landmarks_of, numbered

FRAMES = 125
SAID = np.abs(np.sin(0.55 * np.arange(FRAMES))) * (np.arange(FRAMES) % 40 < 28)  # how loud each frame is


class Talking:
    """Follows two people in two shots, 0 to 75 and 75 to 125; the left one's mouth opens with the sound of the first.

    The right one is away from frame 25 to 50, and the left one in the second shot.
    """

    def __init__(self, _model: object = None) -> None:
        self.tracks, self.frames = [FaceTrack(), FaceTrack(), FaceTrack()], 0

    def update(self, frames: np.ndarray) -> None:
        for _ in frames:
            points = landmarks_of(0)
            if self.frames < 75:
                spoken = points.copy()
                spoken[126] = spoken[116] + np.float32([0, 2 + 10 * SAID[self.frames]])  # the inner lips
                self.tracks[0].add(self.frames, spoken)
            if not 25 <= self.frames < 50:
                self.tracks[1 if self.frames < 75 else 2].add(self.frames, points + np.float32([WIDTH, 0]))
            self.frames += 1

    @property
    def seen(self) -> list[FaceTrack]:
        return [track for track in self.tracks if track.frames and track.frames[-1] == self.frames - 1]

    def everyone(self) -> list[tuple[int, int, list[FaceTrack]]]:
        return [(0, 75, self.tracks[:2]), (75, self.frames, self.tracks[2:])]

    shots = everyone

    def close(self) -> None:
        pass


@pytest.fixture
def video(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("stsa_lightning.dubbing.face_selection.FaceFollower", Talking)
    # Whoever is on the right looks the same in both shots, and unlike who is on the left.
    frames = numbered(FRAMES)
    frames[:, 20:] = (150, 110, 90)
    write_video(
        tmp_path / "<talk>.mp4",
        np.concatenate([frames, frames // 2], axis=2),
        25,
        (0.5 * np.repeat(SAID, 640) * np.random.default_rng(0).uniform(-1, 1, 640 * FRAMES)).astype(np.float32),
    )
    return tmp_path / "<talk>.mp4"


def test_people_are_listed_with_when_they_are_seen_and_who_speaks(video: Path) -> None:
    report = find_people(video, progress=False)
    left, right = report.people
    assert (left.id, right.id, report.shots) == ("p1", "p2", 2)
    assert left.spans == [pytest.approx((0, 3))]
    assert right.spans == [pytest.approx((0, 1)), pytest.approx((2, 5))]
    assert (left.share, right.share) == (0.6, 0.8)
    assert right.place[0] - left.place[0] == pytest.approx(0.5, abs=0.01)
    assert left.speaks == [pytest.approx((0, 2.96), abs=0.01)]
    assert right.speaks == []
    assert left.follows_sound is not None
    assert left.follows_sound > 0.5
    picture = cv2.imdecode(np.frombuffer(left.jpeg, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    np.testing.assert_allclose(picture[picture.shape[0] * 2 // 3].mean(axis=0), (150, 110, 90), atol=8)


def test_json_is_printed_as_it_is_written_and_the_page_needs_nothing_else(
    video: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = video.with_name("people.json")
    main(["faces", str(video), "-o", str(out), "--json"])
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads(out.read_text())
    assert [person["id"] for person in printed["people"]] == ["p1", "p2"]
    picture = printed["people"][1]["picture"]
    assert base64.b64decode(picture.split(",")[1]).startswith(b"\xff\xd8")
    main(["faces", str(video), "-o", str(video.with_name("people.html"))])
    assert "p2: seen in 80 % of the frames, from 0.00 s on" in capsys.readouterr().out
    page = video.with_name("people.html").read_text()
    assert picture in page
    assert "&lt;talk&gt;" in page
    assert "<talk>" not in page
    assert "http" not in page
    assert 'title="seen 2.00 to 5.00 s"' in page


@pytest.mark.parametrize(
    ("name", "message"), [("p.txt", "must end in .json or .html"), ("no/p.json", "no such folder")]
)
def test_name_that_a_report_cannot_have_is_refused_before_the_work(
    tmp_path: Path, name: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["faces", str(tmp_path / "none.mp4"), "-o", str(tmp_path / name)])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
