"""Every attack that was thought of, on a laboratory with a real ledger.

After each: a rejection that says why, the lab still working, the ledger intact. An attack is run twice: as a
stranger's file, which the language wall refuses, and with that wall lifted, so that the process wall is what
stops it.
"""

from __future__ import annotations

import hashlib
import os
import socket
import sqlite3
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from tests.cycle.tiny import finish
from tests.ledger.conftest import PROPOSAL, RUN, SOURCE, VERIFICATION

from archer.cycle.laboratory import Laboratory
from archer.cycle.plan import read_rule_file
from archer.cycle.project import Project
from archer.cycle.training import Resources
from archer.cycle.watch import Watcher
from archer.errors import UserError
from archer.ledger import LEDGER_NAME, Ledger
from archer.ledger.records import RuleSource, VerificationRecord
from archer.mad import PRESETS
from archer.report.costs import ledger_costs
from archer.rules import get_rule
from archer.verify import Limits, contained, load_source, verify_contained
from archer.verify.contain import read_scratch, start
from archer.verify.language import Refused

SECRET = "sk-never-to-be-seen"
LIMITS = Limits(memory_bytes=6 * 2**30, cpu_seconds=40, wall_seconds=60, output_bytes=2**18, file_bytes=2**20)
BRIEF = Limits(memory_bytes=6 * 2**30, cpu_seconds=8, wall_seconds=90)
CLOSED = "PermissionError|FileNotFoundError|OSError|unable to open"
MARK = Path("/etc/archer-was-here")


@dataclass(frozen=True)
class Attack:
    """code: what a rule file does while it is loaded; LEDGER stands for the ledger's path, SECRET for the
    name of a variable that holds a key, PORT for one where a server listens. words: one of them is in the
    reason when the process wall stops it."""

    code: str
    words: str = CLOSED
    limits: Limits = LIMITS

    def source(self, ledger: Path) -> str:
        code = self.code.replace("LEDGER", repr(str(ledger))).replace("SECRET", "'OPENAI_API_KEY'")
        return (
            f'import os, sys, stat, torch\nparent = "delta_net"\n{code}\n\ndef read(o):\n    return 1.5 * o\n'
        )


def to_pipes(text: str) -> str:
    """Code that writes to every pipe in reach, the one for the result among them, and leaves."""
    return (
        "for d in range(3, 99):\n    try:\n        if stat.S_ISFIFO(os.fstat(d).st_mode):\n"
        f"            os.write(d, {text})\n    except OSError:\n        pass\nos._exit(0)"
    )


ATTACKS = {
    "read /etc/passwd": Attack("open('/etc/passwd').read()"),
    "read a key in the environment": Attack("raise ValueError(os.environ[SECRET])", "KeyError"),
    "read a key in the parent's environment":
        Attack("raise ValueError(open(f'/proc/{os.getppid()}/environ').read())", CLOSED),
    "write outside scratch": Attack(f"open({str(MARK)!r}, 'w')"),
    "read the ledger": Attack("open(LEDGER, 'rb').read()"),
    "overwrite the ledger": Attack("open(LEDGER, 'wb')"),
    "remove the ledger": Attack("os.remove(LEDGER)"),
    "empty the ledger": Attack("import sqlite3\nsqlite3.connect(LEDGER).execute('DELETE FROM runs')"),
    "write into Archer's own files": Attack("import archer.errors\nopen(archer.errors.__file__, 'a')"),
    "open a socket": Attack("import socket\nsocket.create_connection(('127.0.0.1', PORT))"),
    "fork": Attack("os.fork()", "PermissionError"),
    "fork bomb": Attack("for _ in range(8):\n    os.fork()", "PermissionError"),
    "another program": Attack("import subprocess\nsubprocess.run(['true'])", "PermissionError"),
    "memory bomb": Attack("kept = []\nwhile True:\n    kept.append(bytearray(2**28))", "MemoryError|memory"),
    "endless loop": Attack("while True:\n    pass", "limit of CPU time (8 s)", BRIEF),
    "endless output": Attack("while True:\n    print('x' * 4096)", "limit of output"),
    "kill the parent": Attack(
        f"import signal\nfor process in (os.getppid(), {os.getpid()}, -1):\n    try:\n"
        "        os.kill(process, signal.SIGKILL)\n"
        "    except OSError as error:\n        kept = error\nraise kept",
        "PermissionError|ProcessLookupError"),
    "sys.exit": Attack("sys.exit(0)", "without a result"),
    "os._exit": Attack("os._exit(0)", "without a result"),
    "patch torch and the loss for later runs": Attack(
        "torch.exp = torch.log\ntorch.nn.functional.cross_entropy = lambda *_, **__: torch.zeros(())\n"
        "open(torch.nn.functional.__file__, 'a')"),
    "ctypes: past the walls": Attack(
        "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\n"
        "handle = libc.open(LEDGER.encode(), os.O_WRONLY | os.O_TRUNC)\n"
        "raise OSError(ctypes.get_errno(), f'handle {handle}')", "handle -1"),
    "ctypes: segmentation fault": Attack("import ctypes\nctypes.string_at(0)", "signal 11"),
    "import trick: __builtins__": Attack(
        "found = __builtins__ if isinstance(__builtins__, dict) else vars(__builtins__)\n"
        "found['op' + 'en'](LEDGER, 'wb')"),
    "import trick: getattr chain": Attack(
        "getattr(getattr(torch, '__builtins__')['__import__']('o' + 's'), 're' + 'move')(LEDGER)"),
    "import trick: subclasses of object": Attack(
        "kind = [c for c in ().__class__.__base__.__subclasses__() if c.__name__ == '_wrap_close'][0]\n"
        "kind.__init__.__globals__['remove'](LEDGER)"),
    "import trick: format string": Attack("raise ValueError('{0.environ}'.format(os))", "ValueError"),
    "import trick: decorator": Attack(
        "def steal(f):\n    os.remove(LEDGER)\n    return f\n@steal\ndef helper(o):\n    return o"),
    "import trick: default argument": Attack("def helper(o, kept=open(LEDGER).read()):\n    return o"),
    "import trick: comprehension": Attack("kept = [open(path, 'wb') for path in (LEDGER,)]"),
    "import trick: metaclass": Attack(
        "class Meta(type):\n    def __new__(cls, *rest):\n        os.remove(LEDGER)\n"
        "class Helper(metaclass=Meta):\n    pass"),
    "a pickle for a result": Attack(to_pipes("b'\\x80\\x04N.\\n'"), "not JSON"),
    "NaN in the result": Attack(to_pipes("b'{\"passed\": NaN}\\n'"), "no number of JSON"),
    "a result of its own": Attack(to_pipes("b'{\"passed\": true}\\n'"), "expected exactly the fields"),
    "symbolic link in scratch": Attack("os.symlink(LEDGER, 'way')\nopen('way', 'wb')"),
    "a path with ../ in it": Attack("open(os.path.join('../' * 9, LEDGER.lstrip('/')), 'wb')"),
    "a file of 100 MB": Attack("open('big', 'wb').write(bytes(100 * 2**20))", "File too large|signal 25"),
}  # fmt: skip
"""By name: the list of the threats that Archer was built against, and the ways to the ledger beside them."""

QUICK = ("overwrite the ledger", "a result of its own", "import trick: getattr chain")


def content(path: Path) -> str:
    """A digest of all that the ledger says."""
    connection = sqlite3.connect(path)
    try:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        return hashlib.sha256("\n".join(connection.iterdump()).encode()).hexdigest()
    finally:
        connection.close()


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The ledger of a project folder in use. After the test it says what it said, and the lab still works."""
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    project = tmp_path / "project"
    project.mkdir()
    path = project / LEDGER_NAME
    with Ledger.in_folder(project) as opened:
        opened.add_run(RUN)
        opened.add_source(SOURCE)
        opened.add_proposal(PROPOSAL)
        opened.add_verification(VERIFICATION)
        before, exp = content(path), torch.exp
        yield path
        assert not MARK.exists()
        assert torch.exp is exp
        assert content(path) == before
        verification = verify_contained(get_rule("gelu_error").source, "gelu_error", limits=LIMITS)
        assert verification.passed, verification.reason
        assert opened.runs() == (RUN,), "the open ledger still answers"


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in QUICK else (pytest.mark.slow,)) for n in ATTACKS]
)
def test_an_attack_is_rejected_with_its_reason_by_each_wall(name: str, ledger: Path):
    attack = ATTACKS[name]
    with socket.create_server(("127.0.0.1", 0)) as server:
        source = attack.source(ledger).replace("PORT", str(server.getsockname()[1]))
        strange = verify_contained(source, "attack", limits=attack.limits)
        assert [check.name for check in strange.failed] == ["language"]
        assert "line 1" in strange.reason
        trusted = verify_contained(source, "attack", trust=True, limits=attack.limits)
        server.settimeout(0.2)
        with pytest.raises(TimeoutError):
            server.accept()
    assert not trusted.passed
    assert trusted.trusted
    assert any(word in trusted.reason for word in attack.words.split("|")), trusted.reason
    assert SECRET not in strange.reason + trusted.reason


@pytest.mark.slow
def test_a_name_that_leads_elsewhere_is_rejected(ledger: Path):
    for name in ("../../etc/x", "../project/x"):
        for trust in (False, True):
            found = verify_contained(get_rule("gelu_error").source, name, limits=LIMITS, trust=trust)
            assert "letters, digits" in found.reason
    assert [path.name for path in ledger.parent.parent.iterdir()] == ["project"]


@pytest.mark.slow
def test_files_that_are_no_rule_files_are_refused_before_anything_reads_them(ledger: Path):
    folder = ledger.parent
    (folder / "huge.py").touch()
    os.truncate(folder / "huge.py", 100 * 2**20)
    (folder / "latin.py").write_bytes(b"x = 1\ny = '\xff'\n")
    (folder / "link.py").symlink_to(ledger)
    for name, words in {"huge": "104,857,600 bytes", "latin": "not UTF-8", "link": "symbolic link"}.items():
        with pytest.raises(Refused, match=words):
            load_source(folder / f"{name}.py")
        ended = finish("verify", folder / f"{name}.py", "--trust", folder=folder)
        assert ended.returncode == 2
        assert words in " ".join(ended.stderr.split())
        assert "Traceback" not in ended.stderr


@pytest.mark.slow
def test_what_an_attack_leaves_in_scratch_leads_nowhere(ledger: Path, tmp_path: Path):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    code = f"import os\nos.symlink({str(ledger)!r}, 'link')\nos.symlink({str(ledger.parent)!r}, 'folder')"
    with start([sys.executable, "-c", code], scratch=scratch) as process:
        assert process.wait().status == 0
    for name in ("link", f"folder/{LEDGER_NAME}", f"../project/{LEDGER_NAME}"):
        with pytest.raises(UserError, match=r"cannot be read|leads out"):
            read_scratch(scratch, name)


UNTIL_VERIFIED = '''"""Behaves while it is verified, and attacks where it is trained."""

parent = "delta_net"


def read(o):
    import sys

    if any(name.startswith("archer.fleet") for name in sys.modules):
        open({ledger!r}, "wb").close()
    return 1.5 * o
'''


@pytest.mark.slow
def test_code_that_behaves_until_it_is_verified_is_stopped_where_it_is_trained(ledger: Path):
    """The lab's own command: the runs crash with their reason, and nothing else happens."""
    folder = ledger.parent.parent
    (folder / "later.py").write_text(UNTIL_VERIFIED.format(ledger=str(ledger)))
    arguments = ("later.py", "--trust", "--project", "other", "--preset", "tiny", "--device", "cpu")
    ended = finish("try", *arguments, folder=folder)
    assert "Traceback" not in ended.stderr, ended.stderr
    assert "the language wall was lifted" in " ".join((ended.stdout + ended.stderr).split())
    with Ledger.in_folder(folder / "other", read_only=True) as other:
        assert other.verifications(rule="later")[-1].passed
        runs = other.runs(rule="later")
        assert runs
        assert {run.status for run in runs} == {"crashed"}
        assert any(word in run.message for run in runs for word in CLOSED.split("|")), runs[0].message


TOP = """import os

parent = "delta_net"
os.remove({ledger!r})


def read(o):
    return 1.5 * o
"""

PREPARED = """from archer.rules import wy

parent = "delta_net"


def prepare(k, v, beta):
    open({ledger!r}, "wb").close()
    return wy(k, v.tanh(), beta)
"""


@pytest.mark.slow
@pytest.mark.parametrize("command", [("try",), ("bench", "delta_net"), ("export",)])
def test_the_top_of_a_trusted_file_does_nothing_in_archers_own_process(
    command: tuple[str, ...], ledger: Path
):
    folder = ledger.parent.parent
    (folder / "top.py").write_text(TOP.format(ledger=str(ledger)))
    ended = finish(*command, "top.py", "--trust", folder=folder)
    assert ended.returncode == 2
    assert "line 1" in ended.stderr
    assert "belongs into a function" in " ".join(ended.stderr.split())


@pytest.mark.slow
def test_exporting_a_trusted_file_calls_nothing_of_it_in_archers_own_process(ledger: Path):
    folder = ledger.parent.parent
    (folder / "prepared.py").write_text(PREPARED.format(ledger=str(ledger)))
    ended = finish("export", "prepared.py", "--trust", "--to", "out", folder=folder)
    assert ended.returncode == 2
    assert any(word in ended.stderr for word in CLOSED.split("|")), ended.stderr
    assert not (folder / "out").exists()


def test_plain_arithmetic_that_never_ends_is_stopped_before_archers_own_process_reads_it(
    ledger: Path, monkeypatch: pytest.MonkeyPatch
):
    path = ledger.parent / "endless.py"
    path.write_text('parent = "delta_net"\nx = 9**9**9\n\n\ndef read(o):\n    return 1.5 * o\n')
    monkeypatch.setattr(contained, "LOADING", BRIEF)
    with pytest.raises(UserError, match=r"endless.py: .*limit of CPU time"):
        read_rule_file(path)


OPENS = 'parent = "delta_net"\nopen({mark!r}, "w")\n\n\ndef read(o):\n    return 1.5 * o\n'
CLEAN = 'parent = "delta_net"\n\n\ndef read(o):\n    return 1.5 * o\n'


def laboratory(ledger: Ledger, folder: Path) -> Laboratory:
    return Laboratory(Project(folder), ledger, PRESETS["smoke"], (), Resources(), Watcher())


@pytest.mark.parametrize("first", ["rejected", "accepted"])
def test_a_rejected_text_does_not_hide_behind_the_name_of_an_accepted_one(first: str, tmp_path: Path):
    """An agent may give one name to two texts. Archer's own process loads the one that passed."""
    mark = tmp_path / "mark"
    texts = {"rejected": OPENS.format(mark=str(mark)), "accepted": CLEAN}
    with Ledger.in_folder(tmp_path) as ledger:
        for kind in (first, *(texts.keys() - {first})):
            ledger.add_proposal(replace(PROPOSAL, id=kind, rule="x", source=texts[kind]))
            ledger.add_verification(VerificationRecord("x", f"hash of {kind}", kind == "accepted", ()))
        ledger.add_source(RuleSource("hash of accepted", "x", "delta_net", CLEAN))
        lab = laboratory(ledger, tmp_path)
        assert lab.accepted() == {"x": CLEAN}
        assert lab.find("x").source == CLEAN
        ledger_costs(ledger, [replace(RUN, rule="x", rule_hash="hash of accepted")])
    assert not mark.exists()


def test_a_ledger_that_somebody_else_wrote_runs_nothing_in_archers_own_process(tmp_path: Path):
    mark = tmp_path / "mark"
    with Ledger.in_folder(tmp_path) as ledger:
        ledger.add_verification(VerificationRecord("x", "hash", True, (), trusted=True))
        ledger.add_source(RuleSource("hash", "x", "delta_net", OPENS.format(mark=str(mark))))
        lab = laboratory(ledger, tmp_path)
        assert lab.accepted() == {}
        assert "x" not in {rule.name for rule in lab.known_rules()}
        ledger_costs(ledger, [replace(RUN, rule="x", rule_hash="hash")])
    assert not mark.exists()
