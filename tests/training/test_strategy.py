"""Several processes and gathered batches give the gradients of one process with the whole batch."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from torch.utils.data import DataLoader

from stsa_lightning.losses.objective import LossWeights
from stsa_lightning.training.checks import batch_shapes
from stsa_lightning.training.module import STSA
from stsa_lightning.training.strategy import average_gradients
from tests.pair import Pair

SIZES: dict[str, Any] = {"face_size": 64, "num_frames": 2, "num_references": 2}
NARROW: dict[str, Any] = {
    "guidance": {"width": 16, "base": 4, "layers": 1, "heads": 2, "feedforward": 16},
    "synthesis": {"width": 2, "audio_width": 8, "spade_hidden": 4},
}


def module(cil_weight: float = 0.1, **options: Any) -> STSA:
    torch.manual_seed(0)
    weights = LossWeights(warp=0, perceptual=0, warp_pixel=1, pixel=1, adversarial=0.1)
    settings = {"losses": {"weights": weights}, "cil": {"weight": cil_weight}}
    return STSA("tiny", **SIZES, **NARROW, **settings, discriminator={"width": 4, "scales": 1}, **options)


def items(count: int = 8) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(1)

    def uniform(*shape: int) -> torch.Tensor:
        return torch.rand(shape, generator=generator)

    shapes = batch_shapes(SIZES, 80)
    return [
        {**{name: uniform(*shape) for name, shape in shapes.items()}, "frame": index, "clip": f"clip{index}"}
        for index in range(count)
    ]


def gradients_of(count: int, first: int = 0) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Loss and gradients of both optimisers on some of the windows, all terms, CIL among them."""
    model = module().eval()  # batch norm by its averages: over processes it is SyncBatchNorm's business
    batch: Any = next(iter(DataLoader(items()[first : first + count], batch_size=count)))
    generated = model.generate(batch)
    total, _ = model.total_loss(generated)
    total.backward()
    assert generated.face is not None
    assert generated.real is not None
    losses = model.objective.discriminator_terms(
        generated.real, model.objective.discriminate(generated.face.detach(), 1)
    )
    losses["discriminator"].backward()
    if torch.distributed.is_initialized():
        average_gradients(list(model.parameters()))
    return total.detach(), {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


def gradients_of_half(rank: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    return gradients_of(4, 4 * rank)


@pytest.mark.slow
def test_two_processes_of_four_are_one_of_eight(pair: Pair):
    loss, gradients = gradients_of(8)
    ranks = pair(gradients_of_half)
    assert torch.stack([rank[0] for rank in ranks]).mean().item() == pytest.approx(loss.item(), abs=1e-5)
    assert {name.split(".")[0] for name in gradients} == {"guidance", "synthesis", "objective"}
    for name, gradient in gradients.items():
        for _, theirs in ranks:
            torch.testing.assert_close(theirs[name], gradient, atol=1e-5, rtol=1e-4, msg=name)


class Record(Callback):
    """Batch norm by its averages, and the clipped gradients that each optimiser steps with."""

    def __init__(self) -> None:
        self.gradients: list[list[torch.Tensor]] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, *args: Any) -> None:
        pl_module.eval()

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if pl_module.steps_after(batch_idx) and not self.gradients:
            for optimiser in trainer.optimizers:
                held = [parameter for group in optimiser.param_groups for parameter in group["params"]]
                self.gradients.append([p.grad.clone() for p in held if p.grad is not None])


def train(batch_size: int, accumulate: int, folder: Path, count: int = 8) -> tuple[Record, Trainer]:
    record, model = Record(), module(0.0, optim={"accumulate_grad_batches": accumulate, "gradient_clip_val": 0.5})
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=2,
        default_root_dir=folder,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[record],
    )
    trainer.fit(model, DataLoader(items(count), batch_size=batch_size))
    return record, trainer


@pytest.mark.slow
def test_gathered_batches_are_one_larger_one(tmp_path: Path):
    """Without CIL, whose negatives are the batch's own."""
    (gathered, run), (whole, _) = train(4, 2, tmp_path), train(8, 1, tmp_path)
    assert run.global_step == 2
    assert len(gathered.gradients) == len(whole.gradients) == 2  # of the first epoch: generator side, discriminators
    for mine, theirs in zip(gathered.gradients, whole.gradients, strict=True):
        norm = torch.stack([gradient.norm() for gradient in mine]).norm()
        assert norm <= 0.5 + 1e-5
        torch.testing.assert_close(mine, theirs, atol=1e-6, rtol=1e-4)


def test_what_an_epoch_leaves_over_makes_a_step_of_its_own(tmp_path: Path):
    (_, run) = train(1, 2, tmp_path, count=3)
    assert run.global_step == 4  # two batches and one, twice


NODE = """
import sys
import torch
from lightning.pytorch import Callback, Trainer
sys.path.insert(0, sys.argv[1])
from tests.training.test_training import PHASES, data, module
from stsa_lightning.training.callbacks.phases import PhaseSchedule

class Windows(Callback):
    seen = []
    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.seen += [(clip, frame) for clip, frame in zip(batch["clip"], batch["frame"].tolist())]

folder, root = sys.argv[2:]
model = module()
run = Trainer(accelerator="cpu", devices=1, num_nodes=2, strategy="ddp_alternating", max_epochs=4, logger=False,
              default_root_dir=folder, enable_progress_bar=False, enable_checkpointing=False, num_sanity_val_steps=0,
              limit_val_batches=0, callbacks=[PhaseSchedule(PHASES), Windows()])
run.fit(model, data(root, windows_per_clip=4))
torch.save({"parameters": dict(model.named_parameters()), "windows": Windows.seen, "world": run.world_size,
            "node": run.node_rank}, f"{folder}/rank{run.global_rank}.pt")
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.slow
def test_two_nodes_started_by_torchrun_end_with_equal_weights(prepared_sample: Path, tmp_path: Path):
    script = tmp_path / "node.py"
    script.write_text(NODE)
    port = str(free_port())
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}

    def start(node: int) -> subprocess.Popen:
        words = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--node_rank", str(node)]
        words += ["--nproc_per_node", "1", "--master_addr", "127.0.0.1", "--master_port", port, str(script)]
        words += [str(Path(__file__).parents[2]), str(tmp_path), str(prepared_sample)]
        return subprocess.Popen(words, env=environment, stderr=subprocess.PIPE, text=True)

    nodes = [start(0), start(1)]
    for node in nodes:
        assert node.wait() == 0, node.communicate()[1][-3000:]
    ranks = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in range(2)]
    assert [(rank["world"], rank["node"]) for rank in ranks] == [(2, 0), (2, 1)]
    for name, tensor in ranks[0]["parameters"].items():
        assert torch.equal(tensor, ranks[1]["parameters"][name]), name
    pairs = list(zip(*(rank["windows"] for rank in ranks), strict=True))
    assert sum(one == other for one, other in pairs) < len(pairs) / 4  # other windows on each, but for chance
