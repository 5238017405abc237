"""How nearly a mouth is put to where it would be if the head were turned as it is in another frame.

    python benchmarks/mouth_motion.py measure --data CORPUS [--json FILE]
    python benchmarks/mouth_motion.py fit --data CORPUS --out FILE.safetensors     the weights of face/mouth_motion.py

CORPUS holds prepared clips. For every two of some frames of a clip, lips and jaw of the one are put on the pose of the
other, opened as they are there, and compared with those. Shown are distances in % of the face box's side, means over
people: of where the lips lie as a whole, of the lips' keypoints, and of the jaw's. It is done by a similarity alone, by
an affine map (both of brows, eyes, nose and upper oval), and by `face.mouth_motion`. The figures are worth something on
people whom the fit has not seen.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from common import parser, table, write_json
from safetensors.numpy import save_file

from stsa_lightning.data.clip import Clip
from stsa_lightning.data.index import clip_path, load_index
from stsa_lightning.face.mouth_motion import AlignedFaces, MouthMotion, lips_of
from stsa_lightning.face.topology import JAW_KEYPOINTS, LIP_MEASURES, MASKED_POSITIONS, mirrored
from stsa_lightning.utils.files import written_whole

CLIPS, FRAMES = 12, 240  # of each person, at most; frames spread over the clips
LEAST_FRAMES = 15  # of a clip
PENALTY = 4e-4  # of the pose, squared sides of the box; ten times less or more changes nothing (people left out)
LIPS_PENALTY = 4e-6


def clips_of(folder: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Each person's name, and landmarks (n, 131, 2) of some frames of a clip, for some clips of each."""
    for speaker, rows in load_index(folder).groupby("speaker"):
        names = rows.loc[rows["valid_frames"] >= LEAST_FRAMES, "clip"].tolist()
        names = [names[i] for i in np.linspace(0, len(names) - 1, min(CLIPS, len(names))).round().astype(int)]
        for name in names:
            clip = Clip.open(clip_path(folder, name))
            faces = np.flatnonzero(clip.valid)
            count = min(len(faces), max(LEAST_FRAMES, FRAMES // len(names)))
            chosen = faces[np.linspace(0, len(faces) - 1, count).round().astype(int)]
            yield str(speaker), clip.face_landmarks_of(chosen)


def fit(clips: list[np.ndarray]) -> MouthMotion:
    """Ridge regression of the keypoints of each clip's frames on pose and lips, all less the clip's means."""
    average = np.mean([mirrored(faces).mean(0) + faces.mean(0) for faces in clips], axis=0) - 1
    products, sums = 0.0, 0.0
    for clip in clips:
        for faces in (clip, mirrored(clip)):
            aligned = AlignedFaces.of(faces, average)
            given = _centred(np.column_stack([aligned.fixed, lips_of(aligned.keypoints)]))
            products, sums = products + given.T @ given, sums + given.T @ _centred(aligned.keypoints)
    penalty = np.repeat([PENALTY, LIPS_PENALTY], [2 * len(MASKED_POSITIONS), len(LIP_MEASURES)])
    by_pose, by_lips = np.split(np.linalg.solve(products + np.diag(penalty), sums), [2 * len(MASKED_POSITIONS)])
    return MouthMotion(average, by_pose, by_lips)


def _centred(values: np.ndarray) -> np.ndarray:
    return values - values.mean(0)


def by_similarity(faces: AlignedFaces) -> np.ndarray:
    """Keypoints (n, n, 114) of each face, the second axis, in the pose of each, the first."""
    return np.broadcast_to(faces.keypoints, (len(faces.keypoints), *faces.keypoints.shape))


def by_affine_map(faces: AlignedFaces) -> np.ndarray:
    fixed, keypoints = (
        np.concatenate([points, np.ones_like(points[..., :1])], axis=-1)
        for points in (
            faces.fixed.reshape(-1, len(MASKED_POSITIONS), 2),
            faces.keypoints.reshape(len(faces.fixed), -1, 2),
        )
    )
    maps = np.linalg.pinv(fixed)[None] @ fixed[:, None, :, :2]  # (to, from, 3, 2)
    return (keypoints[None] @ maps).reshape(len(fixed), len(fixed), -1)


def by_mouth_motion(faces: AlignedFaces) -> np.ndarray:
    return by_similarity(faces) + (faces.fixed[:, None] - faces.fixed) @ MouthMotion.load().by_pose


WAYS: dict[str, Callable[[AlignedFaces], np.ndarray]] = {
    "similarity": by_similarity,
    "affine map": by_affine_map,
    "mouth motion": by_mouth_motion,
}


def distances(faces: AlignedFaces, moved: np.ndarray) -> np.ndarray:
    """(3,) of `moved` keypoints (to, from, 114), opened as those they are put in the place of: place, lips, jaw."""
    lips = lips_of(faces.keypoints)
    opened = moved + (lips[:, None] - lips) @ MouthMotion.load().by_lips
    apart = (opened - faces.keypoints[:, None]).reshape(-1, faces.keypoints.shape[1] // 2, 2)
    jaw, lips = apart[:, :JAW_KEYPOINTS], apart[:, JAW_KEYPOINTS:]
    return 50 * np.array([np.linalg.norm(x, axis=-1).mean() for x in (lips.mean(1), lips, jaw)])


def measure(folder: Path) -> dict[str, list[float]]:
    """By the way in which it is done, `distances`."""
    found: dict[str, defaultdict[str, list[np.ndarray]]] = {name: defaultdict(list) for name in WAYS}
    for speaker, landmarks in clips_of(folder):
        faces = AlignedFaces.of(landmarks)
        for name, way in WAYS.items():
            found[name][speaker].append(distances(faces, way(faces)))
    return {name: np.mean([np.mean(of, 0) for of in people.values()], 0).tolist() for name, people in found.items()}


def main() -> None:
    options = parser(__doc__)
    options.add_argument("what", choices=("measure", "fit"))
    options.add_argument("--data", type=Path, required=True, metavar="CORPUS", help="folder that `stsa prepare` wrote")
    options.add_argument("--out", type=Path, metavar="FILE", help="with fit: the weights")
    arguments = options.parse_args()
    if arguments.what == "fit":
        if arguments.out is None:
            options.error("fit needs --out FILE")
        clips = list(clips_of(arguments.data))
        print(f"{len(clips)} clips of {len({speaker for speaker, _ in clips})} people")
        motion = fit([faces for _, faces in clips])
        with written_whole(arguments.out) as part:
            save_file({name: values.astype(np.float32) for name, values in vars(motion).items()}, part)
        return
    figures = measure(arguments.data)
    print(table(["% of the box", "place of the lips", "lips", "jaw"], [[name, *of] for name, of in figures.items()]))
    if arguments.json:
        write_json(arguments.json, {"distances": figures})


if __name__ == "__main__":
    main()
