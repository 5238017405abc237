"""`stsa evaluate`: networks on held-out clips, or any system's videos against the true ones."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from stsa_lightning.cli.command import add_allow_class, command, parts, resolution
from stsa_lightning.utils.errors import UserError
from stsa_lightning.utils.experiments import experiment_path, protocol_path

_PROTOCOL = (
    *("split", "ablate_paths", "clips", "references", "crop", "resolution", "sync", "identity", "resamples"),
    *("tasks", "regions", "metrics", "speakers"),
)


def add(commands: argparse._SubParsersAction) -> None:
    parser = command(
        commands, "evaluate", _show, "measure a checkpoint, or videos, beside baselines and the ground truth"
    )
    parser.add_argument("--show", type=Path, metavar="FOLDER", help="print the tables of an earlier report")
    actions = parser.add_subparsers(
        title="what is measured, or compared", metavar="checkpoint | videos | table | compare"
    )

    checkpoint = command(actions, "checkpoint", _checkpoint, "a checkpoint on clips of a prepared corpus")
    checkpoint.add_argument("checkpoint", type=Path, help="trained networks: .ckpt of a run, or .safetensors")
    add_allow_class(checkpoint)
    checkpoint.add_argument("--data", type=Path, required=True, help="prepared corpus")
    _add_shared(checkpoint)
    checkpoint.add_argument("--split", help="clips of the corpus's own split, val or test (default: val)")
    checkpoint.add_argument(
        "--speakers", type=parts, help="these speakers' clips, separated by commas, in place of a split"
    )
    checkpoint.add_argument(
        "--tasks", type=parts, help="paired (own speech), unpaired (another speaker's), or both with a comma"
    )
    checkpoint.add_argument("--references", help="other-clip (of the speaker), same-clip or first-frame")
    checkpoint.add_argument("--resolution", type=resolution, help="largest side at which faces are rendered for "
                            "mouth@native: auto (default), network, or pixels")  # fmt: skip
    checkpoint.add_argument("--ablate-paths", action="store_true", default=None, help="also score it with one part of "
                            "the method taken away: a path, the inpainting, the heatmaps, the speech")  # fmt: skip

    videos = command(actions, "videos", _videos, "generated videos against true ones, matched by name")
    videos.add_argument("generated", type=Path, help="folder of generated videos, or one")
    videos.add_argument("true", type=Path, help="folder of true videos with the same names, or one")
    _add_shared(videos)
    videos.add_argument("--crop", type=int, help="side of the face crops, pixels (default: 128)")

    table = command(actions, "table", _table, "reports side by side: systems as rows, the best of each column in bold")
    _add_reports(table)
    table.add_argument("--published", type=experiment_path, nargs="+", default=[], metavar="YAML",
                       help="rows of others, files or folders (experiments/published)")  # fmt: skip
    table.add_argument("--compare-published", action="store_true", help="let these be the best, too")
    table.add_argument("--baselines", action="store_true", help="show the baselines")
    table.add_argument("--mix-variants", action="store_true", help="mark what is another variant of a metric, "
                       "in place of refusing")  # fmt: skip
    table.add_argument("--paired", action="store_true", help="add each group's differences to its first system, as "
                       "compare gives them")  # fmt: skip

    compare = command(actions, "compare", _compare, "differences of the first system to the others, clip by clip, with "
                      "intervals and a test")  # fmt: skip
    _add_reports(compare)


def _add_reports(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "reports", nargs="+", metavar="[NAME=]REPORT.json", help="reports or their folders; a name twice: two seeds"
    )
    parser.add_argument("--columns", type=parts, help="names of columns, or of metrics, separated by commas")
    parser.add_argument("--format", choices=("markdown", "latex", "csv"), default="markdown", help="of the table")
    parser.add_argument("--out", type=Path, help="file to write (default: print)")


def _add_shared(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.HelpFormatter  # defaults are the protocol's
    parser.add_argument(
        "--out", type=Path, required=True, help="folder of the report; an interrupted run goes on there"
    )
    parser.add_argument(
        "--protocol", type=protocol_path, help="YAML of settings (experiments/protocols/); options here win"
    )
    parser.add_argument(
        "--metrics", type=parts, help="names separated by commas, or fast (needs no weights; default), or all"
    )
    parser.add_argument(
        "--regions",
        type=parts,
        help="of picture metrics: mouth, face, frame (videos), mouth@native (the "
        "frame's own resolution), separated by commas",
    )
    parser.add_argument("--clips", type=int, help="this many clips, spread evenly (default: all)")
    parser.add_argument("--sync", help="how SyncNet sees a video: tracked (default) or lrs")
    parser.add_argument("--identity", help="network of CSIM: arcface (default), sface or dlib")
    parser.add_argument("--resamples", type=int, help="draws of the bootstrap (default: 1000)")
    parser.add_argument("--no-baselines", action="store_true", help="leave the baselines out")
    parser.add_argument("--name", help="what the tables call the system")
    parser.add_argument("--weights-dir", type=Path, help="folder to look for metric weights in first")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, mps (never tried), or auto (default)")


def _show(arguments: argparse.Namespace) -> None:
    from stsa_lightning.evaluation.report.report import load_report
    from stsa_lightning.evaluation.report.tables import print_report

    if arguments.show is None:
        raise UserError("evaluate needs checkpoint, videos or --show FOLDER (see stsa evaluate --help)")
    print_report(load_report(arguments.show))


def _checkpoint(arguments: argparse.Namespace) -> None:
    from stsa_lightning.evaluation.run import evaluate_checkpoint

    named = {"name": arguments.name} if arguments.name else {}
    _finish(evaluate_checkpoint, arguments, arguments.checkpoint, arguments.data, **named)


def _videos(arguments: argparse.Namespace) -> None:
    from stsa_lightning.evaluation.run import evaluate_videos

    _finish(evaluate_videos, arguments, arguments.generated, arguments.true, name=arguments.name)


def _table(arguments: argparse.Namespace) -> None:
    from stsa_lightning.evaluation.report.benchmark import benchmark_sheet
    from stsa_lightning.evaluation.report.paired import compare, comparison_sheet
    from stsa_lightning.evaluation.report.published import load_published
    from stsa_lightning.evaluation.report.systems import named_reports

    if arguments.paired and arguments.format == "csv":
        raise UserError("--paired: a CSV file holds one table; stsa evaluate compare --format csv writes the other")
    named = named_reports(arguments.reports)
    sheets = [
        benchmark_sheet(
            named,
            arguments.columns,
            load_published(arguments.published),
            baselines=arguments.baselines,
            compare_published=arguments.compare_published,
            mix_variants=arguments.mix_variants,
        )
    ]
    if arguments.paired:
        sheets.append(comparison_sheet(compare(named)))
    _hand_over(arguments, sheets)


def _compare(arguments: argparse.Namespace) -> None:
    from stsa_lightning.evaluation.report.paired import compare, comparison_sheet
    from stsa_lightning.evaluation.report.systems import named_reports

    named = named_reports(arguments.reports)
    comparisons = compare(named, arguments.columns)
    if not any(comparison.differences for comparison in comparisons):
        found = "; ".join(f"{name}: {report.dataset} ({', '.join(report.tasks)})" for name, report in named)
        notes = " ".join(note for comparison in comparisons for note in comparison.notes)
        raise UserError(f"compare: expected two systems measured on the same clips, found {found}. {notes}".strip())
    _hand_over(arguments, [comparison_sheet(comparisons)])


def _hand_over(arguments: argparse.Namespace, sheets: list[Any]) -> None:
    from stsa_lightning.utils.files import written_whole

    text = "\n".join(sheet.text(arguments.format) for sheet in sheets)
    if arguments.out is None:
        print(text, end="")
        return
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(arguments.out) as part:
        part.write_text(text, encoding="utf-8")
    print(arguments.out)


def _finish(evaluate: Any, arguments: argparse.Namespace, *inputs: Path, **named: Any) -> None:
    from stsa_lightning.evaluation.protocol import Protocol, load_protocol
    from stsa_lightning.evaluation.report.tables import print_report

    protocol = load_protocol(arguments.protocol) if arguments.protocol else Protocol()
    options = {name: getattr(arguments, name, None) for name in _PROTOCOL}
    if arguments.no_baselines:
        options["baselines"] = False
    report = evaluate(
        *inputs,
        arguments.out,
        protocol.changed(**options),
        weights_dir=arguments.weights_dir,
        device=arguments.device,
        **named,
    )
    print_report(report)
    print(f"report.html, report.md, report.tex, report.json, clips.csv: {arguments.out}/")
