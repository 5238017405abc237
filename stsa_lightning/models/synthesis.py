"""Stage 2: a masked face, its driving heatmap, the audio and N reference faces to the whole face."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stsa_lightning.models.inpainting import Fusion, Inpainting
from stsa_lightning.models.layers import ConvBlock, ResidualConvBlock, check_face_size, check_shape
from stsa_lightning.models.spatial_path import SpatialPath
from stsa_lightning.models.temporal_path import TemporalPath
from stsa_lightning.utils.errors import check_choice

Paths = Literal["both", "spatial", "temporal"]


@dataclass
class References:
    """All that reference faces alone decide, so that a video pays for it once.

    `images` (B, N, 3, S, S); `spatial`: the spatial path's maps (B, C, s, s) at S, S/2, S/4, before their
    transforms; `content` (B, C, S/4, S/4): its alignment encoder's view of them; `temporal`: the temporal path's
    maps (B, N, C, s, s) at S, S/2, S/4.
    """

    images: Tensor
    spatial: tuple[Tensor, ...]
    content: Tensor
    temporal: tuple[Tensor, ...]

    def expand(self, frames: int) -> References:
        """One video's references (B = 1) beside each of `frames` frames, without a copy."""
        return self._map(lambda t: t.expand(frames, *t.shape[1:]))

    def repeat_interleave(self, times: int) -> References:
        """Each sample's references `times` times in a row: from (B, ...) to (B * `times`, ...)."""
        return self._map(lambda t: t.repeat_interleave(times, dim=0))

    def tensors(self) -> tuple[Tensor, ...]:
        """All of them, for `of`."""
        return self.images, *self.spatial, self.content, *self.temporal

    @classmethod
    def of(cls, images: Tensor, *rest: Tensor) -> References:
        """References of their `tensors`."""
        return cls(images, rest[:3], rest[3], rest[4:])

    def _map(self, change: Callable[[Tensor], Tensor]) -> References:
        return self.of(*map(change, self.tensors()))


@dataclass
class SynthesisOutput:
    """Output of the synthesis network for B frames.

    `face` (B, 3, S, S) in (0, 1); `painted` (B, 3, S, S): what the inpainting makes of it, before it is blended with
    the warped reference; `warped` (B, 3, S, S): the references moved by the flow; `spatial`, `temporal`, `fused`: maps
    (B, C, s, s) of either path and of both at S, S/2, S/4; `flow` (B, N, 2, S, S) in pixels, x then y; `confidence`
    (B, N, 1, S, S) in (0, 1); `audio` (B, `audio_width`): the audio code.
    """

    face: Tensor
    painted: Tensor
    warped: Tensor
    spatial: tuple[Tensor, ...]
    temporal: tuple[Tensor, ...]
    fused: tuple[Tensor, ...]
    flow: Tensor
    confidence: Tensor
    audio: Tensor


def mask_lower_half(faces: Tensor) -> Tensor:
    """Faces (..., S, S) with their lower half set to 0, as the network is given them."""
    masked = faces.clone()
    masked[..., faces.shape[-2] // 2 :, :] = 0
    return masked


def warp_references(images: Tensor, heatmaps: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
    """Reference faces and their heatmaps as they would lie in each frame's face.

    Args:
        images, heatmaps: (B, N, 3, S, S) and (B, N, 1, S, S), or of one video (B = 1).
        theta: (B, N, 2, 3), where each is read (see `face.alignment.reference_transforms`); beyond
            its rim a reference goes on as it ends, its heatmap is empty.
    """
    B, N = theta.shape[:2]
    with torch.autocast(theta.device.type, enabled=False):
        grid = F.affine_grid(theta.flatten(0, 1).float(), [B * N, 1, *images.shape[-2:]], align_corners=False)

        def move(maps: Tensor, beyond: str) -> Tensor:
            every = maps.float().expand(B, -1, -1, -1, -1).flatten(0, 1)
            moved = F.grid_sample(every, grid, padding_mode=beyond, align_corners=False)
            return moved.to(maps.dtype).unflatten(0, (B, N))

        return move(images, "border"), move(heatmaps, "zeros")


class AudioCodeEncoder(nn.Sequential):
    """Audio window (B, D, 10) to a code (B, `width`)."""

    def __init__(self, audio_dim: int, width: int) -> None:
        super().__init__(
            ConvBlock(audio_dim, width, dims=1),
            ConvBlock(width, width, stride=2, dims=1),
            *(ResidualConvBlock(width, dims=1) for _ in range(2)),
            ConvBlock(width, width, stride=2, dims=1),
            *(ResidualConvBlock(width, dims=1) for _ in range(3)),
            ConvBlock(width, width, padding=0, dims=1),
        )

    def forward(self, window: Tensor) -> Tensor:
        return super().forward(window).mean(-1)


class Synthesis(nn.Module):
    """The synthesis network of stage 2; defaults are the sizes of the released one.

    Args:
        audio_dim: size D of an audio feature step.
        face_size: side S of the face in pixels, a power of two of at least 64.
        num_references: number N of reference faces; the first convolutions are made for it.
        width: channels at full size; deeper maps have 4, 8 and 16 times as many.
        audio_width, spade_hidden, align_kernels, stem_kernel, flow_kernel: see `models.settings.SynthesisSettings`.
        on_warped, base_reduction, blend: start from the warped reference instead of from nothing, see `Inpainting`.
        residuals: residual blocks in the reference encoder at each scale, before each AdaAT, and after it.
        align_references: references are moved onto each frame's pose before any path encodes them, see
            `warp_references` (ours; preset `small` laid references of two poses over each other).
        paths: which paths the face is made of; for ablations. The other one's maps are zeros to the fusion, and without
            the temporal path `on_warped` corrects the mean of the references, which nothing moves.
        temporal_dropout: in training, the probability that a frame is rendered without the temporal path, as under
            `paths`, so that the spatial path learns to make a face, too.
    """

    def __init__(
        self,
        audio_dim: int = 768,
        face_size: int = 128,
        num_references: int = 5,
        width: int = 32,
        audio_width: int = 128,
        spade_hidden: int = 256,
        align_kernels: tuple[int, int] = (11, 7),
        stem_kernel: int = 7,
        flow_kernel: int = 7,
        residuals: int = 2,
        on_warped: bool = False,
        align_references: bool = False,
        paths: Paths = "both",
        base_reduction: int = 1,
        blend: bool = False,
        temporal_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_choice("paths", paths, get_args(Paths))
        align_kernels = (align_kernels[0], align_kernels[1])  # a list where settings come from a file
        self.settings: dict[str, Any] = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        self.audio_dim, self.face_size = audio_dim, check_face_size(face_size)
        self.num_references = num_references
        if base_reduction < 1 or face_size % base_reduction:
            raise ValueError(f"base_reduction must divide face_size ({face_size}), got {base_reduction}")
        if not 0 <= temporal_dropout < 1:
            raise ValueError(f"temporal_dropout must be 0 or more and below 1, got {temporal_dropout}")
        self.paths, self.align_references, self.temporal_dropout = paths, align_references, temporal_dropout
        self.channels = (width, 4 * width, 8 * width)  # of either path's maps at S, S/2, S/4
        self.audio_encoder = AudioCodeEncoder(audio_dim, audio_width)
        self.spatial = SpatialPath(face_size, num_references, width, audio_width, align_kernels, stem_kernel, residuals)
        self.temporal = TemporalPath(width, audio_width, spade_hidden, stem_kernel, flow_kernel)
        self.fusion = Fusion(self.channels)
        self.inpainting = Inpainting(width, audio_width, spade_hidden, stem_kernel, on_warped, base_reduction, blend)

    def encode_references(self, images: Tensor, heatmaps: Tensor, theta: Tensor | None = None) -> References:
        """`images` (B, N, 3, S, S) in [0, 1] and their `heatmaps` (B, N, 1, S, S).

        With `align_references`, references are first warped onto each frame's pose by the transforms `theta`
        (B, N, 2, 3); images and heatmaps may then be of batch 1, those of one video.
        """
        S = self.face_size
        if self.align_references:
            if theta is None:
                raise ValueError("align_references: expected transforms theta (B, N, 2, 3) of the references, got none")
            check_shape("theta", theta, None, self.num_references, 2, 3)
            images, heatmaps = warp_references(images, heatmaps, theta)
        check_shape("images", images, None, self.num_references, 3, S, S)
        check_shape("heatmaps", heatmaps, images.shape[0], self.num_references, 1, S, S)
        maps, content = self.spatial.encode(images, heatmaps)
        return References(images, maps, content, self.temporal.encode(images, heatmaps))

    def render(self, masked: Tensor, heatmap: Tensor, audio: Tensor, references: References) -> SynthesisOutput:
        """Faces of B frames.

        Args:
            masked: (B, 3, S, S) in [0, 1], lower half 0.
            heatmap: (B, 1, S, S) in [0, 1], all contours of the frame.
            audio: (B, D, 10).
            references: of batch B (see `References.expand` and `References.repeat_interleave`).
        """
        B, S = masked.shape[0], self.face_size
        check_shape("masked", masked, None, 3, S, S)
        check_shape("heatmap", heatmap, B, 1, S, S)
        check_shape("audio", audio, B, self.audio_dim, 10)
        check_shape("references.images", references.images, B, self.num_references, 3, S, S)
        code = self.audio_encoder(audio)
        spatial = self.spatial(references.spatial, references.content, heatmap, code)
        warped = self.temporal(references.images, references.temporal, heatmap, code)
        temporal, base_image = warped.maps, warped.image
        if self.paths == "spatial":
            base_image = references.images.mean(1)
        elif self.training and self.temporal_dropout:
            kept = (torch.rand(B, 1, 1, 1, device=masked.device) >= self.temporal_dropout).to(base_image.dtype)
            temporal = tuple(maps * kept.to(maps.dtype) for maps in temporal)
            base_image = torch.lerp(references.images.mean(1).to(base_image.dtype), base_image, kept)
        fused = self.fusion(*self._used(spatial, temporal))
        face, painted = self.inpainting(masked, heatmap, fused, code, base_image)
        flow = warped.flow, warped.confidence
        return SynthesisOutput(face, painted, warped.image, spatial, warped.maps, fused, *flow, code)

    def forward(
        self,
        masked: Tensor,
        heatmap: Tensor,
        audio: Tensor,
        images: Tensor,
        heatmaps: Tensor,
        theta: Tensor | None = None,
    ) -> SynthesisOutput:
        """`encode_references` and `render` of one batch: one set of references per frame."""
        return self.render(masked, heatmap, audio, self.encode_references(images, heatmaps, theta))

    def _used(self, spatial: tuple[Tensor, ...], temporal: tuple[Tensor, ...]) -> tuple[tuple[Tensor, ...], ...]:
        """Both paths' maps, those of an ablated path as zeros, through which no gradient comes."""
        off = {"both": (), "spatial": temporal, "temporal": spatial}[self.paths]
        return tuple(tuple(map(torch.zeros_like, maps)) if maps is off else maps for maps in (spatial, temporal))
