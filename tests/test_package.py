"""What is published: built, checked, and used from the wheel alone, outside the repository."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("stsa_lightning", "experiments", "tests", "docs", "benchmarks", "notebooks", "scripts")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def run(*words: str | Path, cwd: Path) -> str:
    everywhere = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    paths = [path for path in everywhere if path and not (Path(path) / "stsa_lightning").exists()]
    done = subprocess.run(
        [str(word) for word in words],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the source distribution and the wheel made of it."""
    pytest.importorskip("build")
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in (path for path in ROOT.iterdir() if path.is_file()):
        shutil.copy(file, source)
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, source, cwd=out)
    return out


@pytest.fixture(scope="module")
def stsa(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The command in an environment with this one's dependencies and the wheel, without this one's package."""
    environment = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", "--without-pip", environment, cwd=environment)
    python = environment / "bin/python"
    folder = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=environment).strip()
    # Paths that such a file adds are searched, but files of this kind in them are not read: no editable installation.
    Path(folder, "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    wheel = next(built.glob("*.whl"))
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel, cwd=environment)
    found = run(python, "-c", "import stsa_lightning; print(stsa_lightning.__file__)", cwd=environment).strip()
    assert Path(found).is_relative_to(folder)
    return environment / "bin/stsa"


def test_distributions_pass_the_strict_check(built: Path):
    pytest.importorskip("twine")
    run(sys.executable, "-m", "twine", "check", "--strict", *sorted(built.iterdir()), cwd=built)


def test_wheel_holds_the_package_with_its_experiments_alone(built: Path):
    names = zipfile.ZipFile(next(built.glob("*.whl"))).namelist()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"stsa_lightning"}
    expected = {path.relative_to(ROOT).as_posix() for path in (ROOT / "experiments").rglob("*") if path.is_file()}
    found = {name.removeprefix("stsa_lightning/") for name in names if name.startswith("stsa_lightning/experiments/")}
    assert found == expected


def test_sdist_holds_what_a_packager_needs(built: Path):
    with tarfile.open(next(built.glob("*.tar.gz"))) as file:
        names = {name.partition("/")[2] for name in file.getnames()}
    assert {"CHANGELOG.md", "CITATION.cff", "LICENSE", "Makefile", "setup.py", "tests/conftest.py"} <= names
    tests = {path.relative_to(ROOT).as_posix() for path in (ROOT / "tests").rglob("*.py")}
    assert tests <= names


def test_wheel_alone_prepares_dubs_and_trains_outside_the_repository(stsa: Path, tmp_path: Path):
    options = ("--speakers", "3", "--clips", "1", "--seconds", "2", "--face-size", "64")
    run(stsa, "prepare", "sample", "--out", "outputs/demo/sample", *options, cwd=tmp_path)
    videos = tmp_path / "outputs/demo/sample/videos"
    face, speech = (next((videos / speaker).glob("*.mp4")) for speaker in ("speaker01", "speaker02"))
    run(stsa, "dub", face, speech, "-o", "out.mp4", cwd=tmp_path)
    assert (tmp_path / "out.mp4").stat().st_size > 10_000
    small = ("--data.num_workers=0", "--data.validation_speakers=[speaker03]")
    told = run(stsa, "fit", "-c", "sample", "--trainer.fast_dev_run", "true", *small, cwd=tmp_path)
    assert "stsa: sample is not in this folder" in told
    assert "hdtf" in run(stsa, "experiments", "list", cwd=tmp_path)
