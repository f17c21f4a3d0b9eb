"""Every planted fault is caught, by exactly the checks that are named for it; no registered rule is."""

from __future__ import annotations

import pytest
import torch
from tests.verify.faults import BEGIN, DOCUMENT, END, FAULTS, Fault, rule

from archer.rules import RuleError, get_rule, load_rule, rule_names
from archer.verify import verify_rule
from archer.verify.candidate import Probe, RuleCandidate
from archer.verify.checks import (
    carrying,
    causality,
    contract,
    cost,
    gradients,
    independence,
    precision,
    repeatable,
    stability,
    training,
)
from archer.verify.checks.finding import Check
from archer.verify.checks.novelty import new
from archer.verify.language import Refused, check_language

TRUE_ALARMS = {"rope_in_loop": {"stability"}}
"""Registered rules that really fail: rotated writes that nobody corrects grow without bound."""


@pytest.fixture(autouse=True)
def one_thread():
    """The probes are small; more threads only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch):
    """Costs counted at three lengths, not five: many candidates are checked here."""
    monkeypatch.setattr(cost, "LENGTHS", (256, 512, 1_024))


CHECKS = {
    check.name: check
    for module in (carrying, causality, contract, gradients, independence, precision, repeatable, stability)
    for check in vars(module).values()
    if isinstance(check, Check)
}
"""The checks that need nothing but a candidate, by name."""


UNLOADABLE = {"a parameter that nobody uses", "a slot that is another function under a second name"}
BROKEN = [fault for fault in FAULTS if fault.name in UNLOADABLE]
NAMED = [fault for fault in FAULTS if fault.caught <= CHECKS.keys() and fault not in BROKEN]


@pytest.mark.parametrize("fault", NAMED, ids=lambda fault: fault.name)
def test_each_check_that_is_named_for_a_fault_catches_it(fault: Fault):
    """The quick half: only the named checks run."""
    candidate = fault.candidate()
    for name in sorted(fault.caught):
        result = CHECKS[name].run(candidate)
        assert not result.passed, name
        assert result.message


AT_ONE_ROW = '''"""One row of every chunk sees the next."""
import torch
parent = "delta_net"

def read(o):
    row = torch.arange(o.shape[-2]).unsqueeze(-1)
    return o + torch.roll(o, -1, dims=-2) * (row == {row})
'''


@pytest.mark.parametrize("row", [11, 14, 18, 21, 28])
def test_a_leak_into_one_row_of_a_chunk_is_found(row: int):
    rule = load_rule(AT_ONE_ROW.replace("{row}", str(row)), "leak", get_rule)
    result = causality.causality.run(RuleCandidate(rule))
    assert not result.passed
    assert "sees the future" in result.message


class OtherEnd(RuleCandidate):
    """What continues from a state ends with another one; its outputs are right."""

    def run(self, inputs, parameters, state=None, train=True):  # type: ignore[override]
        output, end = super().run(inputs, parameters, state, train)
        return output, end if state is None else {**end, "S": end["S"] + 0.01}


def test_the_state_at_the_end_is_compared_and_not_the_outputs_alone():
    result = carrying.carried_state.run(OtherEnd(get_rule("delta_net")))
    assert not result.passed
    assert "the state S differs from one pass" in result.message


def test_a_copy_under_another_name_is_not_new():
    original = get_rule("gelu_error")
    copy = load_rule(original.source, "mine", get_rule)
    found: list[str] = []
    assert not new.run(copy, {"gelu_error": original}, found).passed
    assert found == ["gelu_error"]
    assert new.run(original, {"gelu_error": original, "delta_net": get_rule("delta_net")}, []).passed


@pytest.mark.parametrize("fault", BROKEN, ids=lambda fault: fault.name)
def test_a_file_that_breaks_the_contract_is_not_even_loaded(fault: Fault):
    with pytest.raises(RuleError, match=r"no slot asks for it|another function under a second name"):
        fault.candidate()


@pytest.mark.slow
@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_planted_fault_is_caught_by_its_checks_alone(fault: Fault):
    verification = fault.verify()
    assert not verification.passed
    assert {check.name for check in verification.failed} == fault.caught, verification.reason
    assert all(check.message for check in verification.failed)


@pytest.mark.parametrize("fault", [f for f in FAULTS if not f.mixer], ids=lambda fault: fault.name)
def test_the_language_wall_stops_what_keeps_or_draws_something_and_lets_mathematics_through(fault: Fault):
    if fault.plain and "language" not in fault.caught:
        check_language(fault.source)
    else:
        with pytest.raises(Refused):
            check_language(fault.source)


def test_every_check_that_can_reject_has_a_fault_of_its_own():
    rejecting = {
        "language", "contract", "one change", "causality", "length independence", "batch independence",
        "as it trains", "carried state", "decoding", "repeatable", "finite gradients", "precision",
        "live parameters", "stability", "cost", "new", "reach",
    }  # fmt: skip
    assert set().union(*(fault.caught for fault in FAULTS)) == rejecting
    alone = {name for fault in FAULTS if len(fault.caught) == 1 for name in fault.caught}
    assert rejecting - alone == {"carried state", "reach"}, "these are always caught by another check too"


def test_the_table_in_the_document_lists_every_fault_with_the_checks_that_catch_it():
    table = DOCUMENT.read_text(encoding="utf-8").split(BEGIN)[1].split(END)[0]
    rows = [[cell.strip() for cell in line.split("|")[1:3]] for line in table.strip().splitlines()[2:]]
    listed = {name.removesuffix(" (mixer)"): frozenset(caught.split(", ")) for name, caught in rows}
    assert listed == {fault.name: fault.caught for fault in FAULTS}


QUICK = ("delta_net", "gated_delta_net", "gated_delta_product", "adam", "rope", "rope_in_loop")


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in QUICK else (pytest.mark.slow,)) for n in rule_names()]
)
def test_no_false_alarm_on_a_registered_rule(name: str):
    verification = verify_rule(get_rule(name).source, name, allow_many=True)
    assert {check.name for check in verification.failed} == TRUE_ALARMS.get(name, set()), verification.reason


@pytest.mark.parametrize("name", ["decay", "softmax", "gated_delta_net"])
def test_probes_are_the_same_in_every_dtype_and_never_touch_the_global_generator(name: str):
    candidate, before = RuleCandidate(get_rule(name)), torch.random.get_rng_state()
    wide, narrow = (candidate.inputs(Probe(dtype=d)) for d in (torch.float64, torch.bfloat16))
    assert all(torch.equal(wide[key].bfloat16(), narrow[key]) for key in wide)
    assert torch.equal(before, torch.random.get_rng_state())


def test_the_same_outputs_with_other_gradients_are_another_rule():
    """A straight-through estimator computes what its parent computes, and learns otherwise."""
    twice = rule("", "", "def read(o):\n    return 2 * o - o.detach()\n").candidate()
    assert isinstance(twice, RuleCandidate)
    found: list[str] = []
    finding = new.run(twice.rule, {"delta_net": get_rule("delta_net")}, found)
    assert finding.passed, finding.message
    assert not found


def test_what_only_all_changes_together_show_is_caught_as_it_trains(monkeypatch: pytest.MonkeyPatch):
    """After the output itself all is changed at once (the second), then one by one, which shows nothing."""
    outputs = iter([0.0, 1.0, 0.0, 0.0, 0.0])
    monkeypatch.setattr(training, "_run", lambda *_: torch.full((2, 3, 4, 101, 32), next(outputs)))
    found = training.as_it_trains.run(RuleCandidate(get_rule("delta_net")))
    assert not found.passed
    assert "all of these at once" in found.message
    assert found.case.startswith("two runs of 3 sequences of 101 tokens")
