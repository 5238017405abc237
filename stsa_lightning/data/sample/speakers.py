"""Speakers of the sample: colours, face shape, light and voice, drawn from a seed."""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np

from stsa_lightning.data.sample import photo
from stsa_lightning.data.sample.speech import Voice

Colour = tuple[float, float, float]


@dataclass(frozen=True)
class Palette:
    """Colours of a speaker: RGB factors on the picture's skin and clothes, RGB 0-255 for hair and background."""

    skin: Colour = (1.0, 1.0, 1.0)
    skin_gamma: float = 1.0
    hair: Colour | None = None  # of mid-grey hair; None keeps the picture's
    hair_gamma: float = 1.0
    background: Colour = (196, 186, 186)
    clothes: Colour = (0, 0, 0)  # light added to the dark collar
    lips: Colour = (0.97, 0.86, 0.86)
    iris: Colour = (0, 0, 0)
    beard: float = 0.0


@dataclass(frozen=True)
class Shape:
    """Face shape as relative changes of widths (eyes: size), and in canonical pixels; 0 keeps the picture's."""

    width: float = 0.0
    jaw: float = 0.0
    cheeks: float = 0.0
    nose: float = 0.0
    eyes: float = 0.0
    eye_distance_px: float = 0.0
    nose_length_px: float = 0.0
    hair: float = 0.0
    lips_px: float = 0.0


@dataclass(frozen=True)
class Speaker:
    """Everything that stays the same over a speaker's clips."""

    palette: Palette
    shape: Shape
    voice: Voice
    mirror: bool
    light: tuple[float, float]  # brightness gained from the centre to the right and to the lower border
    brightness: float


PALETTES: tuple[Palette, ...] = (
    Palette(),
    Palette(
        skin=(0.66, 0.52, 0.44), skin_gamma=1.25, hair=(42, 36, 36), hair_gamma=0.8, background=(84, 140, 150),
        clothes=(60, 20, 20), lips=(0.92, 0.85, 0.88),
    ),
    Palette(
        skin=(1.06, 1.0, 0.98), skin_gamma=0.92, hair=(142, 74, 42), background=(120, 158, 116), clothes=(10, 60, 45),
        lips=(0.98, 0.76, 0.78), iris=(20, 70, 50),
    ),
    Palette(
        skin=(0.9, 0.8, 0.72), skin_gamma=1.1, hair=(48, 42, 42), hair_gamma=0.8, background=(206, 178, 140),
        clothes=(25, 30, 70), beard=0.75,
    ),
    Palette(
        skin=(1.04, 0.96, 0.92), hair=(214, 186, 128), hair_gamma=0.8, background=(62, 76, 112),
        clothes=(110, 110, 112), lips=(0.96, 0.72, 0.74), iris=(40, 75, 120),
    ),
    Palette(
        skin=(0.98, 0.9, 0.86), skin_gamma=1.04, hair=(150, 150, 154), hair_gamma=0.8, background=(150, 92, 76),
        clothes=(40, 42, 46), iris=(50, 60, 70), beard=0.4,
    ),
    Palette(
        skin=(0.8, 0.66, 0.56), skin_gamma=1.15, hair=(78, 52, 36), hair_gamma=0.9, background=(140, 124, 164),
        clothes=(80, 62, 12), lips=(0.96, 0.8, 0.8),
    ),
    Palette(
        skin=(1.02, 0.95, 0.86), skin_gamma=0.98, hair=(40, 36, 40), hair_gamma=0.7, background=(220, 220, 224),
        clothes=(90, 25, 60), lips=(0.94, 0.64, 0.66),
    ),
)  # fmt: skip
_DEEP_VOICES = (3, 5)  # palettes with a beard


def make_speaker(number: int, seed: int) -> Speaker:
    """Speaker `number` (from 0): the palettes in turn, everything else drawn from the seed."""
    rng = np.random.default_rng([seed, number, 1])
    kind = number % len(PALETTES)
    palette = PALETTES[kind]
    shade = rng.uniform(0.95, 1.05, 3)
    background = np.array(palette.background) * shade if number < len(PALETTES) else rng.uniform(60, 220, 3)
    deep = kind in _DEEP_VOICES or rng.random() < 0.3
    pitch_hz = rng.uniform(95, 135) if deep else rng.uniform(165, 225)
    shape = Shape(
        width=rng.uniform(-0.07, 0.05),
        jaw=rng.uniform(0.02, 0.14) if deep else rng.uniform(-0.12, 0.06),
        cheeks=rng.uniform(-0.06, 0.06),
        nose=rng.uniform(-0.12, 0.28),
        eyes=rng.uniform(-0.12, 0.16),
        eye_distance_px=rng.uniform(-2.0, 2.0),
        nose_length_px=rng.uniform(-2.0, 3.0),
        hair=rng.uniform(-0.16, 0.06),
        lips_px=rng.uniform(-0.6, 0.8),
    )
    return Speaker(
        palette=replace(palette, background=(background[0], background[1], background[2])),
        shape=shape,
        voice=Voice(
            pitch_hz=pitch_hz,
            formant_scale=rng.uniform(0.9, 0.98) if deep else rng.uniform(1.02, 1.14),
            pace=rng.uniform(1.0, 1.25),
            breath=rng.uniform(0.01, 0.04),
        ),
        mirror=bool(number % 2),
        light=(rng.uniform(-0.28, 0.28), rng.uniform(-0.12, 0.06)),
        brightness=rng.uniform(0.88, 1.08),
    )


def paint(palette: Palette) -> np.ndarray:
    """The portrait's texture in a speaker's colours: float32 RGB, 0-255, of `photo.texture`'s shape."""
    picture = photo.texture()
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)[..., None]
    head, skin = photo.outline_mask("head", 1.0), photo.outline_mask("skin", 1.4)
    clothes = cv2.dilate(photo.outline_mask("clothes", 1.0), np.ones((7, 7), np.uint8)) * head
    hair = np.clip(head - clothes - skin, 0, 1)

    painted = grey / 192 * np.array(palette.background, np.float32)
    painted = _blend(painted, picture + np.array(palette.clothes, np.float32) * (1 - picture / 255), clothes)
    if palette.hair is not None:
        coloured = (grey / 128) ** palette.hair_gamma * np.array(palette.hair, np.float32)
        painted = _blend(painted, coloured, hair)
    else:
        painted = _blend(painted, picture, hair)
    return np.clip(_blend(painted, _paint_skin(picture, palette), skin), 0, 255)


def _paint_skin(picture: np.ndarray, palette: Palette) -> np.ndarray:
    tone = 255 * (picture / 255) ** palette.skin_gamma * np.array(palette.skin, np.float32)
    mouth = photo.mouth_mask()
    if palette.beard:
        stubble = np.random.default_rng(7).normal(0.42, 0.13, picture.shape[:2]).astype(np.float32)
        colour = np.array(palette.hair or (96, 72, 52), np.float32)
        grown = tone * cv2.GaussianBlur(stubble, (0, 0), 0.8)[..., None] + colour * 0.25
        tone = _blend(tone, grown, palette.beard * photo.outline_mask("beard", 2.5) * (1 - mouth))
    # The gloss on her lower lip looks like teeth once the lips close below them.
    bright = np.percentile(tone[photo.lip_mask() > 0.9], 70, axis=0).astype(np.float32)
    matt = np.minimum(tone, bright + 0.3 * (tone - bright))
    tone = _blend(tone, matt * np.array(palette.lips, np.float32), photo.lip_mask())
    tone = _blend(tone, picture * np.mean(palette.skin) ** 0.4, photo.bare_mask())
    for centre in photo.EYE_CENTRES:
        dark = np.clip(1.6 - picture.mean(-1) / 70, 0, 1) * photo.disc_mask(centre, 4.2, 1.5)
        tone = tone + dark[..., None] * np.array(palette.iris, np.float32)
    return tone


def _blend(below: np.ndarray, above: np.ndarray, mask: np.ndarray) -> np.ndarray:
    return below + (above - below) * mask[..., None]


def shape_map(shape: Shape, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Canonical x and y that each pixel of a (size, size) frame shows: float32 (size, size) each."""
    line = (np.arange(size, dtype=np.float32) + 0.5) * (photo.CANVAS / size) - 0.5
    x, y = np.meshgrid(line, line)
    middle = photo.MOUTH_CENTRE[0]
    side = x - middle
    widen = (
        shape.width
        + shape.jaw * _bell(y, 190, 26) * _bell(side, 0, 50)
        + shape.cheeks * _bell(y, 140, 22) * _bell(side, 0, 60)
        + shape.nose * _bell(y, 146, 12) * _bell(side, 0, 14)
        + shape.hair * (1 - _bell(side, 0, 62)) * _bell(y, 70, 60)
    )
    dx, dy = -side * widen, -shape.nose_length_px * _bell(y, 152, 22) * _bell(side, 0, 40)
    for (eye_x, eye_y), sign in zip(photo.EYE_CENTRES, (-1, 1), strict=True):
        near = _bell(x, eye_x, 13) * _bell(y, eye_y, 9)
        dx -= near * (shape.eyes * (x - eye_x) + sign * shape.eye_distance_px)
        dy -= near * shape.eyes * (y - eye_y)
    return (x + dx).astype(np.float32), (y + dy).astype(np.float32)


def _bell(value: np.ndarray, centre: float, spread: float) -> np.ndarray:
    return np.exp(-0.5 * ((value - centre) / spread) ** 2)
