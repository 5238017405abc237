"""Frames a second of each metric on 128 px face crops, and the time of an evaluation of LRS2's test set.

    python benchmarks/metrics.py [--frames 32] [--runs 3] [--json FILE]

Networks whose weights are not here run with random ones: that is as fast. LRS2's test set is planned as 1,243 clips of
60 frames (2.4 s, an assumption), each frame scored by each metric on one process.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
import torchvision
from common import machine, median_time, parser, table, write_json
from torch import nn

from stsa_lightning.data.sample import render_sample
from stsa_lightning.face.box import crop_face, face_box
from stsa_lightning.face.crops import landmarks_in_crops, to_uint8
from stsa_lightning.face.landmarks import landmark_detector
from stsa_lightning.media.video import VideoReader
from stsa_lightning.metrics.identity import embeddings, identity_network
from stsa_lightning.metrics.image import psnr, ssim
from stsa_lightning.metrics.landmarks import lmd, velocity
from stsa_lightning.metrics.perceptual import FID, LPIPSNetwork, lpips_distance, video_samples
from stsa_lightning.metrics.stability import flow_warped_error, landmark_jitter
from stsa_lightning.models.syncnet import SyncNet
from stsa_lightning.utils.weights import WeightsError

LRS2_CLIPS, LRS2_FRAMES = 1243, 60
SIDE_PX = 128


def inception() -> Callable[[torch.Tensor], torch.Tensor]:
    """FID's features: the real network, or torchvision's of the same build with random weights."""
    try:
        return FID().features
    except (WeightsError, ImportError):
        network = torchvision.models.inception_v3(weights=None, init_weights=False, transform_input=False).eval()
        network.fc = nn.Identity()
        resized = nn.Upsample((299, 299), mode="bilinear")
        return lambda frames: torch.cat([network(resized(batch)) for batch in frames.split(16)])


def video_network() -> nn.Module:
    """R3D-18, with random weights: as fast as the real ones."""
    network = torchvision.models.video.r3d_18(weights=None).eval()
    network.fc = nn.Identity()
    return network


def measures(frames: int) -> dict[str, tuple[Callable[[], object], int]]:
    """Metric -> (what to time, video frames that one call scores)."""
    generator = torch.Generator().manual_seed(0)
    true = torch.nn.functional.interpolate(torch.rand(frames, 3, 16, 16, generator=generator), (SIDE_PX, SIDE_PX))
    pred = (true + 0.05 * torch.randn(true.shape, generator=generator)).clamp(0, 1)
    points = SIDE_PX * torch.rand(frames, 131, 2, generator=generator)
    guess = points + torch.rand(points.shape, generator=generator)
    found: dict[str, tuple[Callable[[], object], int]] = {
        "PSNR": (lambda: psnr(pred, true), frames),
        "SSIM": (lambda: ssim(pred, true), frames),
        "LMD": (lambda: lmd(guess, points), frames),
        "LMV": (lambda: lmd(velocity(guess), velocity(points)), frames),
        "jitter": (lambda: landmark_jitter(guess, points), frames),
        "flow-warped error": (lambda: flow_warped_error(pred, true), frames),
    }
    for net in ("alex", "vgg"):
        try:
            network = LPIPSNetwork(net)
        except WeightsError as error:
            print(f"LPIPS {net} left out: {error}")
            continue
        found[f"LPIPS {net}"] = (partial(lpips_distance, pred, true, network), frames)
    features, videos = inception(), video_network()
    # Both sides go through the network.
    found["FID features"] = (lambda: (features(pred), features(true)), frames)
    found["FVD (R3D-18) features"] = (lambda: [video_samples(x, videos) for x in (pred, true)], frames)
    detector = landmark_detector(static=True)
    faces = rendered_faces(8)
    places = torch.from_numpy(landmarks_in_crops(to_uint8(faces), detector))
    found["landmarks of generated crops"] = (lambda: landmarks_in_crops(to_uint8(faces), detector), 8)
    try:
        person = identity_network("dlib")
        found["CSIM dlib"] = (lambda: [embeddings(faces[:2], places[:2], person) for _ in range(2)], 2)
    except ImportError as error:
        print(f"CSIM dlib left out: {error}")
    return found | syncnet(frames)


def rendered_faces(frames: int) -> torch.Tensor:
    """Crops of a rendered face, (F, 3, S, S) in [0, 1]: a detector that finds no face would be quicker than it is."""
    detector = landmark_detector()
    with TemporaryDirectory() as folder:
        render_sample(Path(folder), speakers=1, clips=1, seconds=1.0)
        with VideoReader(next(Path(folder).rglob("*.mp4"))) as reader:
            pictures = reader.get(range(frames))
    crops = []
    for picture in pictures:
        landmarks = detector(picture)
        assert landmarks is not None  # a rendered face is always found
        crops.append(crop_face(picture, face_box(landmarks, (picture.shape[1], picture.shape[0])), SIDE_PX))
    return torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2) / 255


def syncnet(frames: int) -> dict[str, tuple[Callable[[], object], int]]:
    """Lip features computed once per frame, and the released way: every window of five frames by itself."""
    network = SyncNet().eval()
    lips = 255 * torch.rand(frames, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    mfcc = torch.from_numpy(np.random.default_rng(0).normal(size=(13, 4 * frames + 20)).astype(np.float32))

    def shared() -> object:
        return network.lip(lips), network.speech(mfcc)

    def naive() -> object:
        picture = [network.lip(lips[start : start + 5]) for start in range(frames - 4)]
        return picture, [network.speech(mfcc[:, 4 * start : 4 * start + 20]) for start in range(frames - 4)]

    return {"SyncNet, shared layers": (shared, frames), "SyncNet, window by window": (naive, frames)}


@torch.no_grad()
def main() -> None:
    options = parser(__doc__, runs=3)
    options.add_argument(
        "--frames", type=int, default=32, help="frames of the clip that is scored, a multiple of 16 (32)"
    )
    arguments = options.parse_args()
    if arguments.frames % 16 or not arguments.frames:
        options.error(f"--frames: expected a multiple of 16, the window of FVD's network, got {arguments.frames}")
    rates = {}
    for name, (call, frames) in measures(arguments.frames).items():
        rates[name] = frames / median_time(call, arguments.runs)
        print(f"{name}: {rates[name]:.1f} frames/s", flush=True)
    total = LRS2_CLIPS * LRS2_FRAMES
    minutes = {name: total / rate / 60 for name, rate in rates.items()}
    print(f"\n{machine()}\n")
    rows = [[name, rate, minutes[name]] for name, rate in rates.items()]
    print(table(["metric", "frames/s", f"minutes for {LRS2_CLIPS:,} clips"], rows))
    planned = sum(value for name, value in minutes.items() if "window by window" not in name)
    print(f"\nAll of them (SyncNet with shared layers), LRS2's test set on one process: {planned / 60:.1f} hours.")
    if arguments.json:
        figures = {"frames_per_s": rates, "lrs2_minutes": minutes, "lrs2_frames": total, "lrs2_hours": planned / 60}
        write_json(arguments.json, figures)


if __name__ == "__main__":
    main()
