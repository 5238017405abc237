"""Ctrl-C ends a command, whatever the library that it struck makes of it.

Python raises `KeyboardInterrupt` wherever the main thread happens to be. In an import or while a file is being opened
a library may answer with an error of its own, which would be shown as a fault; in a destructor or a callback Python
itself drops it, and the command would go on.
"""

from __future__ import annotations

import _thread
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn


@contextmanager
def stopped_by_ctrl_c() -> Iterator[None]:
    """Ends the process with exit code 130 and one line, if Ctrl-C is what ended the block.

    Where SIGINT is ignored or answered already, as in a job of a shell script, its handler stands.
    """
    asked = threading.Event()
    handler, unraisable = signal.getsignal(signal.SIGINT), sys.unraisablehook

    def interrupt(_signal: int, _frame: FrameType | None) -> NoReturn:
        asked.set()
        raise KeyboardInterrupt

    def again(dropped: sys.UnraisableHookArgs) -> None:
        if issubclass(dropped.exc_type, KeyboardInterrupt):
            threading.Timer(0.01, _thread.interrupt_main).start()  # here it would be dropped once more
        else:
            unraisable(dropped)

    ours = handler is signal.default_int_handler and threading.current_thread() is threading.main_thread()
    if ours:
        signal.signal(signal.SIGINT, interrupt)
        sys.unraisablehook = again
    try:
        yield
    except (KeyboardInterrupt, Exception) as error:
        if not asked.is_set() and not isinstance(error, KeyboardInterrupt):
            raise
        print("stsa: stopped; what is finished stands, and the same command goes on from there", file=sys.stderr)
        sys.exit(130)
    finally:
        if ours:
            signal.signal(signal.SIGINT, handler)
            sys.unraisablehook = unraisable
