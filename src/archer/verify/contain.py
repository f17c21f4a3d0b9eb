"""The process wall: any command, behind every wall that this machine offers.

    with start([sys.executable, "-m", "some.module"], scratch=folder, limits=Limits()) as process:
        for line in process.lines():
            ...
    process.ending.reason     # "finished", "wall time", "memory", …

The walls, from the outside in: a process group of its own, a scrubbed environment, bubblewrap (or, without
it, namespaces of its own) against files, network and other processes, limits on memory, CPU time, files
and output, no new privileges, Landlock, and a filter of system calls. Where one is missing the others still
go up, and `walls()` says which those are. `docs/security.md` says what they cover and what they do not.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import IO, Any

from archer.errors import UserError
from archer.verify import control_group

ENCLOSE = Path(__file__).with_name("enclose.py")
PACKAGE = Path(__file__).resolve().parents[2]
STDERR_BYTES = 64 * 1024
WATCH_SECONDS = 0.2

SYSTEM_READABLE = (
    "/usr", "/lib", "/lib32", "/lib64", "/bin", "/sbin", "/etc/ld.so.cache", "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/alternatives", "/etc/localtime",
)  # fmt: skip
GPU_READABLE = ("/opt", "/etc/nvidia", "/etc/OpenCL", "/run/nvidia-persistenced", "/usr/local/nvidia")
KERNEL_READABLE = ("/proc", "/sys")
DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")

PASSED_ON = frozenset(
    """LANG LC_ALL LC_CTYPE TZ OMP_NUM_THREADS MKL_NUM_THREADS OPENBLAS_NUM_THREADS CUDA_VISIBLE_DEVICES
    CUDA_DEVICE_ORDER CUDA_HOME CUDA_PATH LD_LIBRARY_PATH NVIDIA_VISIBLE_DEVICES NVIDIA_DRIVER_CAPABILITIES
    CUBLAS_WORKSPACE_CONFIG PYTORCH_CUDA_ALLOC_CONF PYTORCH_ALLOC_CONF TORCH_LOGS TERM""".split()  # noqa: SIM905
)
"""Variables of the environment that reach the command; no key, token or address is among them."""


@dataclass(frozen=True)
class Limits:
    """What a contained command may use. memory_bytes: of address space, or, with a GPU, of resident memory of
    all its processes (watched). cpu_seconds: per process. output_bytes: standard output and error together.
    processes: 1 means that it can start none. file_bytes: of any one file that it writes."""

    memory_bytes: int = 4 * 2**30
    cpu_seconds: int = 120
    wall_seconds: float = 120.0
    processes: int = 1
    open_files: int = 256
    output_bytes: int = 4 * 2**20
    file_bytes: int = 64 * 2**20

    @property
    def tasks(self) -> int:
        """Processes and threads at which the kernel itself says no. Far above `processes`, which are counted
        from outside: a process of torch's has dozens of threads."""
        return max(512, 64 * self.processes)


@dataclass(frozen=True)
class Wall:
    """One wall: whether it is up, and what it does or why it is not."""

    name: str
    up: bool
    detail: str


@dataclass(frozen=True)
class Ending:
    """How a contained command ended. status: its exit status, negative for a signal. reason: "finished" (with
    any status of its own), "signal N", or the limit that it ran into: "wall time", "CPU time", "memory",
    "processes", "output"; "killed" if Archer stopped it. error: the end of its standard error."""

    status: int
    reason: str
    seconds: float
    error: str


class WallMissing(UserError):  # noqa: N818
    """A wall that was required is not available on this machine."""


class WallFailed(UserError):  # noqa: N818
    """This machine's failure, and not the candidate's: a wall, or the process behind the walls, did not come
    up to where it takes the candidate's code."""

    def __init__(self, wall: str, ending: Ending):
        last = next((line for line in reversed(ending.error.splitlines()) if line.strip()), "nothing")
        own = ", or take bwrap off PATH: Archer then puts up namespaces of its own"
        advice = own if wall == "bubblewrap" else ""
        ended = f"status {ending.status}" if ending.reason == "finished" else ending.reason
        super().__init__(
            f"{wall} failed at its start on this machine, before any rule's code ran; it said: "
            f"{last.strip()[:300]} ({ended}). Mend what it says{advice}; `archer doctor` shows the walls"
        )


class Contained:
    """A running contained command. Iterate `lines()`, `send` to its input, `wait` for its `Ending`."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        walls: tuple[Wall, ...],
        limits: Limits,
        group: Path | None = None,
    ):
        self.process, self.walls, self.limits, self.group = process, walls, limits, group
        self.started = time.monotonic()
        self.ending: Ending | None = None
        self._reason: str | None = None
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._error = bytearray()
        self._count = 0
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._readers = [
            threading.Thread(target=self._read_output, daemon=True),
            threading.Thread(target=self._read_error, daemon=True),
        ]
        for thread in self._readers:
            thread.start()
        threading.Thread(target=self._watch, daemon=True).start()

    @property
    def pid(self) -> int:
        """The process number of the outermost process, which leads the group."""
        return self.process.pid

    def lines(self) -> Iterator[str]:
        """The lines of its standard output as they come, without line breaks; ends when it does."""
        while (line := self._lines.get()) is not None:
            yield line

    def send(self, text: str) -> None:
        """Writes to its standard input. A command that has ended reads nothing, and that is no error."""
        assert self.process.stdin is not None
        rest = memoryview(text.encode())
        with contextlib.suppress(BrokenPipeError):
            while rest:  # a signal may cut a write to a pipe short
                rest = rest[self.process.stdin.write(rest) :]

    def close_input(self) -> None:
        """Ends its standard input."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()

    def kill(self, reason: str = "killed") -> None:
        """Ends it and everything that it started, at once."""
        with self._lock:
            self._reason = self._reason or reason
        _kill_tree(self.process, self.group)

    def wait(self, timeout: float | None = None) -> Ending:
        """How it ended. Raises subprocess.TimeoutExpired if it runs on after `timeout` seconds."""
        if self.ending is not None:
            return self.ending
        status = self.process.wait(timeout)
        _kill_tree(self.process, self.group)
        if self.group is not None:
            control_group.remove(self.group)
        self._over.set()
        for thread in self._readers:
            thread.join(timeout=5)
        self.close_input()
        if status > 128 and self._reason is None:
            status = 128 - status
        reason = self._reason or {-signal.SIGXCPU: "CPU time"}.get(
            status, f"signal {-status}" if status < 0 else "finished"
        )
        error = bytes(self._error).decode("utf-8", errors="replace")
        self.ending = Ending(status, reason, time.monotonic() - self.started, error)
        return self.ending

    def __enter__(self) -> Contained:
        return self

    def __exit__(self, *_: object) -> None:
        if self.ending is None:
            if self.process.poll() is None:
                self.kill()
            self.wait()

    def _read_output(self) -> None:
        pending = b""
        for block in self._blocks(self.process.stdout):
            *whole, pending = (pending + block).split(b"\n") if b"\n" in block else (pending + block,)
            for line in whole:
                self._lines.put(line.decode("utf-8", errors="replace"))
        if pending:
            self._lines.put(pending.decode("utf-8", errors="replace"))
        self._lines.put(None)

    def _read_error(self) -> None:
        for block in self._blocks(self.process.stderr):
            self._error += block
            del self._error[:-STDERR_BYTES]

    def _blocks(self, stream: IO[bytes] | None) -> Iterator[bytes]:
        """What comes out of a stream, up to the limit that both streams share. The block that exceeds it
        comes too: it may hold what was said before the other stream ran over."""
        assert stream is not None
        with stream:
            while block := os.read(stream.fileno(), 65_536):
                with self._lock:
                    self._count += len(block)
                    over = self._count > self.limits.output_bytes
                if over:
                    self.kill("output")
                yield block
                if over:
                    return

    def _watch(self) -> None:
        """Stops it when its time is up, or when its processes together take too much."""
        while not self._pause():
            if time.monotonic() - self.started > self.limits.wall_seconds:
                return self.kill("wall time")
            if self.process.poll() is not None:
                return None
            if self.limits.processes > 1:
                tree = _tree(self.pid)
                # Bubblewrap and the waiting processes of a namespace of its own are not the command's.
                if len(tree) > self.limits.processes + 3:
                    return self.kill("processes")
                if _resident_bytes(tree) > self.limits.memory_bytes:
                    return self.kill("memory")
        return None

    def _pause(self) -> bool:
        """Waits for the next look, less long where processes multiply: a fork bomb makes thousands in
        WATCH_SECONDS, and then leaves no processor time to count them in. Whether all is over."""
        if self.limits.processes == 1:
            return self._over.wait(WATCH_SECONDS)
        before = _threads_of_all()
        for _ in range(20):
            if self._over.wait(WATCH_SECONDS / 20):
                return True
            if _threads_of_all() > before + self.limits.processes:
                return False
        return False


def start(
    command: Sequence[str],
    *,
    scratch: Path,
    limits: Limits | None = None,
    readable: Iterable[Path | str] = (),
    writable: Iterable[Path | str] = (),
    environment: Mapping[str, str] | None = None,
    gpu: bool = False,
    require: Iterable[str] = (),
    without: Iterable[str] = (),
) -> Contained:
    """Starts a command behind every wall that this machine offers.

    scratch: a folder that it may write; its working, home and temporary folder. readable: files and folders
    beside the system's libraries, this Python's and Archer's own. writable: further folders to write (a
    compile cache). environment: variables on top of the scrubbed ones. gpu: let NVIDIA's devices and
    libraries through. require: names of walls without which it must not start. without: names of walls to
    leave out, for a machine on which one of them is in the way.
    Raises WallMissing for those, WallFailed where a wall fails at its start, and UserError where scratch is
    no folder.
    """
    limits, require, without = limits or Limits(), tuple(require), tuple(without)
    scratch = Path(scratch).resolve()
    if not scratch.is_dir():
        raise UserError(f"scratch: '{scratch}' is no folder; make it first")
    (scratch / "tmp").mkdir(exist_ok=True)
    read = _existing([*SYSTEM_READABLE, *(GPU_READABLE if gpu else ()), *_python_folders(gpu), *readable])
    write = _existing([scratch, *writable])
    devices = [*DEVICES, *(_gpu_devices() if gpu else ())]
    wrapper = None if "bubblewrap" in without else _bubblewrap()[0]
    if "bubblewrap" in require and wrapper is None:
        raise WallMissing(f"required wall not available: bubblewrap ({_bubblewrap()[1]})")
    report_read, report_write = os.pipe()
    group = None if "process limit" in without else control_group.new(limits.tasks)
    given = {
        "limits": {**asdict(limits), "tasks": limits.tasks}, "gpu": gpu, "parent": os.getpid(),
        "bubblewrap": wrapper is not None, "counted": group is not None,
        "readable": [*read, *KERNEL_READABLE], "writable": write, "devices": devices, "report": report_write,
        "require": [name for name in require if name not in OUTER], "without": list(without),
    }  # fmt: skip
    enclosed = [sys.executable, "-I", "-S", str(ENCLOSE), json.dumps(given), *command]
    if wrapper is not None:
        enclosed = [*_wrapped(wrapper, read, write, devices, scratch), *enclosed]
    variables = _environment(scratch, environment or {})
    if group is not None:
        enclosed = [*control_group.entering(group), *enclosed]
    try:
        process = _starter().submit(_popen, enclosed, scratch, variables, report_write).result()
    except BaseException:
        os.close(report_read)
        if group is not None:
            control_group.remove(group)
        raise
    finally:
        os.close(report_write)
    with os.fdopen(report_read, "rb") as report:
        inner = report.read(100_000)
    contained = Contained(process, _all_walls(inner, wrapper is not None), limits, group)
    if not inner:
        raise _failed(contained)
    _refuse_missing(contained, require)
    return contained


OUTER = ("process group", "environment", "bubblewrap")


def _refuse_missing(contained: Contained, require: Iterable[str]) -> None:
    up = {wall.name for wall in contained.walls if wall.up}
    missing = [name for name in require if name not in up]
    if missing:
        contained.kill()
        contained.wait()
        details = "; ".join(f"{w.name}: {w.detail}" for w in contained.walls if w.name in missing)
        raise WallMissing(f"required wall not available: {', '.join(missing)} ({details or 'no such wall'})")


def _failed(contained: Contained) -> WallFailed:
    """What kept the walls from coming up: the innermost part reports them before it becomes the command."""
    with contextlib.suppress(subprocess.TimeoutExpired), contained:
        contained.wait(timeout=5)
    ending = contained.wait()
    if contained.group is not None and str(contained.group) in ending.error:
        return WallFailed("the process limit", ending)
    wrapped = any(wall.up for wall in contained.walls if wall.name == "bubblewrap")
    return WallFailed("bubblewrap" if wrapped else "the process behind the walls", ending)


def _all_walls(report: bytes, wrapped: bool) -> tuple[Wall, ...]:
    inner: dict[str, Any] = json.loads(report) if report else {}
    outer = [
        Wall("process group", True, "killed as a whole"),
        Wall("environment", True, f"{len(PASSED_ON)} variables may pass, no key among them"),
        Wall("bubblewrap", wrapped, _bubblewrap()[1]),
    ]
    return (*outer, *(Wall(name, bool(up), str(detail)) for name, (up, detail) in inner.items()))


@cache
def walls() -> tuple[Wall, ...]:
    """The walls that are up around a contained command on this machine, found out by starting one."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        with start([sys.executable, "-I", "-S", "-c", "pass"], scratch=Path(folder)) as process:
            process.wait()
        return process.walls


def _popen(
    command: list[str], scratch: Path, variables: dict[str, str], report: int
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=scratch,
        env=variables,
        start_new_session=True, pass_fds=(report,), bufsize=0,
    )  # fmt: skip


@cache
def _starter() -> ThreadPoolExecutor:
    """One thread that starts all commands and lives as long as this process: "dies with its parent" means, to
    the kernel, the thread that started it."""
    return ThreadPoolExecutor(max_workers=1, thread_name_prefix="archer-contain")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_starter.cache_clear)


def _environment(scratch: Path, extra: Mapping[str, str]) -> dict[str, str]:
    passed = {name: value for name, value in os.environ.items() if name in PASSED_ON}
    folders = [str(Path(sys.executable).parent), "/usr/local/cuda/bin", "/usr/local/bin", "/usr/bin", "/bin"]
    own = {
        "PATH": os.pathsep.join(folders), "HOME": str(scratch), "TMPDIR": str(scratch / "tmp"),
        "USER": "archer",
        "LOGNAME": "archer", "PYTHONPATH": str(PACKAGE), "PYTHONSAFEPATH": "1", "PYTHONNOUSERSITE": "1",
        "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1", "PYTHONUTF8": "1", "MALLOC_ARENA_MAX": "4",
    }  # fmt: skip
    return {**passed, **own, **extra}


def _python_folders(gpu: bool) -> list[str]:
    """Where this Python, its packages and Archer lie, and the libraries that the loader was told of."""
    places = [
        sys.prefix,
        sys.base_prefix,
        sys.exec_prefix,
        str(PACKAGE),
        str(Path(sys.executable).resolve().parents[1]),
    ]
    places += _import_folders()
    if gpu:
        places += os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep)
        places += [os.environ.get("CUDA_HOME", ""), os.environ.get("CUDA_PATH", "")]
    return [place for place in places if place not in ("", "/")]


def _import_folders() -> list[str]:
    """The folders of sys.path in which the contained Python looks as well: neither PYTHONPATH's nor what
    Python puts first for a script or `-m`: with `python -m archer` the working folder, ledger and all.
    """
    entries = sys.path if sys.flags.safe_path else sys.path[1:]
    given = {os.path.abspath(entry) for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep)}
    return [entry for entry in entries if Path(entry).is_absolute() and entry not in given]


def _gpu_devices() -> list[str]:
    return [str(path) for path in sorted(Path("/dev").glob("nvidia*"))]


def _existing(paths: Iterable[Path | str]) -> list[str]:
    """Those that exist, each once; as given and as resolved, so that links lead somewhere."""
    found = [place for path in paths for place in (str(path), os.path.realpath(path)) if os.path.exists(path)]
    return list(dict.fromkeys(found))


@cache
def _bubblewrap() -> tuple[str | None, str]:
    """The program, if it works here, and what it does or why it does not."""
    program = shutil.which("bwrap")
    if program is None:
        return None, "bwrap is not installed (Debian package: bubblewrap)"
    asked = [
        program,
        "--unshare-all",
        "--die-with-parent",
        "--ro-bind",
        "/",
        "/",
        "--dev",
        "/dev",
        "--proc",
        "/proc",
    ]
    try:
        ended = subprocess.run([*asked, "true"], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return None, str(error)
    if ended.returncode != 0:
        return None, (ended.stderr.strip().splitlines() or ["it failed"])[-1]
    return program, "no network, no other process, a file system of libraries and scratch only"


def _wrapped(
    program: str, readable: list[str], writable: list[str], devices: list[str], scratch: Path
) -> list[str]:
    """Bubblewrap's command line: an empty file system with only what is listed in it."""
    arguments = [
        program,
        "--unshare-all",
        "--die-with-parent",
        "--proc",
        "/proc",
        "--dev",
        "/dev",
        "--tmpfs",
        "/tmp",
    ]
    arguments += ["--ro-bind-try", "/sys", "/sys"]
    for path in _outermost(readable):
        arguments += ["--ro-bind-try", path, path]
    for device in devices:
        if device not in DEVICES:
            arguments += ["--dev-bind-try", device, device]
    for path in writable:
        arguments += ["--bind", path, path]
    return [*arguments, "--chdir", str(scratch), "--"]


def _outermost(paths: Iterable[str]) -> list[str]:
    """Those that lie in no other of them. What is bound brings its content along, and nothing can be mounted
    on a symbolic link in it (a `.venv` that is one, in a folder of `sys.path`)."""
    found: list[str] = []
    for path in sorted(paths, key=lambda p: p.count("/")):
        if not any(Path(path).is_relative_to(outer) for outer in found):
            found.append(path)
    return found


def _threads_of_all() -> int:
    """Threads on this machine, whoever's; 0 where the system does not say."""
    with contextlib.suppress(OSError), open("/proc/loadavg") as file:
        return int(file.read().split()[3].partition("/")[2])
    return 0


def _parents() -> dict[int, int]:
    """Process number to parent's, of every process in sight."""
    found: dict[int, int] = {}
    for entry in os.listdir("/proc") if os.path.isdir("/proc") else ():
        if entry.isdigit():
            with contextlib.suppress(OSError, IndexError, ValueError), open(f"/proc/{entry}/stat") as file:
                found[int(entry)] = int(file.read().rpartition(")")[2].split()[1])
    return found


def _tree(root: int) -> list[int]:
    """`root` and all its descendants."""
    children: dict[int, list[int]] = {}
    for process, parent in _parents().items():
        children.setdefault(parent, []).append(process)
    found, waiting = [root], [root]
    while waiting:
        fresh = children.get(waiting.pop(), [])
        found += fresh
        waiting += fresh
    return found


def _resident_bytes(processes: Iterable[int]) -> int:
    total = 0
    for process in processes:
        with contextlib.suppress(OSError, IndexError, ValueError), open(f"/proc/{process}/statm") as file:
            total += int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return total


def _kill_tree(process: subprocess.Popen[bytes], group: Path | None) -> None:
    """Kills the process group, and whoever left it but neither the family nor the control group. Stopped, it
    cannot grow meanwhile."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGSTOP)
    family = _tree(process.pid) if process.poll() is None else []
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    for member in {*family[1:], *(control_group.members(group) if group is not None else ())}:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(member, signal.SIGKILL)


def read_scratch(scratch: Path, name: str, limit: int = 64 * 2**20) -> bytes:
    """A file that a contained command left in its scratch folder, read with distrust.

    name: relative to scratch, without `..`. Raises UserError for a path that leads out, a symbolic link
    anywhere in it, anything but a regular file, or more than `limit` bytes.
    """
    parts = Path(name).parts
    if not parts or Path(name).is_absolute() or ".." in parts:
        raise UserError(f"'{name}' leads out of the scratch folder; a plain name is expected")
    handle = os.open(scratch, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for part in parts:
            last = part is parts[-1]
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | (0 if last else os.O_DIRECTORY)
            deeper = os.open(part, flags, dir_fd=handle)
            os.close(handle)
            handle = deeper
        kind = os.fstat(handle)
        if not stat.S_ISREG(kind.st_mode) or kind.st_nlink > 1:
            raise UserError(f"'{name}' in scratch is no regular file of its own")
        if kind.st_size > limit:
            raise UserError(f"'{name}' in scratch has {kind.st_size:,} bytes; at most {limit:,} are read")
        with os.fdopen(os.dup(handle), "rb") as file:
            return file.read(limit)
    except OSError as error:
        raise UserError(f"'{name}' in scratch cannot be read: {error.strerror}") from error
    finally:
        os.close(handle)
