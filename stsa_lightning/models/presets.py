"""Constructor settings by name: `released` are the published sizes, `small` is for dubbing 128 px on a laptop,
`tiny` trains in minutes on a CPU."""

from __future__ import annotations

from typing import Any

GUIDANCE: dict[str, dict[str, Any]] = {
    "released": {
        "audio_dim": 768,
        "face_size": 128,
        "width": 512,
        "base": 32,
        "layers": 8,
        "heads": 4,
        "feedforward": 1024,
    },
    "small": {
        "audio_dim": 368,
        "audio_dropout": 0.4,
        "face_size": 128,
        "width": 192,
        "base": 8,
        "layers": 4,
        "heads": 4,
        "feedforward": 384,
        "heatmap_sigma": 1.0,
    },
    "tiny": {"audio_dim": 80, "face_size": 64, "width": 64, "base": 8, "layers": 2, "heads": 4, "feedforward": 128},
}

SYNTHESIS: dict[str, dict[str, Any]] = {
    "released": {
        "audio_dim": 768,
        "face_size": 128,
        "num_references": 5,
        "width": 32,
        "audio_width": 128,
        "spade_hidden": 256,
        "align_kernels": (11, 7),
        "stem_kernel": 7,
        "flow_kernel": 7,
        "residuals": 2,
        "on_warped": False,
        "paths": "both",
        "base_reduction": 1,
        "blend": False,
        "temporal_dropout": 0.0,
    },
    "small": {
        "audio_dim": 368,
        "face_size": 128,
        "num_references": 2,
        "width": 4,
        "audio_width": 64,
        "spade_hidden": 16,
        "align_kernels": (5, 3),
        "stem_kernel": 5,
        "flow_kernel": 3,
        "residuals": 1,
        "on_warped": True,
        "align_references": True,
    },
    "tiny": {
        "audio_dim": 80,
        "face_size": 64,
        "num_references": 3,
        "width": 6,
        "audio_width": 32,
        "spade_hidden": 16,
        "align_kernels": (5, 3),
        "stem_kernel": 3,
        "flow_kernel": 3,
        "residuals": 1,
        "on_warped": True,
    },
}

# Size of the embeddings that CIL compares.
CIL_WIDTH = {"released": 128, "small": 64, "tiny": 32}
