"""`stsa weights`: known pretrained weights, import and export."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from stsa_lightning.cli.command import add_allow_class, command


def add(commands: argparse._SubParsersAction) -> None:
    weights = commands.add_parser("weights", help="known pretrained weights, import and export").add_subparsers(
        title="actions", metavar="ACTION", required=True
    )
    command(weights, "list", _weights_list, "what this program may load, with source and licence")
    fetch = command(weights, "fetch", _weights_fetch, "download into the cache and check")
    fetch.add_argument("name", help="a name that `stsa weights list` shows")
    released = command(weights, "import", _weights_import, "the authors' two checkpoints -> one safetensors file")
    released.add_argument("guidance", type=Path, help="stage 1 checkpoint (.pth)")
    released.add_argument("synthesis", type=Path, help="stage 2 checkpoint (.pth)")
    export = command(weights, "export", _weights_export, "a run's checkpoint -> the networks alone, as safetensors")
    export.add_argument("checkpoint", type=Path, help=".ckpt of a run")
    export.add_argument("--half", action="store_true", help="16 bits a weight: half the size")
    for parser in (released, export):
        parser.add_argument("-o", "--out", type=Path, required=True, help="file to write (.safetensors)")
    pull = command(weights, "pull", _weights_pull, "networks of the Hugging Face hub -> a file here (extra `hub`)")
    pull.add_argument("repository", help="owner/name, or owner/name@revision")
    pull.add_argument("-o", "--out", type=Path, help="file to copy them to (.safetensors); without it, into the cache")
    push = command(weights, "push", _weights_push, "a checkpoint's networks -> the Hugging Face hub (extra `hub`)")
    push.add_argument("checkpoint", type=Path, help=".safetensors, or .ckpt of a run")
    push.add_argument("repository", help="owner/name; made where it is not there")
    push.add_argument("--private", action="store_true", help="a new repository is private")
    push.add_argument("--half", action="store_true", help="16 bits a weight: half the size")
    push.add_argument("--licence", "--license", help="for the model card, such as apache-2.0")
    push.add_argument(
        "--card", type=Path, help="a model card (README.md) of your own; without it one is made where there is none"
    )
    onnx = command(weights, "export-onnx", _weights_export_onnx, "a checkpoint -> ONNX graphs for other programs")
    onnx.add_argument("checkpoint", type=Path, help=".safetensors, or .ckpt of a run")
    for parser in (export, onnx, push):
        add_allow_class(parser)
    onnx.add_argument("-o", "--out", type=Path, required=True, help="folder to write to")


def _weights_list(arguments: argparse.Namespace) -> None:
    from stsa_lightning.utils.weights import KNOWN

    width = max(map(len, KNOWN))
    for name, weight in KNOWN.items():  # lines, not a table: an address that is cut is none
        for label, said in ((name, weight.what), ("", weight.licence), ("", weight.url)):
            print(f"{label:{width}}  {said}")


def _weights_fetch(arguments: argparse.Namespace) -> None:
    from stsa_lightning.utils.weights import weights_path

    print(weights_path(arguments.name))


def _weights_import(arguments: argparse.Namespace) -> None:
    from stsa_lightning.models.convert_released import import_released

    print(import_released(arguments.guidance, arguments.synthesis, arguments.out, recognised=print))


def _weights_pull(arguments: argparse.Namespace) -> None:
    from stsa_lightning.models.checkpoint import load_networks
    from stsa_lightning.models.hub import find_networks
    from stsa_lightning.utils.files import written_whole

    path = find_networks(arguments.repository)
    load_networks(path)  # what is no network of ours is refused here
    if arguments.out is not None:
        with written_whole(arguments.out) as part:
            shutil.copyfile(path, part)
    print(arguments.out or path)


def _weights_push(arguments: argparse.Namespace) -> None:
    from stsa_lightning.models.hub import push

    options = {name: getattr(arguments, name) for name in ("private", "half", "licence", "card")}
    print(push(arguments.checkpoint, arguments.repository, **options))


def _weights_export(arguments: argparse.Namespace) -> None:
    from stsa_lightning.models.checkpoint import load_networks, save_networks

    guidance, synthesis, meta = load_networks(arguments.checkpoint)
    save_networks(arguments.out, guidance, synthesis, meta, half=arguments.half)
    print(arguments.out)


def _weights_export_onnx(arguments: argparse.Namespace) -> None:
    from stsa_lightning.inference.onnx import export_onnx
    from stsa_lightning.models.checkpoint import load_networks

    guidance, synthesis, meta = load_networks(arguments.checkpoint)
    for path in export_onnx(guidance, synthesis, arguments.out, meta):
        print(path)
