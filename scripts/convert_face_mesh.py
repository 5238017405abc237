"""Make the networks of `stsa_lightning/assets/face_mesh` again from those in MediaPipe's wheel.

    pip install mediapipe==0.10.21 onnx        # in an environment of its own: it needs numpy below 2
    python scripts/convert_face_mesh.py [--out FOLDER]

The TensorFlow Lite graphs become plain ONNX (opset 16) for batches of any size:

- pictures come in as uint8, and scaling them belongs to the graph;
- channels lie before rows and columns, as ONNX wants them;
- the three custom operators of the attention mesh are written out in ONNX's own;
- PReLU is written as `a x + (1 - a) relu(x)` in 1 x 1 depthwise convolutions, which ONNX Runtime keeps in its blocked
  layout: a quarter less time than with its own;
- branches of one build (lips, eyes, irises) run side by side in grouped convolutions: another fifth less;
- refined lips and eyes are put in their places among the mesh's points, with the irises behind them: 478 in all;
- weights stay the 16-bit numbers that they are in MediaPipe's files, so nothing is rounded.
"""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from flatbuffers import flexbuffers
from mediapipe.tasks.metadata import schema_py_generated as tflite
from onnx import TensorProto, helper, numpy_helper

ASSETS = Path(__file__).resolve().parents[1] / "stsa_lightning" / "assets" / "face_mesh"
OPSET = 16  # the first with GridSample
POINTS = 468  # of the mesh, before the irises

_OPERATORS = {code: name for name, code in vars(tflite.BuiltinOperator).items() if not name.startswith("_")}
_DTYPES = {tflite.TensorType.FLOAT32: np.float32, tflite.TensorType.FLOAT16: np.float16}
_DTYPES[tflite.TensorType.INT32] = np.int32
_SIDE_BY_SIDE = ("CONV_2D", "DEPTHWISE_CONV_2D", "MAX_POOL_2D", "PRELU", "ADD", "PAD")
_SIDE_BY_SIDE += ("Landmarks2TransformMatrix", "TransformTensorBilinear")


class OnnxGraph:
    """ONNX nodes and constants as they are added; what was added before is not added again."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self._names: dict[Any, str] = {}

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Add a node with one output and return the output's name."""
        key = (operator, inputs, str(attributes))
        if key not in self._names:
            self._names[key] = f"{operator}_{len(self.nodes)}"
            self.nodes.append(helper.make_node(operator, inputs, [self._names[key]], **attributes))
        return self._names[key]

    def constant(self, values: Any, dtype: type = np.float32) -> str:
        array = np.ascontiguousarray(np.asarray(values, dtype))
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._names:
            self._names[key] = f"constant_{len(self.constants)}"
            self.constants.append(numpy_helper.from_array(array, self._names[key]))
        return self._names[key]

    def integers(self, *values: int) -> str:
        return self.constant(values, np.int64)

    def weights(self, values: np.ndarray) -> str:
        """A constant that is kept in 16 bits where these hold it exactly."""
        if (values.astype(np.float16).astype(np.float32) == values).all():
            return self.add("Cast", self.constant(values, np.float16), to=TensorProto.FLOAT)
        return self.constant(values)

    def split(self, tensor: str, axis: int, places: Sequence[int]) -> list[str]:
        """Single slices of a tensor, with the axis kept."""
        return [self.add("Gather", tensor, self.integers(place), axis=axis) for place in places]


class Converter:
    """Converts the operators of a TensorFlow Lite graph into `graph`.

    Tensors with rows and columns lie as (n, C, H, W) there; all others as they do in TensorFlow Lite. Operators side by
    side in branches of one build become one, whose tensors hold those of the branches one after another: most of the
    time of these small networks goes into calling operators.
    """

    def __init__(self, path: Path) -> None:
        self.model = tflite.ModelT.InitFromObj(tflite.Model.GetRootAsModel(path.read_bytes(), 0))
        self.source = self.model.subgraphs[0]
        self.graph = OnnxGraph()
        self._widened: dict[int, np.ndarray] = {}  # constants of 16 bits as those of 32 that operators ask for
        self._held: dict[int, tuple[str, int]] = {}  # which of the graph's tensors holds one, and its place there
        self._parts: dict[str, int] = {}  # that a tensor of the graph holds

    def run(self, scale: float, offset: float) -> None:
        """Convert all operators, for pictures (n, H, W, 3) uint8 times `scale` plus `offset`."""
        graph = self.graph
        picture = graph.add("Transpose", graph.add("Cast", "image", to=TensorProto.FLOAT), perm=[0, 3, 1, 2])
        picture = graph.add("Mul", picture, graph.constant(scale))
        if offset:
            picture = graph.add("Add", picture, graph.constant(offset))
        self._keep([self.source.inputs[0]], picture)
        for kind, group in self._groups():
            handler: Callable[[list[Any]], str] | None = getattr(self, f"_{kind.lower()}", None)
            if handler is None:
                raise SystemExit(f"{kind}: no conversion of this operator")
            if getattr(group[0].builtinOptions, "fusedActivationFunction", 0):
                raise SystemExit(f"{kind}: no conversion of an activation within it")
            self._keep([operator.outputs[0] for operator in group], handler(group))

    def _keep(self, tensors: list[int], name: str) -> None:
        self._parts[name] = len(tensors)
        self._held.update({tensor: (name, place) for place, tensor in enumerate(tensors)})

    def _groups(self) -> list[tuple[str, list[Any]]]:
        """Operators in an order in which they can run, those that become one together."""
        depths: dict[int, int] = {}  # of tensors: operators before them
        groups: dict[tuple[int, str, str], list[Any]] = {}
        for operator in self.source.operators:
            code = self.model.operatorCodes[operator.opcodeIndex]
            kind = _OPERATORS[max(code.builtinCode, code.deprecatedBuiltinCode)]
            kind = code.customCode.decode() if kind == "CUSTOM" else kind
            if kind == "DEQUANTIZE":
                self._widened[operator.outputs[0]] = self.value(operator.inputs[0]).astype(np.float32)
                continue
            depth = depths[operator.outputs[0]] = 1 + max(depths.get(tensor, 0) for tensor in operator.inputs)
            shapes = [self.shape(tensor) for tensor in (*operator.inputs, *operator.outputs)]
            same = str((shapes, vars(operator.builtinOptions) if operator.builtinOptions else None))
            groups.setdefault((depth, kind, same if kind in _SIDE_BY_SIDE else str(operator.outputs)), []).append(
                operator
            )
        return [(kind, group) for (_, kind, _), group in sorted(groups.items(), key=lambda item: item[0][0])]

    def tensors(self, group: list[Any], place: int = 0) -> str:
        """The inputs at a place of operators that become one."""
        return self.together([operator.inputs[place] for operator in group])

    def together(self, tensors: list[int]) -> str:
        """Tensors of the source as one."""
        (name,) = {self._held[tensor][0] for tensor in tensors}
        places = [self._held[tensor][1] for tensor in tensors]
        if places == list(range(self._parts[name])):
            return name
        shape = self.shape(tensors[0])
        count = shape[3] if len(shape) == 4 else 1
        channels = [place * count + channel for place in places for channel in range(count)]
        return self.graph.add("Gather", name, self.graph.integers(*channels), axis=1)

    def output(self, name: str) -> str:
        """The tensor of one of the graph's outputs."""
        return self.together([i for i in self.source.outputs if self.source.tensors[i].name.decode() == name])

    def options(self, custom: str) -> list[dict[str, Any]]:
        """The options of each operator of a custom kind."""
        codes = [code.customCode for code in self.model.operatorCodes]
        found = [op for op in self.source.operators if codes[op.opcodeIndex] == custom.encode()]
        return [self._custom(op) for op in found]

    def shape(self, tensor: int) -> list[int]:
        return [int(side) for side in self.source.tensors[tensor].shape]

    def value(self, tensor: int) -> np.ndarray:
        """A constant."""
        if tensor in self._widened:
            return self._widened[tensor]
        found = self.source.tensors[tensor]
        data = bytes(bytearray(self.model.buffers[found.buffer].data))
        return np.frombuffer(data, _DTYPES[found.type]).reshape(self.shape(tensor))

    def values(self, group: list[Any], place: int) -> list[np.ndarray]:
        """The constants at a place of operators that become one."""
        return [self.value(operator.inputs[place]) for operator in group]

    @staticmethod
    def _custom(operator: Any) -> dict[str, Any]:
        return flexbuffers.Loads(bytes(bytearray(operator.customOptions)))

    # ---- operators: each takes those that become one and gives the name of the result

    def _conv_2d(self, group: list[Any]) -> str:
        kernels = [kernel.transpose(0, 3, 1, 2) for kernel in self.values(group, 1)]
        return self._convolve(group, np.concatenate(kernels), len(group))

    def _depthwise_conv_2d(self, group: list[Any]) -> str:
        kernels = [kernel[0].transpose(2, 0, 1)[:, None] for kernel in self.values(group, 1)]
        return self._convolve(group, np.concatenate(kernels), sum(map(len, kernels)))

    def _convolve(self, group: list[Any], kernel: np.ndarray, parts: int) -> str:
        weights = [self.graph.weights(kernel), self.graph.weights(np.concatenate(self.values(group, 2)))]
        geometry = self._geometry(group[0], kernel.shape[2:])
        return self.graph.add("Conv", self.tensors(group), *weights, group=parts, **geometry)

    def _max_pool_2d(self, group: list[Any]) -> str:
        options = group[0].builtinOptions
        sides = [options.filterHeight, options.filterWidth]
        return self.graph.add("MaxPool", self.tensors(group), kernel_shape=sides, **self._geometry(group[0], sides))

    def _geometry(self, operator: Any, sides: Sequence[int]) -> dict[str, list[int]]:
        """Strides and pads of a window of these sides."""
        options = operator.builtinOptions
        strides, missing = [options.strideH, options.strideW], [0, 0]
        if options.padding == tflite.Padding.SAME:
            missing = [
                max((-(-length // stride) - 1) * stride + side - length, 0)
                for length, side, stride in zip(self.shape(operator.inputs[0])[1:3], sides, strides, strict=True)
            ]
        return {"strides": strides, "pads": [n // 2 for n in missing] + [n - n // 2 for n in missing]}

    def _prelu(self, group: list[Any]) -> str:
        graph, x = self.graph, self.tensors(group)
        slope = np.concatenate([value.reshape(-1, 1, 1, 1) for value in self.values(group, 1)])

        def scaled(tensor: str, factors: np.ndarray) -> str:
            return graph.add("Conv", tensor, graph.weights(factors), group=len(slope))

        if (slope <= 1).all():  # the same, but ONNX Runtime makes it one operator
            positive = graph.add("Relu", scaled(x, 1 - slope))
        else:
            positive = scaled(graph.add("Relu", x), 1 - slope)
        return graph.add("Add", positive, scaled(x, slope))

    def _relu(self, group: list[Any]) -> str:
        return self.graph.add("Relu", self.tensors(group))

    def _add(self, group: list[Any]) -> str:
        return self.graph.add("Add", self.tensors(group, 0), self.tensors(group, 1))

    def _pad(self, group: list[Any]) -> str:
        """Channels of zeros behind the others, by a convolution, which keeps ONNX Runtime's layout."""
        before, after = self.shape(group[0].inputs[0])[3], self.shape(group[0].outputs[0])[3]
        kernel = np.concatenate([np.eye(after, before, dtype=np.float32)] * len(group))[..., None, None]
        return self.graph.add("Conv", self.tensors(group), self.graph.weights(kernel), group=len(group))

    def _reshape(self, group: list[Any]) -> str:
        source = self.tensors(group)
        if len(self.shape(group[0].inputs[0])) == 4:
            source = self.graph.add("Transpose", source, perm=[0, 2, 3, 1])
        sides = self.graph.integers(0, *self.shape(group[0].outputs[0])[1:])  # 0: as many pictures as there are
        return self.graph.add("Reshape", source, sides)

    def _concatenation(self, group: list[Any]) -> str:
        (operator,) = group
        return self.graph.add("Concat", *(self.together([tensor]) for tensor in operator.inputs), axis=1)

    def _strided_slice(self, group: list[Any]) -> str:
        """The one in the mesh takes all of its input."""
        return self.graph.add("Identity", self.tensors(group))

    def _mul(self, group: list[Any]) -> str:
        (factor,) = self.values(group, 1)
        if factor.shape == (1, 4, 4):
            factor = factor[:, None, :2, [0, 1, 3]]  # of affine maps of the plane
        return self.graph.add("Mul", self.tensors(group), self.graph.constant(factor))

    def _landmarks2transformmatrix(self, group: list[Any]) -> str:
        """(n, 468, 3) points -> (n, parts, 2, 3) maps from pixels of parts' turned, enlarged boxes to the mesh's."""
        graph, parts = self.graph, [self._custom(operator) for operator in group]
        (points,) = {self.together([operator.inputs[0]]) for operator in group}  # the same for all parts
        width, height = parts[0]["output_width"], parts[0]["output_height"]
        plus, minus, times = (partial(graph.add, name) for name in ("Add", "Sub", "Mul"))

        def gathered(ids: list[list[int]]) -> list[str]:
            """x and y (n, parts, points, 1) of the mesh's points (parts, points)."""
            chosen = graph.add("Gather", points, graph.constant(ids, np.int64), axis=1)
            return graph.split(chosen, 3, [0, 1])

        left, right = ([[part[f"{side}_rotation_idx"]] for part in parts] for side in ("left", "right"))
        dx, dy = (minus(b, a) for a, b in zip(gathered(left), gathered(right), strict=True))
        length = graph.add("Sqrt", plus(times(dx, dx), times(dy, dy)))
        cos, sin = graph.add("Div", dx, length), graph.add("Neg", graph.add("Div", dy, length))
        longest = max(len(part["subset_idxs"]) for part in parts)
        x, y = gathered([(part["subset_idxs"] * 2)[:longest] for part in parts])
        turned = minus(times(cos, x), times(sin, y)), plus(times(sin, x), times(cos, y))
        high = [graph.add("ReduceMax", values, axes=[2], keepdims=1) for values in turned]
        low = [graph.add("ReduceMin", values, axes=[2], keepdims=1) for values in turned]
        middle_x, middle_y = (times(plus(a, b), graph.constant(0.5)) for a, b in zip(high, low, strict=True))
        scales = parts[0]["scale_x"] / width, parts[0]["scale_y"] / height
        unit_x, unit_y = (
            times(minus(a, b), graph.constant(scale)) for a, b, scale in zip(high, low, scales, strict=True)
        )
        xx, xy = times(cos, unit_x), times(sin, unit_y)
        yx, yy = graph.add("Neg", times(sin, unit_x)), times(cos, unit_y)
        centre_x = plus(times(cos, middle_x), times(sin, middle_y))
        centre_y = minus(times(cos, middle_y), times(sin, middle_x))
        across, down = graph.constant(width / 2), graph.constant(height / 2)
        rows = []
        for to_x, to_y, centre in ((xx, xy, centre_x), (yx, yy, centre_y)):
            corner = plus(times(to_x, across), times(to_y, down))
            rows.append(graph.add("Concat", to_x, to_y, minus(centre, corner), axis=3))
        return graph.add("Concat", *rows, axis=2)

    def _transformtensorbilinear(self, group: list[Any]) -> str:
        """(n, C, H, W) and (n, parts, 2, 3) -> (n, parts C, h, w): what the maps show of the one picture."""
        graph, options, count = self.graph, self._custom(group[0]), len(group)
        picture, matrices = self.together([group[0].inputs[0]]), self.tensors(group, 1)
        _, in_height, in_width, channels = self.shape(group[0].inputs[0])
        width, height = options["output_width"], options["output_height"]
        y, x = np.mgrid[:height, :width].reshape(2, -1) + 0.5
        places = graph.add("MatMul", matrices, graph.constant(np.stack([x, y, np.ones_like(x)])))
        places = graph.add("Transpose", places, perm=[0, 1, 3, 2])
        places = graph.add("Mul", places, graph.constant([2 / in_width, 2 / in_height]))
        places = graph.add("Sub", places, graph.constant(1))
        grid = graph.add("Reshape", places, graph.integers(0, count * height, width, 2))
        shown = graph.add("GridSample", picture, grid, mode="bilinear", align_corners=0)
        shown = graph.add("Reshape", shown, graph.integers(0, channels, count, height * width))
        shown = graph.add("Transpose", shown, perm=[0, 2, 1, 3])
        return graph.add("Reshape", shown, graph.integers(0, count * channels, height, width))

    def _transformlandmarks(self, group: list[Any]) -> str:
        """(n, P, 2) points through (n, 1, 2, 3) maps."""
        graph = self.graph
        points, matrix = self.tensors(group, 0), self.tensors(group, 1)
        matrix = graph.add("Transpose", graph.add("Reshape", matrix, graph.integers(0, 2, 3)), perm=[0, 2, 1])
        turning = graph.add("Gather", matrix, graph.integers(0, 1), axis=1)
        shift = graph.add("Gather", matrix, graph.integers(2), axis=1)
        return graph.add("Add", graph.add("MatMul", points, turning), shift)


def face_mesh(path: Path) -> onnx.ModelProto:
    """`image` (n, 192, 192, 3) uint8 -> `landmarks` (n, 478, 2) in its pixels, `score` (n,), 0 to 1, of a face."""
    converter = Converter(path)
    converter.run(scale=1 / 255, offset=0)
    graph = converter.graph
    mesh = graph.add("Reshape", converter.output("output_mesh_identity"), graph.integers(0, POINTS, 3))
    mesh = graph.add("Gather", mesh, graph.integers(0, 1), axis=2)
    parts = ("output_lips", "output_left_eye", "output_right_eye", "output_left_iris", "output_right_iris")
    refined = [graph.add("Reshape", converter.output(part), graph.integers(0, -1, 2)) for part in parts]
    every = graph.add("Concat", mesh, *refined, axis=1)
    # The networks of a part answer for the points that its box is drawn around, in that order.
    places = [i for options in converter.options("Landmarks2TransformMatrix") for i in options["subset_idxs"]]
    order = np.arange(POINTS + 10)
    order[POINTS:] += len(places)
    order[places] = POINTS + np.arange(len(places))
    landmarks = graph.add("Gather", every, graph.integers(*order), axis=1)
    score = graph.add("Sigmoid", graph.add("Reshape", converter.output("conv_faceflag"), graph.integers(-1)))
    outputs = {"landmarks": (landmarks, ["n", POINTS + 10, 2]), "score": (score, ["n"])}
    return model(converter, [192, 192, 3], outputs)


def face_detector(path: Path) -> onnx.ModelProto:
    """`image` (n, 128, 128, 3) uint8 -> `boxes` (n, 896, 16) relative to anchors, `logits` (n, 896)."""
    converter = Converter(path)
    converter.run(scale=1 / 127.5, offset=-1)
    graph = converter.graph
    logits = graph.add("Reshape", converter.output("classificators"), graph.integers(0, -1))
    outputs = {"boxes": (converter.output("regressors"), ["n", 896, 16]), "logits": (logits, ["n", 896])}
    return model(converter, [128, 128, 3], outputs)


def model(converter: Converter, image: list[int], outputs: dict[str, tuple[str, list[Any]]]) -> onnx.ModelProto:
    """A checked model with the input `image` and outputs, each a tensor of the graph and its shape."""
    graph = converter.graph
    nodes = [*graph.nodes, *(helper.make_node("Identity", [made], [name]) for name, (made, _) in outputs.items())]
    made = helper.make_model(
        helper.make_graph(
            nodes,
            converter.model.description.decode(),
            [helper.make_tensor_value_info("image", TensorProto.UINT8, ["n", *image])],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, (_, shape) in outputs.items()],
            graph.constants,
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=8,
        producer_name="convert_face_mesh.py",
    )
    onnx.checker.check_model(made, full_check=True)
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ASSETS, help="folder for the two files (%(default)s)")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    modules = Path(importlib.util.find_spec("mediapipe").origin).parent / "modules"  # type: ignore[union-attr, arg-type]
    mesh, detector = (
        "face_landmark/face_landmark_with_attention.tflite",
        "face_detection/face_detection_short_range.tflite",
    )
    onnx.save(face_mesh(modules / mesh), out / "face_mesh.onnx")
    onnx.save(face_detector(modules / detector), out / "face_detector.onnx")


if __name__ == "__main__":
    main()
