"""Both networks arranged for speed: what never changes is computed once, and nothing is computed that nobody sees.

Of guidance, each distinct frame is embedded once however many windows it is in, and only the centre of a window is
drawn. References are encoded once per shot; where they follow the frame's pose, for each frame anew. The rest is
:mod:`stsa_lightning.nets.inference`, and in the fast mode :mod:`stsa_lightning.nets.int8` on a processor, bfloat16 on a
GPU.
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, cast

import torch
from torch import Tensor, nn

from stsa_lightning.nets.guidance import Guidance
from stsa_lightning.nets.inference import PreparedSpatialPath, PreparedTemporalPath, for_inference
from stsa_lightning.nets.int8 import int8_is_fast, quantise
from stsa_lightning.nets.synthesis import References, Synthesis
from stsa_lightning.nets.winograd import with_winograd

Precision = Literal["exact", "fast"]

LEAST_PSNR_DB = 40.0  # below which the fast mode is given up
_CACHE_BYTES = 4 * 2**20
_GPU_BATCH = 32
_GUIDANCE_BATCH = 8  # frames; its maps are small
_CHECKS = 3  # sets of references whose first frame is drawn both ways
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EngineReferences:
    """What references alone decide: guidance's ``tokens`` (1, N, C), and the synthesis network's ``maps``; of networks
    whose references follow each frame's pose, ``seen``, M images and heatmaps to choose from, in place of these."""

    tokens: Tensor
    maps: References | None
    seen: tuple[Tensor, Tensor]


class RenderEngine:
    """Guidance and synthesis for the frames of a video.

    Args:
        guidance, synthesis: the networks; copied, not changed.
        precision: "exact" is float32 to about 1e-5 of the networks' own answer. "fast" is 8-bit integers where the
            processor is made for them, bfloat16 on a GPU, at 40 dB or more: the first frames are drawn both ways, and
            where they differ by more, all is drawn exactly from then on.
        device: where to compute.
    """

    def __init__(
        self,
        guidance: Guidance,
        synthesis: Synthesis,
        *,
        precision: Precision = "fast",
        device: str | torch.device = "cpu",
    ) -> None:
        if precision not in ("exact", "fast"):
            raise ValueError(f'precision must be "exact" or "fast", got {precision!r}')
        self.device = torch.device(device)
        self.batch = _batch_size(synthesis, self.device)
        on_cpu = self.device.type == "cpu"
        self.workers = _workers() if on_cpu else None
        self.guidance = for_inference(guidance).to(self.device)
        self.synthesis = for_inference(synthesis, shared=on_cpu and not synthesis.aligned).to(self.device)
        self.quick: Synthesis | None = None
        if precision == "fast" and on_cpu and int8_is_fast():
            self.quick = with_winograd(quantise_rendering(copy.deepcopy(self.synthesis)))
        elif precision == "fast" and self.device.type == "cuda":
            self.quick = self.synthesis
        if on_cpu:
            with_winograd(self.synthesis)
        self._checks = _CHECKS
        self._checked: EngineReferences | None = None

    @property
    def precision(self) -> Precision:
        """How the next frames will be drawn: "exact" also where the fast mode is not to be had or was given up."""
        return "exact" if self.quick is None else "fast"

    @torch.inference_mode()
    def encode(self, images: Tensor, heatmaps: Tensor) -> EngineReferences:
        """What references decide, once for all frames that use them.

        Args:
            images: (1, M, 3, S, S) in [0, 1]. The first N are what guidance looks at, and the synthesis network too
                where its references stay where they are (not ``aligned``).
            heatmaps: (1, M, 1, S, S), all contours.
        """
        seen = images.to(self.device), heatmaps.to(self.device)
        first = [maps[:, : self.synthesis.references] for maps in seen]
        maps = None if self.synthesis.aligned else self.synthesis.encode_references(*first)
        return EngineReferences(self.guidance.embed_references(first[1]), maps, seen)

    @torch.inference_mode()
    def render(
        self,
        masked: Tensor,
        contours: Tensor,
        audio: Tensor,
        references: EngineReferences,
        chosen: Tensor,
        places: Tensor,
    ) -> Tensor:
        """Faces of F frames.

        Args:
            masked: (F, 3, S, S) in [0, 1], lower half 0.
            contours: (F, T, 1, S, S) masked heatmaps of each frame's window.
            audio: (F, T, D, 10).
            references: from :meth:`encode`.
            chosen: (F, N) int64, which of the references each frame looks at.
            places: (F, N, 2, 3) where these are read for it. Networks not trained so (``aligned``) look at neither.

        Returns:
            (F, 3, S, S) in [0, 1], float32.
        """
        masked, contours, audio = (t.to(self.device) for t in (masked, contours, audio))
        heatmaps = self.draw_heatmaps(contours, audio, references.tokens)
        centre = audio[:, audio.shape[1] // 2]
        driving = masked, heatmaps, centre, chosen.to(self.device), places.to(self.device)
        if self.quick is not None and self._checks and references is not self._checked:
            self._check(references, *(given[:1] for given in driving))
        return self._draw(references, *driving)

    @torch.inference_mode()
    def heatmaps(self, contours: Tensor, audio: Tensor, references: EngineReferences) -> Tensor:
        """The heatmaps (F, 1, S, S) that :meth:`render` draws from."""
        return self.draw_heatmaps(contours.to(self.device), audio.to(self.device), references.tokens)

    def draw_heatmaps(self, contours: Tensor, audio: Tensor, tokens: Tensor) -> Tensor:
        """Driving heatmaps (F, 1, S, S) of the centres of F windows; see :meth:`render`."""
        window = audio.shape[:2]
        codes = (
            self._each_once(embed, rows.flatten(0, 1)).unflatten(0, window)
            for embed, rows in ((self.guidance.embed_masked, contours), (self.guidance.embed_audio, audio))
        )
        centre = window[1] // 2

        def draw(masked_codes: Tensor, audio_codes: Tensor, masked: Tensor) -> Tensor:
            lip, jaw = self.guidance.fusion(masked_codes, audio_codes, tokens.expand(len(masked), -1, -1))
            return self.guidance.draw(lip[:, centre], jaw[:, centre], masked)

        return self._side_by_side(draw, _GUIDANCE_BATCH, *codes, contours[:, centre])

    def _check(self, references: EngineReferences, *driving: Tensor) -> None:
        """Draw a frame both ways; give the fast one up where it is too far off."""
        self._checks, self._checked = self._checks - 1, references
        psnr = psnr_db(self._draw(references, *driving), self._face(self.synthesis, references, *driving))
        _log.info("fast mode: %.1f dB PSNR against exact", psnr)
        if psnr < LEAST_PSNR_DB:
            _log.warning("fast mode: %.1f dB PSNR against exact, less than %.0f: exact from here", psnr, LEAST_PSNR_DB)
            self.quick = None

    def _draw(self, references: EngineReferences, *driving: Tensor) -> Tensor:
        network = self.quick or self.synthesis

        def draw(*driving: Tensor) -> Tensor:
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.quick is self.synthesis):
                return self._face(network, references, *driving)

        return self._side_by_side(draw, self.batch, *driving)

    def _face(
        self,
        network: Synthesis,
        references: EngineReferences,
        masked: Tensor,
        heatmap: Tensor,
        audio: Tensor,
        chosen: Tensor,
        places: Tensor,
    ) -> Tensor:
        masked = masked.contiguous(memory_format=torch.channels_last)
        maps = references.maps
        if maps is None:
            images, heatmaps = (seen[0][chosen] for seen in references.seen)
            maps = self.synthesis.encode_references(images, heatmaps, places)
        return network.render(masked, heatmap, audio, maps.expand(len(masked))).face.float()

    def _each_once(self, embed: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
        """``embed(rows)``, equal rows together: the windows of neighbouring frames share most of theirs."""
        if rows.device.type != "cpu":
            return embed(rows)
        places: dict[bytes, int] = {}
        firsts: list[int] = []
        back = []
        for number, row in enumerate(rows.contiguous().numpy()):
            place = places.setdefault(row.tobytes(), len(firsts))
            if place == len(firsts):
                firsts.append(number)
            back.append(place)
        return self._side_by_side(embed, _GUIDANCE_BATCH, rows[firsts])[back]

    def _side_by_side(self, draw: Callable[..., Tensor], batch: int, *given: Tensor) -> Tensor:
        """``draw`` for a batch of frames at a time; on a processor, each core for batches of its own."""
        batches = list(zip(*(tensor.split(batch) for tensor in given), strict=True))
        if self.workers is None:
            return torch.cat([draw(*each) for each in batches])
        inference = torch.inference_mode()(draw)  # a thread's own
        return torch.cat(list(self.workers.map(lambda each: inference(*each), batches)))


@lru_cache(maxsize=1)
def _workers() -> ThreadPoolExecutor:
    """A thread for each core that PyTorch may use, drawing with that core alone.

    Cores that share one operation wait for each other a thousand times a frame, and with other work on the machine each
    wait lasts until the scheduler comes round (eight times as long, measured). PyTorch has one such setting for all
    threads: elementwise operations elsewhere in the process keep to one core too from here on.
    """
    return ThreadPoolExecutor(torch.get_num_threads(), "draw", _alone)


def _alone() -> None:
    """Of a thread: one core, and numbers below 1e-38 taken as 0, on which processors are ten times slower."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)


def _batch_size(synthesis: Synthesis, device: torch.device) -> int:
    """Frames drawn at a time: on a processor, as many as the caches hold the references' maps of."""
    if device.type != "cpu":
        return _GPU_BATCH
    channels, half = synthesis.temporal.flow.in_channels * 4, synthesis.face_size // 2
    return max(1, _CACHE_BYTES // (4 * synthesis.references * channels * half**2))


def quantise_rendering(synthesis: Synthesis) -> Synthesis:
    """Put, in place, 8-bit convolutions into what a prepared network computes for each frame.

    The inpainting's own convolutions stay as they are: their inputs, fresh from a modulated norm, have a few values far
    from all others (40 deviations with seeded weights), which leave 27 to 38 dB to 8 bits, and nothing comes after them
    that would average it away. Their modulations have 45 dB, and the paths are averaged over references.
    """
    spatial = cast(PreparedSpatialPath, synthesis.spatial)
    temporal, painting = synthesis.temporal, synthesis.inpainting
    if isinstance(temporal, PreparedTemporalPath):
        temporal = temporal.path
    parts: list[nn.Module] = [spatial.path.after, spatial.rest, synthesis.fusion]
    parts += [block for name, block in temporal.named_children() if name != "stem"]
    for spade in (painting.spade1, painting.spade2, painting.spade3):
        parts += [spade.norm1, spade.norm2]
    for part in parts:
        quantise(part)
    return synthesis


def psnr_db(a: Tensor, b: Tensor) -> float:
    """Of pictures in [0, 1]."""
    return -10 * math.log10(max(float((a - b).square().mean()), 1e-12))
