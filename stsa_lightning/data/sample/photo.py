"""The photograph behind the sample: where its face parts lie, and its texture and masks in canonical coordinates.

The picture is scikit-image's bundled portrait of Eileen Collins (NASA, public domain): it needs no download. Canonical
coordinates are those of a 256 x 256 frame in which the face stands level: x right, y down, mouth at (128, 168), chin at
y = 208. All curves and outlines below were measured once on the picture in these coordinates, so that rendering needs
no landmark detector.
"""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
from scipy.interpolate import PchipInterpolator

CANVAS = 256
"""Side of the canonical square."""
MARGIN = 16
"""Canonical pixels of picture kept around the canonical square, for head motion."""
TEXELS = 2
"""Texture pixels per canonical pixel."""
TEXTURE = (CANVAS + 2 * MARGIN) * TEXELS
FACE_HEIGHT = 132.0
"""Hairline to chin (FaceMesh points 10 and 152), canonical pixels."""
MOUTH_CENTRE = (128.3, 167.0)
MOUTH_HALF_WIDTH = 26.2
EYE_CENTRES = ((101.0, 115.5), (156.0, 114.5))

# Rotation by 3 degrees (she tilts her head), scale 1.25, and the face centre (224, 123) brought to (128, 142).
_TO_CANONICAL = np.array([[1.248287, 0.065420, -159.662923], [-0.065420, 1.248287, 3.114777]])

CURVES: dict[str, list[tuple[float, float]]] = {
    # Lips: lower edge and upper border of the upper lip, upper edge and lower border of the lower lip. The inner edges
    # lie a little within the lips so that no teeth bleed into them.
    "upper_inner": [
        (60, 161), (90, 162), (102, 162.6), (106, 163.4), (110, 164.2), (114, 165.2), (118, 166), (122, 166.4),
        (128, 166.7), (134, 166.2), (138, 165.6), (142, 164.9), (146, 164.1), (150, 163.1), (154.5, 162.7), (166, 162),
        (196, 161),
    ],
    "upper_outer": [
        (60, 156), (90, 158.5), (102, 160.6), (107, 161), (112, 161.4), (120, 161.4), (124, 161.4), (128, 162),
        (132, 161.4), (136, 161.3), (145, 161), (150, 160.8), (155, 160.3), (166, 158.5), (196, 156),
    ],
    "lower_inner": [
        (60, 161), (90, 162), (102, 162.8), (104, 165.7), (106, 168.3), (108, 170.2), (112, 173.1), (116, 175),
        (120, 176), (124, 176.5), (128, 176.6), (132, 176.4), (136, 175.5), (140, 173.8), (144, 171.2), (148, 168.5),
        (152, 165.2), (154.5, 163), (166, 162), (196, 161),
    ],
    "lower_outer": [
        (60, 168), (90, 168), (100, 168), (104, 171), (108, 174.2), (113.5, 178.6), (120, 181.4), (128, 182.3),
        (136, 181.4), (143, 178.4), (149, 173.8), (153, 170.5), (157, 168), (166, 168), (196, 168),
    ],
    "teeth": [(100, 164), (106, 167), (110, 170), (113, 172.2), (116, 173.5), (120, 174.4), (126, 174.5),
              (132, 174.3), (136, 173.6), (140, 171.4), (144, 169), (150, 165), (156, 163)],
    "chin": [
        (60, 172), (76, 173), (82, 178.5), (88, 186.5), (95.5, 193.8), (102, 199.6), (109, 204.6), (117, 208.2),
        (128, 209.6), (138.6, 208.2), (147, 204.2), (154, 199.2), (160.6, 193.6), (168.6, 186), (174.6, 178),
        (180, 173), (196, 172),
    ],
    # Eyes: lower rim of the upper lid with its lashes, and the lower lid.
    "lid": [
        (60, 118), (86, 118), (89, 116.6), (91, 114.9), (94, 113), (98, 112), (102, 111.9), (106, 113.4), (110, 115.8),
        (114, 118.6), (128, 118.6), (143, 118.4), (146, 115.6), (150, 112.6), (154, 111.6), (158, 111.5), (162, 112.4),
        (165, 114), (168, 116.2), (171, 117.5), (196, 117.5),
    ],
    "lower_lid": [
        (60, 118), (86, 118), (90, 118.8), (94, 120), (98, 120.8), (104, 120.8), (108, 120.2), (114, 118.6),
        (128, 118.6), (143, 118.4), (148, 119.4), (152, 120), (158, 119.8), (162, 119), (166, 118), (171, 117.5),
        (196, 117.5),
    ],
}  # fmt: skip

_OUTLINES: dict[str, list[tuple[float, float]]] = {
    "head": [
        (61, 143), (54, 135), (46, 126), (40, 115), (38, 100), (35, 82), (37, 70), (45, 58), (60, 46), (78, 35),
        (82, 27), (95, 18), (110, 11), (125, 7), (138, 6.5), (155, 9.5), (175, 16.5), (195, 27.5), (205, 39),
        (213, 52), (218, 70), (222, 90), (221, 105), (216, 120), (208, 132), (198, 141), (197, 148), (191, 155.5),
        (184, 157), (180, 166), (174, 180), (171, 195), (170, 202.5), (182, 207), (200, 220), (215, 236), (230, 258),
        (236, 275), (-20, 275), (-20, 230), (-4, 236), (6, 220), (12, 205), (30, 190), (50, 180), (67, 176), (79, 176),
        (77, 168), (76, 156), (67, 154.5), (61, 145),
    ],
    "skin": [
        (77, 100), (79, 84), (95, 90), (112, 93), (128, 93), (145, 93), (160, 94.5), (172, 97), (178, 104), (182, 118),
        (185, 130), (186, 143), (190, 147), (197, 149), (191, 156), (184, 157), (180, 166), (174, 180), (171, 195),
        (170, 210), (168, 218), (156, 223), (140, 225), (120, 222), (95, 220), (85, 212), (82, 195), (80, 180),
        (77, 168), (76, 156), (67, 155), (61, 145), (66, 143), (72, 147), (73, 130), (74, 112),
    ],
    "clothes": [
        (79, 176), (82, 195), (85, 212), (95, 220), (120, 222), (140, 225), (156, 223), (168, 218), (170, 202),
        (182, 207), (200, 220), (215, 236), (230, 258), (236, 275), (-20, 275), (-20, 230), (-4, 236), (6, 220),
        (12, 205), (30, 190), (50, 180), (67, 176),
    ],
    "beard": [
        (73, 146), (79, 150), (88, 168), (100, 160), (112, 156.5), (128, 157.5), (144, 156.5), (156, 160), (168, 168),
        (178, 150), (184, 146), (180, 168), (172, 184), (160, 197), (147, 206), (128, 211), (109, 207), (95, 197),
        (84, 185), (77, 168),
    ],
}  # fmt: skip


@lru_cache(maxsize=1)
def texture() -> np.ndarray:
    """The portrait in canonical coordinates with its margin: float32 RGB (`TEXTURE`, `TEXTURE`, 3), 0-255."""
    from skimage import data

    to_texels = _TO_CANONICAL * TEXELS
    to_texels[:, 2] += MARGIN * TEXELS
    size = (TEXTURE, TEXTURE)
    picture = cv2.warpAffine(
        data.astronaut(), to_texels, size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101
    ).astype(np.float32)
    picture.flags.writeable = False
    return picture


def curve(name: str, x: np.ndarray) -> np.ndarray:
    """Height y of a named curve at the canonical positions x, without overshoot between the measured points."""
    points = np.array(CURVES[name])
    return PchipInterpolator(points[:, 0], points[:, 1])(np.clip(x, points[0, 0], points[-1, 0]))


def outline_mask(name: str, feather: float) -> np.ndarray:
    """Soft mask of a named outline on the texture: float32 in [0, 1]; `feather` is a blur in canonical pixels."""
    return _fill(_OUTLINES[name], feather)


def lip_mask(feather: float = 0.8) -> np.ndarray:
    """Soft mask of both lips on the texture, tapering to the corners."""
    x = np.linspace(MOUTH_CENTRE[0] - MOUTH_HALF_WIDTH, MOUTH_CENTRE[0] + MOUTH_HALF_WIDTH, 60)
    taper = np.clip(1 - ((x - MOUTH_CENTRE[0]) / MOUTH_HALF_WIDTH) ** 4, 0, 1) ** 0.5
    lips = np.zeros((TEXTURE, TEXTURE), np.float32)
    for inner, outer in (("upper_inner", "upper_outer"), ("lower_inner", "lower_outer")):
        edge = curve(inner, x)
        border = edge + (curve(outer, x) - edge) * taper
        lips = np.maximum(lips, _fill(np.r_[np.c_[x, edge], np.c_[x, border][::-1]].tolist(), feather))
    return lips


def mouth_mask(feather: float = 1.5) -> np.ndarray:
    """Soft mask of lips and everything between them on the texture."""
    return _between("upper_outer", "lower_outer", np.linspace(100, 156.5, 60), feather)


def bare_mask(feather: float = 0.7) -> np.ndarray:
    """Soft mask of what is no skin within the face on the texture: eyeballs and teeth."""
    left, right = (_between("lid", "lower_lid", np.linspace(x, x + 26, 40), feather) for x in (87.0, 144.0))
    return np.maximum(np.maximum(left, right), _between("upper_inner", "teeth", np.linspace(103, 153, 40), feather))


def disc_mask(centre: tuple[float, float], radius: float, feather: float) -> np.ndarray:
    """Soft disc on the texture, in canonical pixels."""
    grid = np.arange(TEXTURE, dtype=np.float32) / TEXELS - MARGIN
    distance = np.hypot(grid[None] - centre[0], grid[:, None] - centre[1])
    return np.clip((radius - distance) / feather + 0.5, 0, 1)


def _between(upper: str, lower: str, x: np.ndarray, feather: float) -> np.ndarray:
    return _fill(np.r_[np.c_[x, curve(upper, x)], np.c_[x, curve(lower, x)][::-1]].tolist(), feather)


def _fill(points: list[tuple[float, float]], feather: float) -> np.ndarray:
    shift = 4  # fractional bits of cv2's coordinates
    scaled = np.round((np.array(points) + MARGIN) * TEXELS * 2**shift).astype(np.int32)
    mask = np.zeros((TEXTURE, TEXTURE), np.float32)
    cv2.fillPoly(mask, [scaled], (1.0,), lineType=cv2.LINE_8, shift=shift)
    return cv2.GaussianBlur(mask, (0, 0), feather * TEXELS)
