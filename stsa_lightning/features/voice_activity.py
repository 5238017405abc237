"""Where a voice speaks, whatever else is heard and however loud it is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from stsa_lightning.features.base import HOP, SPAN
from stsa_lightning.utils.disk_array import DiskArray
from stsa_lightning.utils.onnx_session import onnx_session

DETECTOR = Path(__file__).parents[1] / "assets" / "silero_vad" / "voice_activity.onnx"
_FRAME, _BEFORE = 512, 64  # samples of a frame at 16 kHz, and of what it is given of the one before
_BLOCK = 512  # frames in one call
_STATE = 128


def voice_probability(wave: DiskArray | np.ndarray) -> np.ndarray:
    """How sure Silero VAD (MIT) is that somebody speaks: (samples,) at 16 kHz -> (steps,) in [0, 1] at 50 Hz.

    Its frames of 32 ms are interpolated to the steps of the audio features. It listens from the beginning on; memory
    does not grow with the sound.
    """
    found = np.concatenate([np.zeros(0, np.float32), *_frames(wave)])
    if not len(found):
        return found
    centres = np.arange(-(-len(wave) // HOP)) * HOP + SPAN / 2
    return np.interp(centres, (np.arange(len(found)) + 0.5) * _FRAME, found).astype(np.float32)


def _frames(wave: DiskArray | np.ndarray) -> Iterator[np.ndarray]:
    """Probabilities frame by frame, a block at a time."""
    session = onnx_session(DETECTOR)
    before, state = np.zeros(_BEFORE, np.float32), [np.zeros((1, 1, _STATE), np.float32)] * 2
    for start in range(0, len(wave), _BLOCK * _FRAME):
        piece = np.asarray(wave[start : start + _BLOCK * _FRAME], np.float32)
        piece = np.concatenate([before, np.pad(piece, (0, -len(piece) % _FRAME))])
        heard = np.lib.stride_tricks.sliding_window_view(piece, _BEFORE + _FRAME)[::_FRAME]
        found, *state = session.run(None, {"input": np.ascontiguousarray(heard), "h": state[0], "c": state[1]})
        before = piece[-_BEFORE:]
        yield found
