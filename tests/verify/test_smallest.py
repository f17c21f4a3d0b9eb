"""What fails is made small: the case that a check names fails, and the next smaller one does not."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.verify.faults import FAULTS, rule

from archer.rules import get_rule
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
    smallest,
)
from archer.verify.checks.finding import Check
from archer.verify.checks.smallest import Case, refute
from archer.verify.result import CheckResult

LARGE = Case(RuleCandidate(get_rule("delta_net")), Probe(batch=3, length=100, scale=30.0), position=70)


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch):
    """A busy machine finds nothing larger."""
    monkeypatch.setattr(smallest, "SECONDS", 60.0)


def sizes(case: str) -> dict[str, int]:
    """The numbers of a case by name, out of its words."""
    return {name: int(value) for name, value in re.findall(r"(\w+) (\d+)\b", case)}


def fault(name: str):
    return next(fault for fault in FAULTS if fault.name == name).candidate()


def found(check: Check, candidate) -> tuple[CheckResult, dict[str, int]]:
    result = check.run(candidate)
    assert not result.passed
    return result, sizes(result.case)


def planted(body: str):
    return rule("", "", body).candidate()


def test_every_size_is_brought_down_to_where_it_still_fails():
    least = {"batch": 2, "heads": 2, "position": 11, "length": 37, "scale": 5}

    def problem(case: Case) -> str:
        return "wrong" if all(case.sizes.get(name, 1) >= least[name] for name in least) else ""

    finding = refute([LARGE], problem)
    assert finding is not None
    assert finding.message == "wrong"
    assert sizes(finding.case) == least
    assert finding.case == "length 37, batch 2, heads 2, position 11, scale 5, float64"


def test_the_least_case_is_tried_first_and_a_sequence_is_always_longer_than_its_position():
    tried = []

    def problem(case: Case) -> str:
        tried.append(case)
        return "wrong"

    finding = refute([LARGE], problem)
    assert finding is not None
    assert finding.case == "length 2, batch 1, heads 1, position 1, float64"
    assert len(tried) == 6, "the case itself and one for each size"
    assert all(case.probe.length > (case.position or 0) for case in tried)


def test_a_size_that_is_left_out_stays_as_it_was():
    finding = refute([LARGE], lambda case: "wrong", {"batch": 2, "length": 1})
    assert finding is not None
    assert finding.case == "length 71, batch 2, heads 2, position 70, scale 30, float64"


def test_what_holds_is_not_refuted_and_only_the_first_failure_is_looked_into():
    assert refute([LARGE], lambda case: "") is None
    cases = [replace(LARGE, seed=seed) for seed in (1, 2, 3)]
    seen = set()

    def problem(case: Case) -> str:
        seen.add(case.seed)
        return "wrong" if case.seed == 2 else ""

    assert refute(cases, problem) is not None
    assert seen == {1, 2}


def test_an_exception_is_a_finding_at_its_smallest_case_and_does_not_stand_for_another_one():
    def raises(case: Case) -> str:
        if case.probe.length >= 9:
            raise ValueError("no")
        return ""

    probe = Case(LARGE.candidate, Probe(length=40))
    finding = refute([probe], raises)
    assert finding is not None
    assert finding.message.startswith("its code raised ValueError: no")
    assert sizes(finding.case)["length"] == 9

    def raises_below(case: Case) -> str:
        if case.probe.length < 9:
            raise ValueError("too short for it")
        return "wrong"

    finding = refute([probe], raises_below)
    assert finding is not None
    assert finding.message == "wrong"
    assert sizes(finding.case)["length"] == 9


def test_a_search_without_time_keeps_what_it_has(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(smallest, "SECONDS", 0.0)
    assert smallest.smallest(LARGE, "wrong", lambda case: "smaller") == (LARGE, "wrong")


@given(st.sets(st.integers(1, 64)), st.integers(1, 64))
def test_what_is_returned_has_failed_whatever_fails(failing: set[int], start: int):
    failing |= {start}
    case = Case(LARGE.candidate, Probe(batch=1, length=start))

    def problem(case: Case) -> str:
        return "wrong" if case.probe.length in failing else ""

    assert smallest.smallest(case, "wrong", problem)[0].probe.length in failing


def test_a_leak_of_one_position_is_shown_with_two_tokens():
    result, case = found(causality.causality, fault("a leak of one position"))
    assert case["length"] == 2
    assert case["position"] == case["batch"] == case["heads"] == 1
    assert "position 0 changes with the tokens from position 1 on" in result.message
    _, case = found(causality.length_independence, fault("a leak of one position"))
    assert case["length"] == 2


@pytest.mark.parametrize("check", [causality.causality, causality.length_independence])
def test_a_leak_past_2048_tokens_is_shown_at_the_first_length_that_has_one(check: Check):
    _, case = found(check, fault("a leak only past 2,048 tokens"))
    assert case["length"] == 2_051, "position 2049 sees position 2050"
    assert case["position"] == 2_050


def test_statistics_of_the_batch_are_shown_with_two_sequences():
    _, case = found(independence.batch_independence, fault("statistics of the batch"))
    assert case["batch"] == 2
    assert case["heads"] == 1
    _, case = found(independence.batch_independence, fault("batch normalisation left on"))
    assert case["length"] <= 2
    assert "heads" not in case, "a mixer's are its own affair"


def test_what_passes_outside_the_state_is_shown_at_the_first_cut_and_shortest_sequence():
    _, case = found(carrying.carried_state, fault("state that passes outside the state"))
    assert case["position"] == 32
    assert case["length"] == 64, "only the second chunk's own mean is missing"
    _, case = found(carrying.decoding, fault("a chunk of four tokens is treated apart"))
    assert case["length"] == 4


def test_a_counter_is_shown_with_one_sequence():
    _, case = found(repeatable.repeatable, fault("a counter between calls"))
    assert case["batch"] == case["heads"] == 1
    _, case = found(repeatable.repeatable, fault("a random number that changes nothing yet"))
    assert case["length"] == 1


def test_a_gradient_is_shown_with_its_parameter_and_the_scale_from_which_on_it_breaks():
    candidate = planted(
        "gamma = Parameter(0.5)\ndef correct(e, gamma):\n    grown = (9.5 * e.abs()).exp()\n"
        "    return e * (gamma * grown / grown + 1)\n"
    )
    result, case = found(gradients.finite_gradients, candidate)
    assert "the output is not finite" in result.message
    assert case["scale"] > 1
    below = Probe(length=case["length"], batch=case["batch"], scale=case["scale"] - 1, dtype=torch.float32)
    small = RuleCandidate(candidate.rule, heads=case["heads"])  # type: ignore[attr-defined]
    assert gradients._not_finite(Case(small, below, seed=None)) == ""
    assert gradients._not_finite(Case(small, replace(below, scale=float(case["scale"])), seed=None))
    result, case = found(
        gradients.finite_gradients,
        planted(
            "gamma = Parameter(0.0)\ndef correct(e, gamma):\n    return e * (1 + gamma.square().sqrt())\n"
        ),
    )
    assert result.message == "the gradient of `gamma` is not finite"
    assert case["length"] == 1


@pytest.mark.parametrize(
    "name", ["angles kept in bfloat16", "an inverse by powers, which cancel where keys repeat"]
)
def test_lost_digits_are_shown_at_a_short_length(name: str):
    result, case = found(precision.precision, fault(name))
    assert case["batch"] == case["heads"] == 1
    assert case["length"] < gradients.LENGTH
    assert "float" in result.case


def test_a_broken_contract_is_shown_at_the_first_length_that_breaks_it():
    candidate = planted("def read(o):\n    return o.double() if o.shape[-2] >= 20 else 1.5 * o\n")
    _, case = found(contract.contract, candidate)
    assert case["length"] == 20


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("def correct(u, w, S):\n    return (u - w @ S).sum(-1)\n",
         "slot `correct` returned the shape [2, 2, 5]; a tensor [..., C, Dv] was expected, here [..., 5"),
        ("def write(G):\n    return G, {'M': G}\n",
         "slot `write` returned `M` as a state, which nobody declares; declare `M = Carried()` at the top"),
        ("def correct(u, w, S, k_write):\n    return u - w @ S, {'k_write': 0.5 * k_write}\n",
         "slot `correct` returned `k_write` as a state"),
        ("def write(G):\n    return G, 0.9 * G\n",
         "slot `write` returned two values, the second a Tensor; expected its matrix, or its matrix and a"),
        ("def retain(S):\n    return 0.0\n",
         "slot `retain` returned a float; a tensor [..., Dk, Dv] was expected, here [..., 8, 16]"),
        ("def correct(u, w, S):\n    return u - S @ w\n",
         "of the candidate, in `correct`, given u [5, 16], w [5, 8], S [8, 16])"),
    ],
)  # fmt: skip
def test_a_matrix_of_the_wrong_shape_is_told_with_the_shapes(body: str, words: str):
    assert words in contract.contract.run(planted(body)).message


def test_growing_cost_is_shown_between_two_lengths(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cost, "LENGTHS", (256, 512, 1_024))
    result = cost.cost.run(fault("a quadratic buffer"), {})
    assert re.fullmatch(r"from length \d+ to \d+: ×\d+\.\d", result.case), result.case
