"""Do the metrics measure what they say? Real clips are spoiled in steps, and every metric must follow.

    python benchmarks/calibration.py CLIP.mp4 ... [--seconds 2] [--json FILE]

Each clip is cut to face crops of 128 px with their sound. A ladder of one kind of damage (blur, JPEG, noise, shift in
pixels, shift in time, trembling, flicker, delay of the sound) is climbed step by step; the damaged clip is
scored against the clip itself. "yes" means that every step made the value worse than the one before; "blind", that
the metric does not look for this damage by its definition. Landmarks are found anew in every damaged picture.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import torch
from common import parser, table, write_json

from stsa_lightning.constants import FPS, SAMPLES_PER_FRAME
from stsa_lightning.face.box import crop_face, face_box
from stsa_lightning.face.crops import landmarks_in_crops
from stsa_lightning.face.heatmaps import inner_lip_aperture
from stsa_lightning.face.landmarks import LandmarkDetector, landmark_detector
from stsa_lightning.face.topology import MOUTH, positions
from stsa_lightning.media.audio import load_audio
from stsa_lightning.media.video import VideoReader
from stsa_lightning.metrics.identity import CSIM, IdentityNetwork, embeddings, identity_network
from stsa_lightning.metrics.image import PSNR, SSIM
from stsa_lightning.metrics.landmarks import LandmarkDistance, inter_ocular_distance
from stsa_lightning.metrics.mouth_sync import lip_aperture_sync
from stsa_lightning.metrics.perceptual import FID, LPIPS, FrechetDistance, LPIPSNetwork
from stsa_lightning.metrics.stability import FlowWarpedError, Jitter
from stsa_lightning.metrics.sync import SyncMeter
from stsa_lightning.models.syncnet import PICTURE_PX, load_syncnet
from stsa_lightning.utils.weights import WeightsError

SIDE_PX = 128
LEFT_EYE, RIGHT_EYE = positions([362, 263]), positions([33, 133])
DELAYS = (-8, -4, -2, 0, 2, 4, 8)  # frames by which the sound is made late


@dataclass
class Clip:
    """One clip's crops (F, S, S, 3) uint8 with MARGIN frames more at its end; of the whole file the mouth's
    lip aperture, the sound, and the frames as SyncNet sees them, where it is here."""

    name: str
    faces: np.ndarray
    lip_aperture: np.ndarray
    wave: np.ndarray
    pictures: list[np.ndarray]


@dataclass(frozen=True)
class Ladder:
    """Steps of one kind of damage: (faces with the frames to come, step, frames to give) -> damaged faces."""

    damage: Callable[[np.ndarray, float, int], np.ndarray]
    steps: tuple[float, ...]
    unit: str


def _blur(faces: np.ndarray, sigma: float, frames: int) -> np.ndarray:
    return np.stack([cv2.GaussianBlur(face, (0, 0), sigma) for face in faces[:frames]])


def _jpeg(faces: np.ndarray, quality: float, frames: int) -> np.ndarray:
    codes = [cv2.imencode(".jpg", face, [cv2.IMWRITE_JPEG_QUALITY, int(quality)])[1] for face in faces[:frames]]
    return np.stack([np.asarray(cv2.imdecode(code, cv2.IMREAD_COLOR)) for code in codes])


def _noise(faces: np.ndarray, sigma: float, frames: int) -> np.ndarray:
    noise = np.random.default_rng(0).normal(scale=sigma, size=faces[:frames].shape)
    return (faces[:frames] + noise).round().clip(0, 255).astype(np.uint8)


def _shift(faces: np.ndarray, pixels: float, frames: int) -> np.ndarray:
    move = np.array([[1, 0, pixels], [0, 1, 0]], dtype=np.float64)
    size = faces.shape[2], faces.shape[1]
    return np.stack([cv2.warpAffine(face, move, size, borderMode=cv2.BORDER_REPLICATE) for face in faces[:frames]])


def _late(faces: np.ndarray, late: float, frames: int) -> np.ndarray:
    return faces[int(late) : int(late) + frames]


def _tremble(faces: np.ndarray, pixels: float, frames: int) -> np.ndarray:
    signs = np.random.default_rng(0).choice([-1, 1], size=frames)
    return np.concatenate(
        [_shift(face[None], pixels * sign, 1) for face, sign in zip(faces[:frames], signs, strict=True)]
    )


def _flicker(faces: np.ndarray, strength: float, frames: int) -> np.ndarray:
    signs = np.where(np.arange(frames) % 2, 1, -1).reshape(-1, 1, 1, 1)
    return (faces[:frames] + strength * signs).round().clip(0, 255).astype(np.uint8)


LADDERS = {
    "blur": Ladder(_blur, (0.5, 1, 2, 4), "sigma, px"),
    "jpeg": Ladder(_jpeg, (60, 30, 15, 5), "quality"),
    "noise": Ladder(_noise, (5, 10, 20, 40), "sigma, levels"),
    "shift": Ladder(_shift, (1, 2, 4, 8), "px"),
    "late": Ladder(_late, (1, 2, 3, 5), "frames"),
    "tremble": Ladder(_tremble, (0.5, 1, 2, 4), "px"),
    "flicker": Ladder(_flicker, (4, 8, 16, 32), "levels"),
}
MARGIN = 5  # frames that the longest time shift needs beyond the end


class AlexFrechet(FrechetDistance):
    """A Fréchet distance that needs no Inception: mean of LPIPS' deepest AlexNet maps, 256-d. Not FID."""

    def __init__(self, network: LPIPSNetwork) -> None:
        super().__init__(network, 256)

    def features(self, frames: torch.Tensor) -> torch.Tensor:
        return self._frozen[0].features(frames)[-1].mean(dim=(2, 3))


class Judge:
    """Scores damaged clips with every metric whose weights are here; `absent` says why others are not."""

    def __init__(self, detector: LandmarkDetector, every: int, skip: Sequence[str] = ()) -> None:
        self.detector, self.every = detector, every
        self.absent: dict[str, str] = dict.fromkeys(skip, "skipped")
        self.alex = self._try("LPIPS alex", lambda: LPIPSNetwork("alex"))
        self.vgg = self._try("LPIPS vgg", lambda: LPIPSNetwork("vgg"))
        self.inception = self._try("FID", FID)
        self.sync = self._try("SyncNet", load_syncnet)
        self._truths: dict[int, torch.Tensor] = {}
        self.people: dict[str, IdentityNetwork] = {}
        for name in ("arcface", "sface", "dlib"):
            network = self._try(f"CSIM {name}", lambda name=name: identity_network(name))
            if network is not None:
                self.people[name] = network

    def _try(self, name: str, build: Callable):
        if name in self.absent:
            return None
        try:
            return build()
        except (WeightsError, ImportError) as error:
            self.absent[name] = str(error).split(". ")[0]
            return None

    def scores(self, clips: Sequence[tuple[np.ndarray, np.ndarray]]) -> dict[str, float]:
        """Pairs of damaged and true crops, (F, S, S, 3) uint8 each -> metric -> value over all of them."""
        metrics = self._metrics()
        for damaged, true in clips:
            pred, target = (torch.from_numpy(x).permute(0, 3, 1, 2) / 255 for x in (damaged, true))
            truth = self._truth(true)
            found = torch.from_numpy(landmarks_in_crops(damaged, self.detector))
            eyes = inter_ocular_distance(truth, torch.from_numpy(LEFT_EYE), torch.from_numpy(RIGHT_EYE))
            for name, metric in metrics.items():
                if name in ("LMD", "LMD L1", "LMV"):
                    metric.update(found, truth, eyes)
                elif name == "jitter":
                    metric.update(found, truth)
                elif name.startswith("CSIM"):
                    step, person = slice(None, None, self.every), self.people[name.removeprefix("CSIM ")]
                    metric.update(
                        *(embeddings(x[step], places[step], person) for x, places in ((pred, found), (target, truth)))
                    )
                else:
                    metric.update(pred, target)
        return {
            key: value for name, metric in metrics.items() for key, value in _values(name, metric.compute()).items()
        }

    def offset(self, clip: Clip, late: int) -> tuple[float, float]:
        """Offset found with the sound made late by so many frames, and how clear it is: SyncNet, or lip aperture."""
        wave = delayed(clip.wave, late)
        if self.sync is None:
            return lip_aperture_sync(clip.lip_aperture, wave)
        meter = SyncMeter(self.sync, "lrs")
        meter.update(np.stack(clip.pictures))
        score = meter.finish(wave)
        return score.offset, score.lse_c

    def _truth(self, faces: np.ndarray) -> torch.Tensor:
        """Landmarks of true faces, found once."""
        key = faces.__array_interface__["data"][0]
        if key not in self._truths:
            self._truths[key] = torch.from_numpy(landmarks_in_crops(faces, self.detector))
        return self._truths[key]

    def _metrics(self) -> dict:
        points = MOUTH.tolist()
        metrics = {
            "PSNR": PSNR(),
            "SSIM": SSIM(),
            "LMD": LandmarkDistance(points),
            "LMD L1": LandmarkDistance(points, norm="l1"),
            "LMV": LandmarkDistance(points, motion=True),
            "jitter": Jitter(),
            "warp": FlowWarpedError(),
        }
        if self.alex is not None:
            metrics |= {"LPIPS alex": LPIPS(self.alex), "Fréchet (AlexNet)": AlexFrechet(self.alex)}
        if self.vgg is not None:
            metrics["LPIPS vgg"] = LPIPS(self.vgg)
        if self.inception is not None:
            self.inception.reset()
            metrics["FID"] = self.inception
        return metrics | {f"CSIM {name}": CSIM() for name in self.people}


def _values(name: str, result: torch.Tensor | dict[str, torch.Tensor]) -> dict[str, float]:
    if isinstance(result, torch.Tensor):
        return {name: result.item()}
    keys = {"pixels": "", "normalised": " / eyes"}
    return {name + keys[key]: value.item() for key, value in result.items() if key in keys}


HIGHER = ("PSNR", "SSIM", "CSIM arcface", "CSIM sface", "CSIM dlib")
# What a metric does not look for, by its definition: a row of these says nothing about it.
BLIND = {
    "jitter": ("blur", "shift", "late", "flicker"),
    "warp": ("blur", "shift", "late"),
    "Fréchet (AlexNet)": ("late", "tremble"),
    "FID": ("late", "tremble"),
} | {f"CSIM {name}": ("shift", "tremble", "flicker") for name in ("arcface", "sface", "dlib")}


def monotone(name: str, values: Sequence[float]) -> bool:
    """Whether each step made the value worse."""
    sign = -1 if name in HIGHER else 1
    return all(sign * b > sign * a for a, b in pairwise(values))


def load_clip(path: Path, seconds: float, detector: LandmarkDetector, with_pictures: bool) -> Clip:
    """The first seconds of a clip as face crops in one box, and of the whole clip what sync is measured from."""
    frames_wanted = round(seconds * FPS) + MARGIN
    faces, lip_aperture, pictures, box = list[np.ndarray](), [], [], None
    with VideoReader(path, FPS) as reader:
        for block in reader.blocks():
            for frame in block:
                if with_pictures:
                    pictures.append(cv2.resize(frame, (PICTURE_PX, PICTURE_PX)))
                landmarks = detector(frame)
                if landmarks is None:
                    lip_aperture.append(math.nan)
                    continue
                height = np.ptp(landmarks[:, 1])
                lip_aperture.append(float(inner_lip_aperture(landmarks)) / height)
                if box is None:  # one box for all frames, so that steadiness is the video's own
                    box = face_box(landmarks, (frame.shape[1], frame.shape[0]), margin_px=round(0.1 * height))
                if len(faces) < frames_wanted:
                    faces.append(crop_face(frame, box, SIDE_PX))
    return Clip(path.stem, np.stack(faces), np.array(lip_aperture), load_audio(path), pictures)


def delayed(wave: np.ndarray, frames: int) -> np.ndarray:
    """The sound later by so many frames (earlier where negative), its length kept."""
    samples = frames * SAMPLES_PER_FRAME
    padded = np.pad(wave, (max(samples, 0), max(-samples, 0)))
    return padded[max(-samples, 0) :][: len(wave)]


def score(clips: Sequence[Clip], judge: Judge, damage: Callable[[np.ndarray, int], np.ndarray]) -> dict[str, float]:
    """Metric -> value of all clips under one damage."""
    lengths = [len(clip.faces) - MARGIN for clip in clips]
    return judge.scores([(damage(c.faces, n), c.faces[:n]) for c, n in zip(clips, lengths, strict=True)])


def climb(clips: Sequence[Clip], judge: Judge, ladder: Ladder) -> dict[str, dict[str, float]]:
    """Step -> metric -> value."""

    def damage(step: float, faces: np.ndarray, frames: int) -> np.ndarray:
        return ladder.damage(faces, step, frames)

    return {f"{step:g}": score(clips, judge, partial(damage, step)) for step in ladder.steps}


def print_ladder(name: str, steps: dict[str, dict[str, float]]) -> None:
    rows = []
    for metric in steps["truth"]:
        values = [scores[metric] for scores in steps.values()]
        verdict = "blind" if name in BLIND.get(metric, ()) else "yes" if monotone(metric, values) else "NO"
        rows.append([metric, *values, verdict])
    print(f"\n{name} ({LADDERS[name].unit})")
    print(table(["metric", *steps, "worse at every step"], rows), flush=True)


def main() -> None:
    options = parser(__doc__, runs=1)
    options.add_argument("clips", nargs="+", type=Path, help="videos of talking faces")
    options.add_argument("--seconds", type=float, default=2.0, help="length taken of each clip (2)")
    options.add_argument("--identity-every", type=int, default=10, help="CSIM looks at every so manieth frame (10)")
    options.add_argument("--skip", nargs="*", default=[], help='networks to leave out, such as "LPIPS vgg"')
    arguments = options.parse_args()
    static = landmark_detector(static=True)
    judge = Judge(static, arguments.identity_every, arguments.skip)
    with_pictures = judge.sync is not None
    clips = [load_clip(path, arguments.seconds, landmark_detector(), with_pictures) for path in arguments.clips]
    truth = score(clips, judge, lambda faces, frames: faces[:frames])
    ladders = {}
    for ladder in LADDERS:
        ladders[ladder] = {"truth": truth} | climb(clips, judge, LADDERS[ladder])
        print_ladder(ladder, ladders[ladder])
    measure = "lip aperture against sound" if judge.sync is None else "SyncNet, lrs"
    print(
        f"\nsound made late by so many frames: offset found by {measure} (confidence); each step must take as many off"
    )
    offsets = {clip.name: [judge.offset(clip, k) for k in DELAYS] for clip in clips}
    rows = [[name, *(f"{offset} ({confidence:.2f})" for offset, confidence in row)] for name, row in offsets.items()]
    print(table(["clip", *map(str, DELAYS)], rows))
    for name, why in judge.absent.items():
        print(f"not measured: {name}: {why}")
    if arguments.json:
        write_json(
            arguments.json,
            {
                "clips": [clip.name for clip in clips],
                "ladders": ladders,
                "delays": {"frames": DELAYS, "offsets": offsets},
                "not_measured": judge.absent,
            },
        )


if __name__ == "__main__":
    main()
