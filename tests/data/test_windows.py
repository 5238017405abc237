"""Windows: what belongs together stays together, nothing leaks, and every draw can be repeated."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, default_collate

from stsa_lightning.data.augment import AugmentSettings
from stsa_lightning.data.clip import Clip, ClipError
from stsa_lightning.data.index import clip_path
from stsa_lightning.data.quiet import quiet_features
from stsa_lightning.data.windows import Batch, Speaker, WindowDataset, as_floats
from stsa_lightning.face.box import resize_face
from stsa_lightning.face.heatmaps import draw_heatmaps, inner_lip_aperture, lip_measures
from stsa_lightning.face.topology import KEYPOINT_POSITIONS, MASKED_POSITIONS, MIRROR
from stsa_lightning.models.synthesis import warp_references
from stsa_lightning.utils.errors import UserError
from tests.face.lips import one_face, opened

VALID = np.array([1] * 8 + [0] * 3 + [1] * 4 + [0] + [1] * 14, bool)  # 30 frames; runs of 8, 4 and 14


@pytest.fixture(scope="module")
def root(synthetic: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("gaps")
    synthetic.write_synthetic_clip(root, "ann/gaps", VALID)
    synthetic.write_synthetic_clip(root, "ann/five", np.ones(5, bool))
    return root


def _dataset(root: Path, clips: tuple[str, ...] = ("ann/gaps",), **options: Any) -> WindowDataset:
    return WindowDataset(root, clips, **{"face_size": 64, "num_references": 3, "windows_per_clip": 40, **options})


def _frames_of(images: torch.Tensor) -> list[int]:
    """Which frames these are, by their grey at the right edge or, mirrored, at the left."""
    grey = torch.minimum(images[:, 0, :, 2], images[:, 0, :, -3]).float().mean(dim=1)
    return torch.round(grey / 4).int().tolist()


def test_a_speaker_in_the_place_of_a_clip_draws_their_clips_by_chance(root: Path) -> None:
    speaker = Speaker(("ann/gaps", "ann/five"), (0.8, 0.2))
    dataset = WindowDataset(root, [speaker], face_size=16, num_frames=2, num_references=1, windows_per_clip=60)
    assert len(dataset) == 60
    drawn = [dataset[index]["clip"] for index in range(60)]
    assert 38 <= drawn.count("ann/gaps") <= 58  # 48 expected; beyond 3 deviations
    assert (
        drawn
        == [dataset[0, index]["clip"] for index in range(60)]
        != [dataset[1, index]["clip"] for index in range(60)]
    )


def test_shapes_types_and_ranges(root: Path) -> None:
    loader = DataLoader(_dataset(root, clips=("ann/gaps", "ann/five"), windows_per_clip=2), batch_size=4)
    loaded: Batch = next(iter(loader))
    assert loaded["faces"].dtype == loaded["references"].dtype == torch.uint8
    batch = as_floats(loaded)
    torch.testing.assert_close(batch["faces"] * 255, loaded["faces"].float())
    shapes = {name: tuple(value.shape) for name, value in batch.items() if isinstance(value, torch.Tensor)}
    heatmap = (4, 5, 1, 64, 64)
    assert shapes == {
        "faces": (4, 5, 3, 64, 64),
        **dict.fromkeys(("heatmaps", "masked_heatmaps", "lip_heatmaps", "jaw_heatmaps"), heatmap),
        "landmarks": (4, 5, 131, 2),
        "keypoints": (4, 5, 2, 57),
        "lip_aperture": (4, 5, 3),
        "lip_aperture_spread": (4, 3),
        "audio": (4, 5, 80, 10),
        "references": (4, 3, 3, 64, 64),
        "reference_heatmaps": (4, 3, 1, 64, 64),
        "theta": (4, 5, 3, 2, 3),
        "frame": (4,),
    }
    assert batch.keys() == Batch.__required_keys__
    assert batch["clip"] == ["ann/gaps"] * 2 + ["ann/five"] * 2
    assert batch["frame"].dtype == torch.int64
    for name in shapes.keys() - {"frame"}:
        assert batch[name].dtype == torch.float32, name  # type: ignore[literal-required]
    for name in shapes.keys() - {"frame", "audio", "lip_aperture", "theta"}:
        low, high = batch[name].aminmax()  # type: ignore[literal-required]
        assert low >= 0, name
        assert high <= 1, name


@pytest.mark.parametrize("reference_policy", ["random", "aperture", "mixed", "pose_matched", "pose_nearest"])
def test_windows_are_consecutive_valid_frames_and_references_others(root: Path, reference_policy: str) -> None:
    dataset = _dataset(root, reference_policy=reference_policy)
    seen = set()
    for item in (dataset[i] for i in range(len(dataset))):
        frames = _frames_of(item["faces"])
        assert frames == list(range(frames[0], frames[0] + 5))
        assert item["frame"] == frames[2]
        references = _frames_of(item["references"])
        assert VALID[frames].all()
        assert VALID[references].all()
        assert not set(frames) & set(references)
        if not reference_policy.startswith("pose"):  # to shut lips all may be one frame
            assert len(set(references)) == 3
        if reference_policy == "pose_nearest":
            assert (np.abs(np.array(references) - frames[2]) >= 12).all()
        if reference_policy == "aperture":
            assert references == sorted(references)
            assert references[-1] == max(set(np.flatnonzero(VALID)) - set(frames))
        seen.add(frames[0])
    assert seen <= {0, 1, 2, 3, *range(16, 26)}
    assert len(seen) > 8


def test_references_of_the_pose_are_as_far_open_as_the_window_s_lips(root: Path) -> None:
    """As dubbing chooses them for what guidance wants; lips open with the number of the frame here."""

    def face_landmarks_of(frames: np.ndarray) -> np.ndarray:
        points = opened(one_face(len(frames)), frames / 400)
        points[:, 0, 0] += np.where(frames == 90, 0.1, 0)  # a pose of its own
        return points

    clip: Any = SimpleNamespace(face_landmarks_of=face_landmarks_of)
    dataset, others = _dataset(root), np.arange(40)
    assert dataset._nearest_in_pose(clip, 90, others).tolist() == [0, 39, 39]  # wider than any
    dataset = _dataset(root, num_references=2)
    shut = face_landmarks_of(np.array([0]))
    clip.face_landmarks_of = lambda frames: np.concatenate([face_landmarks_of(frames[:-1]), shut])
    assert dataset._nearest_in_pose(clip, 90, others).tolist() == [0, 0]


def test_a_clip_of_nothing_but_the_window_references_itself(root: Path) -> None:
    item = _dataset(root, clips=("ann/five",), num_references=7)[0]
    assert set(_frames_of(item["references"])) <= set(range(5))
    assert len(item["references"]) == 7


def test_everything_drawn_belongs_to_its_frame(root: Path, synthetic: ModuleType) -> None:
    item = _dataset(root)[3]
    for images, drawn in (("faces", "heatmaps"), ("references", "reference_heatmaps")):
        frames = _frames_of(item[images])  # type: ignore[literal-required]
        landmarks = np.stack([(synthetic.landmarks_of(i) - (10, 20)) / 100 for i in frames])
        landmarks = (landmarks * 8192).round() / 8192  # as they are stored
        expected = draw_heatmaps(landmarks.astype(np.float32), "whole", 64)
        np.testing.assert_array_equal(item[drawn][:, 0], expected)  # type: ignore[literal-required]
        if images == "faces":
            np.testing.assert_allclose(item["landmarks"], landmarks, atol=1e-6)
            keypoints = landmarks[:, KEYPOINT_POSITIONS].transpose(0, 2, 1)
            np.testing.assert_allclose(item["keypoints"], keypoints, atol=1e-6)
            for kind in ("masked", "lip", "jaw"):
                expected = draw_heatmaps(landmarks.astype(np.float32), kind, 64)
                np.testing.assert_array_equal(item[f"{kind}_heatmaps"][:, 0], expected)  # type: ignore[literal-required]


def test_audio_window_of_each_frame(root: Path) -> None:
    """Frame i hears 10 steps from (i - 2) * 2 on, zeros outside of the sound; step k holds k + 1."""
    dataset = _dataset(root)
    for item in (dataset[i] for i in range(len(dataset))):
        for i, frame in enumerate(range(int(item["frame"]) - 2, int(item["frame"]) + 3)):
            steps = np.arange(10) + (frame - 2) * 2
            expected = np.where((steps >= 0) & (steps < 60), steps + 1, 0)
            np.testing.assert_array_equal(item["audio"][i], np.tile(expected, (80, 1)))


def test_draws_depend_on_seed_epoch_and_index_alone(root: Path) -> None:
    def draws(dataset: WindowDataset, epoch: int) -> list[tuple[int, ...]]:
        items = [dataset[epoch, i] for i in range(12)]
        return [(int(item["frame"]), *_frames_of(item["references"])) for item in items]

    first = draws(_dataset(root), 4)
    np.random.seed(1)
    torch.manual_seed(1)
    assert draws(_dataset(root), 4) == first
    assert draws(_dataset(root), 5) != first
    assert draws(_dataset(root, seed=1), 4) != first


def test_even_windows_cover_the_clip_and_never_change(root: Path) -> None:
    dataset = _dataset(root, window_policy="even", windows_per_clip=7)
    centres = [int(dataset[0, i]["frame"]) for i in range(7)]
    assert centres == [int(dataset[9, i]["frame"]) for i in range(7)]
    assert centres == sorted(set(centres))
    assert centres[0] <= 3
    assert centres[-1] >= 25


def test_mirrored_items(root: Path) -> None:
    plain, mirrored = _dataset(root), _dataset(root, augment=AugmentSettings(mirror=True))
    flipped = 0
    for i in range(20):
        a, b = plain[i], mirrored[i]
        assert a["frame"] == b["frame"]
        if torch.equal(a["faces"], b["faces"]):
            torch.testing.assert_close(a["landmarks"], b["landmarks"])
            continue
        flipped += 1
        torch.testing.assert_close(b["faces"], a["faces"].flip(-1))
        torch.testing.assert_close(b["references"], a["references"].flip(-1))
        torch.testing.assert_close(b["landmarks"][..., 0], 1 - a["landmarks"][:, MIRROR, 0])
        torch.testing.assert_close(b["landmarks"][..., 1], a["landmarks"][:, MIRROR, 1])
    assert 4 <= flipped <= 16


def test_all_augmentation_together(root: Path) -> None:
    plain, augmented = _dataset(root), _dataset(root, augment=AugmentSettings(True, 1.0, 1.0, 1.0, 1.0))
    for i in range(8):
        a, b, again = plain[3, i], augmented[3, i], augmented[3, i]
        for name, value in b.items():
            if isinstance(value, torch.Tensor):
                assert torch.equal(value, again[name]), name  # type: ignore[literal-required]
                assert value.shape == a[name].shape, name  # type: ignore[literal-required]
        assert (a["frame"], a["clip"]) == (b["frame"], b["clip"])
        assert torch.equal(a["audio"], b["audio"])
        assert not torch.equal(a["faces"], b["faces"])
        assert not torch.equal(a["landmarks"], b["landmarks"])
        for name in ("faces", "references"):
            assert b[name].float().std() > 5, name  # type: ignore[literal-required]
        for kind, drawn in (("whole", "heatmaps"), ("masked", "masked_heatmaps"), ("jaw", "jaw_heatmaps")):
            expected = draw_heatmaps(b["landmarks"].numpy(), kind, 64)  # type: ignore[arg-type]
            np.testing.assert_array_equal(b[drawn][:, 0], expected)  # type: ignore[literal-required]
        np.testing.assert_array_equal(b["keypoints"], b["landmarks"][:, KEYPOINT_POSITIONS].transpose(1, 2))


def test_another_voice_leaves_pictures_alone(root: Path) -> None:
    plain, changed = _dataset(root), _dataset(root, augment=AugmentSettings(voice=1.0))
    for i in range(4):
        a, b = plain[3, i], changed[3, i]
        assert torch.equal(b["audio"], changed[3, i]["audio"])
        assert not torch.equal(a["audio"], b["audio"])
        assert all(torch.equal(a[name], b[name]) for name in ("faces", "references", "heatmaps"))


@pytest.mark.parametrize("strength", ["colour", "jpeg", "resolution"])
def test_frames_and_references_change_alike(root: Path, strength: str) -> None:
    """In a clip of five frames references are frames of the window: the same picture must come out."""
    item = _dataset(root, clips=("ann/five",), num_references=5, augment=AugmentSettings(**{strength: 1.0}))[5]
    plain = _dataset(root, clips=("ann/five",), num_references=5)[5]
    references = _frames_of(plain["references"])
    assert torch.equal(item["references"], item["faces"][references])


def test_larger_faces_are_made_smaller(root: Path) -> None:
    item = _dataset(root, face_size=32)[0]
    assert item["faces"].shape[-2:] == item["heatmaps"].shape[-2:] == (32, 32)
    assert _frames_of(item["faces"])[2] == item["frame"]


def test_native_faces_are_the_same_pictures_larger(root: Path) -> None:
    changes = AugmentSettings(mirror=True, geometry=1.0, colour=1.0)
    item = _dataset(root, face_size=32, native_size=64, augment=changes)[3]
    for name, count in (("faces", 5), ("references", 3)):
        large = item[f"native_{name}"]
        assert large.shape == (count, 3, 64, 64)
        smaller = np.stack([resize_face(face.permute(1, 2, 0).numpy(), 32) for face in large])
        np.testing.assert_array_equal(item[name].permute(0, 2, 3, 1), smaller)
    assert "native_faces" not in _dataset(root, face_size=32)[3]
    floats = as_floats(default_collate([item, item]))
    assert floats["native_references"].dtype == torch.float32
    assert floats["native_references"].max() <= 1


def test_faces_are_not_made_larger_than_they_are_stored(root: Path) -> None:
    with pytest.raises(ClipError, match=r"at most the stored 64 px, got 128; .* --face-size 128 .* min_face_px"):
        _dataset(root, face_size=128)[0]


def test_a_clip_prepared_anew_is_read_anew(synthetic: ModuleType, tmp_path: Path) -> None:
    synthetic.write_synthetic_clip(tmp_path, "ann/clip", np.ones(6, bool))
    dataset = _dataset(tmp_path, clips=("ann/clip",))
    assert {int(dataset[i]["frame"]) for i in range(10)} == {2, 3}
    synthetic.write_synthetic_clip(tmp_path, "ann/clip", np.arange(30) >= 20)
    assert min(int(dataset[i]["frame"]) for i in range(10)) >= 22


def test_errors(root: Path) -> None:
    with pytest.raises(UserError, match="num_references must be 1 or more, got 0"):
        _dataset(root, num_references=0)
    for name in ("geometry", "colour", "resolution", "jpeg", "voice"):
        with pytest.raises(UserError, match=f"{name}: expected 0 to 1, got 1.5"):
            AugmentSettings(**{name: 1.5})
    with pytest.raises(UserError, match="voice: changes log-mel features only, got features 'mfcc'"):
        _dataset(root, features="mfcc", augment=AugmentSettings(voice=0.5))
    with pytest.raises(UserError, match="quiet_share: expected a share from 0 to below 1, got 1"):
        _dataset(root, quiet_share=1)
    with pytest.raises(ClipError, match=r"gaps.safetensors: expected 15 frames"):
        _dataset(root, num_frames=15)[0]
    with pytest.raises(ClipError, match="expected 60 frames"):
        _dataset(root, num_frames=60)[0]
    with pytest.raises(ClipError, match="--features mfcc"):
        _dataset(root, features="mfcc")[0]
    with pytest.raises(FileNotFoundError, match="bob"):
        _dataset(root, clips=("bob/one",))[0]
    with pytest.raises(IndexError):
        _dataset(root)[40]


def test_swapped_mouths_have_another_pose_and_their_own_sound(root: Path) -> None:
    """In the epochs asked for only; sound, pictures and lip aperture stay those of the window."""
    plain, swapped = _dataset(root), _dataset(root, swap_mouth_epochs=4)
    differ = 0
    for i in range(8):
        a, b = plain[3, i], swapped[3, i]
        assert a["frame"] == b["frame"]
        for name in ("audio", "faces", "lip_aperture"):
            assert torch.equal(a[name], b[name])  # type: ignore[literal-required]
        differ += not torch.equal(a["landmarks"][:, MASKED_POSITIONS], b["landmarks"][:, MASKED_POSITIONS])
        assert torch.equal(plain[4, i]["landmarks"], swapped[4, i]["landmarks"])
    assert differ >= 4


def test_quiet_windows_hear_no_speech_and_have_the_clip_s_shut_mouth(root: Path) -> None:
    """Of mouths on other poses only; the other windows hear and show what they did."""
    options = {"swap_mouth_epochs": 4, "windows_per_clip": 400}
    spoken, quiet = _dataset(root, **options), _dataset(root, **options, quiet_share=0.25)
    clip = Clip.open(clip_path(root, "ann/gaps"))
    apertures = inner_lip_aperture(clip.landmarks[clip.valid])
    changed = 0
    for i in range(100):
        plain, item = spoken[3, i], quiet[3, i]
        if torch.equal(plain["audio"], item["audio"]):
            continue
        changed += 1
        assert torch.equal(item["lip_aperture"], item["lip_aperture"][:1].expand(5, 3))
        assert item["lip_aperture"][0, 1] < np.sort((apertures - apertures.mean()) / apertures.std())[2]
        heard = item["audio"][:, :, 0].numpy()
        assert (heard[:, None] == quiet_features("logmel")[None]).all(-1).any(-1).all()
        assert torch.equal(spoken[4, i]["audio"], quiet[4, i]["audio"])
    assert 12 <= changed <= 38  # 25 expected; beyond 3 deviations


def test_lip_aperture_is_standardised_around_the_window(root: Path) -> None:
    item = _dataset(root)[0]
    clip = Clip.open(clip_path(root, item["clip"]))
    values = lip_measures(clip.landmarks)
    expected = (values - np.nanmean(values, 0)) / np.nanstd(values, 0)
    frames = int(item["frame"]) + np.arange(-2, 3)
    np.testing.assert_allclose(item["lip_aperture"], expected[frames], atol=1e-3)
    np.testing.assert_allclose(item["lip_aperture_spread"], np.nanstd(lip_measures(clip.face_landmarks), 0), rtol=1e-3)


def test_places_carry_references_onto_the_window_however_it_was_augmented(root: Path) -> None:
    """What is moved comes to lie nearer the frame's own contours than it lay."""
    for i in range(4):
        item = _dataset(root, augment=AugmentSettings(mirror=True, geometry=1.0))[i]
        images, maps = item["references"][None].float(), item["reference_heatmaps"][None]
        moved = warp_references(images, maps, item["theta"][2][None])[1][0]
        contours = item["masked_heatmaps"][2] > 0.5
        assert moved[:, contours].mean() > max(0.9, maps[0][:, contours].mean())
