# Copyright 2025 the stsa_lightning authors. Licensed under the Apache License, Version 2.0; see LICENSE.
"""An avatar of LiveTalking: this file goes into its folder `avatars/`, a person into `data/avatars/ID.person`."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from avatars.base_avatar import BaseAvatar
from registry import register

from stsa_lightning.dubbing import Dubber, LiveFrame, Person, paced
from stsa_lightning.models import BUNDLED

_CHUNK = 320  # samples of 20 ms at 16 kHz, as LiveTalking counts


def load_model(path: str | Path = BUNDLED) -> Dubber:
    """The networks, once for all sessions."""
    return Dubber.from_checkpoint(path, device="auto")


def load_avatar(avatar_id: str, dubber: Dubber | None = None) -> Path:
    """Where a person lies: it is opened for the networks of a session."""
    return Path("data/avatars") / f"{avatar_id}.person"


def warm_up(*_: Any) -> None:
    """A stream warms itself up."""


@register("avatar", "stsa")
class STSAAvatar(BaseAvatar):
    """Says what the session's speech synthesis gives, chunk by chunk."""

    def __init__(self, opt: Any, model: Dubber, avatar: Path) -> None:
        super().__init__(opt)
        self.person: Person = model.load_person(avatar)
        self.stream = self.person.stream(16_000)
        self._events: list[dict] = []

    def put_audio_frame(self, audio_chunk: np.ndarray, datainfo: dict | None = None) -> None:
        self.stream.push(audio_chunk)
        if datainfo and datainfo.get("status"):
            self._events.append(datainfo)
        if datainfo and datainfo.get("status") == "end":
            self.stream.end()

    def flush_talk(self) -> None:
        super().flush_talk()
        self._events.clear()
        self.stream.clear()

    def render(self, quit_event: Any) -> None:
        self.quit_event = quit_event
        self.tts.render(quit_event)
        self.output.start()
        with self.person, self.stream:
            for frame in paced(self.stream):
                if quit_event.is_set():
                    break
                self._show(frame)
        self.output.stop()

    def _show(self, frame: LiveFrame) -> None:
        self.speaking = frame.speaking
        picture = cv2.cvtColor(frame.picture, cv2.COLOR_RGB2BGR)
        self.output.push_video_frame(picture)
        self.record_video_data(picture)
        samples = np.round(np.clip(frame.sound, -1, 1) * 32767).astype(np.int16)
        for number, chunk in zip(count(), samples.reshape(-1, _CHUNK)):
            event = self._events.pop(0) if self._events and self._due(frame, number) else {}
            self.output.push_audio_frame(chunk, event)
            self.record_audio_data(chunk)

    def _due(self, frame: LiveFrame, number: int) -> bool:
        """Whether the event that comes next is that of a chunk: a start with the first sound, an end with the last."""
        if self._events[0]["status"] == "start":
            return frame.speaking
        return frame.last and number == 1
