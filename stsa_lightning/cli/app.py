"""`stsa app`: the page on which people dub."""

from __future__ import annotations

import argparse
import os
import signal

from stsa_lightning.cli.command import add_networks, command
from stsa_lightning.utils.errors import MissingPackageError, UserError
from stsa_lightning.utils.scratch import scratch_folder


def add(commands: argparse._SubParsersAction) -> None:
    parser = command(
        commands,
        "app",
        _app,
        "a page in the browser: upload, dub, compare, download; and the same for programs, by HTTP",
    )
    add_networks(parser)
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on; 0.0.0.0 lets other machines in: whoever reaches it may dub, and fetch anybody's "
        "upload or result whose path on this machine he knows",
    )
    parser.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="another name under which browsers reach the page, such as a proxy's; may be given several times. "
        "Requests to other names, or from other sites' pages, are refused",
    )
    parser.add_argument("--port", type=int, default=7860)
    parser.add_argument("--max-seconds", type=float, default=60.0, help="longest video and speech that is taken")
    parser.add_argument("--max-mb", type=int, default=200, help="largest file that is taken")
    parser.add_argument("--max-waiting", type=int, default=16, help="dubs that may wait for their turn")
    parser.add_argument("--no-check", dest="check", action="store_false", help="see `stsa dub`")


def _app(arguments: argparse.Namespace) -> None:
    if not 0 < arguments.port < 2**16:
        raise UserError(f"--port must be from 1 to 65535, got {arguments.port}")
    if arguments.max_seconds <= 0 or arguments.max_mb <= 0 or arguments.max_waiting <= 0:
        raise UserError("--max-seconds, --max-mb and --max-waiting must be positive")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with scratch_folder("stsa-app-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = str(folder / "gradio")  # read by Gradio when it is imported
        try:
            from stsa_lightning.app.page import serve
        except ModuleNotFoundError as error:
            if error.name != "gradio":
                raise
            raise MissingPackageError("stsa app needs Gradio: pip install 'stsa_lightning[app]'") from error
        from stsa_lightning.app.limits import Limits
        from stsa_lightning.app.same_origin import TrustedHosts
        from stsa_lightning.dubbing import Dubber

        dubber = Dubber.from_checkpoint(arguments.checkpoint, device=arguments.device, check=arguments.check)
        limits = Limits(arguments.max_seconds, arguments.max_mb, arguments.max_waiting)
        trusted = TrustedHosts(arguments.host, arguments.allow_host)
        serve(dubber, limits, folder, trusted, arguments.port)
