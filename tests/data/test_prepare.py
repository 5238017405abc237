"""Preparation of folders of videos: what comes out, what is rejected, and that it can be stopped at any point."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from stsa_lightning.data import extract, face_cutter
from stsa_lightning.data.clip import Clip
from stsa_lightning.data.corpora import find_sources
from stsa_lightning.data.index import INDEX_FILE, clip_path, load_index
from stsa_lightning.data.measures import SyncReading
from stsa_lightning.data.prepare import HOLDER, JOURNAL, LOCK, Job, PrepareReport, PrepareSettings, prepare
from stsa_lightning.data.windows import WindowDataset
from stsa_lightning.data.workers import InThisProcess, WorkerDied
from stsa_lightning.face.box import face_box
from stsa_lightning.face.landmarks import landmark_detector
from stsa_lightning.face.upright_box import UprightBox, steady_turns
from stsa_lightning.features.build import audio_features
from stsa_lightning.media.audio import load_audio
from stsa_lightning.media.stream import VideoStream
from stsa_lightning.media.video import VideoReader, write_video
from stsa_lightning.utils.errors import UserError

SETTINGS = PrepareSettings(face_size=64, features=("logmel", "mfcc"), sync="none")
TONE = (0.1 * np.sin(np.arange(3 * 16000) / 20)).astype(np.float32)
REAL = "ann/talk.mp4"


def run(
    root: Path, out: Path, settings: PrepareSettings = SETTINGS, limit: int | None = None, workers: int = 0
) -> PrepareReport:
    """A folder prepared in this process."""
    sources = find_sources("folder", root)
    return prepare(sources, out, settings, root=root, workers=workers, limit=limit, progress=False)


def _write(path: Path, frames: np.ndarray, audio: np.ndarray | None, fps: float = 25) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_video(path, frames, fps, audio=audio)


@pytest.fixture(scope="module")
def videos(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seconds of a face that goes missing for a while, at 30 frames/s, and videos that cannot be used."""
    root = tmp_path_factory.mktemp("videos")
    with VideoReader(corpus / "clips" / "spk48_01.mp4") as reader:
        face = reader.get(range(60))
    face[24:36] = 0
    _write(root / REAL, face, TONE[:32000], fps=30)
    blank = np.full((40, 64, 64, 3), 90, np.uint8)
    _write(root / "bea" / "no_sound.mp4", face[:40], None)
    _write(root / "bea" / "no_face.mp4", blank, TONE[: 40 * 640])
    _write(root / "bea" / "short.mp4", blank[:10], TONE[:6400])
    (root / "bea" / "broken.mp4").write_bytes(b"this is no video" * 20)
    (root / "bea" / "empty.avi").write_bytes(b"")
    (root / "bea" / "notes.txt").write_text("no video")
    return root


@pytest.fixture(scope="module")
def talk(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A face for 1.1 s, at 30 frames/s: little more than the least that is used."""
    with VideoReader(corpus / "clips" / "spk48_01.mp4") as reader:
        _write(path := tmp_path_factory.mktemp("talk") / "talk.mp4", reader.get(range(33)), TONE[:17600], fps=30)
    return path


@pytest.fixture
def few(talk: Path, tmp_path: Path) -> Path:
    """Three copies of a usable video."""
    root = tmp_path / "few"
    for speaker in ("ann", "bea", "cid"):
        (root / speaker).mkdir(parents=True)
        shutil.copy2(talk, root / speaker / "talk.mp4")
    return root


@pytest.fixture(scope="module")
def prepared(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, PrepareReport]:
    out = tmp_path_factory.mktemp("prepared")
    return out, run(videos, out)


def test_every_video_is_accounted_for(prepared: tuple[Path, PrepareReport]) -> None:
    out, report = prepared
    assert (report.prepared, report.reused, len(report.rejected)) == (1, 0, 5)
    index = load_index(out).set_index("clip")
    reasons = index.loc[index["status"] == "rejected", "reason"].to_dict()
    assert reasons.keys() == {f"bea/{name}" for name in ("no_sound", "no_face", "short", "broken", "empty.avi")}
    assert reasons["bea/no_sound"] == "has no sound"
    assert reasons["bea/no_face"] == "too few faces: 0 of 40 frames, expected 25 or more"
    assert reasons["bea/short"] == "too short: 10 frames at 25/s, expected 25 or more"
    assert reasons["bea/broken"] == "is a text, neither video nor sound"
    assert str(out.parent) not in "".join(reasons.values())
    row = index.loc["ann/talk"]
    assert (row["speaker"], row["source"], row["status"], row["features"]) == ("ann", REAL, "ok", "logmel,mfcc")
    assert (row["frames"], row["duration_s"], row["fps"]) == (50, 2.0, 30.0)
    assert 38 <= row["valid_frames"] <= 41
    assert 19 <= row["longest_run"] <= 21
    assert "rejected bea/no_sound.mp4: has no sound" in str(report)
    assert [path.name for path in (out / "clips").rglob("*.*")] == ["talk.safetensors"]


def test_contents_of_the_clip(prepared: tuple[Path, PrepareReport], videos: Path) -> None:
    clip = Clip.open(clip_path(prepared[0], "ann/talk"))
    assert clip.frames == 50
    assert not clip.valid[21:29].any()  # black from 0.8 s to 1.2 s
    assert clip.valid[:19].all()
    assert clip.valid[33:].all()
    with VideoReader(videos / REAL, fps=25) as reader:
        frames = reader.get(range(50))
    detector = landmark_detector()
    found = [detector(frame) for frame in frames]
    tilts = steady_turns(np.stack([np.full((131, 2), np.nan) if points is None else points for points in found]), 25)
    for number in (0, 40):
        frame, box = frames[number], clip.boxes[number]
        np.testing.assert_array_equal(box, face_box(clip.landmarks[number], (frame.shape[1], frame.shape[0])))
        crop = UprightBox(box, float(tilts[number])).crop(frame, 64)
        assert np.abs(clip.faces([number])[0].astype(int) - crop).mean() < 3
    inside = clip.face_landmarks[clip.valid]
    assert inside.min() >= 0
    assert inside.max() <= 1
    wave = load_audio(videos / REAL)[: 50 * 640]
    np.testing.assert_allclose(clip.audio / 32768, wave, atol=1 / 32768)
    for kind in SETTINGS.features:
        expected = audio_features(kind)(wave)  # type: ignore[arg-type]
        np.testing.assert_allclose(clip.features(kind), expected, rtol=1e-2, atol=1e-2)


def test_running_again_does_nothing(videos: Path, prepared: tuple[Path, PrepareReport]) -> None:
    out, first = prepared
    path = clip_path(out, "ann/talk")
    before, index = path.stat().st_mtime_ns, load_index(out)
    report = run(videos, out)
    assert (report.prepared, report.reused, report.rejected) == (0, 1, first.rejected)
    assert path.stat().st_mtime_ns == before
    assert load_index(out).equals(index)


def test_what_is_done_again_and_what_is_kept(few: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"

    def again(settings: PrepareSettings = SETTINGS) -> tuple[int, int]:
        report = run(few, out, settings)
        assert not report.rejected
        return report.prepared, report.reused

    assert again() == (3, 0)
    (out / INDEX_FILE).unlink()
    os.utime(few / "ann" / "talk.mp4")  # another time, the same contents
    assert again() == (0, 3)
    assert len(load_index(out)) == 3
    shutil.copy2(few / "ann" / "talk.mp4", few / "bea" / "talk.mp4")
    with open(few / "bea" / "talk.mp4", "ab") as file:
        file.write(b"\0" * 8)  # other contents
    clip_path(out, "cid/talk").unlink()
    clip_path(out, "ann/talk").write_bytes(b"damaged, but the index vouches for it")
    (out / INDEX_FILE).write_bytes(b"damaged")
    assert again() == (3, 0)
    assert again(PrepareSettings(face_size=32)) == (3, 0)
    assert set(load_index(out)["features"]) == {"logmel"}


def test_stopping_keeps_what_is_finished(few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    encode, calls = face_cutter.encode_picture, 0

    def stop_in_the_second_video(face: np.ndarray) -> bytes:
        nonlocal calls
        calls += 1
        if calls == 40:
            raise KeyboardInterrupt
        return encode(face)

    monkeypatch.setattr(face_cutter, "encode_picture", stop_in_the_second_video)
    with pytest.raises(KeyboardInterrupt):
        run(few, out)
    assert load_index(out)["clip"].tolist() == ["ann/talk"]
    assert files(out).keys() == {INDEX_FILE, "clips/ann/talk.safetensors"}
    monkeypatch.undo()
    report = run(few, out)
    assert (report.prepared, report.reused) == (2, 1)


# ------------------------------------------------------------------------------------------- crashes, and many workers

PROGRAM = """
import sys
from stsa_lightning.data.corpora import find_sources
from stsa_lightning.data.prepare import PrepareSettings, prepare
root, out, workers = sys.argv[1:]
settings = PrepareSettings(face_size=64)
prepare(find_sources("folder", root), out, settings, root=root, workers=int(workers), progress=False)
"""


def files(out: Path) -> dict[str, bytes]:
    """All that a run leaves, by path; the lock is no result."""
    return {
        path.relative_to(out).as_posix(): path.read_bytes()
        for path in out.rglob("*")
        if path.is_file() and path.name not in (LOCK, HOLDER)
    }


def _start(videos: Path, out: Path, workers: int = 2) -> subprocess.Popen[bytes]:
    arguments = [sys.executable, "-c", PROGRAM, str(videos), str(out), str(workers)]
    return subprocess.Popen(arguments, stderr=subprocess.PIPE)


def _finished(out: Path) -> dict[Path, int]:
    """Clips that stand, and when each was written."""
    return {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")}


@pytest.fixture(scope="module")
def many(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight copies of the usable video, and two that are rejected."""
    root = tmp_path_factory.mktemp("many")
    for number in range(8):
        (root / f"s{number}").mkdir()
        shutil.copy2(videos / REAL, root / f"s{number}" / "talk.mp4")
    for name in ("no_sound.mp4", "broken.mp4"):
        shutil.copy2(videos / "bea" / name, root / "s3" / name)
    return root


@pytest.fixture(scope="module")
def undisturbed(many: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("undisturbed")
    prepare(find_sources("folder", many), out, PrepareSettings(face_size=64), root=many, workers=0, progress=False)
    found = files(out)
    assert len(found) == 9
    return found


def _kill_and_go_on(many: Path, out: Path, undisturbed: dict[str, bytes], until: Callable[[], bool]) -> int:
    """Kill a run as soon as `until` is true, go on, and compare; the clips that stood when it was killed."""
    process = _start(many, out)
    while process.poll() is None and not until():
        time.sleep(0.005)
    process.kill()
    process.communicate()
    stood = _finished(out)
    for path in stood:
        Clip.open(path).verify()  # whole, whenever the blow fell
    sources = find_sources("folder", many)
    report = prepare(sources, out, PrepareSettings(face_size=64), root=many, workers=0, progress=False)
    assert files(out) == undisturbed
    written = _finished(out)
    assert {path: written[path] for path in stood} == stood
    assert report.reused >= len(stood)
    assert report.prepared + report.reused == 8
    return len(stood)


@pytest.mark.slow
@pytest.mark.parametrize("clips", [0, 3])
def test_killed_and_run_again(many: Path, undisturbed: dict[str, bytes], tmp_path: Path, clips: int) -> None:
    """With worker processes, so that this shows as well that they give what one process gives."""
    folder = tmp_path / "clips"

    def enough() -> bool:
        return folder.is_dir() and len(list(folder.rglob("*.safetensors"))) >= clips

    assert _kill_and_go_on(many, tmp_path, undisturbed, enough) >= clips


class _Blow:
    """True some time after so many clips stand."""

    def __init__(self, out: Path, clips: int, delay_s: float) -> None:
        self._out, self._clips, self._delay_s = out, clips, delay_s
        self._due_s: float | None = None

    def __call__(self) -> bool:
        if self._due_s is None and len(_finished(self._out)) >= self._clips:
            self._due_s = time.monotonic() + self._delay_s
        return self._due_s is not None and time.monotonic() >= self._due_s


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_killed_at_random_points(many: Path, undisturbed: dict[str, bytes], tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    stood = []
    for number in range(8):
        out = tmp_path / str(number)
        blow = _Blow(out, clips=number, delay_s=rng.uniform(0, 0.5))
        stood.append(_kill_and_go_on(many, out, undisturbed, blow))
    assert len(set(stood)) > 3  # the blows did fall at different places


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_cluster_that_loses_a_machine(many: Path, undisturbed: dict[str, bytes], tmp_path: Path) -> None:
    """Two Ray nodes on this machine; one is killed when the first clips are done."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        node = cluster.add_node(num_cpus=1)
        lost = threading.Event()

        def lose() -> None:
            while len(_finished(tmp_path)) < 2:
                time.sleep(0.01)
            cluster.remove_node(node, allow_graceful=False)
            lost.set()

        thread = threading.Thread(target=lose, daemon=True)
        thread.start()
        settings = PrepareSettings(face_size=64)
        sources = find_sources("folder", many)
        report = prepare(sources, tmp_path, settings, root=many, ray=cluster.address, progress=False)
        assert lost.is_set()
        assert (report.prepared + report.reused, len(report.rejected)) == (8, 2)
        assert files(tmp_path) == undisturbed
    finally:
        cluster.shutdown()


def test_workers_that_stand_elsewhere_find_what_is_named_from_here(
    few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Elsewhere(InThisProcess):
        def run(self, function: Callable[[Any], Any], jobs: Any) -> Iterator[tuple[Any, Any]]:
            def there(job: Any) -> Any:
                with monkeypatch.context() as context:
                    context.chdir("/")
                    return function(job)

            return super().run(there, jobs)

    monkeypatch.setattr("stsa_lightning.data.prepare.make_workers", lambda *_, **__: Elsewhere())
    monkeypatch.chdir(tmp_path)
    out, settings = Path("out"), PrepareSettings(face_size=64)
    report = prepare(find_sources("folder", Path("few")), out, settings, root=Path("few"), limit=1, progress=False)
    assert report.prepared == 1
    assert (tmp_path / "out" / "clips" / "ann" / "talk.safetensors").is_file()


def test_two_runs_do_not_meet(few: Path, many: Path, tmp_path: Path) -> None:
    for name in (LOCK, HOLDER):
        (tmp_path / name).write_text("process 4711 on another")
    assert run(few, tmp_path, limit=1).prepared == 1  # files that a dead run left lock nothing
    process = _start(many, tmp_path / "out", workers=1)
    while not (tmp_path / "out" / HOLDER).is_file() or not (tmp_path / "out" / HOLDER).read_text():
        time.sleep(0.01)
    with pytest.raises(UserError, match=rf"another run prepares into this folder \(process {process.pid} on "):
        run(many, tmp_path / "out")
    process.send_signal(signal.SIGINT)
    _, said = process.communicate()
    assert b"KeyboardInterrupt" in said
    assert process.returncode != 0


def test_a_worker_that_dies(few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It costs its clip alone, and the next run tries again."""
    dying = few / "bea" / "talk.mp4"

    def died(_: object, function: Callable[[Job], object], jobs: list[Job]) -> Iterator[tuple[Job, object]]:
        for job in jobs:
            if job.source.path == dying:
                (clip_path(tmp_path / "out", "ann/talk").parent / "half.safetensors.part-4711").write_bytes(b"half")
                yield job, WorkerDied("its worker was ended by SIGSEGV")
            else:
                yield job, function(job)

    with monkeypatch.context() as patch:
        patch.setattr("stsa_lightning.data.workers.InThisProcess.run", died)
        report = run(few, tmp_path / "out")
    assert report.rejected == [("bea/talk.mp4", "its worker was ended by SIGSEGV")]
    assert not list((tmp_path / "out").rglob("*.part-*"))
    assert load_index(tmp_path / "out")["status"].tolist() == ["ok", "rejected", "ok"]
    again = run(few, tmp_path / "out")
    assert (again.prepared, again.reused, again.rejected) == (1, 2, [])


@pytest.mark.slow
def test_a_full_disk_stops_the_run(few: Path, tmp_path: Path) -> None:
    """By a limit on the size of a file, which fails as a full disk does, in the workers' own writing."""
    out = tmp_path / "out"
    assert run(few, out, limit=1).prepared == 1
    before = files(out)
    size = clip_path(out, "ann/talk").stat().st_size
    code = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({size // 2}, {size // 2}))\n"
    settings = "PrepareSettings(face_size=64, features=('logmel', 'mfcc'), sync='none')"
    arguments = [sys.executable, "-c", code + PROGRAM.replace("PrepareSettings(face_size=64)", settings)]
    done = subprocess.run([*arguments, str(few), str(out), "1"], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert f"WriteError: {out}: cannot write" in done.stderr
    assert "make room, and run the same command again" in done.stderr
    assert {name: data for name, data in files(out).items() if name != JOURNAL} == before  # nothing half-written
    assert run(few, out).prepared == 2


# ------------------------------------------------------------------------------------------------------------ bad input


def test_reasons_that_a_user_needs(few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "bad"
    root.mkdir()
    whole = (few / "ann" / "talk.mp4").read_bytes()
    frames = np.full((40, 64, 64, 3), 90, np.uint8)
    _write(root / "silent.mp4", frames, np.zeros(25600, np.float32))
    _write(root / "no_samples.mp4", frames, np.zeros(0, np.float32))
    (root / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    (root / "empty.mp4").write_bytes(b"")
    shutil.copy2(few / "ann" / "talk.mp4", root / "locked.mp4")
    opened = av.open

    def forbidding(file: str, *arguments: object, **options: object) -> object:
        if "locked" in str(file):
            raise av.error.PermissionError(13, "Permission denied", str(file))
        return opened(file, *arguments, **options)

    monkeypatch.setattr(av, "open", forbidding)
    reasons = dict(run(root, tmp_path / "out").rejected)
    assert reasons["silent.mp4"] == "its sound is silent throughout"
    assert "has no sound" in reasons["no_samples.mp4"] or "decodes no samples" in reasons["no_samples.mp4"]
    assert "states" in reasons["cut.mp4"]
    assert "cut short" in reasons["cut.mp4"]
    assert reasons["empty.mp4"] == "is empty (0 bytes)"
    assert reasons["locked.mp4"] == "may not be read (Permission denied); change its permissions"
    assert str(tmp_path) not in "".join(reasons.values())


def test_reasons_of_real_bad_clips(corpus: Path, tmp_path: Path) -> None:
    for name in ("noaudio_expr_01", "noface_noaudio_01", "silent_track_01"):
        (tmp_path / "bad").mkdir(exist_ok=True)
        shutil.copy(corpus / "hard" / f"{name}.mp4", tmp_path / "bad")
    assert dict(run(tmp_path / "bad", tmp_path / "out").rejected) == {
        "noaudio_expr_01.mp4": "has no sound",
        "noface_noaudio_01.mp4": "has no sound",
        "silent_track_01.mp4": "its sound is silent throughout",
    }


def test_an_unforeseen_error_costs_one_video(few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    probe = extract.probe

    def fail(path: Path) -> object:
        if path.parent.name == "bea":
            raise KeyError("surprise")
        return probe(path)

    monkeypatch.setattr(extract, "probe", fail)
    report = run(few, tmp_path / "out")
    ((name, reason),) = report.rejected
    assert name == "bea/talk.mp4"
    assert reason.startswith("cannot be read as video with sound: it is damaged")
    assert "surprise" not in reason
    assert report.prepared == 2


# ------------------------------------------------------------------------------------------------ parts, sync, settings


def test_a_part_of_a_video(videos: Path, tmp_path: Path) -> None:
    """The same faces and the same sound as the whole's, from the part's beginning on; a crop moves the landmarks."""
    whole = next(source for source in find_sources("folder", videos) if source.clip == "ann/talk")
    part = replace(whole, clip="ann/part", start_s=0.4, stop_s=1.6, crop=(20, 10, 180, 190))
    settings = PrepareSettings(face_size=64, min_frames=10, sync="none")
    prepare([whole, part], tmp_path, settings, root=videos, workers=0, progress=False)
    a, b = (Clip.open(clip_path(tmp_path, clip)) for clip in ("ann/talk", "ann/part"))
    assert b.frames == 30
    assert load_index(tmp_path)["part"].tolist() == ["0.4-1.6 s, 180x190+20+10", ""]
    both = np.flatnonzero(b.valid & a.valid[10:40])
    assert len(both) >= 18
    difference = b.landmarks[both] + [20, 10] - a.landmarks[10 + both]
    assert np.median(np.linalg.norm(difference, axis=-1)) < 1.5
    np.testing.assert_allclose(b.audio[200:], a.audio[6600 : 6400 + len(b.audio)], atol=600)
    assert len(b.audio) == 30 * 640


def test_a_wrong_offset_is_corrected(few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extract, "_aperture_reading", lambda *_: SyncReading(-5.0, 9.9, "lip_aperture"))
    source = find_sources("folder", few)[:1]
    sounds = []
    for correct in (False, True):
        out = tmp_path / str(correct)
        prepare(source, out, PrepareSettings(correct_sync=correct), root=few, workers=0, progress=False)
        row = load_index(out).iloc[0]
        assert (row["sync_offset"], row["sync_method"], row["sync_shift"]) == (-5, "lip_aperture", -5 if correct else 0)
        sounds.append(Clip.open(clip_path(out, "ann/talk")).audio)
    np.testing.assert_array_equal(sounds[1][: -5 * 640], sounds[0][5 * 640 :])
    assert not sounds[1][-5 * 640 :].any()


def test_syncnet_is_given_every_frame_in_blocks(few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[tuple[int, int]] = []

    class Meter:
        def __init__(self, face: object) -> None: ...

        def update(self, block: np.ndarray, number: int) -> None:
            given.append((number, len(block)))

        def finish(self, wave: np.ndarray) -> SyncReading:
            return SyncReading(-5.0, 9.9, "syncnet")

    monkeypatch.setattr(extract, "_SyncNet", Meter)
    monkeypatch.setattr(extract, "_BLOCK_BYTES", 20 * 224 * 224 * 3)
    source = find_sources("folder", few)[0]
    meta = extract.prepare_clip(source, tmp_path, replace(SETTINGS, sync="syncnet"))
    assert given == [(0, 20), (20, meta.frames - 20)]
    assert (meta.measures["sync_method"], meta.measures["sync_shift"]) == ("syncnet", -5)


@pytest.mark.parametrize("at_once", [1, 1000])
def test_large_frames_and_small_ones_go_the_same_way(
    few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    """However many are decoded at once, and where of those that wait the faces' surroundings alone are kept."""
    run(few, tmp_path / "small", limit=1)
    monkeypatch.setattr(extract, "_AT_ONCE", at_once)
    monkeypatch.setattr(face_cutter, "_WHOLE_BYTES", 0)
    run(few, tmp_path / "large", limit=1)
    assert files(tmp_path / "small") == files(tmp_path / "large")


def test_a_video_is_decoded_once(few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, frames = [], VideoStream.frames

    def counting(self: VideoStream) -> object:
        begun.append(self.path)
        return frames(self)

    monkeypatch.setattr(VideoStream, "frames", counting)
    run(few, tmp_path, replace(SETTINGS, sync="lip_aperture"), limit=1)
    assert begun == [few / "ann" / "talk.mp4"]


def test_limit(few: Path, tmp_path: Path) -> None:
    assert run(few, tmp_path / "out", limit=1).prepared == 1
    assert load_index(tmp_path / "out")["clip"].tolist() == ["ann/talk"]


def test_settings() -> None:
    assert PrepareSettings().hash == PrepareSettings().hash != SETTINGS.hash
    assert PrepareSettings(landmark_model="a/x.task").hash == PrepareSettings(landmark_model="b/x.task").hash
    assert PrepareSettings(landmark_model="x.task").hash != PrepareSettings().hash
    with pytest.raises(UserError, match="face_size must be 16 or more, got 8"):
        PrepareSettings(face_size=8)
    with pytest.raises(UserError, match=r"features: expected one or more of .*got \['loud'\]"):
        PrepareSettings(features=("loud",))


def test_the_rendered_sample(prepared_sample: Path) -> None:
    """Everywhere, also where no real clips are: a rendered face is found in nearly every frame."""
    index = load_index(prepared_sample)
    assert index["status"].tolist() == ["ok"] * 3
    assert index["frames"].tolist() == [50] * 3
    assert (index["valid_frames"] >= 45).all()
    assert index["speaker"].is_unique
    item = WindowDataset(prepared_sample, index["clip"].tolist(), num_references=2)[0]
    assert item["faces"].shape == (5, 3, 128, 128)
    assert item["faces"].float().std() > 0.05 * 255


def test_a_worker_does_without_torch() -> None:
    """Half a gigabyte in each process."""
    code = (
        "import sys; from stsa_lightning.data.extract import PrepareSettings, prepare_clip; "
        "PrepareSettings().resolved(); sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
