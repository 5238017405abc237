"""How soon and how fast a prepared person speaks live.

    python benchmarks/live.py --clip VIDEO --speech SOUND --json live.json
    python benchmarks/live.py --clip VIDEO --speech SOUND --device cuda --utterances 40

An utterance is pushed all at once, as most speech synthesis gives it (`burst`), or 20 ms of sound every 20 ms (`at its
own pace`); frames are taken as their time stamps come. The latency is the time from the first sample's push until the
first frame with sound is there; `rendered` counts pictures that differ a second, `real-time factor` is the time in
which frames were computed over the time that they last: above 1, pictures are repeated. `prepare`, `save` and `load`
are seconds of one call.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np
from common import parser, table, write_json

from stsa_lightning.dubbing import Dubber, LiveFrame, Person, Stream, paced
from stsa_lightning.media.audio import load_audio
from stsa_lightning.models import BUNDLED
from stsa_lightning.utils.scratch import scratch_folder

Result = TypeVar("Result")

_CHUNK = 320  # samples, 20 ms
_IDLE = 10  # frames before each utterance


class Watched(Iterator[LiveFrame]):
    """A stream, and the seconds that each frame took."""

    def __init__(self, stream: Stream) -> None:
        self.stream, self.taken_s = stream, list[float]()

    def __next__(self) -> LiveFrame:
        begun = time.perf_counter()
        frame = next(self.stream)
        self.taken_s.append(time.perf_counter() - begun)
        return frame


def measured(person: Person, speech: np.ndarray, utterances: int, seconds: float, burst: bool) -> dict[str, float]:
    """Latencies (median, 95th percentile; seconds), frames a second and the real-time factor."""
    rng, size = np.random.default_rng(0), round(seconds * 16_000)
    latencies, begun_s = list[float](), time.perf_counter()
    with person.stream() as stream:
        watched = Watched(stream)
        frames = paced(watched)
        for _ in range(3):
            next(frames)
        for _ in range(utterances):
            for _ in range(_IDLE):
                next(frames)
            start = int(rng.integers(0, max(1, len(speech) - size)))
            said = speech[start : start + size]
            chunks = [said] if burst else np.split(said, range(_CHUNK, len(said), _CHUNK))
            pushed_s, spoke = time.perf_counter(), False
            while chunks or stream.busy:
                while chunks and (burst or time.perf_counter() - pushed_s >= (size - _left(chunks)) / 16_000):
                    stream.push(chunks.pop(0))
                    if not chunks:
                        stream.end()
                frame = next(frames)
                if frame.speaking and not spoke:
                    spoke = True
                    latencies.append(time.perf_counter() - pushed_s)
        shown, elapsed_s = len(watched.taken_s), time.perf_counter() - begun_s
        rendered = shown - stream.repeated
        median, late = np.percentile(latencies, [50, 95])
        return {
            "latency_median_s": float(median),
            "latency_95_s": float(late),
            "frames_per_s": shown / elapsed_s,
            "rendered_per_s": rendered / elapsed_s,
            "ms_a_rendered_frame": 1e3 * sum(watched.taken_s) / rendered,
            "real_time_factor": 25 * sum(watched.taken_s) / rendered,
            "cut_by_silence": stream.late,
        }


def timed(task: Callable[[], Result]) -> tuple[float, Result]:
    """Seconds that a task took, and what came of it."""
    begun = time.perf_counter()
    result = task()
    return time.perf_counter() - begun, result


def _left(chunks: list[np.ndarray]) -> int:
    return sum(map(len, chunks))


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--clip", type=Path, required=True, help="a video of one speaking face")
    options.add_argument("--speech", type=Path, required=True)
    options.add_argument("--checkpoint", type=Path, default=BUNDLED)
    options.add_argument("--device", default="cpu")
    options.add_argument("--utterances", type=int, default=20)
    options.add_argument("--seconds", type=float, default=2.0, help="of each utterance")
    arguments = options.parse_args()
    speech = load_audio(arguments.speech)
    dubber = Dubber.from_checkpoint(arguments.checkpoint, device=arguments.device)
    figures: dict[str, dict[str, float] | float] = {}
    with scratch_folder("stsa-live-") as folder:
        figures["prepare_s"], person = timed(lambda: dubber.prepare(arguments.clip))
        figures["save_s"], path = timed(lambda: person.save(folder / "one.person"))
        figures["load_s"], person = timed(lambda: dubber.load_person(path))
        print({name: round(value, 2) for name, value in figures.items() if isinstance(value, float)}, flush=True)
        for burst, name in ((True, "burst"), (False, "at its own pace")):
            figures[name] = found = measured(person, speech, arguments.utterances, arguments.seconds, burst)
            print(f"\n{name}\n{table(['', ''], list(found.items()))}", flush=True)
    if arguments.json:
        write_json(arguments.json, figures)


if __name__ == "__main__":
    main()
