"""SyncNet v2 (Chung & Zisserman 2016): embeddings of 0.2 s of mouth and of sound, near where they belong together.

Layers, names and shapes are those of the released weights. A picture is BGR 0..255, 224 x 224, at 25 frames/s; sound is
13 cepstral coefficients at 100 Hz.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from stsa_lightning.utils.safe_load import load_entries
from stsa_lightning.utils.weights import weights_path

DIM = 1024
WINDOW_FRAMES = 5
STEPS_PER_FRAME = 4
WINDOW_STEPS = 20
PICTURE_PX = 224
COEFFICIENTS = 13
BLOCK = 20  # windows computed at a time: the first layer's answer to one is 4.6 MB


def _block(conv: nn.Conv2d | nn.Conv3d, pool: nn.Module | None = None) -> list[nn.Module]:
    norm = nn.BatchNorm3d if isinstance(conv, nn.Conv3d) else nn.BatchNorm2d
    return [conv, norm(conv.out_channels), nn.ReLU(inplace=True), *([] if pool is None else [pool])]


def _lip_layers() -> nn.Sequential:
    """(N, 3, T, 224, 224) -> (N, 512, T - 4, 1, 1). Only the first layer looks across frames."""
    return nn.Sequential(
        *_block(nn.Conv3d(3, 96, (5, 7, 7), (1, 2, 2)), nn.MaxPool3d((1, 3, 3), (1, 2, 2))),
        *_block(nn.Conv3d(96, 256, (1, 5, 5), (1, 2, 2), (0, 1, 1)), nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1))),
        *_block(nn.Conv3d(256, 256, (1, 3, 3), padding=(0, 1, 1))),
        *_block(nn.Conv3d(256, 256, (1, 3, 3), padding=(0, 1, 1))),
        *_block(nn.Conv3d(256, 256, (1, 3, 3), padding=(0, 1, 1)), nn.MaxPool3d((1, 3, 3), (1, 2, 2))),
        *_block(nn.Conv3d(256, 512, (1, 6, 6))),
    )


def _speech_layers() -> nn.Sequential:
    """(N, 1, 13, 20) -> (N, 512, 1, 1)."""
    return nn.Sequential(
        *_block(nn.Conv2d(1, 64, 3, padding=1), nn.Identity()),  # the released network pools 1 x 1 here
        *_block(nn.Conv2d(64, 192, 3, padding=1), nn.MaxPool2d(3, (1, 2))),
        *_block(nn.Conv2d(192, 384, 3, padding=1)),
        *_block(nn.Conv2d(384, 256, 3, padding=1)),
        *_block(nn.Conv2d(256, 256, 3, padding=1), nn.MaxPool2d(3, 2)),
        *_block(nn.Conv2d(256, 512, (5, 4))),
    )


def _head() -> nn.Sequential:
    return nn.Sequential(nn.Linear(512, 512), nn.BatchNorm1d(512), nn.ReLU(), nn.Linear(512, DIM))


class SyncNet(nn.Module):
    """The released network: frozen, and in eval mode whatever `train()` says. Gradients reach its inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.netcnnaud, self.netfcaud = _speech_layers(), _head()
        self.netcnnlip, self.netfclip = _lip_layers(), _head()
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> SyncNet:
        return super().train(False)

    def lip(self, frames: Tensor) -> Tensor:
        """Frames (F, 3, 224, 224), BGR 0..255, F of 5 or more -> embeddings of every run of five, (F - 4, 1024).

        Entry t sees frames t to t + 4.
        The convolutions slide along time, so no frame is copied into several windows and no layer answers twice for one
        moment; the result is that of the windows one by one. (The arithmetic is the same too, as only the first layer
        looks across frames: it is the five-fold copy of the pictures that is saved.)

        Raises:
            TypeError, ValueError: integers, or another shape.
        """
        if frames.dim() != 4 or frames.shape[1:] != (3, PICTURE_PX, PICTURE_PX) or len(frames) < WINDOW_FRAMES:
            raise ValueError(f"frames must be (F, 3, 224, 224) with F of 5 or more, got {tuple(frames.shape)}")
        if not frames.is_floating_point():
            raise TypeError(f"frames must be floating point, BGR, 0..255, got {frames.dtype}: convert with .float()")
        windows = len(frames) - WINDOW_FRAMES + 1
        video = frames.transpose(0, 1)[None]  # (1, 3, F, 224, 224)
        features = [
            self.netcnnlip(video[:, :, start : start + BLOCK + WINDOW_FRAMES - 1]).flatten(2)[0]
            for start in range(0, windows, BLOCK)
        ]
        return self.netfclip(torch.cat(features, dim=1).T)

    def speech(self, mfcc: Tensor) -> Tensor:
        """MFCC (13, steps) at 100 Hz, 20 steps or more -> embeddings of every video frame's sound, (W, 1024).

        W = (steps - 20) // 4 + 1; entry t covers steps 4 t to 4 t + 19.
        Windows are computed one beside the other: their layers fill the edges of each window with zeros, so almost
        nothing that one window computes is what its neighbour needs.

        Raises:
            TypeError, ValueError: integers, or another shape.
        """
        if mfcc.dim() != 2 or mfcc.shape[0] != COEFFICIENTS or mfcc.shape[1] < WINDOW_STEPS:
            raise ValueError(f"mfcc must be (13, steps) with 20 steps or more, got {tuple(mfcc.shape)}")
        if not mfcc.is_floating_point():
            raise TypeError(f"mfcc must be floating point, got {mfcc.dtype}")
        windows = mfcc.unfold(1, WINDOW_STEPS, STEPS_PER_FRAME).transpose(0, 1)[:, None]  # (W, 1, 13, 20)
        features = [self.netcnnaud(block).flatten(1) for block in windows.split(BLOCK)]
        return self.netfcaud(torch.cat(features))


def load_syncnet(weights_dir: str | Path | None = None) -> SyncNet:
    """SyncNet v2 with the released weights (`syncnet_v2.model`, a state dict), on the CPU.

    Raises:
        WeightsError: the file is neither here nor to be had.
        TensorFileError: the file is damaged, holds more than tensors, or is of another network.
    """
    network = SyncNet()
    load_entries(network, weights_path("syncnet", weights_dir), alone=True)
    return network
