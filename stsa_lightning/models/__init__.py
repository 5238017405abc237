"""The networks, their sizes, and how they are stored."""

from pathlib import Path

BUNDLED = Path(__file__).parents[1] / "assets" / "small.safetensors"  # comes with the package, see its README.md
