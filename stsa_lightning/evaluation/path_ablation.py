"""What each part of the method is worth in a trained checkpoint: predictions with one part taken away.

A path that can be taken away without a change of the picture is not used, whatever the architecture says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor

from stsa_lightning.models.inpainting import completed
from stsa_lightning.models.synthesis import Paths, Synthesis, SynthesisOutput

Render = Callable[..., SynthesisOutput]
_PATHS: dict[str, Paths] = {"no spatial path": "temporal", "no temporal path": "spatial"}


def ablated_predictions(synthesis: Synthesis, generate: Callable[..., Any], speech: np.ndarray) -> dict[str, Any]:
    """Predictions of one clip under its own speech, each with one part of the method taken away.

    - `no spatial path`, `no temporal path`: that path's feature maps are zeros; without the temporal path nothing moves
      the references either, and a network with `on_warped` starts from their mean.
    - `warped references`: the lower half is what the temporal path's flow makes of the references; no inpainting.
    - `heatmap shuffled`: each frame is rendered under the predicted heatmap of another one, half a block away.
    - `audio shuffled`: both networks get the speech half a clip late.

    `generate`, which uses `synthesis`, makes faces of speech (steps, D); what it gave is returned by name, in order.
    """
    predictions = {}
    for name, paths in _PATHS.items():
        with _using(synthesis, "paths", paths):
            predictions[name] = generate(speech=speech)
    for name, changed in {"warped references": _warped, "heatmap shuffled": _shuffled}.items():
        with _using(synthesis, "render", changed(synthesis.render)):
            predictions[name] = generate(speech=speech)
    predictions["audio shuffled"] = generate(speech=np.roll(speech, len(speech) // 2, axis=0))
    return predictions


def _warped(render: Render) -> Render:
    def rendered(masked_face: Tensor, *inputs: Any) -> SynthesisOutput:
        output = render(masked_face, *inputs)
        return replace(output, face=completed(masked_face, output.warped))

    return rendered


def _shuffled(render: Render) -> Render:
    def rendered(masked_face: Tensor, heatmap: Tensor, *inputs: Any) -> SynthesisOutput:
        return render(masked_face, heatmap.roll(len(heatmap) // 2, dims=0), *inputs)

    return rendered


@contextmanager
def _using(synthesis: Synthesis, name: str, value: Any) -> Iterator[None]:
    """The network with another attribute for a while; a method comes back as the class has it."""
    earlier = vars(synthesis).get(name)
    setattr(synthesis, name, value)
    try:
        yield
    finally:
        if earlier is None:
            delattr(synthesis, name)
        else:
            setattr(synthesis, name, earlier)
