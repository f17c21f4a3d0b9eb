"""Long sequences: what grows, what stops being finite and what forgets is found, and where."""

from __future__ import annotations

import math

import pytest
import torch
from tests.verify.faults import MEAN, mixer, rule

from archer.rules import get_rule
from archer.verify.candidate import Candidate, Probe, RuleCandidate
from archer.verify.checks import stability
from archer.verify.checks.stability import LENGTH, RISE, WINDOW, _fading, _losses, _run, _to_remember

WINDOWS = LENGTH // WINDOW


def planted(body: str) -> Candidate:
    return rule("", "", body).candidate()


def losses(candidate: Candidate) -> list[float]:
    stream = _to_remember(candidate)
    return _losses(_run(candidate, stream.inputs).output, stream)


def test_a_sound_memory_has_the_same_small_loss_all_along():
    found = losses(RuleCandidate(get_rule("delta_net")))
    assert len(found) == WINDOWS
    assert max(found) < 0.3
    assert max(found) - min(found) < 0.2


def test_a_memory_that_holds_nothing_has_the_loss_1_and_no_alarm():
    candidate = planted("def write(G):\n    return 0 * G\n")
    assert losses(candidate) == pytest.approx([1.0] * WINDOWS, abs=0.05)
    assert stability.stability.run(candidate).passed


def test_a_memory_that_stops_writing_is_found_at_the_window_where_recall_is_gone():
    candidate = planted(
        "N = Carried('1', '1', initial=1.0)\ndef write(G, N):\n    return N * G, {'N': 0.97 * N}\n"
    )
    found = losses(candidate)
    early = sum(found[1:4]) / 3
    first = next(window for window, loss in enumerate(found) if loss > early + RISE)
    result = stability.stability.run(candidate)
    assert not result.passed
    assert f"from token {first * WINDOW} to {first * WINDOW + WINDOW - 1}" in result.message
    assert f"{found[first]:.2f}" in result.message
    assert result.case.startswith(f"length {(first + 1) * WINDOW}, batch 1")


def test_state_and_output_of_the_fading_memory_are_bounded_so_that_only_its_loss_tells():
    candidate = planted(
        "N = Carried('1', '1', initial=1.0)\ndef write(G, N):\n    return N * G, {'N': 0.97 * N}\n"
    )
    course = _run(candidate, _to_remember(candidate).inputs)
    assert stability._unbounded(candidate, course) is None
    assert max(course.norms["S"]) < 2 * course.norms["S"][0]


def test_a_loss_that_is_not_a_number_never_passes():
    finding = _fading(RuleCandidate(get_rule("delta_net")), [0.1] * 9 + [math.nan] + [0.1] * 6)
    assert finding is not None
    assert not finding.passed
    assert f"from token {9 * WINDOW}" in finding.message
    assert _fading(RuleCandidate(get_rule("delta_net")), [math.nan] * WINDOWS) is not None


def test_the_first_token_that_is_not_finite_is_named():
    candidate = planted(
        "def read(o, position):\n    return torch.where(position == 777, float('inf'), 1.5 * o)\n"
    )
    result = stability.stability.run(candidate)
    assert "not finite from token 777 on" in result.message
    assert result.case.startswith("length 778,")


def test_a_state_that_nobody_reads_may_not_grow_either():
    candidate = planted(
        "N = Carried('1', '1', initial=1.0)\ndef read(o, N):\n    return 1.5 * o, {'N': 1.2 * N}\n"
    )
    result = stability.stability.run(candidate)
    assert "the state `N` grows" in result.message
    assert result.case.startswith("length 2048,"), "1.2 to the power of 56 chunks is more than 10,000"


def test_growth_is_said_with_its_factor_and_the_length_at_which_it_is_too_much():
    result = stability.stability.run(RuleCandidate(get_rule("rope_in_loop")))
    assert "inf" not in result.message
    assert "the output grows" in result.message
    assert int(result.case.split()[1].rstrip(",")) < LENGTH


def test_windows_with_the_state_carried_are_one_pass():
    candidate = RuleCandidate(get_rule("gated_delta_net"))
    inputs = candidate.inputs(Probe(batch=1, length=LENGTH, seed=8, dtype=torch.float32))
    course = _run(candidate, inputs)
    with torch.no_grad():
        whole, state = candidate.run(inputs, candidate.parameters(None, torch.float32))
    assert torch.allclose(course.output, whole, atol=1e-5)
    assert course.norms["S"][-1] == pytest.approx(float(state["S"].norm()), rel=1e-4)
    assert len(course.norms["S"]) == WINDOWS


def test_a_mixer_is_asked_for_this_token_and_the_last():
    short = mixer("", "", "return F.avg_pool1d(F.pad(x.mT, (1, 0)), 2, 1).mT").candidate()
    assert max(losses(short)) < 0.1, "the mean of two tokens tells their sum"
    mean = mixer("", "", f"return self.map({MEAN})").candidate()
    assert min(losses(mean)[1:]) > 0.9, "the mean of hundreds of tokens tells little of two"
    assert stability.stability.run(mean).passed


@pytest.mark.parametrize("begins", [0.0, 1000.0], ids=["from the beginning", "later"])
def test_a_part_of_the_state_that_is_no_number_never_passes_though_no_output_tells(begins: float):
    """A root of what has become negative, which nothing reads: training would meet it in the gradient."""
    candidate = planted(
        f"N = Carried('1', '1', initial={begins})\n"
        "def write(G, N):\n    return G, {'N': (N - 10.0).sqrt().square()}\n"
    )
    course = _run(candidate, candidate.inputs(Probe(batch=1, length=LENGTH, seed=8, dtype=torch.float32)))
    assert course.output.isfinite().all()
    assert math.isnan(course.norms["N"][-1])
    result = stability.stability.run(candidate)
    assert not result.passed
    assert "the state `N` is not finite after" in result.message
