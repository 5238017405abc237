"""Features of wav2vec 2.0, the paper's, in chunks: memory does not grow with the sound's length."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import numpy as np

from stsa_lightning.features.base import FEATURE_RATE_HZ, AudioFeatures, samples_of, steps_of
from stsa_lightning.media.audio import AudioError, checked_wave
from stsa_lightning.utils.errors import required


class Wav2Vec2(AudioFeatures):
    """Last hidden state of wav2vec 2.0 (768-d for base-960h; the paper's features).

    Up to `whole_s` seconds go through the network at once. Longer sound is cut into overlapping chunks of `chunk_s`;
    the outer half of each overlap is thrown away, so memory does not grow with length. Chunks do not give exactly what
    the whole gives, as the network normalises over time and attends to everything it hears: with random weights the
    difference is about 6 % (root mean square, relative) for one minute of speech.

    Args:
        model: name on the Hugging Face hub, or a local folder.
        chunk_s: length of a chunk, seconds.
        overlap_s: what neighbouring chunks share, seconds; less than `chunk_s`.
        whole_s: the longest sound taken at once, seconds.
        device: where the network runs; "auto": on a GPU where there is one.
        batch: chunks that go through the network together; None: 8 on a GPU, 1 else.
    """

    kind = "wav2vec2"

    def __init__(
        self,
        model: str | Path = "facebook/wav2vec2-base-960h",
        chunk_s: float = 20.0,
        overlap_s: float = 4.0,
        whole_s: float = 60.0,
        device: str = "auto",
        batch: int | None = None,
    ) -> None:
        import torch

        if not 0 <= overlap_s < chunk_s:
            raise ValueError(f"overlap_s must lie in [0, chunk_s = {chunk_s}), got {overlap_s}")
        self.chunk, self.overlap, self.whole = (round(s * FEATURE_RATE_HZ) for s in (chunk_s, overlap_s, whole_s))
        if self.chunk - self.overlap < 2:
            raise ValueError(f"chunk_s must exceed overlap_s by 0.04 s at least, got {chunk_s} and {overlap_s}")
        self.device = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        self.batch = batch or (1 if self.device == "cpu" else 8)
        self.network = _load_wav2vec2(str(model)).to(self.device)
        self.dim = int(self.network.config.hidden_size)

    def chunks(self, wave: np.ndarray) -> Iterator[np.ndarray]:
        """See `AudioFeatures.chunks`."""
        steps = steps_of(checked_wave(wave, "wave"))
        mean, scale = _level(wave)  # the network's own processor normalises all of a wave

        def level(first: int, last: int) -> np.ndarray:
            return (samples_of(wave, first, last, fill=mean) - mean) / scale

        margin, stride = self.overlap // 2, self.chunk - self.overlap
        if steps <= self.whole:
            stride, margin = steps, 0
        # Of steps first ... last - 1 those from `start` to `stop` - 1 are used.
        spans = [
            (start, min(start + stride, steps), max(0, start - margin), min(steps, start + stride + margin))
            for start in range(0, steps, stride)
        ]
        for _, alike in groupby(spans, key=lambda span: span[3] - span[2]):
            while batch := list(islice(alike, self.batch)):
                rows = self._run(np.stack([level(first, last) for _, _, first, last in batch]))
                for row, (start, stop, first, _) in zip(rows, batch, strict=True):
                    yield row[start - first : stop - first]

    def _run(self, waves: np.ndarray) -> np.ndarray:
        """(B, samples) -> (B, steps, dim), each as the network sees it when it is given this alone."""
        import torch

        with torch.inference_mode():
            hidden = self.network(torch.from_numpy(waves).to(self.device)).last_hidden_state
        return hidden.float().cpu().numpy()


def _load_wav2vec2(model: str) -> Any:
    hub = required("transformers", "wav2vec2 features need transformers: pip install 'stsa-lightning[wav2vec]'")
    try:
        network = hub.Wav2Vec2Model.from_pretrained(model)
    except (OSError, ValueError) as error:
        raise AudioError(
            f"wav2vec2 weights {model!r} cannot be loaded: they are neither a local folder, nor in the Hugging Face "
            "cache, nor reachable on the hub. Go online once, or give `model` a folder that holds config.json and the "
            f"weights. ({error})"
        ) from error
    return network.eval().requires_grad_(False)


def _level(wave: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation of a wave, a minute at a time."""
    pieces = [slice(i, i + 960_000) for i in range(0, len(wave), 960_000)]
    mean = sum(float(wave[piece].sum(dtype=np.float64)) for piece in pieces) / len(wave)
    square = sum(float(np.square(wave[piece] - mean, dtype=np.float64).sum()) for piece in pieces) / len(wave)
    return mean, math.sqrt(square + 1e-7)
