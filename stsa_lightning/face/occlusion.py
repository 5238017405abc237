"""Whether something is before the lower face.

Landmark models give no doubt away: behind a hand they guess a mouth. So colours are compared. What is held before a
mouth for a while changes the colours around it, at places that follow the face, from what they are in the rest of the
shot. Behind what covers it all the time, a mask, a cup, a hand, a scarf, a microphone, there are no lips: they are
redder or darker than what is around them, to the left, in the middle and to the right; their opening is darker still;
and they are of the skin's colours, no less red. Cloth may have a pattern that looks like lips, but skin has none as
strong. A red cup is redder than nose and cheeks, and lips are not redder than it.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from stsa_lightning.face.topology import JAW, positions

_SIDE = 32  # faces are looked at as pictures of 32 x 32
_OUTWARD = (0.62, 0.85)  # places between the middle of the mouth and the jaw
_LIPS = positions([0, 17])
_ABOVE = positions([6, 197, 195, 5])  # bridge of the nose: shows the light
_LIDS, _CORNERS = positions([145, 374]), positions([61, 291])
PLACES = 6 + len(JAW) * len(_OUTWARD)
_LIGHT = 6  # the first places are above
_TOLERANCE = 32.0  # grey levels that a place may differ from what it is in the shot
_TIMES_USUAL = 3.0
_SAMPLED = 1500  # frames of a shot that say what is usual

_CLOSE_SIDE = 64  # for lips they are looked at as pictures of 64 x 64
_OUTER = positions([185, 40, 39, 37, 0, 267, 269, 270, 409, 375, 321, 405, 314, 17, 84, 181, 91, 146])
_INNER = positions([191, 80, 81, 82, 13, 312, 311, 310, 415, 324, 318, 402, 317, 14, 87, 178, 88, 95])
_BESIDE = 3.2  # pixels of 64 outside the lips: what is around them
_REDNESS, _VARIETY = 1.5, 1.5  # what redder and what uneven lips count for, against darker ones
# Contrast of lips below which there are none, and how much more of it is asked for as the colours around the mouth are
# not those of the nose. The least of 53 real faces, beards and lipstick among them, was 14.
_NO_LIPS, _FOREIGN = 10.0, 0.6
_LONG_S, _BRIEFLY_S = 2.0, 0.28  # over that long no lips are seen
# For a moment lips that are pursed or blurred stand out less: there are none where it is still less, and less than this
# share of what is usual of the person.
_NO_LIPS_BRIEFLY, _OF_USUAL = 7.0, 0.5
# By how much less red and less yellow than the nose lips may be, as a share of its chroma. Of 549 frames of 130 real
# people the furthest were 0.25 and 0.57; grey things are 0.3 to 0.9 less red, blue ones 0.9 and more less yellow.
_LESS_RED, _LESS_YELLOW = 0.30, 0.85
_PART_STRANGER = 1.4  # a third of the mouth may be that much further off: beyond a turned mouth is what is behind it
# Thirds of the outer lips, from one corner to the other. Their contrast, variety left aside, below which there are no
# lips for long: of all of them (157 real clips: 5.2 or more), weighed down where the skin around is uneven, as between
# fingers; of the least of them (1.3 or more). Of all for a moment, and as a share of what is usual.
_THIRDS = np.array([[0, 1, 2, 17, 16, 15], [3, 4, 5, 14, 13, 12], [6, 7, 8, 9, 10, 11]])
_NO_THIRDS, _NO_THIRD, _NO_THIRDS_BRIEFLY, _THIRDS_OF_USUAL = 4.7, 0.7, 4.0, 0.2
_EVEN, _USUAL_SLOPES = 40.0, 50.0
# The upper quartile of the slopes (CIELAB lightness, Sobel) on the skin between lips and jaw: 95 at most on 157 real
# clips, beards among them; 150 and more on striped and checked scarves.
_PATTERN, _RING = 125.0, (0.5, 0.6, 0.7, 0.8)
# By how much the chin, below the mouth, may be redder than the nose and than the cheeks, as a share of the nose's
# chroma, less what lips are redder than it: for long 0.25 at most on 157 real clips; 0.67 and more on red cups, and
# mostly 0.26 and more on dark red ones (0.15 on one).
_RED_CHIN, _RED_CHIN_BRIEFLY = 0.27, 0.4
_CHIN, _BELOW = JAW[5:12], (0.4, 0.5, 0.6, 0.7)
CUES = 7
_CHROMA_NOISE = 6.0  # CIELAB: colours of a picture in black and white
# Contrasts are less where there is less light or the skin is dark: they are taken as on a nose of this lightness.
_NOSE_LIGHTNESS, _LARGEST_GAIN = 60.0, 2.5


def face_colours(frame: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 RGB, (131, 2) -> (PLACES, 3) uint8: colours above (the first 6) and around the mouth."""
    points = _places(landmarks)
    x0, y0 = np.floor(np.clip(landmarks.min(axis=0), 0, None)).astype(int)
    x1, y1 = np.ceil(landmarks.max(axis=0)).astype(int)
    face = frame[y0:y1, x0:x1]
    if not face.size:
        return np.zeros((PLACES, 3), np.uint8)
    small = cv2.resize(face, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
    at = (points - (x0, y0)) / (face.shape[1], face.shape[0]) * _SIDE
    column, row = np.clip(at.astype(int), 0, _SIDE - 1).T
    return small[row, column]


def _places(landmarks: np.ndarray) -> np.ndarray:
    return np.concatenate([landmarks[_ABOVE], _cheeks(landmarks), _between(landmarks, JAW, _OUTWARD)])


def _between(points: np.ndarray, jaw: np.ndarray, shares: Sequence[float]) -> np.ndarray:
    """Places from the middle of the mouth on towards points of the jaw, at shares of the way."""
    middle = points[_LIPS].mean(axis=0)
    return np.concatenate([middle + share * (points[jaw] - middle) for share in shares])


def _cheeks(landmarks: np.ndarray) -> np.ndarray:
    return 0.6 * landmarks[_LIDS] + 0.4 * landmarks[_CORNERS]


def covered_share(colours: np.ndarray) -> np.ndarray:
    """How much of the lower face is covered in each frame.

    Args:
        colours: (n, PLACES, 3) uint8 of `face_colours`, of one person in one shot.

    Returns:
        (n,) float32 in [0, 1]: the share of the places around the mouth that have lost their colours. Without meaning
        where something covers the face for most of the shot: see `no_lips`.
    """
    sample = colours[:: max(1, len(colours) // _SAMPLED)]
    usual = np.median(sample, axis=0).astype(np.float32)
    tolerance = np.maximum(_TOLERANCE, _TIMES_USUAL * np.median(_apart(sample, usual), axis=0))
    share = [(_apart(part, usual) > tolerance).mean(axis=1) for part in _blocks(colours)]
    return np.concatenate(share).astype(np.float32)


def lip_contrast(frame: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """How far lips stand out, whether their colours are a mouth's, and how uneven the skin around them is.

    Args:
        frame: (H, W, 3) uint8 RGB.
        landmarks: (131, 2) pixels of the frame.

    Returns:
        (CUES,) float32; NaN where the face is not in the frame. How far the lips stand out; how far the colours around
        them are from those of the nose; how far their own are, above 1 where no lips have such colours; how far the
        thirds of the lips stand out on average, and the one that does least; slopes of the skin around them; by how
        much the chin is redder than a chin. Units of CIELAB but for the third and the last.
    """
    x0, y0 = np.floor(np.clip(landmarks.min(axis=0), 0, None)).astype(int)
    x1, y1 = np.ceil(landmarks.max(axis=0)).astype(int)
    face = frame[y0:y1, x0:x1]
    if not face.size:
        return np.full(CUES, np.nan, np.float32)
    shrinks = min(face.shape[:2]) > _CLOSE_SIDE
    small = cv2.resize(face, (_CLOSE_SIDE,) * 2, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    lab = cv2.cvtColor(small.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    points = (landmarks - (x0, y0)) / (face.shape[1], face.shape[0]) * _CLOSE_SIDE
    outward = points[_OUTER] - points[_OUTER].mean(axis=0)
    outward /= np.maximum(np.linalg.norm(outward, axis=1, keepdims=True), 1)
    places = ((points[_OUTER] + points[_INNER]) / 2, points[_OUTER] + _BESIDE * outward, points[_ABOVE])
    seen = [_at(lab, at).astype(np.float64) for at in places]
    lips, around, nose = (colours.mean(axis=0) for colours in seen)
    out = _stand_out(lips, around) + _VARIETY * seen[0][:, 0].std()
    thirds = [colours[_THIRDS].mean(axis=1) for colours in seen[:2]]
    parts = _stand_out(*thirds)
    gain = np.clip(_NOSE_LIGHTNESS / max(nose[0], 1e-6), 1, _LARGEST_GAIN)
    chroma = np.linalg.norm(nose[1:]) + _CHROMA_NOISE
    less = (nose - np.vstack([lips, thirds[0]]))[:, 1:] / chroma
    strange = (less / (_LESS_RED, _LESS_YELLOW)).max(axis=1) / (1, *[_PART_STRANGER] * 3)
    foreign = np.linalg.norm((around - nose)[1:])
    slopes = np.percentile(_slopes(lab[..., 0], points), 75)
    seen_of_lips = gain * np.array([out, parts.mean(), parts.min(), slopes])
    redder = _redder_than_a_chin(lab[..., 1], points, lips[1], nose[1]) / chroma
    return np.array([seen_of_lips[0], foreign, strange.max(), *seen_of_lips[1:], redder], np.float32)


def _at(image: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Pixels of a picture of `_CLOSE_SIDE` at places (..., 2), the nearest ones beyond its edge."""
    return image[tuple(np.clip(places.astype(int), 0, _CLOSE_SIDE - 1).T[::-1])]


def _stand_out(lips: np.ndarray, around: np.ndarray) -> np.ndarray:
    """(..., 3) CIELAB of lips and of what is around them -> (...) by how much they are redder or darker."""
    darker, redder = around[..., 0] - lips[..., 0], lips[..., 1] - around[..., 1]
    return np.hypot(_REDNESS * np.maximum(redder, 0), np.maximum(darker, 0))


def _redder_than_a_chin(redness: np.ndarray, points: np.ndarray, lips: float, nose: float) -> float:
    """Of a small picture of a face, by how much its chin is; units of `redness`, CIELAB's a."""
    below = _between(points, _CHIN, _BELOW)
    chin, cheeks = float(np.median(_at(redness, below))), float(_at(redness, _cheeks(points)).mean())
    return chin - max(nose, cheeks) - max(lips - chin, 0)


def _slopes(lightness: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Of a small picture of a face, at places between its lips and its jaw."""
    slopes = cv2.magnitude(cv2.Sobel(lightness, cv2.CV_32F, 1, 0), cv2.Sobel(lightness, cv2.CV_32F, 0, 1))
    return _at(slopes, _between(points, JAW, _RING))


def no_lips(contrast: np.ndarray, fps: float) -> np.ndarray:
    """Where no lips are seen for a while.

    Args:
        contrast: (n, CUES) of `lip_contrast`, of one person in one shot.
        fps: frames a second.

    Returns:
        (n,) bool.
    """
    if not len(contrast):
        return np.zeros(0, bool)
    known = np.where(np.isfinite(contrast), contrast, [np.inf, 0, 0, np.inf, np.inf, 0, -np.inf])
    out, foreign, strange, thirds, least, slopes, red = known.T
    out = out - _FOREIGN * foreign

    def long(values: np.ndarray) -> np.ndarray:
        return _median(values, round(_LONG_S * fps))

    def briefly(values: np.ndarray) -> np.ndarray:
        return _median(values, round(_BRIEFLY_S * fps))

    hidden = briefly(out) < min(_NO_LIPS_BRIEFLY, _OF_USUAL * np.median(out))
    hidden |= briefly(thirds) < min(_NO_THIRDS_BRIEFLY, _THIRDS_OF_USUAL * np.median(thirds))
    weighed = thirds * (_EVEN + _USUAL_SLOPES) / (_EVEN + slopes)
    none = (long(out) < _NO_LIPS) | (long(weighed) < _NO_THIRDS) | (long(least) < _NO_THIRD)
    cup = (long(red) > _RED_CHIN) | (briefly(red) > _RED_CHIN_BRIEFLY)
    return none | hidden | cup | (briefly(strange) > 1) | (briefly(slopes) > _PATTERN)


def _median(values: np.ndarray, frames: int) -> np.ndarray:
    """Over the frames around each; beyond the ends mirrored, so that the outermost frame counts no more than others."""
    from scipy.ndimage import median_filter

    return median_filter(values, frames | 1, mode="reflect")


def _blocks(colours: np.ndarray) -> list[np.ndarray]:
    return [colours[i : i + 1024] for i in range(0, len(colours), 1024)]


def _apart(colours: np.ndarray, usual: np.ndarray) -> np.ndarray:
    """(n, places around the mouth): grey levels between what is and what is usual, in the light on the nose or as ever.

    The nose shows a change of light; a reflection on it, or on glasses, says nothing about the cheeks.
    """
    now = colours.astype(np.float32)
    light = (now[:, :_LIGHT].mean(axis=(1, 2)) + 8) / (usual[:_LIGHT].mean() + 8)
    lit = now[:, _LIGHT:] / np.clip(light, 0.5, 2)[:, None, None]
    return np.minimum(*(np.abs(seen - usual[_LIGHT:]).max(axis=2) for seen in (lit, now[:, _LIGHT:])))
