"""`stsa dub`: a video and new speech in, a dubbed video out; or many of them from a list."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from stsa_lightning.cli.command import add_networks, add_progress, command, progress_of, resolution
from stsa_lightning.utils.errors import UserError

if TYPE_CHECKING:
    from stsa_lightning.dubbing import Dubber, DubReport
    from stsa_lightning.training.personalisation import Adaptation


# Of `Dubber`.
_OPTIONS = (
    *("device", "block", "landmark_model", "face", "fit", "silence"),
    *("precision", "resolution", "calibrate", "check"),
)


def add(commands: argparse._SubParsersAction) -> None:
    parser = command(commands, "dub", _dub, "re-render the mouth of a video to match new speech")
    parser.add_argument("video", type=Path, nargs="?", help="speaking face: a video of any rate and size, or a picture")
    parser.add_argument(
        "audio",
        type=Path,
        nargs="?",
        help="new speech: sound file, or a video's sound; with --segments LIST.srt a folder of numbered sound files",
    )
    parser.add_argument(
        "--audio-track",
        type=int,
        metavar="N",
        help="which of several sound tracks of the speech's file, counted from 1; without it, the file's default track",
    )
    parser.add_argument(
        "--sound",
        type=Path,
        metavar="MIX",
        help="what is heard in place of the speech, such as its mix with music and effects; the lips follow the speech",
    )
    add_networks(parser)
    parser.add_argument("-o", "--out", type=Path, help="dubbed video (.mp4)")
    parser.add_argument(
        "--manifest",
        type=Path,
        help="many dubs: a CSV file with columns video, audio, out and, where wanted, sound (paths relative to it); "
        "results that exist are skipped, failures do not stop the others",
    )
    parser.add_argument(
        "--segments",
        type=Path,
        metavar="LIST",
        help="who says what when: a list in CSV or JSON (start, end, speech, face, speaker, gain, offset) or SRT",
    )
    parser.add_argument(
        "--between",
        choices=("keep", "close"),
        default="keep",
        help="what the people of --segments do between theirs: keep the video's own frames, or close their mouths",
    )
    parser.add_argument("--encoding", help="of the list, where it is not Unicode: cp1251, gb18030, mac_roman, ...")
    parser.add_argument(
        "--adapt",
        type=float,
        default=0.0,
        metavar="MINUTES",
        help="before dubbing, have the networks learn the video's own speaker from its own sound, for at most so long; "
        "cached for the next time",
    )
    parser.add_argument("--block", type=int, default=16, help="frames per batch; memory grows with it")
    parser.add_argument("--landmark-model", type=Path, help="a face_landmarker .task file in place of FaceMesh")
    parser.add_argument(
        "--face",
        default="auto",
        help="whose mouth: auto (who speaks in the source, else the largest face), largest, left, right, or N, the "
        "N-th from the left, in each shot; or one person in all shots: pN (see `stsa faces`), or who is at a place X,Y "
        "(parts of width and height), or X,Y@SECONDS",
    )
    parser.add_argument(
        "--fit",
        choices=("loop", "freeze", "trim", "remap"),
        default="loop",
        help="speech longer than the video: run it forward and backward, hold its last frame, or end with it; remap: "
        "show the whole video slower or faster, so that it lasts as long as the speech, whichever is longer",
    )
    parser.add_argument(
        "--silence",
        choices=("close", "keep"),
        default="close",
        help="in the pauses of the speech, close the mouth, or let it follow noise, music and breath, too",
    )
    parser.add_argument(
        "--precision",
        choices=("fast", "exact"),
        default="fast",
        help="fast: 8 bits or bfloat16 where the machine is made for them, at 40 dB or more; exact: float32",
    )
    parser.add_argument(
        "--resolution",
        type=resolution,
        default="auto",
        metavar="auto|network|N",
        help="largest side at which a face is rendered, pixels: auto, its own up to 512, with the detail of other "
        "frames of the video; network, that of the networks, enlarged",
    )
    parser.add_argument(
        "--no-calibrate",
        dest="calibrate",
        action="store_false",
        help="leave predicted lips where the networks put those of any person",
    )
    parser.add_argument(
        "--no-check",
        dest="check",
        action="store_false",
        help="re-render mouths that seem to be covered, and show faces that the networks seem to have failed at",
    )
    parser.add_argument("--profile", action="store_true", help="say how long each stage was at work")
    parser.add_argument("--json", action="store_true", help="print one JSON object a dub, for scripts")
    add_progress(parser)


def _dub(arguments: argparse.Namespace) -> None:
    try:
        _run(arguments)
    except (UserError, OSError) as error:
        if arguments.json and arguments.out:
            print(json.dumps({"out": str(arguments.out), "error": str(error)}), flush=True)
        raise


def _run(arguments: argparse.Namespace) -> None:
    _check(arguments)
    from stsa_lightning.dubbing import Dubber
    from stsa_lightning.dubbing.manifest import dub_all, read_manifest

    jobs = read_manifest(arguments.manifest, arguments.encoding) if arguments.manifest else None
    adapted = _adapted(arguments) if arguments.adapt else None
    dubber = Dubber.from_checkpoint(
        adapted.path if adapted else arguments.checkpoint,
        **{name: getattr(arguments, name) for name in _OPTIONS},
    )
    if jobs is None:
        report = _dub_segments(arguments, dubber) if arguments.segments else _dub_one(arguments, dubber)
        fields = report.json() | ({"adaptation": adapted.json()} if adapted else {})
        _print(arguments, fields, str(report), report.profile())
        return
    done = []
    for result in dub_all(dubber, jobs, progress_of(arguments), arguments.audio_track):
        done.append(result)
        _print(arguments, result.json(), str(result), result.report.profile() if result.report else "")
    failed = sum(result.error is not None for result in done)
    skipped = sum(result.skipped for result in done)
    summary = f"{len(done) - failed - skipped} dubbed, {skipped} skipped (they exist), {failed} failed"
    print(summary, file=sys.stderr if arguments.json else sys.stdout)
    if failed:
        sys.exit(1)


def _dub_one(arguments: argparse.Namespace, dubber: Dubber) -> DubReport:
    return dubber.dub(
        arguments.video,
        arguments.audio,
        arguments.out,
        progress=progress_of(arguments),
        audio_track=arguments.audio_track,
        sound=arguments.sound,
    )


def _dub_segments(arguments: argparse.Namespace, dubber: Dubber) -> DubReport:
    from stsa_lightning.dubbing import dub_segments, read_segments

    return dub_segments(
        dubber,
        arguments.video,
        read_segments(arguments.segments, arguments.audio, arguments.encoding),
        arguments.out,
        sound=arguments.sound,
        between=arguments.between,
        progress=progress_of(arguments),
    )


def _check(arguments: argparse.Namespace) -> None:
    """Raises UserError where the command line lacks something."""
    single = [arguments.video, arguments.audio, arguments.out]
    needed = [arguments.video, arguments.out] if arguments.segments else single
    if arguments.manifest is None and any(value is None for value in needed):
        raise UserError(
            "dub needs a video, speech and a result: stsa dub VIDEO AUDIO -o OUT.mp4, or VIDEO --segments LIST -o "
            "OUT.mp4, or --manifest LIST.csv"
        )
    if arguments.segments:
        _check_segments(arguments)
    if arguments.manifest is not None and any(value is not None for value in single):
        raise UserError("--manifest names videos, speech and results itself: leave VIDEO, AUDIO and --out away")
    if arguments.encoding is not None and arguments.manifest is None and arguments.segments is None:
        raise UserError("--encoding is that of --manifest or --segments LIST, which is not given")
    if arguments.between != "keep" and arguments.segments is None:
        raise UserError("--between is about --segments LIST, which is not given")
    if arguments.sound is not None and arguments.manifest is not None:
        raise UserError("--sound belongs to one dub: name it in the list, in a column sound")
    if arguments.adapt < 0:
        raise UserError(f"--adapt: expected minutes, 0 or more, got {arguments.adapt:g}")
    if arguments.adapt and arguments.manifest is not None:
        raise UserError("--adapt learns one video's speaker: dub the videos of --manifest one by one")


def _check_segments(arguments: argparse.Namespace) -> None:
    """Raises UserError for what has no meaning where segments name speech and faces."""
    if arguments.manifest is not None:
        raise UserError("--segments is one dub, --manifest many: give one of them")
    if arguments.face != "auto":
        raise UserError("--face: with --segments each row names its own, in a column face")
    if arguments.audio_track is not None:
        raise UserError("--audio-track: with --segments the default track of each speech is taken")


def _adapted(arguments: argparse.Namespace) -> Adaptation:
    from stsa_lightning.training.personalisation import adapt

    adapted = adapt(
        arguments.checkpoint,
        arguments.video,
        arguments.adapt,
        device=arguments.device,
        landmark_model=arguments.landmark_model,
        progress=progress_of(arguments),
    )
    if not arguments.json:
        print(adapted, flush=True)
    return adapted


def _print(arguments: argparse.Namespace, fields: dict, text: str, profile: str) -> None:
    print(json.dumps(fields) if arguments.json else text, flush=True)
    if arguments.profile and profile:
        print(profile, file=sys.stderr if arguments.json else sys.stdout, flush=True)
