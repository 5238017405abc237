"""Evaluation of a checkpoint: clips of a prepared corpus, generated as in dubbing, with baselines and ground truth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from stsa_lightning.constants import FPS
from stsa_lightning.data.clip import Clip
from stsa_lightning.data.index import clip_path, load_index, usable
from stsa_lightning.dubbing import largest_side
from stsa_lightning.evaluation.clip_sample import GROUND_TRUTH, NATIVE, ClipSample
from stsa_lightning.evaluation.generate import Networks, ReferencePool
from stsa_lightning.evaluation.path_ablation import ablated_predictions
from stsa_lightning.evaluation.protocol import Protocol
from stsa_lightning.evaluation.scoring import Job
from stsa_lightning.face.box import resize_faces
from stsa_lightning.face.heatmaps import inner_lip_aperture
from stsa_lightning.utils.disk_array import in_blocks, to_disk_array
from stsa_lightning.utils.errors import UserError

if TYPE_CHECKING:
    from stsa_lightning.evaluation.whole_frames import SourceVideos


@dataclass
class PreparedClips:
    """The samples of a prepared corpus.

    Args:
        clips: lines of its index: what is measured, and where references and other speech are taken from.
        silence: also generate under digital silence.
        source: the videos of the clips, for whole frames.
    """

    networks: Networks
    root: Path | str
    clips: pd.DataFrame
    protocol: Protocol
    method: str = "STSA"
    silence: bool = False
    source: SourceVideos | None = None

    def __post_init__(self) -> None:
        self.names: list[str] = self.clips["clip"].tolist()
        self.speakers: dict[str, str] = dict(zip(self.clips["clip"], self.clips["speaker"], strict=True))

    def jobs(self, names: Sequence[str] | None = None) -> list[Job]:
        return [Job(name, self._identity(name), partial(self.samples, name)) for name in names or self.names]

    def _identity(self, name: str) -> str:
        """Of everything that a clip's samples read."""
        used = {name, self.references_of(name), self.driver_of(name) or name}
        stats = [clip_path(self.root, clip).stat() for clip in sorted(used)]
        return " ".join([*sorted(used), *(f"{stat.st_size} {stat.st_mtime_ns}" for stat in stats)])

    def references_of(self, name: str) -> str:
        """The clip that references are taken from: another of the speaker's, where asked for and where there is one."""
        if self.protocol.references != "other-clip":
            return name
        others = (n for n in self.names if n != name and self.speakers[n] == self.speakers[name])
        return next(others, name)

    def driver_of(self, name: str) -> str | None:
        """The clip whose speech an unpaired task takes: the next one of another speaker; None: there is none."""
        place = self.names.index(name)
        order = self.names[place + 1 :] + self.names[:place]
        return next((n for n in order if self.speakers[n] != self.speakers[name]), None)

    def samples(self, name: str) -> list[ClipSample]:
        """Both tasks of one clip, as far as the protocol wants them."""
        clip, other = self._open(name), self._open(self.references_of(name))
        frames, networks = np.flatnonzero(clip.valid), self.networks
        chosen = networks.reference_frames(other, self.protocol.references)
        scored = clip.valid.copy()
        notes = []
        if other.path == clip.path:  # a reference is not a prediction of itself
            scored[chosen] = False
            if self.protocol.references == "other-clip":
                notes.append(f"{name}: the speaker has no other clip; references come from the clip itself")
        ground_truth = to_disk_array(resize_faces(clip.faces(block), networks.size) for block in in_blocks(frames))
        shared: dict[str, Any] = {
            "name": name,
            "speaker": clip.meta.speaker,
            "ground_truth": ground_truth,
            "valid": clip.valid,
            "scored": scored,
            "boxes": clip.boxes,
            "times_s": np.arange(clip.frames) / FPS,
            "references": resize_faces(other.faces(chosen), networks.size),
            "true_wave": clip.wave,
            "notes": notes,
        }
        pose_matched = self.protocol.references != "first-frame"
        pool = networks.encode(other, chosen, pose_matched)
        generate = partial(networks.generate, clip, frames, pool=pool)
        draw = partial(self._drawn, clip, frames, pool)
        silence = None
        if self.silence:
            quiet = np.zeros(len(clip.audio), np.float32)
            silence = generate(speech=self.networks.extractor(quiet))
        samples: list[ClipSample] = []
        baselines: dict[str, np.ndarray] = {}
        if self.protocol.baselines:
            baselines = baseline_predictions(shared, self.protocol.seed)
            if pose_matched:
                baselines["nearest in pose"] = networks.nearest_in_pose(clip, frames, other)
        for task in self.protocol.tasks:
            predictions = dict(baselines)
            native: dict[str, np.ndarray] = {}
            if task == "paired":
                speech = clip.features(networks.features)
                if self.protocol.ablate_paths:
                    predictions |= ablated_predictions(networks.engine.synthesis, generate, speech)
                    if pool.calibration is not None:
                        uncalibrated = replace(pool, calibration=None)
                        predictions["not calibrated"] = generate(speech=speech, pool=uncalibrated)
                predictions[self.method], sharp = draw(speech)
                if sharp is not None:
                    native = {self.method: sharp, GROUND_TRUTH: to_disk_array(map(clip.faces, in_blocks(frames)))}
                own = {"wave": shared["true_wave"]}
            else:
                driver = self.driver_of(name)
                if driver is None:
                    notes.append(f"{name}: no other speaker among the clips, so there is no unpaired task")
                    continue
                said = self._open(driver)
                if self.protocol.baselines:
                    predictions["source frame"] = ground_truth
                predictions[self.method], sharp = draw(said.features(networks.features))
                native = {} if sharp is None else {self.method: sharp}
                own = {"wave": said.wave, "lip_aperture": _lip_aperture(said, clip.frames) * networks.size}
            predictions[GROUND_TRUTH] = ground_truth
            whole = {}
            if self.source:
                shown = {**predictions, self.method: native.get(self.method, predictions[self.method])}
                whole = self.source.of(clip, task, shown, self.method, own["wave"], networks.size)
            samples.append(
                ClipSample(
                    task=task,
                    predictions=predictions,
                    silence=None if samples else silence,
                    native=native,
                    **own,
                    **shared,
                    **whole,
                )
            )
        return samples

    def _drawn(
        self, clip: Clip, frames: np.ndarray, pool: ReferencePool, speech: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Faces as the networks make them, and at the frame's own resolution, where they are wanted."""
        if NATIVE not in self.protocol.regions:
            return self.networks.generate(clip, frames, speech=speech, pool=pool), None
        largest = largest_side(self.protocol.resolution, self.networks.size)
        return self.networks.generate_native(clip, frames, speech, pool, largest)

    def _open(self, name: str) -> Clip:
        return Clip.open(clip_path(self.root, name))


def baseline_predictions(shared: dict[str, Any], seed: int) -> dict[str, np.ndarray]:
    """Answers that need no networks: (n, S, S, 3) each.

    The upper half is given to everybody, so that only the mouth is compared.
    """
    ground_truth, references = shared["ground_truth"], shared["references"]
    half, frames = ground_truth.shape[1] // 2, np.arange(len(ground_truth))
    chosen = np.random.default_rng(seed).integers(len(references), size=len(ground_truth))
    mean = references.mean(0).round().astype(np.uint8)
    faces: dict[str, Callable[[np.ndarray], Any]] = {
        "masked input": lambda block: 0,
        "random reference": lambda block: references[chosen[block]],
        "mean of references": lambda block: mean,
    }

    def lower_replaced(block: np.ndarray, made: Any) -> np.ndarray:
        pictures = np.array(ground_truth[block])
        pictures[:, half:] = np.broadcast_to(made, pictures.shape)[:, half:]
        return pictures

    return {
        name: to_disk_array(lower_replaced(block, made(block)) for block in in_blocks(frames))
        for name, made in faces.items()
    }


def _lip_aperture(said: Clip, frames: int) -> np.ndarray:
    """(F,) true lip aperture of a speaker, in sides of the box, over another clip's frames; NaN beyond the end."""
    lip_aperture = np.full(frames, np.nan)
    shared = min(frames, said.frames)
    lip_aperture[:shared] = inner_lip_aperture(said.face_landmarks[:shared])
    return lip_aperture


def choose_clips(
    data: Path, protocol: Protocol, features: str, held_out: Sequence[str] | None
) -> tuple[pd.DataFrame, list[str], str]:
    """The clips that a protocol names (references and other speech may come from all), those measured, and how chosen.

    Speakers named by the protocol come first, then the corpus's own split, then the speakers that a training run held
    out.

    Raises:
        UserError: none of these says which clips, or no clip is left.
    """
    index = usable(load_index(data), features)
    own_split = "split" in index.columns and bool((index["split"] == protocol.split).any())
    if protocol.speakers:
        speakers, how = list(protocol.speakers), "speakers named"
    elif own_split:
        index, speakers, how = index[index["split"] == protocol.split], [], f"the corpus's own split {protocol.split!r}"
    elif held_out:
        speakers, how = list(held_out), "speakers held out from training"
    else:
        raise UserError(f"{data}: nothing says which speakers were held out: name them with --speakers A,B")
    if speakers:
        index = index[index["speaker"].isin(speakers)]
        how += f": {', '.join(speakers)}"
    if index.empty:
        raise UserError(f"{data}: no usable clips of speakers {', '.join(speakers)} in its index")
    measured = index["clip"].tolist()
    if protocol.clips is not None and protocol.clips < len(measured):
        how += f"; {protocol.clips} of {len(measured)}, spread evenly"
        measured = evenly(measured, protocol.clips)
    return index.reset_index(drop=True), measured, how


def evenly(names: Sequence[Any], count: int) -> list[Any]:
    """`count` of the names, spread evenly; all where there are no more."""
    count = min(count, len(names))
    return [names[i] for i in np.linspace(0, len(names) - 1, count).round().astype(int)]
