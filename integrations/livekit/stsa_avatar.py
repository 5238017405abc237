# Copyright 2025 the stsa_lightning authors. Licensed under the Apache License, Version 2.0; see LICENSE.
"""A prepared person as the video generator of a LiveKit avatar: `AvatarRunner(room, audio_recv=..., video_gen=...)`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import cv2
import numpy as np
from livekit import rtc
from livekit.agents.voice.avatar import AudioSegmentEnd, AvatarOptions, VideoGenerator

from stsa_lightning.dubbing import LiveFrame, Person


class STSAVideoGenerator(VideoGenerator):
    """Who says what the agent says. The runner's synchroniser sets the pace; frames are rendered in a thread.

    Args:
        person: of `Dubber.prepare` or `Dubber.load_person`.
        rate_hz: of the agent's speech, mono.
    """

    def __init__(self, person: Person, rate_hz: int = 24_000) -> None:
        self._stream, self._rate_hz = person.stream(rate_hz), rate_hz
        width, height = person.video.size
        self.options = AvatarOptions(
            video_width=width, video_height=height, video_fps=25, audio_sample_rate=rate_hz, audio_channels=1
        )

    async def push_audio(self, frame: rtc.AudioFrame | AudioSegmentEnd) -> None:
        if isinstance(frame, AudioSegmentEnd):
            self._stream.end()
        elif (frame.sample_rate, frame.num_channels) != (self._rate_hz, 1):
            raise ValueError(
                f"expected mono speech at {self._rate_hz} Hz, got {frame.num_channels} channels at {frame.sample_rate}"
            )
        else:
            self._stream.push(np.frombuffer(frame.data, np.int16))

    def clear_buffer(self) -> None:
        self._stream.clear()

    async def __aiter__(self) -> AsyncIterator[rtc.VideoFrame | rtc.AudioFrame | AudioSegmentEnd]:
        while (frame := await asyncio.to_thread(next, self._stream, None)) is not None:
            yield _picture(frame)
            if frame.speaking:  # the runner counts sound as played speech, so silence is not sent
                yield _sound(frame, self._rate_hz)
            if frame.last:
                yield AudioSegmentEnd()

    async def aclose(self) -> None:
        """End the stream."""
        self._stream.close()


def _picture(frame: LiveFrame) -> rtc.VideoFrame:
    height, width = frame.picture.shape[:2]
    data = cv2.cvtColor(frame.picture, cv2.COLOR_RGB2RGBA).tobytes()
    return rtc.VideoFrame(width, height, rtc.VideoBufferType.RGBA, data)


def _sound(frame: LiveFrame, rate_hz: int) -> rtc.AudioFrame:
    samples = np.round(np.clip(frame.sound, -1, 1) * 32767).astype(np.int16)
    return rtc.AudioFrame(samples.tobytes(), rate_hz, 1, len(samples))
