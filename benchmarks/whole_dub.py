"""What a whole dub costs, stage by stage, beside a straight pipeline: processor time of a frame, at several sizes.

    python benchmarks/whole_dub.py CLIP SPEECH --sides 256 720 1080 [--checkpoint RUN.ckpt]

The clip is scaled so that its shorter side is each of these. The straight pipeline is what public scripts do: FaceMesh
on every frame, then frame by frame both networks in plain float32 (`straightforward.py`, without the loss network), the
lower half of the face resized and pasted, the file written with the encoder's defaults; all frames in memory. Both take
turns in one process, with the same networks, face and speech, and medians of --runs are told. Ours renders at the
face's own size (`auto`), follows several faces, matches colours and checks its results.

Processor time is that of all threads, whatever else the machine does; a thread counts for the stage in whose name it
works or was started, `python` are the threads of the engine, which are older than the stages. `fps on 2 cores` is what
two cores give that do nothing else: 2 over the sum. Linux only.
"""

from __future__ import annotations

import ctypes
import statistics
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from unittest import mock

import cv2
import numpy as np
import torch
from common import machine, parser, table, write_json
from straightforward import StraightForm

from stsa_lightning.constants import FPS, SAMPLES_PER_FRAME
from stsa_lightning.dubbing import Dubber
from stsa_lightning.face.box import crop_face, face_box, normalise_landmarks
from stsa_lightning.face.heatmaps import outer_lip_aperture
from stsa_lightning.face.landmarks import landmark_detector
from stsa_lightning.face.references import choose_references
from stsa_lightning.features.base import feature_windows
from stsa_lightning.features.build import audio_features
from stsa_lightning.inference.frame_inputs import ChosenReferences, FrameInputBuilder
from stsa_lightning.media.audio import load_audio, write_wav
from stsa_lightning.media.stream import VideoStream
from stsa_lightning.media.video import VideoWriter
from stsa_lightning.models import BUNDLED
from stsa_lightning.models.checkpoint import load_networks
from stsa_lightning.utils.stage_times import StageTimes

POLL_S = 0.02
PR_SET_NAME, NAME_LENGTH = 15, 15
TASKS = Path("/proc/self/task")


class ProcessorTime:
    """Processor seconds of this process's threads by the name that they bear, while `measured` lasts.

    Threads that libraries start bear the name of the one that started them, so an encoder's count with its stage.
    """

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._before: dict[str, int] = {}
        self._name = ctypes.CDLL(None).prctl

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """In the place of `StageTimes.timed`: the calling thread bears this name."""
        task = TASKS / str(threading.get_native_id()) / "comm"
        before = task.read_text().strip()
        self._name(PR_SET_NAME, name[:NAME_LENGTH].encode())
        try:
            yield
        finally:
            self._sample()
            self._name(PR_SET_NAME, before.encode())

    @contextmanager
    def measured(self) -> Iterator[None]:
        """Count from here on; `seconds` is whole afterwards."""
        self._sample()
        self.seconds.clear()
        over = threading.Event()
        poller = threading.Thread(target=self._poll, args=(over,), name="poll")
        with mock.patch.object(StageTimes, "timed", lambda _, name: self.timed(name)):
            poller.start()
            try:
                yield
            finally:
                over.set()
                poller.join()
                self._sample()

    def _poll(self, over: threading.Event) -> None:
        while not over.wait(POLL_S):
            self._sample()

    def _sample(self) -> None:
        for task in TASKS.iterdir():
            try:
                name = (task / "comm").read_text().strip()
                spent = int((task / "schedstat").read_text().split()[0])
            except OSError:  # it ended meanwhile
                continue
            self.seconds[name] += (spent - self._before.get(task.name, 0)) / 1e9
            self._before[task.name] = spent


def scaled(clip: Path, side: int, frames: int, out: Path) -> int:
    """Write the first frames of a clip with a shorter side of so many pixels; how many these are."""
    pictures = list(islice(VideoStream(clip, FPS), frames))
    if not pictures:
        raise SystemExit(f"{clip}: expected a video, found no frame")
    height, width = pictures[0].shape[:2]
    size = (2 * round(width * side / min(height, width) / 2), 2 * round(height * side / min(height, width) / 2))
    with VideoWriter(out, FPS, size, crf=15) as writer:
        for picture in pictures:
            writer.write(cv2.resize(picture, size, interpolation=cv2.INTER_CUBIC)[None])
    return len(pictures)


class StraightPipeline:
    """Every frame alone, with everything in memory."""

    def __init__(self, checkpoint: Path) -> None:
        guidance, self.synthesis, meta = load_networks(checkpoint)
        self.form = StraightForm(guidance, self.synthesis)
        self.features, self.frames = audio_features(meta["features"]), int(meta["num_frames"])
        self.builder = FrameInputBuilder(self.synthesis.face_size, float(meta.get("heatmap_sigma", 1.0)))

    def __call__(self, video: Path, speech: Path, out: Path, timed: Callable) -> None:
        with timed("decode"):
            frames = list(VideoStream(video, FPS))
        size = (frames[0].shape[1], frames[0].shape[0])
        with timed("find: landmarks"):
            detector = landmark_detector(static=True)
            found = {i: points for i, frame in enumerate(frames) if (points := detector(frame)) is not None}
            detector.close()
        if not found:
            raise SystemExit(f"{video}: expected a face, found none")
        known = np.array([*found])
        points = np.stack([found[known[np.abs(known - i).argmin()]] for i in range(len(frames))])
        boxes = np.stack([face_box(each, size) for each in points])
        landmarks = normalise_landmarks(points, boxes)
        with timed("speech"):
            steps = self.features(load_audio(speech))
            audio = feature_windows(steps, np.arange(len(frames)))
        crops = np.stack([crop_face(f, b, self.synthesis.face_size) for f, b in zip(frames, boxes, strict=True)])
        count = self.synthesis.num_references
        chosen = choose_references(outer_lip_aperture(landmarks), np.ones(len(frames), bool), count)
        around = np.arange(self.frames) - self.frames // 2
        with timed("prepare"):
            references = self.builder.references(crops[chosen], landmarks[chosen])
        for i, frame in enumerate(frames):
            with timed("prepare"):
                window = np.clip(i + around, 0, len(frames) - 1)[None]
                one = self.builder.frames(crops[i : i + 1], audio[window], window, landmarks.__getitem__)
                moved = ChosenReferences.of(landmarks[chosen], landmarks[[i]], np.arange(count)[None])
            with timed("render"):
                face = self.form.frame(
                    *(one.masked_faces, one.masked_heatmaps, one.audio),
                    *(references.images, references.heatmaps, moved.theta),
                )
            with timed("blend"):
                paste(frame, face, boxes[i])
        with timed("encode"), VideoWriter(out, FPS, size) as writer:
            for frame in frames:
                writer.write(frame[None])


def paste(frame: np.ndarray, face: torch.Tensor, box: np.ndarray) -> None:
    """The lower half of a face (1, 3, S, S) in [0, 1] into its box, with a hard edge."""
    left, top, right, bottom = (round(float(edge)) for edge in box)
    picture = (255 * face[0].permute(1, 2, 0)).round().byte().numpy()
    resized = cv2.resize(picture, (right - left, bottom - top), interpolation=cv2.INTER_CUBIC)
    half = (bottom - top) // 2
    frame[top + half : bottom, left:right] = resized[half:]


def one_size(clip: Path, speech: Path, side: int, checkpoint: Path, frames: int, runs: int) -> dict[str, dict]:
    """Milliseconds of a frame by stage, and seconds on the clock, of either: medians."""
    processor, straight = ProcessorTime(), StraightPipeline(checkpoint)
    dubber = Dubber.from_checkpoint(checkpoint)
    with tempfile.TemporaryDirectory() as name:
        video, out = Path(name) / "in.mp4", Path(name) / "out.mp4"
        count = scaled(clip, side, frames, video)
        tasks: dict[str, Callable[[], object]] = {
            "straight": lambda: straight(video, speech, out, processor.timed),
            "stsa": lambda: dubber.dub(video, speech, out, progress=False),
        }
        passes: dict[str, list[dict[str, float]]] = {task: [] for task in tasks}
        for number in range(runs + 1):  # the first round loads networks and packages
            for task, work in tasks.items():
                torch.set_num_threads(1)
                begun = time.perf_counter()
                with processor.measured():
                    work()
                if number:
                    spent = {name: 1000 * s / count for name, s in processor.seconds.items() if name != "poll"}
                    passes[task].append({**spent, "clock_s": time.perf_counter() - begun})
    return {task: median_of(each) for task, each in passes.items()}


def median_of(passes: list[dict[str, float]]) -> dict[str, float]:
    """Medians by name."""
    names = sorted({name for one in passes for name in one})
    return {name: statistics.median(one.get(name, 0.0) for one in passes) for name in names}


def main() -> None:
    options = parser(__doc__, runs=3)
    options.add_argument("clip", type=Path, help="a talking face")
    options.add_argument("speech", type=Path, help="what it is to say; at least as long as the part that is dubbed")
    options.add_argument("--sides", type=int, nargs="+", default=[256, 720, 1080], help="shorter sides, pixels")
    options.add_argument("--frames", type=int, default=100, help="frames of the clip (100)")
    options.add_argument("--checkpoint", type=Path, default=BUNDLED)
    arguments = options.parse_args()
    if not TASKS.is_dir():
        raise SystemExit("whole_dub.py: expected /proc/self/task, which Linux alone has")
    print(machine(), "\n")
    figures = {}
    for side in arguments.sides:
        with tempfile.TemporaryDirectory() as name:
            speech = Path(name) / "speech.wav"
            write_wav(speech, load_audio(arguments.speech)[: arguments.frames * SAMPLES_PER_FRAME])
            found = one_size(arguments.clip, speech, side, arguments.checkpoint, arguments.frames, arguments.runs)
        clocks = {task: parts.pop("clock_s") for task, parts in found.items()}
        sums = {task: sum(parts.values()) for task, parts in found.items()}
        stages = sorted({stage for parts in found.values() for stage in parts})
        rows = [(stage, *(found[task].get(stage, 0.0) for task in found)) for stage in stages]
        rows += [("all", *sums.values()), ("fps on 2 cores", *(2000 / total for total in sums.values()))]
        rows += [("seconds on the clock", *clocks.values())]
        print(table((f"{side} px, ms of a processor a frame", *found), rows))
        print(f"straight / stsa: {sums['straight'] / sums['stsa']:.2f}\n", flush=True)
        figures[str(side)] = {task: {**found[task], "all": sums[task], "clock_s": clocks[task]} for task in found}
    if arguments.json:
        write_json(arguments.json, figures)


if __name__ == "__main__":
    main()
