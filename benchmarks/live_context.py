"""How much of the speech before and after a frame Moonshine has to hear for lips as in a dub of the whole.

    python benchmarks/live_context.py --clip VIDEO --speech SOUND [SOUND ...] --json context.json

Features are described two steps at a time, as a live stream does whose speech comes at its own pace, with so many
seconds before and after; the guidance network predicts lips from them, in one pose. `aperture r` and `width r` are
correlations of the mouth's aperture and width with those from the features of the whole file; `deviation` is the mean
difference of the aperture, as a share of its standard deviation.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from common import parser, table, write_json

from stsa_lightning.dubbing import find_faces
from stsa_lightning.face.landmarks import landmark_detector
from stsa_lightning.face.topology import LIP_MEASURE_KEYPOINTS
from stsa_lightning.features.base import FEATURE_RATE_HZ, HOP, SPAN, feature_windows
from stsa_lightning.features.moonshine import Moonshine
from stsa_lightning.inference.frame_inputs import FrameInputBuilder
from stsa_lightning.media.audio import load_audio
from stsa_lightning.media.video import VideoReader
from stsa_lightning.models import BUNDLED
from stsa_lightning.models.checkpoint import load_networks

CONTEXTS = ((2.0, 0.0), (0.5, 0.1), (1.0, 0.1), (0.5, 0.2), (1.0, 0.2), (2.0, 0.2), (4.0, 0.2), (1.0, 0.3), (2.0, 0.4))
_MEASURES = LIP_MEASURE_KEYPOINTS[1:].tolist()


class Lips:
    """Predicted aperture and width of the mouth of one face.

    Args:
        clip: a video whose first frames give the pose and the references.
    """

    def __init__(self, clip: Path) -> None:
        self._guidance, synthesis, meta = load_networks(BUNDLED)
        builder = FrameInputBuilder(synthesis.face_size, float(meta.get("heatmap_sigma", 1.0)))
        with VideoReader(clip) as reader:
            frames = reader.get(range(min(24, len(reader))))
        landmarks = find_faces(frames, (frames.shape[2], frames.shape[1]), landmark_detector()).normalised
        chosen = np.linspace(0, len(landmarks) - 1, synthesis.num_references).astype(int)
        self._references = builder.heatmaps(landmarks[chosen], "whole")[None]
        self._masked = builder.heatmaps(landmarks[:1], "masked")[None]

    @torch.inference_mode()
    def __call__(self, features: np.ndarray) -> np.ndarray:
        """(frames, 2) of features (steps, D)."""
        centres = np.arange(len(features) // 2)[:, None] + np.arange(-2, 3)
        windows = torch.from_numpy(feature_windows(features, centres.reshape(-1))).unflatten(0, centres.shape)
        found = []
        for audio in windows.split(16):
            maps = (
                heatmaps.expand(len(audio), -1, -1, -1, -1)
                for heatmaps in (self._masked.expand(-1, 5, -1, -1, -1), self._references)
            )
            points = self._guidance(audio, *maps).keypoints[:, 2]
            found.append(torch.stack([(points[..., a] - points[..., b]).norm(dim=1) for a, b in _MEASURES], dim=1))
        return torch.cat(found).numpy()


def live(extract: Moonshine, wave: np.ndarray, before: int, after: int) -> np.ndarray:
    """Features (steps, D), two steps at a time, with so many steps before and after."""
    steps, rows = -(-len(wave) // HOP), []
    for step in range(0, steps, 2):
        first, last = max(0, step - before), min(steps, step + 2)
        rows.append(extract(wave[first * HOP : (last - 1 + after) * HOP + SPAN])[step - first : last - first])
    return np.concatenate(rows)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--clip", type=Path, required=True)
    options.add_argument("--speech", type=Path, nargs="+", required=True)
    options.add_argument("--seconds", type=float, default=6.0, help="of each")
    arguments = options.parse_args()
    extract, lips = Moonshine(), Lips(arguments.clip)
    waves = [load_audio(path, stop_s=arguments.seconds) for path in arguments.speech]
    whole = [lips(extract(wave)) for wave in waves]
    rows = []
    for before, after in CONTEXTS:
        found = [
            lips(live(extract, wave, round(before * FEATURE_RATE_HZ), round(after * FEATURE_RATE_HZ))) for wave in waves
        ]
        r = np.array([[np.corrcoef(a[:, i], b[:, i])[0, 1] for i in (0, 1)] for a, b in zip(whole, found, strict=True)])
        apart = np.mean([np.abs(a - b)[:, 0].mean() / a[:, 0].std() for a, b in zip(whole, found, strict=True)])
        rows.append([before, after, *r.mean(axis=0).tolist(), float(apart)])
    head = ["before (s)", "after (s)", "aperture r", "width r", "deviation"]
    print(table(head, rows))
    if arguments.json:
        write_json(arguments.json, {"columns": head, "rows": rows})


if __name__ == "__main__":
    main()
