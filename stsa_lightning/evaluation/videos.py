"""Mode "videos": any system's videos against the true ones, matched where that is safe, listed where it is not."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from tempfile import TemporaryFile

import cv2
import numpy as np

from stsa_lightning.constants import FPS
from stsa_lightning.data.corpora.tree import VIDEO_SUFFIXES, search
from stsa_lightning.dubbing import Faces, block_size, find_faces
from stsa_lightning.evaluation.checkpoint import baseline_predictions, evenly
from stsa_lightning.evaluation.clip_sample import GROUND_TRUTH, NATIVE, ClipSample
from stsa_lightning.evaluation.protocol import Protocol
from stsa_lightning.evaluation.scoring import Job
from stsa_lightning.face.heatmaps import outer_lip_aperture
from stsa_lightning.face.landmarks import landmark_detector
from stsa_lightning.face.native_resolution import LARGEST_SIDE
from stsa_lightning.face.orientation import UprightingDetector
from stsa_lightning.face.references import choose_references
from stsa_lightning.media.audio import AudioError, load_audio, probe_audio
from stsa_lightning.media.container import VideoError
from stsa_lightning.media.video import VideoReader, nearest
from stsa_lightning.utils.disk_array import BLOCK, to_disk_array
from stsa_lightning.utils.errors import UserError
from stsa_lightning.utils.examine import check_file

REFERENCES = 5
SAME_RATE = 1e-3  # relative difference of frame rates that is rounding
DEFAULT_CROP_PX = 128


@dataclass(frozen=True)
class Matched:
    """Pairs of files (name, generated, true), and those without a partner."""

    pairs: list[tuple[str, Path, Path]]
    alone: list[str] = field(default_factory=list)


def match(generated: Path, true: Path) -> Matched:
    """Pair videos by their place and name below both folders (without suffix), else by name where it is unique.

    Two files are a pair whatever their names.

    Raises:
        FileNotFoundError: a path that does not exist.
        VideoError: one that is neither a file with content nor a folder.
        UserError: no pair at all, or a file against a folder.
    """
    for path in (generated, true):
        if not path.is_dir():
            check_file(path, "video or folder of videos", VideoError)
    if generated.is_file() and true.is_file():
        return Matched([(true.stem, generated, true)])
    if generated.is_file() or true.is_file():
        raise UserError(f"{generated} and {true}: expected two folders or two files, got one of each")
    pairs: list[tuple[str, Path, Path]] = []
    alone: list[str] = []
    made, real = _videos(generated, alone), _videos(true, alone)
    made_by_name, real_by_name = _by_name(made), _by_name(real)
    taken = set()
    for place, path in made.items():
        partner = place
        if partner not in real:
            others = real_by_name[PurePosixPath(place).name]
            if len(others) != 1 or len(made_by_name[PurePosixPath(place).name]) != 1:
                why = "its name is ambiguous" if others else "no true video of this name"
                alone.append(f"not measured: {path}: {why}")
                continue
            partner = others[0]
        taken.add(partner)
        pairs.append((partner, path, real[partner]))
    alone += [
        f"not measured: {path}: no generated video of this name" for place, path in real.items() if place not in taken
    ]
    if not pairs:
        raise UserError(
            f"{generated} and {true}: no video of one has the name of a video of the other "
            f"(found {_some(made)} and {_some(real)}); give them the same names, suffixes may differ"
        )
    return Matched(pairs, alone)


def _videos(folder: Path, alone: list[str]) -> dict[str, Path]:
    """Place and name without suffix -> file; what cannot be read is added to `alone`, with the reason."""
    tree = search(folder, once=False)
    files = [folder / video for video in tree.videos]
    alone += [f"not measured: {folder / entry}: {fault}" for entry, fault in sorted(tree.faults.items())]
    if not files:
        raise UserError(f"{folder}: expected videos ({', '.join(VIDEO_SUFFIXES)}), found none")
    found: dict[str, Path] = {}
    for path in files:
        place = path.relative_to(folder).with_suffix("").as_posix()
        if place in found:
            raise UserError(f"{path} and {found[place].name}: two videos of one name; keep one")
        found[place] = path
    return found


def _by_name(places: dict[str, Path]) -> dict[str, list[str]]:
    found = defaultdict(list)
    for place in places:
        found[PurePosixPath(place).name].append(place)
    return found


def _some(places: dict[str, Path]) -> str:
    shown = ", ".join(list(places)[:3])
    return shown + (f" and {len(places) - 3} more" if len(places) > 3 else "")


def video_jobs(matched: Matched, protocol: Protocol, method: str, model: str | None = None) -> list[Job]:
    """The pairs to measure, spread evenly where the protocol wants fewer."""
    waiting = []
    for name, generated, true in evenly(matched.pairs, protocol.clips or len(matched.pairs)):
        stats = [path.stat() for path in (generated, true)]
        identity = " ".join(f"{stat.st_size} {stat.st_mtime_ns}" for stat in stats)
        waiting.append(Job(name, identity, partial(video_samples, name, generated, true, protocol, method, model)))
    return waiting


@dataclass(frozen=True)
class Timing:
    """Which frames are compared: `true` and `generated` (F,) numbers, `times_s` (F,); `notes`."""

    true: np.ndarray
    generated: np.ndarray
    times_s: np.ndarray
    notes: list[str]


def match_times(true_s: np.ndarray, true_fps: float, made_s: np.ndarray, made_fps: float) -> Timing:
    """Frames of two videos that are shown at the same time, as long as both last.

    Videos of one rate go frame by frame. Otherwise each true frame meets the generated one nearest in time.

    Args:
        true_s, made_s: rising time stamps of all frames, from 0.
        true_fps, made_fps: average rates.
    """
    notes = []
    if abs(true_fps - made_fps) <= SAME_RATE * true_fps:
        count = min(len(true_s), len(made_s))
        if len(true_s) != len(made_s):
            notes.append(f"{len(made_s)} generated and {len(true_s)} true frames: the first {count} are compared")
        return Timing(np.arange(count), np.arange(count), true_s[:count], notes)
    notes.append(f"{made_fps:.4g} generated and {true_fps:.4g} true frames/s: matched by time")
    kept = np.flatnonzero(true_s < made_s[-1] + 1 / made_fps)
    if len(kept) < len(true_s):
        notes.append(f"the generated video ends after {len(kept)} of {len(true_s)} true frames: these are compared")
    elif made_s[-1] > true_s[-1] + 1 / true_fps:
        notes.append("the generated video is longer: its end is not compared")
    return Timing(kept, nearest(made_s, true_s[kept]), true_s[kept], notes)


def video_samples(
    name: str, generated: Path, true: Path, protocol: Protocol, method: str, model: str | None = None
) -> list[ClipSample]:
    """One pair of videos, cropped by the true one's faces.

    Raises:
        VideoError: a file that cannot be read.
        UserError: no face in the true video.
    """
    size = protocol.crop or DEFAULT_CROP_PX
    with VideoReader(true) as real, VideoReader(generated) as made:
        timing = match_times(real.timestamps_s, float(real.fps), made.timestamps_s, float(made.fps))
        frame_size = (real.info.width, real.info.height)
        notes = [*timing.notes, *(reader.info.note for reader in (real, made) if reader.info.note)]
        if (made.info.width, made.info.height) != frame_size:
            notes.append(
                f"{made.info.width} x {made.info.height} generated and {frame_size[0]} x {frame_size[1]} true pixels: "
                "generated frames are resized"
            )
        faces = _find(real, timing, frame_size, model)
        if not faces.valid.any():
            raise UserError(f"{true}: no face was found in any of {len(timing.true)} frames")
        readers = (real, timing.true), (made, timing.generated)
        crops = [to_disk_array(_crops(*each, faces, frame_size, size)) for each in readers]
        native = []
        if NATIVE in protocol.regions:
            side = _native_side(faces, size)
            native = [to_disk_array(_crops(*each, faces, frame_size, side)) for each in readers]
    true_wave, wave = (_sound(path, notes) for path in (true, generated))
    chosen = choose_references(outer_lip_aperture(faces.landmarks), faces.valid, REFERENCES)
    references = crops[0][np.searchsorted(np.flatnonzero(faces.valid), chosen)]
    scored = faces.valid.copy()
    if protocol.baselines:  # a reference is not a prediction of itself
        scored[chosen] = False
    if not scored.any():
        scored = faces.valid
    shared = {"ground_truth": crops[0], "references": references}
    predictions = baseline_predictions(shared, protocol.seed) if protocol.baselines else {}
    predictions |= {method: crops[1], GROUND_TRUTH: crops[0]}
    notes = [f"{name}: {note}" for note in notes]
    sample = ClipSample(
        name=name,
        speaker=name.split("/")[0] if "/" in name else "",
        task="paired",
        ground_truth=crops[0],
        predictions=predictions,
        valid=faces.valid,
        scored=scored,
        boxes=faces.boxes,
        degrees=faces.degrees,
        times_s=timing.times_s,
        references=references,
        wave=wave if wave is not None else true_wave,
        true_wave=true_wave if true_wave is not None else wave,
        pairs=partial(_pairs, generated, true, timing),
        frames={method: partial(_at_clock, generated, frame_size), GROUND_TRUTH: partial(_at_clock, true, frame_size)},
        native=dict(zip((GROUND_TRUTH, method), native, strict=False)),
        notes=notes,
    )
    return [sample]


def _native_side(faces: Faces, least: int) -> int:
    """One side for all crops of a video: its faces' usual larger one, within reason."""
    sides = np.ptp(faces.boxes[faces.valid].reshape(-1, 2, 2), axis=1).max(axis=1)
    return int(np.clip(np.median(sides), least, max(least, LARGEST_SIDE)))


def _sound(path: Path, notes: list[str]) -> np.ndarray | None:
    try:
        if note := probe_audio(path).note:
            notes.append(note)
        return load_audio(path, out_file=TemporaryFile())
    except AudioError as error:
        notes.append(f"no sound ({error}); the other video's is taken")
        return None


def _find(reader: VideoReader, timing: Timing, size: tuple[int, int], model: str | None) -> Faces:
    detector = UprightingDetector(landmark_detector(model))
    try:
        frames = (frame for block in _blocks(reader, timing.true, size) for frame in block)
        return find_faces(frames, size, detector)
    finally:
        detector.close()


def _blocks(reader: VideoReader, numbers: np.ndarray, size: tuple[int, int]) -> Iterator[np.ndarray]:
    """Frames of these numbers, block by block, resized to `size` (width, height)."""
    step = block_size(BLOCK, size)
    for start in range(0, len(numbers), step):
        yield _sized(reader.get(numbers[start : start + step]), size)


def _sized(frames: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    if frames.shape[2] == size[0] and frames.shape[1] == size[1]:
        return frames
    shrinks = frames.shape[2] > size[0] or frames.shape[1] > size[1]
    how = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    return np.stack([cv2.resize(frame, size, interpolation=how) for frame in frames])


def _crops(
    reader: VideoReader, numbers: np.ndarray, faces: Faces, size: tuple[int, int], crop: int
) -> Iterator[np.ndarray]:
    start = 0
    for block in _blocks(reader, numbers, size):
        places = range(start, start + len(block))
        start += len(block)
        found = [
            faces.box(place).crop(frame, crop) for frame, place in zip(block, places, strict=True) if faces.valid[place]
        ]
        yield np.stack(found) if found else np.zeros((0, crop, crop, 3), np.uint8)


def _pairs(generated: Path, true: Path, timing: Timing) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    with ExitStack() as stack:
        made, real = (stack.enter_context(VideoReader(path)) for path in (generated, true))
        size = (real.info.width, real.info.height)
        yield from zip(_blocks(made, timing.generated, size), _blocks(real, timing.true, size), strict=True)


def _at_clock(path: Path, size: tuple[int, int]) -> Iterator[np.ndarray]:
    """Whole frames at 25/s."""
    with VideoReader(path, fps=FPS, exact=False) as reader:
        yield from _blocks(reader, np.arange(len(reader)), size)
