"""PyTorch's files of tensors, read without running anything that they hold, and networks to put them into."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from stsa_lightning.utils.errors import UserError

# What PyTorch says of a pickle that names a function or class it does not know to be harmless.
_NAMED = re.compile(r"GLOBAL ([\w.]+)")


class TensorFileError(UserError):
    """A file that is no file of tensors, is damaged, or would run code."""


def load_tensors(path: str | Path) -> Any:
    """What a `.pth` or `.ckpt` file holds, on the CPU: tensors, numbers, words, and lists and dictionaries of them.

    A pickle is a program. Here it can build these and call nothing.

    Raises:
        FileNotFoundError: no such file.
        TensorFileError: the file cannot be read, or asks for more; the message says which and what to do.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the refusal below says it all
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise TensorFileError(f"{path}: cannot be opened ({error.strerror or error})") from error
    except Exception as error:  # bytes that are no pickle end in errors of any kind
        # PyTorch's own message advises to read the file with its code; it stays out of sight.
        raise TensorFileError(f"{path}: {refusal(str(error))}") from error


def refusal(message: str) -> str:
    """What to tell people of PyTorch's message about a file that it did not read."""
    if named := _NAMED.search(message):
        return (
            f"refused, for reading it would call {named[1]}. Weights are tensors and need to call nothing; nothing in "
            "the file was run. Do not use a file from a source that you do not trust; from one that you do, ask for "
            "its `state_dict` alone"
        )
    if "legacy .tar" in message:
        return (
            "refused: PyTorch's format of before 2017 (.tar) can only be read by running what it holds, and nothing "
            "in the file was run. Have it saved again by a newer PyTorch"
        )
    if "TorchScript" in message:
        return "refused: a TorchScript program, not weights. Nothing in it was run; give the weights' file"
    return (
        "cannot be read as a PyTorch file of tensors: another kind of file, or cut short or damaged. Nothing in it was "
        "run; copy or download it again"
    )


class uninitialised(TorchFunctionMode):  # noqa: N801
    """Networks built inside have whatever lies in memory for weights: for those that are filled from a file at once.

    On the meta device, made for this, PyTorch loads its compiler to work out what shapes random numbers would have: two
    seconds before the first frame of a dub.

    Args:
        holding: number of weights that the file holds; a network that asks for far more raises `ValueError` before it
            gets them.
    """

    def __init__(self, holding: int | None = None) -> None:
        super().__init__()
        # Twice, for a layer that others are copied from is made too.
        self._room = None if holding is None else 2 * holding

    def _take(self, count: int) -> None:
        if self._room is not None:
            self._room -= count
            if self._room < 0:
                raise ValueError("they ask for more weights than the file holds")

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.empty:
            size = kwargs["size"] if "size" in kwargs else args[0] if len(args) == 1 else args
            self._take(math.prod(size) if isinstance(size, (tuple, list)) else size)
        elif func is Tensor.clone:  # layers that are copies of one another
            self._take(args[0].numel())
        if getattr(func, "__module__", None) == "torch.nn.init" or func in (Tensor.uniform_, Tensor.normal_):
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


def load_entries(network: nn.Module, path: Path, prefix: str = "", *, alone: bool = False) -> None:
    """Fill a network, `uninitialised` or not, with the entries `prefix + its own keys` of a state dict's file.

    Batch counters may be absent: old files have none, and they decide nothing.

    Args:
        alone: whether the file may hold no others.

    Raises:
        TensorFileError: as `load_tensors`; the file lacks an entry, one has another shape, or there are others.
    """
    state = load_tensors(path)
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise TensorFileError(f"{path}: expected a state dict of tensors, found {type(state).__name__}: another file?")
    wanted, chosen = network.state_dict(), {}
    missing = [key for key in wanted if prefix + key not in state and not key.endswith("num_batches_tracked")]
    if missing:
        raise TensorFileError(
            f"{path} lacks {len(missing)} of {len(wanted)} entries, the first {prefix}{missing[0]}: "
            f"another network, or a damaged file?"
        )
    others = [key for key in state if key.removeprefix(prefix) not in wanted] if alone else []
    if others:
        raise TensorFileError(f"{path} has {len(others)} other entries, the first {others[0]}: another network?")
    for key, value in wanted.items():
        chosen[key] = state.get(prefix + key, torch.tensor(0))
        if chosen[key].shape != value.shape:
            found, expected = tuple(chosen[key].shape), tuple(value.shape)
            raise TensorFileError(f"{path}: {prefix}{key} has shape {found}, expected {expected}: another network?")
    network.load_state_dict(chosen, assign=True)
