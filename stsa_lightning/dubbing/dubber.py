"""Video + speech -> dubbed video, streaming: a bounded number of frames in memory, whatever the length.

Two passes over the video. The first finds the face in every frame (131 points a frame are kept); references are chosen
from it. The second redraws the faces block by block. A frame without a face passes through unchanged.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from rich.progress import Progress

from stsa_lightning.audio import (
    FEATURE_DIMS,
    SAMPLE_RATE_HZ,
    AudioFeatures,
    audio_features,
    load_audio,
    native_sample_rate,
)
from stsa_lightning.dubbing.draw import choose_device
from stsa_lightning.dubbing.faces import Faces, find_faces
from stsa_lightning.dubbing.report import DubError, DubReport
from stsa_lightning.dubbing.scene import Scene, block_size
from stsa_lightning.dubbing.schedule import Schedule, ping_pong
from stsa_lightning.face.landmarks import LandmarkDetector, landmark_detector
from stsa_lightning.nets.checkpoint import load_networks
from stsa_lightning.nets.guidance import Guidance
from stsa_lightning.nets.synthesis import Synthesis
from stsa_lightning.video import AAC_RATES_HZ, VideoReader, VideoWriter, check_output

REFERENCE_SECONDS = 10.0  # references come from this much of the video at least, even if the speech is shorter


class Dubber:
    """Redraws the mouth of a video so that it says new speech (STSA, section 4 of the method).

    Args:
        guidance, synthesis: the trained networks; put into eval mode and onto `device`.
        features: what both were trained to hear.
        window: frames of a guidance window, odd.
        sigma: width of the heatmaps' ridges that the networks were trained on, pixels.
        block: frames per batch.
        detector: finds faces; None makes a fresh FaceMesh tracker for each video.
        device: "cpu", "cuda", "cuda:1", "mps", or "auto" for the best there is.

    Raises:
        DubError: networks and features of different sizes.
    """

    def __init__(
        self,
        guidance: Guidance,
        synthesis: Synthesis,
        features: AudioFeatures,
        *,
        window: int = 5,
        sigma: float = 1.0,
        block: int = 32,
        detector: LandmarkDetector | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        for name in ("audio_dim", "face_size"):
            mine, theirs = getattr(guidance, name), getattr(synthesis, name)
            if mine != theirs:
                raise DubError(
                    f"the two networks do not belong together: {name} is {mine} in guidance, {theirs} in synthesis"
                )
        if features.dim != guidance.audio_dim:
            kinds = [kind for kind, dim in FEATURE_DIMS.items() if dim == guidance.audio_dim]
            raise DubError(
                f"the networks hear {guidance.audio_dim} audio features a step{f' ({kinds[0]})' if kinds else ''}, "
                f"got {features.kind} with {features.dim}"
            )
        if window < 1 or window % 2 == 0 or block < 1:
            raise DubError(f"window must be odd and block at least 1, got window {window}, block {block}")
        self.device = choose_device(device)
        self.guidance, self.synthesis = guidance.eval().to(self.device), synthesis.eval().to(self.device)
        self.features, self.window, self.sigma = features, window, sigma
        self.block, self.detector = block, detector

    @classmethod
    def from_checkpoint(
        cls,
        path: str | Path,
        device: str | torch.device = "cpu",
        detector: LandmarkDetector | None = None,
        block: int = 32,
    ) -> Dubber:
        """A dubber from a ``.safetensors`` export or a training checkpoint (``.ckpt``).

        Raises:
            FileNotFoundError, UserError: the file is missing, damaged or holds something else.
        """
        guidance, synthesis, meta = load_networks(path)
        options = {"device": str(choose_device(device))} if meta["features"] == "wav2vec2" else {}
        features = audio_features(meta["features"], **options)
        window, sigma = int(meta["window"]), float(meta.get("sigma", 1.0))
        return cls(
            guidance,
            synthesis,
            features,
            window=window,
            sigma=sigma,
            block=block,
            detector=detector,
            device=device,
        )

    def dub(self, video: str | Path, audio: str | Path, out: str | Path, progress: bool = True) -> DubReport:
        """Dub one video.

        The result has the video's own frame rate and size, and the speech's length: a longer speech has the video run
        forward and backward, a shorter one ends it early.

        Args:
            video: a face; any frame rate (also a varying one) and size. Its own sound is not used.
            audio: the new speech: a sound file, or a video whose sound is taken.
            out: .mp4, .mov or .mkv in a folder that exists; replaced only once the new one is complete.
            progress: show a progress bar.

        Raises:
            FileNotFoundError: no such video, audio or output folder.
            VideoError, AudioError: a file that cannot be read; audio without sound.
            DubError: no frame has a face; the output is one of the inputs.
        """
        began, out = time.monotonic(), Path(out)
        if out.resolve() in (Path(video).resolve(), Path(audio).resolve()):
            raise DubError(f"{out}: is an input; choose another name for the result")
        with VideoReader(video) as reader, Progress(disable=not progress, transient=True) as bars:
            size = (reader.info.width, reader.info.height)
            check_output(out, reader.fps, size, None, SAMPLE_RATE_HZ)
            wave = load_audio(audio)
            sound, rate_hz = _sound(audio, wave)
            schedule = ping_pong(reader.timestamps_s, float(reader.fps), len(wave) / SAMPLE_RATE_HZ)
            faces = self._find_faces(reader, schedule, bars)
            scene = Scene(self, reader, faces, schedule, self.features(wave))
            with VideoWriter(
                out, reader.fps, size, sound, rate_hz, timestamps=_varying(schedule, reader.fps)
            ) as writer:
                for frames in bars.track(scene.blocks(), scene.block_count, description="redrawing"):
                    writer.write(frames)
        redrawn = int(faces.valid[schedule.source].sum())
        elapsed_s = time.monotonic() - began
        return DubReport(out, writer.frames, redrawn, len(wave) / SAMPLE_RATE_HZ, reader.fps, *size, elapsed_s)

    def _find_faces(self, reader: VideoReader, schedule: Schedule, bars: Progress) -> Faces:
        """Faces of the frames that are shown, and of as many more as references are chosen from."""
        enough = int(np.searchsorted(reader.timestamps_s, REFERENCE_SECONDS))
        count = max(int(schedule.source.max()) + 1, min(len(reader), enough))
        size = (reader.info.width, reader.info.height)
        step = block_size(self.block, size)
        blocks = (reader.get(range(i, min(i + step, count))) for i in range(0, count, step))
        frames = (frame for block in blocks for frame in block)
        with self._detector() as detector:
            faces = find_faces(bars.track(frames, count, description="finding the face"), size, detector)
        if not faces.valid.any():
            raise DubError(f"{reader.info.path}: no face was found in any of {count} frames; there is nothing to dub")
        return faces

    @contextmanager
    def _detector(self) -> Iterator[LandmarkDetector]:
        if self.detector is not None:
            yield self.detector
            return
        detector = landmark_detector()
        try:
            yield detector
        finally:
            detector.close()


def _sound(path: str | Path, wave: np.ndarray) -> tuple[np.ndarray, int]:
    """The speech at its own rate where AAC knows that rate, for the result's sound track."""
    rate_hz = native_sample_rate(path)
    rate_hz = rate_hz if rate_hz in AAC_RATES_HZ else 48_000
    return (wave if rate_hz == SAMPLE_RATE_HZ else load_audio(path, rate_hz)), rate_hz


def _varying(schedule: Schedule, fps: Fraction) -> np.ndarray | None:
    """The schedule's time stamps, None where they are those of an even rate."""
    even = np.arange(len(schedule.times_s)) / float(fps)
    return None if np.abs(schedule.times_s - even).max() < 1e-3 else schedule.times_s
