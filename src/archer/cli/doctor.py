"""`archer doctor`: what this machine has and what of it will be used. It looks and changes nothing.

A thing that cannot be found out is None (JSON) or "unknown" (table), never a guess.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import tempfile
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from archer import __version__
from archer.cli.console import print_json, results
from archer.errors import UserError

if TYPE_CHECKING:
    from rich.table import Table

    from archer.ledger.records import RunRecord
    from archer.verify.contain import Wall

EXTRAS = {"fla": ("fla", "triton", "einops"), "llm": ("pydantic_ai", "openai"), "mcp": ("mcp",)}
"""Optional extra: the modules that it brings."""

PROBE_SECONDS = 10


@dataclass(frozen=True)
class Device:
    """Something that can train. memory_bytes: all that it has; free_bytes: what nobody uses now."""

    kind: str
    name: str
    memory_bytes: int | None
    free_bytes: int | None


@dataclass(frozen=True)
class Folder:
    """A place that will be written to, with the free disk there."""

    path: str
    exists: bool
    free_bytes: int | None


@dataclass(frozen=True)
class Machine:
    """Everything that `archer doctor` reports. used: the device that a run takes without being asked.
    walls: those around generated code, found out by starting a process behind them."""

    archer: str
    revision: str | None
    python: str
    platform: str
    torch: str | None
    cuda: str | None
    cores: int
    memory_bytes: int | None
    available_bytes: int | None
    devices: tuple[Device, ...]
    used: str
    project: Folder
    compile_cache: Folder
    extras: dict[str, bool]
    walls: tuple[Wall, ...]
    problems: tuple[str, ...]


def command(
    project: Annotated[
        Path,
        typer.Option("--project", "-p", metavar="DIR", help="The project folder whose disk is looked at."),
    ] = Path("archer-project"),
    presets: Annotated[
        bool, typer.Option("--presets", help="Instead: how well cheap presets predict dearer ones.")
    ] = False,
    results_folder: Annotated[
        Path | None,
        typer.Option("--results", metavar="DIR", help="With --presets: a folder with quick.csv, full.csv …"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """What this machine has, and what of it is used. Exit status 1 where something keeps Archer from
    training.

    \b
    Examples: archer doctor --json
              archer doctor --presets --results results
    """
    if results_folder is not None and not presets:
        raise UserError("--results belongs to --presets: give both")
    if presets:
        _presets(project, results_folder, as_json)
        return
    if project.exists() and not project.is_dir():
        raise UserError(f"--project: '{project}' is a file; give a folder, which need not exist yet")
    machine = examine(project)
    if as_json:
        print_json(asdict(machine))
    else:
        results().print(_table(machine))
    if machine.problems:
        raise typer.Exit(1)


def examine(project: Path) -> Machine:
    """Look at this machine; `project` is the folder that results would go to."""
    torch_version, cuda, devices, problems = _torch_and_devices()
    found, failure = _walls()
    memory, available = _memory()
    return Machine(
        archer=__version__,
        revision=revision(),
        python=platform.python_version(),
        platform=platform.platform(),
        torch=torch_version,
        cuda=cuda,
        cores=_cores(),
        memory_bytes=memory,
        available_bytes=available,
        devices=devices,
        used=devices[0].kind,
        project=_folder(project),
        compile_cache=_folder(_compile_cache()),
        extras={extra: all(find_spec(name) for name in names) for extra, names in EXTRAS.items()},
        walls=found,
        problems=(*problems, *failure, *_unwritable(project)),
    )


def _walls() -> tuple[tuple[Wall, ...], tuple[str, ...]]:
    """The walls, and what is wrong where nothing starts behind them."""
    from archer.verify.contain import WallFailed, walls

    try:
        return walls(), ()
    except WallFailed as failed:
        return (), (str(failed),)


def _torch_and_devices() -> tuple[str | None, str | None, tuple[Device, ...], tuple[str, ...]]:
    """The version of torch, its CUDA, the devices with the one that is used first, and what is wrong."""
    processor = Device("cpu", platform.processor() or platform.machine(), *_memory())
    try:
        installed = version("torch")
    except PackageNotFoundError:
        return None, None, (processor,), ("torch is not installed: pip install -e . in the checkout",)
    try:
        import torch

        cards = tuple(_card(index) for index in range(torch.cuda.device_count()))
    except (ImportError, OSError, RuntimeError) as error:
        return installed, None, (processor,), (f"torch cannot be used: {error}",)
    return installed, torch.version.cuda, (*cards, processor), ()


def _card(index: int) -> Device:
    import torch

    free, total = torch.cuda.mem_get_info(index)
    return Device(f"cuda:{index}", torch.cuda.get_device_name(index), total, free)


def _cores() -> int:
    """Cores that this process may use: its affinity, and its control group's quota where there is one."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _read("/sys/fs/cgroup/cpu.max")
    if quota and not quota.startswith("max"):
        microseconds, period = quota.split()
        allowed = min(allowed, max(1, round(int(microseconds) / int(period))))
    return allowed


def _memory() -> tuple[int | None, int | None]:
    """Bytes of main memory, all and still available, within the control group's limit where there is one."""
    text = _read("/proc/meminfo")
    if text is None:
        return _installed_memory(), None
    kibibytes = {line.split(":")[0]: int(line.split()[1]) for line in text.splitlines() if "kB" in line}
    total, available = kibibytes["MemTotal"] * 1024, kibibytes["MemAvailable"] * 1024
    limit, current = _read("/sys/fs/cgroup/memory.max"), _read("/sys/fs/cgroup/memory.current")
    if limit and current and limit != "max":
        total, available = min(total, int(limit)), min(available, max(0, int(limit) - int(current)))
    return total, available


def _installed_memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def _read(path: str) -> str | None:
    """A small system file's text, or None where this system has none."""
    try:
        return Path(path).read_text().strip()
    except OSError:
        return None


def _folder(path: Path) -> Folder:
    """`path` and the free disk there; of the nearest folder above, if it does not exist yet."""
    path = path.absolute()
    nearest = next((place for place in (path, *path.parents) if place.is_dir()), None)
    try:
        free = shutil.disk_usage(nearest).free if nearest else None
    except OSError:
        free = None
    return Folder(str(path), path.is_dir(), free)


def _unwritable(project: Path) -> tuple[str, ...]:
    """What is wrong where nothing can be written to the project folder, or it cannot be made."""
    path = project.absolute()
    nearest = next(place for place in (path, *path.parents) if place.is_dir())
    if os.access(nearest, os.W_OK | os.X_OK):
        return ()
    return (f"'{nearest}' cannot be written, so no project can be there: name another folder with --project",)


def _compile_cache() -> Path:
    """Where torch.compile keeps what it compiled."""
    chosen = os.environ.get("TORCHINDUCTOR_CACHE_DIR")
    if chosen:
        return Path(chosen)
    user = os.environ.get("USER") or os.environ.get("LOGNAME") or "root"
    return Path(tempfile.gettempdir()) / f"torchinductor_{user}"


def revision() -> str | None:
    """The git revision of Archer's own source, '+changes' where files differ; None outside a checkout."""
    package = Path(__file__).resolve().parents[1]
    if _git(package, "ls-files", "--error-unmatch", "__init__.py") is None:
        return None
    commit = _git(package, "rev-parse", "--short=12", "HEAD")
    changed = _git(package, "status", "--porcelain", "--untracked-files=no")
    return f"{commit}+changes" if commit and changed else commit


def _git(folder: Path, *arguments: str) -> str | None:
    """What git answers in `folder`; None where there is no git or it refuses."""
    try:
        asked = ["git", "-C", str(folder), *arguments]
        ended = subprocess.run(asked, capture_output=True, text=True, timeout=PROBE_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return ended.stdout.strip() if ended.returncode == 0 else None


def _size(count: int | None) -> str:
    return "unknown" if count is None else f"{count / 2**30:.1f} GiB"


def _rows(machine: Machine) -> list[tuple[str, str]]:
    """The table's lines: a name and a value, as text."""
    rows = [
        ("archer", f"{machine.archer}, revision {machine.revision or 'unknown'}"),
        ("python", f"{machine.python} on {machine.platform}"),
        ("torch", f"{machine.torch or 'not installed'}, CUDA {machine.cuda or 'none'}"),
        ("cores", str(machine.cores)),
        ("memory", f"{_size(machine.memory_bytes)}, {_size(machine.available_bytes)} available"),
    ]
    for device in machine.devices:
        mark = "  ← used" if device.kind == machine.used else ""
        free = f"{_size(device.free_bytes)} of {_size(device.memory_bytes)} free"
        rows.append((f"device {device.kind}", f"{device.name}, {free}{mark}"))
    for label, folder in (("project folder", machine.project), ("compile cache", machine.compile_cache)):
        state = "" if folder.exists else ", not there yet"
        rows.append((label, f"{folder.path}{state}, {_size(folder.free_bytes)} free"))
    rows += [(f"extra {name}", "present" if there else _how(name)) for name, there in machine.extras.items()]
    rows += [(f"wall: {w.name}", f"{'up' if w.up else 'missing'} ({w.detail})") for w in machine.walls]
    return rows + [("problem", problem) for problem in machine.problems]


def _how(extra: str) -> str:
    return f"absent (optional: pip install -e '.[{extra}]')"


def _table(machine: Machine) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in _rows(machine):
        table.add_row(name, Text(value, style="red" if name == "problem" else ""))
    return table


# How well small presets predict dearer ones


def _presets(project: Path, folder: Path | None, as_json: bool) -> None:
    from archer.report.agreement import PAIRS, agreements, in_words

    runs = known_runs(project, folder)
    found = [agreements(runs, *pair) for pair in PAIRS]
    if as_json:
        print_json([asdict(one) for several in found for one in several])
        return
    from rich.table import Table

    table = Table(title="Kendall's rank correlation, 95% interval", title_justify="left", box=None)
    table.add_column("Task", style="bold", no_wrap=True)
    for smaller, larger in PAIRS:
        table.add_column(f"{smaller} and {larger}", overflow="fold")
    for lines in zip(*found, strict=True):
        table.add_row(lines[0].task, *(in_words(line) for line in lines))
    notes = ["Only rules with complete scores under both presets count."]
    if folder is None and all(one.tau is None for several in found for one in several):
        notes.append("Archer's own runs lie beside its source: archer doctor --presets --results results.")
    results().print(table, *notes, sep="\n")


def known_runs(project: Path, folder: Path | None) -> tuple[RunRecord, ...]:
    """The runs of a project's ledger, where there is one, and of a folder's tables; each once in a preset.
    Presets that hold the same run (baseline's are among those of full) each need it.

    Raises UserError where there is neither.
    """
    from archer.ledger import LEDGER_NAME, Ledger, read_runs
    from archer.mad.presets import PRESETS

    named = [f"{preset}.csv" for preset in PRESETS]
    tables = [folder / name for name in named if (folder / name).is_file()] if folder is not None else []
    if folder is not None and not tables:
        raise UserError(
            f"--results: '{folder}' holds none of {', '.join(named)}; "
            "`archer table --preset P --runs --csv P.csv` writes one"
        )
    runs = {(run.preset, run.key): run for path in tables for run in read_runs(path)}
    if (project / LEDGER_NAME).exists():
        with Ledger.in_folder(project, read_only=True) as ledger:
            runs |= {(run.preset, run.key): run for run in ledger.runs()}
    elif not tables:
        raise UserError(
            f"'{project}' holds no project, and no table was given: name a project with --project, "
            "or a folder of run tables with --results"
        )
    return tuple(runs.values())
