"""A prepared corpus written directly, without videos: colours and features tell the frame they belong to."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from stsa_lightning.data.clip import ClipMeta, ClipWriter, encode_picture
from stsa_lightning.data.index import clip_path, empty_row, save_index
from stsa_lightning.face.topology import LANDMARKS

SIZE = 64


def landmarks_of(frame: int) -> np.ndarray:
    """(131, 2) pixels within the box 10, 20, 110, 120; the lips open with the number of the frame."""
    points = np.random.default_rng(frame).uniform((15, 25), (105, 115), (131, 2)).astype(np.float32)
    at = {int(i): p for p, i in enumerate(LANDMARKS)}
    points[at[0]] = (60, 50)
    points[at[17]] = (60, 50 + frame)
    return points


def face_of(frame: int) -> np.ndarray:
    """A face whose grey, 4 to a frame, says which frame it is; its left edge is white."""
    face = np.full((SIZE, SIZE, 3), 4 * frame, np.uint8)
    face[:, : SIZE // 4] = 255
    return face


def write_synthetic_clip(root: Path, clip: str, valid: np.ndarray, features: tuple[str, ...] = ("logmel",)) -> None:
    """A clip of up to 50 frames with these valid ones. Feature step k holds the value k + 1 throughout."""
    frames = len(valid)
    runs = "".join("x" if face else " " for face in valid).split()
    meta = ClipMeta(
        clip=clip,
        speaker=clip.split("/")[0],
        source=f"{clip}.mp4",
        source_sha256="",
        source_bytes=0,
        source_mtime_ns=0,
        source_fps=25.0,
        width=200,
        height=200,
        frames=frames,
        valid_frames=int(valid.sum()),
        longest_run=max(map(len, runs), default=0),
        face_size=SIZE,
        settings={"features": list(features)},
        settings_hash="",
    )
    steps = np.arange(1, 2 * frames + 1)[:, None]
    landmarks = np.stack([landmarks_of(i) if face else np.full((131, 2), np.nan) for i, face in enumerate(valid)])
    with ClipWriter(clip_path(root, clip)) as writer:
        for i, face in enumerate(valid):
            writer.face(encode_picture(face_of(i)) if face else b"")
        writer.frames(landmarks, np.where(valid[:, None], [10, 20, 110, 120], 0), valid)
        for kind in features:
            writer.features(kind, [steps.repeat({"logmel": 80, "mfcc": 13}[kind], axis=1)])
        writer.audio([np.zeros(frames * 640, np.int16)])
        writer.finish(meta)


def index_row(clip: str, **changes: object) -> dict[str, object]:
    """A line of the index for a clip of 30 frames."""
    numbers = {"frames": 30, "valid_frames": 30, "longest_run": 30, "duration_s": 1.2, "width": 200, "height": 200}
    row = {"clip": clip, "speaker": clip.split("/")[0], "source": f"{clip}.mp4", **numbers, "fps": 25.0}
    row |= {"features": "logmel", "status": "ok", "reason": "", "settings_hash": "s"}
    return {**empty_row(), **row, **changes}


def write_synthetic_corpus(root: Path, speakers: int = 5, clips: int = 2) -> None:
    """`speakers` x `clips` clips of 30 frames, all valid, and one rejected video."""
    names = [f"speaker{s}/clip{c}" for s in range(speakers) for c in range(clips)]
    for name in names:
        write_synthetic_clip(root, name, np.ones(30, bool))
    rejected = index_row("speaker0/silent", frames=0, features="", status="rejected", reason="has no sound")
    save_index(root, [*(index_row(name) for name in names), rejected])
