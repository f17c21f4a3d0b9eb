"""Descriptions, and a documentation page that is never behind the library."""

from math import prod
from pathlib import Path

import pytest

from archer.rules import get_rule, rule_names
from archer.rules.describe import PLACE, describe, page, read_figures
from archer.rules.inputs import random_inputs
from archer.rules.loop import initial_state

REPOSITORY = Path(__file__).parents[2]


def test_the_page_is_up_to_date():
    written = (REPOSITORY / PLACE).read_text(encoding="utf-8")
    assert written == page(read_figures(REPOSITORY)), "run: python -m archer.rules.describe"


def test_the_benchmark_covers_every_rule_and_all_grow_linearly():
    figures = read_figures(REPOSITORY)
    assert figures is not None
    assert set(figures["rules"]) == set(rule_names())
    for name, x in figures["rules"].items():
        assert 0.9 < x["memory_exponent"] < 1.1, name


@pytest.mark.parametrize("name", rule_names())
def test_sizes_are_those_of_the_loop(name):
    rule, described = get_rule(name), describe(name)
    inputs = random_inputs(rule, leading=(1, 1), key_width=8, value_width=6)
    state = initial_state(rule, inputs.q, inputs.v)
    assert described.state_per_head(8, 6) == sum(x.numel() for x in state.values())
    assert _worth(described.learned) == sum(x.numel() for x in inputs.parameters.values())


def _worth(polynomial: str) -> int:
    """What a sum such as "Dk Dv + 1" comes to for Dk = 8 and Dv = 6."""
    terms = [[{"Dk": 8, "Dv": 6}.get(word) or int(word) for word in x.split()] for x in polynomial.split("+")]
    return sum(map(prod, terms))


def test_sizes_are_written_as_sums():
    assert describe("adam").state == "3 Dk Dv + 1"
    assert describe("adam").learned == "3"
    assert describe("delta_net").state == "Dk Dv"
    assert describe("delta_net").learned == "0"
    assert describe("kda").learned == "Dk + 1"


def test_a_composition_is_described_too():
    described = describe("delta_net+retain=decay+similarity=hybrid")
    assert described.slots == ("similarity", "retain")
    assert described.learned == "2"


def test_a_page_without_figures_has_no_table_of_times():
    assert "## Time and memory" not in page()
