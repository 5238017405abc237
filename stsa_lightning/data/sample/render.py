"""Rendered talking heads: clips as arrays, and as a folder of video files with their truth beside them."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stsa_lightning.data.sample.face import Face, Pose
from stsa_lightning.data.sample.speakers import make_speaker
from stsa_lightning.data.sample.speech import articulate, phones_at, script, synthesise
from stsa_lightning.utils.errors import UserError
from stsa_lightning.utils.files import written_whole

FORMAT = 1
"""Raised whenever the same settings give other pictures or sound, so that old clips are rendered anew."""
_SERIES = ("lip_aperture", "lip_aperture_px", "width_px", "rounding")


@dataclass(frozen=True)
class ClipSettings:
    """What determines a clip, to the last pixel. `speaker` and `clip` count from 0.

    0.5 to 600 seconds, square frames of `size` 64 to 1024 pixels, 1 to 120 frames per second.
    """

    speaker: int = 0
    clip: int = 0
    seconds: float = 4.0
    size: int = 256
    fps: int = 25
    seed: int = 0

    def __post_init__(self) -> None:
        _check("speaker", self.speaker, self.speaker >= 0, "at least 0")
        _check("clip", self.clip, self.clip >= 0, "at least 0")
        _check("seconds", self.seconds, 0.5 <= self.seconds <= 600, "from 0.5 to 600")
        _check("size", self.size, 64 <= self.size <= 1024, "from 64 to 1024 pixels")
        _check("fps", self.fps, 1 <= self.fps <= 120, "from 1 to 120")
        _check("seed", self.seed, self.seed >= 0, "at least 0")

    @property
    def frames(self) -> int:
        return round(self.seconds * self.fps)


@dataclass(frozen=True)
class SampleClip:
    """A rendered clip: frames uint8 RGB (F, size, size, 3), wave float32 (samples,) at 16 kHz, truth as in
    `sample_truth`."""

    frames: np.ndarray
    wave: np.ndarray
    truth: dict[str, Any]


def render_clip(settings: ClipSettings) -> SampleClip:
    """Renders one clip in memory; equal settings give equal arrays.

    Frame i shows the mouth at the time (i + 0.5) / fps, the middle of the time it is on screen.
    """
    speaker = make_speaker(settings.speaker, settings.seed)
    rng = np.random.default_rng([settings.seed, settings.speaker, 2, settings.clip])
    segments, sentences = script(settings.seconds, speaker.voice, rng)
    lips = articulate(segments)
    wave = synthesise(segments, lips, speaker.voice, rng)
    times_s = (np.arange(settings.frames) + 0.5) / settings.fps
    face = Face(speaker, settings.size)
    poses = list(_poses(times_s, lips.at(times_s), rng))
    lip_aperture_px = np.array([face.lip_aperture_px(pose) for pose in poses])
    truth = {
        "lip_aperture": lip_aperture_px / face.height_px(),
        "lip_aperture_px": lip_aperture_px,
        "width_px": np.array([face.width_px(pose) for pose in poses]),
        "rounding": np.array([pose.rounding for pose in poses]),
        "phones": phones_at(segments, times_s),
        "segments": [asdict(segment) for segment in segments],
        "sentences": sentences,
        "settings": asdict(settings),
    }
    return SampleClip(np.stack([face.render(pose) for pose in poses]), wave, truth)


def render_sample(
    root: str | Path,
    speakers: int = 6,
    clips: int = 2,
    seconds: float = 4.0,
    size: int = 256,
    fps: int = 25,
    seed: int = 0,
    progress: bool = False,
) -> list[Path]:
    """Renders a small corpus of talking heads: root/speaker01/clip01.mp4 with its truth in clip01.json.

    Clips that stand with the same settings are kept. Each file appears whole or not at all.

    Args:
        speakers: 1 to 99, each with a face, a voice and light of its own.
        clips: of each speaker, 1 to 99.
        seconds, size, fps, seed: see `ClipSettings`.
        progress: report each clip on stderr.

    Returns:
        The paths of all videos, sorted.

    Raises:
        ValueError: an argument is out of its range.
    """
    _check("speakers", speakers, 1 <= speakers <= 99, "from 1 to 99")
    _check("clips", clips, 1 <= clips <= 99, "from 1 to 99")
    paths = []
    for speaker in range(speakers):
        for clip in range(clips):
            settings = ClipSettings(speaker, clip, seconds, size, fps, seed)
            path = Path(root) / f"speaker{speaker + 1:02d}" / f"clip{clip + 1:02d}.mp4"
            stands = _stands(path, settings)
            if not stands:
                _write(path, render_clip(settings))
            if progress:
                print(f"{path}: {'kept' if stands else 'rendered'}", file=sys.stderr)
            paths.append(path)
    return paths


def sample_truth(video_path: str | Path) -> dict[str, Any]:
    """What is known of a rendered clip.

    Returns:
        Per frame, float64 (F,): `lip_aperture` (inner-lip gap over the face's height from hairline to chin),
        `lip_aperture_px` and `width_px` (gap, distance of the mouth corners; frame pixels), `rounding` in [0, 1].
        Lists: `phones` (one a frame), `segments` (phone, start_s, end_s), `sentences` (numbers of the sentences
        spoken). `settings`: see `ClipSettings`.

    Raises:
        FileNotFoundError: no truth beside the video, which `render_sample` would have written.
    """
    path = Path(video_path).with_suffix(".json")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: not found; only videos made by render_sample have their truth beside them")
    truth = json.loads(path.read_text())
    return truth | {name: np.array(truth[name], np.float64) for name in _SERIES}


def _poses(
    times_s: np.ndarray, lips: tuple[np.ndarray, np.ndarray, np.ndarray], rng: np.random.Generator
) -> Iterator[Pose]:
    """Lips as spoken; head motion as slow random waves, blinks every few seconds, brows rising now and then."""
    lip_aperture, width, rounding = lips
    sway = {name: _wave(times_s, rng) for name in ("x", "y", "roll", "zoom", "turn_x", "turn_y", "brows")}
    blink = _blinks(times_s, rng)
    for i in range(len(times_s)):
        yield Pose(
            lip_aperture=float(lip_aperture[i]),
            width=float(width[i]),
            rounding=float(rounding[i]),
            blink=float(blink[i]),
            brows=1.6 * max(float(sway["brows"][i]), 0.0),
            shift=(2.2 * float(sway["x"][i]), 1.8 * float(sway["y"][i])),
            roll=0.022 * float(sway["roll"][i]),
            zoom=0.010 * float(sway["zoom"][i]),
            turn=(2.4 * float(sway["turn_x"][i]), 1.6 * float(sway["turn_y"][i])),
        )


def _wave(times_s: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Sum of three slow sines, within [-1, 1]."""
    parts = zip((0.5, 0.3, 0.2), rng.uniform((0.1, 0.3, 0.6), (0.25, 0.5, 0.9)), rng.random(3), strict=True)
    return sum((size * np.sin(2 * np.pi * (rate * times_s + phase)) for size, rate, phase in parts), np.zeros(1))


def _blinks(times_s: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """0 open to 1 shut: 80 ms closing, 40 ms shut, 140 ms opening."""
    lids = np.zeros_like(times_s)
    start_s = rng.uniform(0.5, 2.5)
    while start_s < times_s[-1]:
        lids = np.maximum(lids, np.interp(times_s - start_s, (0, 0.08, 0.12, 0.26), (0, 1, 1, 0)))
        start_s += rng.uniform(1.8, 4.0)
    return lids


def _stands(path: Path, settings: ClipSettings) -> bool:
    truth = path.with_suffix(".json")
    if not (path.is_file() and truth.is_file()):
        return False
    try:
        made = json.loads(truth.read_text())
    except ValueError:
        return False
    return made.get("format") == FORMAT and made.get("settings") == asdict(settings)


def _write(path: Path, clip: SampleClip) -> None:
    """The video first, its truth last: a clip counts as standing once the truth is there."""
    from stsa_lightning.media.video import write_video

    path.parent.mkdir(parents=True, exist_ok=True)
    truth_path = path.with_suffix(".json")
    truth_path.unlink(missing_ok=True)
    write_video(path, clip.frames, clip.truth["settings"]["fps"], audio=clip.wave)
    rounded = {name: np.round(clip.truth[name], 5).tolist() for name in _SERIES}
    with written_whole(truth_path) as part:
        part.write_text(json.dumps({"format": FORMAT} | clip.truth | rounded, indent=1))


def _check(name: str, value: float, good: bool, allowed: str) -> None:
    if not good:
        raise UserError(f"{name} must be {allowed}, got {value}")
