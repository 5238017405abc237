from __future__ import annotations

import cv2
import numpy as np
import pytest

from stsa_lightning.face.occlusion import PLACES, covered_share, lip_contrast, no_lips
from stsa_lightning.face.topology import LANDMARKS, positions

OUTER = positions([61, 185, 40, 39, 37, 0, 267, 269, 270, 409, 291, 375, 321, 405, 314, 17, 84, 181, 91, 146])
INNER = positions([78, 191, 80, 81, 82, 13, 312, 311, 310, 415, 308, 324, 318, 402, 317, 14, 87, 178, 88, 95])
SKIN = (200, 150, 125)


def landmarks() -> np.ndarray:
    angle = np.linspace(0, 2 * np.pi, len(LANDMARKS), endpoint=False)
    points = 100 + np.stack([60 * np.sin(angle), 80 * np.cos(angle)], -1)
    points[positions([6, 197, 195, 5])] = [(100, 80), (100, 90), (100, 100), (100, 108)]
    circle = np.pi + np.linspace(0, 2 * np.pi, 20, endpoint=False)
    points[OUTER] = np.stack([100 + 24 * np.cos(circle), 140 + 12 * np.sin(circle)], -1)
    points[INNER] = np.stack([100 + 18 * np.cos(circle), 140 + 3 * np.sin(circle)], -1)
    return points.astype(np.float32)


def picture(skin: tuple[int, int, int] = SKIN, lips: tuple[int, int, int] | None = (175, 95, 95)) -> np.ndarray:
    frame = np.full((220, 200, 3), skin, np.uint8)
    if lips is not None:
        cv2.ellipse(frame, (100, 140), (24, 12), 0, 0, 360, lips, -1)
        cv2.ellipse(frame, (100, 140), (18, 3), 0, 0, 360, tuple(v // 3 for v in lips), -1)
    return cv2.GaussianBlur(frame, (0, 0), 1)


def masked(colour: tuple[int, int, int]) -> np.ndarray:
    frame = picture()
    frame[112:200] = colour
    return frame


def covered(frame: np.ndarray) -> bool:
    return bool(no_lips(lip_contrast(frame, landmarks())[None].repeat(9, 0), 25).all())


@pytest.mark.parametrize(
    "frame",
    [
        picture(),
        picture(lips=(170, 120, 105)),
        picture((80, 55, 45), (55, 30, 32)),
        picture((120, 120, 120), (85, 85, 85)),
        picture((60, 45, 40), (160, 90, 90)),
    ],
    ids=["skin", "pale lips", "dark skin", "black and white", "beard"],
)
def test_lips_that_are_seen_are_not_covered(frame: np.ndarray) -> None:
    assert not covered(frame)


@pytest.mark.parametrize("colour", [(225, 225, 225), (25, 25, 28), (120, 170, 215), (230, 160, 170), SKIN])
def test_a_mask_of_any_colour_covers(colour: tuple[int, int, int]) -> None:
    assert covered(masked(colour))


def with_microphone(colour: tuple[int, int, int]) -> np.ndarray:
    frame = picture()
    cv2.circle(frame, (100, 142), 28, colour, -1)
    cv2.circle(frame, (100, 142), 28, tuple(v // 2 for v in colour), 3)
    for x in range(78, 126, 8):  # its mesh is as uneven as lips
        cv2.line(frame, (x, 118), (x, 166), tuple(v // 2 for v in colour), 2)
    return cv2.GaussianBlur(frame, (0, 0), 1)


@pytest.mark.parametrize("colour", [(40, 40, 42), (120, 120, 120), (225, 225, 225), (50, 80, 160), (220, 190, 60)])
def test_a_microphone_before_the_lips_covers(colour: tuple[int, int, int]) -> None:
    assert covered(with_microphone(colour))


def with_half_microphone(side: int) -> np.ndarray:
    frame = picture()
    cv2.circle(frame, (100 + 24 * side, 142), 22, (45, 45, 48), -1)
    return cv2.GaussianBlur(frame, (0, 0), 1)


@pytest.mark.parametrize("side", [-1, 1])
def test_a_microphone_before_half_of_the_lips_covers(side: int) -> None:
    assert covered(with_half_microphone(side))


def with_scarf(colours: tuple[tuple[int, int, int], tuple[int, int, int]]) -> np.ndarray:
    frame = picture()
    for number, y in enumerate(range(112, 200, 9)):
        frame[y : y + 9] = colours[number % 2]
    return cv2.GaussianBlur(frame, (0, 0), 1)


@pytest.mark.parametrize(
    "colours",
    [((190, 40, 45), (225, 215, 200)), ((30, 30, 30), (220, 220, 215)), ((35, 45, 80), (130, 135, 150))],
    ids=["red and white", "black and white", "blue"],
)
def test_a_scarf_with_stripes_as_dark_or_red_as_lips_covers(
    colours: tuple[tuple[int, int, int], tuple[int, int, int]],
) -> None:
    assert covered(with_scarf(colours))


def with_cup(colour: tuple[int, int, int]) -> np.ndarray:
    """Its dark inside and its rim lie where lips would."""
    frame = picture()
    frame[136:, 60:140] = colour
    cv2.ellipse(frame, (100, 136), (40, 8), 0, 0, 360, tuple(v // 2 for v in colour), -1)
    return cv2.GaussianBlur(frame, (0, 0), 1)


@pytest.mark.parametrize("colour", [(185, 35, 40), (105, 25, 30), (225, 226, 220), (45, 75, 150), (30, 30, 32)])
def test_a_cup_of_the_lips_colour_or_another_covers(colour: tuple[int, int, int]) -> None:
    assert covered(with_cup(colour))


def test_lips_over_a_red_beard_are_not_covered() -> None:
    frame = np.where(np.arange(220)[:, None, None] < 118, picture(), picture((150, 88, 52), (175, 85, 85)))
    assert not covered(frame.astype(np.uint8))


def with_hand(frame: np.ndarray) -> np.ndarray:
    """Fingers of the skin's own colour, dark where they meet."""
    covered = frame.copy()
    covered[116:170] = SKIN
    for x in range(60, 150, 14):
        cv2.line(covered, (x, 116), (x + 20, 170), tuple(v // 2 for v in SKIN), 2)
    return cv2.GaussianBlur(covered, (0, 0), 1)


def test_a_hand_of_the_skins_colour_covers() -> None:
    assert covered(with_hand(picture()))


def test_a_hand_of_the_skins_colour_for_half_a_second_covers_there_alone() -> None:
    contrast = np.tile(lip_contrast(picture(), landmarks()), (40, 1))
    contrast[14:27] = lip_contrast(with_hand(picture()), landmarks())
    np.testing.assert_array_equal(no_lips(contrast, 25), (np.arange(40) >= 14) & (np.arange(40) < 27))


def test_no_lips_for_two_frames_or_outside_the_frame_say_nothing() -> None:
    contrast = np.tile(lip_contrast(picture(), landmarks()), (40, 1))
    contrast[10:12] = lip_contrast(masked((225, 225, 225)), landmarks())
    contrast[30] = lip_contrast(picture(), landmarks() + 500)
    assert np.isnan(contrast[30]).all()
    assert not no_lips(contrast, 25).any()


@pytest.mark.parametrize("colour", [(225, 225, 225), (40, 40, 42), SKIN])
@pytest.mark.parametrize("place", [slice(15, 27), slice(0, 12), slice(28, 40)])
def test_no_lips_for_half_a_second_are_covered_there_alone(colour: tuple[int, int, int], place: slice) -> None:
    contrast = np.tile(lip_contrast(picture(), landmarks()), (40, 1))
    contrast[place] = lip_contrast(masked(colour), landmarks())
    expected = np.zeros(40, bool)
    expected[place] = True
    np.testing.assert_array_equal(no_lips(contrast, 25), expected)


def test_covered_share_of_a_reflection_on_the_nose_and_of_another_light_is_zero() -> None:
    colours = np.tile(np.uint8([150, 110, 90]), (30, PLACES, 1))
    colours[5:9, :6] = 250
    colours[20:25] = colours[20:25] // 2
    assert not covered_share(colours).any()


def test_covered_share_counts_the_places_that_changed() -> None:
    colours = np.tile(np.uint8([150, 110, 90]), (30, PLACES, 1))
    around = PLACES - 6
    colours[10:15, -around // 2 :] = (60, 90, 160)
    share = covered_share(colours)
    assert share[10] == pytest.approx(around // 2 / around, abs=0.02)
    assert not share[:10].any()
    assert not share[15:].any()
