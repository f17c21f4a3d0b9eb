"""The rooms import each other in one direction; importing is light; the repository names no place."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import archer

SOURCE = Path(archer.__file__).parent
REPOSITORY = SOURCE.parents[1]

# Leaves: `errors`, `figures` (how numbers are written), `version` (archer.__version__) and `records`
# (archer.ledger.records, plain frozen values).
# docs/design/architecture.md gives the reasons.
LEAVES = {"errors", "figures", "version"}
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "figures": set(),
    "records": set(),
    "version": set(),
    "rules": set(LEAVES),
    "mad": set(LEAVES),
    "model": LEAVES | {"rules"},
    "fleet": LEAVES | {"records", "rules", "mad", "model"},
    "verify": LEAVES | {"records", "rules", "mad"},
    "ledger": LEAVES | {"records"},
    "judge": LEAVES | {"records", "rules", "mad", "ledger"},
    "research": LEAVES | {"records", "rules", "mad", "ledger", "judge"},
    "report": LEAVES | {"records", "rules", "mad", "model", "verify", "ledger", "judge"},
}
MAY_IMPORT["cycle"] = {*MAY_IMPORT}
MAY_IMPORT["cli"] = {*MAY_IMPORT, "package"}
MAY_IMPORT["package"] = {"rules", "ledger", "cycle"}  # archer/__init__.py: the lazy front door
MAY_IMPORT["main"] = {"cli"}  # archer/__main__.py


def room_of(module: str) -> str:
    """The room of a dotted module name, e.g. archer.ledger.store: ledger."""
    parts = module.split(".")
    if parts[:3] == ["archer", "ledger", "records"]:
        return "records"
    if len(parts) == 1:
        return "package"
    return {"__main__": "main", "__version__": "version"}.get(parts[1], parts[1])


def module_name(path: Path, root: Path) -> str:
    parts = ("archer", *path.relative_to(root).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_modules(text: str, module: str, is_package: bool) -> Iterator[tuple[int, str]]:
    """Line and dotted name of everything of ours that a file imports, at its top or inside a function."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = list(_from_names(node, module, is_package))
        elif isinstance(node, ast.Call) and _is_import_call(node):
            names = [node.args[0].value]  # pyright: ignore
        else:
            continue
        yield from ((node.lineno, name) for name in names if name.split(".")[0] == "archer")


def _from_names(node: ast.ImportFrom, module: str, is_package: bool) -> Iterator[str]:
    base = node.module or ""
    if node.level:
        package = module.split(".") if is_package else module.split(".")[:-1]
        base = ".".join([*package[: len(package) - node.level + 1], *([base] if base else [])])
    for alias in node.names:
        if base == "archer":
            yield archer.EXPORTS.get(alias.name, (f"archer.{alias.name}",))[0]
        else:
            yield f"{base}.{alias.name}"


def _is_import_call(node: ast.Call) -> bool:
    function = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    named = bool(node.args) and isinstance(node.args[0], ast.Constant) and isinstance(node.args[0].value, str)
    return named and function in {"import_module", "__import__"}


def violations(root: Path) -> list[str]:
    """Every import under `root` (a folder that stands for src/archer) against the table."""
    found = []
    for path in sorted(root.rglob("*.py")):
        module = module_name(path, root)
        room = room_of(module)
        if room not in MAY_IMPORT:
            found.append(f"{path.relative_to(root)}: room '{room}' is not in the table of this test")
            continue
        for line, name in imported_modules(path.read_text(), module, path.name == "__init__.py"):
            other = room_of(name)
            if other != room and other not in MAY_IMPORT[room]:
                found.append(f"{path.relative_to(root)}:{line}: {room} imports {name}")
    return found


def test_rooms_import_in_one_direction() -> None:
    assert violations(SOURCE) == []


def test_nothing_imports_the_command_line() -> None:
    assert [room for room, allowed in MAY_IMPORT.items() if "cli" in allowed] == ["main"]


def test_the_table_has_no_circle() -> None:
    order: list[str] = []
    rooms = dict(MAY_IMPORT)
    while rooms:
        free = [room for room, allowed in rooms.items() if allowed <= set(order)]
        assert free, f"these rooms import each other in a circle: {sorted(rooms)}"
        order += free
        rooms = {room: allowed for room, allowed in rooms.items() if room not in free}


@pytest.mark.parametrize(
    ("path", "text", "complaint"),
    [
        ("rules/a.py", "from archer.model import layer", "rules imports archer.model.layer"),
        ("rules/a.py", "def f():\n    import archer.fleet", "rules imports archer.fleet"),
        ("rules/a.py", "from ..mad import tasks", "rules imports archer.mad.tasks"),
        ("ledger/__init__.py", "from ..judge import x", "ledger imports archer.judge.x"),
        ("research/a.py", "from archer import fleet", "research imports archer.fleet"),
        ("judge/a.py", "from archer import run", "judge imports archer.cycle"),
        ("judge/a.py", "import archer", "judge imports archer"),
        ("judge/a.py", "import_module('archer.cli.doctor')", "judge imports archer.cli.doctor"),
        ("attic/a.py", "", "room 'attic' is not in the table"),
    ],
)
def test_a_wrong_import_is_found(tmp_path: Path, path: str, text: str, complaint: str) -> None:
    file = tmp_path / path
    file.parent.mkdir()
    file.write_text(text)
    assert any(complaint in line for line in violations(tmp_path))


def test_a_right_import_is_accepted(tmp_path: Path) -> None:
    file = tmp_path / "judge" / "a.py"
    file.parent.mkdir()
    file.write_text(
        "from archer import __version__\nfrom archer.ledger.records import TASKS\nfrom .b import c\n"
    )
    assert violations(tmp_path) == []


@pytest.mark.parametrize("module", ["archer", "archer.cli", "archer.cli.group", "archer.errors"])
def test_importing_is_light_and_silent(module: str) -> None:
    heavy = {"torch", "pandas", "plotly", "scipy", "sqlalchemy", "numpy", "statsmodels"}
    code = f"import sys, {module}; print(sorted({heavy!r} & set(sys.modules)))"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (ended.stdout.strip(), ended.stderr) == ("[]", "")


def test_the_front_door_names_what_it_has() -> None:
    assert archer.rules.__name__ == "archer.rules"
    assert set(archer.__all__) <= set(dir(archer))
    with pytest.raises(AttributeError, match=r"no attribute 'nonsense'; it has: .*bench"):
        _ = archer.nonsense


# Brackets around one letter keep this file from naming them itself.
PLACES = {
    "an absolute path": r"(?<![\w.~$}])/(?:work|tmp/notes|root|opt)/|/(?:home|Users)/[a-z]",
    "a package index": r"pypi\.org|python[h]osted|download\.[p]ytorch|index-[u]rl|find-[l]inks",
}


def repository_files() -> list[Path]:
    """Every file that git tracks or would track."""
    asked = ["git", "-C", str(REPOSITORY), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    ended = subprocess.run(asked, capture_output=True, text=True, check=False)
    if ended.returncode != 0:
        pytest.skip("not a git checkout")
    return [REPOSITORY / name for name in ended.stdout.split("\0") if name]


@pytest.mark.parametrize("what", PLACES)
def test_the_repository_names_no_place(what: str) -> None:
    found = []
    for path in repository_files():
        content = path.read_bytes() if path.is_file() else b"\0"
        if b"\0" in content:
            continue
        for number, line in enumerate(content.decode("utf-8", errors="replace").splitlines(), start=1):
            if re.search(PLACES[what], line):
                found.append(f"{path.relative_to(REPOSITORY)}:{number}: {line.strip()[:100]}")
    assert found == []


@pytest.mark.parametrize(
    ("what", "line"),
    [
        ("an absolute path", "see /wo" + "rk/main/notes"),
        ("an absolute path", "/ho" + "me/someone/x"),
        ("a package index", "--extra-index-" + "url x"),
        ("a package index", "https://py" + "pi.org/simple"),
    ],
)
def test_a_named_place_is_found(what: str, line: str) -> None:
    assert re.search(PLACES[what], line)
