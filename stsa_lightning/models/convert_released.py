"""Import of the published checkpoints: two pickles of BGR, three-channel networks into one safetensors file of ours."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from stsa_lightning.models.checkpoint import save_networks
from stsa_lightning.models.guidance import Guidance
from stsa_lightning.models.presets import GUIDANCE, SYNTHESIS
from stsa_lightning.models.synthesis import Synthesis
from stsa_lightning.utils.errors import UserError
from stsa_lightning.utils.safe_load import load_tensors, uninitialised

State = dict[str, Tensor]

_WINDOW_FRAMES = 5

# Places in the released networks -> places in ours, first match first; None: not part of ours.
_GUIDANCE_PLACES: dict[str, str | None] = {
    "mel_encoder.": "audio_encoder.",
    "pose_encoder.": "masked_encoder.",
    "ref_encoder.": "reference_encoder.",
    "lip_encoder.": "lip_encoder.",
    "jaw_encoder.": "jaw_encoder.",
    **{f"heatmap_decoder.conv_t{i + 1}.": f"decoder.lip.{i}." for i in range(6)},
    **{f"heatmap_decoder.conv_t{i + 7}.": f"decoder.jaw.{i}." for i in range(6)},
    "heatmap_decoder.message_l2j.0.": "decoder.lip_to_jaw.",
    "heatmap_decoder.message_j2l.0.": None,  # never called: both sides hear the other through message_l2j
    "heatmap_decoder.message_p2j.": "decoder.masked_to_jaw.",
    "heatmap_decoder.message_p2l.": "decoder.masked_to_lip.",
    "fusion_transformer.position_v.pe": "fusion.masked_time.table",
    "fusion_transformer.position_a.pe": "fusion.audio_time.table",
    "fusion_transformer.modality.": "fusion.modality.",
    "fusion_transformer.transformer_encoder.": "fusion.encoder.",
    "mouse_keypoint_map.": "lip_keypoints.",
    "jaw_keypoint_map.": "jaw_keypoints.",
    "Norm.": "norm.",
}
_SYNTHESIS_PLACES: dict[str, str | None] = {
    **{f"ref_imgs_encoder.conv{i + 1}.": f"spatial.encoder.{i}." for i in range(3)},
    "heatmap_encoder_tar.heatmap_down.": "spatial.heatmap_encoder.",
    "heatmap_encoder_ref.heatmap_down.": "spatial.reference_heatmap_encoder.",
    "audio_encoder.w2v_encoder.": "audio_encoder.",
    "spatial_module.alignment_encoder.": "spatial.alignment.",
    # The lists hold the same modules as the names with a size. Loading fills the lists last, so theirs count.
    "spatial_module.adaAT_": None,
    "spatial_module.appearance_conv_list_": None,
    **{f"spatial_module.adaAT.{i}.": f"spatial.transforms.{i}." for i in range(3)},
    **{f"spatial_module.appearance_conv_list.{i}.0.": f"spatial.pre_blocks.{i}." for i in range(3)},
    **{f"spatial_module.appearance_conv_list.{i}.1.": f"spatial.post_blocks.{i}." for i in range(3)},
    **{f"temporal_module.conv{i + 1}.": f"temporal.stem.{i}.conv." for i in range(3)},
    **{f"temporal_module.conv{i + 1}_bn.": f"temporal.stem.{i}.norm." for i in range(3)},
    "temporal_module.spade_layer_1.": "temporal.spade1.",
    "temporal_module.adain_1.": "temporal.adain1.",
    "temporal_module.spade_layer_2.": "temporal.spade2.",
    "temporal_module.adain_2.": "temporal.adain2.",
    "temporal_module.spade_layer_4.": "temporal.spade3.",
    "temporal_module.conv_4.": "temporal.flow.",
    "temporal_module.conv_5.": "temporal.confidence.",
    **{f"fuse_{128 >> i}.": f"fusion.{i}." for i in range(3)},
    **{f"translation.conv{i + 1}.": f"inpainting.stem.{i}.conv." for i in range(3)},
    **{f"translation.conv{i + 1}_bn.": f"inpainting.stem.{i}.norm." for i in range(3)},
    **{f"translation.spade_{i}.": f"inpainting.spade{i}." for i in (1, 2, 3)},
    **{f"translation.adain_{i}.": f"inpainting.adain{i}." for i in (1, 2, 3)},
    "translation.conv_last.": "inpainting.last.",
    "align_layers.": None,  # of training alone, see `convert_cil`
    "mine.": None,
    "source_img_encoder.": None,  # no output uses it
    "perceptual": None,  # the VGG19 of the loss
    "vgg": None,
}
# Names inside a building block -> ours. A dotted piece is replaced wherever it stands.
_PIECES = {
    ".conv_block.0.": ".conv.",
    ".conv_block.1.": ".norm.",
    ".convT_block.0.": ".conv.",
    ".convT_block.1.": ".norm.",
    ".bn.": ".norm.",
    ".spade_layer_1.conv1.": ".norm1.shared.",
    ".spade_layer_2.conv1.": ".norm2.shared.",
    ".spade_layer_": ".norm",
    ".adain_layer_": ".norm",
    ".conv_1.": ".conv1.",
    ".conv_2.": ".conv2.",
    ".mlp_shared.0.": ".shared.",
    ".mlp_": ".",
    ".commn_linear.0.": ".common.",
    ".scale.0.": ".scale.",
    ".rotation.0.": ".angle.",
    ".translation.0.": ".translation.",
}
# Layers whose channels are heatmaps or colours.
_HEATMAP_INPUTS = ("spatial.heatmap_encoder.0.conv.weight", "spatial.reference_heatmap_encoder.0.conv.weight")
_IMAGE_AND_HEATMAP_INPUTS = ("temporal.stem.0.conv.weight", "inpainting.stem.0.conv.weight")
_REFERENCE_INPUT = "spatial.encoder.0.0.conv.weight"
_IMAGE_OUTPUT = "inpainting.last.weight"


def convert_guidance(state: Mapping[str, Tensor]) -> State:
    """Released stage 1 state dict -> state dict of `Guidance` with the `released` preset.

    Raises:
        UserError: entries missing, unknown or of another shape.
    """
    ours = _rename(state, _GUIDANCE_PLACES)
    both_ways = {n.replace(".lip_to_jaw.", ".jaw_to_lip."): v for n, v in ours.items() if ".lip_to_jaw." in n}
    ours |= both_ways  # see the table: one block served both directions
    for name in ("fusion.masked_time.table", "fusion.audio_time.table"):
        if name in ours:
            ours[name] = ours[name].squeeze(0)
    with uninitialised():
        network = Guidance(**GUIDANCE["released"])
    _check_names(ours, network, "guidance (stage 1)")
    _check_shapes(ours, network, "guidance (stage 1)")
    return ours


def convert_synthesis(state: Mapping[str, Tensor], *, bgr: bool) -> State:
    """Released stage 2 state dict -> state dict of `Synthesis` with the `released` preset.

    The three equal heatmap channels become one. With `bgr` the images' channels are reversed, as published
    checkpoints need to work on RGB images.

    Raises:
        UserError: entries missing, unknown or of another shape.
    """
    what = "synthesis (stage 2)"
    with uninitialised():
        network = Synthesis(**SYNTHESIS["released"])
    ours = _rename(state, _SYNTHESIS_PLACES)
    _check_names(ours, network, what)
    try:
        _adapt_channels(ours, bgr)
    except RuntimeError as error:
        raise UserError(f"not a released {what} state dict: its first layers see other channels ({error})") from error
    _check_shapes(ours, network, what)
    return ours


def convert_cil(state: Mapping[str, Tensor]) -> State:
    """Released stage 2 state dict -> state dict of `CILLoss` with the estimator `MINE`."""
    return _rename(state, {"align_layers.": "heads.", "mine.": "estimator.", "": None})


def import_released(
    guidance_pth: str | Path,
    synthesis_pth: str | Path,
    out: str | Path,
    recognised: Callable[[str], object] = lambda line: None,
) -> Path:
    """Convert the two published checkpoints to one safetensors file that `load_networks` reads.

    Args:
        guidance_pth: pickle with a `state_dict` of stage 1; read without running any code in it.
        synthesis_pth: the same of stage 2.
        out: file to write; it appears complete or not at all.
        recognised: called with a line for each file: what it holds, and what of it was left out.

    Raises:
        FileNotFoundError: a file is missing.
        UserError: a file is no such pickle, would run code, or holds another network.
    """
    states = []
    for path, convert, places, what in (
        (guidance_pth, convert_guidance, _GUIDANCE_PLACES, "guidance (stage 1)"),
        (synthesis_pth, partial(convert_synthesis, bgr=True), _SYNTHESIS_PLACES, "synthesis (stage 2)"),
    ):
        state = read_state(path)
        try:
            states.append(convert(state))
        except UserError as error:
            raise UserError(f"{path}: {error}") from error
        recognised(f"{path}: {what}, {_what_was_taken(state, places)}")
    guidance, synthesis = Guidance(**GUIDANCE["released"], add_masked=False), Synthesis(**SYNTHESIS["released"])
    guidance.load_state_dict(states[0])
    synthesis.load_state_dict(states[1])
    meta = {"features": "wav2vec2", "num_frames": _WINDOW_FRAMES, "source": "released checkpoints"}
    return save_networks(out, guidance, synthesis, meta)


def _what_was_taken(state: State, places: Mapping[str, str | None]) -> str:
    left = Counter(place for name in state if (place := _place(name, places)) and places[place] is None)
    count = sum(value.numel() for name, value in state.items() if (p := _place(name, places)) and places[p])
    listed = ", ".join(f"{place.rstrip('._')} ({number})" for place, number in left.items())
    said = f"{len(state) - sum(left.values())} of {len(state)} tensors taken, {count / 1e6:.2f} M numbers"
    return f"{said}; not part of the networks: {listed}" if left else said


def read_state(path: str | Path) -> State:
    """The `state_dict` of a published `.pth` file, without the `module.` that data-parallel training prepends.

    Raises:
        FileNotFoundError, UserError: as `load_tensors`; there is no `state_dict` of tensors.
    """
    stored = load_tensors(path)
    state = stored.get("state_dict") if isinstance(stored, dict) else None
    if not isinstance(state, dict):
        found = ", ".join(map(str, list(stored)[:5])) if isinstance(stored, dict) else type(stored).__name__
        raise UserError(f"{path}: expected a dictionary with a `state_dict`, found: {found}")
    strangers = [name for name, value in state.items() if not (isinstance(name, str) and isinstance(value, Tensor))]
    if strangers:
        raise UserError(
            f"{path}: expected names and tensors in its `state_dict`, found another kind at {strangers[0]!r}"
        )
    return {name.removeprefix("module."): value for name, value in state.items()}


def _rename(state: Mapping[str, Tensor], places: Mapping[str, str | None]) -> State:
    """`state` under our names; entries of no known place keep theirs, to be reported."""
    renamed = {}
    for name, value in state.items():
        place = _place(name, places)
        if place is None:
            renamed[name] = value
        elif (ours := places[place]) is not None:
            inner = "." + name.removeprefix(place)
            for theirs, piece in _PIECES.items():
                inner = inner.replace(theirs, piece)
            renamed[ours + inner[1:]] = value
    return renamed


def _place(name: str, places: Mapping[str, str | None]) -> str | None:
    return next((place for place in places if name.startswith(place)), None)


def _adapt_channels(state: State, bgr: bool) -> None:
    """Sum the heatmap channels of first layers, and reverse the image channels of first and last layers."""
    for name in _HEATMAP_INPUTS:  # image-major: three equal channels per heatmap
        state[name] = _sum_triplets(state[name])
    for name in _IMAGE_AND_HEATMAP_INPUTS:
        image, heatmap = state[name].split(3, dim=1)
        state[name] = torch.cat([image.flip(1) if bgr else image, _sum_triplets(heatmap)], dim=1)
    for block in ("spade1", "spade2", "spade3"):
        for norm in ("norm1", "norm2"):
            name = f"temporal.{block}.{norm}.shared.weight"
            state[name] = _sum_triplets(state[name])
    if bgr:
        colours = state[_REFERENCE_INPUT].unflatten(1, (3, -1))  # colour-major
        state[_REFERENCE_INPUT] = colours.flip(1).flatten(1, 2)
        state[_IMAGE_OUTPUT] = state[_IMAGE_OUTPUT].flip(0)


def _sum_triplets(weight: Tensor) -> Tensor:
    return weight.unflatten(1, (-1, 3)).sum(2)


def _check_names(state: State, network: nn.Module, what: str) -> None:
    wanted = network.state_dict().keys()
    _refuse(what, missing=sorted(wanted - state.keys()), unexpected=sorted(state.keys() - wanted))


def _check_shapes(state: State, network: nn.Module, what: str) -> None:
    misfits = [
        f"{name} is {tuple(state[name].shape)} instead of {tuple(value.shape)}"
        for name, value in network.state_dict().items()
        if state[name].shape != value.shape
    ]
    _refuse(what, misshapen=misfits)


def _refuse(what: str, **problems: list[str]) -> None:
    """Raise `UserError` when any kind of problem has entries, naming the first of them."""
    found = [f"{len(names)} {kind} (first: {', '.join(names[:3])})" for kind, names in problems.items() if names]
    if found:
        raise UserError(f"not a released {what} state dict: {'; '.join(found)}. Check that the files are not swapped")
