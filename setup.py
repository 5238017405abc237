"""Puts the experiments into the built package. All else is declared in `setup.cfg`."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithExperiments(build_py):
    """Copies `experiments/` into the package; an editable installation reads it where it lies."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            shutil.copytree("experiments", Path(self.build_lib, "stsa_lightning", "experiments"), dirs_exist_ok=True)


setup(cmdclass={"build_py": BuildWithExperiments})
