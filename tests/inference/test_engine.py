from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from stsa_lightning.inference import render_engine as engine_module
from stsa_lightning.inference.bfloat16 import bfloat16_is_fast, in_bfloat16
from stsa_lightning.inference.cuda_graphs import Record
from stsa_lightning.inference.engine import Engine, Guided, Rendered
from stsa_lightning.inference.fold import for_inference
from stsa_lightning.inference.frame_inputs import ChosenReferences, FrameInputs, ReferenceInputs
from stsa_lightning.inference.int8 import int8_is_fast
from stsa_lightning.inference.onnx import OnnxEngine, export_onnx
from stsa_lightning.inference.reference import PlainEngine
from stsa_lightning.inference.render_engine import EngineReferences, Precision, RenderEngine, psnr_db
from stsa_lightning.models.guidance import Guidance
from stsa_lightning.models.presets import GUIDANCE, SYNTHESIS
from stsa_lightning.models.synthesis import Synthesis, mask_lower_half

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from straightforward import StraightForm, seeded

CPU = torch.device("cpu")
needs_int8 = pytest.mark.skipif(not int8_is_fast(), reason="a processor without fast 8-bit multiplications")


@cache
def networks(size: str, align_references: bool = False, **others: Any) -> tuple[Guidance, Synthesis]:
    """`small` without rendered heatmaps: a rounding error of a keypoint's place is the largest on a line's flanks.

    Made once for all tests, which leave them as they are: engines work with networks of their own.
    """
    settings = {**SYNTHESIS[size], "align_references": align_references, **others}
    return seeded(Guidance(**{**GUIDANCE[size], "heatmap_sigma": 0})), seeded(Synthesis(**settings))


class Inputs(NamedTuple):
    references: ReferenceInputs
    frames: FrameInputs
    chosen: ChosenReferences

    def part(self, part: slice) -> Inputs:
        """Some of the frames."""
        return Inputs(self.references, self.frames[part], self.chosen[part])


def inputs(synthesis: Synthesis, frames: int = 3, window: int = 5) -> Inputs:
    """Smooth pictures and neighbouring windows, as a video has them."""
    generator = torch.Generator().manual_seed(1)
    size, dim, count = synthesis.face_size, synthesis.audio_dim, synthesis.num_references

    def smooth(n: int, channels: int) -> Tensor:
        coarse = torch.rand(n, channels, 9, 9, generator=generator)
        return torch.nn.functional.interpolate(coarse, (size, size), mode="bicubic").clamp(0, 1)

    at = torch.arange(frames)[:, None] + torch.arange(window)
    given = {
        "masked_faces": mask_lower_half(smooth(frames, 3)),
        "masked_heatmaps": smooth(frames + window - 1, 1)[at],
        "audio": torch.randn(frames + window - 1, dim, 10, generator=generator)[at],
    }
    references = ReferenceInputs(smooth(count, 3)[None], smooth(count, 1)[None])
    theta = torch.eye(2, 3) + 0.1 * torch.randn(frames, count, 2, 3, generator=generator)
    return Inputs(references, FrameInputs(**given), ChosenReferences(torch.arange(count).expand(frames, -1), theta))


def mirrored(given: Inputs) -> Inputs:
    """The same under other references."""
    return given._replace(references=replace(given.references, images=given.references.images.flip(-1)))


def rendered(engine: Engine, given: Inputs) -> Tensor:
    return rendered_with_flow(engine, given).faces


def rendered_with_flow(engine: Engine, given: Inputs) -> Rendered:
    encoded = engine.encode(given.references)
    return engine.render(given.frames, engine.guide(given.frames, encoded), given.chosen, encoded)


def guided(engine: Engine, given: Inputs) -> Guided:
    return engine.guide(given.frames, engine.encode(given.references))


def frame_by_frame(form: StraightForm, given: Inputs) -> Tensor:
    def face(one: Inputs) -> Tensor:
        frame = one.frames.masked_faces, one.frames.masked_heatmaps, one.frames.audio
        references = one.references.images, one.references.heatmaps
        return form.frame(*frame, *references, one.chosen.theta)

    return torch.cat([face(given.part(slice(i, i + 1))) for i in range(len(given.frames))])


@pytest.fixture(params=["exact", "fast", "CUDA graphs", "bfloat16", "onnx"])
def make_engine(request: pytest.FixtureRequest, recorded_plainly: Record, tmp_path: Path) -> Callable[..., Engine]:
    """Every fast implementation of the interface, on this machine's processor."""

    def make(guidance: Guidance, synthesis: Synthesis) -> Engine:
        if request.param in ("exact", "fast"):
            return RenderEngine(guidance, synthesis, precision=request.param)
        if request.param == "onnx":
            for package in ("onnx", "onnxscript", "onnxruntime"):
                pytest.importorskip(package)
            export_onnx(guidance, synthesis, tmp_path)
            return OnnxEngine(tmp_path)
        precision: Precision = "exact" if request.param == "CUDA graphs" else "fast"
        return as_on_a_gpu(guidance, synthesis, precision, recorded_plainly)

    return make


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, {"align_references": True}, {"blend": True, "base_reduction": 8}], ids=str)
def test_every_engine_renders_as_the_plain_one(make_engine: Callable[..., Engine], settings: dict[str, Any]) -> None:
    guidance, synthesis = networks("tiny", **settings)
    given, engine, plain = inputs(synthesis), make_engine(guidance, synthesis), PlainEngine(guidance, synthesis, CPU)
    expected, found = rendered_with_flow(plain, given), rendered_with_flow(engine, given)
    exact = getattr(engine, "precision", "exact") == "exact"
    assert expected.faces.std() > 0.02
    assert expected.flow.std() > 0.1
    for name, answer in vars(found).items():
        true = getattr(expected, name)
        assert (answer.shape, answer.dtype) == (true.shape, torch.float32), name
        assert psnr_db(answer / true.abs().max(), true / true.abs().max()) > (80 if exact else 38), name
    for predicted, true in zip(*(vars(guided(each, given)).values() for each in (engine, plain)), strict=True):
        torch.testing.assert_close(predicted, true, atol=1e-4, rtol=0)  # guidance is float32 in every mode


@pytest.mark.slow
def test_every_engine_draws_heatmaps_through_keypoints_that_were_changed(make_engine: Callable[..., Engine]) -> None:
    _, synthesis = networks("tiny", True)
    guidance = seeded(Guidance(**{**GUIDANCE["tiny"], "heatmap_sigma": 1.0}))
    given, engine = inputs(synthesis), make_engine(guidance, synthesis)
    asked = list[np.ndarray]()

    def changed(keypoints: np.ndarray) -> np.ndarray:
        asked.append(keypoints)
        return 0.5 + 0.2 * np.sin(np.arange(keypoints.size, dtype=np.float32)).reshape(keypoints.shape)

    found = engine.guide(given.frames, engine.encode(given.references), changed)
    np.testing.assert_allclose(asked[0], guided(engine, given).keypoints, atol=1e-5)
    np.testing.assert_array_equal(found.keypoints, changed(asked[0]))
    expected = guidance.draw(found.keypoints, given.frames.masked_heatmaps[:, 2])
    torch.testing.assert_close(found.heatmaps, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("align_references", [False, True])
@pytest.mark.parametrize("graphs", [False, True])
def test_flow_and_confidence_are_those_of_the_network(
    align_references: bool, graphs: bool, recorded_plainly: Record
) -> None:
    guidance, synthesis = networks("tiny", align_references)
    given, plain = inputs(synthesis), rendered_with_flow(PlainEngine(guidance, synthesis, CPU), inputs(synthesis))
    if graphs:
        engine = as_on_a_gpu(guidance, synthesis, "exact", recorded_plainly)
    else:
        engine = RenderEngine(guidance, synthesis, precision="exact")
    found = rendered_with_flow(engine, given)
    assert plain.flow.std() > 0.1
    torch.testing.assert_close(found.flow, plain.flow, atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(found.confidence, plain.confidence, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("align_references", [False, True])
@pytest.mark.parametrize("size", ["tiny", "small"])
def test_exact_is_the_straight_form(size: str, align_references: bool) -> None:
    guidance, synthesis = networks(size, align_references)
    given = inputs(synthesis)
    drawn = rendered(RenderEngine(guidance, synthesis, precision="exact"), given)
    expected = frame_by_frame(StraightForm(guidance, synthesis), given)
    assert expected.std() > 0.02
    torch.testing.assert_close(drawn, expected, atol=1e-4, rtol=0)


def test_rendered_heatmaps_are_those_of_the_network() -> None:
    """In double precision: on a line's steep flank a rounding error of a keypoint's place is large."""
    guidance = seeded(Guidance(**GUIDANCE["small"])).double()
    synthesis = seeded(Synthesis(**SYNTHESIS["small"])).double()
    given = Inputs(
        *(
            type(part)(*(v.double() if v.is_floating_point() else v for v in vars(part).values()))
            for part in inputs(synthesis)
        )
    )
    engine, plain = RenderEngine(guidance, synthesis, precision="exact"), PlainEngine(guidance, synthesis, CPU)
    expected = guided(plain, given)
    assert expected.heatmaps.std() > 0.02
    torch.testing.assert_close(guided(engine, given).heatmaps, expected.heatmaps, atol=1e-8, rtol=0)
    torch.testing.assert_close(guided(engine, given).keypoints, expected.keypoints, atol=1e-8, rtol=0)


@pytest.mark.slow
def test_exact_is_the_straight_form_at_the_released_size() -> None:
    guidance, synthesis = networks("released")
    given = inputs(synthesis, frames=1)
    expected = frame_by_frame(StraightForm(guidance, synthesis), given)
    torch.testing.assert_close(
        rendered(RenderEngine(guidance, synthesis, precision="exact"), given), expected, atol=1e-4, rtol=0
    )
    assert psnr_db(rendered(RenderEngine(guidance, synthesis, precision="fast"), given), expected) > 40


@needs_int8
@pytest.mark.parametrize("size", ["tiny", "small"])
def test_fast_is_near_exact_and_not_the_same(size: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Noise under seeded weights is harder for 8 bits than faces are (45 to 48 dB there, benchmarks/dub.py).
    monkeypatch.setattr(engine_module, "LEAST_PSNR_DB", 38.0)
    guidance, synthesis = networks(size)
    given = inputs(synthesis)
    engine = RenderEngine(guidance, synthesis)
    fast, exact = rendered(engine, given), rendered(RenderEngine(guidance, synthesis, precision="exact"), given)
    assert engine.precision == "fast"
    assert 38 < psnr_db(fast, exact) < 110


@needs_int8
def test_fast_is_given_up_where_it_is_too_far_off(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(engine_module, "LEAST_PSNR_DB", 1000.0)
    guidance, synthesis = networks("tiny")
    given = inputs(synthesis, frames=2)
    engine = RenderEngine(guidance, synthesis)
    with caplog.at_level(logging.WARNING):
        drawn = rendered(engine, given)
        rendered(engine, given)
    assert caplog.text.count("are rendered exactly") == 1  # said once
    assert torch.equal(drawn, rendered(RenderEngine(guidance, synthesis, precision="exact"), given))


def test_narrow_networks_are_fast_in_bfloat16_where_the_processor_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "bfloat16_is_fast", lambda: True)
    guidance, synthesis = networks("small", align_references=True)
    given, engine = inputs(synthesis, frames=2), RenderEngine(guidance, synthesis)
    assert engine.fast is not None
    assert engine.fast.inpainting.last.weight.dtype == torch.bfloat16
    drawn = rendered_with_flow(engine, given)
    exact = rendered_with_flow(RenderEngine(guidance, synthesis, precision="exact"), given)
    assert {answer.dtype for answer in vars(drawn).values()} == {torch.float32}
    assert 40 < psnr_db(drawn.faces, exact.faces) < 80
    assert (drawn.flow - exact.flow).abs().mean() < 0.1  # pixels


@pytest.mark.parametrize("settings", [{"align_references": False}, {"align_references": True, "width": 16}], ids=str)
def test_other_networks_are_not_drawn_in_bfloat16(settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "bfloat16_is_fast", lambda: True)
    monkeypatch.setattr(engine_module, "int8_is_fast", lambda: False)
    assert RenderEngine(*networks("small", **settings)).precision == "exact"


UNITS = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")


@pytest.mark.parametrize("unit", UNITS)
def test_bfloat16_is_fast_where_the_processor_has_either_unit(unit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in UNITS:
        monkeypatch.setattr(torch.cpu, name, lambda known=name == unit: known, raising=False)
    monkeypatch.setattr(torch.ops, "mkldnn", SimpleNamespace(_is_mkldnn_bf16_supported=lambda: True))
    assert bfloat16_is_fast()
    monkeypatch.setattr(torch.cpu, unit, lambda: False)
    assert not bfloat16_is_fast()


@pytest.mark.parametrize("gone", ["the units", "the operator"])
def test_bfloat16_is_not_fast_where_pytorch_does_not_say_so(gone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in UNITS:
        if gone == "the units":
            monkeypatch.delattr(torch.cpu, name, raising=False)
        else:
            monkeypatch.setattr(torch.cpu, name, lambda: True, raising=False)
    if gone == "the operator":
        monkeypatch.setattr(torch.ops, "mkldnn", object())
    assert not bfloat16_is_fast()


def test_without_fast_units_all_is_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "int8_is_fast", lambda: False)
    assert RenderEngine(*networks("tiny"), precision="fast").precision == "exact"


def test_shared_windows_are_embedded_once_and_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    guidance, synthesis = networks("tiny")
    given, engine = inputs(synthesis, frames=4), RenderEngine(guidance, synthesis, precision="exact")
    seen: list[int] = []
    encoder, engine.workers = engine.guidance.audio_encoder, None
    encoder.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    references, plain = engine.encode(given.references), PlainEngine(guidance, synthesis, CPU)
    together = engine.guide(given.frames, references).heatmaps
    one_by_one = [engine.guide(given.frames[i : i + 1], references).heatmaps for i in range(4)]
    assert seen == [8, 5, 5, 5, 5]  # one batch each
    torch.testing.assert_close(together, torch.cat(one_by_one), atol=1e-5, rtol=0)
    torch.testing.assert_close(together, guided(plain, given).heatmaps, atol=1e-5, rtol=0)


@pytest.mark.parametrize("align_references", [False, True])
@pytest.mark.parametrize("precision", ["exact", "fast"])
def test_frames_do_not_depend_on_their_block(precision: Precision, align_references: bool) -> None:
    guidance, synthesis = networks("tiny", align_references=align_references)
    given, engine = inputs(synthesis), RenderEngine(guidance, synthesis, precision=precision)
    alone = [rendered(engine, given.part(slice(i, i + 1))) for i in range(3)]
    assert psnr_db(rendered(engine, given), torch.cat(alone)) > (40 if engine.precision == "fast" else 100)


def test_each_frame_uses_the_references_chosen_for_it() -> None:
    guidance, synthesis = networks("tiny", align_references=True)
    given, engine = inputs(synthesis), RenderEngine(guidance, synthesis, precision="exact")
    count, (images, heatmaps) = synthesis.num_references, vars(given.references).values()
    more = torch.rand(1, 2, *images.shape[2:], generator=torch.Generator().manual_seed(2))
    pool = ReferenceInputs(torch.cat([images, more], 1), torch.cat([heatmaps, more[:, :, :1]], 1))
    chosen = torch.stack(
        [torch.randperm(count + 2, generator=torch.Generator().manual_seed(i))[:count] for i in range(3)]
    )
    picked = given._replace(references=pool, chosen=replace(given.chosen, numbers=chosen))
    found = rendered(engine, picked)
    predicted = guided(engine, given)  # guidance uses the first ones
    for i, mine in enumerate(chosen):
        alone = EngineReferences(torch.empty(0), (), ReferenceInputs(pool.images[:, mine], pool.heatmaps[:, mine]))
        part = slice(i, i + 1)
        expected = engine.render(given.frames[part], predicted[part], given.chosen[part], alone).faces
        torch.testing.assert_close(found[part], expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(found, rendered(PlainEngine(guidance, synthesis, CPU), picked), atol=1e-4, rtol=0)
    assert not torch.allclose(found, rendered(engine, given), atol=0.01)


def test_cores_render_side_by_side_what_one_renders() -> None:
    guidance, synthesis = networks("tiny")
    given, engine = inputs(synthesis, frames=9), RenderEngine(guidance, synthesis, precision="exact")
    engine.batch, engine.workers = 2, None
    alone = rendered(engine, given)
    with ThreadPoolExecutor(3) as engine.workers:
        torch.testing.assert_close(rendered(engine, given), alone, atol=1e-5, rtol=0)


@pytest.fixture(scope="module")
def exact_engine() -> RenderEngine:
    return RenderEngine(*networks("tiny"), precision="exact")


@pytest.mark.parametrize(
    ("frames", "expected"), [(1, [1]), (2, [1, 1]), (6, [3, 3]), (16, [8, 8]), (20, [5, 5, 5, 5]), (17, [5, 5, 5, 2])]
)
def test_two_cores_have_the_same_to_do(frames: int, expected: list[int], exact_engine: RenderEngine) -> None:
    engine, sizes = exact_engine, list[int]()

    def draw(rows: Tensor) -> Tensor:
        sizes.append(len(rows))
        return rows

    with ThreadPoolExecutor(2) as engine.workers:
        drawn = engine._batches(draw, 8, torch.arange(frames))
    assert drawn.tolist() == list(range(frames))
    assert sorted(sizes, reverse=True) == expected


def test_the_networks_given_stay_as_they_are() -> None:
    guidance, synthesis = networks("tiny")
    before = {name: value.clone() for name, value in synthesis.state_dict().items()}
    RenderEngine(guidance, synthesis)
    assert before.keys() == synthesis.state_dict().keys()
    assert all(torch.equal(before[name], value) for name, value in synthesis.state_dict().items())


def test_precision_is_one_of_two() -> None:
    with pytest.raises(ValueError, match='"exact" or "fast", got \'half\''):
        RenderEngine(*networks("tiny"), precision="half")  # type: ignore[arg-type]


def as_on_a_gpu(guidance: Guidance, synthesis: Synthesis, precision: Precision, record: Record) -> RenderEngine:
    """An engine that computes here what it computes on a GPU: recorded, and in bfloat16 where it is to be fast."""
    engine = RenderEngine(guidance, synthesis, precision="exact")
    engine.record, engine.batch, engine.guidance_batch = record, 4, 4
    engine.synthesis = for_inference(synthesis)
    engine.fast = in_bfloat16(engine.synthesis) if precision == "fast" else None
    return engine


@pytest.mark.slow
@pytest.mark.parametrize("align_references", [False, True])
def test_recorded_shots_of_any_length_are_rendered_as_ever(align_references: bool, recorded_plainly: Record) -> None:
    guidance, synthesis = networks("tiny", align_references)
    engine = as_on_a_gpu(guidance, synthesis, "exact", recorded_plainly)
    plain = RenderEngine(guidance, synthesis, precision="exact")
    shots = [inputs(synthesis, frames) for frames in (6, 3, 1)]
    shots[1] = mirrored(shots[1])
    for given in (*shots, shots[0]):
        torch.testing.assert_close(rendered(engine, given), rendered(plain, given), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("size", "align_references"), [("tiny", False), ("small", True)])
def test_bfloat16_is_near_float32(size: str, align_references: bool, recorded_plainly: Record) -> None:
    guidance, synthesis = networks(size, align_references)
    given, engine = inputs(synthesis, frames=2), as_on_a_gpu(guidance, synthesis, "fast", recorded_plainly)
    drawn = rendered(engine, given)
    assert drawn.dtype == torch.float32
    assert engine.precision == "fast"
    assert 40 < psnr_db(drawn, rendered(RenderEngine(guidance, synthesis, precision="exact"), given)) < 80


@pytest.mark.parametrize(
    ("size", "align_references", "heatmap_sigma"),
    [("tiny", False, 0.0), pytest.param("small", True, 1.0, marks=pytest.mark.slow)],
)
def test_what_is_recorded_never_waits_for_the_gpu(
    size: str, align_references: bool, heatmap_sigma: float, recorded_plainly: Record, pretend_gpu: Any
) -> None:
    guidance = seeded(Guidance(**{**GUIDANCE[size], "heatmap_sigma": heatmap_sigma}))
    synthesis = seeded(Synthesis(**{**SYNTHESIS[size], "align_references": align_references}))
    engine, given = as_on_a_gpu(guidance, synthesis, "fast", recorded_plainly), inputs(synthesis)
    for network in (engine.guidance, engine.synthesis, engine.fast):
        pretend_gpu.move(network)

    def embedded(embed: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
        found: Tensor = pretend_gpu.run(embed, rows.flatten(0, 1))
        return found.unflatten(0, rows.shape[:2])

    frames = given.frames
    images, heatmaps = (maps.expand(3, -1, -1, -1, -1) for maps in (given.references.images, given.references.heatmaps))
    tokens = pretend_gpu.run(engine.guidance.embed_references, heatmaps[:1])
    masked = embedded(engine.guidance.embed_masked, frames.masked_heatmaps)
    audio = embedded(engine.guidance.embed_audio, frames.audio)
    given_once = masked, audio, frames.masked_heatmaps[:, 2]
    joined = pretend_gpu.run(engine._guided, *given_once, tokens)
    heatmap = Guided.split(joined).heatmaps
    references = images, heatmaps, given.chosen.theta
    if not align_references:
        references = pretend_gpu.run(engine.synthesis.encode_references, images[:1], heatmaps[:1]).tensors()
    for render in (engine._exact_face, engine._fast_face):
        joined = pretend_gpu.run(render, frames.masked_faces, heatmap, frames.audio[:, 2], *references)
        assert (joined.device.type, joined.dtype) == ("cuda", torch.float32)
        assert Rendered.split(joined).faces.shape == frames.masked_faces.shape


@pytest.mark.parametrize(
    "waits",
    [
        pytest.param(lambda x: x[:, [0, 2]], id="places listed in Python"),
        pytest.param(lambda x: x + torch.ones(3), id="a constant of the processor"),
        pytest.param(lambda x: x[x > 0], id="a length that values decide"),
        pytest.param(lambda x: x * float(x.max()), id="a value"),
    ],
)
def test_waiting_for_the_gpu_would_be_seen(waits: Callable[[Tensor], Tensor], pretend_gpu: Any) -> None:
    with pytest.raises((AssertionError, RuntimeError, NotImplementedError)):
        pretend_gpu.run(waits, torch.randn(3, 3))


@pytest.mark.gpu
@pytest.mark.parametrize("align_references", [False, True])
@pytest.mark.parametrize("size", ["tiny", "small"])
def test_on_a_gpu(size: str, align_references: bool, caplog: pytest.LogCaptureFixture) -> None:
    guidance, synthesis = networks(size, align_references)
    shots = [inputs(synthesis, frames) for frames in (40, 3, 1)]
    shots[1] = mirrored(shots[1])
    here = RenderEngine(guidance, synthesis, precision="exact")
    fast = RenderEngine(guidance, synthesis, device="cuda")
    exact = RenderEngine(guidance, synthesis, precision="exact", device="cuda")
    with caplog.at_level(logging.WARNING):
        for given in (*shots, shots[0]):
            expected, drawn = rendered(here, given), rendered(fast, given)
            assert (drawn.device.type, drawn.dtype) == ("cuda", torch.float32)
            assert psnr_db(drawn.cpu(), expected) > 40
            torch.testing.assert_close(rendered(exact, given).cpu(), expected, atol=1e-4, rtol=0)
    assert fast.precision == "fast"
    assert not caplog.records  # all was recorded


def test_cores_that_render_take_the_smallest_numbers_as_zero() -> None:
    workers = engine_module._workers(torch.get_num_threads())
    assert float(workers.submit(lambda: torch.tensor([1e-39]) * 1).result()) == 0
    assert workers.submit(torch.get_num_threads).result() == 1
    assert float(torch.tensor([1e-39]) * 1) > 0  # this thread's own setting stays
