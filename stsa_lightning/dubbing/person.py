"""A prepared person: what their video alone decides, computed once for any number of dubs and live streams."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from stsa_lightning.constants import SAMPLE_RATE_HZ
from stsa_lightning.dubbing.face_track import Faces
from stsa_lightning.dubbing.live import Stream, turns
from stsa_lightning.dubbing.person_file import write_person
from stsa_lightning.dubbing.render_config import RenderConfig
from stsa_lightning.dubbing.renderer import Renderer
from stsa_lightning.dubbing.report import DubError
from stsa_lightning.dubbing.shot_references import VideoReferences
from stsa_lightning.dubbing.timeline import Timeline
from stsa_lightning.face.check import ResultCheck
from stsa_lightning.features.base import AudioFeatures
from stsa_lightning.inference.engine import Engine
from stsa_lightning.media.video_source import KnownFrames


class Person:
    """Made by `Dubber.prepare` or `Dubber.load_person`, for that dubber; a context manager.

    Args:
        engine, config, features: the dubber's.
        video: the frames: of a video, or of the person's file.
        faces: of the frames.
        result_check: makes a check of generated faces, or None.
        opened: what is closed with this, such as the video.
    """

    def __init__(
        self,
        engine: Engine,
        config: RenderConfig,
        features: AudioFeatures,
        video: KnownFrames,
        faces: Faces,
        result_check: Callable[[], ResultCheck | None],
        opened: ExitStack,
    ) -> None:
        self.engine, self.video, self.faces = engine, video, faces
        self._config, self._features, self._result_check, self._opened = config, features, result_check, opened
        self.references = VideoReferences(engine, config, video, faces)

    def stream(self, rate_hz: int = SAMPLE_RATE_HZ) -> Stream:
        """Speak live; several streams of a person may run at once.

        Args:
            rate_hz: of the speech that will be pushed, and of the frames' sound, which is the same.

        Raises:
            DubError: a rate that is no multiple of 25, or below 8000.
        """
        schedule = turns(self.video.times_s[: len(self.faces.valid)], self.video.rate)
        timeline = Timeline(self._features, rate_hz, len(schedule))
        self.references(int(self.faces.shots[0]))  # what takes a second is done before the first frame
        given = self.engine, self._config, self.video, self.faces, schedule, timeline
        return Stream(Renderer(*given, check=self._result_check(), references=self.references), timeline)

    def save(self, path: str | Path) -> Path:
        """Write what is known of the person, and the frames, for `Dubber.load_person`, which does not need the video.

        The file appears whole or not at all. It is a safetensors file, which holds no code.

        Raises:
            FileNotFoundError: no such folder.
            DubError: the file is the person's own.
        """
        path = Path(path)
        if not path.parent.is_dir():
            raise FileNotFoundError(f"{path.parent}: no such folder")
        if path.resolve() == self.video.path.resolve():
            raise DubError(f"{path}: is what the person was made from; choose another name")
        frames = self.video.again()
        try:
            return write_person(path, frames, self.faces)
        finally:
            frames.close()

    def close(self) -> None:
        """Close the video; streams go first."""
        self.references.close()
        self._opened.close()

    def __enter__(self) -> Person:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
