"""The same work many times over in one process, told after each time what the process holds: `test_day_after_day`.

python long_lived.py KIND FOLDER OUT TIMES, where KIND is one of the functions below, and FOLDER holds rendered clips.
Prints one JSON object a time.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def held() -> dict[str, float]:
    """Resident megabytes, threads and open files of this process."""
    kilobytes = re.search(r"^Rss:\s+(\d+)", Path("/proc/self/smaps_rollup").read_text(), re.MULTILINE)
    assert kilobytes is not None
    return {
        "megabytes": int(kilobytes[1]) / 1024,
        "threads": len(os.listdir("/proc/self/task")),
        "files": len(os.listdir("/proc/self/fd")),
    }


def clips_of(folder: Path, times: int, first: int = 0) -> Iterator[tuple[Path, Path]]:
    """Videos and speech that change places."""
    clips = sorted(folder.rglob("*.mp4"))
    for number in range(first, first + times):
        yield clips[number % len(clips)], clips[(number + 1) % len(clips)]


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def dubber() -> Any:
    from stsa_lightning.dubbing import Dubber
    from stsa_lightning.models import BUNDLED

    return Dubber.from_checkpoint(BUNDLED, block=16)


def dub(folder: Path, out: Path, times: int, first: int = 0) -> Iterator[str]:
    one = dubber()
    for video, speech in clips_of(folder, times, first):
        yield digest(one.dub(video, speech, out / "dub.mp4", progress=False).out)


def second_first(folder: Path, out: Path, times: int) -> Iterator[str]:
    yield from dub(folder, out, times, first=1)


def manifest(folder: Path, out: Path, times: int) -> Iterator[str]:
    from stsa_lightning.dubbing.manifest import dub_all, read_manifest

    lines = [f"{video},{speech},{out / f'{i}.mp4'}" for i, (video, speech) in enumerate(clips_of(folder, times))]
    (out / "list.csv").write_text("\n".join(["video,audio,out", *lines]))
    for result in dub_all(dubber(), read_manifest(out / "list.csv"), progress=False):
        assert result.report is not None, result
        yield digest(result.job.out)


def desk(folder: Path, out: Path, times: int) -> Iterator[str]:
    from stsa_lightning.app.limits import Limits
    from stsa_lightning.app.page import Desk

    page = Desk(dubber(), out / "results", Limits())
    for video, speech in clips_of(folder, times):
        yield digest(page.dub(str(video), str(speech), lambda part, doing: None).video)


def frames(folder: Path, out: Path, times: int) -> Iterator[str]:
    one = dubber()
    for video, speech in clips_of(folder, times):
        yield hashlib.sha256(b"".join(frame.tobytes() for frame in one.frames(video, speech))).hexdigest()


def prepared(job: tuple[Path, Path]) -> dict[str, float]:
    """What a worker holds before it prepares a clip."""
    from stsa_lightning.data.corpora import find_sources
    from stsa_lightning.data.extract import prepare_clip
    from stsa_lightning.data.settings import PrepareSettings

    folder, out = job
    before = held()
    source = find_sources("sample", folder)[0]
    prepare_clip(source, out, PrepareSettings(min_frames=5, sync="lip_aperture", features=("logmel", "moonshine")))
    return before


def worker(folder: Path, out: Path, times: int) -> Iterator[dict[str, float]]:
    import long_lived  # as workers know it

    from stsa_lightning.data.workers import ProcessWorkers

    with ProcessWorkers(1) as workers:
        for _, before in workers.run(long_lived.prepared, [(folder, out)] * times):
            yield before


def main() -> None:
    kind, folder, out, times = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])
    for made in globals()[kind](folder, out, times):
        record = made if isinstance(made, dict) else {**held(), "digest": made}
        print(json.dumps(record), flush=True)


if __name__ == "__main__":
    main()
