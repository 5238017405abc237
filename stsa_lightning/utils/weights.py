"""Pretrained weights by name: found where they lie, otherwise fetched once, resumed where broken off, checked.

Nothing here runs at import; everything the package downloads goes through `weights_path`.
"""

from __future__ import annotations

import os
import re
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

from stsa_lightning.utils.files import sha256_of
from stsa_lightning.utils.progress_bar import progress_bar

CHUNK_BYTES = 1 << 20
TIMEOUT_S = 30.0
ATTEMPTS = 4


class WeightsError(FileNotFoundError):
    """Weights that are neither here nor to be had; the message says where they were looked for and what to do."""


@dataclass(frozen=True)
class Weight:
    """One published file of weights.

    `sha256`: hex digest of the whole file (64 digits) or its beginning, as torchvision puts it into its file names
    (8 digits). `also`: other names, relative to a folder of weights, under which the same layers may lie; those
    copies are not checked.
    """

    filename: str
    url: str
    sha256: str
    licence: str
    what: str
    also: tuple[str, ...] = ()


_TORCHVISION = "https://download.pytorch.org/models/"
_BSD = "BSD-3-Clause (torchvision); trained on ImageNet"

KNOWN: dict[str, Weight] = {
    "vgg19": Weight(
        "vgg19-dcbb9e9d.pth",
        _TORCHVISION + "vgg19-dcbb9e9d.pth",
        "dcbb9e9dad569fff7a846263a77324fc34978fea2bfb039c012d710e1776ae44",
        _BSD,
        "VGG19, perceptual loss (575 MB)",
        ("vgg19_features.pth", "lpips_backbones/vgg19_features.pth"),
    ),
    "vgg16": Weight(
        "vgg16-397923af.pth",
        _TORCHVISION + "vgg16-397923af.pth",
        "397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
        _BSD,
        "VGG16, LPIPS backbone and perceptual loss (528 MB)",
        ("vgg16_features.pth", "lpips_backbones/vgg16_features.pth"),
    ),
    "alexnet": Weight(
        "alexnet-owt-7be5be79.pth",
        _TORCHVISION + "alexnet-owt-7be5be79.pth",
        "7be5be791159472b1fbf3c69796f7cb30dca7ad8466c2df70058c37116cdee02",
        _BSD,
        "AlexNet, LPIPS backbone (244 MB)",
        ("alexnet_features.pth", "lpips_backbones/alexnet_features.pth"),
    ),
    "inception": Weight(
        "weights-inception-2015-12-05-6726825d.pth",
        "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth",
        "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
        "Apache-2.0 (torch-fidelity's conversion of TensorFlow's release)",
        "InceptionV3 of FID, pool3 2048-d (96 MB)",
    ),
    "r3d_18": Weight(
        "r3d_18-b3b3357e.pth",
        _TORCHVISION + "r3d_18-b3b3357e.pth",
        "b3b3357ead25631ec9c57362ff2128a92d0427e01e2cd184951a44380c3f2e9d",
        "BSD-3-Clause (torchvision); trained on Kinetics-400",
        "R3D-18, Fréchet distance of videos (128 MB)",
    ),
    "arcface": Weight(
        "w600k_r50.onnx",
        "https://huggingface.co/public-data/insightface/resolve/33c1063c49c785b7652d3fd529f86fa4f149392b/models/"
        "buffalo_l/w600k_r50.onnx",
        "4c06341c33c2ca1f86781dab0e829f88ad5b64be9fba56e56bc9ebdefc619e43",
        "research only, not commercial (InsightFace, the file of its pack buffalo_l)",
        "ArcFace R50 trained on WebFace600K, CSIM (174 MB)",
        ("buffalo_l/w600k_r50.onnx", "models/buffalo_l/w600k_r50.onnx"),
    ),
    "sface": Weight(
        "face_recognition_sface_2021dec.onnx",
        "https://github.com/opencv/opencv_zoo/raw/47534e27c9851bb1128ccc0102f1145e27f23f98/models/"
        "face_recognition_sface/face_recognition_sface_2021dec.onnx",
        "0ba9fbfa01b5270c96627c4ef784da859931e02f04419c829e83484087c34e79",
        "Apache-2.0 (OpenCV Zoo)",
        "SFace, CSIM (39 MB)",
    ),
    "syncnet": Weight(
        "syncnet_v2.model",
        "http://www.robots.ox.ac.uk/~vgg/software/lipsync/data/syncnet_v2.model",
        "961e8696f888fce4f3f3a6c3d5b3267cf5b343100b238e79b2659bff2c605442",
        "MIT (syncnet_python, whose download script names the file)",
        "SyncNet v2, LSE-D and LSE-C (55 MB)",
    ),
    "face_landmarker": Weight(
        "face_landmarker.task",
        "https://storage.googleapis.com/mediapipe-models/face_landmarker/face_landmarker/float16/1/face_landmarker.task",
        "64184e229b263107bc2b804c6625db1341ff2bb731874b0bcc2fe6544e0bc9ff",
        "Apache-2.0 (MediaPipe)",
        "MediaPipe face landmarker, 478 points (4 MB)",
        (
            "face_landmarker/face_landmarker.task",
            "face_landmarker_v2_with_blendshapes.task",
            "face_landmarker/face_landmarker_v2_with_blendshapes.task",
        ),
    ),
}


def cache_dir() -> Path:
    """Where downloads go: `$STSA_CACHE`, or `~/.cache/stsa_lightning`."""
    return Path(os.environ.get("STSA_CACHE") or Path.home() / ".cache" / "stsa_lightning")


def _torch_hub_dir() -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("TORCH_HOME") or cache / "torch") / "hub" / "checkpoints"


def _known(name: str) -> Weight:
    if name not in KNOWN:
        raise WeightsError(f"no weights are known by the name {name!r}; known: {', '.join(KNOWN)}")
    return KNOWN[name]


def _folders(weights_dir: str | Path | None) -> list[Path]:
    if weights_dir is not None and not Path(weights_dir).is_dir():
        raise WeightsError(f"weights_dir: {weights_dir} is not a folder; name one, or leave it out")
    named = [weights_dir, os.environ.get("STSA_WEIGHTS")]
    return [Path(folder) for folder in named if folder] + [_torch_hub_dir(), cache_dir()]


def find_weights(name: str, weights_dir: str | Path | None = None) -> Path | None:
    """The file where it already lies, or None.

    Folders in order: `weights_dir`, `$STSA_WEIGHTS`, torch's hub cache, `cache_dir`. A file found is taken
    as it is: its checksum was checked when it was fetched, and a file put there by hand is the owner's choice.
    """
    weight = _known(name)
    candidates = (folder / file for folder in _folders(weights_dir) for file in (weight.filename, *weight.also))
    return next((path for path in candidates if path.is_file()), None)


def weights_path(name: str, weights_dir: str | Path | None = None) -> Path:
    """The file of the weights called `name` (see `KNOWN`), fetched into `cache_dir` if it is nowhere yet.

    Raises:
        WeightsError: unknown name, no such folder, no connection, or a file whose checksum is wrong.
    """
    found = find_weights(name, weights_dir)
    if found is not None:
        return found
    from filelock import FileLock

    weight = _known(name)
    target = cache_dir() / weight.filename
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{target}.lock"):  # all ranks of a run ask at once
        if not target.is_file():  # another process may have fetched it while this one waited
            try:
                download(weight.url, target, weight.sha256)
            except WeightsError as error:
                folders = ", ".join(str(folder) for folder in _folders(weights_dir))
                raise WeightsError(
                    f"{name} ({weight.what}): {error}. {weight.filename} was looked for in {folders}. By hand: fetch "
                    f"{weight.url} and save it as {target}, or in a folder that $STSA_WEIGHTS names"
                ) from error
    return target


def download(url: str, target: Path, sha256: str, attempts: int = ATTEMPTS) -> None:
    """Fetch `url` into `target` through `target.part`, going on from what an earlier attempt left there.

    Args:
        sha256: hex digest the file must have, or the beginning of it.
        attempts: interruptions in a row, without a single new byte between them, before giving up.

    Raises:
        WeightsError: unreachable, broken off again and again (the part is kept), or a wrong checksum (the part is
        removed).
    """
    part = target.with_name(target.name + ".part")
    failures = 0
    while True:
        before = _size(part)
        try:
            if _fetch(url, part):
                break
            reason = f"the connection broke off at {_size(part)} bytes"
        except urllib.error.HTTPError as error:
            raise WeightsError(f"{url} answers {error.code} {error.reason}") from error
        except urllib.error.URLError as error:
            raise WeightsError(f"{url} cannot be reached ({error.reason})") from error
        except (OSError, HTTPException) as error:
            reason = f"the connection broke off at {_size(part)} bytes ({error})"
        failures = 0 if _size(part) > before else failures + 1
        if failures >= attempts:
            kept = f"; {_size(part)} bytes are kept, the next try goes on from there" if _size(part) else ""
            raise WeightsError(reason + kept)
        time.sleep(min(0.5 * 2**failures, 8.0) if failures else 0.0)
    _check(url, part, sha256)
    os.replace(part, target)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _check(url: str, part: Path, sha256: str) -> None:
    found = sha256_of(part)
    if not found.startswith(sha256.lower()):
        size = _size(part)
        part.unlink()
        raise WeightsError(
            f"{url} gave {size} bytes with SHA-256 {found}, expected {sha256}: "
            f"the file was damaged or replaced, and has been removed; try again"
        )


def _fetch(url: str, part: Path) -> bool:
    """Append what is missing of `url` to `part`; whether that is now all of it."""
    start = _size(part)
    request = urllib.request.Request(url, headers={"User-Agent": "stsa_lightning"})
    if start:
        request.add_header("Range", f"bytes={start}-")
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code != 416:
            raise
        # Nothing after what is here: all of it, or more than there is.
        if re.fullmatch(rf"bytes \*/{start}", error.headers.get("Content-Range") or ""):
            return True
        part.unlink()
        return False
    with response:
        resumed = response.status == 206 and (response.headers.get("Content-Range") or "").startswith(f"bytes {start}-")
        start = start if resumed else 0  # a server without ranges sends the whole file again
        length = response.headers.get("Content-Length")
        total = start + int(length) if length else None
        _copy(response, part, "ab" if resumed else "wb", start, total)
    return total is None or _size(part) == total


def _copy(response, part: Path, mode: str, start: int, total: int | None) -> None:
    # Imported here: rich is part of the full installation, but a training machine that has its weights needs none.
    from rich.progress import BarColumn, DownloadColumn, TimeRemainingColumn, TransferSpeedColumn

    text = "[progress.description]{task.description}"
    columns = (text, BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with open(part, mode) as file, progress_bar(*columns) as progress:
        task = progress.add_task(part.name.removesuffix(".part"), total=total, completed=start)
        while block := response.read(CHUNK_BYTES):
            file.write(block)
            progress.advance(task, len(block))
