"""ONNX Runtime, in which the networks that come with the package as ONNX files run."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from stsa_lightning.utils.errors import required

if TYPE_CHECKING:
    from onnxruntime import InferenceSession


@cache
def onnx_session(path: Path, threads: int = 1) -> InferenceSession:
    """A session on the CPU; the same file is loaded once in a process, and may be run from several threads.

    Args:
        path: an `.onnx` or `.ort` file.
        threads: for each operator. One by default: the networks are small, and the other cores have work.

    Raises:
        MissingPackageError: ONNX Runtime is not installed.
    """
    # Since 1.29 its builds report to Microsoft from the moment of their import, on Linux too: they look up a server,
    # and keep a device's and a session's number in the cache and in the temporary directory. This is read at import;
    # `disable_telemetry_events` comes too late for the first report, and stops neither the look-up nor the files.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    hint = "pip install onnxruntime (training on a prepared corpus does without)"
    onnxruntime = required("onnxruntime", f"{path.name} needs ONNX Runtime: {hint}")
    onnxruntime.disable_telemetry_events()  # Windows, which does not read the variable
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
