"""Ctrl-C and, where asked for, SIGTERM end a command, whatever the library that they struck makes of it.

Python raises `KeyboardInterrupt` wherever the main thread happens to be. In an import or while a file is being opened
a library may answer with an error of its own, which would be shown as a fault; in a destructor or a callback Python
itself drops it, and the command would go on.
"""

from __future__ import annotations

import _thread
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


@contextmanager
def stopped_by(*signals: signal.Signals) -> Iterator[None]:
    """Ends the process with one line and exit code 130 (SIGINT) or 143 (SIGTERM), if such a signal ended the block.

    Where a signal is ignored or answered already, as SIGINT in a job of a shell script, its handler stands.
    """
    asked = list[int]()
    unraisable = sys.unraisablehook

    def interrupt(number: int, frame: FrameType | None) -> None:
        asked.append(number)
        if not _called_by(frame, again):
            raise KeyboardInterrupt
        _thread.start_new_thread(_strike, (number,))

    def again(dropped: sys.UnraisableHookArgs) -> None:
        """In here, however long the machine takes over it, an exception is dropped once more."""
        if issubclass(dropped.exc_type, KeyboardInterrupt):
            _thread.start_new_thread(_strike, (asked[0] if asked else signal.SIGINT,))
        else:
            unraisable(dropped)

    handlers = {number: signal.getsignal(number) for number in signals}
    unanswered = (signal.default_int_handler, signal.SIG_DFL)
    ours = [number for number, handler in handlers.items() if handler in unanswered]
    if threading.current_thread() is not threading.main_thread():
        ours = []
    for number in ours:
        signal.signal(number, interrupt)
        sys.unraisablehook = again
    try:
        yield
    except (KeyboardInterrupt, Exception) as error:
        if not asked and not isinstance(error, KeyboardInterrupt):
            raise
        print("stsa: stopped; what is finished stands, and the same command goes on from there", file=sys.stderr)
        sys.exit(128 + (asked[0] if asked else signal.SIGINT))
    finally:
        for number in ours:
            signal.signal(number, handlers[number])
            sys.unraisablehook = unraisable


def _strike(number: int) -> None:
    time.sleep(0.01)
    _thread.interrupt_main(signal.Signals(number))


def _called_by(frame: FrameType | None, function: Callable[..., Any]) -> bool:
    while frame is not None and frame.f_code is not function.__code__:
        frame = frame.f_back
    return frame is not None
