"""A prepared corpus as Lightning wants it: split, windowed, batched."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from itertools import islice
from typing import Any, Literal, cast

import cv2
import numpy as np
import pandas as pd
import torch
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch.utils.data import DataLoader, Dataset, DistributedSampler, default_collate

from stsa_lightning.data.augment import AS_THEY_ARE, AugmentSettings
from stsa_lightning.data.clip import Clip
from stsa_lightning.data.corpora import CORPORA
from stsa_lightning.data.filters import Filters, apply_filters, failures
from stsa_lightning.data.index import clip_path, load_index, select_clips, split_by_speaker, usable
from stsa_lightning.data.windows import Batch, ReferencePolicy, Speaker, WindowDataset, as_floats
from stsa_lightning.features.base import FeatureKind
from stsa_lightning.utils.errors import UserError, check_at_least, check_share
from stsa_lightning.utils.settings import settled

Corpus = Literal["folder", "sample", "lrs2", "hdtf", "cmlr"]


class WindowSampler(DistributedSampler):
    """Shuffled indices, each with the epoch: (epoch, index).

    So a dataset's random draws follow the epoch even in workers that outlive it. Lightning tells the epoch to every
    sampler with `set_epoch`, and leaves a `DistributedSampler` as it is: its ranks share the indices out.

    Args:
        replicas, rank: how many share it, and which one this is.
        together: so many neighbouring indices stay together, in order.
    """

    _begun = (0, 0)

    def __init__(self, length: int, replicas: int, rank: int, together: int = 1, seed: int = 0) -> None:
        super().__init__(cast(Dataset, range(length // together)), replicas, rank, seed=seed)
        self.together = together

    def __len__(self) -> int:
        return super().__len__() * self.together

    def begin(self, epoch: int, done: int) -> None:
        """Begin with `epoch`, of which this rank has had the first `done` indices; later epochs are whole."""
        self._begun = (epoch, done)
        self.set_epoch(epoch)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        epoch, done = self._begun
        groups, together = super().__iter__(), self.together
        indices = (first * together + place for first in groups for place in range(together))
        return ((self.epoch, index) for index in islice(indices, done if self.epoch == epoch else 0, None))


class Shared(Dataset):
    """This rank's part of a dataset in ready batches: each item once over all ranks, equally many batches on each.

    Lightning's own sampler repeats items until all ranks have as many, which counts those twice; ranks with fewer
    batches than others would leave them waiting. Here the sizes of batches differ instead, by at most one more than
    asked for.

    Raises:
        UserError: fewer items than ranks.
    """

    def __init__(self, whole: WindowDataset, batch_size: int, replicas: int, rank: int) -> None:
        least, most = len(whole) // replicas, -(-len(whole) // replicas)
        if not least:
            raise UserError(
                f"data: expected at least one window for each of the {replicas} processes, got {len(whole)}; raise "
                "data.validation_windows_per_clip, or take fewer devices"
            )
        self.whole = whole
        mine = np.arange(rank, len(whole), replicas)
        self.batches = np.array_split(mine, min(least, -(-most // batch_size)))

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> Batch:
        return default_collate([self.whole[int(item)] for item in self.batches[index]])


def position(trainer: Trainer) -> tuple[int, int]:
    """Epoch that a run is in, and the batches of it that are done; of a checkpoint where it goes on from one."""
    loop: Any = trainer.fit_loop
    epoch, batches = loop.epoch_progress.current, loop.epoch_loop.batch_progress
    if not loop.restarting or epoch.ready == epoch.processed:
        return epoch.processed, 0
    return (epoch.processed + 1, 0) if batches.is_last_batch else (epoch.processed, batches.current.processed)


class STSADataModule(LightningDataModule):
    """Windows of a prepared corpus for training, validation, test and prediction.

    Who trains and who validates: lists of clips or `validation_speakers`, where given; else the split that the
    corpus's authors made, where the index has one (what they leave open, validation in VoxCeleb2, is drawn from those
    that train); else speakers are drawn, and those that validate are never seen in training. Training draws windows and
    references anew in each epoch; elsewhere windows are spread evenly over a clip, references chosen by lip aperture.

    Args:
        root: folder that `stsa prepare` wrote.
        corpus: only decides what is said where the corpus is missing.
        features: kind of audio features; the corpus must hold them.
        face_size: side of faces and heatmaps, pixels; at most that of the prepared faces.
        native_size: side H, pixels, at which training windows hold faces a second time, for losses at the frames' own
            resolution (`losses.weights.native_warp`, `native_perceptual`): above `face_size`, at most that of the
            prepared faces; null: they do not.
        num_frames: frames of a window, T.
        num_references: reference frames of a window, N.
        batch_size: windows of a batch, on each device.
        num_workers: processes that load, on each device.
        windows_per_clip: training windows of each clip in an epoch.
        windows_per_speaker: in its place, training windows of each speaker, from their clips in proportion to their
            lengths; for a corpus where few people have most of the clips.
        windows_together: so many windows of a clip (or speaker) come into a batch together, each from elsewhere in it,
            which `cil.negatives: clip` needs; divides the batch's size, and the windows above are rounded down to a
            multiple of it.
        validation_windows_per_clip: as `windows_per_clip`, for the other stages.
        validation_fraction: share of the speakers that validate, drawn with `seed`.
        validation_speakers: these validate instead, whatever the authors' split.
        validation_part: in place of speakers, this last share of every clip validates, which training never sees; for a
            speaker of one's own, of whom there may be a single clip.
        train_list: text file with the clips that train, one name (`SPEAKER/...`) on each line. Without `val_list`, all
            clips in neither `train_list` nor `test_list` validate.
        val_list: the clips that validate. Without `train_list`, all others but those of `test_list` train.
        test_list: the clips of test and prediction; without it, those that validate.
        reference_policy: of training windows: "random" takes random frames; "mixed" takes frames from closed to wide
            open lips among a random part of the clip; "pose_matched" does so in half of the windows and takes frames
            of the window's pose in the others, for `synthesis.align_references`.
        augment: what is changed of training windows.
        swap_mouth_epochs: number of first epochs with mouth-swap augmentation: training windows put mouths on the poses
            of other moments, so that the guidance network uses the audio and cannot infer the mouth from the pose. As
            many as the guidance phase lasts.
        quiet_share: in those epochs, share of the training windows that hear silence or noise in place of the clip's
            sound, with the mouth as it is where the clip's is most shut: lips that rest where nobody speaks.
        heatmap_sigma: width of the heatmaps' lines, pixels; 0 draws hard lines.
        seed: of the split and of all draws.
        filters: limits on the clips, for all splits; nothing is prepared again for others.
    """

    def __init__(
        self,
        root: str,
        corpus: Corpus = "folder",
        features: FeatureKind = "logmel",
        face_size: int = 128,
        native_size: int | None = None,
        num_frames: int = 5,
        num_references: int = 5,
        batch_size: int = 8,
        num_workers: int = 2,
        windows_per_clip: int = 1,
        windows_per_speaker: int | None = None,
        windows_together: int = 1,
        validation_windows_per_clip: int = 4,
        validation_fraction: float = 0.1,
        validation_speakers: list[str] | None = None,
        validation_part: float = 0.0,
        train_list: str | None = None,
        val_list: str | None = None,
        test_list: str | None = None,
        reference_policy: Literal["random", "mixed", "pose_matched"] = "random",
        augment: AugmentSettings = AS_THEY_ARE,
        swap_mouth_epochs: int = 0,
        quiet_share: float = 0.0,
        heatmap_sigma: float = 1.0,
        seed: int = 0,
        filters: Filters | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.filters = Filters(**filters) if isinstance(filters, dict) else filters  # out of a checkpoint: a dict
        # Checkpoints hold the arguments, and are to be read without this package's classes.
        self.hparams["filters"] = asdict(self.filters) if self.filters else None
        self.augment = settled(AugmentSettings, augment)
        self.hparams["augment"] = asdict(self.augment)
        if corpus not in CORPORA:
            raise UserError(f"corpus: expected one of {list(CORPORA)}, got {corpus!r}")
        for name in ("face_size", "num_frames", "num_references", "batch_size", "windows_per_clip"):
            check_at_least(name, self.hparams[name], 1)
        if native_size is not None:
            check_at_least("native_size", native_size, face_size + 1)
        for name in ("num_workers", "validation_windows_per_clip", "swap_mouth_epochs", "heatmap_sigma", "seed"):
            check_at_least(name, self.hparams[name], 0)
        for name in ("validation_fraction", "quiet_share"):
            check_share(name, self.hparams[name])
        if validation_speakers is not None and (train_list or val_list):
            raise UserError("validation_speakers: expected lists of clips or speakers, got both; leave one out")
        if windows_per_speaker is not None and windows_per_speaker < 1:
            raise UserError(f"windows_per_speaker: expected at least 1, or null, got {windows_per_speaker}")
        self.windows = windows_per_speaker or windows_per_clip  # of training
        if windows_together < 1 or batch_size % windows_together or windows_together > self.windows:
            raise UserError(
                f"windows_together: expected a divisor of batch_size, {batch_size}, up to the windows of a clip or "
                f"speaker, {self.windows}, got {windows_together}"
            )
        if quiet_share and not swap_mouth_epochs:
            raise UserError(
                f"quiet_share: {quiet_share} of the windows of the first swap_mouth_epochs are quiet, which are 0; set "
                "data.swap_mouth_epochs, or quiet_share to 0"
            )
        if not 0 <= validation_part < 1:
            raise UserError(f"validation_part: expected a share from 0 to below 1, got {validation_part}")
        if validation_part and (validation_speakers or train_list or val_list or test_list):
            raise UserError("validation_part: expected no clips or speakers beside it, got both; leave one out")
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
        if not self.splits:
            self.splits = self._split(self._filtered(self.usable_clips()))

    def usable_clips(self) -> pd.DataFrame:
        """The clips that can be used, before filters; that the corpus is there and fits is checked here."""
        options = self._options
        try:
            index = load_index(options.root)
        except FileNotFoundError as error:
            hint = CORPORA[options.corpus].obtain.format(root=options.root, features=options.features)
            raise FileNotFoundError(f"{str(error).split(';')[0]}. {hint}") from None
        clips = usable(index, options.features, options.num_frames)
        self._check_face_size(clips)
        return clips

    def _filtered(self, clips: pd.DataFrame) -> pd.DataFrame:
        if self.filters is None:
            return clips
        kept, removed = apply_filters(clips, self.filters), failures(clips, self.filters).sum()
        counts = ", ".join(f"{name} {count}" for name, count in removed.items() if count) or "none"
        rank_zero_info(f"filters keep {len(kept)} of {len(clips)} clips; removed by {counts}")
        return kept

    def _check_face_size(self, clips: pd.DataFrame) -> None:
        """A corpus is prepared under one setting or a few: one clip of each is looked at."""
        name = "face_size" if self._options.native_size is None else "native_size"
        wanted = self._options[name]
        for clip in clips.drop_duplicates("settings_hash")["clip"]:
            stored = Clip.open(clip_path(self._options.root, clip)).meta.face_size
            if stored < wanted:
                raise UserError(
                    f"{name}: expected at most {stored}, the side of the prepared faces ({clip}), got {wanted}; "
                    f"prepare again with --face-size {wanted}"
                )

    def _split(self, clips: pd.DataFrame) -> dict[str, pd.DataFrame]:
        options = self._options
        if options.validation_part:
            return {"train": clips, "val": clips, "test": clips}
        test = select_clips(clips, options.test_list) if options.test_list else None
        rest = _without(clips, test)
        if options.train_list or options.val_list:
            train = select_clips(clips, options.train_list) if options.train_list else None
            val = select_clips(clips, options.val_list) if options.val_list else _without(rest, train)
            train = _without(rest, val) if train is None else train
        elif options.validation_speakers is None and clips["split"].ne("").any():
            theirs = {name: _only(rest, name) for name in ("val", "test")}
            train, val = _without(_without(rest, theirs["val"]), theirs["test"]), theirs["val"]
            if val.empty:
                train, val = split_by_speaker(train, options.validation_fraction, options.seed)
            if test is None and not theirs["test"].empty:
                test = theirs["test"]
        else:
            train, val = split_by_speaker(rest, options.validation_fraction, options.seed, options.validation_speakers)
        splits = {"train": train, "val": val, "test": val if test is None else test}
        for name, lines in splits.items():
            if lines.empty:
                raise UserError(f"{options.root}: no clip is left for {name}; check the lists of clips and the filters")
        return splits

    def dataset(self, split: Literal["train", "val", "test"]) -> WindowDataset:
        options = self._options
        training, seen = split == "train", 1 - options.validation_part
        by_speaker, lines = training and options.windows_per_speaker, self.splits[split]
        together = self.windows - self.windows % options.windows_together
        return WindowDataset(
            options.root,
            speakers(lines) if by_speaker else lines["clip"].tolist(),
            features=options.features,
            face_size=options.face_size,
            native_size=options.native_size if training else None,
            num_frames=options.num_frames,
            num_references=options.num_references,
            windows_per_clip=together if training else options.validation_windows_per_clip,
            window_policy="random" if training else "even",
            reference_policy=options.reference_policy if training else self._as_dubbed,
            augment=self.augment if training else AS_THEY_ARE,
            swap_mouth_epochs=options.swap_mouth_epochs if training else 0,
            quiet_share=options.quiet_share if training else 0.0,
            heatmap_sigma=options.heatmap_sigma,
            span=(0.0, seen) if training else (0.0 if seen == 1 else seen, 1.0),
            seed=options.seed,
        )

    @property
    def _as_dubbed(self) -> ReferencePolicy:
        return "pose_nearest" if self._options.reference_policy == "pose_matched" else "aperture"

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Bytes travel to the device, floats are made there."""
        return as_floats(batch)

    def train_dataloader(self) -> DataLoader:
        dataset = self.dataset("train")
        trainer = self.trainer
        replicas, rank = (1, 0) if trainer is None else (trainer.world_size, trainer.global_rank)
        sampler = WindowSampler(len(dataset), replicas, rank, self._options.windows_together, self._options.seed)
        if trainer is not None:  # workers read ahead before Lightning tells the sampler its epoch
            epoch, batches = position(trainer)
            sampler.begin(epoch, batches * self._options.batch_size)
        size = self._options.batch_size
        return self._loader(dataset, sampler, batch_size=size, drop_last=len(sampler) >= size)

    def val_dataloader(self) -> DataLoader:
        return self._measured(self.dataset("val"))

    def test_dataloader(self) -> DataLoader:
        return self._measured(self.dataset("test"))

    predict_dataloader = test_dataloader

    def _measured(self, dataset: WindowDataset) -> DataLoader:
        trainer, size = self.trainer, self._options.batch_size
        if trainer is None or trainer.world_size == 1:
            return self._loader(dataset, batch_size=size)
        shared = Shared(dataset, size, trainer.world_size, trainer.global_rank)
        # A DistributedSampler, for Lightning would put its own in the place of any other.
        return self._loader(shared, DistributedSampler(shared, 1, 0, shuffle=False), batch_size=None)

    def _loader(self, dataset: Dataset, sampler: DistributedSampler | None = None, **options: Any) -> DataLoader:
        workers = self._options.num_workers
        return DataLoader(
            dataset,
            sampler=sampler,
            num_workers=workers,
            **options,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=workers > 0,
            worker_init_fn=_one_thread,
        )


def speakers(clips: pd.DataFrame) -> list[Speaker]:
    """Who is in these lines of an index, in order, each frame of theirs with equal chance."""
    groups = clips.groupby("speaker", sort=True)
    return [Speaker(tuple(g["clip"]), tuple(g["valid_frames"] / g["valid_frames"].sum())) for _, g in groups]


def _one_thread(_worker: int) -> None:
    # Workers share the processor already: threads within them only take turns.
    cv2.setNumThreads(0)


def _only(clips: pd.DataFrame, split: str) -> pd.DataFrame:
    return cast(pd.DataFrame, clips[clips["split"] == split]).reset_index(drop=True)


def _without(clips: pd.DataFrame, others: pd.DataFrame | None) -> pd.DataFrame:
    if others is None:
        return clips
    return cast(pd.DataFrame, clips[~clips["clip"].isin(others["clip"])]).reset_index(drop=True)
