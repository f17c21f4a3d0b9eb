"""Puts up the walls around itself, says which are up, and becomes the command. Runs as a script of its own.

    python -I -S enclose.py '{"limits": …}' command argument …

Only the standard library, and no import of Archer: it starts in a few hundredths of a second. Each wall
is tried; where the system does not offer it, the next still goes up. Sources: prctl(2), setrlimit(2),
landlock(7), seccomp(2), unshare(2) and the kernel's headers for the numbers.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import platform
import resource
import signal
import struct
import sys
from collections.abc import Callable

libc = ctypes.CDLL(None, use_errno=True)

PR_SET_PDEATHSIG, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 1, 24, 38
CLONE_NEWNS, CLONE_NEWIPC, CLONE_NEWUSER = 0x20000, 0x8000000, 0x10000000
CLONE_NEWPID, CLONE_NEWNET, CLONE_THREAD = 0x20000000, 0x40000000, 0x10000
NEW_NAMESPACES = 0x7E020080
NAMESPACES = (
    CLONE_NEWUSER | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWPID | CLONE_NEWNS,
    CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWPID | CLONE_NEWNS,
    CLONE_NEWUSER | CLONE_NEWNET,
    CLONE_NEWNET,
)
"""Sets of namespaces to try, the most first."""
MS_REC_PRIVATE, MS_NOSUID_NODEV_NOEXEC = 0x44000, 0xE

# Landlock: rights over files, by the version of the interface that knows them.
EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1, 2, 4, 8
IOCTL_DEVICE = 1 << 15
MAKE_DEVICES = (1 << 6) | (1 << 11)
RIGHTS_BY_VERSION = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1, 5: (1 << 16) - 1}
FILE_RIGHTS = EXECUTE | WRITE_FILE | READ_FILE | (1 << 14) | IOCTL_DEVICE


def failed(call: str) -> str:
    """What the last system call complained of."""
    return f"{call}: {os.strerror(ctypes.get_errno())}"


def limit_resources(limits: dict, gpu: bool) -> tuple[bool, str]:
    """Limits of this process and all that it starts. CUDA reserves address space without end, so with a GPU
    the memory is only watched from outside."""
    wanted = {
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_CPU: limits["cpu_seconds"],
        resource.RLIMIT_NOFILE: limits["open_files"],
        resource.RLIMIT_FSIZE: limits["file_bytes"],
    }
    if not gpu:
        wanted[resource.RLIMIT_AS] = limits["memory_bytes"]
    for kind, value in wanted.items():
        _, hard = resource.getrlimit(kind)
        value = int(value) if hard == resource.RLIM_INFINITY else min(int(value), hard)
        # The processor's limit first warns (SIGXCPU), then kills.
        grace = 5 if kind == resource.RLIMIT_CPU else 0
        high = value + grace if hard == resource.RLIM_INFINITY else min(value + grace, hard)
        resource.setrlimit(kind, (value, high))
    return True, f"{limits['cpu_seconds']} CPU seconds, {limits['open_files']} files, " + (
        "memory watched" if gpu else f"{limits['memory_bytes'] >> 20} MiB"
    )


def limit_processes(most: int, counted: bool, own_users: bool) -> tuple[bool, str]:
    """The kernel's own limit on processes and threads: a control group that was entered before (`counted`),
    or the user's, which does not bind root and would count all processes of a user without a namespace."""
    if counted:
        return True, f"the kernel refuses more than {most} processes and threads (control group)"
    if os.getuid() == 0:
        return False, "root, and no control group can be made: processes are counted from outside only"
    if not own_users:
        return False, "no user namespace: processes are counted from outside only"
    hard = resource.getrlimit(resource.RLIMIT_NPROC)[1]
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(resource.RLIMIT_NPROC, (most, most))
    return True, f"the kernel refuses more than {most} processes and threads (user namespace)"


def no_new_privileges() -> tuple[bool, str]:
    """No set-user-id program lends its rights, and root's own are dropped."""
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        return False, failed("prctl")
    if os.geteuid() == 0:
        for capability in range(64):
            libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)
        header = struct.pack("II", 0x20080522, 0)
        libc.capset(ctypes.create_string_buffer(header), ctypes.create_string_buffer(24))
    return True, "no set-user-id program, no capability"


def die_with_parent(parent: int) -> tuple[bool, str]:
    """Killed by the kernel when the process that started it ends."""
    if libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0):
        return False, failed("prctl")
    if parent and os.getppid() != parent:
        os._exit(137)
    return True, "killed when the process that started it ends"


def attempt(wall: Callable[..., tuple[bool, str]], *arguments: object) -> tuple[bool, str]:
    """Puts up one wall; whatever keeps it from going up is its detail, and no reason to stop."""
    try:
        return wall(*arguments)
    except (OSError, ValueError, AttributeError, KeyError) as error:
        return False, f"{type(error).__name__}: {error}"


def own_namespaces() -> dict[str, tuple[bool, str]]:
    """A network without devices and, where it may, a process tree of its own (without bubblewrap).

    Returns in the process that is to become the command; the one that called it stays and waits.
    """
    down = (False, "the kernel or the container forbids it")
    flags = next((x for x in NAMESPACES if _possible(x)), None)
    if flags is None:
        return {"network namespace": down, "process namespace": down, "user namespace": down}
    _enter(flags)
    found = {"network namespace": (True, "a network without devices"), "process namespace": down}
    if flags & CLONE_NEWPID:
        _become_grandchild()
        libc.mount(b"none", b"/", None, MS_REC_PRIVATE, None)
        hidden = libc.mount(b"proc", b"/proc", b"proc", MS_NOSUID_NODEV_NOEXEC, None) == 0
        words = "sees no other process" if hidden else "sees other processes, and cannot signal them"
        found["process namespace"] = (True, words)
    users = bool(flags & CLONE_NEWUSER)
    return {**found, "user namespace": (True, "its rights end at the namespace") if users else down}


def _possible(flags: int) -> bool:
    """Whether a child may enter these namespaces: found out by a child, so that failing leaves no trace."""
    child = os.fork()
    if child == 0:
        try:
            _enter(flags)
            os._exit(0)
        except (OSError, AttributeError):
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def _enter(flags: int) -> None:
    user, group = os.getuid(), os.getgid()
    if libc.unshare(flags):
        raise OSError(failed("unshare"))
    if flags & CLONE_NEWUSER:
        _map_user(user, group)


def _map_user(user: int, group: int) -> None:
    for path, text in (
        ("/proc/self/setgroups", "deny"),
        ("/proc/self/uid_map", f"{user} {user} 1"),
        ("/proc/self/gid_map", f"{group} {group} 1"),
    ):
        with open(path, "w") as file:
            file.write(text)


def _become_grandchild() -> None:
    """The first child is process 1 of the new tree: it waits for the second, which is the command."""
    for _ in range(2):
        child = os.fork()
        if child == 0:
            libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            continue
        for descriptor in range(3, 256):
            try:
                os.close(descriptor)
            except OSError:
                continue
        _wait_and_leave(child)


def _wait_and_leave(child: int) -> None:
    while True:
        try:
            ended, status = os.wait()
        except InterruptedError:
            continue
        except ChildProcessError:
            os._exit(1)
        if ended == child:
            code = os.waitstatus_to_exitcode(status)
            os._exit(128 - code if code < 0 else code)


def landlock(readable: list[str], writable: list[str], devices: list[str]) -> tuple[bool, str]:
    """Files: reading beneath `readable`, writing beneath `writable`, nothing else anywhere."""
    version = libc.syscall(444, None, 0, 1)
    if version < 1:
        return False, failed("landlock_create_ruleset")
    handled = RIGHTS_BY_VERSION[min(version, 5)]
    network = 3 if version >= 4 else 0
    scoped = 3 if version >= 6 else 0
    attribute = struct.pack("QQQ", handled, network, scoped)[
        : 8 if version < 4 else 16 if version < 6 else 24
    ]
    ruleset = libc.syscall(444, ctypes.c_char_p(attribute), ctypes.c_size_t(len(attribute)), 0)
    if ruleset < 0:
        return False, failed("landlock_create_ruleset")
    read = EXECUTE | READ_FILE | READ_DIR
    device = WRITE_FILE | READ_FILE | READ_DIR | IOCTL_DEVICE
    everything = handled & ~MAKE_DEVICES & ~EXECUTE
    for paths, rights in ((readable, read), (devices, device), (writable, everything)):
        for path in paths:
            _allow(ruleset, path, rights & handled)
    if libc.syscall(446, ruleset, 0):
        return False, failed("landlock_restrict_self")
    os.close(ruleset)
    return True, f"version {version}: reads its libraries, writes its scratch folder"


def _allow(ruleset: int, path: str, rights: int) -> None:
    try:
        handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return  # what is not there needs no right
    if not os.path.isdir(path):
        rights &= FILE_RIGHTS
    libc.syscall(445, ruleset, 1, ctypes.c_char_p(struct.pack("=Qi", rights, handle)), 0)
    os.close(handle)


SYSTEM_CALLS = {
    "x86_64": (0xC000003E, {
        "refused": (
            101, 103, 153, 155, 159, 161, 163, 164, 165, 166, 167, 168, 169, 170, 171, 172, 173, 175, 176,
            179, 227, 246, 248, 249, 250, 272, 298, 304, 305, 308, 310, 311, 312, 313, 320, 321, 323, 424,
            425, 426, 427, 428, 429, 430, 431, 432, 433, 438, 442,
        ),
        "processes": (57, 58), "clone": 56, "clone3": 435, "socket": 41, "kill": (62, 200), "tgkill": 234,
    }),
    "aarch64": (0xC00000B7, {
        "refused": (
            39, 40, 41, 51, 58, 60, 89, 97, 104, 105, 106, 112, 116, 117, 142, 161, 162, 170, 171, 217, 218,
            219, 224, 225, 241, 265, 266, 268, 270, 271, 272, 273, 280, 282, 294, 424, 425, 426, 427, 428,
            429, 430, 431, 432, 433, 438, 442,
        ),
        "processes": (), "clone": 220, "clone3": 435, "socket": 198, "kill": (129, 130), "tgkill": 131,
    }),
}  # fmt: skip
"""System calls by machine: refused are ptrace and its kin, mounts, namespaces, kernel modules, keys, bpf,
io_uring (which would open sockets past this filter), clocks, and signals by file descriptor."""

ALLOW, REFUSE, UNKNOWN = 0x7FFF0000, 0x50000 | errno.EPERM, 0x50000 | errno.ENOSYS
LOAD, EQUAL, ANY_BIT, GREATER_EQUAL, RETURN = 0x20, 0x15, 0x45, 0x35, 0x06


def program(machine: str, alone: bool, local_sockets: bool, own: int, shielded: tuple[int, ...]) -> bytes:
    """The seccomp filter. alone: no further processes. local_sockets: sockets within the machine are allowed.
    own: this process, which may signal itself; shielded: process numbers that it may not signal."""
    architecture, calls = SYSTEM_CALLS[machine]
    code = [(LOAD, 0, 0, 4), (EQUAL, 1, 0, architecture), (RETURN, 0, 0, REFUSE), (LOAD, 0, 0, 0)]
    if machine == "x86_64":
        code += [(GREATER_EQUAL, 0, 1, 0x40000000), (RETURN, 0, 0, REFUSE)]

    def on(number: int, *then: tuple[int, int, int, int]) -> None:
        code.extend([(EQUAL, 0, len(then), number), *then])

    for number in (*calls["refused"], *(calls["processes"] if alone else ())):
        on(number, (RETURN, 0, 0, REFUSE))
    on(calls["clone3"], (RETURN, 0, 0, UNKNOWN))  # its flags are out of sight; clone's are not
    flags = [(LOAD, 0, 0, 16), (ANY_BIT, 0, 1, NEW_NAMESPACES), (RETURN, 0, 0, REFUSE)]
    if alone:
        flags += [(ANY_BIT, 1, 0, CLONE_THREAD), (RETURN, 0, 0, REFUSE)]
    on(calls["clone"], *flags, (RETURN, 0, 0, ALLOW))
    local = [(LOAD, 0, 0, 16), (EQUAL, 0, 1, 1), (RETURN, 0, 0, ALLOW)] if local_sockets else []
    on(calls["socket"], *local, (RETURN, 0, 0, REFUSE))
    for number in (*calls["kill"], calls["tgkill"]):
        if alone:
            self_only = [(LOAD, 0, 0, 16), (EQUAL, 0, 1, own), (RETURN, 0, 0, ALLOW), (RETURN, 0, 0, REFUSE)]
            if number in calls["kill"][1:]:
                self_only = [(RETURN, 0, 0, ALLOW)] if not shielded else [(RETURN, 0, 0, REFUSE)]
            on(number, *self_only)
        else:
            refused = [
                x for other in (*shielded, 0xFFFFFFFF) for x in ((EQUAL, 0, 1, other), (RETURN, 0, 0, REFUSE))
            ]
            on(number, (LOAD, 0, 0, 16), *refused, (RETURN, 0, 0, ALLOW))
    code.append((RETURN, 0, 0, ALLOW))
    return b"".join(struct.pack("HBBI", *instruction) for instruction in code)


def filter_calls(alone: bool, gpu: bool, shielded: tuple[int, ...]) -> tuple[bool, str]:
    """Refuses sockets, further processes where none are wanted, and what reaches into other processes."""
    machine = platform.machine()
    if machine not in SYSTEM_CALLS:
        return False, f"no table of system calls for {machine}"
    code = program(machine, alone, gpu, os.getpid(), shielded)
    buffer = ctypes.create_string_buffer(code, len(code))
    header = struct.pack("HxxxxxxP", len(code) // 8, ctypes.addressof(buffer))
    if libc.prctl(22, 2, ctypes.c_char_p(header), 0, 0):
        return False, failed("prctl")
    return True, "no sockets, no mounts, no other process" + (", no child process" if alone else "")


def main() -> None:
    """Puts up what can be put up, reports on the descriptor `report`, and becomes the command."""
    given, command = json.loads(sys.argv[1]), sys.argv[2:]
    limits, gpu, inside = given["limits"], given["gpu"], given["bubblewrap"]
    without, left_out = given["without"], (False, "left out on request")
    up: dict[str, tuple[bool, str]] = {}
    up["dies with its parent"] = attempt(die_with_parent, 0 if inside else given["parent"])
    if not inside:
        up |= {"network namespace": left_out} if "network namespace" in without else own_namespaces()
    own_users = inside or up.get("user namespace", (False, ""))[0]
    up["limits"] = attempt(limit_resources, limits, gpu)
    up["process limit"] = (
        left_out
        if "process limit" in without
        else attempt(limit_processes, limits["tasks"], given["counted"], own_users)
    )
    up["no new privileges"] = attempt(no_new_privileges)
    own_threads = (
        ["/proc/self/task"] if gpu else []
    )  # CUDA names its threads there, and gives up where it cannot
    asked = (given["readable"], [*given["writable"], *own_threads], given["devices"])
    up["Landlock"] = left_out if "Landlock" in without else attempt(landlock, *asked)
    own_tree = inside or up.get("process namespace", (False, ""))[0]
    shielded = () if own_tree else (given["parent"], os.getppid())
    alone = limits["processes"] == 1
    up["system calls"] = (
        left_out if "system calls" in without else attempt(filter_calls, alone, gpu, shielded)
    )
    text = json.dumps({name: list(value) for name, value in up.items()})
    os.write(given["report"], text.encode())
    os.close(given["report"])
    missing = [name for name in given["require"] if not up.get(name, (False, ""))[0]]
    if missing:
        sys.stderr.write(f"required wall not available: {', '.join(missing)}\n")
        os._exit(125)
    try:
        os.execvpe(command[0], command, os.environ)
    except OSError as error:
        sys.stderr.write(f"{command[0]}: {error}\n")
        os._exit(127)


if __name__ == "__main__":
    main()
