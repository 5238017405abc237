from __future__ import annotations

from pathlib import Path

import numpy as np

from stsa_lightning.app.overlay import COLOUR, DIMMED, HeatmapFilm, draw_overlay
from stsa_lightning.face.upright_box import UprightBox
from stsa_lightning.media.video import VideoReader, write_video


def test_lines_lie_in_the_box_where_the_heatmap_has_them() -> None:
    frame, heatmap = np.full((60, 80, 3), 200, np.uint8), np.zeros((16, 16), np.float32)
    heatmap[8:10] = 1
    draw_overlay(frame, heatmap, UprightBox(np.array([10, 20, 42, 52])))
    assert frame[37, 26].tolist() == list(COLOUR)  # rows 8 and 9 of 16 are rows 16 to 19 of 32
    assert frame[25, 26].tolist() == [round(200 * DIMMED)] * 3
    outside = np.ones((60, 80), bool)
    outside[20:52, 10:42] = False
    assert (frame[outside] == 200).all()


def test_a_film_draws_on_the_frames_that_it_saw(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", np.full((6, 64, 64, 3), 120, np.uint8), 25)
    film = HeatmapFilm()
    for number in (1, 2, 5):
        film(number, np.full((8, 8), 1.0, np.float32), UprightBox(np.array([16, 16, 16 + 8 * number, 48])))
    film.write(tmp_path / "a.mp4", tmp_path / "b.mp4")
    with VideoReader(tmp_path / "b.mp4") as reader:
        frames = reader.get(range(len(reader))).astype(int)
        assert (len(frames), reader.fps) == (6, 25)
    assert np.abs(frames[[0, 3, 4]] - 120).max() <= 4
    for number in (1, 2, 5):
        inside = frames[number, 20:44, 18 : 14 + 8 * number]
        assert np.abs(inside - COLOUR).mean() < 12
        assert np.abs(frames[number, :8] - 120).max() <= 8
