"""The process wall: real attempts to get out, under every set of walls that this machine offers."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from threading import Lock
from types import SimpleNamespace

import pytest

from archer.errors import UserError
from archer.verify import contain, control_group
from archer.verify.contain import (
    Contained,
    Ending,
    Limits,
    WallFailed,
    WallMissing,
    read_scratch,
    start,
    walls,
)

SETS = {
    "all walls": (),
    "without bubblewrap": ("bubblewrap",),
    "without namespaces": ("bubblewrap", "network namespace"),
}
SECRET = "sk-never-to-be-seen"


def kernel_counts() -> bool:
    return any(wall.name == "process limit" and wall.up for wall in walls())


@pytest.fixture(params=SETS.values(), ids=list(SETS))
def without(request) -> tuple[str, ...]:
    return request.param


def run(
    code: str, scratch: Path, without: tuple[str, ...] = (), limits: Limits | None = None
) -> tuple[list[str], Ending]:
    limits = limits or Limits(wall_seconds=30)
    with start([sys.executable, "-c", code], scratch=scratch, limits=limits, without=without) as process:
        lines = list(process.lines())
        return lines, process.wait()


def refused(code: str, scratch: Path, without: tuple[str, ...], error: str = "PermissionError") -> str:
    """Runs code that must fail with an error of that kind; its last line of standard error."""
    lines, ending = run(code + "\nprint('got through')", scratch, without)
    assert lines == []
    assert ending.status == 1
    last = ending.error.strip().splitlines()[-1]
    assert any(last.startswith(kind) for kind in error.split("|")), last
    return last


def test_plain_work_is_done_and_its_output_comes_back(tmp_path: Path, without: tuple[str, ...]):
    code = "import os; open('made.txt', 'w').write('x' * 10); print(sum(range(5))); print('ü'); os._exit(3)"
    lines, ending = run(code, tmp_path, without)
    assert lines == ["10", "ü"]
    assert (ending.status, ending.reason) == (3, "finished")
    assert read_scratch(tmp_path, "made.txt") == b"xxxxxxxxxx"


def test_the_walls_are_named_and_the_kernels_own_are_up_on_linux():
    names = {wall.name: wall.up for wall in walls()}
    assert names["process group"]
    assert names["environment"]
    assert names["limits"]
    assert names["no new privileges"]
    assert names["dies with its parent"]
    assert all(wall.detail for wall in walls())


def test_a_secret_of_the_environment_is_not_passed_on(tmp_path, without, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    monkeypatch.setenv("LD_PRELOAD", "")
    lines, _ = run("import os; print(sorted(os.environ))", tmp_path, without)
    assert "OPENAI_API_KEY" not in lines[0]
    assert "LD_PRELOAD" not in lines[0]


def test_the_parents_environment_cannot_be_read_from_the_process_table(tmp_path, without, monkeypatch):
    code = f"""
import os
found = 0
for name in os.listdir('/proc'):
    if name.isdigit() and int(name) != os.getpid():
        try:
            found += b'{SECRET}' in open(f'/proc/{{name}}/environ', 'rb').read()
        except OSError:
            continue
print(found)
"""
    holder = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, env={"KEY": SECRET})
    try:
        lines, ending = run(code, tmp_path, without)
    finally:
        holder.communicate(b"\n")
    assert lines == ["0"], ending.error


def test_etc_passwd_cannot_be_read(tmp_path, without):
    refused("open('/etc/passwd').read()", tmp_path, without, "PermissionError|FileNotFoundError")


def test_a_file_beside_scratch_cannot_be_read_or_written(tmp_path, without):
    scratch, ledger = tmp_path / "scratch", tmp_path / "ledger.txt"
    scratch.mkdir()
    ledger.write_text("intact")
    errors = "PermissionError|FileNotFoundError|OSError"
    refused(f"open({str(ledger)!r}).read()", scratch, without, errors)
    refused(f"open({str(ledger)!r}, 'w')", scratch, without, errors)
    refused(f"import os; os.symlink({str(ledger)!r}, 'way'); open('way', 'a')", scratch, without, errors)
    refused(f"import os; os.remove({str(ledger)!r})", scratch, without, errors)
    refused("open('../ledger.txt', 'w').write('x'); open('../ledger.txt').fail", scratch, without,
            "PermissionError|FileNotFoundError|OSError|AttributeError")  # fmt: skip
    assert ledger.read_text() == "intact"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ledger.txt", "scratch"]


def test_archers_own_files_cannot_be_written(tmp_path, without):
    import archer

    refused(f"open({archer.__file__!r}, 'a')", tmp_path, without, "PermissionError|OSError")


def test_no_socket_can_be_opened(tmp_path, without):
    server = socket.create_server(("127.0.0.1", 0))
    port = server.getsockname()[1]
    code = f"import socket; socket.create_connection(('127.0.0.1', {port}), 2)"
    refused(code, tmp_path, without, "PermissionError|OSError|ConnectionRefusedError")
    refused("import socket; socket.socket(socket.AF_UNIX)", tmp_path, without)
    server.settimeout(0.2)
    with pytest.raises(TimeoutError):
        server.accept()
    server.close()


def test_no_process_can_be_started_where_none_is_allowed(tmp_path, without):
    refused("import os; os.fork()", tmp_path, without)
    refused("import subprocess; subprocess.run(['true'])", tmp_path, without)
    code = "import threading; t = threading.Thread(target=print, args=(1,)); t.start(); t.join()"
    lines, _ = run(code, tmp_path, without)
    assert lines == ["1"]


def test_a_fork_bomb_ends(tmp_path, without):
    """A thousand processes for a limit of 20: an endless bomb that got through would take the machine."""
    limits = Limits(processes=20, wall_seconds=20)
    code = "import os, time\nfor _ in range(10):\n    os.fork()\ntime.sleep(60)"
    _, ending = run(code, tmp_path, without, limits)
    assert ending.reason == "processes"


@pytest.mark.skipif(not kernel_counts(), reason="no control group and no user namespace of its own here")
def test_the_kernel_itself_refuses_too_many_processes(tmp_path, without, monkeypatch):
    """A hundred at most, and twenty seconds: a bomb that the kernel does not stop must not hurt."""
    code = """
import os, time
started = 0
try:
    for _ in range(100):
        if os.fork() == 0:
            os.close(1)
            os.close(2)
            time.sleep(20)
            os._exit(0)
        started += 1
except BlockingIOError:
    print('refused', end=' ')
print(started)
"""
    limits = Limits(processes=150, wall_seconds=20)
    monkeypatch.setattr(Limits, "tasks", 40)
    lines, _ = run(code, tmp_path, without, limits)
    word, started = lines[0].split()
    assert word == "refused"
    assert 30 < int(started) < 40
    lines, _ = run(code.replace("range(100)", "range(60)"), tmp_path, (*without, "process limit"), limits)
    assert lines == ["60"], "the same without this wall"


def test_control_groups_do_not_stay_behind(tmp_path):
    folder = control_group.available()[0]
    if folder is None:
        pytest.skip("no control group can be made here")
    stale = control_group.make(folder, 9)
    stale = stale.rename(folder / f"archer-{2**22 + 1}-0")
    with start([sys.executable, "-c", "print(1)"], scratch=tmp_path) as process:
        assert process.group is not None
        assert process.group.is_dir()
        assert process.wait().status == 0
    assert not process.group.exists()
    control_group._remove_stale(folder)
    assert not stale.exists(), "left by a process that is no more"


def test_where_no_control_group_can_be_made_the_wall_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(control_group, "ROOT", tmp_path)
    found, words = control_group.available.__wrapped__()
    assert found is None
    assert words
    monkeypatch.setattr(control_group, "available", lambda: (None, words))
    with start([sys.executable, "-c", "print(1)"], scratch=tmp_path) as process:
        assert list(process.lines()) == ["1"]
    wall = next(wall for wall in process.walls if wall.name == "process limit")
    assert wall.up == ("user namespace" in wall.detail and "no user namespace" not in wall.detail)
    if os.getuid() == 0:
        assert wall.detail.startswith("root,")


def test_a_folder_for_control_groups_that_is_gone_keeps_nothing_from_starting(tmp_path, monkeypatch):
    monkeypatch.setattr(control_group, "available", lambda: (tmp_path / "gone", "was there"))
    with start([sys.executable, "-c", "print(1)"], scratch=tmp_path) as process:
        assert list(process.lines()) == ["1"]
        assert process.group is None


def test_a_memory_bomb_ends(tmp_path, without):
    limits = Limits(memory_bytes=2**30, wall_seconds=20)
    _, ending = run("kept = []\nwhile True:\n    kept.append(bytearray(2**26))", tmp_path, without, limits)
    assert "MemoryError" in ending.error


def test_memory_of_several_processes_together_is_watched(tmp_path, without):
    code = (
        "import os, time\nfor _ in range(3):\n    os.fork()\nkept = bytearray(b'x') * 2**27\ntime.sleep(20)"
    )
    limits = Limits(memory_bytes=2**29, processes=30, wall_seconds=20)
    _, ending = run(code, tmp_path, without, limits)
    assert ending.reason == "memory"


def test_an_endless_loop_ends_by_cpu_time(tmp_path, without):
    _, ending = run("while True: pass", tmp_path, without, Limits(cpu_seconds=1, wall_seconds=30))
    assert ending.reason == "CPU time"


def test_an_endless_sleep_ends_by_wall_time(tmp_path, without):
    code = "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\ntime.sleep(1000)"
    _, ending = run(code, tmp_path, without, Limits(wall_seconds=0.5))
    assert ending.reason == "wall time"
    assert ending.seconds < 20


@pytest.mark.parametrize("code", [
    "while True: print('x' * 1000)",
    "import sys\nwhile True: sys.stdout.write('x')",
    "import sys\nwhile True: sys.stderr.write('x' * 1000)",
], ids=["lines", "one line", "errors"])  # fmt: skip
def test_endless_output_ends(tmp_path, code):
    _, ending = run(code, tmp_path, (), Limits(output_bytes=2**20, wall_seconds=20))
    assert ending.reason == "output"
    assert len(ending.error) <= 2**16


def test_a_huge_file_is_cut_off(tmp_path, without):
    _, ending = run("open('big', 'wb').write(bytes(2**22))", tmp_path, without, Limits(file_bytes=2**20))
    assert ending.status != 0
    assert (tmp_path / "big").stat().st_size <= 2**20


def test_no_more_files_than_allowed(tmp_path):
    code = "kept = [open('/dev/null') for _ in range(100)]"
    _, ending = run(code, tmp_path, (), Limits(open_files=40))
    assert "Too many open files" in ending.error


def test_the_parent_cannot_be_killed(tmp_path, without):
    code = f"""
import os, signal
for process in ({os.getpid()}, os.getppid(), -1):
    try:
        os.kill(process, signal.SIGKILL)
    except OSError as error:
        print(type(error).__name__)
"""
    lines, _ = run(code, tmp_path, without)
    assert set(lines) <= {"PermissionError", "ProcessLookupError"}
    assert len(lines) == 3


def test_ctypes_reaches_no_refused_system_call(tmp_path, without):
    code = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
for name, *arguments in (('ptrace', 16, 1, 0, 0), ('unshare', 0x10000000), ('syscall', 425, 8, 0),
                         ('setns', 0, 0), ('mount', b'x', b'/', b'tmpfs', 0, 0)):
    print(getattr(libc, name)(*arguments), ctypes.get_errno())
"""
    lines, _ = run(code, tmp_path, without)
    assert lines == ["-1 1"] * 5


def test_set_user_id_programs_lend_no_rights(tmp_path):
    lines, _ = run("print(open('/proc/self/status').read())", tmp_path)
    status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    assert status["NoNewPrivs"] == "1"
    assert int(status["CapEff"], 16) == 0
    assert int(status["CapBnd"], 16) == 0


def test_a_module_in_scratch_does_not_shadow_the_standard_library(tmp_path):
    (tmp_path / "json.py").write_text("raise SystemExit(9)")
    with start([sys.executable, "-m", "json.tool", "--help"], scratch=tmp_path) as process:
        assert process.wait().status == 0


def test_everything_that_it_started_ends_with_it(tmp_path, without):
    """Also what left the process group and what its parent left behind."""
    code = """
import os, time
if os.fork() == 0:
    os.setsid()
    os.fork()
    time.sleep(60.125)
print('up', flush=True)
time.sleep(60.125)
"""
    command, limits = [sys.executable, "-c", code], Limits(processes=9)
    with start(command, scratch=tmp_path, limits=limits, without=without) as process:
        assert next(iter(process.lines())) == "up"
        time.sleep(0.3)
        process.kill()
        assert process.wait().reason == "killed"
    assert eventually(lambda: not running("60.125"))


def test_it_dies_with_the_process_that_started_it(tmp_path, without):
    code = f"""
import sys, threading, time
from pathlib import Path
from threading import Lock
from types import SimpleNamespace
from archer.verify.contain import start
def begin():
    global process
    process = start([sys.executable, "-c", "import time; print('up', flush=True); time.sleep(70.25)"],
                    scratch=Path({str(tmp_path)!r}), without={without!r})
thread = threading.Thread(target=begin)
thread.start()
thread.join()
time.sleep(0.3)
print(next(process.lines()), process.process.poll(), flush=True)
time.sleep(60)
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "src")}
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=environment)
    assert parent.stdout is not None
    assert parent.stdout.readline() == b"up None\n", "it outlives the thread that started it"
    assert running("70.25")
    parent.send_signal(signal.SIGKILL)
    parent.communicate()
    assert eventually(lambda: not running("70.25"))


def running(mark: str) -> list[str]:
    """Command lines with that mark, of processes that are not mere remains."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            text = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except (OSError, ValueError):
            continue
        if f"sleep({mark})" in text and "archer.verify.contain import" not in text:
            found.append(text)
    return found


def eventually(condition) -> bool:
    for _ in range(100):
        if condition():
            return True
        time.sleep(0.05)
    return False


def test_a_required_wall_that_is_missing_refuses_before_the_command_runs(tmp_path):
    command = [sys.executable, "-c", "open('ran', 'w')"]
    with pytest.raises(WallMissing, match="Landlock"):
        start(command, scratch=tmp_path, require=("Landlock",), without=("Landlock",))
    with pytest.raises(WallMissing, match="moat"):
        start(command, scratch=tmp_path, require=("moat",))
    assert not (tmp_path / "ran").exists()


def test_bubblewrap_counts_only_if_it_was_tried_and_worked(tmp_path, monkeypatch):
    program = tmp_path / "bwrap"
    monkeypatch.setenv("PATH", str(tmp_path))
    look = contain._bubblewrap.__wrapped__
    assert look() == (None, "bwrap is not installed (Debian package: bubblewrap)")
    program.write_text("#!/bin/sh\necho 'no permissions to create new namespace' >&2\nexit 1\n")
    program.chmod(0o755)
    assert look() == (None, "no permissions to create new namespace")
    program.write_text("#!/bin/sh\nexit 0\n")
    assert look()[0] == str(program)


def test_a_wall_that_fails_at_its_start_is_the_machines_failure(tmp_path, broken_bubblewrap):
    with pytest.raises(WallFailed, match=broken_bubblewrap) as caught:
        start([sys.executable, "-c", "open('ran', 'w')"], scratch=tmp_path)
    assert "bubblewrap failed at its start" in str(caught.value)
    assert "take bwrap off PATH" in str(caught.value)
    assert not (tmp_path / "ran").exists()
    with start([sys.executable, "-c", "print(1)"], scratch=tmp_path, without=("bubblewrap",)) as process:
        assert list(process.lines()) == ["1"]


def test_a_group_that_cannot_be_entered_is_the_machines_failure(tmp_path, monkeypatch):
    group = tmp_path / "gone"
    monkeypatch.setattr(contain.control_group, "new", lambda most: group)
    with pytest.raises(WallFailed, match=r"the process limit failed at its start .*gone/cgroup.procs"):
        start([sys.executable, "-c", "pass"], scratch=tmp_path)


def test_a_machine_without_any_of_the_kernels_offers_still_runs_it(tmp_path):
    without = ("bubblewrap", "network namespace", "Landlock", "system calls")
    with start([sys.executable, "-c", "print(1)"], scratch=tmp_path, without=without) as process:
        assert list(process.lines()) == ["1"]
    assert {wall.name for wall in process.walls if not wall.up} >= set(without)


def test_a_command_that_does_not_exist_is_an_ending_and_no_exception(tmp_path):
    with start(["no-such-program"], scratch=tmp_path) as process:
        assert process.wait().status == 127
    with pytest.raises(UserError, match="is no folder"):
        start(["true"], scratch=tmp_path / "missing")


def test_input_and_extra_folders_reach_it(tmp_path):
    scratch, data, cache = (tmp_path / name for name in ("scratch", "data", "cache"))
    for folder in (scratch, data, cache):
        folder.mkdir()
    (data / "in.txt").write_text("seen")
    code = (
        f"print(input(), open({str(data / 'in.txt')!r}).read()); open({str(cache / 'out')!r}, 'w').write('x')"
    )
    with start(
        [sys.executable, "-c", code],
        scratch=scratch,
        readable=[data],
        writable=[cache],
        environment={"A": "b"},
    ) as process:
        process.send("hello\n")
        process.close_input()
        assert list(process.lines()) == ["hello seen"]
    assert (cache / "out").read_text() == "x"
    refused(f"open({str(data / 'in.txt')!r}, 'w')", scratch, (), "PermissionError|FileNotFoundError|OSError")


def test_a_link_in_a_folder_that_is_bound_as_well_keeps_nothing_from_starting(tmp_path):
    """Such as `.venv`, linked to another place, in a folder that may be read too."""
    scratch, code, libraries = (tmp_path / name for name in ("scratch", "code", "libraries"))
    for folder in (scratch, code, libraries):
        folder.mkdir()
    (libraries / "in.txt").write_text("seen")
    (code / "link").symlink_to(libraries)
    command = [sys.executable, "-c", f"print(open({str(code / 'link/in.txt')!r}).read())"]
    with start(command, scratch=scratch, readable=[code, code / "link"]) as process:
        assert list(process.lines()) == ["seen"], process.wait().error


WRITTEN = """
import sys
from pathlib import Path
from threading import Lock
from types import SimpleNamespace
from archer.verify.contain import start

def main():
    command = [sys.executable, "-c", f"open({sys.argv[1]!r}).read()"]
    with start(command, scratch=Path(sys.argv[2])) as process:
        print(process.wait().error)

if __name__ == "__main__":
    main()
"""


@pytest.mark.parametrize("how", ["-m", "PYTHONPATH"])
def test_the_folder_that_archer_was_started_in_cannot_be_read(tmp_path, how):
    """`python -m` puts it into sys.path, and PYTHONPATH may: what lies there is not for candidates."""
    here, scratch = tmp_path / "here", tmp_path / "scratch"
    here.mkdir()
    scratch.mkdir()
    ledger, starter = here / "ledger", here / "starter.py"
    ledger.write_text("private")
    starter.write_text(WRITTEN)
    command = [sys.executable, *(("-m", "starter") if how == "-m" else ("-P", str(starter)))]
    places = [str(contain.PACKAGE), *([str(here)] if how == "PYTHONPATH" else [])]
    ended = subprocess.run(
        [*command, str(ledger), str(scratch)], cwd=here, capture_output=True, text=True, timeout=60,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(places)}, check=True,
    )  # fmt: skip
    assert "private" not in ended.stdout
    assert re.search("PermissionError|FileNotFoundError", ended.stdout), ended.stdout + ended.stderr


def test_scratch_is_read_with_distrust(tmp_path):
    scratch = tmp_path / "scratch"
    (scratch / "deep").mkdir(parents=True)
    (scratch / "deep" / "good").write_bytes(b"x")
    (tmp_path / "secret").write_text("secret")
    (scratch / "link").symlink_to(tmp_path / "secret")
    (scratch / "folder").symlink_to(tmp_path)
    (scratch / "hard").hardlink_to(tmp_path / "secret")
    os.mkfifo(scratch / "pipe")
    assert read_scratch(scratch, "deep/good") == b"x"
    for name in ("link", "folder/secret", "hard", "pipe", "deep", "../secret", "/etc/passwd", "", "missing"):
        with pytest.raises(UserError):
            read_scratch(scratch, name)
    with pytest.raises(UserError, match="at most 0"):
        read_scratch(scratch, "deep/good", limit=0)


def test_what_was_said_before_the_other_stream_ran_over_is_heard():
    """Two threads read the two streams: an endless one may be read before a line that was written first."""
    killed = []
    over = SimpleNamespace(_lock=Lock(), _count=11, limits=Limits(output_bytes=10), kill=killed.append)
    reading, writing = os.pipe()
    os.write(writing, b"loaded\n")
    os.close(writing)
    with os.fdopen(reading, "rb") as stream:
        assert list(Contained._blocks(over, stream)) == [b"loaded\n"]  # type: ignore[arg-type]
    assert killed == ["output"]
