from __future__ import annotations

import tracemalloc
from collections.abc import Iterator

import numpy as np

from stsa_lightning.utils.disk_array import in_blocks, to_disk_array

SIDE = 64


def _blocks(count: int) -> Iterator[np.ndarray]:
    for number in range(count):
        yield np.full((32, SIDE, SIDE, 3), number, np.uint8)


def test_blocks_come_back_one_after_another():
    pictures = to_disk_array([np.zeros((2, 4, 4, 3), np.uint8), np.full((1, 4, 4, 3), 7, np.uint8)[:, ::-1]])
    assert pictures.shape == (3, 4, 4, 3)
    assert pictures[:, 0, 0, 0].tolist() == [0, 0, 7]
    assert not pictures.flags.writeable


def test_no_pictures_at_all():
    assert to_disk_array([]).shape == (0, 0, 0, 3)
    assert to_disk_array([np.zeros((0, 8, 8, 3), np.uint8)]).shape == (0, 8, 8, 3)


def test_memory_does_not_grow_with_their_number():
    def peak(count: int) -> int:
        tracemalloc.start()
        try:
            pictures = to_disk_array(_blocks(count))
            assert sum(int(block[0, 0, 0, 0]) for block in in_blocks(pictures)) == sum(range(count))
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert peak(40) < 1.1 * peak(4)


def test_the_last_block_is_shorter():
    assert [len(block) for block in in_blocks(np.arange(70))] == [32, 32, 6]
