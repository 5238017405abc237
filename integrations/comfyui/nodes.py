# Copyright 2025 the stsa_lightning authors. Licensed under the Apache License, Version 2.0; see LICENSE.
"""STSA as a node: images and speech in, images with other lips and the speech out."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stsa_lightning.dubbing import Dubber, DubError, Pictures, Sound, make_schedule
from stsa_lightning.models import BUNDLED

# As users of other lip-sync nodes know them -> as `Dubber` does.
SPEECH_LONGER = {"bounce": "loop", "freeze": "freeze", "cut": "trim"}
FACES = ["auto", "largest", "left", "right", "1", "2", "3", "4"]
DEVICES = ["auto", "cpu", "cuda"]


class STSADub:
    """Redraw the mouth of a speaking face to new speech. Frames without a face pass through; none ends the workflow."""

    CATEGORY = "video/lip sync"
    DESCRIPTION = __doc__
    FUNCTION = "dub"
    RETURN_TYPES = ("IMAGE", "AUDIO", "STRING")
    RETURN_NAMES = ("images", "audio", "report")

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, dict[str, Any]]:  # noqa: N802 (its name in ComfyUI)
        told = "largest side at which a face is rendered, pixels; 0: its own up to 512, 1: the networks' 128, enlarged"
        return {
            "required": {
                "images": ("IMAGE", {"tooltip": "frames of one person or more"}),
                "audio": ("AUDIO", {"tooltip": "the new speech, a voice without music"}),
                "fps": ("FLOAT", {"default": 25.0, "min": 15.0, "max": 120.0, "step": 0.001}),
                "speech_longer": (list(SPEECH_LONGER), {"tooltip": "what is shown when the images are at their end"}),
                "face": (FACES, {"tooltip": "whose mouth; a number: from the left"}),
                "pauses": (
                    ["close", "keep"],
                    {"tooltip": "shut the mouth where no voice is heard, or follow all"},
                ),
                "resolution": ("INT", {"default": 0, "min": 0, "max": 4096, "tooltip": told}),
                "device": (DEVICES,),
            },
            "optional": {"checkpoint": ("STRING", {"default": "", "tooltip": "empty: the networks of the package"})},
        }

    def dub(
        self,
        images: torch.Tensor,
        audio: dict[str, Any],
        fps: float,
        speech_longer: str = "bounce",
        face: str = "auto",
        pauses: str = "close",
        resolution: int = 0,
        device: str = "auto",
        checkpoint: str = "",
    ) -> tuple[torch.Tensor, dict[str, Any], str]:
        """`images` (n, H, W, 3) in [0, 1], `audio` {"waveform": (1, channels, samples), "sample_rate"} -> the same."""
        fit = SPEECH_LONGER[speech_longer]
        video = Pictures(_bytes(images), fps)
        speech = Sound(audio["waveform"][0].float().cpu().numpy(), int(audio["sample_rate"]))
        dubber = _dubber(checkpoint, fit, face, pauses, resolution, device)
        try:
            drawn = _watched(dubber.frames(video, speech), round(_seconds(audio) * fps))
            frames = torch.stack([torch.from_numpy(frame) for frame in drawn])
            report = f"{len(frames)} frames"
        except DubError as error:
            frames = _passed_through(images, fps, fit, _seconds(audio))
            report = f"{len(frames)} frames, passed through: {error}"
        return frames.float() / 255, _cut(audio, len(frames) / fps if fit == "trim" else None), report


@lru_cache(maxsize=1)
def _dubber(checkpoint: str, fit: str, face: str, pauses: str, resolution: int, device: str) -> Dubber:
    """The last one stays, with its networks."""
    side = {0: "auto", 1: "network"}.get(resolution, resolution)
    path = Path(checkpoint) if checkpoint else BUNDLED
    return Dubber.from_checkpoint(path, device, fit=fit, face=face, silence=pauses, resolution=side)


def _bytes(images: torch.Tensor) -> Iterator[np.ndarray]:
    for image in images:
        yield (image[..., :3].clamp(0, 1) * 255).round().byte().cpu().numpy()


def _watched(frames: Iterator[np.ndarray], count: int) -> Iterator[np.ndarray]:
    """Frames, counted on ComfyUI's bar, until the user stops the workflow."""
    try:
        from comfy.model_management import throw_exception_if_processing_interrupted as check
        from comfy.utils import ProgressBar
    except ImportError:  # outside ComfyUI
        yield from frames
        return
    bar = ProgressBar(count)
    for frame in frames:
        check()
        bar.update(1)
        yield frame


def _passed_through(images: torch.Tensor, fps: float, fit: str, seconds: float) -> torch.Tensor:
    schedule = make_schedule(np.arange(len(images)) / fps, fps, seconds, fit)
    pictures = torch.stack([torch.from_numpy(picture) for picture in _bytes(images)])
    return pictures[torch.from_numpy(schedule.source)]


def _seconds(audio: dict[str, Any]) -> float:
    return audio["waveform"].shape[-1] / audio["sample_rate"]


def _cut(audio: dict[str, Any], seconds: float | None) -> dict[str, Any]:
    """All its channels, no longer than `seconds`."""
    end = None if seconds is None else round(seconds * audio["sample_rate"])
    return {**audio, "waveform": audio["waveform"][..., :end]}


NODE_CLASS_MAPPINGS = {"STSADub": STSADub}
NODE_DISPLAY_NAME_MAPPINGS = {"STSADub": "STSA lip sync"}
