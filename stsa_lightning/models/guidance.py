"""Stage 1: audio and masked contours to the heatmaps of lips and jaw (paper, figure 2)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stsa_lightning.models.heatmap_renderer import HeatmapRenderer
from stsa_lightning.models.layers import (
    ConvBlock,
    ResidualConvBlock,
    UpBlock,
    check_face_size,
    check_shape,
    reduced_size,
)

LIP_KEYPOINTS = 40
JAW_KEYPOINTS = 17
MAX_TOKENS = 512  # longest window the time code covers


@dataclass
class GuidanceOutput:
    """Output of the guidance network for windows of T frames.

    `lip`, `jaw`: heatmaps (B, T, 1, S, S) in [0, 1). `keypoints`: (B, T, 2, 57), x and y in the face box, 17 jaw
    points then 40 lip points. `heatmap`: (B, T, 1, S, S), the sum of lip, jaw (and masked) heatmaps, at most 1.
    `audio_embeddings`: of the audio windows, (B, T, C), before anything else is known.
    """

    lip: Tensor
    jaw: Tensor
    keypoints: Tensor
    heatmap: Tensor
    audio_embeddings: Tensor


class AudioWindowEncoder(nn.Sequential):
    """Audio window (B, D, 10) to an embedding (B, `width`) in (-1, 1).

    Args:
        dropout: share of the D features that are missing from a window in training (ours): with minutes of speech, an
            encoder that may rely on any one of them learns the speakers by heart.
    """

    def __init__(self, audio_dim: int, width: int, dropout: float = 0.0) -> None:
        quarter, half = width // 4, width // 2
        super().__init__(
            ConvBlock(audio_dim, quarter, dims=1),
            ConvBlock(quarter, quarter, dims=1),
            *(ResidualConvBlock(quarter, dims=1) for _ in range(2)),
            ConvBlock(quarter, half, stride=2, dims=1),
            *(ResidualConvBlock(half, dims=1) for _ in range(2)),
            ConvBlock(half, width, stride=2, dims=1),
            *(ResidualConvBlock(width, dims=1) for _ in range(2)),
            ConvBlock(width, width, dims=1),
            ConvBlock(width, width, padding=0, dims=1),
            ConvBlock(width, width, kernel=1, dims=1, activation=torch.tanh),
        )
        self.dropout = dropout

    def forward(self, window: Tensor) -> Tensor:
        return super().forward(F.dropout1d(window, self.dropout, self.training)).mean(-1)


class HeatmapEncoder(nn.Sequential):
    """Heatmap (B, 1, S, S) to an embedding (B, `width`) in (-1, 1).

    At S = 128 the last map is a single point; at other sizes it is averaged, and padded where smaller than a kernel.
    """

    def __init__(self, face_size: int, base: int, width: int) -> None:
        size = reduced_size(face_size, 2)
        for _ in range(3):
            size = reduced_size(size, 3)
        super().__init__(
            ConvBlock(1, base, stride=2),
            *(ResidualConvBlock(base) for _ in range(2)),
            ConvBlock(base, 2 * base, stride=3),
            *(ResidualConvBlock(2 * base) for _ in range(2)),
            ConvBlock(2 * base, 4 * base, stride=3),
            *(ResidualConvBlock(4 * base) for _ in range(2)),
            ConvBlock(4 * base, 8 * base, stride=3),
            ResidualConvBlock(8 * base),
            ConvBlock(8 * base, width, padding=0 if size >= 3 else 1),
            ConvBlock(width, width, kernel=1, activation=torch.tanh),
        )

    def forward(self, heatmap: Tensor) -> Tensor:
        return super().forward(heatmap).mean((2, 3))


class TimeCode(nn.Module):
    """Adds a sinusoid of the place in the window to tokens (B, T, C). A stored buffer: checkpoints carry their own."""

    table: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        place = torch.arange(MAX_TOKENS, dtype=torch.float32)[:, None]
        rate = torch.exp(-math.log(10_000.0) / width * torch.arange(0, width, 2, dtype=torch.float32))
        table = torch.stack([torch.sin(place * rate), torch.cos(place * rate)], dim=-1).flatten(1)
        self.register_buffer("table", table)

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens + self.table[: tokens.shape[1]]


class TokenFusion(nn.Module):
    """Transformer encoder over [N reference | T audio | T masked] tokens; its outputs drive the lips and the jaw."""

    def __init__(self, width: int, layers: int, heads: int, feedforward: int, dropout: float) -> None:
        super().__init__()
        self.masked_time = TimeCode(width)
        self.audio_time = TimeCode(width)
        self.modality = nn.Embedding(4, width, padding_idx=0)
        layer = nn.TransformerEncoderLayer(width, heads, feedforward, dropout, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, layers)
        self.dropout = nn.Dropout(dropout)

    def forward(self, masked: Tensor, audio: Tensor, references: Tensor) -> tuple[Tensor, Tensor]:
        """`masked`, `audio` (B, T, C), `references` (B, N, C) -> lip and jaw embeddings, each (B, T, C)."""
        _, masked_row, audio_row, reference_row = self.modality.weight
        tokens = [references + reference_row, self.audio_time(audio) + audio_row, self.masked_time(masked) + masked_row]
        encoded = self.encoder(self.dropout(torch.cat(tokens, dim=1)))
        _, lip, jaw = encoded.split([t.shape[1] for t in tokens], dim=1)
        return lip, jaw


class HeatmapDecoder(nn.Module):
    """Two decoders that exchange messages: embeddings (B, C) to lip and jaw heatmaps (B, 1, S, S) in [0, 1).

    Both sides exchange a block of each other at 8 x 8 and add their own encoding of the masked heatmap at S/4.
    """

    def __init__(self, face_size: int, base: int, width: int) -> None:
        super().__init__()
        sizes = [4 * 2**i for i in range(int(math.log2(face_size // 4)))]  # 4, 8, ..., S/2
        channels = [min(width, base * face_size // (2 * size)) for size in sizes]
        self.exchange_at, self.masked_at = sizes.index(8), sizes.index(face_size // 4)
        self.lip = self._side([width, *channels, 1])
        self.jaw = self._side([width, *channels, 1])
        exchanged = channels[self.exchange_at]
        self.lip_to_jaw = ConvBlock(exchanged, exchanged)
        self.jaw_to_lip = ConvBlock(exchanged, exchanged)
        self.masked_to_lip = nn.Sequential(ConvBlock(1, base, stride=2), ConvBlock(base, 2 * base, stride=2))
        self.masked_to_jaw = nn.Sequential(ConvBlock(1, base, stride=2), ConvBlock(base, 2 * base, stride=2))

    @staticmethod
    def _side(channels: list[int]) -> nn.ModuleList:
        first = UpBlock(channels[0], channels[1], stride=1)
        return nn.ModuleList([first, *(UpBlock(i, o) for i, o in pairwise(channels[1:]))])

    def forward(self, lip: Tensor, jaw: Tensor, masked_heatmap: Tensor) -> tuple[Tensor, Tensor]:
        lip, jaw = lip[..., None, None], jaw[..., None, None]
        for i, (lip_block, jaw_block) in enumerate(zip(self.lip, self.jaw, strict=True)):
            lip, jaw = lip_block(lip), jaw_block(jaw)
            if i == self.exchange_at:
                lip, jaw = lip + self.jaw_to_lip(jaw), jaw + self.lip_to_jaw(lip)
            if i == self.masked_at:
                lip, jaw = lip + self.masked_to_lip(masked_heatmap), jaw + self.masked_to_jaw(masked_heatmap)
        return torch.tanh(lip), torch.tanh(jaw)


class Guidance(nn.Module):
    """The guidance network of stage 1; defaults are the sizes of the released one (48.07 M parameters).

    Args:
        audio_dim: size D of an audio feature step.
        face_size: side S of the face in pixels, a power of two of at least 64.
        width: size of every embedding.
        base: channels of the first heatmap convolution; deeper ones are multiples of it.
        layers, heads, feedforward, dropout: the transformer's.
        audio_dropout: see `AudioWindowEncoder`.
        add_masked: add the masked heatmap to the predicted one (paper); the released inference does not.
        heatmap_sigma: render the heatmap that drives the picture from the predicted keypoints, with lines of this
            width in pixels; 0: as the decoders say (paper). This is ours: until they were trained on hours of speech,
            decoders predict the mean of possible lips, a blur that no picture can be rendered from, while
            keypoints follow the speech already.
    """

    def __init__(
        self,
        audio_dim: int = 768,
        face_size: int = 128,
        width: int = 512,
        base: int = 32,
        layers: int = 8,
        heads: int = 4,
        feedforward: int = 1024,
        dropout: float = 0.1,
        audio_dropout: float = 0.0,
        add_masked: bool = True,
        heatmap_sigma: float = 0.0,
    ) -> None:
        super().__init__()
        self.settings: dict[str, Any] = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        if width % heads or width % 4:
            raise ValueError(f"width must be a multiple of 4 and of heads ({heads}), got {width}")
        self.audio_dim, self.face_size, self.add_masked = audio_dim, check_face_size(face_size), add_masked
        self.audio_encoder = AudioWindowEncoder(audio_dim, width, audio_dropout)
        self.masked_encoder = HeatmapEncoder(face_size, base, width)
        self.reference_encoder = HeatmapEncoder(face_size, base, width)
        self.norm = nn.LayerNorm(width)  # shared by the three kinds of embedding
        self.fusion = TokenFusion(width, layers, heads, feedforward, dropout)
        self.decoder = HeatmapDecoder(face_size, base, width)
        self.lip_encoder = HeatmapEncoder(face_size, base, width)
        self.jaw_encoder = HeatmapEncoder(face_size, base, width)
        self.lip_keypoints = nn.Linear(width, 2 * LIP_KEYPOINTS)
        self.jaw_keypoints = nn.Linear(width, 2 * JAW_KEYPOINTS)
        self.heatmap_renderer = HeatmapRenderer(face_size, heatmap_sigma) if heatmap_sigma else None

    def forward(self, audio: Tensor, masked_heatmaps: Tensor, reference_heatmaps: Tensor) -> GuidanceOutput:
        """Heatmaps and keypoints of windows of T frames.

        Args:
            audio: (B, T, D, 10).
            masked_heatmaps: (B, T, 1, S, S) in [0, 1], the contours that speech does not decide.
            reference_heatmaps: (B, N, 1, S, S) in [0, 1], all contours of N reference frames.
        """
        B, T = audio.shape[:2]
        S = self.face_size
        check_shape("audio", audio, None, None, self.audio_dim, 10)
        check_shape("masked_heatmaps", masked_heatmaps, B, T, 1, S, S)
        check_shape("reference_heatmaps", reference_heatmaps, B, None, 1, S, S)
        embeddings = self.embed_audio(audio.flatten(0, 1)).unflatten(0, (B, T))
        lip_embeddings, jaw_embeddings = self.fusion(
            self.embed_masked(masked_heatmaps.flatten(0, 1)).unflatten(0, (B, T)),
            embeddings,
            self.embed_references(reference_heatmaps),
        )
        lip_embeddings, jaw_embeddings = lip_embeddings.flatten(0, 1), jaw_embeddings.flatten(0, 1)  # (B * T, C)
        masked = masked_heatmaps.flatten(0, 1)
        decoded = self.decoder(lip_embeddings, jaw_embeddings, masked)
        # What follows is computed from the very tensors that go out, where the gradient of every term can be measured.
        lip_windows, jaw_windows = (heatmaps.unflatten(0, (B, T)) for heatmaps in decoded)
        lip, jaw = lip_windows.flatten(0, 1), jaw_windows.flatten(0, 1)
        keypoints = self._keypoints(lip, jaw, lip_embeddings, jaw_embeddings)
        return GuidanceOutput(
            lip=lip_windows,
            jaw=jaw_windows,
            keypoints=keypoints.unflatten(0, (B, T)),
            heatmap=self._whole(lip, jaw, keypoints, masked).unflatten(0, (B, T)),
            audio_embeddings=embeddings,
        )

    @property
    def draws_keypoints(self) -> bool:
        """Whether the picture is driven by heatmaps drawn through the predicted keypoints."""
        return self.heatmap_renderer is not None

    def embed_audio(self, windows: Tensor) -> Tensor:
        """Audio of single frames (n, D, 10) -> tokens (n, C)."""
        return self.norm(self.audio_encoder(windows))

    def embed_masked(self, heatmaps: Tensor) -> Tensor:
        """Masked heatmaps of single frames (n, 1, S, S) -> tokens (n, C)."""
        return self.norm(self.masked_encoder(heatmaps))

    def embed_references(self, heatmaps: Tensor) -> Tensor:
        """(B, N, 1, S, S) -> tokens (B, N, C)."""
        return self.norm(self.reference_encoder(heatmaps.flatten(0, 1))).unflatten(0, heatmaps.shape[:2])

    def render(self, lip_embeddings: Tensor, jaw_embeddings: Tensor, masked_heatmaps: Tensor) -> tuple[Tensor, Tensor]:
        """Driving heatmaps (n, 1, S, S) and keypoints (n, 2, 57) of single frames from embeddings (n, C)."""
        lip, jaw = self.decoder(lip_embeddings, jaw_embeddings, masked_heatmaps)
        keypoints = self._keypoints(lip, jaw, lip_embeddings, jaw_embeddings)
        return self._whole(lip, jaw, keypoints, masked_heatmaps), keypoints

    def locate(self, lip_embeddings: Tensor, jaw_embeddings: Tensor, masked_heatmaps: Tensor) -> Tensor:
        """The keypoints of `render` alone, (n, 2, 57)."""
        lip, jaw = self.decoder(lip_embeddings, jaw_embeddings, masked_heatmaps)
        return self._keypoints(lip, jaw, lip_embeddings, jaw_embeddings)

    def draw(self, keypoints: Tensor, masked: Tensor) -> Tensor:
        """Driving heatmaps (n, 1, S, S) through keypoints (n, 2, 57) over masked ones, where `draws_keypoints`."""
        if self.heatmap_renderer is None:
            raise ValueError("these networks do not draw their heatmaps through keypoints (heatmap_sigma 0)")
        lip, jaw = self.heatmap_renderer(keypoints)
        return self._sum(lip, jaw, masked)

    def _whole(self, lip: Tensor, jaw: Tensor, keypoints: Tensor, masked: Tensor) -> Tensor:
        return self.draw(keypoints, masked) if self.draws_keypoints else self._sum(lip, jaw, masked)

    def _sum(self, lip: Tensor, jaw: Tensor, masked: Tensor) -> Tensor:
        whole = lip + jaw + masked if self.add_masked else lip + jaw
        return whole.clamp(max=1)

    def _keypoints(self, lip: Tensor, jaw: Tensor, lip_embeddings: Tensor, jaw_embeddings: Tensor) -> Tensor:
        lip_code, jaw_code = self.lip_encoder(lip) + lip_embeddings, self.jaw_encoder(jaw) + jaw_embeddings
        # Half a pixel is all that 16 bits tell of a place in the box; lips are shut by less.
        with torch.autocast(lip.device.type, enabled=False):
            kind = self.lip_keypoints.weight.dtype
            lip_xy = self.lip_keypoints(lip_code.to(kind)).unflatten(1, (LIP_KEYPOINTS, 2))
            jaw_xy = self.jaw_keypoints(jaw_code.to(kind)).unflatten(1, (JAW_KEYPOINTS, 2))
        return torch.cat([jaw_xy, lip_xy], dim=1).transpose(1, 2)  # (B * T, 2, 57)
