"""The language wall: what is let through, what is refused, and why."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archer.rules.registry import LIBRARY
from archer.verify.language import (
    SOURCE_BYTES,
    Refused,
    check_language,
    check_name,
    check_top,
    load_source,
)

HEAD = 'import torch\nparent = "delta_net"\n'

ATTACKS = {
    "import of os": "import os",
    "import of ctypes": "import ctypes",
    "import below torch": "import torch.utils.cpp_extension",
    "import from torch": "from torch import load",
    "import from builtins": "from builtins import open as o",
    "import from archer": "from archer.ledger import Ledger",
    "import from inside the rules": "from archer.rules.registry import LIBRARY",
    "import of what loads rules": "from archer.rules import get_rule",
    "relative import": "from . import x",
    "star import": "from torch import *",
    "import in a function": "def read(o):\n    import subprocess\n    return o",
    "builtin open": "def read(o):\n    return open('x')",
    "builtin under another name": "open = open\ndef read(o):\n    return open('x')",
    "builtin as an argument name": "def read(o, eval):\n    return eval",
    "exec": "def read(o):\n    exec('1')\n    return o",
    "getattr chain": "def read(o):\n    return getattr(o, 'da' + 'ta')",
    "__builtins__": "def read(o):\n    return __builtins__",
    "__import__": "def read(o):\n    return __import__('os')",
    "class of an object": "def read(o):\n    return o.__class__.__mro__[-1].__subclasses__()",
    "globals of a function": "def read(o):\n    return read.__globals__",
    "full-width spelling": "def read(o):\n    return ｏｐｅｎ('x')",
    "format string": "def read(o):\n    return '{0.__class__}'.format(o)",
    "f-string": "def read(o):\n    return f'{o}'",
    "a text with a field": "def read(o):\n    name = '{0.grad}'\n    return o",
    "percent format": "def read(o):\n    return '%s' % o",
    "inner name in a text": "def read(o):\n    return o['__class__']",
    "decorator": "@torch.compile\ndef read(o):\n    return o",
    "default argument": "def read(o, kept=[]):\n    return o",
    "default that calls": "def read(o, kept=torch.zeros(1)):\n    return o",
    "lambda default": "read = lambda o, kept=[]: o",
    "comprehension over frames": "def read(o):\n    return [x.gi_frame.f_back for x in (o,)]",
    "metaclass": "class M(type):\n    def __call__(self): pass",
    "class body": "class A:\n    x = 1",
    "global write": "n = 0\ndef read(o):\n    global n\n    n = 1\n    return o",
    "nonlocal": "def read(o):\n    n = 0\n    def f():\n        nonlocal n\n    return o",
    "list kept at the top": "kept = []\ndef read(o):\n    kept.append(o)\n    return o",
    "dictionary kept at the top": "kept = dict(a=[])\ndef read(o):\n    return o",
    "attribute of torch set": "torch.exp = torch.log",
    "attribute set by a function": "def read(o):\n    o.grad = o\n    return o",
    "attribute deleted": "def read(o):\n    del o.grad\n    return o",
    "loop variable is an attribute": "def read(o):\n    for torch.exp in (1,):\n        pass\n    return o",
    "subscript set": "def read(o):\n    o[0] = 1\n    return o",
    "in-place method": "def read(o):\n    return o.add_(1)",
    "in-place operator": "def read(o):\n    o += 1\n    return o",
    "hook": "def read(o):\n    o.register_hook(print)\n    return o",
    "data": "def read(o):\n    return o.data",
    "storage": "def read(o):\n    return o.untyped_storage()",
    "memory out of sight": "def read(o):\n    return o.as_strided((9, 9), (1, 1))",
    "custom operator": "def read(o):\n    return torch.ops.aten.exp(o)",
    "loading a pickle": "def read(o):\n    return torch.load('x')",
    "loading a library": "def read(o):\n    return torch.ops.load_library('x')",
    "hub": "def read(o):\n    return torch.hub.load('a', 'b')",
    "file as a tensor": "def read(o):\n    return torch.from_file('x', size=4)",
    "random number": "def read(o):\n    return torch.rand(1) * o",
    "dropout": "def read(o):\n    return torch.nn.functional.dropout(o)",
    "a number out of a tensor": "def read(o):\n    return o * o.sum().item()",
    "while": "def read(o):\n    while True:\n        pass",
    "try": "def read(o):\n    try:\n        return o\n    except ValueError:\n        return o",
    "with": "def read(o):\n    with torch.no_grad():\n        return o",
    "walrus": "def read(o):\n    return (x := o)",
    "async": "async def read(o):\n    return o",
    "yield": "def read(o):\n    yield o",
    "match": "def read(o):\n    match o:\n        case torch.Tensor(): return o",
    "star arguments": "def read(*o):\n    return o",
    "double-star call": "def read(o):\n    return torch.exp(**{'input': o})",
    "bytes": "def read(o):\n    return b'x'",
    "a huge number": "def read(o):\n    return o * 99999999999999",
    "a call at the top": "table = torch.zeros(1)",
    "a call under a declaration's name": "def Parameter(x):\n    return x\ngamma = Parameter(1)",
    "a call under a type's name": "def f(x):\n    return x\nfloat = f\nx = float(1)",
    "a call in an argument's annotation": "def f(x):\n    return x\ndef read(o: f(1)):\n    return o",
    "a call in a result's annotation": "def f(x):\n    return x\ndef read(o) -> f(1):\n    return o",
    "a call in a constant's annotation": "def f(x):\n    return x\nx: f(1) = 2",
    "a loop at the top": "for i in range(3):\n    x = i",
    "a text direction mark": "x = 1  # \u202e",
    "a control character": "x = 1  # \x08",
    "a name from nowhere": "def read(o):\n    return o * undefined",
    "not Python": "def read(o:\n",
    # ways from a slot's arguments to the inputs and targets that lie in the same process
    "the caller's frame": "import sys\ndef read(o):\n    return sys._getframe(3).f_locals['wanted']",
    "the caller's frame by torch": "def read(o):\n    return torch.sys._getframe(3)",
    "every object there is": "def read(o):\n    return gc.get_objects()",
    "the modules that are loaded": "def read(o):\n    return torch.sys.modules['archer.fleet.fleet']",
    "how a tensor was made": "def read(o):\n    return o.grad_fn.next_functions",
    "what a tensor is a part of": "def read(o):\n    return o._base",
    "what a gradient keeps": "def read(o):\n    return o.grad_fn.saved_tensors",
    "the gradient of others": "def read(o):\n    return torch.autograd.grad(o.sum(), o)",
}


@pytest.mark.parametrize("source", ATTACKS.values(), ids=ATTACKS.keys())
def test_refused_with_a_line_and_a_reason(source: str):
    text = HEAD + source
    with pytest.raises(Refused) as refused:
        check_language(text, "mine.py")
    assert refused.value.line > 2, "the heading is fine; what is refused stands below it"
    assert str(refused.value).startswith(f"mine.py, line {refused.value.line}: ")


BODIES = (
    "def read(o):\n    import os\n    return os.environ",
    "def read(o):\n    kept = [open('x')]\n    kept[0] += 1\n    while True:\n        pass",
    "def read(o):\n    class A:\n        pass\n    return getattr(o, '__class__')",
)
TOPS = (
    "import of os", "import from torch", "decorator", "default argument", "default that calls", "metaclass",
    "lambda default", "list kept at the top", "attribute of torch set", "a call at the top",
    "a loop at the top",
    "a call under a declaration's name", "a call under a type's name", "a call in an argument's annotation",
    "a call in a result's annotation", "a call in a constant's annotation", "not Python",
)  # fmt: skip


@pytest.mark.parametrize("name", TOPS)
def test_of_a_trusted_file_the_top_only_declares(name: str):
    with pytest.raises(Refused) as refused:
        check_top(HEAD + ATTACKS[name], "mine.py")
    assert refused.value.line > 2


@pytest.mark.parametrize("body", BODIES)
def test_of_a_trusted_file_the_functions_are_free(body: str):
    check_top(HEAD + body)
    with pytest.raises(Refused):
        check_language(HEAD + body)


@pytest.mark.parametrize("path", sorted(LIBRARY.glob("*.py")), ids=lambda path: path.stem)
def test_every_rule_of_the_library_is_let_through(path: Path):
    check_language(load_source(path), path.name)


def test_compositions_are_let_through():
    from archer.rules.compose import compose

    for choices in ("similarity=hybrid, retain=decay", "write=adam, similarity=cosine_softmax"):
        check_language(compose(choices, parent="delta_net").source)


def test_a_reason_says_what_to_write_instead():
    with pytest.raises(Refused, match=r"`x \+= y` changes a tensor in place; write `x = x \+ y`"):
        check_language(HEAD + "def read(o):\n    o += 1\n    return o")


def test_deep_nesting_and_many_nodes_are_refused_and_nothing_breaks():
    for text in ("(" * 5_000 + ")" * 5_000, "x = " + "-" * 30_000 + "1", "x = (" + "1," * 25_000 + ")"):
        with pytest.raises(Refused):
            check_language(text)


@given(st.text(max_size=200))
def test_any_text_is_let_through_or_refused_and_never_breaks_the_reader(text: str):
    with contextlib.suppress(Refused):
        check_language(text)


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".", "x" * 81, "a b", "a\n", "-x", "x.py", "ä"])
def test_a_name_that_could_be_a_path_is_refused(name: str):
    with pytest.raises(Refused, match="letters, digits"):
        check_name(name)


def test_load_source_says_what_is_wrong_with_a_file(tmp_path: Path):
    good = tmp_path / "good.py"
    good.write_text("x = 1\n")
    assert load_source(good) == "x = 1\n"
    (tmp_path / "link.py").symlink_to(good)
    (tmp_path / "bad.py").write_bytes(b"x = 1\ny = '\xff'\n")
    (tmp_path / "large.py").write_bytes(b"#" * (SOURCE_BYTES + 1))
    with (tmp_path / "huge.py").open("wb") as file:
        file.truncate(100 * 2**20)
    os.mkfifo(tmp_path / "pipe.py")
    expected = {
        "missing.py": "no such file",
        "link.py": "symbolic link",
        "bad.py": "line 2.*not UTF-8",
        "large.py": "65,537 bytes",
        "huge.py": "104,857,600 bytes",
        "pipe.py": "no regular file",
        ".": "folder",
    }
    for name, words in expected.items():
        with pytest.raises(Refused, match=words):
            load_source(tmp_path / name)
