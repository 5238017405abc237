"""A prepared corpus as Lightning wants it: split, windowed, batched."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, cast

import cv2
import pandas as pd
import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, DistributedSampler

from stsa_lightning.audio import FeatureKind
from stsa_lightning.data.index import load_index, select_clips, split_by_speaker, usable
from stsa_lightning.data.windows import WindowDataset
from stsa_lightning.errors import UserError

Corpus = Literal["folder", "sample", "lrs2", "hdtf", "cmlr"]

_PREPARE = "stsa prepare folder --root {videos} --out {root} --features {features}"
HOW_TO_OBTAIN: dict[str, str] = {
    "folder": f"prepare your videos, one folder for each speaker: {_PREPARE}",
    "sample": "render and prepare it: stsa prepare sample --out {root} --features {features}",
    "lrs2": "LRS2 is given to researchers who sign the BBC's agreement "
    f"(https://www.robots.ox.ac.uk/~vgg/data/lip_reading/lrs2.html); then: {_PREPARE}",
    "hdtf": f"HDTF is a list of public videos (https://github.com/MRzzm/HDTF); obtain and cut them, then: {_PREPARE}",
    "cmlr": f"CMLR is given to researchers (https://www.vipazoo.cn/CMLR.html); then: {_PREPARE}",
}
_VIDEOS = {"folder": "VIDEOS", "lrs2": "mvlrs_v1/main", "hdtf": "HDTF_CLIPS", "cmlr": "CMLR_VIDEOS"}


class WindowSampler(DistributedSampler):
    """Shuffled indices, each with the epoch: (epoch, index).

    So a dataset's random draws follow the epoch even in workers that outlive it. Lightning tells the epoch to every
    sampler with `set_epoch`, and leaves a `DistributedSampler` as it is: its ranks share the indices out.
    """

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return ((self.epoch, index) for index in super().__iter__())


class STSADataModule(LightningDataModule):
    """Windows of a prepared corpus for training, validation, test and prediction.

    Validation speakers are never seen in training, unless lists of clips say otherwise. Training draws windows and
    references anew in each epoch; elsewhere windows are spread evenly over a clip, references chosen by lip openness.

    Args:
        root: folder that `stsa prepare` wrote.
        corpus: only decides what is said where the corpus is missing.
        features: kind of audio features; the corpus must hold them.
        face_size: side of faces and heatmaps, pixels.
        window: frames of a window.
        references: reference frames of a window.
        batch_size: windows of a batch, on each device.
        num_workers: processes that load, on each device.
        windows_per_clip: training windows of each clip in an epoch.
        validation_windows_per_clip: the same for the other stages.
        validation_fraction: share of the speakers that validate, drawn with `seed`.
        validation_speakers: these validate instead.
        train_list: text file with the clips that train, one name (`SPEAKER/...`) on each line. Without `val_list`, all
            clips in neither `train_list` nor `test_list` validate.
        val_list: the clips that validate. Without `train_list`, all others but those of `test_list` train.
        test_list: the clips of test and prediction; without it, those that validate.
        mirror: mirror a random half of the training windows left to right.
        colour: strength of random changes of colour in training windows, 0 to 1.
        sigma: width of the heatmaps' ridges, pixels.
        seed: of the split and of all draws.
    """

    def __init__(
        self,
        root: str,
        corpus: Corpus = "folder",
        features: FeatureKind = "logmel",
        face_size: int = 128,
        window: int = 5,
        references: int = 5,
        batch_size: int = 8,
        num_workers: int = 2,
        windows_per_clip: int = 1,
        validation_windows_per_clip: int = 4,
        validation_fraction: float = 0.1,
        validation_speakers: list[str] | None = None,
        train_list: str | None = None,
        val_list: str | None = None,
        test_list: str | None = None,
        mirror: bool = False,
        colour: float = 0.0,
        sigma: float = 1.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        if corpus not in HOW_TO_OBTAIN:
            raise UserError(f"corpus: expected one of {list(HOW_TO_OBTAIN)}, got {corpus!r}")
        if validation_speakers is not None and (train_list or val_list):
            raise UserError("validation_speakers: expected lists of clips or speakers, got both; leave one out")
        self.splits: dict[str, pd.DataFrame] = {}

    @property
    def _options(self) -> Any:
        return self.hparams  # its declared type hides that it has the arguments as attributes

    def setup(self, stage: str | None = None) -> None:
        """Read the index and split it; `splits` then holds the lines of "train", "val" and "test".

        Raises:
            FileNotFoundError: no prepared corpus; the message says how to obtain and prepare it.
            UserError: the corpus does not fit the arguments.
        """
        if self.splits:
            return
        options = self._options
        try:
            index = load_index(options.root)
        except FileNotFoundError as error:
            hint = HOW_TO_OBTAIN[options.corpus].format(
                root=options.root, features=options.features, videos=_VIDEOS.get(options.corpus)
            )
            raise FileNotFoundError(f"{str(error).split(';')[0]}. {hint}") from None
        self.splits = self._split(usable(index, options.features, options.window))

    def _split(self, clips: pd.DataFrame) -> dict[str, pd.DataFrame]:
        options = self._options
        test = select_clips(clips, options.test_list) if options.test_list else None
        rest = _without(clips, test)
        if options.train_list or options.val_list:
            train = select_clips(clips, options.train_list) if options.train_list else None
            val = select_clips(clips, options.val_list) if options.val_list else _without(rest, train)
            train = _without(rest, val) if train is None else train
        else:
            train, val = split_by_speaker(rest, options.validation_fraction, options.seed, options.validation_speakers)
        splits = {"train": train, "val": val, "test": val if test is None else test}
        for name, lines in splits.items():
            if lines.empty:
                raise UserError(f"{options.root}: no clip is left for {name}; check train_list, val_list and test_list")
        return splits

    def dataset(self, split: Literal["train", "val", "test"]) -> WindowDataset:
        """The windows of one split; `setup` comes first."""
        options = self._options
        training = split == "train"
        return WindowDataset(
            options.root,
            self.splits[split]["clip"].tolist(),
            features=options.features,
            face_size=options.face_size,
            window=options.window,
            references=options.references,
            windows_per_clip=options.windows_per_clip if training else options.validation_windows_per_clip,
            window_policy="random" if training else "even",
            reference_policy="random" if training else "openness",
            mirror=options.mirror and training,
            colour=options.colour if training else 0.0,
            sigma=options.sigma,
            seed=options.seed,
        )

    def train_dataloader(self) -> DataLoader:
        dataset = self.dataset("train")
        trainer = self.trainer
        replicas, rank = (1, 0) if trainer is None else (trainer.world_size, trainer.global_rank)
        sampler = WindowSampler(dataset, replicas, rank, seed=self._options.seed)
        return self._loader(dataset, sampler, drop_last=len(sampler) >= self._options.batch_size)

    def val_dataloader(self) -> DataLoader:
        return self._loader(self.dataset("val"))

    def test_dataloader(self) -> DataLoader:
        return self._loader(self.dataset("test"))

    def predict_dataloader(self) -> DataLoader:
        return self._loader(self.dataset("test"))

    def _loader(
        self, dataset: WindowDataset, sampler: WindowSampler | None = None, drop_last: bool = False
    ) -> DataLoader:
        workers = self._options.num_workers
        return DataLoader(
            dataset,
            batch_size=self._options.batch_size,
            sampler=sampler,
            num_workers=workers,
            drop_last=drop_last,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=workers > 0,
            worker_init_fn=_one_thread,
        )


def _one_thread(_worker: int) -> None:
    # Workers share the processor already: threads within them only take turns.
    cv2.setNumThreads(0)


def _without(clips: pd.DataFrame, others: pd.DataFrame | None) -> pd.DataFrame:
    if others is None:
        return clips
    return cast(pd.DataFrame, clips[~clips["clip"].isin(others["clip"])]).reset_index(drop=True)
