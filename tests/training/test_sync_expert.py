"""The lip-sync expert: windows that belong together, accuracies by hand, learning, and the loss under it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer, seed_everything
from torch.nn import functional as F

from stsa_lightning.data.datamodule import STSADataModule
from stsa_lightning.data.windows import as_floats
from stsa_lightning.losses.objective import LossWeights
from stsa_lightning.losses.sync import SyncLoss, load_sync_loss, sync_distance
from stsa_lightning.models.sync_expert import SyncExpert, load_sync_expert
from stsa_lightning.training.module import STSA
from stsa_lightning.training.sync_expert import SyncExpertModule, scores
from stsa_lightning.utils.errors import UserError


@pytest.fixture
def expert() -> SyncExpert:
    torch.manual_seed(0)
    return SyncExpert(width=4, dim=16).eval()


def test_an_embedding_depends_on_its_five_frames_and_their_sound_alone(expert: SyncExpert):
    faces, audio = torch.rand(2, 9, 3, 64, 64), torch.randn(2, 9, 80, 10)
    lip, speech = expert(faces, audio)
    assert lip.shape == speech.shape == (2, 5, 16)
    torch.testing.assert_close(lip.norm(dim=-1), torch.ones(2, 5))
    torch.testing.assert_close(expert.lip(faces[:, 2:7]), lip[:, 2:3])
    torch.testing.assert_close(expert.speech(audio[:, 2:7]), speech[:, 2:3])
    upper = faces.clone()
    upper[..., :32, :] = 0  # what is above the mouth is not seen
    torch.testing.assert_close(expert.lip(upper), lip)
    assert expert.lip(F.interpolate(faces.flatten(0, 1), 128).unflatten(0, (2, 9))).shape == lip.shape


def test_shapes_that_do_not_fit(expert: SyncExpert):
    with pytest.raises(ValueError, match="5 frames or more, got 4"):
        expert.lip(torch.rand(1, 4, 3, 64, 64))
    with pytest.raises(ValueError, match="audio has shape"):
        expert.speech(torch.rand(1, 5, 13, 10))
    with pytest.raises(UserError, match="features must be one of"):
        SyncExpert(features="pitch")


def test_accuracies_by_hand():
    speech = torch.eye(12)[None].repeat(2, 1, 1)
    speech[1] = speech[1].roll(3, dims=1)
    perfect = scores(speech, speech)
    assert {name: float(value) for name, value in perfect.items() if name != "retrieval_clips"} == {
        **dict.fromkeys(("retrieval", "retrieval_near", "offset", "offset_near", "cosine"), 1.0)
    }
    late = scores(speech.roll(1, dims=1), speech)  # each window of lips shows what is heard one earlier
    assert float(late["retrieval"]) == 0
    assert float(late["retrieval_near"]) == pytest.approx(11 / 12)
    assert float(late["offset"]) == 0
    assert float(late["offset_near"]) == 1
    assert float(late["cosine"]) == 0
    apart = F.normalize(torch.cat([torch.ones(1, 12, 1), -torch.ones(1, 12, 1)]), dim=-1)
    assert float(scores(apart, apart)["retrieval_clips"]) == 1
    assert float(scores(apart, -apart)["retrieval_clips"]) == 0


def test_a_guess_costs_1_and_certainty_nothing():
    module = SyncExpertModule(width=4, dim=32, temperature=0.02)
    same = F.normalize(torch.ones(2, 8, 32), dim=-1)
    terms = module.losses(same, same)
    assert float(terms["across"]) == pytest.approx(1)
    assert float(terms["within"]) == pytest.approx(1)
    apart = torch.eye(32)[:16].unflatten(0, (2, 8))
    assert max(map(float, module.losses(apart, apart).values())) < 1e-4


def test_settings_out_of_range():
    with pytest.raises(UserError, match="num_frames: expected 11 frames or more, got 5"):
        SyncExpertModule(num_frames=5)
    with pytest.raises(UserError, match="same_clip"):
        SyncExpertModule(same_clip=2)


def corpus(root: Path, **options: object) -> STSADataModule:
    settings = {"face_size": 64, "num_frames": 15, "num_references": 1, "batch_size": 4, "num_workers": 0}
    return STSADataModule(str(root), validation_speakers=["speaker03"], windows_per_clip=8, **settings | options)


@pytest.fixture(scope="module")
def trained(prepared_sample: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small expert after some 60 steps on two speakers; its checkpoint."""
    seed_everything(0)
    folder = tmp_path_factory.mktemp("expert")
    module = SyncExpertModule(num_frames=15, width=8, dim=32, dropout=0.0, warmup_steps=4, lr=2e-3)
    trainer = Trainer(
        max_epochs=16,
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
    )
    trainer.fit(module, datamodule=corpus(prepared_sample))
    trainer.save_checkpoint(folder / "expert.ckpt")
    return folder / "expert.ckpt"


def test_it_learns_to_distinguish_moments_and_is_what_its_checkpoint_holds(trained: Path, prepared_sample: Path):
    data = corpus(prepared_sample, num_frames=25, batch_size=2)
    data.setup()
    expert = load_sync_expert(trained)
    assert not any(parameter.requires_grad for parameter in expert.parameters())
    with torch.no_grad():
        right = [scores(*expert(b["faces"], b["audio"])) for b in map(as_floats, data.train_dataloader())]
    measured = {name: float(torch.stack([s[name] for s in right]).mean()) for name in right[0]}
    assert measured["retrieval_near"] > 0.6  # chance: 3 of 21; other seeds have 0.87 to 0.94
    assert measured["offset_near"] > 0.6  # chance: 3 of 11


def test_the_loss_reaches_the_face_and_not_the_expert(expert: SyncExpert):
    loss = SyncLoss(expert)
    assert not loss.state_dict()
    assert not list(loss.parameters())
    faces = torch.rand(2, 5, 3, 64, 64, requires_grad=True)
    value = loss.train()(faces, torch.randn(2, 5, 80, 10))
    value.backward()
    assert faces.grad is not None
    assert faces.grad[..., 32:, :].abs().sum() > 0
    assert not faces.grad[..., :32, :].any()
    assert all(parameter.grad is None for parameter in expert.parameters())
    assert not expert.training
    assert loss.double()._frozen[0].settings == expert.settings
    assert next(expert.parameters()).dtype == torch.float64


def test_distance_by_hand():
    a, b = torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    assert float(sync_distance(a, b)) == pytest.approx(0.5)
    with pytest.raises(ValueError, match="one shape"):
        sync_distance(a, b[:1])


def test_a_training_step_with_the_expert_renders_all_frames(trained: Path, prepared_sample: Path):
    weights = LossWeights(warp=0, perceptual=0, pixel=1, adversarial=0, feature_matching=0, sync=0.1)
    losses = {"weights": weights, "sync_expert": str(trained)}
    module = STSA("tiny", face_size=64, num_references=2, losses=losses)
    module.set_phase("synthesis")
    data = corpus(prepared_sample, num_frames=5, num_references=2, batch_size=2)
    data.setup()
    generated = module.generate(as_floats(next(iter(data.train_dataloader()))))
    assert generated.face is not None
    assert generated.face.shape == (10, 3, 64, 64)
    generated.terms["sync"].backward()
    assert any(p.grad is not None and p.grad.any() for p in module.synthesis.inpainting.parameters())
    assert not any("_frozen" in name or "expert" in name for name in module.state_dict())


def test_an_expert_that_does_not_fit(trained: Path, tmp_path: Path):
    with pytest.raises(UserError, match="needs a lip-sync expert"):
        load_sync_loss(None, "logmel", 5)
    with pytest.raises(UserError, match="trained on logmel, expected wav2vec2"):
        load_sync_loss(str(trained), "wav2vec2", 5)
    with pytest.raises(UserError, match="5 frames or more, got 3"):
        load_sync_loss(str(trained), "logmel", 3)
    with pytest.raises(FileNotFoundError, match="stsa syncnet fit"):
        load_sync_expert(tmp_path / "none.ckpt")
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    with pytest.raises(UserError, match="expected a checkpoint of stsa syncnet fit"):
        load_sync_expert(tmp_path / "other.ckpt")
