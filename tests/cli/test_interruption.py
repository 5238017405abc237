"""Ctrl-C ends a command with status 130, whatever the library that it struck makes of it."""

from __future__ import annotations

import _thread
import signal
import sys
import threading
import time
from typing import Any

import pytest

from stsa_lightning import cli
from stsa_lightning.utils.errors import UserError


def _plain() -> None:
    signal.raise_signal(signal.SIGINT)


def _an_import_that_fails() -> None:
    try:
        signal.raise_signal(signal.SIGINT)
    except KeyboardInterrupt as error:
        raise ImportError("a library did not load") from error


def _a_file_that_cannot_be_read() -> None:
    try:
        signal.raise_signal(signal.SIGINT)
    except KeyboardInterrupt as error:
        raise UserError("a.mp4: no video") from error


class _Holder:
    def __del__(self) -> None:
        signal.raise_signal(signal.SIGINT)
        time.sleep(0)  # where Python looks for signals


def _a_destructor() -> None:
    _Holder()
    for _ in range(1000):
        time.sleep(0.001)
    pytest.fail("it went on")


@pytest.mark.parametrize("struck", [_plain, _an_import_that_fails, _a_file_that_cannot_be_read, _a_destructor])
def test_ctrl_c_ends_a_command(struck, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(cli, "run", lambda _words: struck())
    answer, hook = signal.getsignal(signal.SIGINT), sys.unraisablehook
    with pytest.raises(SystemExit) as ended:
        cli.main(["weights"])
    assert ended.value.code == 130
    output = capsys.readouterr().err
    assert output == "stsa: stopped; what is finished stands, and the same command goes on from there\n"
    assert signal.getsignal(signal.SIGINT) is answer
    assert sys.unraisablehook is hook


def test_ctrl_c_ends_a_command_while_python_tells_of_one_that_it_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine so busy that what strikes again comes before the hook has returned."""
    start, begun = _thread.start_new_thread, list[Any]()

    def start_late(*given: Any) -> int:
        begun.append(given)
        if len(begun) == 1:
            signal.raise_signal(signal.SIGINT)
            return 0
        return start(*given)

    monkeypatch.setattr(_thread, "start_new_thread", start_late)
    monkeypatch.setattr(cli, "run", lambda _words: _a_destructor())
    with pytest.raises(SystemExit) as ended:
        cli.main(["weights"])
    assert ended.value.code == 130
    assert len(begun) > 1


def test_an_error_of_its_own_stays_one(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(_words: list[str]) -> None:
        raise UserError("a.mp4: no video")

    monkeypatch.setattr(cli, "run", fail)
    with pytest.raises(SystemExit) as ended:
        cli.main(["weights"])
    assert (ended.value.code, capsys.readouterr().err) == (2, "stsa: a.mp4: no video\n")


def test_an_ignored_signal_stays_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "run", lambda _words: signal.raise_signal(signal.SIGINT))
    answer = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        cli.main(["weights"])
    finally:
        signal.signal(signal.SIGINT, answer)


def test_commands_may_be_called_from_another_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    done = threading.Event()
    monkeypatch.setattr(cli, "run", lambda _words: done.set())
    thread = threading.Thread(target=cli.main, args=(["weights"],))
    thread.start()
    thread.join()
    assert done.is_set()
