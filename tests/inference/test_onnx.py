from __future__ import annotations

import builtins
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stsa_lightning.cli import main
from stsa_lightning.inference.frame_inputs import example_inputs
from stsa_lightning.inference.onnx import OnnxEngine, export_onnx
from stsa_lightning.inference.reference import PlainEngine
from stsa_lightning.models.checkpoint import save_networks
from stsa_lightning.models.guidance import Guidance
from stsa_lightning.models.synthesis import Synthesis
from stsa_lightning.utils.errors import UserError


@pytest.mark.slow
@pytest.mark.parametrize("align_references", [False, True])
def test_onnx_renders_as_the_networks_do(
    tiny_guidance: Guidance, tiny_synthesis: Synthesis, tmp_path: Path, align_references: bool
) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    if align_references:
        weights = tiny_synthesis.state_dict()
        tiny_synthesis = Synthesis(**{**tiny_synthesis.settings, "align_references": True}).eval()
        tiny_synthesis.load_state_dict(weights)
    checkpoint = save_networks(
        tmp_path / "nets.safetensors", tiny_guidance, tiny_synthesis, {"features": "logmel", "num_frames": 5}
    )
    main(["weights", "export-onnx", str(checkpoint), "-o", str(tmp_path / "onnx")])
    described = json.loads((tmp_path / "onnx" / "stsa.json").read_text())
    assert described == {"face_size": 64, "num_references": 3, "audio_dim": 80, "features": "logmel", "num_frames": 5}

    references, frames, chosen = example_inputs(64, 80, 5, 3, frames=3)
    chosen = replace(chosen, theta=chosen.theta + 0.1 * torch.randn(3, 3, 2, 3))
    engine, plain = OnnxEngine(tmp_path / "onnx"), PlainEngine(tiny_guidance, tiny_synthesis, torch.device("cpu"))
    encoded = [each.encode(references) for each in (plain, engine)]
    true, guided = (each.guide(frames, given) for each, given in zip((plain, engine), encoded, strict=True))
    torch.testing.assert_close(guided.keypoints, true.keypoints, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(guided.heatmaps, true.heatmaps, atol=1e-4, rtol=1e-4)
    expected = plain.render(frames, true, chosen, encoded[0])
    found = engine.render(frames, guided, chosen, encoded[1])
    assert expected.faces.std() > 0.05
    for name, answer in vars(found).items():
        torch.testing.assert_close(answer, getattr(expected, name), atol=1e-4, rtol=1e-4)

    # Without chosen references the graph takes all frames at once.
    graph = runtime.InferenceSession(tmp_path / "onnx" / "synthesis.onnx")
    given = {
        **vars(frames),
        **vars(guided),
        **vars(chosen),
        "reference_images": references.images,
        "reference_heatmaps": references.heatmaps,
    }
    given = {name: value.numpy() for name, value in given.items()} | engine.encode(references).encoded
    (faces,) = graph.run(["face"], {value.name: given[value.name] for value in graph.get_inputs()})
    np.testing.assert_allclose(faces, expected.faces, atol=1e-4, rtol=0)


def test_what_is_missing_is_named(
    tiny_guidance: Guidance, tiny_synthesis: Synthesis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real: Callable[..., Any] = builtins.__import__

    def without_onnx(name: str, *arguments: Any, **options: Any) -> Any:
        if name.split(".")[0] == "onnx":
            raise ImportError("No module named 'onnx'", name="onnx")
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without_onnx)
    with pytest.raises(UserError, match=r"onnx is not installed.*stsa_lightning\[onnx\]"):
        export_onnx(tiny_guidance, tiny_synthesis, tmp_path / "out")
    assert not (tmp_path / "out").exists()
