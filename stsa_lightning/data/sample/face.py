"""A speaking face: the portrait, deformed smoothly and analytically, with a rendered mouth cavity between its lips.

Everything is a backward map (which place of the texture does a pixel show), composed of exact pieces: the speaker's
face shape, head motion, blinks and brows, then the mouth. The mouth moves along vertical lines: each column of the face
is stretched piecewise linearly between a few heights (nose, lip borders, lip edges, chin), upper lip and lower lip with
the jaw apart from each other, so that the gap between both lips is known exactly and never shows stretched skin.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from stsa_lightning.data.sample import photo
from stsa_lightning.data.sample.speakers import Speaker, paint, shape_map

MAX_APERTURE = 16.5
"""Inner-lip gap at aperture 1, canonical pixels."""
_NOSE_Y = 152.0  # nothing above moves with the mouth
_REST_HALF_WIDTH = 22.8  # she smiles in the picture: closed lips at rest are narrower
_STEPS = 8  # table entries per canonical pixel
_CAVITY = np.array((52, 20, 18), np.float32)
_TONGUE = np.array((176, 88, 84), np.float32)
_SEAM = 0.5  # how dark the line between closed lips is
Knot = tuple[np.ndarray | float, np.ndarray | float]


@dataclass(frozen=True)
class Pose:
    """One frame: aperture, rounding, blink in [0, 1], width in [-1, 1], roll in rad, zoom relative, else pixels.

    Pixels are canonical. `turn` moves the middle of the face against its outline, as a slight turn of the head does.
    """

    lip_aperture: float = 0.0
    width: float = 0.0
    rounding: float = 0.0
    blink: float = 0.0
    brows: float = 0.0
    shift: tuple[float, float] = (0.0, 0.0)
    roll: float = 0.0
    zoom: float = 0.0
    turn: tuple[float, float] = (0.0, 0.0)


class Face:
    """Renders one speaker at one frame size; everything that does not change over frames is computed once."""

    def __init__(self, speaker: Speaker, size: int) -> None:
        self.size = size
        self.mirror = speaker.mirror
        self._texture = np.round(paint(speaker.palette)).astype(np.uint8)
        self._x, self._y = shape_map(speaker.shape, size)
        self._scale_x, self._scale_y = _scale(self._x, self._y)
        self._light = _light(speaker, size)
        self._held = _head_weight(self._x, self._y)
        self._nose = np.exp(-0.5 * (((self._x - 128) / 38) ** 2 + ((self._y - 140) / 45) ** 2)) * self._held
        self._brow = np.exp(-0.5 * ((self._y - 97) / 5) ** 2) * np.exp(-0.5 * ((self._x - 128) / 34) ** 4)
        self._mouth_at = _window(self._x, self._y, (70, 146), (186, 238))
        mouth_x, mouth_y = self._x[self._mouth_at], self._y[self._mouth_at]
        self._gap_at = _window(mouth_x, mouth_y, (103, 162), (154, 192))  # within the mouth's window
        self._eyes_at = _window(self._x, self._y, (80, 98), (178, 126))
        self._lips_px = speaker.shape.lips_px
        self._columns = np.arange(photo.CANVAS * _STEPS) / _STEPS
        self._curves = {name: photo.curve(name, self._columns) for name in photo.CURVES}

    def lip_aperture_px(self, pose: Pose) -> float:
        """Inner-lip gap at the mouth's centre in frame pixels."""
        return pose.lip_aperture * MAX_APERTURE * self._scale_y * (1 + pose.zoom)

    def width_px(self, pose: Pose) -> float:
        """Distance of the mouth corners in frame pixels."""
        return 2 * _half_width(pose) * self._scale_x * (1 + pose.zoom)

    def height_px(self) -> float:
        """Height of the resting face (hairline to chin) in frame pixels."""
        return photo.FACE_HEIGHT * self._scale_y

    def render(self, pose: Pose) -> np.ndarray:
        """The frame of a pose: uint8 RGB (size, size, 3)."""
        x, y = self._head(pose)
        self._close_lids(x, y, pose)
        colour, alpha = self._mouth(x, y, pose)
        frame = _sample(self._texture, x, y)
        region = frame[self._mouth_at][self._gap_at]
        region += (colour - region) * alpha[..., None]
        lit = np.clip(frame * self._light + 0.5, 0, 255).astype(np.uint8)
        return np.ascontiguousarray(lit[:, ::-1]) if self.mirror else lit

    def _head(self, pose: Pose) -> tuple[np.ndarray, np.ndarray]:
        """Backward map of head motion; the borders of the frame stay."""
        from_x, from_y = self._x - 128, self._y - 150
        grow = 1 / (1 + pose.zoom) - 1
        x = self._x + self._held * (grow * from_x + pose.roll * from_y - pose.shift[0]) - pose.turn[0] * self._nose
        y = self._y + self._held * (grow * from_y - pose.roll * from_x - pose.shift[1]) - pose.turn[1] * self._nose
        if pose.brows:
            y += pose.brows * self._brow
        return x, y

    def _close_lids(self, x: np.ndarray, y: np.ndarray, pose: Pose) -> None:
        """Pulls the upper lids down over the eyes, in place."""
        if pose.blink <= 0:
            return
        eyes_x, eyes_y = x[self._eyes_at], y[self._eyes_at]
        lid, lower = self._curves["lid"], self._curves["lower_lid"]
        edge = lid + pose.blink * np.maximum(lower + 0.4 - lid, 0)
        fold = 104.0
        edge_at, stretch = _lookup(np.stack([edge, (lid - fold) / (edge - fold)]), eyes_x)
        pulled = (eyes_y > fold) & (eyes_y < edge_at)
        eyes_y[pulled] = fold + (eyes_y[pulled] - fold) * stretch[pulled]

    def _mouth(self, x: np.ndarray, y: np.ndarray, pose: Pose) -> tuple[np.ndarray, np.ndarray]:
        """Deforms the lower face in place; returns colour (h, w, 3) and cover (h, w) of the open mouth."""
        out_x, out_y = x[self._mouth_at].copy(), y[self._mouth_at].copy()
        half = _half_width(pose)
        in_x = _widen(out_x, out_y, half)
        lips = self._lip_heights(pose)
        at = dict(zip(lips, _lookup(np.stack(list(lips.values())), in_x), strict=True))
        x[self._mouth_at] = in_x
        y[self._mouth_at] = _stretch(out_y, at)
        within = {name: heights[self._gap_at] for name, heights in at.items()}
        return self._inside(out_x[self._gap_at], out_y[self._gap_at], within, half, pose)

    def _lip_heights(self, pose: Pose) -> dict[str, np.ndarray]:
        """Heights in the picture ("from_*") and in the frame ("to_*") of lips and chin, per column of the picture."""
        curves = self._curves
        side = np.abs(self._columns - photo.MOUTH_CENTRE[0]) / photo.MOUTH_HALF_WIDTH
        bow = np.clip(1 - side**2, 0, 1)
        gap = pose.lip_aperture * MAX_APERTURE
        jaw = np.clip(1 - ((self._columns - 128) / 53) ** 2, 0, 1) ** 2
        corners = np.exp(-0.5 * (side / 1.2) ** 4)
        unsmile = np.exp(-0.5 * ((side - 1) / 0.5) ** 2)  # her smile lifts the corners of the mouth
        parted = bow ** (1 - 0.45 * pose.rounding)
        drop = (0.27 + 0.1 * pose.rounding) * gap * corners + (3.0 + 1.5 * pose.rounding) * unsmile
        line = curves["upper_inner"] + drop + (1.4 + pose.rounding) * bow
        raised = 0.4 + 0.2 * pose.rounding  # the upper lip's share of the gap
        upper = line - raised * gap * parted
        lower = line + (1 - raised) * gap * parted
        full = (self._lips_px + 1.2 * pose.rounding) * bow
        border = curves["lower_outer"] - curves["lower_inner"]  # thickness of the lower lip in the picture
        return {
            "from_border": curves["upper_outer"],
            "from_upper": curves["upper_inner"],
            "from_lower": curves["lower_inner"],
            "from_lip": curves["lower_outer"],
            "from_chin": curves["chin"],
            "to_border": curves["upper_outer"] + 0.45 * (upper - curves["upper_inner"]) - 0.6 * full,
            "to_upper": upper,
            "to_lower": lower,
            "to_lip": lower + border + (0.8 - 0.03 * gap) * bow + full,
            "to_chin": curves["chin"] + 0.5 * gap * jaw,
            "teeth": curves["teeth"],
        }

    def _inside(
        self, x: np.ndarray, y: np.ndarray, at: dict[str, np.ndarray], half: float, pose: Pose
    ) -> tuple[np.ndarray, np.ndarray]:
        """Upper teeth, tongue and dark behind the lips."""
        upper, lower = at["to_upper"], at["to_lower"]
        gap = np.maximum(lower - upper, 1e-3)
        reach = np.abs(x - photo.MOUTH_CENTRE[0])
        within = np.clip((half + 0.5 - reach) / 2.0, 0, 1)
        cover = np.clip(y - upper + 0.5, 0, 1) * np.clip(lower - y + 0.5, 0, 1) * within
        seam = np.clip(1 - gap / 2, 0, 1)
        cover = np.maximum(cover, _SEAM * seam * within * np.exp(-(((y - (upper + lower) / 2) / 0.9) ** 2)))

        depth = np.clip((y - upper) / gap, 0, 1)
        colour = _CAVITY * (0.55 + 0.5 * depth)[..., None]
        centre = at["to_lower"] + 1.0
        bulge = 1 - (reach / (0.72 * half)) ** 2 - ((y - centre) / (0.50 * gap + 0.5)) ** 2
        tongue = np.clip(bulge * 2.2, 0, 1) * np.clip(pose.lip_aperture * 4 - 0.6, 0, 1)
        colour += (_TONGUE * (0.45 + 0.4 * depth)[..., None] - colour) * (0.8 * tongue)[..., None]
        teeth = np.clip((at["teeth"] - y) / 1.2 + 0.5, 0, 1) * np.clip((17 - reach) / 4, 0, 1)
        teeth *= max(1 - 1.5 * pose.rounding, 0) * (1 - seam)  # rounded lips hide them
        shade = 0.62 + 0.32 * np.clip((y - upper) / 3.5, 0, 1)
        enamel = _sample(self._texture, x, np.maximum(y, at["from_upper"] + 1.4)) * shade[..., None]
        colour += (enamel - colour) * teeth[..., None]
        return colour, cover


def _half_width(pose: Pose) -> float:
    return _REST_HALF_WIDTH + 2.2 * pose.width - 5.0 * pose.rounding


def _widen(x: np.ndarray, y: np.ndarray, half: float) -> np.ndarray:
    """Backward horizontal map that brings the mouth corners to `half` on both sides of the centre."""
    spread = 20.0
    factor = (photo.MOUTH_HALF_WIDTH / half - 1) / np.exp(-0.5 * (half / spread) ** 2)
    side = x - photo.MOUTH_CENTRE[0]
    off = y - photo.MOUTH_CENTRE[1]
    weight = np.exp(-0.5 * ((side / spread) ** 2 + np.where(off < 0, off / 8, off / 18) ** 2))
    return x + factor * weight * side


def _stretch(y: np.ndarray, at: dict[str, np.ndarray]) -> np.ndarray:
    """Backward vertical map: upper lip above the gap's middle, lower lip, chin and the neck behind it below."""
    border, upper, lower, lip, chin = (
        (at[f"to_{name}"], at[f"from_{name}"]) for name in ("border", "upper", "lower", "lip", "chin")
    )
    above = np.minimum(_two_pieces(y, (_NOSE_Y, _NOSE_Y), border, upper), upper[1])
    below = np.maximum(_two_pieces(y, lower, lip, chin), lower[1])
    # The jaw covers the neck, which stays; a steep piece instead of a step keeps the edge of the jaw smooth.
    neck = np.minimum(np.maximum(y, chin[1]), chin[1] + 4 * (y - chin[0]))
    below = np.where(y > chin[0], neck, below)
    moved = np.where(y < 0.5 * (upper[0] + lower[0]), above, below)
    return np.where(y < _NOSE_Y, y, moved)


def _two_pieces(y: np.ndarray, first: Knot, middle: Knot, last: Knot) -> np.ndarray:
    """Continuous map of two linear pieces through three (to, from) knots of increasing height."""
    (to_a, from_a), (to_b, from_b), (to_c, from_c) = first, middle, last
    slope = np.where(y < to_b, (from_b - from_a) / (to_b - to_a), (from_c - from_b) / (to_c - to_b))
    return from_b + (y - to_b) * slope


def _lookup(tables: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Rows of tables (n, columns) at the canonical positions x: (n, *x.shape) float32."""
    index = np.clip(np.rint(x * _STEPS), 0, tables.shape[1] - 1).astype(np.intp)
    return tables.astype(np.float32)[:, index]


def _sample(texture: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The texture at canonical positions: float32 (*x.shape, 3)."""
    column, row = (((at + photo.MARGIN) * photo.TEXELS).astype(np.float32) for at in (x, y))
    seen = cv2.remap(texture, column, row, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    return np.asarray(seen, np.float32)


def _scale(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Frame pixels per canonical pixel at the mouth, along and across it."""
    nearest = np.hypot(x - photo.MOUTH_CENTRE[0], y - photo.MOUTH_CENTRE[1] - 4).argmin()
    row, column = np.unravel_index(nearest, x.shape)
    near = 6 * len(x) // photo.CANVAS + 1
    along, across = x[row, column - near : column + near + 1], y[row - near : row + near + 1, column]
    return float(2 * near / (along[-1] - along[0])), float(2 * near / (across[-1] - across[0]))


def _light(speaker: Speaker, size: int) -> np.ndarray:
    line = (np.arange(size, dtype=np.float32) + 0.5) / size * 2 - 1
    light = speaker.brightness * (1 + speaker.light[0] * line[None] + speaker.light[1] * line[:, None])
    return light[..., None].astype(np.float32)


def _head_weight(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """1 on the head, falling to 0 at the sides and the bottom of the picture."""
    reach = np.hypot((x - 128) / 128, np.maximum(y - 128, 0) / 128)
    fade = np.clip((1.0 - reach) / 0.3, 0, 1)
    return fade * fade * (3 - 2 * fade)


def _window(x: np.ndarray, y: np.ndarray, low: tuple[int, int], high: tuple[int, int]) -> tuple[slice, slice]:
    """Rows and columns of the frame that can show the canonical box, with room for head motion."""
    room = 8
    inside = (x > low[0] - room) & (x < high[0] + room) & (y > low[1] - room) & (y < high[1] + room)
    rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
