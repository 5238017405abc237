"""The fast implementation of `Engine`: what does not change is computed once, and only what is shown is rendered.

Guidance embeds each distinct frame once, however many windows it is in, and renders only the centre of a window.
References are encoded once per shot, with `align_references` once per frame. The rest is in `fold`; the fast mode uses
`int8` on a processor, or `bfloat16` for narrow networks where it multiplies that, and bfloat16 with `cuda_graphs` on a
GPU.
"""

from __future__ import annotations

import copy
import logging
import math
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, TypeVar, cast

import torch
from torch import Tensor, nn

from stsa_lightning.inference.bfloat16 import bfloat16_is_fast, in_bfloat16
from stsa_lightning.inference.cuda_graphs import Record, Recorded, record_graph
from stsa_lightning.inference.engine import Calibrate, Guided, Rendered
from stsa_lightning.inference.fold import PreparedSpatialPath, PreparedTemporalPath, for_inference
from stsa_lightning.inference.frame_inputs import ChosenReferences, FrameInputs, ReferenceInputs
from stsa_lightning.inference.int8 import int8_is_fast, quantise
from stsa_lightning.inference.winograd import with_winograd
from stsa_lightning.models.guidance import Guidance
from stsa_lightning.models.synthesis import References, Synthesis

Precision = Literal["exact", "fast"]
Result = TypeVar("Result")

LEAST_PSNR_DB = 40.0  # below which the fast mode is given up
_CACHE_BYTES = 4 * 2**20
_GPU_BATCH = 32
_NARROW = 8  # channels of the largest maps
_GUIDANCE_BATCH = 8  # frames on a processor; its maps are small
_log = logging.getLogger(__name__)


@dataclass(eq=False)
class EngineReferences:
    """What references alone decide.

    Attributes:
        tokens: (1, N, C) guidance's embeddings of the first N.
        maps: the synthesis network's feature maps, see `References.tensors`; empty with `align_references`.
        inputs: the M references to choose from, on the device.
        fast: whether the fast mode is near enough for their frames; None until one is rendered.
    """

    tokens: Tensor
    maps: tuple[Tensor, ...]
    inputs: ReferenceInputs
    fast: bool | None = None


class RenderEngine:
    """Guidance and synthesis arranged for speed; see `Engine`.

    Args:
        guidance, synthesis: the networks; copied, not changed.
        precision: "exact" is float32 to about 1e-5 of the networks' own output, on a GPU without TensorFloat-32. "fast"
            is 8-bit integers where the processor is made for them, bfloat16 on a GPU, and for narrow networks where the
            processor multiplies it, at 40 dB or more: of each set of references the first frame is rendered both ways,
            and where these differ by more, all frames that use these references are rendered exactly. Guidance is
            float32 in both.
        device: where to compute.

    On a processor the same inputs give the same bits, whatever was rendered before: each operation keeps to one core,
    and what is found out about one set of references decides nothing about others.
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
        on_cpu = self.device.type == "cpu"
        self.batch = _cached_frames(synthesis) if on_cpu else _GPU_BATCH
        self.guidance_batch = _GUIDANCE_BATCH if on_cpu else _GPU_BATCH
        self.workers = _workers(torch.get_num_threads()) if on_cpu else None
        self.guidance = for_inference(guidance).to(self.device)
        self.synthesis = for_inference(synthesis, shared=on_cpu and not synthesis.align_references).to(self.device)
        self.fast: Synthesis | None = None
        if type(synthesis) is not Synthesis:  # of parts that nobody here knows
            precision = "exact"
        if precision == "fast" and on_cpu and _suits_bfloat16(synthesis) and bfloat16_is_fast():
            self.fast = in_bfloat16(self.synthesis)
        elif precision == "fast" and on_cpu and int8_is_fast():
            self.fast = with_winograd(quantise_rendering(copy.deepcopy(self.synthesis)))
        elif precision == "fast" and self.device.type == "cuda":
            self.fast = in_bfloat16(self.synthesis)
        if on_cpu:
            with_winograd(self.synthesis)
        self.record: Record | None = record_graph if self.device.type == "cuda" else None
        self._recorded: dict[Callable[..., Tensor], Recorded] = {}
        self._lock = threading.Lock()
        self._warned = False

    @property
    def precision(self) -> Precision:
        """Current precision: "exact" also where the fast mode is unavailable."""
        return "exact" if self.fast is None else "fast"

    @contextmanager
    def _at_work(self) -> Iterator[None]:
        """Without gradients; on a GPU by one thread at a time, as recording wants it, and float32 is float32."""
        with torch.inference_mode():
            if self.device.type != "cuda":
                yield
                return
            exact = torch.backends.cudnn.flags(enabled=True, benchmark=True, allow_tf32=False)
            with self._lock, torch.cuda.device(self.device), exact:
                yield

    def encode(self, references: ReferenceInputs) -> EngineReferences:
        with self._at_work():
            inputs = references.to(self.device)
            first = [maps[:, : self.synthesis.num_references] for maps in (inputs.images, inputs.heatmaps)]
            maps = () if self.synthesis.align_references else self._on_one_core(self._maps, *first)
            return EngineReferences(self._on_one_core(self.guidance.embed_references, first[1]), maps, inputs)

    def _maps(self, images: Tensor, heatmaps: Tensor) -> tuple[Tensor, ...]:
        return self.synthesis.encode_references(images, heatmaps).tensors()

    def _on_one_core(self, function: Callable[..., Result], *given: Tensor) -> Result:
        """Run on one core, as all rendering: sums of an operation that cores share depend on their number."""
        if self.workers is None:
            return function(*given)
        return self.workers.submit(torch.inference_mode()(function), *given).result()

    def guide(self, frames: FrameInputs, references: EngineReferences, calibrate: Calibrate | None = None) -> Guided:
        masked, window, guidance = frames.masked_heatmaps, frames.audio.shape[:2], self.guidance
        with self._at_work():
            embeddings = (
                self._each_once(embed, rows.flatten(0, 1)).unflatten(0, window)
                for embed, rows in ((guidance.embed_masked, masked), (guidance.embed_audio, frames.audio))
            )
            given = *embeddings, masked[:, window[1] // 2]
            size, constants = self.guidance_batch, (references.tokens,)
            if calibrate is None:
                return Guided.split(self._batches(self._guided, size, *given, constants=constants))
            found = self._batches(self._located, size, *given, constants=constants)
            keypoints = torch.from_numpy(calibrate(found.cpu().numpy())).to(self.device)
            return Guided(self._batches(guidance.draw, size, keypoints, given[-1]), keypoints)

    def _located(self, masked: Tensor, audio: Tensor, masked_heatmaps: Tensor, tokens: Tensor) -> Tensor:
        """Keypoints (n, 2, 57); arguments as for `_guided`."""
        return self.guidance.locate(*self._at_centre(masked, audio, tokens), masked_heatmaps)

    def _guided(self, masked: Tensor, audio: Tensor, masked_heatmaps: Tensor, tokens: Tensor) -> Tensor:
        """`Guided.joined` of n frames from embeddings (n, T, C) of their windows and reference tokens (1, N, C)."""
        return Guided(*self.guidance.render(*self._at_centre(masked, audio, tokens), masked_heatmaps)).joined()

    def _at_centre(self, masked: Tensor, audio: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings (n, C) of the lips and of the jaw in each window's middle frame."""
        lip, jaw = self.guidance.fusion(masked, audio, tokens.expand(len(masked), -1, -1))
        centre = lip.shape[1] // 2
        return lip[:, centre], jaw[:, centre]

    def render(
        self, frames: FrameInputs, guided: Guided, chosen: ChosenReferences, references: EngineReferences
    ) -> Rendered:
        with self._at_work():
            audio, inputs = frames.audio, references.inputs
            driving = [frames.masked_faces, guided.heatmaps, audio[:, audio.shape[1] // 2]]
            if self.synthesis.align_references:
                numbers = chosen.numbers.to(self.device)
                driving += [inputs.images[0][numbers], inputs.heatmaps[0][numbers], chosen.theta]
            if self.fast is not None and references.fast is not False:
                rendered = self._batches(self._fast_face, self.batch, *driving, constants=references.maps)
                if references.fast is None:
                    first = (given[:1].to(self.device) for given in driving)
                    exact = self._on_one_core(self._exact_face, *first, *references.maps)
                    references.fast = self._is_near(*(Rendered.split(each).faces for each in (rendered[:1], exact)))
                if references.fast:
                    return Rendered.split(rendered)
            rendered = self._batches(self._exact_face, self.batch, *driving, constants=references.maps)
            return Rendered.split(rendered)

    def _is_near(self, fast: Tensor, exact: Tensor) -> bool:
        """Whether a frame rendered in the fast mode is near enough."""
        psnr = psnr_db(fast, exact)
        _log.info("fast mode: %.1f dB PSNR against exact", psnr)
        if psnr >= LEAST_PSNR_DB:
            return True
        if not self._warned:
            _log.warning(
                "fast mode: %.1f dB PSNR against exact, less than %.0f: shots like this one are rendered exactly",
                psnr,
                LEAST_PSNR_DB,
            )
        self._warned = True
        return False

    def _exact_face(self, *inputs: Tensor) -> Tensor:
        return _face(self.synthesis, *inputs)

    def _fast_face(self, *inputs: Tensor) -> Tensor:
        return _face(cast(Synthesis, self.fast), *inputs)

    def _each_once(self, embed: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
        """`embed(rows)`, computed once for equal rows: windows of neighbouring frames share most of theirs."""
        if rows.device.type != "cpu":
            return self._batches(embed, self.guidance_batch, rows)
        first_of: dict[bytes, int] = {}
        firsts: list[int] = []
        back = []
        for number, row in enumerate(rows.contiguous().numpy()):
            place = first_of.setdefault(row.tobytes(), len(firsts))
            if place == len(firsts):
                firsts.append(number)
            back.append(place)
        return self._batches(embed, self.guidance_batch, rows[firsts])[back]

    def _batches(
        self, function: Callable[..., Tensor], batch: int, *given: Tensor, constants: tuple[Tensor, ...] = ()
    ) -> Tensor:
        """Call `function` on a batch of frames at a time, each with the `constants` of all of them.

        On a processor each core has batches of its own, as much as any other core; on a GPU they are replayed.
        """
        if self.workers is not None:
            cores, count = self.workers._max_workers, len(given[0])
            rounds = -(-count // (batch * cores))
            batch = -(-count // (rounds * cores))
        batches = list(zip(*(tensor.split(batch) for tensor in given), strict=True))
        if self.record is not None:
            replayed = self._recorded.setdefault(function, Recorded(function, self.device, self.record))
            return torch.cat([replayed(*each, constants=constants) for each in batches])
        if self.workers is None:
            return torch.cat([function(*(tensor.to(self.device) for tensor in each), *constants) for each in batches])
        inference = torch.inference_mode()(function)  # a thread's own
        return torch.cat(list(self.workers.map(lambda each: inference(*each, *constants), batches)))


def _face(network: Synthesis, masked_face: Tensor, heatmap: Tensor, audio: Tensor, *references: Tensor) -> Tensor:
    """`Rendered.joined` of n frames, in float32 whatever the network computes in.

    Args:
        references: with `align_references` the images, heatmaps and theta of each frame (n, ...); else the tensors
            that `Synthesis.encode_references` made of one set.
    """
    dtype = next(network.parameters()).dtype
    masked_face = masked_face.to(dtype, memory_format=torch.channels_last)
    heatmap, audio = heatmap.to(dtype), audio.to(dtype)
    if network.align_references:
        images, heatmaps, theta = references
        encoded = network.encode_references(images.to(dtype), heatmaps.to(dtype), theta)
    else:
        encoded = References.of(*(tensor.to(dtype) for tensor in references)).expand(len(masked_face))
    output = network.render(masked_face, heatmap, audio, encoded)
    return Rendered(output.face.float(), output.flow.float(), output.confidence.float()).joined()


@lru_cache
def _workers(cores: int) -> ThreadPoolExecutor:
    """A thread for each core that PyTorch may use, rendering with that core alone.

    Cores that share one operation wait for each other a thousand times a frame, and with other work on the machine each
    wait lasts until the scheduler comes round (eight times as long, measured).
    """
    ready = threading.Barrier(cores)
    workers = ThreadPoolExecutor(cores, "render", _alone)
    for started in [workers.submit(ready.wait) for _ in range(cores)]:
        started.result()
    # A thread's number of cores is also what PyTorch gives threads that come after it: put back what the caller has.
    torch.set_num_threads(cores)
    return workers


def _alone() -> None:
    """Of a thread: one core, and numbers below 1e-38 taken as 0, on which processors are ten times slower."""
    torch.get_num_threads()  # a thread takes over the process's number when it first asks: not after the next line
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)


def _cached_frames(synthesis: Synthesis) -> int:
    """Frames that a processor renders at a time: as many as its caches hold the references' maps of."""
    channels, half = synthesis.temporal.flow.in_channels * 4, synthesis.face_size // 2
    return max(1, _CACHE_BYTES // (4 * synthesis.num_references * channels * half**2))


def _suits_bfloat16(synthesis: Synthesis) -> bool:
    """Whether bfloat16 is faster than 8 bits where a processor has both: where few convolutions are wide enough for 8.

    References that all frames share are arranged for float32.
    """
    return synthesis.align_references and synthesis.channels[0] <= _NARROW


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
    parts: list[nn.Module] = [spatial.path.post_blocks, spatial.tail, synthesis.fusion]
    parts += [block for name, block in temporal.named_children() if name != "stem"]
    for spade in (painting.spade1, painting.spade2, painting.spade3):
        parts += [spade.norm1, spade.norm2]
    for part in parts:
        quantise(part)
    return synthesis


def psnr_db(a: Tensor, b: Tensor) -> float:
    """Of pictures in [0, 1]."""
    return -10 * math.log10(max(float((a - b).square().mean()), 1e-12))
