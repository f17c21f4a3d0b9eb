"""For all tests."""

from __future__ import annotations

import faulthandler
import os
import signal
from collections.abc import Generator, Iterator

import pytest

SECONDS_TO_CLEAN_UP = 300
_errors = os.dup(2)  # where pytest does not capture


def pytest_configure() -> None:
    """A shell that runs the tests in the background passes on that interrupts are ignored, and so would the
    programs that tests start and interrupt: hear them again."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown() -> Generator[None]:
    """The time limit in pyproject.toml ends a test once. One that then waits again, for a process that does
    not end, say, takes this process with it, which is a failure too; where it waits is printed."""
    faulthandler.dump_traceback_later(SECONDS_TO_CLEAN_UP, exit=True, file=_errors)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


@pytest.fixture
def broken_bubblewrap(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A bwrap that works when it is tried and fails when it is used; what it says then."""
    said = "bwrap: Can't bind mount /oldroot/srv on /newroot/srv: Unable to mount source on destination"
    program = tmp_path_factory.mktemp("bin") / "bwrap"
    tried = 'for last; do :; done\n[ "$last" = true ] && exit 0\n'
    program.write_text(f'#!/bin/sh\n{tried}echo "{said}" >&2\nexit 1\n')
    program.chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
        _forget_walls()
        yield said
    _forget_walls()


def _forget_walls() -> None:
    from archer.verify import contain

    contain._bubblewrap.cache_clear()
    contain.walls.cache_clear()
