from __future__ import annotations

import cv2
import torch

from stsa_lightning.training.callbacks.pictures import COLUMNS, picture_row, save_picture


def test_a_row_holds_the_columns_in_order(tmp_path):
    outputs = {name: torch.full((2, 3, 8, 8), i / 10) for i, name in enumerate(COLUMNS)}
    outputs["heatmap"] = torch.full((2, 1, 8, 8), 0.2)
    row = picture_row(outputs, 1)
    assert row.shape == (3, 8, 48)
    torch.testing.assert_close(row[:, 0, ::8], torch.arange(6).div(10).expand(3, 6))
    row[0] = 1  # red
    save_picture(tmp_path / "row.png", row)
    pixel = cv2.imread(str(tmp_path / "row.png"))[0, 47]
    assert pixel.tolist() == [round(0.5 * 255), round(0.5 * 255), 255]
