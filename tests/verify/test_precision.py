"""Digits that a rule loses are found by how many they are, and not at first values alone."""

from __future__ import annotations

import pytest
from tests.verify.faults import rule

from archer.verify.checks.finding import Finding
from archer.verify.checks.precision import precision

SHIFTED = """
def read(o, S{names}):
    wide = o + 0 * S[..., :1, :1]
    shift = {size} * wide.abs().amax(-1, keepdim=True)
    return wide + shift - shift
"""
"""In the precision of the state: what is added and taken away again costs so many times the last digit."""


def found(size: str, names: str = "", parameters: str = "") -> Finding:
    return precision.run(rule("", "", parameters + SHIFTED.format(size=size, names=names)).candidate())


@pytest.mark.parametrize(("size", "passes"), [("1e3", True), ("1e5", False)])
def test_three_lost_digits_of_seven_are_allowed_and_five_are_not(size: str, passes: bool):
    result = found(size)
    assert result.passed == passes
    if not passes:
        assert "in float32 differs from the exact one" in result.message


def test_digits_that_only_other_parameters_lose_are_found():
    """The first value is 0, and nothing is lost there."""
    parameters = "P = Parameter(initial=0.0)\n"
    assert found("0.0 * P.abs()", ", P", parameters).passed
    assert not found("1e6 * P.abs()", ", P", parameters).passed
