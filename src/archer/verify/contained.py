"""Verification behind the process wall: the checks run in a contained process and come back as plain data.

Other jobs on files that somebody else wrote are done the same way: loading one, and exporting one.

The job goes in as JSON on standard input, the result comes out as one line of JSON, and is held against
its declared fields, types and sizes before anything believes it (`Verification.from_dict`).
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from archer.errors import UserError
from archer.figures import duration
from archer.verify.contain import Contained, Ending, Limits, WallFailed, read_scratch, start
from archer.verify.result import CheckResult, MalformedResult, Verification

LIMITS = Limits(
    memory_bytes=6 * 2**30, cpu_seconds=180, wall_seconds=240.0, output_bytes=2**20, file_bytes=2**20
)
LOADING = replace(LIMITS, cpu_seconds=30, wall_seconds=60.0)
READY, READ, LOADED = "ready", "read", "loaded"
"""What the contained process says before it reads its job, before it imports PyTorch, and after. Until it is
ready, and while it imports, only the machine can have failed. A text that the language wall refuses is
answered without the import."""
LENGTHS = (32, 64, 128, 256, 512, 1_024)


class VerificationFailed(UserError):  # noqa: N818
    """The candidate could not be set up for checking; the message says why."""


def verify_contained(
    source: str,
    name: str,
    *,
    parent: str | None = None,
    known: Mapping[str, str] | None = None,
    allow_many: bool = False,
    trust: bool = False,
    lengths: tuple[int, ...] = LENGTHS,
    chunk_size: int = 32,
    limits: Limits = LIMITS,
    require: Iterable[str] = (),
) -> Verification:
    """`verify_rule` in a contained process; nothing of the candidate runs, or is even parsed, in this one.

    limits, require: as for `start`. A candidate that hits a limit, ends its process or garbles the result is
    rejected by the check "containment", with the reason. Raises WallFailed where the machine failed instead.
    """
    job = {
        "kind": "rule", "source": source, "name": name, "parent": parent, "known": dict(known or {}),
        "allow_many": allow_many, "trust": trust, "lengths": list(lengths),
        "chunk_size": chunk_size,
    }  # fmt: skip
    return _verify(job, name, trust, limits, require, ())


def verify_mixer_contained(
    source: str,
    class_name: str,
    arguments: Mapping[str, Any] | None = None,
    *,
    width: int = 32,
    limits: Limits = LIMITS,
    require: Iterable[str] = (),
    readable: Iterable[Path | str] = (),
) -> Verification:
    """`verify_mixer` in a contained process. readable: folders that the file imports from.

    Raises UserError where the class cannot be found, imported or built.
    """
    folders = [str(Path(folder).resolve()) for folder in readable]
    job = {
        "kind": "mixer", "source": source, "name": class_name, "arguments": dict(arguments or {}),
        "width": width,
        "folders": folders,
    }  # fmt: skip
    return _verify(job, class_name, True, limits, require, folders)


def build_contained(source: str, class_name: str, arguments: Mapping[str, Any], width: int) -> None:
    """Builds an nn.Module as class(width, **arguments) in a contained process, to know that it can be.

    Raises UserError with what went wrong.
    """
    job = {
        "kind": "build", "source": source, "name": class_name, "arguments": dict(arguments), "width": width,
    }  # fmt: skip
    found = _verify(job, class_name, True, LIMITS, (), ())
    if not found.passed:
        raise UserError(f"{class_name} cannot be built: {found.failed[0].message}")


def load_contained(source: str, name: str, known: Mapping[str, str] | None = None) -> None:
    """Loads a rule file in a contained process, for Archer's own to know that it can: `x = 9**9**9` is plain
    arithmetic, and never ends. known: texts of further rules by name, for ancestors. Raises UserError with
    what went wrong."""
    with tempfile.TemporaryDirectory(prefix="archer-load-") as folder:
        _load_in(Path(folder), "load", source, name, known)


def export_contained(
    source: str, name: str, folder: Path, known: Mapping[str, str] | None = None
) -> tuple[Path, Path]:
    """`archer.rules.export.export` of a rule file in a contained process: its `prepare` is called on the way.

    known: texts of further rules by name, for ancestors. Raises UserError with what went wrong, OSError where
    the folder cannot be written.
    """
    from archer.rules.text import identifier

    names = (f"{identifier(name)}.py", f"{identifier(name)}_layer.py")
    with tempfile.TemporaryDirectory(prefix="archer-export-") as scratch:
        _load_in(Path(scratch), "export", source, name, known)
        texts = [read_scratch(Path(scratch), file) for file in names]
    folder.mkdir(parents=True, exist_ok=True)
    for file, text in zip(names, texts, strict=True):
        (folder / file).write_bytes(text)
    return folder / names[0], folder / names[1]


def _load_in(
    scratch: Path, kind: str, source: str, name: str, known: Mapping[str, str] | None = None
) -> None:
    job = {"kind": kind, "source": source, "name": name, "known": dict(known or {})}
    found = _verify_in(scratch, job, name, False, LOADING, (), ())
    if not found.passed:
        raise UserError(f"it cannot be loaded: {found.failed[0].message}")


def _verify(
    job: dict[str, Any],
    name: str,
    trust: bool,
    limits: Limits,
    require: Iterable[str],
    readable: Iterable[str],
) -> Verification:
    with tempfile.TemporaryDirectory(prefix="archer-verify-") as folder:
        return _verify_in(Path(folder), job, name, trust, limits, require, readable)


def _verify_in(
    scratch: Path, job: dict[str, Any], name: str, trust: bool, limits: Limits, require: Iterable[str],
    readable: Iterable[str],
) -> Verification:  # fmt: skip
    command = [sys.executable, "-m", "archer.verify.contained"]
    threads = {"OMP_NUM_THREADS": "1"}  # the probes are small: more threads only wait for each other
    with start(
        command, scratch=scratch, limits=limits, readable=readable, environment=threads, require=require
    ) as process:
        process.send(json.dumps(job))
        process.close_input()
        lines = list(process.lines())
        ending = process.wait()
    said = _after_start(lines)
    if said is None:
        raise WallFailed("the process behind the walls", ending)
    up = tuple(wall.name for wall in process.walls if wall.up)
    return replace(_read(said, ending, process, name), walls=up, trusted=trust)


def _after_start(lines: list[str]) -> list[str] | None:
    """What was said once a candidate could be the reason; None where the machine failed before."""
    if lines[:2] == [READY, READ]:
        return lines[3:] if lines[2:3] == [LOADED] else None
    return lines[1:] if lines[:1] == [READY] else None


def _read(lines: list[str], ending: Ending, process: Contained, name: str) -> Verification:
    """The verification in the last line of the output, or a rejection that says what came instead."""
    if ending.reason == "finished" and ending.status == 0 and lines:
        try:
            plain = _parse(lines[-1])
            if isinstance(plain, dict) and set(plain) == {"problem"}:
                raise VerificationFailed(str(plain["problem"])[:2000])
            return replace(Verification.from_dict(plain), name=name)
        except MalformedResult as error:
            return _rejected(name, f"its result is not what a verification returns: {error}", ending)
    last = next((line for line in reversed(ending.error.splitlines()) if line.strip()), "")
    if ending.reason != "finished":
        limit = {
            "wall time": duration(process.limits.wall_seconds, ""),
            "CPU time": duration(process.limits.cpu_seconds, ""),
            "memory": f"{process.limits.memory_bytes >> 20} MiB",
            "output": f"{process.limits.output_bytes:,} bytes",
            "processes": str(process.limits.processes),
        }.get(ending.reason)
        words = (
            f"it ran into its limit of {ending.reason} ({limit})" if limit else f"it ended by {ending.reason}"
        )
        return _rejected(name, words, ending)
    what = f"it ended its process with status {ending.status} and without a result"
    return _rejected(name, f"{what}{f' ({last[:300]})' if last else ''}", ending)


def _rejected(name: str, message: str, ending: Ending) -> Verification:
    return Verification(name, False, (CheckResult("containment", False, message[:2000], ending.seconds),))


def _refuse_constant(text: str) -> Any:
    raise MalformedResult(f"{text} is no number of JSON")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({name for name, _ in pairs}) != len(pairs):
        raise MalformedResult("a field stands twice")
    return dict(pairs)


def _parse(line: str) -> Any:
    try:
        return json.loads(line, parse_constant=_refuse_constant, object_pairs_hook=_unique)
    except (json.JSONDecodeError, RecursionError) as error:
        raise MalformedResult(f"the last line is not JSON ({error})") from error


def main() -> None:
    """The contained side: one job in, one line out. What the candidate prints goes to standard error."""
    answer = os.dup(1)
    os.dup2(2, 1)
    from archer.verify.verification import refusal

    os.write(answer, f"{READY}\n".encode())
    job = json.loads(sys.stdin.read())
    found = refusal(job["source"], job["name"], job["trust"]) if job["kind"] == "rule" else None
    if found is None:
        os.write(answer, f"{READ}\n".encode())
        import torch  # noqa: F401  the walls must let its libraries through, and that is no candidate's doing

        os.write(answer, f"{LOADED}\n".encode())
    try:
        plain = (found or _work(job)).to_dict()
    except UserError as error:
        plain = {"problem": str(error)}
    os.write(answer, b"\n")
    with os.fdopen(answer, "w") as file:
        file.write(json.dumps(plain, allow_nan=False) + "\n")


def _work(job: dict[str, Any]) -> Verification:
    if job["kind"] in ("load", "export"):
        return _load(**job)
    if job["kind"] == "build":
        from archer.verify.candidate import mixer_candidate

        mixer_candidate(job["source"], job["name"], job["arguments"], job["width"], as_trained=True)
        return Verification(job["name"], True, ())
    if job["kind"] == "mixer":
        from archer.verify.verification import verify_mixer

        sys.path[:0] = job["folders"]
        return verify_mixer(job["source"], job["name"], job["arguments"], width=job["width"])
    from archer.verify.verification import verify_rule

    return verify_rule(
        job["source"], job["name"], parent=job["parent"], known=job["known"], allow_many=job["allow_many"],
        trust=job["trust"], lengths=tuple(job["lengths"]), chunk_size=job["chunk_size"],
    )  # fmt: skip


def _load(kind: str, source: str, name: str, known: dict[str, str]) -> Verification:
    from archer.rules import load_rule
    from archer.rules.export import export
    from archer.verify.verification import Finder

    try:
        rule = load_rule(source, name, Finder(known))
        if kind == "export":
            export(rule)
    except UserError:
        raise
    except Exception as error:  # noqa: BLE001 - these are the file's own lines
        broken = CheckResult("contract", False, f"{type(error).__name__}: {error}"[:2000], 0.0)
        return Verification(name, False, (broken,))
    return Verification(name, True, (), rule.hash)


if __name__ == "__main__":
    main()
