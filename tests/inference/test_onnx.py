from __future__ import annotations

import builtins
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stsa_lightning.cli import main
from stsa_lightning.inference.onnx import export_onnx
from stsa_lightning.models.checkpoint import save_networks
from stsa_lightning.models.guidance import Guidance
from stsa_lightning.models.synthesis import Synthesis, mask_lower_half
from stsa_lightning.utils.errors import UserError


@pytest.mark.slow
@pytest.mark.parametrize("align_references", [False, True])
def test_onnx_draws_as_the_networks_do(
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

    graphs = {name: runtime.InferenceSession(tmp_path / "onnx" / f"{name}.onnx") for name in ("references", "frames")}
    images, heatmaps = torch.rand(1, 3, 3, 64, 64), torch.rand(1, 3, 1, 64, 64)
    seen = {"reference_images": images.numpy(), "reference_heatmaps": heatmaps.numpy()}
    names = [output.name for output in graphs["references"].get_outputs()]
    encoded = dict(zip(names, graphs["references"].run(None, seen), strict=True))
    for frames in (1, 3):
        masked, contours = mask_lower_half(torch.rand(frames, 3, 64, 64)), torch.rand(frames, 5, 1, 64, 64)
        audio = torch.randn(frames, 5, 80, 10)
        driving = {"masked": masked.numpy(), "contours": contours.numpy(), "audio": audio.numpy()}
        theta = torch.eye(2, 3) + 0.1 * torch.randn(frames, 3, 2, 3)
        own = {"reference_heatmaps": seen["reference_heatmaps"], "theta": theta.numpy()} if align_references else {}
        given = {**driving, "reference_images": seen["reference_images"], **encoded, **own}
        (face,) = graphs["frames"].run(["face"], given)
        with torch.inference_mode():
            heatmap = tiny_guidance(audio, contours, heatmaps.expand(frames, -1, -1, -1, -1)).heatmap[:, 2]
            references = tiny_synthesis.encode_references(images, heatmaps, theta).expand(frames)
            expected = tiny_synthesis.render(masked, heatmap, audio[:, 2], references).face
        assert expected.std() > 0.05
        np.testing.assert_allclose(face, expected, atol=1e-4, rtol=0)


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
