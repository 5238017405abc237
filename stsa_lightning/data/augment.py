"""Augmentation that leaves landmarks true.

What changes pictures changes all pictures of an item alike, the window's frames and its references: motion stays
motion, and what the references show of a person (proportions, colours, sharpness) still holds for the frames to be
drawn.
Pictures are (n, S, S, 3) uint8 RGB, landmarks (n, 131, 2) normalised to the picture. A strength is within [0, 1]; at 0
what went in comes out, itself, and nothing is drawn from `rng`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import cv2
import numpy as np

from stsa_lightning.face.topology import mirrored
from stsa_lightning.features.spectral import LogMel
from stsa_lightning.utils.errors import UserError

TURN_DEGREES = 10.0  # the most that strength 1 draws, to either side
ZOOM = 0.1  # likewise: sizes from 1 / 1.1 to 1.1
SHIFT = 0.05  # likewise, of the picture's side
WORST_QUALITY = 30  # of JPEG, at strength 1
COARSEST = 3.0  # times, at strength 1: a picture of 128 px shows what 43 px can
LOUDER = 8.0  # decibels that strength 1 draws at most, to either side
TIMBRE = 6.0  # likewise, of each of the waves that a microphone's or a room's response is made of
VOCAL_TRACT = 0.15  # likewise: resonances from 1 / 1.15 to 1.15 times as high
NOISE = (-90.0, -45.0)  # decibels of full scale: steady noise, from inaudible to a loud room

_EDGE = 0.4999  # where the picture ends, from its centre, with room for rounding
_GREY_AXIS = np.ones(3) / np.sqrt(3)


@dataclass  # not frozen: Lightning copies hyperparameters field by field
class AugmentSettings:
    """What is changed of training windows.

    Attributes:
        mirror: mirror a random half of the windows left to right.
        geometry: strength of random turns, zooms and shifts, 0 to 1 (see `augment_geometry`).
        colour: strength of random changes of colour, 0 to 1 (see `augment_colour`).
        resolution: strength of a random loss of resolution, 0 to 1 (see `augment_resolution`).
        jpeg: strength of random JPEG compression, 0 to 1 (see `augment_jpeg`).
        voice: strength of random changes of voice and noise, 0 to 1, of log-mel features (see `augment_voice`).
    """

    mirror: bool = False
    geometry: float = 0.0
    colour: float = 0.0
    resolution: float = 0.0
    jpeg: float = 0.0
    voice: float = 0.0

    def __post_init__(self) -> None:
        for name, strength in vars(self).items():
            if not 0 <= strength <= 1:
                raise UserError(f"augment.{name}: expected 0 to 1, got {strength}")

    def pictures(
        self, faces: np.ndarray, landmarks: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Pictures and landmarks, changed in the order in which it happens: pose, light, camera, codec."""
        if self.mirror and rng.random() < 0.5:
            faces, landmarks = mirror(faces, landmarks)
        faces, landmarks = augment_geometry(faces, landmarks, self.geometry, rng)
        faces = augment_colour(faces, self.colour, rng)
        faces = augment_resolution(faces, self.resolution, rng)
        return augment_jpeg(faces, self.jpeg, rng), landmarks


AS_THEY_ARE = AugmentSettings()


def mirror(faces: np.ndarray, landmarks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Left and right exchanged, in the pictures and in the order of the landmarks."""
    flipped = np.stack([cv2.flip(face, 1) for face in faces])
    return flipped, mirrored(landmarks)


def augment_geometry(
    faces: np.ndarray, landmarks: np.ndarray, strength: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """One random turn, zoom and shift, of the pictures and of their landmarks.

    The face must not leave the picture: zoom and shift are cut back until all landmarks that were inside still are
    (chin and mouth above all, which sit at the edge of a tight box). What comes in at the edges is a reflection.
    Strength 1 draws turns up to 10 degrees, zooms up to 1.1 times in or out, shifts up to 5 %.
    """
    if not strength:
        return faces, landmarks
    angle = np.deg2rad(TURN_DEGREES) * rng.uniform(-strength, strength)
    zoom = (1 + ZOOM) ** rng.uniform(-strength, strength)
    shift = SHIFT * rng.uniform(-strength, strength, size=2)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    inside = landmarks[((landmarks >= 0) & (landmarks <= 1)).all(axis=-1)] - 0.5  # from the centre
    if len(inside):
        turned = inside @ turn.T
        low, high = turned.min(axis=0), turned.max(axis=0)
        zoom = min(zoom, 2 * _EDGE / (high - low).max())
        shift = np.clip(shift, -_EDGE - zoom * low, _EDGE - zoom * high)
    matrix = zoom * turn
    offset = 0.5 + shift - matrix @ (0.5, 0.5)
    return _warped(faces, matrix, offset), (landmarks @ matrix.T + offset).astype(np.float32)


def _warped(faces: np.ndarray, matrix: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """Pictures moved by x -> matrix x + offset in [0, 1] coordinates of the picture, edges at 0 and 1."""
    size = faces.shape[1]
    # OpenCV counts from the centre of the first pixel, which lies at 0.5 pixels.
    in_pixels = np.column_stack([matrix, size * offset + matrix @ (0.5, 0.5) - 0.5])
    return np.stack(
        [
            cv2.warpAffine(face, in_pixels, (size, size), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)
            for face in faces
        ]
    )


def augment_colour(faces: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """One random change of colour for all pictures: gamma, hue, gain of each channel.

    As faces and references change together, a network has to take its colours from the references instead of
    remembering the people that it was trained on. Strength 1 draws gamma from [1/1.6, 1.6], hue from the whole circle,
    gains from [0.6, 1.4].
    """
    if not strength:
        return faces
    gamma = 1.6 ** rng.uniform(-strength, strength)
    gains = 1 + 0.4 * rng.uniform(-strength, strength, size=3)
    matrix = np.diag(gains) @ hue_rotation(np.pi * rng.uniform(-strength, strength))
    curve = np.rint(255 * np.linspace(0, 1, 256) ** gamma).astype(np.uint8)
    rows = faces.reshape(-1, faces.shape[2], 3)
    return cv2.transform(cv2.LUT(rows, curve), matrix).reshape(faces.shape)


def hue_rotation(angle: float) -> np.ndarray:
    """(3, 3) rotation of RGB about the grey axis by an angle in radians (Rodrigues' formula); greys stay."""
    x, y, z = _GREY_AXIS
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def augment_resolution(faces: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Faces as if filmed from further away: made smaller, with strength 1 up to 3 times, and large again."""
    if not strength:
        return faces
    size = faces.shape[1]
    small = max(1, round(size / rng.uniform(1, 1 + (COARSEST - 1) * strength)))
    coarse = (cv2.resize(face, (small, small), interpolation=cv2.INTER_AREA) for face in faces)
    return np.stack([cv2.resize(face, (size, size), interpolation=cv2.INTER_CUBIC) for face in coarse])


def augment_jpeg(faces: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Blocks and halos of a video that was compressed too much: with strength 1, one JPEG quality from 30 to 100."""
    if not strength:
        return faces
    quality = round(100 - (100 - WORST_QUALITY) * rng.uniform(0, strength))
    settings = [cv2.IMWRITE_JPEG_QUALITY, quality]
    return np.stack([_recompressed(face, settings) for face in faces])


def _recompressed(face: np.ndarray, settings: list[int]) -> np.ndarray:
    # Red and blue change places on the way in, as OpenCV expects, or chroma would be taken from the wrong channels.
    data = cv2.imencode(".jpg", cv2.cvtColor(face, cv2.COLOR_RGB2BGR), settings)[1]
    return cv2.cvtColor(cast(np.ndarray, cv2.imdecode(data, cv2.IMREAD_COLOR)), cv2.COLOR_BGR2RGB)


def augment_voice(logmel: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Another voice, microphone and room that say the same: loudness, resonances, response, steady noise.

    With few speakers a network learns what *they* sound like; lips follow what is said.

    Args:
        logmel: (steps, 80) features of `features.spectral.LogMel`.
        strength: 1 draws loudness within 8 dB, vocal tracts up to 15 % longer or shorter, responses of up to 6 dB a
            wave, noise of up to -45 dB of full scale in half of the cases.
    """
    if not strength or not len(logmel):
        return logmel
    count = logmel.shape[1]
    bands = np.arange(count)
    centres = LogMel.centres_hz()
    warped = centres * (1 + VOCAL_TRACT) ** rng.uniform(-strength, strength)
    decibels = LogMel.decibels(np.stack([np.interp(warped, centres, row) for row in logmel]))
    phases, heights = rng.uniform(0, 2 * np.pi, 3), rng.uniform(-strength, strength, 3) * TIMBRE / np.arange(1, 4)
    response = (heights * np.cos(np.pi * np.arange(1, 4) * bands[:, None] / count + phases)).sum(1)
    decibels = decibels + response + LOUDER * rng.uniform(-strength, strength)
    if rng.random() < strength / 2:
        noise = rng.uniform(*NOISE) + response + rng.normal(0, 2, logmel.shape)
        decibels = 10 * np.log10(10 ** (decibels / 10) + 10 ** (noise / 10))
    return LogMel.scaled(decibels)
