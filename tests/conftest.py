"""For all tests."""

from __future__ import annotations

import signal


def pytest_configure() -> None:
    """A shell that runs the tests in the background passes on that interrupts are ignored, and so would the
    programs that tests start and interrupt: hear them again."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
