"""`stsa ablate`: an experiment and its variants under several seeds, trained, measured and compared."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from stsa_lightning.ablation import METRICS
from stsa_lightning.cli.command import command
from stsa_lightning.utils.errors import UserError, check_at_least
from stsa_lightning.utils.experiments import experiment_path, protocol_path

OVERLAYS = "experiments/ablations"


def add(commands: argparse._SubParsersAction) -> None:
    parser = command(
        commands, "ablate", _ablate, "train and measure an experiment and its variants, under several seeds"
    )
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = (
        "Finished runs are kept, interrupted ones go on. Options after -- go to every training, {seed} as its seed:\n"
        "  stsa ablate -c experiments/sample.yaml --out runs/ablate --seeds 0 1 2 --epochs 10 -- --data.batch_size 4"
    )
    parser.add_argument("-c", "--config", type=experiment_path, required=True, help="the experiment that is varied")
    parser.add_argument("--out", type=Path, required=True, help="folder of runs and tables")
    parser.add_argument(
        "--overlays", type=experiment_path, default=OVERLAYS, help=f"folder of variants (default: {OVERLAYS})"
    )
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these variants alone (the base always runs)")
    parser.add_argument("--without", nargs="+", metavar="NAME", default=[], help="leave these variants out")
    parser.add_argument(
        "--seeds", nargs="+", type=int, default=[0], help="one run of each variant for each (default: 0)"
    )
    parser.add_argument("--epochs", type=int, help="length of each run, its phases in proportion (default: the base's)")
    parser.add_argument("--max_steps", type=int, help="end each run after so many steps")
    metrics = ",".join(METRICS)
    parser.add_argument("--metrics", default=metrics, help=f"see stsa evaluate (default: {metrics})")
    parser.add_argument("--protocol", type=protocol_path, help="YAML of the evaluation (experiments/protocols/)")
    parser.add_argument("options", nargs="*", metavar="-- OPTION", help="further options of stsa fit")


def _ablate(arguments: argparse.Namespace) -> None:
    from rich.console import Console

    from stsa_lightning.ablation.runner import BASE, Ablation
    from stsa_lightning.ablation.tables import long_table, markdown, paired_differences, task_tables, write
    from stsa_lightning.evaluation.metrics.columns import Column
    from stsa_lightning.evaluation.report.report import Report, load_report

    options = [*arguments.options]
    if arguments.max_steps is not None:
        check_at_least("--max_steps", arguments.max_steps, 1)
        options.append(f"--trainer.max_steps={arguments.max_steps}")
    ablation = Ablation(
        base=arguments.config,
        overlays=chosen(arguments.overlays, arguments.only, arguments.without),
        out=arguments.out,
        seeds=tuple(arguments.seeds),
        epochs=arguments.epochs,
        options=tuple(options),
        metrics=tuple(arguments.metrics.split(",")),
        protocol=arguments.protocol,
    )
    results: dict[tuple[str, int], dict[str, dict[str, float]]] = {}
    reports: dict[tuple[str, int], Report] = {}
    columns: dict[str, Column] = {}
    failures: dict[str, str] = {}
    text, begun = "", time.monotonic()
    total = len(ablation.runs())
    for count, (run, result) in enumerate(ablation.go(), start=1):
        if isinstance(result, str):
            failures[run.name] = result
        else:
            results[run.variant, run.seed] = result
            report = reports[run.variant, run.seed] = load_report(run.folder / "evaluation")
            columns |= {column.name: column for column in report.columns}
        said = result if isinstance(result, str) else "measured"
        print(f"[{count}/{total}, {(time.monotonic() - begun) / 60:.0f} min] {run.name}: {said}", flush=True)
        table = long_table(results)
        differences = paired_differences(reports, BASE)
        text = markdown(task_tables(table, columns), ablation.record(), failures, differences)
        write(arguments.out, table, text, ablation.record(), failures, differences)
    Console(soft_wrap=True).print(text, markup=False, highlight=False)
    if failures:
        raise UserError(
            f"{len(failures)} of {total} runs failed: {', '.join(failures)}; the same command tries them again"
        )


def chosen(folder: Path, only: list[str] | None, without: list[str]) -> tuple[Path, ...]:
    """The overlays of a folder, or some of them in the order asked for.

    Raises:
        UserError: there are none, or a name that none has.
    """
    found = {path.stem: path for path in sorted(folder.glob("*.yaml"))}
    unknown = {*(only or ()), *without} - found.keys()
    if unknown or not found:
        raise UserError(f"{folder}: expected overlays named {sorted(unknown) or 'NAME.yaml'}, found {list(found)}")
    return tuple(found[name] for name in only or found if name not in without)
