"""Which references serve each frame once its lips are known."""

from __future__ import annotations

import numpy as np
import torch

from stsa_lightning.face.heatmaps import inner_lip_aperture
from stsa_lightning.face.topology import KEYPOINT_POSITIONS
from stsa_lightning.inference.engine import Guided
from stsa_lightning.inference.reference_chooser import ReferenceChooser, ToServe, with_next
from tests.face.lips import one_face, opened

COUNT, POOL = 2, 40


def faces(aperture: np.ndarray) -> np.ndarray:
    """(n, 131, 2): one face, with lips so far open."""
    return opened(one_face(len(aperture)), aperture)


def guided(aperture: np.ndarray) -> Guided:
    keypoints = torch.from_numpy(faces(aperture)[:, KEYPOINT_POSITIONS].transpose(0, 2, 1))
    return Guided(torch.zeros(len(aperture), 1, 8, 8), keypoints)


def to_serve(
    wanted: np.ndarray, landmarks: np.ndarray, known: np.ndarray | None = None, allowed: np.ndarray | None = None
) -> ToServe:
    count = len(wanted)
    known = np.ones(count, bool) if known is None else known
    return ToServe(wanted, landmarks, known, np.ones((count, COUNT + POOL), bool) if allowed is None else allowed)


def test_guided_knows_how_far_lips_shall_open() -> None:
    wanted = np.linspace(0, 0.1, 7)
    np.testing.assert_allclose(guided(wanted).inner_lip_aperture(), wanted, atol=1e-6)
    np.testing.assert_allclose(inner_lip_aperture(faces(wanted)), wanted, atol=1e-6)


def test_guided_is_split_as_it_was_joined() -> None:
    whole = Guided(torch.rand(3, 1, 8, 8), torch.rand(3, 2, 57))
    again = Guided.split(whole.joined())
    assert torch.equal(again.heatmaps, whole.heatmaps)
    assert torch.equal(again.keypoints, whole.keypoints)


def test_references_are_as_far_open_as_guidance_wants_and_moved_onto_the_frame() -> None:
    pool = np.random.default_rng(1).permutation(np.linspace(0, 0.1, POOL))
    landmarks = faces(np.concatenate([np.full(COUNT, 0.05), pool]))
    shown, wanted = faces(np.full(30, 0.07)) + np.float32(0.1), np.linspace(0, 0.1, 30)
    shown[:, :, 0] *= 1 + np.linspace(0, 0.02, 30, dtype=np.float32)[:, None]  # never the very pose of the references
    chosen = ReferenceChooser(landmarks, COUNT, matched=True)(to_serve(wanted, shown))
    assert (chosen.numbers >= COUNT).all()
    closed, opened = inner_lip_aperture(landmarks)[chosen.numbers.numpy()].T
    assert closed.max() < 0.02
    assert np.abs(opened - wanted).max() < 0.03
    assert np.corrcoef(opened, wanted)[0, 1] > 0.9
    assert chosen.theta.shape == (30, COUNT, 2, 3)
    assert (chosen.theta[:, :, 0, 2] < 0).all()  # a face further right is read further left


def test_a_frame_without_a_face_keeps_what_the_one_before_has() -> None:
    landmarks = faces(np.linspace(0, 0.1, COUNT + POOL))
    known = np.array([True, False, True])
    chosen = ReferenceChooser(landmarks, COUNT, matched=True)(
        to_serve(np.array([0.1, 0.0, 0.1]), faces(np.full(3, 0.05)), known)
    )
    assert torch.equal(chosen.numbers[1], chosen.numbers[0])


def test_networks_that_do_not_align_have_the_first_references() -> None:
    landmarks = faces(np.linspace(0, 0.1, COUNT + POOL))
    chosen = ReferenceChooser(landmarks, COUNT, matched=False)(to_serve(np.array([0.1, 0.0]), faces(np.full(2, 0.05))))
    assert chosen.numbers.tolist() == [[0, 1], [0, 1]]


def test_what_shows_the_mouth_of_the_frame_itself_is_left_out() -> None:
    pool = np.linspace(0, 0.1, POOL)
    landmarks, wanted = faces(np.concatenate([np.zeros(COUNT), pool])), np.array([0.1])
    allowed = np.ones((1, COUNT + POOL), bool)
    allowed[:, -10:] = False
    choose = ReferenceChooser(landmarks, COUNT, matched=True)
    chosen = choose(to_serve(wanted, faces(np.array([0.05])), allowed=allowed))
    assert chosen.numbers.max() == COUNT + POOL - 11


def test_what_follows_a_block_is_looked_at() -> None:
    landmarks, still = faces(np.linspace(0, 0.1, COUNT + POOL)), faces(np.full(10, 0.05))
    wanted = np.full(10, 0.1)
    begun, shut = to_serve(wanted[:5], still[:5]), to_serve(np.zeros(1), still[:1])
    alone, passing = (ReferenceChooser(landmarks, COUNT, matched=True) for _ in range(2))
    opened_before = alone(begun).numbers[-1]
    assert passing(begun, shut).numbers[-1].tolist() == opened_before.tolist()
    assert not torch.equal(alone(shut).numbers[-1], opened_before)
    assert torch.equal(passing(shut, to_serve(wanted, still)).numbers[-1], opened_before)


def test_with_next_gives_each_block_once_and_runs_one_ahead() -> None:
    taken: list[int] = []
    pairs = with_next(taken.append(i) or i for i in range(3))
    assert next(pairs) == (0, 1)
    assert taken == [0, 1]
    assert list(pairs) == [(1, 2), (2, None)]
    assert list(with_next([])) == []
