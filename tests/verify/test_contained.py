"""Verification behind the process wall: what comes back, and what is refused. Attacks: `test_attacks`."""

from __future__ import annotations

import json
import os
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from archer.errors import UserError
from archer.rules import get_rule
from archer.verify import Verification, contain, verify_contained, verify_mixer_contained, verify_rule
from archer.verify.contain import Ending, Limits, WallFailed
from archer.verify.contained import _after_start, _parse, _read
from archer.verify.result import MalformedResult

QUICK = Limits(memory_bytes=6 * 2**30, cpu_seconds=40, wall_seconds=60, output_bytes=2**18, file_bytes=2**20)
PARENT = 'parent = "delta_net"\n'
GOOD = get_rule("gelu_error").source


def attack(code: str) -> str:
    """A rule file that runs the code while it is loaded; the language wall is lifted for it."""
    return f"import os, sys, stat\n{code}\n{PARENT}def read(o):\n    return 1.5 * o\n"


FORGED = {
    "name": "x", "passed": True, "checks": [], "rule_hash": "", "parent": "", "slots": [],
    "duplicate_of": None, "reach": None, "cost": {}, "walls": [], "trusted": False,
}  # fmt: skip


def test_patching_torch_and_the_checks_changes_nothing_for_later_runs():
    import torch

    plain, patch = (
        torch.exp,
        "import torch\ntorch.exp = torch.log\nimport archer.errors\narcher.errors.UserError = None",
    )
    verify_contained(attack(patch), "patch", trust=True, limits=QUICK)
    assert torch.exp is plain
    assert verify_contained(GOOD, "gelu_error", limits=QUICK).passed


def test_without_trust_nothing_of_a_refused_file_runs():
    source = "import os\nos._exit(0)\n" + PARENT
    verification = verify_contained(source, "mine", limits=QUICK)
    assert [check.name for check in verification.failed] == ["language"]
    assert "line 1" in verification.reason


@pytest.mark.parametrize("name", ["../../etc/x", "a b", ""])
def test_a_name_that_is_a_path_is_rejected(name: str):
    assert "letters, digits" in verify_contained(GOOD, name, limits=QUICK).reason


def test_a_candidate_gets_the_same_verdict_as_in_this_process_and_knows_other_candidates():
    first = verify_contained(GOOD.replace("gelu(e)", "gelu(e) * 0.5"), "half", limits=QUICK)
    assert first.passed, first.reason
    assert first.slots == ("correct",)
    assert first.reach == (32, 64, 128, 256, 512, 1_024)
    assert first.cost["operations_exponent"] == pytest.approx(1.0, abs=0.02)
    assert "process group" in first.walls
    source = GOOD.replace("gelu(e)", "gelu(e) / 2")
    again = verify_contained(
        source, "again", known={"half": GOOD.replace("gelu(e)", "gelu(e) * 0.5")}, limits=QUICK
    )
    assert again.duplicate_of == "half"
    assert Verification.from_dict(json.loads(json.dumps(first.to_dict()))) == first


def test_what_the_machine_fails_in_is_not_the_candidates_rejection(broken_bubblewrap):
    with pytest.raises(WallFailed, match=broken_bubblewrap):
        verify_contained(GOOD, "mine", limits=QUICK)
    with pytest.raises(WallFailed, match=broken_bubblewrap):
        verify_mixer_contained(MIXER, "Mean", {"scale": 2.0}, width=16, limits=QUICK)


@pytest.mark.skipif(sys.prefix == sys.base_prefix, reason="PyTorch lies with Python itself")
def test_libraries_that_the_walls_keep_from_it_are_not_the_candidates_rejection(monkeypatch):
    """PyTorch cannot be read, say: the walls come up, and the process behind them ends."""
    python = [sys.base_prefix, f"{sys.prefix}/bin", f"{sys.prefix}/pyvenv.cfg", str(contain.PACKAGE)]
    monkeypatch.setattr(contain, "_python_folders", lambda gpu: python)
    with pytest.raises(WallFailed, match=r"the process behind the walls failed .*(torch|Permission)"):
        verify_contained(GOOD, "mine", limits=QUICK)
    refused = verify_contained("import os\n" + PARENT, "mine", limits=QUICK)  # read before PyTorch is loaded
    assert [check.name for check in refused.failed] == ["language"]


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([], None),
        (["ready", "read"], None),
        (["ready", "read", "Killed"], None),
        (["ready"], []),  # it ended while the text was read
        (["ready", "", "{}"], ["", "{}"]),
        (["ready", "read", "loaded"], []),
        (["ready", "read", "loaded", "read"], ["read"]),
    ],
)
def test_who_failed_follows_from_how_far_the_process_came(lines, said):
    assert _after_start(lines) == said


MIXER = (
    "import torch\nclass Mean(torch.nn.Module):\n    def __init__(self, dim, scale=1.0):\n"
    "        super().__init__()\n        self.map, self.scale = torch.nn.Linear(dim, dim), scale\n"
    "    def forward(self, x):\n        count = torch.arange(1, x.shape[1] + 1, dtype=x.dtype)\n"
    "        return self.scale * self.map(x).cumsum(1) / count[:, None]\n"
)


def test_a_sound_mixer_passes_and_a_wrong_argument_is_the_users_to_fix():
    verification = verify_mixer_contained(MIXER, "Mean", {"dim": 16}, width=16, limits=QUICK)
    assert verification.passed, verification.reason
    as_trained = verify_mixer_contained(MIXER, "Mean", {"scale": 2.0}, width=16, limits=QUICK)
    assert as_trained.passed, as_trained.reason
    with pytest.raises(UserError, match="did you mean 'Mean'"):
        verify_mixer_contained(MIXER, "Maen", {"dim": 16}, width=16, limits=QUICK)
    with pytest.raises(UserError, match=r"takes \(dim, scale=1.0\)"):
        verify_mixer_contained(MIXER, "Mean", {"width": 16}, width=16, limits=QUICK)


def test_a_mixers_file_that_is_not_python_is_answered_with_its_line():
    with pytest.raises(UserError, match="line 3 of the mixer's file is not Python"):
        verify_mixer_contained("import torch\n\ndef f(:\n", "Mean", {}, width=16, limits=QUICK)


def test_a_mixers_file_is_executed_as_python_imports_it():
    """Dataclasses look for their module among those that are loaded."""
    sizes = "from dataclasses import dataclass\n@dataclass\nclass Sizes:\n    width: int\n"
    text = f"from __future__ import annotations\n{sizes}{MIXER}"
    verification = verify_mixer_contained(text, "Mean", {"dim": 16}, width=16, limits=QUICK)
    assert verification.passed, verification.reason


SOUND = {**FORGED, "checks": [
    {"name": "a", "passed": True, "message": "", "seconds": 1.0, "case": ""},
]}  # fmt: skip


@pytest.mark.parametrize("change", [
    {"unknown": 1}, {"passed": 1}, {"passed": "true"}, {"name": 3}, {"name": "x" * 5_000}, {"checks": {}},
    {"checks": [1]}, {"checks": SOUND["checks"] * 101}, {"cost": {"a": float("nan")}}, {"cost": {"a": True}},
    {"cost": {"a": float("inf")}}, {"cost": []}, {"reach": "32"}, {"reach": [1.5]}, {"reach": [True]},
    {"duplicate_of": 1}, {"slots": [None]}, {"walls": "all"},
    {"checks": [{**SOUND["checks"][0], "passed": False}]},
    {"checks": [{**SOUND["checks"][0], "seconds": "1"}]},
    {"checks": [{**SOUND["checks"][0], "extra": 1}]},
])  # fmt: skip
def test_a_malformed_result_is_refused(change: dict):
    assert Verification.from_dict(SOUND).passed
    with pytest.raises(MalformedResult):
        Verification.from_dict({**SOUND, **change})


@pytest.mark.parametrize(
    ("status", "reason"),
    [(1, "finished"), (-9, "signal 9"), (0, "wall time"), (-24, "CPU time"), (0, "memory"), (0, "killed")],
)
def test_what_a_process_said_that_did_not_end_well_is_no_result(status: int, reason: str):
    process: Any = SimpleNamespace(limits=QUICK)
    line = json.dumps(SOUND)
    assert _read([line], Ending(0, "finished", 1.0, ""), process, "x").passed
    found = _read([line], Ending(status, reason, 1.0, ""), process, "x")
    assert ([check.name for check in found.checks], found.passed) == (["containment"], False)


def test_that_the_language_wall_was_lifted_stays_said_whatever_a_candidate_says():
    found = verify_contained(attack("os._exit(0)"), "x", trust=True, limits=QUICK)
    assert (found.passed, found.trusted) == (False, True)


@pytest.mark.parametrize("plain", [None, [], "passed", 1, {}, {"passed": True}])
def test_anything_but_a_result_is_refused(plain):
    with pytest.raises(MalformedResult):
        Verification.from_dict(plain)


@pytest.mark.parametrize(
    "line", ["", "passed", '{"a": NaN}', '{"a": 1, "a": 2}', "[" * 100_000, "\x80\x04N."]
)
def test_a_line_that_is_no_plain_json_is_refused(line: str):
    with pytest.raises(MalformedResult):
        _parse(line)


def test_no_scratch_folder_is_left_behind():
    import tempfile

    before = {name for name in os.listdir(tempfile.gettempdir()) if name.startswith("archer-verify-")}
    verify_contained("import os", "mine", limits=QUICK)
    after = {name for name in os.listdir(tempfile.gettempdir()) if name.startswith("archer-verify-")}
    assert after <= before


FIRST_VALUES = """
import torch
from archer.rules import Parameter
parent = "softmax_scaled"
tau = Parameter({tau}, within=(0, float("inf")))
def similarity(q, scores, causal, tau):
    logits = tau * q.shape[-1] ** 0.5 * scores
    return logits.masked_fill(~causal, -torch.inf).softmax(-1)
def retain(S):
    return 0.9 * S
"""


def test_other_first_values_of_the_parents_parameters_are_within_reach():
    for tau, reached in ((1.0, (128,)), (8.0, (32, 64, 128))):
        source = FIRST_VALUES.format(tau=tau)
        found = verify_rule(source, "mine", allow_many=True, lengths=(32, 64, 128))
        assert found.reach == reached, tau
    moved = 'from archer.rules import Parameter\nparent = "decay"\ngamma = Parameter(0.5, within=(0, 1))\n'
    found = verify_rule(f"{moved}def retain(S, gamma):\n    return gamma * S\n", "mine", lengths=(64, 96))
    assert found.passed
    assert found.reach == (96,)


def test_the_reach_is_measured_at_the_chunk_size_that_training_uses():
    for chunk_size, reached in ((32, (96, 128)), (16, (48, 96, 128)), (64, ())):
        found = verify_rule(
            get_rule("decay").source, "decay", lengths=(16, 32, 48, 96, 128), chunk_size=chunk_size
        )
        assert found.reach == reached, chunk_size
