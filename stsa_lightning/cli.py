"""The one door: ``stsa COMMAND`` (also installed as ``lightning``).

fit, validate, test and predict are Lightning's own commands on :class:`STSA` and :class:`STSADataModule`; the others
prepare corpora, dub videos, measure and handle weights. What is heavy is imported by the command that needs it.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from stsa_lightning import __version__
from stsa_lightning.errors import UserError

LIGHTNING_COMMANDS = ("fit", "validate", "test", "predict")


def main(argv: Sequence[str] | None = None) -> None:
    """Run one command; a user's error ends with one message and status 2, without a traceback."""
    words = sys.argv[1:] if argv is None else argv
    try:
        if words and words[0] in LIGHTNING_COMMANDS:
            run_lightning(argv)
        else:
            arguments = build_parser().parse_args(words)
            arguments.run(arguments)
    except (UserError, FileNotFoundError) as error:
        if os.environ.get("STSA_TRACEBACK"):
            raise
        print(f"stsa: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("stsa: stopped; what is finished stands, and the same command goes on from there", file=sys.stderr)
        sys.exit(130)


def run_lightning(argv: Sequence[str] | None) -> None:
    """``fit``, ``validate``, ``test``, ``predict``: settings from YAML files (``-c``) and from the command line."""
    # Lightning calls jsonargparse by names that it is going to drop; users cannot do anything about it.
    os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
    from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

    from stsa_lightning.data.datamodule import STSADataModule
    from stsa_lightning.module import STSA

    class STSACLI(LightningCLI):
        def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
            # What data and networks must agree on is said once, under ``data``.
            for name in ("features", "face_size", "references", "window", "sigma"):
                parser.link_arguments(f"data.{name}", f"model.{name}")

    STSACLI(
        STSA,
        STSADataModule,
        args=None if argv is None else list(argv),
        auto_configure_optimizers=False,  # the module has two, with arguments of its own
        save_config_kwargs={"overwrite": True},  # a second run into the same folder is no accident
        parser_kwargs={"parser_mode": "omegaconf"},
        seed_everything_default=0,
    )


def build_parser() -> argparse.ArgumentParser:
    """The commands that are not Lightning's."""
    parser = argparse.ArgumentParser(
        prog="stsa",
        description="STSA visual dubbing. Training: stsa fit | validate | test | predict -c FILE.yaml "
        "(each has its own --help).",
    )
    parser.add_argument("--version", action="version", version=f"stsa {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name in LIGHTNING_COMMANDS:
        commands.add_parser(
            name, help=f"Lightning's {name}, from YAML settings: stsa {name} -c experiments/sample.yaml"
        )
    for add in (_add_prepare, _add_dub, _add_evaluate, _add_weights):
        add(commands)
    return parser


def _command(commands: argparse._SubParsersAction, name: str, run: Callable, text: str) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name, help=text, description=text, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.set_defaults(run=run)
    return parser


# ---- prepare


def _add_prepare(commands: argparse._SubParsersAction) -> None:
    prepare = commands.add_parser("prepare", help="turn videos into a corpus for training").add_subparsers(
        title="corpora", metavar="CORPUS", required=True
    )
    folder = _command(
        prepare, "folder", _prepare_folder, "any tree of videos; the first folder level names the speaker"
    )
    folder.add_argument("--root", type=Path, required=True, help="folder with the videos")
    folder.add_argument("--speaker-pattern", help="regular expression on the path: its first group names the speaker")
    folder.add_argument("--limit", type=int, help="prepare the first videos only")
    sample = _command(
        prepare, "sample", _prepare_sample, "the embedded sample: rendered speakers with synthetic speech"
    )
    sample.add_argument("--speakers", type=int, default=6, help="rendered speakers")
    sample.add_argument("--clips", type=int, default=2, help="clips of each")
    sample.add_argument("--seconds", type=float, default=4.0, help="length of each clip")
    sample.add_argument("--seed", type=int, default=0, help="of looks, motion and sentences")
    for parser in (folder, sample):
        parser.add_argument("--out", type=Path, required=True, help="folder for clip files and index")
        parser.add_argument("--face-size", type=int, default=128, help="side of the stored faces, pixels")
        parser.add_argument("--features", default="logmel", help="audio features to store, separated by commas")
        parser.add_argument("--landmark-model", help="a face_landmarker .task file in place of MediaPipe's FaceMesh")


def _settings(arguments: argparse.Namespace):
    from stsa_lightning.data.prepare import PrepareSettings

    return PrepareSettings(
        face_size=arguments.face_size,
        features=tuple(arguments.features.split(",")),
        landmark_model=arguments.landmark_model,
    )


def _prepare_folder(arguments: argparse.Namespace) -> None:
    from stsa_lightning.data.prepare import prepare_folder

    settings, pattern = _settings(arguments), arguments.speaker_pattern
    print(prepare_folder(arguments.root, arguments.out, settings, speaker_pattern=pattern, limit=arguments.limit))


def _prepare_sample(arguments: argparse.Namespace) -> None:
    from stsa_lightning.data.prepare import prepare_folder
    from stsa_lightning.data.sample import render_sample

    videos = arguments.out / "videos"
    render_sample(videos, arguments.speakers, arguments.clips, arguments.seconds, seed=arguments.seed, progress=True)
    print(prepare_folder(videos, arguments.out, _settings(arguments)))


# ---- dub


def _add_dub(commands: argparse._SubParsersAction) -> None:
    parser = _command(commands, "dub", _dub, "redraw the mouth of a video so that it says new speech")
    parser.add_argument("video", type=Path, help="video of a speaking face; any frame rate and size")
    parser.add_argument("audio", type=Path, help="new speech: sound file, or a video's sound")
    parser.add_argument("-o", "--out", type=Path, required=True, help="dubbed video (.mp4)")
    parser.add_argument("--checkpoint", type=Path, help="trained networks: .ckpt of a run, or .safetensors")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, mps, or auto")
    parser.add_argument("--block", type=int, default=16, help="frames per batch; memory grows with it")
    parser.add_argument("--landmark-model", type=Path, help="a face_landmarker .task file in place of FaceMesh")


def _dub(arguments: argparse.Namespace) -> None:
    if arguments.checkpoint is None:
        raise UserError(
            "dub needs trained networks: --checkpoint RUN/last.ckpt (train one: stsa fit -c experiments/sample.yaml, "
            "or make demo) or --checkpoint released.safetensors (import the authors' two .pth files: "
            "stsa weights import GUIDANCE.pth SYNTHESIS.pth -o released.safetensors)"
        )
    from stsa_lightning.dubbing import Dubber
    from stsa_lightning.face.landmarks import landmark_detector

    dubber = Dubber.from_checkpoint(
        arguments.checkpoint,
        device=arguments.device,
        detector=landmark_detector(arguments.landmark_model) if arguments.landmark_model else None,
        block=arguments.block,
    )
    print(dubber.dub(arguments.video, arguments.audio, arguments.out))


# ---- evaluate


def _add_evaluate(commands: argparse._SubParsersAction) -> None:
    parser = _command(
        commands, "evaluate", _evaluate, "measure a checkpoint on held-out clips beside trivial answers and the truth"
    )
    parser.add_argument("--checkpoint", type=Path, help="trained networks: .ckpt of a run, or .safetensors")
    parser.add_argument("--data", type=Path, help="prepared corpus")
    parser.add_argument("--speakers", help="held-out speakers, separated by commas; the checkpoint's own when left out")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    parser.add_argument("--sheet", type=Path, help="write a contact sheet of generated frames (.png)")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, mps, or auto")
    parser.add_argument("--show", type=Path, help="print the table of an earlier --out file and do nothing else")


def _evaluate(arguments: argparse.Namespace) -> None:
    from stsa_lightning.benchmark import evaluate, load_report

    if arguments.show is not None:
        load_report(arguments.show).print()
        return
    for option in ("checkpoint", "data"):
        if getattr(arguments, option) is None:
            raise UserError(f"evaluate needs --{option} (see stsa evaluate --help)")
    speakers = arguments.speakers.split(",") if arguments.speakers else None
    report = evaluate(arguments.checkpoint, arguments.data, speakers, arguments.device, arguments.sheet)
    report.print()
    if arguments.out is not None:
        report.save(arguments.out)


# ---- weights


def _add_weights(commands: argparse._SubParsersAction) -> None:
    weights = commands.add_parser("weights", help="known pretrained weights, import and export").add_subparsers(
        title="actions", metavar="ACTION", required=True
    )
    _command(weights, "list", _weights_list, "what this program may load, with source and licence")
    fetch = _command(weights, "fetch", _weights_fetch, "download into the cache and check")
    fetch.add_argument("name", help="a name that `stsa weights list` shows")
    released = _command(weights, "import", _weights_import, "the authors' two checkpoints -> one safetensors file")
    released.add_argument("guidance", type=Path, help="stage 1 checkpoint (.pth)")
    released.add_argument("synthesis", type=Path, help="stage 2 checkpoint (.pth)")
    export = _command(weights, "export", _weights_export, "a run's checkpoint -> the networks alone, as safetensors")
    export.add_argument("checkpoint", type=Path, help=".ckpt of a run")
    for parser in (released, export):
        parser.add_argument("-o", "--out", type=Path, required=True, help="file to write (.safetensors)")


def _weights_list(arguments: argparse.Namespace) -> None:
    from rich.console import Console
    from rich.table import Table

    from stsa_lightning.weights import KNOWN

    table = Table("name", "what", "licence", "url")
    for name, weight in KNOWN.items():
        table.add_row(name, weight.what, weight.licence, weight.url)
    Console().print(table)


def _weights_fetch(arguments: argparse.Namespace) -> None:
    from stsa_lightning.weights import weights_path

    print(weights_path(arguments.name))


def _weights_import(arguments: argparse.Namespace) -> None:
    from stsa_lightning.nets.released import import_released

    print(import_released(arguments.guidance, arguments.synthesis, arguments.out))


def _weights_export(arguments: argparse.Namespace) -> None:
    from stsa_lightning.nets.checkpoint import load_networks, save_networks

    guidance, synthesis, meta = load_networks(arguments.checkpoint)
    save_networks(arguments.out, guidance, synthesis, meta)
    print(arguments.out)
