"""Whether it is still the same person: similarity of identity embeddings (CSIM).

A score means something only with its network and its alignment; each network carries both as words for a report.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Literal, Protocol, get_args

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from stsa_lightning.face.crops import to_uint8
from stsa_lightning.face.topology import positions
from stsa_lightning.metrics.base import FrameMean, checked_frames
from stsa_lightning.utils.errors import MissingPackageError, check_choice, required
from stsa_lightning.utils.weights import weights_path

IdentityName = Literal["arcface", "sface", "dlib"]

# Where ArcFace (and SFace after it) puts eyes, tip of the nose and corners of the mouth in its 112 px pictures.
_TEMPLATE = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)
_TEMPLATE_PX = 112
# An eye is the middle of its corners; left and right as they stand in the picture.
_FIVE = tuple(positions(ids) for ids in ([33, 133], [362, 263], [4], [61], [291]))
_DLIB_PX, _DLIB_PADDING = 150, 0.25


class IdentityNetwork(Protocol):
    """Turns the picture of a face into a vector that belongs to the person."""

    name: str
    alignment: str

    def __call__(self, picture: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
        """(H, W, 3) uint8 RGB and its (131, 2) landmarks in pixels -> (D,) float32."""


def identity_network(name: IdentityName = "arcface", weights_dir: str | Path | None = None) -> IdentityNetwork:
    """An identity network by name.

    `arcface`: ResNet-50 on WebFace600K, 512-d, cosine; research only. `sface`: MobileFaceNet of the OpenCV Zoo,
    128-d, cosine; free. `dlib`: ResNet-29, 128-d, trained for Euclidean distance (one person below 0.6), so that its
    cosines are all high and tell people apart poorly: read its `l2`.

    Raises:
        ValueError: another name.
        WeightsError: weights of `arcface` or `sface` are neither here nor to be fetched.
        MissingPackageError: `dlib` without its packages.
    """
    check_choice("network", name, get_args(IdentityName))
    if name == "dlib":
        return DlibNetwork()
    scale = (1 / 127.5, 127.5) if name == "arcface" else (1.0, 0.0)
    return OnnxNetwork(name, weights_path(name, weights_dir), *scale)


def align(picture: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """The face turned, scaled and moved to ArcFace's five-point template: (112, 112, 3) uint8.

    `picture` is (H, W, 3) uint8, `landmarks` (131, 2) in its pixels.
    """
    five = np.stack([landmarks[points].mean(axis=0) for points in _FIVE]).astype(np.float64)
    # Least squares for a, b, tx, ty of x' = a x - b y + tx, y' = b x + a y + ty.
    x, y = five.T
    one, zero = np.ones(5), np.zeros(5)
    rows = np.concatenate([np.stack([x, -y, one, zero], 1), np.stack([y, x, zero, one], 1)])
    a, b, tx, ty = np.linalg.lstsq(rows, _TEMPLATE.T.ravel(), rcond=None)[0]
    matrix = np.array([[a, -b, tx], [b, a, ty]])
    return cv2.warpAffine(picture, matrix, (_TEMPLATE_PX, _TEMPLATE_PX), flags=cv2.INTER_LINEAR)


class OnnxNetwork:
    """A network of aligned 112 px faces in an ONNX file, run by OpenCV; it sees (RGB - `shift`) * `scale`."""

    alignment = "five FaceMesh points to ArcFace's template, 112 px"

    def __init__(self, name: str, path: Path, scale: float = 1.0, shift: float = 0.0) -> None:
        self.name = name
        self._scale, self._shift = scale, shift
        try:
            self._network = cv2.dnn.readNetFromONNX(str(path))
        except cv2.error as error:
            raise ValueError(f"{path} is not an ONNX file that OpenCV can read: {error.err}") from error

    def __call__(self, picture: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
        aligned = align(picture, landmarks)
        self._network.setInput(cv2.dnn.blobFromImage(aligned, self._scale, mean=(self._shift,) * 3))
        return self._network.forward().ravel().astype(np.float32)


class DlibNetwork:
    """dlib's face recognition ResNet, with the weights of the package `face_recognition_models`."""

    name = "dlib"
    alignment = "dlib's five points, found in the box of the FaceMesh points, to its 150 px chip"

    def __init__(self) -> None:
        dlib = required("dlib", "the network dlib needs: pip install 'stsa_lightning[identity]'")
        # Found without importing it: the package asks for pkg_resources, which newer setuptools no longer carry.
        spec = importlib.util.find_spec("face_recognition_models")
        if spec is None or spec.origin is None:
            raise MissingPackageError(
                "the network dlib needs face_recognition_models: pip install 'stsa_lightning[identity]'"
            )
        models = Path(spec.origin).parent / "models"
        self._dlib = dlib
        self._points = dlib.shape_predictor(str(models / "shape_predictor_5_face_landmarks.dat"))
        self._network = dlib.face_recognition_model_v1(str(models / "dlib_face_recognition_resnet_model_v1.dat"))

    def chip(self, picture: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
        """The aligned face, (150, 150, 3) uint8."""
        low, high = landmarks.min(axis=0), landmarks.max(axis=0)
        box = self._dlib.rectangle(*(round(float(value)) for value in (*low, *high)))
        points = self._points(picture, box)
        return self._dlib.get_face_chip(picture, points, size=_DLIB_PX, padding=_DLIB_PADDING)

    def __call__(self, picture: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
        picture = np.ascontiguousarray(picture)
        descriptor = self._network.compute_face_descriptor(self.chip(picture, landmarks))
        return np.asarray(descriptor, dtype=np.float32)


def embeddings(frames: Tensor, landmarks: Tensor, network: IdentityNetwork) -> Tensor:
    """Identity vectors of frames.

    Args:
        frames: RGB (F, 3, H, W) in [0, 1].
        landmarks: (F, 131, 2), pixels of the frames; NaN where no face was found.

    Returns:
        (F, D) float32 on the CPU, of length 1 for cosine networks after `csim`; NaN where no face was found.
    """
    frames = checked_frames("frames", frames)
    if landmarks.shape != (len(frames), 131, 2):
        raise ValueError(f"landmarks must be ({len(frames)}, 131, 2), one set per frame, got {tuple(landmarks.shape)}")
    points = landmarks.cpu().numpy()
    found = np.isfinite(points).all(axis=(1, 2))
    vectors = [
        network(picture, places) if seen else None
        for picture, places, seen in zip(to_uint8(frames), points, found, strict=True)
    ]
    size = next((len(vector) for vector in vectors if vector is not None), 1)
    lost = np.full(size, np.nan, dtype=np.float32)
    return torch.from_numpy(np.stack([lost if vector is None else vector for vector in vectors]))


def csim(pred: Tensor, true: Tensor) -> Tensor:
    """Cosine of embeddings, (F, D) each -> (F,) in [-1, 1]; NaN where either is."""
    if not pred.isfinite().any() or not true.isfinite().any():
        return torch.full((len(pred),), torch.nan)
    return F.cosine_similarity(pred, true, dim=-1)


class CSIM(FrameMean):
    """Mean `csim` of generated and true faces, over frames of any number of clips, batches and ranks; 1 is ideal.

    `unmeasured` counts frames without a face on one of the sides.
    """

    higher_is_better = True

    def update(self, pred: Tensor, true: Tensor) -> None:
        """What `embeddings` returned of a clip's frames, (F, D) each; NaN where no face was found."""
        if pred.shape[:1] != true.shape[:1]:
            raise ValueError(f"pred and true must have as many frames, got {len(pred)} and {len(true)}")
        self._add(csim(pred, true).to(self.device))
