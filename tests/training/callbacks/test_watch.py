"""A loss that is no number is named with its batch, at the next reading and before a checkpoint."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from stsa_lightning.training.callbacks.watch import LossWatch
from stsa_lightning.training.checks import check_agreement, check_batch, check_features, memory_advice
from stsa_lightning.utils.errors import UserError


def step(watch: LossWatch, index: int, **values: float) -> None:
    terms = {name: torch.tensor(value) for name, value in values.items()}
    batch = {"clip": ["anna/a", "bob/b"], "frame": torch.tensor([10 * index, 7])}
    trainer: Any = SimpleNamespace(current_epoch=3, global_rank=1)
    watch.on_train_batch_end(trainer, None, {"terms": terms}, batch, index)  # type: ignore[arg-type]


NAN, INF = float("nan"), float("inf")


def test_the_first_bad_term_is_named_with_its_windows_at_the_next_reading():
    watch = LossWatch(every_n_steps=4)
    step(watch, 0, pixel=0.1, warp=0.2, loss=0.3)
    step(watch, 1, pixel=0.1, warp=NAN, loss=NAN)
    step(watch, 2, pixel=INF, warp=NAN, loss=NAN)  # what follows is no news
    with pytest.raises(UserError) as error:
        step(watch, 3, pixel=NAN, warp=NAN, loss=NAN)
    message = str(error.value)
    assert message.startswith("warp became infinite or no number in epoch 3, batch 1 (rank 1)")
    assert "anna/a frame 10, bob/b frame 7" in message
    assert "model.optim.lr" in message


def test_a_checkpoint_is_not_written_over_with_what_came_after():
    watch = LossWatch(every_n_steps=100)
    step(watch, 0, pixel=INF, loss=INF)
    with pytest.raises(UserError, match="pixel became"):
        watch.on_save_checkpoint(SimpleNamespace(global_rank=0), None, {})  # type: ignore[arg-type]


def test_finite_losses_pass_whatever_the_terms_of_a_phase():
    watch = LossWatch(every_n_steps=2)
    for index in range(4):
        step(watch, index, **({"pixel": 1.0, "loss": 1.0} if index % 2 else {"loss": 2.0}))


def test_out_of_memory_says_what_to_lower():
    lower = r"Lower data\.batch_size \(now 24\) and raise model\.optim\.accumulate_grad_batches"
    with pytest.raises(UserError, match=lower), memory_advice(24):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB. GPU 0 has ...")
    with pytest.raises(UserError, match="out of memory"), memory_advice(1):
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes")
    with pytest.raises(RuntimeError, match="something else"), memory_advice(1):
        raise RuntimeError("something else")


SETTINGS = {"features": "logmel", "face_size": 64, "num_references": 2, "num_frames": 3, "heatmap_sigma": 1.0}


def test_data_and_networks_that_differ_are_named():
    check_agreement(SETTINGS, dict(SETTINGS))
    with pytest.raises(
        UserError, match="face_size: 128 in the data, 64 in the module; num_frames: 5 in the data, 3 in"
    ):
        check_agreement(SETTINGS, {**SETTINGS, "face_size": 128, "num_frames": 5})


def test_cil_within_clips_needs_windows_of_one_clip_together():
    within = {**SETTINGS, "cil": {"weight": 0.1, "negatives": "clip"}}
    check_agreement(within, {**SETTINGS, "windows_together": 2})
    check_agreement({**within, "cil": {"weight": 0.0, "negatives": "clip"}}, {**SETTINGS, "windows_together": 1})
    with pytest.raises(UserError, match="windows_together to 2 or more, got 1"):
        check_agreement(within, {**SETTINGS, "windows_together": 1})


def test_a_batch_of_other_shapes_is_named():
    maps = torch.zeros(2, 3, 1, 64, 64)
    batch = {
        **{f"{kind}heatmaps": maps for kind in ("", "masked_", "lip_", "jaw_")},
        "faces": torch.zeros(2, 3, 3, 64, 64),
        "keypoints": torch.zeros(2, 3, 2, 57),
        "lip_aperture": torch.zeros(2, 3, 3),
        "lip_aperture_spread": torch.ones(2, 3),
        "audio": torch.zeros(2, 3, 80, 10),
        "references": torch.zeros(2, 2, 3, 64, 64),
        "reference_heatmaps": torch.zeros(2, 2, 1, 64, 64),
        "theta": torch.zeros(2, 3, 2, 2, 3),
    }
    check_batch(batch, SETTINGS, 80)
    with pytest.raises(UserError, match=r"lip_heatmaps: expected \(B, 3, 1, 64, 64\), got \(2, 3, 1, 32, 32\)"):
        check_batch({**batch, "lip_heatmaps": maps[..., :32, :32]}, SETTINGS, 80)
    with pytest.raises(UserError, match=r"audio: expected .* got nothing"):
        check_batch({name: value for name, value in batch.items() if name != "audio"}, SETTINGS, 80)
    native = {**SETTINGS, "losses": {"weights": {"native_warp": 2.0, "native_perceptual": 0.0}}}
    with pytest.raises(UserError, match=r"native_warp.*got none; set data.native_size"):
        check_batch(batch, native, 80)
    check_batch({**batch, "native_references": torch.zeros(2, 2, 3, 128, 128)}, native, 80)


def test_an_unknown_feature_is_named():
    assert check_features("logmel") == 80
    with pytest.raises(UserError, match=r"features must be one of .*logmel.*, got 'mel'"):
        check_features("mel")
