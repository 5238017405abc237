"""The rendering of faces as ONNX files, for programs without PyTorch.

Three graphs: `references.onnx`, run once per shot, then `guidance.onnx` and `synthesis.onnx`, run for any number of
frames. What one takes or puts out under a name, the later ones take under the same name. Networks that draw their
heatmaps through keypoints have `drawing.onnx` besides, which draws others. `stsa.json` next to them has the sizes.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from stsa_lightning.inference.engine import Calibrate, Guided, Rendered
from stsa_lightning.inference.frame_inputs import ChosenReferences, FrameInputs, ReferenceInputs, example_inputs
from stsa_lightning.models.guidance import Guidance
from stsa_lightning.models.synthesis import References, Synthesis
from stsa_lightning.utils.errors import MissingPackageError
from stsa_lightning.utils.files import written_whole
from stsa_lightning.utils.onnx_session import onnx_session

OPSET = 20  # the first whose sampling of a grid is PyTorch's
_GUIDED = ("heatmaps", "keypoints")  # what `guidance.onnx` puts out
_RENDERED = ("face", "flow", "confidence")  # what `synthesis.onnx` puts out
_MAPS = ("spatial0", "spatial1", "spatial2", "content", "temporal0", "temporal1", "temporal2")


class ReferenceGraph(nn.Module):
    """Both networks' encoders of references: `tokens` and `_MAPS`; with `align_references` `tokens` alone."""

    def __init__(self, guidance: Guidance, synthesis: Synthesis) -> None:
        super().__init__()
        self.guidance, self.synthesis = guidance, synthesis

    def forward(self, images: Tensor, heatmaps: Tensor) -> tuple[Tensor, ...]:
        """Reference faces (1, N, 3, S, S) in [0, 1] and their heatmaps (1, N, 1, S, S), all contours."""
        if self.synthesis.align_references:
            return (self.guidance.embed_references(heatmaps),)
        maps = self.synthesis.encode_references(images, heatmaps)
        return self.guidance.embed_references(heatmaps), *maps.tensors()[1:]


class GuidanceGraph(nn.Module):
    """Guidance for the centres of F windows."""

    def __init__(self, guidance: Guidance) -> None:
        super().__init__()
        self.guidance = guidance

    def forward(self, masked_heatmaps: Tensor, audio: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """What `Guided` holds of F frames, from their `FrameInputs` and tokens of batch 1."""
        frames, window = audio.shape[:2]
        masked = self.guidance.embed_masked(masked_heatmaps.flatten(0, 1)).unflatten(0, (frames, window))
        embedded = self.guidance.embed_audio(audio.flatten(0, 1)).unflatten(0, (frames, window))
        lip, jaw = self.guidance.fusion(masked, embedded, tokens.expand(frames, -1, -1))
        centre = window // 2
        return self.guidance.render(lip[:, centre], jaw[:, centre], masked_heatmaps[:, centre])


class DrawingGraph(nn.Module):
    """Driving heatmaps of F frames through keypoints that were changed."""

    def __init__(self, guidance: Guidance) -> None:
        super().__init__()
        self.guidance = guidance

    def forward(self, keypoints: Tensor, masked_heatmaps: Tensor) -> Tensor:
        """(F, 2, 57) and (F, T, 1, S, S) -> (F, 1, S, S)."""
        return self.guidance.draw(keypoints, masked_heatmaps[:, masked_heatmaps.shape[1] // 2])


class SynthesisGraph(nn.Module):
    """The faces of F frames."""

    def __init__(self, synthesis: Synthesis) -> None:
        super().__init__()
        self.synthesis = synthesis

    def forward(
        self, masked_faces: Tensor, audio: Tensor, heatmaps: Tensor, images: Tensor, *maps: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What `Rendered` holds of F frames.

        Inputs are `FrameInputs`, heatmaps that drive them (F, 1, S, S), and references of batch 1. With
        `align_references`, `maps` are the references' heatmaps and `theta` (F, N, 2, 3).
        """
        if self.synthesis.align_references:
            references = self.synthesis.encode_references(images, *maps)
        else:
            references = References.of(images, *maps).expand(masked_faces.shape[0])  # `len` would fix their number
        output = self.synthesis.render(masked_faces, heatmaps, audio[:, audio.shape[1] // 2], references)
        return output.face, output.flow, output.confidence


def export_onnx(
    guidance: Guidance, synthesis: Synthesis, folder: str | Path, meta: Mapping[str, Any] | None = None
) -> list[Path]:
    """Write the graphs and `stsa.json` into `folder`, made where needed.

    Args:
        guidance, synthesis: the networks.
        folder: where to write; each file appears complete or not at all.
        meta: what came with the weights (`features`, `num_frames`, `heatmap_sigma`).

    Raises:
        UserError: a package of the extra `onnx` is missing.
    """
    _require_packages()
    meta = dict(meta or {})
    size, count, num_frames = synthesis.face_size, synthesis.num_references, int(meta.get("num_frames", 5))
    guidance, synthesis = guidance.eval(), synthesis.eval()
    references, frames, chosen = example_inputs(size, synthesis.audio_dim, num_frames, count)  # any F above 1 is all
    images, heatmaps = references.images, references.heatmaps
    reference_graph, guidance_graph = ReferenceGraph(guidance, synthesis), GuidanceGraph(guidance)
    with torch.no_grad():
        tokens, *maps = reference_graph(images, heatmaps)
        driving, keypoints = guidance_graph(frames.masked_heatmaps, frames.audio, tokens)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / name for name in ("references.onnx", "guidance.onnx", "synthesis.onnx", "stsa.json")]
    seen, names = ["reference_images", "reference_heatmaps"], list(_MAPS[: len(maps)])
    _export(reference_graph, (images, heatmaps), paths[0], seen, ["tokens", *names], None)
    many = {0: torch.export.Dim("frames", min=1)}
    given = frames.masked_heatmaps, frames.audio, tokens
    _export(guidance_graph, given, paths[1], ["masked_heatmaps", "audio", "tokens"], _GUIDED, (many, many, {}))
    if guidance.draws_keypoints:
        paths.append(folder / "drawing.onnx")
        drawn, names_of_drawn = (keypoints, frames.masked_heatmaps), ["keypoints", "masked_heatmaps"]
        _export(DrawingGraph(guidance), drawn, paths[-1], names_of_drawn, _GUIDED[:1], (many, many))
    sizes: list[dict[int, Any]] = [{} for _ in maps]
    if synthesis.align_references:
        maps, names, sizes = [heatmaps, chosen.theta], [seen[1], "theta"], [{}, many]
    arguments = (frames.masked_faces, frames.audio, driving, images, *maps)
    names = ["masked_faces", "audio", "heatmaps", seen[0], *names]
    _export(SynthesisGraph(synthesis), arguments, paths[2], names, _RENDERED, (many, many, many, {}, tuple(sizes)))
    described = {
        "face_size": size,
        "num_references": count,
        "audio_dim": synthesis.audio_dim,
        **meta,
        "num_frames": num_frames,
    }
    with written_whole(paths[3]) as part:
        part.write_text(json.dumps(described, indent=2) + "\n")
    return paths


@dataclass(frozen=True)
class OnnxReferences:
    """References of a shot: their inputs, and the outputs of `references.onnx` by name."""

    inputs: ReferenceInputs
    encoded: dict[str, np.ndarray]


class OnnxEngine:
    """Exported networks in ONNX Runtime, on a processor; see `Engine`.

    Args:
        folder: what `export_onnx` wrote.

    Raises:
        MissingPackageError: ONNX Runtime is not installed.
    """

    def __init__(self, folder: str | Path) -> None:
        self._references, self._guidance, self._synthesis = (
            onnx_session(Path(folder) / f"{name}.onnx") for name in ("references", "guidance", "synthesis")
        )
        drawing = Path(folder) / "drawing.onnx"
        self._drawing = onnx_session(drawing) if drawing.is_file() else None
        self._inputs = {value.name for value in self._synthesis.get_inputs()}
        described = json.loads((Path(folder) / "stsa.json").read_text())
        self.num_references: int = described["num_references"]

    def encode(self, references: ReferenceInputs) -> OnnxReferences:
        count = self.num_references
        given = {"reference_images": references.images[:, :count], "reference_heatmaps": references.heatmaps[:, :count]}
        names = [value.name for value in self._references.get_outputs()]
        answers = self._references.run(names, {name: value.numpy() for name, value in given.items()})
        return OnnxReferences(references, dict(zip(names, answers, strict=True)))

    def guide(self, frames: FrameInputs, references: OnnxReferences, calibrate: Calibrate | None = None) -> Guided:
        given = {name: getattr(frames, name).numpy() for name in ("masked_heatmaps", "audio")}
        heatmaps, keypoints = self._guidance.run(list(_GUIDED), {**given, "tokens": references.encoded["tokens"]})
        if calibrate is not None:
            if self._drawing is None:
                raise ValueError("these networks do not draw their heatmaps through keypoints (no drawing.onnx)")
            keypoints = calibrate(keypoints)
            changed = {"keypoints": keypoints, "masked_heatmaps": given["masked_heatmaps"]}
            (heatmaps,) = self._drawing.run(list(_GUIDED[:1]), changed)
        return Guided(torch.from_numpy(heatmaps), torch.from_numpy(keypoints))

    def render(
        self, frames: FrameInputs, guided: Guided, chosen: ChosenReferences, references: OnnxReferences
    ) -> Rendered:
        """One frame at a time: a run has one set of references, and each frame may have chosen its own."""
        answers = []
        for number in range(len(frames)):
            part = slice(number, number + 1)
            shown = chosen.numbers[number] if "theta" in self._inputs else torch.arange(self.num_references)
            given = {
                "masked_faces": frames.masked_faces[part].numpy(),
                "audio": frames.audio[part].numpy(),
                "heatmaps": guided.heatmaps[part].numpy(),
                "theta": chosen.theta[part].numpy(),
                "reference_images": references.inputs.images[:, shown].numpy(),
                "reference_heatmaps": references.inputs.heatmaps[:, shown].numpy(),
                **references.encoded,
            }
            known = {name: value for name, value in given.items() if name in self._inputs}
            answers.append(self._synthesis.run(list(_RENDERED), known))
        return Rendered(*(torch.from_numpy(np.concatenate(answer)) for answer in zip(*answers, strict=True)))


def _require_packages() -> None:
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise MissingPackageError(
            f"{error.name} is not installed: ONNX export needs the extra: pip install 'stsa_lightning[onnx]'"
        ) from error


def _export(
    graph: nn.Module,
    arguments: tuple[Tensor, ...],
    path: Path,
    inputs: Sequence[str],
    outputs: Sequence[str],
    dynamic: tuple[Any, ...] | None,
) -> None:
    with _plain(), torch.no_grad():
        program = torch.onnx.export(
            graph,
            arguments,
            input_names=list(inputs),
            output_names=list(outputs),
            opset_version=OPSET,
            dynamic_shapes=dynamic,
            dynamo=True,
            verbose=False,
        )
    if program is None:
        raise RuntimeError("the ONNX exporter gave nothing back")
    with written_whole(path) as part:
        program.save(part, external_data=False)


@contextmanager
def _plain() -> Iterator[None]:
    """Attention as its definition, not as a fused kernel that ONNX does not know; the exporter's chatter held back."""
    fused, level = torch.backends.mha.get_fastpath_enabled(), logging.root.manager.disable
    torch.backends.mha.set_fastpath_enabled(False)
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
        logging.disable(level)
