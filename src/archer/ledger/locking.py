"""One process per project folder, so that no cycle is done twice.

The lock is the kernel's (flock): it ends with the process that holds it, also after `kill -9`. A process
forked from the holder shares the lock until it ends too, which is right: it may still be training. The file
itself stays; it only says who holds the lock.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from archer.ledger.problems import LockError

LOCK_NAME = ".archer.lock"


@contextmanager
def project_lock(folder: str | Path, wait: bool = False) -> Iterator[Path]:
    """Hold the project folder (made if it is not there) for as long as the block runs.

    wait: wait for another holder to end, instead of refusing at once.

    Raises:
        LockError: where another process holds the folder (it says which), or the folder cannot be used.
    """
    path = Path(folder) / LOCK_NAME
    descriptor = _open(path)
    try:
        _lock(descriptor, path, wait)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield path
    finally:
        os.close(descriptor)


def _open(path: Path) -> int:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        why = error.strerror
        if path.parent.is_file():
            why = "it is a file; give a folder, which need not exist yet"
        raise LockError(f"the project folder {path.parent} cannot be used: {why}") from error


def _lock(descriptor: int, path: Path, wait: bool) -> None:
    import fcntl  # Unix only, and only where a lock is taken

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError as error:
        raise LockError(
            f"the project folder {path.parent} is in use by {_holder(descriptor)}: wait until it ends, "
            "or give another folder"
        ) from error
    except OSError as error:
        raise LockError(f"{path} cannot be locked: {error.strerror}; use a folder on a local disk") from error


def _holder(descriptor: int) -> str:
    text = os.pread(descriptor, 32, 0).decode(errors="replace").strip()
    if not text.isdecimal():
        return "another process"
    return f"this process ({text}) already" if int(text) == os.getpid() else f"process {text}"
