"""A limit on processes that binds root too: a control group of the kernel's for one command.

RLIMIT_NPROC does not bind root, and counts all processes of a user. A control group with a `pids.max` counts
what runs in it, whoever it is. It is made beneath the group of this process, so that whatever limits this
process (a container's, a batch system's) holds for the command as well. Sources: cgroups(7), the kernel's
cgroup-v1/pids and cgroup-v2.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
import time
from functools import cache
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
ENTER = 'echo 0 > "$0" && exec "$@"'


@cache
def available() -> tuple[Path | None, str]:
    """The folder in which groups can be made, found out by making one, or None; and why not, or what for."""
    try:
        folder = _own_folder()
        _remove_stale(folder)
        group = make(folder, 9)
        command = [*entering(group), "cat", "/proc/self/cgroup"]
        said = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
        remove(group)
    except (OSError, subprocess.TimeoutExpired) as error:
        return None, f"no control group can be made: {error}"
    if group.name not in said.stdout:
        return None, f"no control group can be entered: {said.stderr.strip()}"
    return folder, "counted by the kernel in a control group"


def new(most: int) -> Path | None:
    """A new group for at most so many processes and threads, or None where none can be made."""
    folder = available()[0]
    with contextlib.suppress(OSError):
        return make(folder, most) if folder is not None else None
    return None


def make(folder: Path, most: int) -> Path:
    """A new group for at most so many processes and threads. Raises OSError where that is not allowed."""
    group = folder / f"archer-{os.getpid()}-{secrets.token_hex(4)}"
    group.mkdir()
    (group / "pids.max").write_text(str(most))
    return group


def entering(group: Path) -> list[str]:
    """What to put before a command, so that it runs in the group."""
    return ["/bin/sh", "-c", ENTER, str(group / "cgroup.procs")]


def members(group: Path) -> list[int]:
    """The numbers of the processes in a group; none where it is gone."""
    with contextlib.suppress(OSError):
        return [int(line) for line in (group / "cgroup.procs").read_text().split()]
    return []


def remove(group: Path) -> None:
    """Removes a group whose processes were ended; they may take a moment to be gone."""
    for _ in range(100):
        with contextlib.suppress(OSError):
            group.rmdir()
        if not group.exists():
            return
        time.sleep(0.02)


def _own_folder() -> Path:
    """The group of this process, of the hierarchy that counts processes. Raises OSError where none can."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        folder = ROOT / ("" if not controllers else "pids") / path.lstrip("/")
        if "pids" in controllers.split(","):
            return folder
        if not controllers and "pids" in (folder / "cgroup.subtree_control").read_text().split():
            return folder
    raise OSError("the kernel counts processes in no group below this process's")


def _remove_stale(folder: Path) -> None:
    """Empty groups of Archer processes that were killed before they could remove them."""
    for group in folder.glob("archer-*-*"):
        if not Path("/proc", group.name.split("-")[1]).exists():
            with contextlib.suppress(OSError):
                group.rmdir()
