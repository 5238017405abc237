"""How fast faces are rendered, and how near to the straight form: one run, the same weights, the same real faces.

    python benchmarks/dub.py --clip VIDEO --json dub.json          # released size, seeded weights
    python benchmarks/dub.py --clip VIDEO --checkpoint RUN.ckpt
    python benchmarks/dub.py --clip VIDEO --frames 96 --device cuda

The straight form (benchmarks/straightforward.py) and the engine in both modes take turns, so that whatever else the
machine does hits all of them; medians are compared. `exact_ratio` and `fast_ratio` are against the form as published,
with the loss network that it runs; the ratios without it stand beside them. A frame is one of a long video:
references are encoded before the clock starts for the engine, as it does once per shot, and inside it for the straight
form. Inputs begin and faces end in the processor's memory. The latencies are those of one frame alone, as a stream with
`block=1` has them. `native_share_of_*` is what a face at its own resolution (`--native-side`) costs over rendering it.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import cv2
import numpy as np
import torch
from common import machine, parser, table, write_json
from straightforward import StraightForm, seeded
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from stsa_lightning.face.box import crop_face, face_box, normalise_landmarks
from stsa_lightning.face.heatmaps import outer_lip_aperture
from stsa_lightning.face.landmarks import landmark_detector
from stsa_lightning.face.native_resolution import FaceWarp, for_reading, last_rows, native_face
from stsa_lightning.face.references import choose_references
from stsa_lightning.inference.engine import Rendered
from stsa_lightning.inference.frame_inputs import ChosenReferences, FrameInputBuilder, FrameInputs, ReferenceInputs
from stsa_lightning.inference.render_engine import EngineReferences, Precision, RenderEngine, psnr_db
from stsa_lightning.media.video import VideoReader
from stsa_lightning.models.checkpoint import load_networks
from stsa_lightning.models.guidance import Guidance
from stsa_lightning.models.presets import GUIDANCE, SYNTHESIS
from stsa_lightning.models.synthesis import Synthesis
from stsa_lightning.utils.device import choose_device

WINDOW = 5
REAL_TIME_FPS = 25


@dataclass(frozen=True)
class Inputs:
    """F frames of a clip and its references."""

    frames: FrameInputs
    references: ReferenceInputs
    chosen: ChosenReferences

    def frame(self, number: int) -> tuple[Tensor, ...]:
        """What the straight form takes for one frame."""
        one = self.frames[number : number + 1]
        references = self.references.images, self.references.heatmaps
        theta = self.chosen.theta[number : number + 1]
        return one.masked_faces, one.masked_heatmaps, one.audio, *references, theta


def real_faces(clip: Path, synthesis: Synthesis, frames: int) -> Inputs:
    """Crops and heatmaps of a real clip; features of random speech, whose values change no timing."""
    size, dim = synthesis.face_size, synthesis.audio_dim
    with VideoReader(clip, fps=REAL_TIME_FPS) as reader:
        pictures = reader.get(range(min(len(reader), 2 * frames + WINDOW + 20)))
    detector = landmark_detector()
    found = [(picture, points) for picture in pictures if (points := detector(picture)) is not None]
    detector.close()
    if len(found) < frames + WINDOW:
        raise SystemExit(f"{clip}: {len(found)} frames with a face, {frames + WINDOW} are needed")
    boxes = [face_box(points, (picture.shape[1], picture.shape[0])) for picture, points in found]
    landmarks = normalise_landmarks(np.stack([points for _, points in found]), np.stack(boxes))
    crops = np.stack([crop_face(picture, box, size) for (picture, _), box in zip(found, boxes, strict=True)])
    count = synthesis.num_references
    chosen = choose_references(outer_lip_aperture(landmarks), np.ones(len(found), bool), count)
    windows = np.arange(frames)[:, None] + np.arange(WINDOW)
    numbers = windows[:, WINDOW // 2]
    speech = torch.randn(frames + WINDOW, dim, 10, generator=torch.Generator().manual_seed(0)).numpy()
    builder = FrameInputBuilder(size, heatmap_sigma=1.0)
    return Inputs(
        builder.frames(crops[numbers], speech[windows], windows, landmarks.__getitem__),
        builder.references(crops[chosen], landmarks[chosen]),
        ChosenReferences.of(landmarks[chosen], landmarks[numbers], np.arange(count)[None].repeat(frames, 0)),
    )


def in_turns(tasks: Mapping[str, Callable[[], Any]], runs: int) -> dict[str, float]:
    """Median seconds of each task, each called once per round; a first round warms up."""
    times: dict[str, list[float]] = {name: [] for name in tasks}
    for round_number in range(runs + 1):
        for name, task in tasks.items():
            begun = time.perf_counter()
            task()
            if round_number:
                times[name].append(time.perf_counter() - begun)
    return {name: statistics.median(taken) for name, taken in times.items()}


def with_cores(cores: int, task: Callable[[], Any]) -> Any:
    """Cores that share one operation: all for the straight form; one for the engine, whose cores have own frames."""
    torch.set_num_threads(cores)
    return task()


def gflop(task: Callable[[], Any]) -> float:
    """Multiplications and additions of convolutions and matrix products, 10^9; an engine computes here, one by one."""
    if isinstance(task, Rendering):
        engine = task.engine
        kept = engine.workers, engine.record
        engine.workers = engine.record = None
    with FlopCounterMode(display=False) as counter:
        task()
    if isinstance(task, Rendering):
        engine.workers, engine.record = kept
    return counter.get_total_flops() / 1e9


class Rendering:
    """One engine with one clip's references."""

    def __init__(self, engine: RenderEngine, inputs: Inputs) -> None:
        self.engine, self.inputs = engine, inputs
        self.references: EngineReferences = engine.encode(inputs.references)

    def __call__(self, part: slice = slice(None)) -> Tensor:
        return self._rendered(part).faces.cpu()

    def _rendered(self, part: slice) -> Rendered:
        frames, chosen = self.inputs.frames[part], self.inputs.chosen[part]
        return self.engine.render(frames, self.engine.guide(frames, self.references), chosen, self.references)

    def native(self, side: int) -> Callable[[], Any]:
        """A task: all faces at a side of so many pixels, one after the other, as the blend stage makes them."""
        answer = self._rendered(slice(None)).cpu()
        rows = last_rows(answer.faces.shape[-1])
        faces = (answer.faces * 255).byte().permute(0, 2, 3, 1).contiguous().numpy()
        images = (self.inputs.references.images[0] * 255).byte().permute(0, 2, 3, 1).contiguous().numpy()
        references = [for_reading(cv2.resize(image, (side, side), interpolation=cv2.INTER_CUBIC)) for image in images]
        flow, confidence = (maps[..., -rows:, :].half().numpy() for maps in (answer.flow, answer.confidence[:, :, 0]))
        warps = [FaceWarp(*each) for each in zip(flow, confidence, self.inputs.chosen.theta.numpy(), strict=True)]
        return lambda: [
            native_face(face, warp, references, (side, side)) for face, warp in zip(faces, warps, strict=True)
        ]

    def guidance(self) -> Tensor:
        return self.engine.guide(self.inputs.frames, self.references).heatmaps.cpu()

    def latencies_ms(self, rounds: int) -> dict[str, float]:
        """Median and 95th percentile of frames rendered alone."""
        frames, times = range(len(self.inputs.frames)), []
        for number in [0, *frames, *(list(frames) * (rounds - 1))]:  # the first one more, to warm up
            begun = time.perf_counter()
            self(slice(number, number + 1))
            times.append(1000 * (time.perf_counter() - begun))
        percentiles = statistics.quantiles(times[1:], n=20, method="inclusive")
        return {"median": percentiles[9], "p95": percentiles[18]}


def compare(
    guidance: Guidance, synthesis: Synthesis, inputs: Inputs, runs: int, device: str, side: int
) -> dict[str, Any]:
    """The straight form, with and without the loss network, against the engine in both modes."""
    frames, cores = len(inputs.frames), torch.get_num_threads()
    straight = StraightForm(guidance, synthesis, device)
    exact = Rendering(RenderEngine(guidance, synthesis, precision="exact", device=device), inputs)
    fast = Rendering(RenderEngine(guidance, synthesis, precision="fast", device=device), inputs)
    expected = torch.cat([straight.frame(*inputs.frame(i)) for i in range(frames)])
    answers = exact(), fast()
    seconds = in_turns(
        {
            "straight": lambda: with_cores(cores, lambda: straight.frame(*inputs.frame(0), loss_network=True)),
            "straight without loss network": lambda: with_cores(cores, lambda: straight.frame(*inputs.frame(0))),
            "exact": lambda: with_cores(1, exact),
            "fast": lambda: with_cores(1, fast),
            "guidance": lambda: with_cores(1, exact.guidance),
            "native": fast.native(side),
        },
        runs,
    )
    for name in ("exact", "fast", "guidance", "native"):
        seconds[name] /= frames
    return {
        "exact_ratio": seconds["straight"] / seconds["exact"],
        "exact_ratio_without_loss_network": seconds["straight without loss network"] / seconds["exact"],
        "exact_max_abs_diff": float((answers[0] - expected).abs().max()),
        "fast_ratio": seconds["straight"] / seconds["fast"],
        "fast_ratio_without_loss_network": seconds["straight without loss network"] / seconds["fast"],
        "fast_psnr_db": statistics.mean(psnr_db(a, b) for a, b in zip(answers[1], expected, strict=True)),
        "fast_mode": "fast" if fast.references.fast else "exact",
        "gflop_straight": gflop(lambda: straight.frame(*inputs.frame(0), loss_network=True)),
        "gflop_straight_without_loss_network": gflop(lambda: straight.frame(*inputs.frame(0))),
        "gflop_engine": gflop(exact) / frames,
        "gflop_engine_not_in_integers": gflop(fast) / frames,
        "exact_fps": 1 / seconds["exact"],
        "fast_fps": 1 / seconds["fast"],
        "exact_latency_ms": exact.latencies_ms(runs),
        "fast_latency_ms": fast.latencies_ms(runs),
        "guidance_share_of_exact": seconds["guidance"] / seconds["exact"],
        "guidance_share_of_fast": seconds["guidance"] / seconds["fast"],
        "native_share_of_exact": seconds["native"] / seconds["exact"],
        "native_share_of_fast": seconds["native"] / seconds["fast"],
        "seconds_per_frame": seconds,
    }


def operations(drawn: Rendering, count: int = 8) -> list[tuple[str, float]]:
    """What takes the time: shares of processor time by kind of operation, the largest first."""
    drawn.engine.workers = None
    drawn()
    with torch.profiler.profile() as profile:
        drawn()
    events = profile.key_averages()
    total = sum(event.self_cpu_time_total for event in events)
    largest = sorted(events, key=lambda event: -event.self_cpu_time_total)[:count]
    return [(event.key, event.self_cpu_time_total / total) for event in largest]


def small_pace(clip: Path, frames: int, runs: int, device: str) -> dict[str, float]:
    """Frames/s of guidance and synthesis at preset `small`."""
    guidance, synthesis = seeded(Guidance(**GUIDANCE["small"])), seeded(Synthesis(**SYNTHESIS["small"]))
    inputs = real_faces(clip, synthesis, frames)
    engines = {mode: RenderEngine(guidance, synthesis, precision=mode, device=device) for mode in get_args(Precision)}
    modes = {mode: Rendering(engine, inputs) for mode, engine in engines.items()}
    seconds = in_turns(modes, runs)
    megabytes = 2e-6 * sum(p.numel() for network in (guidance, synthesis) for p in network.parameters())
    answers = {mode: drawn() for mode, drawn in modes.items()}
    return {
        "small_exact_fps": frames / seconds["exact"],
        "small_fast_fps": frames / seconds["fast"],
        "small_fast_psnr_db": psnr_db(answers["fast"], answers["exact"]),
        "small_gflop": gflop(modes["exact"]) / frames,
        "small_fp16_megabytes": megabytes,
    }


def networks(chosen: argparse.Namespace) -> tuple[Guidance, Synthesis]:
    if chosen.checkpoint is not None:
        guidance, synthesis, _ = load_networks(chosen.checkpoint)
        return guidance, synthesis
    return seeded(Guidance(**GUIDANCE[chosen.size])), seeded(Synthesis(**SYNTHESIS[chosen.size]))


def main() -> None:
    options = parser(__doc__, runs=5)
    options.add_argument("--clip", type=Path, required=True, help="a video with a face: noise is no measure of quality")
    options.add_argument("--checkpoint", type=Path, help="trained networks (default: seeded weights)")
    options.add_argument("--size", choices=sorted(SYNTHESIS), default="released", help="of seeded networks (released)")
    options.add_argument("--frames", type=int, default=8, help="in a block (8)")
    options.add_argument("--device", default="cpu", help="cpu (the default), cuda or cuda:1")
    options.add_argument("--native-side", type=int, default=384, help="of faces at their own resolution, pixels (384)")
    options.add_argument("--no-small", action="store_true", help="leave out the pace of preset small")
    chosen = options.parse_args()
    cores = torch.get_num_threads()
    guidance, synthesis = networks(chosen)
    inputs = real_faces(chosen.clip, synthesis, chosen.frames)
    device = str(choose_device(chosen.device))
    figures = compare(guidance, synthesis, inputs, chosen.runs, device, chosen.native_side)
    if device == "cpu":
        for mode in get_args(Precision):
            drawn = Rendering(RenderEngine(guidance, synthesis, precision=mode), inputs)
            figures[f"shares_{mode}"] = dict(operations(drawn))
    if not chosen.no_small:
        figures |= small_pace(chosen.clip, max(chosen.frames, 16), chosen.runs, device)
    figures |= {"threads": cores, "frames": chosen.frames}
    print(machine())
    plain = [(name, value) for name, value in figures.items() if not isinstance(value, dict)]
    print(table(["", ""], plain))
    for name, values in figures.items():
        if isinstance(values, dict):
            print(table([name, ""], list(values.items())))
    if chosen.json:
        write_json(chosen.json, figures)


if __name__ == "__main__":
    main()
