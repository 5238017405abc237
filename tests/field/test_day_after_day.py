"""What a process does is what any process does, and what it holds does not grow, however long it lives."""

from __future__ import annotations

import hashlib
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch import Tensor

from stsa_lightning.dubbing import Dubber
from stsa_lightning.dubbing.manifest import Job, dub_all
from stsa_lightning.features.spectral import LogMel
from stsa_lightning.inference.frame_inputs import example_inputs
from stsa_lightning.inference.int8 import int8_is_fast
from stsa_lightning.inference.render_engine import EngineReferences, Precision, RenderEngine, _workers
from stsa_lightning.models import BUNDLED
from stsa_lightning.models.checkpoint import load_networks
from stsa_lightning.models.guidance import Guidance
from stsa_lightning.models.presets import GUIDANCE, SYNTHESIS
from stsa_lightning.models.synthesis import Synthesis

PRECISIONS = get_args(Precision)
needs_int8 = pytest.mark.skipif(not int8_is_fast(), reason="a processor without fast 8-bit multiplications")


@pytest.fixture(scope="session")
def clips(short_clips: list[Path]) -> list[Path]:
    return short_clips


@pytest.fixture
def torch_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def networks() -> tuple[Guidance, Synthesis]:
    torch.manual_seed(0)
    return Guidance(**GUIDANCE["tiny"]), Synthesis(**SYNTHESIS["tiny"])


def new_dubber(precision: Precision) -> Dubber:
    return Dubber(*networks(), LogMel(), precision=precision, block=8)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def frames_digest(frames: Iterator[np.ndarray]) -> str:
    return hashlib.sha256(b"".join(frame.tobytes() for frame in frames)).hexdigest()


# --------------------------------------------------------------------------------------------- same input, same bytes


class Shot:
    """A shot's references and a few frames, as a renderer has them."""

    def __init__(self, synthesis: Synthesis, seed: int) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.references, self.frames, self.chosen = example_inputs(
                synthesis.face_size, synthesis.audio_dim, 5, synthesis.num_references, frames=3
            )

    def rendered(self, engine: RenderEngine, encoded: EngineReferences | None = None) -> Tensor:
        encoded = encoded or engine.encode(self.references)
        return engine.render(self.frames, engine.guide(self.frames, encoded), self.chosen, encoded).joined()


@pytest.mark.parametrize("precision", PRECISIONS)
def test_engine_called_from_threads_of_any_number_of_cores_renders_the_same_bits(
    precision: Precision, torch_threads: None
) -> None:
    guidance, synthesis, _ = load_networks(BUNDLED)
    shot, engine = Shot(synthesis, 0), RenderEngine(guidance, synthesis, precision=precision)
    drawn = []
    for threads in (1, 2, 4):
        torch.set_num_threads(threads)
        drawn.append(shot.rendered(engine))
    with ThreadPoolExecutor(1) as thread:
        drawn.append(thread.submit(shot.rendered, engine).result())
    assert all(torch.equal(drawn[0], each) for each in drawn[1:])


def test_engine_leaves_the_threads_of_others_as_they_are(torch_threads: None) -> None:
    torch.set_num_threads(3)
    _workers.cache_clear()  # as in a process that makes its first engine
    Shot(networks()[1], 0).rendered(engine := RenderEngine(*networks()))
    seen = [torch.get_num_threads()]
    fresh = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
    fresh.start()
    fresh.join()
    assert engine.workers is not None
    assert seen == [3, 3]
    assert {engine.workers.submit(torch.get_num_threads).result() for _ in range(9)} == {1}


@needs_int8
def test_engine_given_up_the_fast_mode_for_one_shot_renders_the_next_as_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    guidance, synthesis = networks()
    hard, shot = Shot(synthesis, 1), Shot(synthesis, 2)
    expected = shot.rendered(RenderEngine(guidance, synthesis))
    engine, verdicts = RenderEngine(guidance, synthesis), iter([False, True, False])
    monkeypatch.setattr(engine, "_is_near", lambda fast, exact: next(verdicts))
    encoded = engine.encode(hard.references)
    exact = hard.rendered(RenderEngine(guidance, synthesis, precision="exact"))
    assert torch.equal(hard.rendered(engine, encoded), exact)
    assert torch.equal(shot.rendered(engine), expected)
    assert torch.equal(hard.rendered(engine, encoded), exact)  # asked once
    assert next(verdicts) is False


@needs_int8
def test_every_shot_is_checked_however_many_came_before(monkeypatch: pytest.MonkeyPatch) -> None:
    guidance, synthesis = networks()
    shot, engine, checked = Shot(synthesis, 0), RenderEngine(guidance, synthesis), list[float]()

    def is_near(fast: Tensor, exact: Tensor) -> bool:
        checked.append(float((fast - exact).abs().max()))
        return True

    monkeypatch.setattr(engine, "_is_near", is_near)
    for _ in range(5):
        shot.rendered(engine)
    assert len(checked) == 5
    assert len(set(checked)) == 1
    assert 0 < checked[0] < 0.2


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.slow
def test_dubs_in_any_order_are_the_same_bytes(clips: list[Path], tmp_path: Path, precision: Precision) -> None:
    dubber, (a, b) = new_dubber(precision), clips
    first = digest(dubber.dub(a, b, tmp_path / "first.mp4", progress=False).out)
    shown = frames_digest(dubber.frames(a, b))
    jobs = [Job(b, a, tmp_path / "b.mp4"), Job(a, b, tmp_path / "a.mp4")]
    assert [result.error for result in dub_all(dubber, jobs, progress=False)] == [None, None]
    assert digest(tmp_path / "a.mp4") == first
    other, again = new_dubber(precision), [Job(a, b, tmp_path / "a2.mp4"), Job(b, a, tmp_path / "b2.mp4")]
    assert frames_digest(other.frames(a, b)) == shown
    assert [result.error for result in dub_all(other, again, progress=False)] == [None, None]
    assert [digest(tmp_path / f"{name}2.mp4") for name in "ab"] == [first, digest(tmp_path / "b.mp4")]


# --------------------------------------------------------------------------------------------------- what is held on to


def counts() -> tuple[int, int]:
    """Threads and open files of this process."""
    threads, files = (len(os.listdir(f"/proc/self/{what}")) for what in ("task", "fd"))
    return threads, files


def wait_until(condition: Callable[[], bool], tries: int = 6000) -> None:
    for _ in range(tries):
        if condition():
            return
        time.sleep(0.05)


@pytest.mark.slow
def test_a_dub_leaves_no_thread_and_no_file_without_the_garbage_collector(clips: list[Path], tmp_path: Path) -> None:
    import gc

    dubber = new_dubber("exact")
    held = []
    for number in range(3):
        gc.collect()
        gc.disable()
        try:
            dubber.dub(*clips, tmp_path / "out.mp4", progress=False)
            next(frames := dubber.frames(*clips))
            frames.close()  # type: ignore[attr-defined]
            wait_until(lambda: not held or counts()[0] <= held[0][0])  # threads that are about to end
            held.append(counts())
        finally:
            gc.enable()
        assert held[number][0] <= held[0][0], "threads"
        assert held[number][1] <= held[0][1], "files"


def test_frames_given_up_while_live_speech_is_awaited_end(clips: list[Path]) -> None:
    stalled = threading.Event()

    def chunks() -> Iterator[np.ndarray]:
        yield np.zeros(8000, np.float32)
        stalled.wait()

    frames = Dubber(*networks(), LogMel(), block=1).frames(clips[0], chunks())
    next(frames)
    closing = threading.Thread(target=frames.close, daemon=True)  # type: ignore[attr-defined]
    closing.start()
    closing.join(300)
    stalled.set()
    assert not closing.is_alive()


def test_an_onnx_session_asks_nothing_of_the_network_and_leaves_nothing(tmp_path: Path) -> None:
    script = (
        "import numpy; from stsa_lightning.features.moonshine import Moonshine; "
        "Moonshine()(numpy.zeros(8000, 'float32'))"
    )
    dropped = ("ORT_DISABLE_TELEMETRY", "ORT_TELEMETRY_DISABLED")
    own = {name: value for name, value in os.environ.items() if name not in dropped}
    folders = {name: str(tmp_path) for name in ("TMPDIR", "XDG_CACHE_HOME", "HOME")}
    subprocess.run([sys.executable, "-c", script], env=own | folders, check=True)
    assert [path for path in tmp_path.rglob("*") if "icrosoft" in str(path) or path.name == ".ses"] == []


def long_lived(kind: str, clips: list[Path], out: Path, times: int, **environment: str) -> list[dict[str, Any]]:
    """What a process of its own holds after each time, see `long_lived.py`."""
    out.mkdir(exist_ok=True)
    words = [str(Path(__file__).with_name("long_lived.py")), kind, str(clips[0].parents[1]), str(out), str(times)]
    done = subprocess.run(
        [sys.executable, *words], env=os.environ | environment, stdout=subprocess.PIPE, text=True, check=True
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", ["dub", "manifest", "desk", "frames", "worker"])
def test_sixty_times_over_a_process_holds_what_it_held_after_ten(kind: str, clips: list[Path], tmp_path: Path) -> None:
    if kind == "desk":
        pytest.importorskip("gradio", reason="Gradio is not installed: pip install 'stsa_lightning[app]'")
    # Of several heaps each would grow to what the hungriest thread needs, 20 MB at any time; of one, the level moves by
    # 1 MB.
    held = long_lived(kind, clips, tmp_path / "out", 60, MALLOC_ARENA_MAX="1")
    assert len(held) == 60
    assert statistics.mean(each["megabytes"] for each in held[-10:]) < max(each["megabytes"] for each in held[:10]) + 20
    assert held[-1]["threads"] <= held[9]["threads"]
    assert held[-1]["files"] <= held[9]["files"]
    if kind != "worker":
        assert len({each["digest"] for each in held[::2]}) == 1
        assert len({each["digest"] for each in held[1::2]}) == 1


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("threads", ["1", "2"])
def test_the_first_dub_of_a_process_is_every_later_one(threads: str, clips: list[Path], tmp_path: Path) -> None:
    """With the networks that come with the package; by itself, in another order, and in a list."""
    record = {
        kind: [each["digest"] for each in long_lived(kind, clips, tmp_path / kind, 3, OMP_NUM_THREADS=threads)]
        for kind in ("dub", "second_first", "manifest")
    }
    a, b, again = record["dub"]
    assert a == again != b
    assert record["second_first"] == [b, a, b]
    assert record["manifest"] == [a, b, a]
