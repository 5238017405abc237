"""The drawing of faces as ONNX files, for programs without PyTorch.

Two graphs: ``references.onnx``, run once per shot, and ``frames.onnx``, run for any number of frames. What the
first takes and puts out under a name, the second takes under the same name. ``stsa.json`` beside them has the sizes.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stsa_lightning.models.guidance import Guidance
from stsa_lightning.models.synthesis import References, Synthesis
from stsa_lightning.utils.errors import MissingPackageError
from stsa_lightning.utils.files import written_whole

OPSET = 20  # the first whose sampling of a grid is PyTorch's
_MAPS = ("spatial0", "spatial1", "spatial2", "content", "temporal0", "temporal1", "temporal2")


class ReferenceGraph(nn.Module):
    """``encode_references`` and guidance's part of it, as a tuple of tensors: ``tokens`` and :data:`_MAPS`; of networks
    whose references follow the frame's pose, ``tokens`` alone."""

    def __init__(self, guidance: Guidance, synthesis: Synthesis) -> None:
        super().__init__()
        self.guidance, self.synthesis = guidance, synthesis

    def forward(self, images: Tensor, heatmaps: Tensor) -> tuple[Tensor, ...]:
        """Reference faces (1, N, 3, S, S) in [0, 1] and all their contours' heatmaps (1, N, 1, S, S)."""
        if self.synthesis.align_references:
            return (self.guidance.embed_references(heatmaps),)
        maps = self.synthesis.encode_references(images, heatmaps)
        return self.guidance.embed_references(heatmaps), *maps.tensors()[1:]


class FrameGraph(nn.Module):
    """Guidance for the centres of F windows, and their faces."""

    def __init__(self, guidance: Guidance, synthesis: Synthesis) -> None:
        super().__init__()
        self.guidance, self.synthesis = guidance, synthesis

    def forward(
        self, masked: Tensor, contours: Tensor, audio: Tensor, images: Tensor, tokens: Tensor, *maps: Tensor
    ) -> Tensor:
        """``masked`` (F, 3, S, S), ``contours`` (F, T, 1, S, S), ``audio`` (F, T, D, 10); of references, batch 1.

        Where references follow the frame's pose, ``maps`` are their heatmaps and ``theta`` (F, N, 2, 3).
        """
        frames, window = audio.shape[:2]
        masked_codes = self.guidance.embed_masked(contours.flatten(0, 1)).unflatten(0, (frames, window))
        audio_codes = self.guidance.embed_audio(audio.flatten(0, 1)).unflatten(0, (frames, window))
        lip, jaw = self.guidance.fusion(masked_codes, audio_codes, tokens.expand(frames, -1, -1))
        centre = window // 2
        heatmap = self.guidance.draw(lip[:, centre], jaw[:, centre], contours[:, centre])
        if self.synthesis.align_references:
            references = self.synthesis.encode_references(images, *maps)
        else:
            references = References.of(images, *maps).expand(frames)
        return self.synthesis.render(masked, heatmap, audio[:, centre], references).face


def export_onnx(
    guidance: Guidance, synthesis: Synthesis, folder: str | Path, meta: Mapping[str, Any] | None = None
) -> list[Path]:
    """Write ``references.onnx``, ``frames.onnx`` and ``stsa.json`` into ``folder``, made where needed.

    Args:
        guidance, synthesis: the networks.
        folder: where to write; each file appears complete or not at all.
        meta: what came with the weights (`features`, `num_frames`, `heatmap_sigma`).

    Raises:
        UserError: a package of the extra ``onnx`` is missing.
    """
    _require_packages()
    meta = dict(meta or {})
    size, count, num_frames = synthesis.face_size, synthesis.num_references, int(meta.get("num_frames", 5))
    guidance, synthesis = guidance.eval(), synthesis.eval()
    images, heatmaps = torch.rand(1, count, 3, size, size), torch.rand(1, count, 1, size, size)
    reference_graph, frame_graph = ReferenceGraph(guidance, synthesis), FrameGraph(guidance, synthesis)
    with torch.no_grad():
        encoded = reference_graph(images, heatmaps)
    frames = 2  # any number above 1 stands for all
    driving = (
        torch.rand(frames, 3, size, size),
        torch.rand(frames, num_frames, 1, size, size),
        torch.randn(frames, num_frames, synthesis.audio_dim, 10),
    )
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / name for name in ("references.onnx", "frames.onnx", "stsa.json")]
    given, shared = ["masked", "contours", "audio"], ["tokens", *_MAPS][: len(encoded)]
    seen = ["reference_images", "reference_heatmaps"]
    _export(reference_graph, (images, heatmaps), paths[0], seen, shared, None)
    many = torch.export.Dim("frames", min=1)
    maps: tuple[Tensor, ...] = encoded[1:]
    names = shared[1:]
    sizes: tuple[dict[int, Any], ...] = tuple({} for _ in maps)
    if synthesis.align_references:
        maps = heatmaps, torch.eye(2, 3).repeat(frames, count, 1, 1)
        names, sizes = [seen[1], "theta"], ({}, {0: many})
    dynamic = (*({0: many} for _ in given), {}, {}, sizes)
    arguments = (*driving, images, encoded[0], *maps)
    _export(frame_graph, arguments, paths[1], [*given, seen[0], shared[0], *names], ["face"], dynamic)
    described = {
        "face_size": size,
        "num_references": count,
        "audio_dim": synthesis.audio_dim,
        **meta,
        "num_frames": num_frames,
    }
    with written_whole(paths[2]) as part:
        part.write_text(json.dumps(described, indent=2) + "\n")
    return paths


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
