# Copyright 2025 the stsa_lightning authors. Licensed under the Apache License, Version 2.0; see LICENSE.
"""A prepared person in a Pipecat pipeline: put it between the speech synthesis and the transport's output."""

from __future__ import annotations

import asyncio
import time

import numpy as np
from pipecat.frames.frames import (
    CancelFrame,
    EndFrame,
    Frame,
    InterruptionFrame,
    OutputImageRawFrame,
    StartFrame,
    TTSAudioRawFrame,
    TTSStoppedFrame,
)
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor

from stsa_lightning.dubbing import LiveFrame, Person


class STSAAvatar(FrameProcessor):
    """Holds speech back until its frames are rendered, and gives both on, picture by picture, as their time comes.

    Args:
        person: of `Dubber.prepare` or `Dubber.load_person`.
        rate_hz: of the speech, mono.
    """

    def __init__(self, person: Person, rate_hz: int = 24_000) -> None:
        super().__init__()
        self._stream, self._rate_hz = person.stream(rate_hz), rate_hz
        self._task: asyncio.Task | None = None
        self._heard, self._stopped = False, list[TTSStoppedFrame]()  # ends that wait until their speech is said

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        if isinstance(frame, TTSAudioRawFrame):
            self._hear(frame)
            return
        if isinstance(frame, StartFrame):
            await self.push_frame(frame, direction)
            self._task = self.create_task(self._show())
            return
        if isinstance(frame, TTSStoppedFrame):
            self._stream.end()
            if self._heard:
                self._heard = False
                self._stopped.append(frame)
                return
        elif isinstance(frame, InterruptionFrame):
            self._heard = False
            self._stopped.clear()
            self._stream.clear()
        elif isinstance(frame, EndFrame):
            await self._finish(said=True)
        elif isinstance(frame, CancelFrame):
            await self._finish(said=False)
        await self.push_frame(frame, direction)

    def _hear(self, frame: TTSAudioRawFrame) -> None:
        if (frame.sample_rate, frame.num_channels) != (self._rate_hz, 1):
            raise ValueError(
                f"expected mono speech at {self._rate_hz} Hz, got {frame.num_channels} channels at {frame.sample_rate}"
            )
        self._heard = True
        self._stream.push(np.frombuffer(frame.audio, np.int16))

    async def _show(self) -> None:
        begun_s = time.monotonic()
        while (frame := await asyncio.to_thread(next, self._stream, None)) is not None:
            await asyncio.sleep(max(0.0, begun_s + frame.time_s - time.monotonic()))
            await self._give_on(frame)

    async def _give_on(self, frame: LiveFrame) -> None:
        height, width = frame.picture.shape[:2]
        await self.push_frame(OutputImageRawFrame(image=frame.picture.tobytes(), size=(width, height), format="RGB"))
        if frame.speaking:
            samples = np.round(np.clip(frame.sound, -1, 1) * 32767).astype(np.int16)
            await self.push_frame(TTSAudioRawFrame(audio=samples.tobytes(), sample_rate=self._rate_hz, num_channels=1))
        if frame.last and self._stopped:
            await self.push_frame(self._stopped.pop(0))

    async def _finish(self, said: bool) -> None:
        """End the stream, where wanted when all is said."""
        self._stream.end()
        while said and self._task is not None and self._stream.busy:
            await asyncio.sleep(0.04)
        if self._task is not None:
            await self.cancel_task(self._task)
            self._task = None
        self._stream.close()
