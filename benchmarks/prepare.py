"""Preparation: frames/s by stage, against the straight recipe, tracking against static mode, by processes, by length.

    python benchmarks/prepare.py VIDEOS [--json FILE]

VIDEOS is a folder of talking faces. The straight recipe: FaceMesh in static mode over all frames twice (once for the
crop, once for the sketch within the crop; some public scripts do the first alone), a PNG of every crop and one of every
sketch. Stages and the recipe are told in processor time, all threads together, the least of --runs, in which recipe and
ours take turns; the speed of processes is a median, of time. Memory is the largest resident set of a fresh process.
Static mode is no exact truth: what it answers for the same frame within a narrow border is measured beside it.
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from common import machine, parser, table, write_json

from stsa_lightning.data.clip import Clip
from stsa_lightning.data.corpora import Source, find_sources
from stsa_lightning.data.extract import prepare_clip
from stsa_lightning.data.index import clip_path
from stsa_lightning.data.prepare import prepare
from stsa_lightning.data.settings import PrepareSettings
from stsa_lightning.face.box import crop_face, face_box, normalise_landmarks
from stsa_lightning.face.heatmaps import draw_heatmap
from stsa_lightning.face.landmarks import landmark_detector
from stsa_lightning.face.topology import LANDMARKS
from stsa_lightning.media.stream import VideoStream
from stsa_lightning.utils.stage_times import StageTimes

SETTINGS = PrepareSettings().resolved()
BORDER_PX = 8  # around a frame, where static mode is compared with itself
MEMORY = """
import resource, sys
from pathlib import Path
from stsa_lightning.data.corpora import find_sources
from stsa_lightning.data.extract import PrepareSettings, prepare_clip
root, out = map(Path, sys.argv[1:])
prepare_clip(find_sources("folder", root)[0], out, PrepareSettings().resolved())
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def by_stage(sources: Sequence[Source], out: Path, runs: int) -> dict[str, float]:
    """Milliseconds of a processor a frame in each stage: the least of `runs` passes over the sources."""
    passes = []
    for _ in range(runs + 1):  # the first one loads models and packages
        stages, begun, frames = StageTimes(time.process_time), time.process_time(), 0
        for source in sources:
            frames += prepare_clip(source, out, SETTINGS, stages).frames
        stages.seconds["all"] = time.process_time() - begun
        passes.append({name: 1000 * seconds / frames for name, seconds in stages.seconds.items()})
    return {name: min(one[name] for one in passes[1:]) for name in passes[0]}


def recipe_detector() -> Callable[[np.ndarray], np.ndarray | None]:
    """FaceMesh in static mode: MediaPipe's own, as public scripts call it, where 0.10.21 is installed; else ours."""
    try:
        from mediapipe.python.solutions.face_mesh import FaceMesh
    except ImportError:
        return landmark_detector(static=True)
    mesh = FaceMesh(static_image_mode=True, max_num_faces=1, refine_landmarks=True)

    def detect(frame: np.ndarray) -> np.ndarray | None:
        faces = mesh.process(np.ascontiguousarray(frame)).multi_face_landmarks
        if not faces:
            return None
        points = [(faces[0].landmark[i].x, faces[0].landmark[i].y) for i in LANDMARKS.tolist()]
        return np.array(points, np.float32) * (frame.shape[1], frame.shape[0])

    return detect


def recipe(source: Source, out: Path) -> int:
    """The straight recipe on one video; returns the bytes that it writes."""
    out.mkdir(parents=True, exist_ok=True)
    frames = np.stack(list(VideoStream(source.path, 25)))
    crops, detect = [], recipe_detector()
    for number, frame in enumerate(frames):
        points = detect(frame)
        if points is not None:
            crops.append((number, crop_face(frame, face_box(points, (frame.shape[1], frame.shape[0])), 128)))
    for number, crop in crops:
        points = detect(crop)
        if points is None:
            continue
        sketch = draw_heatmap(normalise_landmarks(points, np.array([0, 0, 128, 128])))
        cv2.imwrite(str(out / f"{number}.png"), crop[..., ::-1])
        cv2.imwrite(str(out / f"{number}_sketch.png"), (255 * sketch).astype(np.uint8))
    return sum(path.stat().st_size for path in out.iterdir())


def against_recipe(sources: Sequence[Source], out: Path, runs: int) -> dict[str, float]:
    """Ratios of processor time and of bytes: of all our clip files, and of what the recipe has too: not the sound."""
    theirs, ours = [], []
    for source in sources:
        folder = out / "recipe" / source.clip
        times = [
            (
                _processor_s(partial(recipe, source, folder)),
                _processor_s(partial(prepare_clip, source, out, SETTINGS)),
            )
            for _ in range(runs)
        ]
        recipe_s, ours_s = map(min, zip(*times, strict=True))
        pictures = sum(path.stat().st_size for path in folder.iterdir())
        theirs.append((recipe_s, pictures))
        ours.append((ours_s, clip_path(out, source.clip).stat().st_size, _bytes_of_sound(out, source)))
    recipe_s, recipe_bytes = map(sum, zip(*theirs, strict=True))
    ours_s, ours_bytes, sound_bytes = map(sum, zip(*ours, strict=True))
    return {
        "recipe_s": recipe_s,
        "ours_s": ours_s,
        "times_faster": recipe_s / ours_s,
        "recipe_bytes": recipe_bytes,
        "ours_bytes": ours_bytes,
        "times_smaller_with_sound": recipe_bytes / ours_bytes,
        "times_smaller": recipe_bytes / (ours_bytes - sound_bytes),
    }


def _processor_s(work: Callable[[], object]) -> float:
    begun = time.process_time()
    work()
    return time.process_time() - begun


def _bytes_of_sound(out: Path, source: Source) -> int:
    clip = Clip.open(clip_path(out, source.clip))
    return clip.audio.nbytes + sum(clip.features(kind).nbytes // 2 for kind in clip.feature_kinds)


def _bordered(frame: np.ndarray) -> np.ndarray:
    side = BORDER_PX
    return cv2.copyMakeBorder(frame, side, side, side, side, cv2.BORDER_REPLICATE)


def tracking_error(sources: Sequence[Source], out: Path) -> dict[str, float]:
    """Medians over frames of the landmarks' mean distance, % of the face's height; 95th percentile of the first.

    Compared are the clips' landmarks with static mode, with settled static mode (the frame is looked at a second time,
    from where its face was found), and static mode with itself on the same frame within a border.
    """
    pairs = ("tracking_static", "tracking_settled", "static_bordered")
    apart: dict[str, list[float]] = {pair: [] for pair in pairs}
    missed = frames = 0
    for source in sources:
        clip = Clip.open(clip_path(out, source.clip))
        heights = np.maximum(clip.boxes[:, 3] - clip.boxes[:, 1], 1)
        with closing(landmark_detector(static=True)) as detect, closing(landmark_detector()) as track:
            for number, frame in enumerate(VideoStream(source.path, 25)):
                frames += 1
                static, ours = detect(frame), clip.landmarks[number]
                missed += static is not None and not clip.valid[number]
                bordered = detect(_bordered(frame))
                track.forget()
                settled = track(frame) if track(frame) is not None else None
                if static is None or settled is None or bordered is None or not clip.valid[number]:
                    continue
                compared = ((ours, static), (ours, settled), (bordered - BORDER_PX, static))
                for pair, (a, b) in zip(pairs, compared, strict=True):
                    apart[pair].append(100 * np.linalg.norm(a - b, axis=1).mean() / heights[number])
    return {
        **{f"{pair}_median_percent": float(np.median(values)) for pair, values in apart.items()},
        "tracking_static_p95_percent": float(np.percentile(apart["tracking_static"], 95)),
        "frames_found_by_static_alone": missed,
        "frames": frames,
    }


def scaling(sources: Sequence[Source], root: Path, out: Path, runs: int) -> dict[str, float]:
    """Frames/s with one and with two worker processes, starting them left out: long runs do not feel it."""
    figures = {}
    for workers in (1, 2):
        speeds = []
        for run in range(runs):
            folder = out / f"{workers}-{run}"
            started = _seconds(
                lambda w=workers, f=folder: prepare(sources[:w], f, root=root, workers=w, progress=False)
            )
            shutil.rmtree(folder)
            all_s = _seconds(lambda w=workers, f=folder: prepare(sources, f, root=root, workers=w, progress=False))
            frames = sum(Clip.open(clip_path(folder, source.clip)).frames for source in sources[workers:])
            speeds.append(frames / (all_s - started))
            shutil.rmtree(folder)
        figures[f"frames_per_s_{workers}"] = statistics.median(speeds)
    return {**figures, "ratio": figures["frames_per_s_2"] / figures["frames_per_s_1"]}


def _seconds(work) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def peak_memory(video: Path, seconds: float, folder: Path) -> float:
    """Largest resident set (MiB) of a process that prepares this video repeated to a length."""
    import av

    with av.open(str(video)) as container:
        loops = max(0, round(seconds * 1e6 / (container.duration or 1)) - 1)
    root = folder / f"{seconds:g}"
    (root / "a").mkdir(parents=True)
    _looped(video, root / "a" / "a.mp4", loops + 1)
    arguments = [sys.executable, "-c", MEMORY, str(root), str(root / "out")]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def _looped(video: Path, target: Path, times: int) -> None:
    """The packets of a video again and again, without encoding anew."""
    import av

    with av.open(str(target), "w") as output:
        with av.open(str(video)) as container:
            taken = [*container.streams.video[:1], *container.streams.audio[:1]]
            streams = {stream.index: output.add_stream_from_template(stream) for stream in taken}
        begin_s = 0.0
        for _ in range(times):
            with av.open(str(video)) as container:
                end_s, early_s = begin_s, 0.0
                for packet in container.demux([container.streams[index] for index in streams]):
                    if packet.dts is None or packet.pts is None:
                        continue
                    ticks = round(begin_s / packet.time_base)
                    packet.dts, packet.pts = packet.dts + ticks, packet.pts + ticks
                    early_s = min(early_s, float(packet.dts * packet.time_base) - begin_s)
                    end_s = max(end_s, float((packet.pts + packet.duration) * packet.time_base))
                    packet.stream = streams[packet.stream.index]
                    output.mux(packet)
            begin_s = end_s - early_s  # what is decoded before it is shown must not fall into the time before


def main() -> None:
    options = parser(__doc__, runs=3)
    options.add_argument("videos", type=Path, help="folder of talking faces")
    options.add_argument("--clips", type=int, default=8, help="videos taken, spread over the folder (8)")
    options.add_argument("--skip", nargs="*", default=[], choices=("recipe", "tracking", "scaling", "memory"))
    arguments = options.parse_args()
    found = find_sources("folder", arguments.videos)
    sources = [found[i] for i in np.linspace(0, len(found) - 1, min(arguments.clips, len(found))).astype(int)]
    figures: dict[str, dict[str, float]] = {}
    print(f"{machine()}\n{len(sources)} videos of {arguments.videos.name}, settings {SETTINGS}\n")
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        figures["stages_ms"] = by_stage(sources, out, arguments.runs)
        rows = [(name, value, 1000 / value) for name, value in figures["stages_ms"].items()]
        print(table(("stage", "processor ms/frame", "frames/s"), rows), "\n", flush=True)
        parts = {
            "recipe": lambda: against_recipe(sources, out, arguments.runs),
            "tracking": lambda: tracking_error(sources, out),
            "scaling": lambda: scaling(sources, arguments.videos, out, arguments.runs),
            "memory": lambda: {
                f"peak_mib_{seconds}_s": peak_memory(sources[0].path, seconds, out) for seconds in (10, 1200)
            },
        }
        for name, measure in parts.items():
            if name not in arguments.skip:
                figures[name] = measure()
                print(table((name, "figure"), list(figures[name].items())), "\n", flush=True)
    if arguments.json:
        write_json(arguments.json, figures)


if __name__ == "__main__":
    main()
