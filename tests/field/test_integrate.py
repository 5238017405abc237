"""The page "Use it in other programs": what it shows in Python runs as it stands there, on the rendered sample."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stsa_lightning.dubbing import Dubber, Pictures, Sound
from stsa_lightning.media.audio import load_audio, write_wav
from stsa_lightning.media.video import probe
from stsa_lightning.media.video_source import VideoSource
from stsa_lightning.models.checkpoint import save_networks
from stsa_lightning.models.guidance import Guidance
from stsa_lightning.models.synthesis import Synthesis

PAGE = Path(__file__).parents[2] / "docs" / "integrate.md"
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture
def snippet() -> Callable[[str], str]:
    """The one block in which a word stands."""

    def find(word: str) -> str:
        (found,) = [text for text in BLOCK.findall(PAGE.read_text()) if word in text]
        return found

    return find


@pytest.fixture
def names(
    tmp_path: Path,
    short_clips: list[Path],
    spoken: np.ndarray,
    tiny_guidance: Guidance,
    tiny_synthesis: Synthesis,
    monkeypatch: pytest.MonkeyPatch,
) -> dict[str, Any]:
    """What the page has before: files, a dubber of tiny networks, the reader's own functions."""
    monkeypatch.chdir(tmp_path)
    for name in ("me.mp4", "film.mp4"):
        shutil.copy(short_clips[0], name)
    for name in ("speech.wav", "ann.wav", "bob.wav", "mix.wav"):
        write_wav(tmp_path / name, spoken[:16_000])
    meta = {"features": "logmel", "num_frames": 5}
    tiny = save_networks(tmp_path / "runs/mine/model.safetensors", tiny_guidance, tiny_synthesis, meta)
    dubber = Dubber.from_checkpoint(tiny, check=False)
    return {"BUNDLED": tiny, "dubber": dubber, "Dubber": Dubber, "shown": []}


def test_the_page_s_prepared_person_is_saved_loaded_and_dubbed(names: dict[str, Any], snippet: Any) -> None:
    exec(snippet("load_person"), names)
    assert probe("out.mp4").frames == 25
    names["person"].close()


def test_the_page_s_stream_ends_when_all_is_said(names: dict[str, Any], snippet: Any, spoken: np.ndarray) -> None:
    def show(picture: np.ndarray, sound: np.ndarray) -> None:
        names["shown"].append((picture, sound))

    with names["dubber"].prepare("me.mp4") as person:
        given = {"person": person, "samples": spoken[:12_000], "show": show, "interrupted": lambda: False}
        exec(snippet("rate_hz=24_000"), {**names, **given, "paced": lambda frames: frames})
    sound = np.concatenate([sound for _, sound in names["shown"]])
    np.testing.assert_array_equal(sound[sound != 0], spoken[:12_000][spoken[:12_000] != 0])
    assert len(sound) == 960 * len(names["shown"])


def test_the_page_s_ways_to_networks(names: dict[str, Any], snippet: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = []
    monkeypatch.setattr("stsa_lightning.models.hub._fetched", lambda *name: taken.append(name) or names["BUNDLED"])
    exec(snippet("from_pretrained"), names)
    assert taken == [("owner/name", None)]
    assert names["dubber"].config.face_size == 64


def test_the_page_s_arrays_give_the_frames_that_their_files_give(names: dict[str, Any], snippet: Any) -> None:
    with VideoSource("me.mp4") as video:
        given = {"pictures": np.stack(list(video.scan())), "samples": load_audio("speech.wav", 48_000)}
    exec(snippet("Pictures("), {**names, **given, "show": names["shown"].append})
    from_files = list(names["dubber"].frames("me.mp4", "speech.wav"))
    assert len(names["shown"]) == len(from_files) == 25
    # The sound was taken to 48 kHz and back: the pictures may differ by little.
    assert np.abs(np.stack(names["shown"]).astype(int) - np.stack(from_files)).mean() < 0.5
    with names["dubber"].prepare(Pictures(given["pictures"], 25)) as person:
        names["dubber"].dub(person, Sound(given["samples"], 48_000), "out.mp4", progress=False)
    assert probe("out.mp4").frames == 25


@pytest.mark.slow
def test_the_page_s_dialogue_is_cancelled_by_its_callback(names: dict[str, Any], snippet: Any, tmp_path: Path) -> None:
    calls: list[tuple[str, float]] = []
    code = snippet("class Cancelled").replace("from stsa_lightning.models import BUNDLED", "")
    code = code.replace('face="p2"', 'face="p1"')  # one person is in the sample
    given = {**names, "cancelled": lambda: len(calls) > 20, "show": lambda *done: calls.append(done)}
    with pytest.raises(Exception, match=r"^$") as raised:
        exec(code, given)
    assert type(raised.value).__name__ == "Cancelled"
    assert not (tmp_path / "dubbed.mp4").exists()
    given |= {"cancelled": lambda: False}
    exec(code, given)
    assert probe("dubbed.mp4").frames == 25  # as long as the mix, a second
