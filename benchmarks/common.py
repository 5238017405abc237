"""What the benchmarks share: the machine's name, medians of timings, a table to print, a JSON file of the figures."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from stsa_lightning.utils.files import written_whole


def machine() -> str:
    """Processor, cores that this process may use, accelerator, and the versions that matter to a timing."""
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return (
        f"{_processor()}, {cores} cores, {device}, Python {platform.python_version()}, "
        f"PyTorch {torch.__version__.split('+')[0]}"
    )


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def median_time(fn: Callable[[], Any], runs: int = 5) -> float:
    """Median wall-clock seconds of `runs` calls; the first call, which warms caches up, is made once more before."""
    fn()
    times = []
    for _ in range(runs):
        begun = time.perf_counter()
        fn()
        times.append(time.perf_counter() - begun)
    return statistics.median(times)


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table; floats with three significant digits."""
    cells = [list(map(str, head)), *[[_shown(value) for value in row] for row in rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in cells
    ]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])


def _shown(value: object) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def parser(description: str | None, runs: int = 5) -> argparse.ArgumentParser:
    """Options that every benchmark has: --runs and --json."""
    options = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--runs", type=int, default=runs, help=f"timings of which the median is told ({runs})")
    options.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to this file")
    return options


def write_json(path: Path | str, figures: dict[str, Any]) -> None:
    """Write figures, with the machine's name, as indented JSON."""
    with written_whole(path) as part:
        part.write_text(json.dumps({"machine": machine(), **figures}, indent=2) + "\n")
