"""`stsa prepare`: videos in, a corpus for training out."""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable
from pathlib import Path

from stsa_lightning.cli.command import command, warnings_said

# Options of each corpus, as `find_sources` takes them.
_OWN: dict[str, tuple[str, ...]] = {
    "folder": ("speaker", "language"),
    "lrs2": ("lists", "encoding", "with_pretrain"),
    "hdtf": ("lists", "encoding"),
    "cmlr": ("lists", "encoding"),
}


def add(commands: argparse._SubParsersAction) -> None:
    prepare = commands.add_parser("prepare", help="turn videos into a corpus for training").add_subparsers(
        title="corpora", metavar="CORPUS", required=True
    )
    folder = _corpus(prepare, "folder", "any tree of videos; the first folder level, or a rule, names the speaker")
    folder.add_argument(
        "--speaker",
        help="who speaks: voxceleb2 or mead for trees like theirs, or a regular expression on the path "
        "whose first group is the speaker",
    )
    folder.add_argument("--language", default="", help="of the speech: en, zh, ...; a filter of training")
    sample = command(prepare, "sample", _prepare_sample, "the embedded sample: rendered speakers with synthetic speech")
    sample.add_argument("--speakers", type=int, default=6, help="rendered speakers")
    sample.add_argument("--clips", type=int, default=2, help="clips of each")
    sample.add_argument("--seconds", type=float, default=4.0, help="length of each clip")
    sample.add_argument("--seed", type=int, default=0, help="of faces, motion and sentences")
    _add_shared(sample)
    lrs2 = _corpus(prepare, "lrs2", "LRS2 with the lists of its authors; --root mvlrs_v1")
    lrs2.add_argument("--with-pretrain", action="store_true", help="the pretrain part too: 96,000 clips that train")
    hdtf = _corpus(prepare, "hdtf", "HDTF by its authors' lists of time ranges and crops, or clips already cut")
    cmlr = _corpus(prepare, "cmlr", "CMLR (Mandarin); --root is the folder of video and audio")
    for parser in (lrs2, hdtf, cmlr):
        parser.add_argument("--lists", type=Path, help="folder of the authors' lists, where they are not found")
        parser.add_argument("--encoding", help="of the lists, where they are not Unicode: cp1251, gb18030, ...")
    report = command(prepare, "report", _report, "a page about a prepared corpus: counts, reasons, spread, worst clips")
    report.add_argument("--data", type=Path, required=True, help="the prepared corpus (--out of its preparation)")
    report.add_argument("-o", "--out", type=Path, required=True, help="the HTML file")
    report.add_argument(
        "--filter",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="what this limit would remove, as data.filters in training: max_yaw=30, languages=en,zh; may be repeated",
    )


def _corpus(commands: argparse._SubParsersAction, name: str, text: str) -> argparse.ArgumentParser:
    parser = command(commands, name, _prepare_corpus, text)
    parser.set_defaults(corpus=name)
    parser.add_argument("--root", type=Path, required=True, help="where the corpus lies")
    _add_shared(parser)
    return parser


def _add_shared(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, required=True, help="folder for clip files and index")
    parser.add_argument("--face-size", type=int, default=128, help="side of the stored faces, pixels")
    kinds = "logmel, mfcc, moonshine, wav2vec2"
    parser.add_argument("--features", default="logmel", help=f"of the sound: {kinds}, or some with commas")
    parser.add_argument("--min-frames", type=int, default=25, help="fewest frames with a face, at 25/s")
    parser.add_argument(
        "--sync",
        choices=("auto", "syncnet", "lip_aperture", "none"),
        default="auto",
        help="what checks sound against lips: SyncNet, or lip aperture (needs no weights); auto: SyncNet if it is here",
    )
    parser.add_argument("--no-sync-correction", action="store_true", help="leave sound that is clearly off as it is")
    parser.add_argument("--landmark-model", help="a face_landmarker .task file in place of FaceMesh")
    parser.add_argument("--wav2vec-model", help="another wav2vec 2.0 model: its name, or a folder")
    parser.add_argument("--limit", type=int, help="prepare the first clips only")
    parser.add_argument("--workers", type=int, default=1, help="processes on this machine")
    parser.add_argument("--ray", metavar="ADDRESS", help="spread over a Ray cluster: auto, or its address")


def _prepare_corpus(arguments: argparse.Namespace) -> None:
    from stsa_lightning.data.corpora import MissingVideosWarning, OtherFilesWarning, find_sources

    options = {name: getattr(arguments, name) for name in _OWN[arguments.corpus]}
    with warnings_said(MissingVideosWarning, OtherFilesWarning):
        sources = find_sources(arguments.corpus, arguments.root, **options)
    _run(arguments, sources, arguments.root)


def _prepare_sample(arguments: argparse.Namespace) -> None:
    from stsa_lightning.data.corpora import find_sources
    from stsa_lightning.data.sample import render_sample

    videos = arguments.out / "videos"
    arguments.no_sync_correction = True  # rendered in sync: what a measure makes of synthetic voices is its own error
    render_sample(videos, arguments.speakers, arguments.clips, arguments.seconds, seed=arguments.seed, progress=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what was rendered lies beside the videos
        sources = find_sources("sample", videos)
    _run(arguments, sources, videos)


def _run(arguments: argparse.Namespace, sources: list, root: Path) -> None:
    from stsa_lightning.data.prepare import PrepareSettings, prepare

    settings = PrepareSettings(
        face_size=arguments.face_size,
        features=tuple(arguments.features.split(",")),
        min_frames=arguments.min_frames,
        landmark_model=arguments.landmark_model,
        wav2vec2_model=arguments.wav2vec_model,
        sync=arguments.sync,
        correct_sync=not arguments.no_sync_correction,
    )
    spread = {name: getattr(arguments, name) for name in ("workers", "ray", "limit")}
    print(prepare(sources, arguments.out, settings, root=root, **spread))


def _report(arguments: argparse.Namespace) -> None:
    from stsa_lightning.data.report import corpus_report

    print(corpus_report(arguments.data, arguments.out, _filters(arguments.filter)))


def _filters(words: list[str]):
    from dataclasses import fields

    from stsa_lightning.data.filters import Filters
    from stsa_lightning.utils.errors import UserError

    names = [field.name for field in fields(Filters)]
    limits: dict[str, object] = {}
    for word in words:
        name, _, value = word.partition("=")
        parse: Callable[[str], object] = (lambda text: text.split(",")) if name == "languages" else float
        try:
            if name not in names:
                raise ValueError
            limits[name] = parse(value)
        except ValueError:
            raise UserError(f"--filter: expected NAME=VALUE with a name of {names}, got {word!r}") from None
    return Filters(**limits) if limits else None  # type: ignore[arg-type]
