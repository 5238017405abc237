"""What decides the contents of a prepared corpus."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from stsa_lightning.data.clip import FORMAT_VERSION
from stsa_lightning.features.base import FeatureKind
from stsa_lightning.utils.errors import UserError, check_at_least, check_choice

SyncSetting = Literal["auto", "syncnet", "lip_aperture", "none"]


@dataclass(frozen=True)
class PrepareSettings:
    """What decides the contents of a clip file; another setting makes another corpus.

    Args:
        face_size: side of the stored faces, pixels.
        margin_px: added on each side of the landmarks' box, pixels of the video.
        features: kinds of audio features to store.
        min_frames: fewest frames with a face, at 25/s; a video with fewer is rejected.
        landmark_model: a FaceLandmarker `.task` file; None for FaceMesh.
        wav2vec2_model: name or folder of another wav 2 vec 2.0 model; None for the usual one.
        sync: what finds the offset of sound and lips: "syncnet" (its weights are fetched if need be), "lip_aperture"
            (needs nothing), "none"; "auto": SyncNet where its weights lie already, else the lip aperture.
        correct_sync: move the sound of a clip whose offset is clear.
    """

    face_size: int = 128
    margin_px: int = 5
    features: tuple[str, ...] = ("logmel",)
    min_frames: int = 25
    landmark_model: str | None = None
    wav2vec2_model: str | None = None
    sync: SyncSetting = "auto"
    correct_sync: bool = True

    def __post_init__(self) -> None:
        for name, least in {"face_size": 16, "margin_px": 0, "min_frames": 1}.items():
            check_at_least(name, getattr(self, name), least)
        kinds = get_args(FeatureKind)
        if not self.features or set(self.features) - set(kinds):
            raise UserError(f"features: expected one or more of {list(kinds)}, got {list(self.features)}")
        check_choice("sync", self.sync, get_args(SyncSetting))

    def resolved(self) -> PrepareSettings:
        """With "auto" decided by what this machine has, and model files found from any folder."""
        from stsa_lightning.utils.weights import find_weights

        given = {"landmark_model": self.landmark_model, "wav2vec2_model": self.wav2vec2_model}
        placed: dict[str, Any] = {
            name: str(Path(model).absolute()) for name, model in given.items() if model and Path(model).exists()
        }
        if self.sync == "auto":
            placed["sync"] = "syncnet" if find_weights("syncnet") else "lip_aperture"
        return replace(self, **placed)

    def record(self) -> dict[str, Any]:
        """The settings as kept in clip files; of model files the name alone, so that they may move."""
        models = {k: v and Path(v).name for k, v in asdict(self).items() if k.endswith("_model")}
        return {**asdict(self), "features": list(self.features), **models}

    @property
    def hash(self) -> str:
        text = json.dumps([FORMAT_VERSION, self.record()], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]
