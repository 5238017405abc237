"""A pickle is a program: none is run, whatever its form and wherever in it the call hides."""

from __future__ import annotations

import io
import os
import pickle
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stsa_lightning.cli import main
from stsa_lightning.models import BUNDLED
from stsa_lightning.models.checkpoint import load_networks
from stsa_lightning.models.convert_released import import_released
from stsa_lightning.utils.errors import UserError
from stsa_lightning.utils.safe_load import TensorFileError, load_tensors, uninitialised


class Call:
    """Pickled as a call of `function`."""

    def __init__(self, function: Callable, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Callable, tuple]:
        return self.function, self.arguments


def save_tar(value: Any, path: Path) -> None:
    """The form of PyTorch 0.1: pickles in a tar file."""
    with tarfile.open(path, "w") as archive:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            content = pickle.dumps(value, protocol=2)
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))


FORMS: dict[str, Callable[[Any, Path], object]] = {
    "zip": torch.save,
    "legacy": lambda value, path: torch.save(value, path, _use_new_zipfile_serialization=False),
    "tar": save_tar,
    "bare": lambda value, path: path.write_bytes(pickle.dumps(value, protocol=2)),
    "bare, new protocol": lambda value, path: path.write_bytes(pickle.dumps(value)),
}
PLACES: dict[str, Callable[[Call], Any]] = {
    "alone": lambda call: call,
    "among tensors": lambda call: {"state_dict": {"a": torch.zeros(2), "b": call}},
    "deep": lambda call: {"networks": {"guidance": [{"x": (1, {"y": call})}]}, "state_dict": {"a": torch.zeros(2)}},
    "as a key": lambda call: {"state_dict": {call: torch.zeros(2)}},
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("form", FORMS)
def test_a_hostile_pickle_is_refused_and_not_run(form: str, place: str, tmp_path: Path) -> None:
    trace, path = tmp_path / "trace", tmp_path / "hostile.ckpt"
    for call in (
        Call(os.system, f"touch {trace}"),
        Call(eval, f"open({str(trace)!r}, 'w')"),
        Call(os.mkdir, str(trace)),
    ):
        FORMS[form](PLACES[place](call), path)
        with pytest.raises(TensorFileError, match=r"hostile\.ckpt: .*[Nn]othing in (the file|it) was run") as refusal:
            load_tensors(path)
        with pytest.raises(TensorFileError):
            load_networks(path)
        with pytest.raises(TensorFileError):
            import_released(path, path, tmp_path / "out.safetensors")
        assert "weights_only" not in str(refusal.value)  # no advice to read it with its code
        assert sorted(tmp_path.iterdir()) == [path]


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:FutureWarning")
def test_the_function_that_would_have_been_called_is_named(tmp_path: Path) -> None:
    for form in ("zip", "legacy", "bare"):
        FORMS[form]({"state_dict": Call(os.system, "true")}, tmp_path / "a.pth")
        with pytest.raises(
            TensorFileError, match=rf"refused, for reading it would call {os.system.__module__}\.system"
        ):
            load_tensors(tmp_path / "a.pth")
    save_tar({}, tmp_path / "a.pth")
    with pytest.raises(TensorFileError, match=r"refused: PyTorch's format of before 2017 \(\.tar\)"):
        load_tensors(tmp_path / "a.pth")
    torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)), tmp_path / "a.pth")
    with pytest.raises(TensorFileError, match="refused: a TorchScript program"):
        load_tensors(tmp_path / "a.pth")


@pytest.mark.parametrize(
    "words",
    [
        ["dub", "v.mp4", "s.wav", "-o", "o.mp4", "--checkpoint"],
        ["weights", "import"],
        ["fit", "--data.root", "nowhere", "--ckpt_path"],
    ],
)
def test_the_commands_refuse_in_one_line(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    trace, path = tmp_path / "trace", tmp_path / "hostile.pth"
    torch.save({"state_dict": {"a": Call(os.system, f"touch {trace}")}}, path)
    more = [str(path), "-o", str(tmp_path / "o.safetensors")] if words[0] == "weights" else []
    with pytest.raises(SystemExit) as end:
        main([*words, str(path), *more])
    assert end.value.code == 2
    told = capsys.readouterr().err
    assert "refused, for reading it would call" in told
    assert "Traceback" not in told
    assert list(tmp_path.iterdir()) == [path]


def test_bytes_of_any_kind_are_refused_in_words(tmp_path: Path) -> None:
    path, rng = tmp_path / "noise.pth", np.random.default_rng(0)
    torch.save({"state_dict": {"a": torch.arange(50.0)}}, path)
    good = path.read_bytes()
    torch.save({"state_dict": {"a": torch.arange(50.0)}}, path, _use_new_zipfile_serialization=False)
    damaged = [b"", b"<html>404</html>", good[:300], path.read_bytes()[:300]]
    damaged += [rng.bytes(int(size)) for size in rng.integers(1, 400, 60)]
    damaged += [pickle.PROTO + b"\x02" + rng.bytes(40) for _ in range(60)]
    for content in damaged:
        path.write_bytes(content)
        with pytest.raises(TensorFileError, match=r"noise\.pth: (cannot be read as a PyTorch file|refused)"):
            load_tensors(path)


def test_what_is_plain_comes_through(tmp_path: Path) -> None:
    for form in ("zip", "legacy"):
        FORMS[form]({"state_dict": {"a": torch.arange(3)}, "step": 7, "names": ["x", None, 0.5]}, tmp_path / "a.pth")
        stored = load_tensors(tmp_path / "a.pth")
        assert stored["state_dict"]["a"].tolist() == [0, 1, 2]
        assert (stored["step"], stored["names"]) == (7, ["x", None, 0.5])
    with pytest.raises(FileNotFoundError, match=r"absent\.pth: no such file"):
        load_tensors(tmp_path / "absent.pth")


@pytest.mark.parametrize(
    "value", [5, {"networks": None, "state_dict": {}}, {"networks": {"guidance": 1}, "state_dict": {}}]
)
def test_a_checkpoint_of_something_else(value: Any, tmp_path: Path) -> None:
    torch.save(value, tmp_path / "a.ckpt")
    with pytest.raises(UserError, match=r"a\.ckpt: (expected a \.safetensors export|it does not say how)"):
        load_networks(tmp_path / "a.ckpt")


def test_the_program_reads_no_code_even_through_libraries(tmp_path: Path) -> None:
    """Libraries that ask PyTorch for more than tensors do not get it inside of the program."""
    trace, path = tmp_path / "trace", tmp_path / "hostile.pth"
    torch.save(Call(os.system, f"touch {trace}"), path)
    code = (
        "import sys, torch\nfrom stsa_lightning.cli import main\n"
        "try: main(['--version'])\nexcept SystemExit: pass\n"
        f"torch.load({str(path)!r}, weights_only=False)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "UnpicklingError" in done.stderr
    assert not trace.exists()


def test_networks_to_be_filled_cost_no_random_numbers() -> None:
    before = torch.random.get_rng_state()
    with uninitialised():
        network = torch.nn.TransformerEncoderLayer(8, 2)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert {p.device.type for p in network.parameters()} == {"cpu"}
    again = torch.nn.Linear(4, 4)  # outside, all is as ever
    assert not torch.equal(torch.random.get_rng_state(), before)
    assert again.weight.std() > 0


@pytest.mark.slow
def test_reading_networks_does_not_wait_for_pytorchs_compiler() -> None:
    code = f"""
import sys
from stsa_lightning.dubbing import Dubber
Dubber.from_checkpoint({str(BUNDLED)!r})
print(sorted(name for name in ("torch._dynamo", "sympy") if name in sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
