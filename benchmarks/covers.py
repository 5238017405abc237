"""What people hold or wear before their mouths, drawn over a face by its landmarks."""

from __future__ import annotations

import cv2
import numpy as np

from stsa_lightning.face.topology import MOUTH, positions

_NOSE = positions([6, 197, 195, 5])
SCARVES = {
    "red scarf": ((190, 40, 45), (225, 215, 200), 0.05),
    "skin-coloured scarf": ((150, 95, 70), (215, 170, 145), 0.06),
    "blue scarf": ((35, 45, 80), (130, 135, 150), 0.08),
}
# Colours of cups; None: of the skin.
CUPS = {
    "red cup": (185, 35, 40),
    "dark red cup": (105, 25, 30),
    "white cup": (228, 226, 220),
    "blue cup": (45, 75, 150),
    "green cup": (60, 120, 70),
    "brown cup": (110, 70, 45),
    "skin-coloured cup": None,
    "black cup": (30, 30, 32),
}
TILTED = {f"tilted {kind}": kind for kind in CUPS}
COVERS = (
    *SCARVES,
    *CUPS,
    *TILTED,
    "hand",
    "upright hand",
    "microphone",
    "microphone on the left",
    "microphone on the right",
)


def covered(frame: np.ndarray, landmarks: np.ndarray, kind: str) -> np.ndarray:
    """The frame, (H, W, 3) uint8 RGB, with one of `COVERS` before the mouth that its landmarks, (131, 2), tell."""
    height, width = frame.shape[:2]
    size, mouth = np.ptp(landmarks[:, 1]), landmarks[MOUTH].mean(axis=0)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    x, y = (x - mouth[0]) / size, (y - mouth[1]) / size
    skin = np.median(frame[tuple(landmarks[_NOSE].astype(int).T[::-1])], axis=0)
    if kind in SCARVES:
        shape, paint = _scarf(landmarks, x, y, *SCARVES[kind])
    elif kind.startswith("microphone"):
        beside = {"left": -0.14, "right": 0.14}.get(kind.split()[-1], 0.0)
        shape, paint = _microphone(x - beside, y - 0.03, 0.15 if beside else 0.19)
    elif (cup := TILTED.get(kind, kind)) in CUPS:
        own = CUPS[cup]
        shape, paint = _cup(x, y + 0.01, skin if own is None else np.array(own), degrees=25 if kind in TILTED else 0)
    else:
        shape, paint = _hand(x, y, skin, degrees=20 if kind == "hand" else 75)
    shape = cv2.GaussianBlur(shape.astype(np.float32), (0, 0), max(0.6, size / 150))[..., None]
    return np.clip(np.rint(frame * (1 - shape) + paint * shape), 0, 255).astype(np.uint8)


def _scarf(
    landmarks: np.ndarray, x: np.ndarray, y: np.ndarray, one: tuple, other: tuple, stripe: float
) -> tuple[np.ndarray, np.ndarray]:
    """Stripes from the middle of the nose over the chin."""
    tall = np.ptp(landmarks[:, 1])
    low = landmarks[landmarks[:, 1] > landmarks[:, 1].min() + 0.55 * tall]
    low = low.mean(axis=0) + 1.12 * (low - low.mean(axis=0))
    below = low[low[:, 1] > low[:, 1].mean()] + [0, 0.25 * tall]
    shape = np.zeros(x.shape, np.float32)
    cv2.fillConvexPoly(shape, cv2.convexHull(np.round(np.concatenate([low, below])).astype(np.int32)), (1.0,))
    first = (np.floor((y + 0.2 * x) / stripe) % 2)[..., None]
    return shape, first * np.array(one, np.float32) + (1 - first) * np.array(other, np.float32)


def _microphone(x: np.ndarray, y: np.ndarray, radius: float) -> tuple[np.ndarray, np.ndarray]:
    """A dark ball with a highlight, on its handle."""
    shape = (np.hypot(x, y) < radius) | ((np.abs(x - 0.15 * y) < 0.05) & (y > 0))
    light = np.clip(1 - np.hypot(x + 0.05, y + 0.05) / radius, 0, 1)
    grain = np.random.default_rng(0).normal(0, 9, x.shape)
    return shape, np.array([40, 40, 44], np.float32) + (70 * light + grain)[..., None]


def _cup(x: np.ndarray, y: np.ndarray, colour: np.ndarray, degrees: float) -> tuple[np.ndarray, np.ndarray]:
    """A mug with its handle, from the upper lip over the chin: dark towards its sides, with a highlight and a rim."""
    angle = np.deg2rad(degrees)
    x, y = x * np.cos(angle) + y * np.sin(angle), -x * np.sin(angle) + y * np.cos(angle)
    wide = 0.24 - 0.04 * y
    rim = -0.12 + 0.03 * np.sqrt(np.clip(1 - (x / wide) ** 2, 0, 1))  # seen from a little above, nearest in the middle
    body = (np.abs(x) < wide) & (y > rim - 0.06 * np.sqrt(np.clip(1 - (x / wide) ** 2, 0, 1))) & (y < 0.45)
    ring = np.hypot((x - 0.26) / 0.1, (y - 0.14) / 0.15)
    light = 0.45 + 0.6 * np.sqrt(np.clip(1 - (x / 0.27) ** 2, 0, 1)) + 0.5 * np.exp(-(((x + 0.1) / 0.025) ** 2))
    light = np.where((y < rim) & body, 0.5, light)  # the inside
    return body | ((ring < 1) & (ring > 0.65)), colour.astype(np.float32) * light[..., None]


def _hand(x: np.ndarray, y: np.ndarray, skin: np.ndarray, degrees: float) -> tuple[np.ndarray, np.ndarray]:
    """Four fingers of the skin's own colour, dark where they meet."""
    angle, wide = np.deg2rad(degrees), 0.085
    along, across = x * np.cos(angle) + y * np.sin(angle), (-x * np.sin(angle) + y * np.cos(angle)) / wide
    finger = np.floor(across)
    shape = (np.abs(across) < 2) & (along > -0.24 - 0.03 * ((finger + 2) % 3)) & (along < 0.5)
    shade = 1 - 0.55 * np.clip((np.abs(across - finger - 0.5) - 0.36) / 0.14, 0, 1)
    return shape, skin * (shade * (1.02 - 0.06 * along))[..., None]
