"""Ablations: one experiment and its variants under several seeds, each trained and measured in a process of its own.

A variant is a small overlay of settings (`experiments/ablations/NAME.yaml`), the second `-c` of a training. What is
finished is kept, what was interrupted goes on from its last checkpoint, and what fails does not end the rest, the first
run of the experiment itself excepted.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from stsa_lightning.ablation import METRICS
from stsa_lightning.utils.errors import UserError, check_at_least
from stsa_lightning.utils.files import written_whole
from stsa_lightning.utils.safe_load import load_tensors
from stsa_lightning.utils.tables import read_text, read_yaml

BASE = "base"
LAST_SEED = 2**32 - 1  # that NumPy takes
_FIXED_SPLIT = ("validation_speakers", "train_list", "val_list")


@dataclass(frozen=True)
class Run:
    """One training: `variant` under `seed` in `folder`; `overlay`: its settings, None for the base."""

    variant: str
    seed: int
    folder: Path
    overlay: Path | None

    @property
    def name(self) -> str:
        return f"{self.variant}-seed{self.seed}"


@dataclass(frozen=True)
class Ablation:
    """What is compared.

    Attributes:
        overlays: YAML files of the variants; the name of a file is that of the variant.
        out: folder of the runs and of the tables.
        seeds: of weights, order and dropout; who validates stays the same.
        epochs: length of each run, its phases in the base's proportions; None: as the base says.
        options: further options of `stsa fit` for all runs; `{seed}` in them stands for the run's seed.
        metrics: see `stsa evaluate`.
    """

    base: Path
    overlays: tuple[Path, ...]
    out: Path
    seeds: tuple[int, ...] = (0,)
    epochs: int | None = None
    options: tuple[str, ...] = ()
    metrics: tuple[str, ...] = METRICS
    protocol: Path | None = None

    def __post_init__(self) -> None:
        for path in (self.base, *self.overlays, *filter(None, [self.protocol])):
            if not path.is_file():
                raise FileNotFoundError(f"{path}: no such settings")
        names = [path.stem for path in self.overlays]
        if BASE in names or len(set(names)) < len(names):
            raise UserError(f"overlays: expected files of different names, none called {BASE}, got {names}")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise UserError(f"seeds: expected different numbers, at least one, got {list(self.seeds)}")
        if not all(0 <= seed <= LAST_SEED for seed in self.seeds):
            raise UserError(f"seeds: expected numbers from 0 to {LAST_SEED}, got {list(self.seeds)}")
        if self.epochs is not None:
            check_at_least("epochs", self.epochs, 1)

    def runs(self) -> list[Run]:
        """All runs, a seed after another, so that a table of all variants stands as early as can be."""
        variants: list[Path | None] = [None, *self.overlays]
        names = [BASE if overlay is None else overlay.stem for overlay in variants]
        return [
            Run(name, seed, self.out / f"{name}-seed{seed}", overlay)
            for seed in self.seeds
            for name, overlay in zip(names, variants, strict=True)
        ]

    def train(self, run: Run) -> None:
        """Train one run, or what is left of it.

        Raises:
            UserError: it failed, or its folder holds a run of other settings.
        """
        settings = read_yaml(self.base)
        fixed = any(settings.get("data", {}).get(name) for name in _FIXED_SPLIT)
        words = [f"--{name}={run.seed}" for name in ("seed_everything", *(["data.seed"] * fixed))]
        words += [] if self.epochs is None else [f"--epochs={self.epochs}"]
        overlay = "" if run.overlay is None else read_text(run.overlay).text
        options = [option.replace("{seed}", str(run.seed)) for option in self.options]
        said = json.dumps([settings, overlay, words, options])
        mark, fingerprint = run.folder / "trained", hashlib.sha256(said.encode()).hexdigest()
        begun = run.folder / "settings.sha256"
        if begun.is_file() and begun.read_text() != fingerprint:
            raise UserError(f"{run.folder}: holds a run of other settings; remove it, or choose another --out")
        if mark.is_file():
            return
        run.folder.mkdir(parents=True, exist_ok=True)
        with written_whole(begun) as part:
            part.write_text(fingerprint)
        files = [self.base] if run.overlay is None else [self.base, run.overlay]
        chosen = [word for file in files for word in ("-c", str(file))]
        call = ["fit", *chosen, *words, *options, f"--run={run.folder}", "--ckpt_path=last"]
        _call(call, run.folder / "train.log")
        mark.touch()

    def measure(self, run: Run) -> dict[str, dict[str, float]]:
        """Metric values of a trained run: task -> column -> mean over clips.

        Raises:
            UserError: the evaluation failed.
        """
        from stsa_lightning.evaluation.report.report import load_report

        checkpoint, out = run.folder / "last.ckpt", run.folder / "evaluation"
        report = out / "report.json"
        if not report.is_file() or report.stat().st_mtime_ns < checkpoint.stat().st_mtime_ns:
            protocol = [] if self.protocol is None else ["--protocol", str(self.protocol)]
            wanted = ["--metrics", ",".join(self.metrics), "--tasks", "paired,unpaired", "--no-baselines"]
            corpus = load_tensors(checkpoint)["datamodule_hyper_parameters"]["root"]  # that it was trained on
            where = ["--data", corpus, "--out", str(out), *protocol, *wanted]
            _call(["evaluate", "checkpoint", str(checkpoint), *where], run.folder / "evaluate.log")
        measured = load_report(report)
        return {
            task: {c.name: measured.row(task, measured.main).value(c.name) for c in measured.task_columns(task)}
            for task in measured.tasks
        }

    def record(self) -> dict[str, Any]:
        return json.loads(json.dumps(asdict(self), default=str))

    def go(self) -> Iterator[tuple[Run, dict[str, dict[str, float]] | str]]:
        """Train and measure everything: each run with its metric values, or with why it has none.

        Raises:
            UserError: the first run of the base failed, as when its corpus is missing: the others would fail likewise,
                and have nothing to be compared with.
        """
        for number, run in enumerate(self.runs()):
            try:
                self.train(run)
                yield run, self.measure(run)
            except (UserError, OSError) as error:
                if number == 0:
                    raise UserError(f"{run.name}: {error}; no other run was begun") from error
                yield run, str(error)


def _call(words: Sequence[str], log: Path) -> None:
    """One command of this program in a process of its own; what it says goes to `log`."""
    with log.open("a") as file:
        code = subprocess.run(
            [sys.executable, "-m", "stsa_lightning", *words], stdout=file, stderr=subprocess.STDOUT, check=False
        ).returncode
    if code:
        lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
        raise UserError(f"{words[0]} ended with status {code}: {lines[-1] if lines else 'nothing said'} (see {log})")
