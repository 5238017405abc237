"""A lip-sync expert of one's own: SyncNet's two towers, sized for the faces and features that clip files hold.

Where SyncNet v2 sees 224 px of a whole video and 13 cepstral coefficients, this one sees the lower half of a face crop
and any of the audio features, so that it can be trained on any prepared corpus, in any language, and score what the
synthesis network renders without leaving its pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from stsa_lightning.features.base import FEATURE_DIMS, WINDOW_STEPS
from stsa_lightning.models.layers import check_face_size, check_shape
from stsa_lightning.utils.errors import UserError, check_choice
from stsa_lightning.utils.safe_load import load_tensors

WINDOW_FRAMES = 5  # as SyncNet: 0.2 s, which are the 10 steps of one audio window
_GRID = (2, 4)  # height, width of the last map: where in the mouth something is still counts


class SyncExpert(nn.Module):
    """Embeddings of 0.2 s of mouth and of sound, near where they belong together; of length 1.

    Args:
        face_size: side S of the face crops; other sizes are resized to it.
        width: channels of the first convolutions; deeper ones have 2, 4 and 4 times as many.
        dim: size E of the embeddings.
        dropout: before the last layer of either tower.
    """

    def __init__(
        self, features: str = "logmel", face_size: int = 64, width: int = 32, dim: int = 128, dropout: float = 0.0
    ) -> None:
        super().__init__()
        check_choice("features", features, FEATURE_DIMS)
        self.settings: dict[str, Any] = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        self.features, self.face_size, self.dim = features, check_face_size(face_size), dim
        wide = 4 * width
        # Only the first layer looks across frames, and slides along time: no frame is seen twice.
        self.motion = nn.Sequential(
            nn.Conv3d(3, width, (WINDOW_FRAMES, 5, 5), (1, 2, 2), (0, 2, 2), bias=False),
            nn.BatchNorm3d(width),
            nn.ReLU(inplace=True),
        )
        self.mouth = nn.Sequential(
            *_block(nn.Conv2d(width, 2 * width, 3, 2, 1)),
            *_block(nn.Conv2d(2 * width, wide, 3, 2, 1)),
            *_block(nn.Conv2d(wide, wide, 3, 1, 1)),
            nn.AdaptiveAvgPool2d(_GRID),
            nn.Flatten(),
        )
        self.lip_head = _head(wide * _GRID[0] * _GRID[1], dim, dropout)
        self.audio_encoder = nn.Sequential(
            nn.BatchNorm1d(FEATURE_DIMS[features]),
            *_block(nn.Conv1d(FEATURE_DIMS[features], wide, 3, 1, 1)),
            *_block(nn.Conv1d(wide, wide, 3, 1, 1)),
            *_block(nn.Conv1d(wide, wide, 3, 2, 1)),
            *_block(nn.Conv1d(wide, wide, 3, 1, 1)),
            nn.Flatten(),
        )
        self.speech_head = _head(wide * WINDOW_STEPS // 2, dim, dropout)

    def lip(self, faces: Tensor) -> Tensor:
        """Consecutive frames (B, T, 3, S, S) RGB in [0, 1], T of 5 or more -> embeddings of every run of five frames.

        (B, T - 4, E): entry t sees frames t to t + 4.
        """
        check_shape("faces", faces, None, None, 3, None, None)
        if faces.shape[1] < WINDOW_FRAMES:
            raise ValueError(f"faces must be {WINDOW_FRAMES} frames or more, got {faces.shape[1]}")
        if faces.shape[-1] != self.face_size:
            size = (self.face_size, self.face_size)
            faces = F.interpolate(faces.flatten(0, 1), size, mode="bilinear", antialias=True).unflatten(
                0, faces.shape[:2]
            )
        mouths = faces[..., self.face_size // 2 :, :].transpose(1, 2)  # (B, 3, T, S / 2, S)
        maps = self.motion(2 * mouths - 1).transpose(1, 2)  # (B, T - 4, C, S / 4, S / 2)
        codes = self.lip_head(self.mouth(maps.flatten(0, 1)))
        return F.normalize(codes, dim=-1).unflatten(0, maps.shape[:2])

    def speech(self, audio: Tensor) -> Tensor:
        """Audio around each frame (B, T, D, 10), see `feature_windows` -> embeddings of the same runs, (B, T - 4, E).

        The window of a run's centre frame is the sound of the run.
        """
        check_shape("audio", audio, None, None, FEATURE_DIMS[self.features], WINDOW_STEPS)
        margin = WINDOW_FRAMES // 2
        centred = audio[:, margin : audio.shape[1] - margin]
        codes = self.speech_head(self.audio_encoder(centred.flatten(0, 1)))
        return F.normalize(codes, dim=-1).unflatten(0, centred.shape[:2])

    def forward(self, faces: Tensor, audio: Tensor) -> tuple[Tensor, Tensor]:
        """`lip` and `speech` of the same T frames: two (B, T - 4, E)."""
        return self.lip(faces), self.speech(audio)


def _block(convolution: nn.Conv1d | nn.Conv2d) -> list[nn.Module]:
    norm = nn.BatchNorm1d if isinstance(convolution, nn.Conv1d) else nn.BatchNorm2d
    return [convolution, norm(convolution.out_channels), nn.ReLU(inplace=True)]


def _head(inputs: int, dim: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, 2 * dim), nn.BatchNorm1d(2 * dim), nn.ReLU(), nn.Dropout(dropout), nn.Linear(2 * dim, dim)
    )


def load_sync_expert(path: str | Path) -> SyncExpert:
    """The expert of a training checkpoint (`stsa syncnet fit`), frozen, in eval mode, on the CPU.

    Raises:
        FileNotFoundError: no such file.
        UserError: the file is damaged, or a checkpoint of something else.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such sync expert; train one: stsa syncnet fit -c experiments/syncnet.yaml")
    stored = load_tensors(path)
    if not isinstance(stored, Mapping) or "sync_expert" not in stored:
        raise UserError(f"{path}: expected a checkpoint of stsa syncnet fit, found another file")
    expert = SyncExpert(**stored["sync_expert"])
    own = {k.removeprefix("expert."): v for k, v in stored["state_dict"].items() if k.startswith("expert.")}
    expert.load_state_dict(own)
    return expert.requires_grad_(False).eval()
