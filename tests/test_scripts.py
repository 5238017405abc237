"""Commands in `scripts/`: linted like modules; `lowest-versions` prints what `setup.cfg` promises."""

from __future__ import annotations

import configparser
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "scripts/lowest-versions"
constraints = runpy.run_path(str(SCRIPT))["constraints"]


def test_lint_is_given_every_script_of_python_that_has_no_ending() -> None:
    if not shutil.which("make"):
        pytest.skip("make is not installed")
    told = subprocess.run(["make", "--dry-run", "lint"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    scripts = [path for path in (ROOT / "scripts").iterdir() if not path.suffix and "python" in path.read_text()[:30]]
    assert len(scripts) >= 3
    for command in ("ruff check", "ruff format"):
        line = next(line for line in told.splitlines() if command in line)
        assert {f"scripts/{path.name}" for path in scripts} <= set(line.split())


def settings(package: str = "", **extras: str) -> configparser.ConfigParser:
    read = configparser.ConfigParser()
    read.read_dict(
        {
            "metadata": {"name": "ours"},
            "options": {"install_requires": package},
            "options.extras_require": extras,
        }
    )
    return read


def test_lowest_versions_are_the_bounds_themselves_with_their_markers() -> None:
    package = '\nmedia[fast,small]>=17.1\nhub >= 1.0, <2\nreads>=0.6; platform_machine == "x86_64" or os_name == "nt"'
    marked = 'reads==0.6; platform_machine == "x86_64" or os_name == "nt"'
    assert constraints(settings(package), []) == ["media==17.1", "hub==1.0", marked]


def test_lowest_versions_of_extras_are_those_named_and_those_they_name() -> None:
    given = settings("\nbase>=1", web="\npage>=6,<7", plots="\nfigures>=3", all="\nours[web]")
    assert constraints(given, []) == ["base==1"]
    assert constraints(given, ["plots"]) == ["base==1", "figures==3"]
    assert constraints(given, ["all"]) == ["base==1", "page==6"]


@pytest.mark.parametrize("requirement", ["loose", "only<2", "pinned==2"])
def test_requirement_without_lowest_version_is_refused_by_name(requirement: str) -> None:
    with pytest.raises(SystemExit, match=requirement):
        constraints(settings(f"\nbase>=1\n{requirement}"), [])


def test_what_is_printed_for_this_package_names_every_requirement_of_the_tests() -> None:
    done = subprocess.run([sys.executable, SCRIPT, "dev"], capture_output=True, text=True, check=True)
    printed = {line.name: line for line in map(Requirement, done.stdout.splitlines())}
    read = configparser.ConfigParser()
    read.read(ROOT / "setup.cfg")
    both = read["options"]["install_requires"] + read["options.extras_require"]["dev"]
    asked = [Requirement(line) for line in both.splitlines() if line]
    assert printed.keys() == {requirement.name for requirement in asked}
    for requirement in asked:
        found = printed[requirement.name]
        assert [bound.operator for bound in found.specifier] == ["=="]
        assert next(iter(found.specifier)).version in requirement.specifier
        assert str(found.marker) == str(requirement.marker)


def test_extras_that_name_one_package_promise_one_version_of_it() -> None:
    read = configparser.ConfigParser()
    read.read(ROOT / "setup.cfg")
    lowest: dict[str, set[str]] = {}
    for line in constraints(read, list(read["options.extras_require"])):
        requirement = Requirement(line)
        lowest.setdefault(requirement.name, set()).add(str(requirement.specifier))
    assert not {name: versions for name, versions in lowest.items() if len(versions) > 1}
