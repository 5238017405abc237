"""What MediaPipe itself answers, recorded once, where mediapipe 0.10.21 is: `python -m tests.face.mediapipe_record`.

The pictures are made of scikit-image's bundled portrait of Eileen Collins (NASA, public domain) by numpy and scipy
alone, so that they are the same with every version of OpenCV and of video codecs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage
from skimage import data

RECORD = Path(__file__).parents[1] / "data" / "mediapipe_0.10.21.npz"
MOVING = 12  # frames of `moving`


def photo() -> np.ndarray:
    """(512, 512, 3) uint8, a face 130 px high."""
    return data.astronaut()


def still() -> dict[str, np.ndarray]:
    """Unrelated pictures by name."""
    half = photo()[:280, 110:340]
    return {
        "photo": photo(),
        "mirrored": np.ascontiguousarray(photo()[:, ::-1]),
        "tall": photo()[:, 130:330],
        "small": photo()[::2, ::2],
        "leaning_left": ndimage.rotate(photo(), 25, order=1, reshape=False, mode="nearest"),
        "leaning_right": ndimage.rotate(photo(), -35, order=1, reshape=False, mode="nearest"),
        "dark": photo() // 4,
        "cut_off": photo()[100:],
        "two_faces": np.concatenate([half, half[:, ::-1]], axis=1),
    }


def moving() -> np.ndarray:
    """(12, 300, 320, 3) uint8: the face goes across, turns and comes nearer; then nothing; then it is back at once."""
    frames = []
    for number in range(MOVING):
        cos, sin = (1.0 - 0.03 * number) * np.array([np.cos(0.04 * number), np.sin(0.04 * number)])
        matrix = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
        offset = np.array([120, 224, 0]) - matrix @ (140 + 2 * number, 130 + 5 * number, 0)
        frames.append(ndimage.affine_transform(photo(), matrix, offset, (300, 320, 3), order=1, mode="nearest"))
    frames[7] = np.full_like(frames[7], 90)
    return np.stack(frames)


def main() -> None:
    import mediapipe

    from stsa_lightning.face.topology import LANDMARKS

    solutions, record = mediapipe.solutions, {}

    def answer(frame: np.ndarray, mesh: Any) -> np.ndarray:
        """(faces, 478, 2) float32 pixels."""
        found = mesh.process(np.ascontiguousarray(frame)).multi_face_landmarks or ()
        points = np.array([[(p.x, p.y) for p in face.landmark] for face in found]).reshape(-1, 478, 2)
        return (points * [frame.shape[1], frame.shape[0]]).astype(np.float32)

    for name, frame in still().items():
        options = {"static_image_mode": True, "max_num_faces": 2, "refine_landmarks": True}
        with solutions.face_mesh.FaceMesh(**options) as mesh:
            points = answer(frame, mesh)
        record[name] = points if name == "photo" else points[:, LANDMARKS]
        with solutions.face_detection.FaceDetection(model_selection=0) as detector:
            found = detector.process(np.ascontiguousarray(frame)).detections or ()
        size = [frame.shape[1], frame.shape[0]]
        rows = []
        for face in found:
            box, eyes = face.location_data.relative_bounding_box, face.location_data.relative_keypoints
            corners = [(box.xmin, box.ymin), (box.xmin + box.width, box.ymin + box.height)]
            rows.append([*(np.array(corners) * size).ravel(), *(np.array([(p.x, p.y) for p in eyes]) * size).ravel()])
            rows[-1].append(face.score[0])
        record[f"{name}_detections"] = np.array(rows, np.float32).reshape(-1, 17)
    with solutions.face_mesh.FaceMesh(static_image_mode=False, max_num_faces=1, refine_landmarks=True) as mesh:
        answers = [answer(frame, mesh)[:, LANDMARKS] for frame in moving()]
    missing = np.full((1, len(LANDMARKS), 2), np.nan, np.float32)
    record["moving"] = np.concatenate([points if len(points) else missing for points in answers])
    np.savez_compressed(RECORD, **record)
    print({name: values.shape for name, values in record.items()}, RECORD.stat().st_size)


if __name__ == "__main__":
    main()
