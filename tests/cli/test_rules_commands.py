"""`archer rules`, `archer compose`, `archer export`."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from tests.cli.program import archer, data, output, refusal
from tests.cli.project import CANDIDATE, RULE, write_project

from archer.cli.new import write_new
from archer.cli.report import _time_decoding
from archer.errors import UserError
from archer.ledger import Ledger
from archer.ledger.records import RuleSource
from archer.report import costs
from archer.rules import get_rule, load_rule, rule_names
from archer.rules.compose import compose, grammar


@pytest.mark.parametrize("columns", [80, 120])
def test_every_rule_is_listed_with_its_equation(columns: int) -> None:
    text = output("rules", columns=columns)
    flat = "".join(text.split())
    for name in rule_names():
        rule = get_rule(name)
        assert any(line.split()[:1] == [name] for line in text.splitlines())
        for part in (rule.title, rule.equation, *rule.history):
            assert "".join(part.split()) in flat
    for mixer in ("attention", "gla", "mamba"):
        assert any(line.split()[:1] == [mixer] for line in text.splitlines())


def test_the_list_ends_with_the_rules_of_the_project(tmp_path: Path) -> None:
    folder = write_project(tmp_path / "project")
    (own,) = json.loads(data("rules", "--json", "-p", folder))["project"]
    assert (own["name"], own["hash"]) == (CANDIDATE, RULE.hash)
    assert f"\n{CANDIDATE}  retain of delta_net\n" in output("rules", "-p", folder)
    assert "has accepted" not in output("rules", "-p", tmp_path / "another")


def test_the_list_as_json() -> None:
    found = {rule["name"]: rule for rule in json.loads(data("rules", "--json"))["rules"]}
    assert tuple(found) == rule_names()
    assert found["decay"]["slots"] == ["retain"]
    assert found["decay"]["learned"] == "1"
    assert found["adam"]["state"] == "3 Dk Dv + 1"
    assert "momentum_state_update_in_for_loop" in found["momentum"]["history"]


def test_one_rule_shows_its_code_and_what_it_inherits() -> None:
    text = data("rules", "softmax_decay")
    assert "def retain(S, alpha):\n    return (1 - alpha) * S" in text
    assert "\nsimilarity of softmax\n" in text
    assert "\nprepare of delta_net\ndef prepare(k, v, beta):" in text
    assert "write of delta_net" in text
    assert "hash " + get_rule("softmax_decay").hash in text


def test_a_rule_by_other_names() -> None:
    assert "softmax" in output("rules", "softmax_attention_in_for_loop").splitlines()[0]
    values = json.loads(data("rules", "delta_net+retain=decay+similarity=hybrid", "--json"))
    assert values["hash"] == compose("retain=decay, similarity=hybrid").hash
    assert sorted(values["inherited"]) == ["correct", "prepare", "read", "write"]


def test_the_grammar_says_how_large_it_is() -> None:
    text = output("rules", "--grammar", columns=80)
    assert f"{grammar().size:,} rules on delta_net" in text
    assert json.loads(data("rules", "--grammar", "--json"))["size"] == grammar().size


def test_compose_in_any_order_gives_one_rule() -> None:
    first = json.loads(data("compose", "similarity=hybrid, retain=decay(gamma=0.9)", "--json"))
    second = json.loads(data("compose", "retain=decay(gamma=0.9), similarity=hybrid", "--json"))
    assert first == second
    assert compose("similarity=hybrid, retain=decay(gamma=0.9)").source == first["source"]


def test_compose_writes_a_rule_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    ended = archer("compose", "retain=decay(gamma=0.9)", "--parent", "softmax", "--write", file)
    assert ended.returncode == 0
    assert file.read_text() == compose("retain=decay(gamma=0.9)", "softmax").source
    assert "--force" in refusal("compose", "retain=decay", "--write", file)
    text = archer("compose", "retain=decay(gamma=0.9)", "--parent", "softmax", "--write", "-", columns=40)
    assert text.stdout == file.read_text()
    assert "built-in" in refusal("compose", "retain=decay", "--write", tmp_path / "decay.py")


def test_compose_names_the_built_in_rule_that_it_is() -> None:
    ended = archer("compose", "retain=decay")
    assert ended.stdout.splitlines()[0].split()[0] == "decay"
    name = "delta_net+retain=decay+similarity=hybrid"
    assert data("rules", name).partition("hash")[0].count(name) == 1
    assert "built-in rule decay" in ended.stderr


def test_an_exported_rule_works_where_there_is_only_torch(tmp_path: Path) -> None:
    ended = archer("export", "hybrid", "--to", tmp_path / "out")
    assert ended.returncode == 0
    function, layer = map(Path, ended.stdout.splitlines())
    assert function.exists()
    assert layer.exists()
    code = (
        "import sys, torch, hybrid\n"
        "q, k, v = (torch.randn(1, 2, 40, 8) for _ in range(3))\n"
        "o, S = hybrid.delta_rule_chunkwise(q, k, v, torch.rand(1, 2, 40))\n"
        "print(tuple(o.shape), tuple(S.shape), 'archer' in sys.modules)"
    )
    asked = [sys.executable, "-c", code]
    found = subprocess.run(asked, capture_output=True, text=True, cwd=function.parent, check=True)
    assert found.stdout.strip() == "(1, 2, 40, 8) (1, 2, 8, 8) False"
    assert "--force" in refusal("export", "hybrid", "--to", tmp_path / "out")


def test_a_projects_rule_is_exported_by_its_name_and_with_its_ancestors(tmp_path: Path) -> None:
    folder, out = write_project(tmp_path / "project"), tmp_path / "out"
    named = data("export", CANDIDATE, "-p", folder, "--to", out, "--json")
    assert json.loads(named)["hash"] == RULE.hash
    (tmp_path / "child.py").write_text(
        f'"""Child."""\nparent = "{CANDIDATE}"\n\ndef read(o):\n    return 2 * o\n'
    )
    child = json.loads(data("export", tmp_path / "child.py", "-p", folder, "--to", out, "--json"))
    assert "0.9" in Path(child["function"]).read_text()
    assert f"did you mean '{CANDIDATE}'" in refusal("export", CANDIDATE[:-1], "-p", folder, "--to", out)


def test_a_projects_rule_is_shown_by_its_name_and_with_what_it_inherits(tmp_path: Path) -> None:
    folder = write_project(tmp_path / "project")
    text = f'"""Child."""\nparent = "{CANDIDATE}"\n\ndef read(o):\n    return 2 * o\n'
    with Ledger.in_folder(folder) as ledger:
        digest = load_rule(text, "child", lambda name: RULE).hash
        ledger.add_source(RuleSource(digest, "child", CANDIDATE, text))
        ledger.add_verification(replace(ledger.verifications()[0], rule="child", rule_hash=digest))
    found = json.loads(data("rules", "child", "-p", folder, "--json"))
    assert (found["parent"], found["inherited"]["retain"]["from"]) == (CANDIDATE, CANDIDATE)
    assert "0.9" in found["inherited"]["retain"]["code"]
    assert f"did you mean '{CANDIDATE}'" in refusal("rules", CANDIDATE[:-1], "-p", folder)
    assert "unknown rule" in refusal("rules", CANDIDATE, "-p", tmp_path / "another")


def test_a_projects_rules_stand_in_the_grammar_and_can_be_composed(tmp_path: Path) -> None:
    folder = write_project(tmp_path / "project")
    with Ledger.in_folder(folder) as ledger:
        broken = RuleSource("0" * 64, "broken", "delta_net", "def read(:")
        ledger.add_source(broken)
        ledger.add_verification(replace(ledger.verifications()[0], rule="broken", rule_hash=broken.rule_hash))
    own = json.loads(data("rules", "--grammar", "-p", folder, "--json"))
    assert own["slots"]["retain"] == [*grammar().slots["retain"], CANDIDATE]
    assert own["constants"][f"retain={CANDIDATE}"]["gamma"]["initial"] == 0.9
    assert "broken" not in str(own)
    on_it = json.loads(data("rules", CANDIDATE, "--grammar", "-p", folder, "--json"))
    assert (on_it["parent"], on_it["slots"]["retain"][0]) == (CANDIDATE, CANDIDATE)
    assert CANDIDATE not in str(json.loads(data("rules", "--grammar", "-p", tmp_path / "another", "--json")))
    named = data("compose", f"retain={CANDIDATE}, similarity=hybrid", "-p", folder, "--json")
    assert "0.9" in json.loads(named)["source"]
    assert json.loads(data("compose", "read=rope", "--parent", CANDIDATE, "-p", folder, "--json"))["parent"]
    assert f"did you mean '{CANDIDATE}'" in refusal("compose", f"retain={CANDIDATE[:-1]}", "-p", folder)


def test_a_composition_with_a_number_of_its_own_has_a_grammar() -> None:
    found = json.loads(data("rules", "delta_net+retain=decay(gamma=0.9)", "--grammar", "--json"))
    assert found["slots"]["retain"][0] == found["parent"] == "delta_net+retain=decay(gamma=0.9)"
    assert "retain=decay" in found["constants"]
    assert not any(found["parent"] in choice for choice in found["constants"])


def test_what_a_project_has_accepted_is_no_work_where_there_is_none(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom archer.cli.verify import _others\n"
        f"print(_others('mine', Path({str(tmp_path)!r}), 'decay'), 'sqlalchemy' in sys.modules)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout == "{} False\n"


def test_a_projects_rule_is_known_to_verification(tmp_path: Path) -> None:
    folder, child = write_project(tmp_path / "project"), tmp_path / "child.py"
    child.write_text(f'"""Child."""\nparent = "{CANDIDATE}"\n\ndef read(o):\n    return 2 * o\n')
    found = json.loads(data("verify", child, "-p", folder, "--json"))
    assert (found["passed"], found["parent"], found["slots"]) == (True, CANDIDATE, ["read"])
    assert archer("verify", child, "-p", tmp_path / "another").returncode == 1
    child.write_text(RULE.source)
    twice = json.loads(archer("verify", child, "-p", folder, "--json").stdout)
    assert (twice["passed"], twice["duplicate_of"]) == (False, CANDIDATE)


def test_wrong_input(tmp_path: Path) -> None:
    assert "did you mean 'hybrid'" in refusal("rules", "hybrd")
    assert "no slots" in refusal("rules", "gla")
    assert "did you mean 'retain'" in refusal("compose", "retian=decay")
    assert "did you mean 'gamma'" in refusal("compose", "retain=decay(gama=0.9)")
    assert "nothing was chosen" in refusal("compose", " ")
    assert "did you mean 'softmax'" in refusal("export", "softmx")
    (tmp_path / "file").write_text("")
    assert "--to" in refusal("export", "softmax", "--to", tmp_path / "file")
    assert "no_such.py" in refusal("export", "no_such.py", "--to", tmp_path)
    assert "give a Python file, such as my_rule.py" in refusal("verify", "decay")
    assert "give a Python file, such as my_rule.py" in refusal("try", "decay")
    (tmp_path / "mine.py").write_text(RULE.source)
    assert "did you mean 'softmax'" in refusal("verify", tmp_path / "mine.py", "--parent", "softmx")
    (tmp_path / "mixers.py").write_text("import torch\nclass A(torch.nn.Identity): ...\nclass B(A): ...\n")
    named = refusal("verify", f"{tmp_path / 'mixers.py'}:Foo")
    assert "unknown nn.Module 'Foo'. Choices: A, B" in named
    without = refusal("verify", f"{tmp_path / 'mine.py'}:Foo")
    assert "this file has no nn.Module, so none named 'Foo' (a rule file needs no class)" in without
    for command in (["run"], ["bench", "decay"], ["discover", "--cycles", "1"]):
        said = refusal(*command, "-p", tmp_path / "file", "--device", "cpu")
        assert f"{tmp_path / 'file'} cannot be used: it is a file; give a folder" in said
    assert "--argument is for modules" in refusal("bench", "decay", "--argument", "heads=4", "-p", tmp_path)
    assert not list(tmp_path.glob("*.sqlite"))


def refuse_to_write(*given: object, **more: object) -> None:
    raise PermissionError(errno.EACCES, "Permission denied")


def test_a_folder_that_cannot_be_written_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In this process: whoever runs the tests as root may write everywhere."""
    monkeypatch.setattr(Path, "open", refuse_to_write)
    with pytest.raises(UserError, match=r"mine\.py cannot be written: Permission denied"):
        write_new("mine", "delta_net", tmp_path)


def test_a_project_that_cannot_keep_the_times_of_decoding_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(costs, "measure_decoding", refuse_to_write)
    laboratory = SimpleNamespace(ledger=SimpleNamespace(runs=lambda keys: ()), known_rules=list)
    with pytest.raises(UserError, match="cannot keep the times: Permission denied"):
        _time_decoding(laboratory, SimpleNamespace(run_keys=()), tmp_path)  # type: ignore[arg-type]
