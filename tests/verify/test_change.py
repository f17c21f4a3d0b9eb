"""What counts as a change: also what is written so that nobody would look for it there."""

from __future__ import annotations

import pytest

from archer.rules import get_rule, load_rule
from archer.verify.checks.change import changed_slots, one_change
from archer.verify.verification import verify_rule

READ = "def read(o):\n    return 1.5 * o\n"


def rule(text: str):
    return load_rule(f"from archer.rules import Carried, Feature, Parameter, wy\n{text}", "mine", get_rule)


WRITE_OF_RMSPROP = get_rule("rmsprop").source.partition("def write")
SECOND_CHANGES = {
    "a parameter": ("decay", "gamma = Parameter(0.5, within=(0, 1))\n", "retain"),
    "a parameter out of a tuple": ("decay", "gamma = (Parameter(0.5, within=(0, 1)),)[0]\n", "retain"),
    "one of two parameters": ("decay", "gamma, other = Parameter(0.5, within=(0, 1)), 1\n", "retain"),
    "a parameter by way of a number": ("decay", "AT = 0.5\ngamma = Parameter(AT, within=(0, 1))\n", "retain"),
    "a feature out of a tuple": ("gated_delta_net", "a = (Feature(bias=3.0),)[0]\n", "prepare"),
    "another kind under an imported name": (
        "decay", "from archer.rules import Feature as Parameter\ngamma = Parameter()\n", "retain",
    ),
    "one of two constants": (
        "rmsprop", f"EPSILON, other = 1e-3, 5\n{''.join(WRITE_OF_RMSPROP[1:])}", "write",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("parent", "text", "slot"), SECOND_CHANGES.values(), ids=SECOND_CHANGES)
def test_a_second_change_is_seen_however_it_is_written(parent: str, text: str, slot: str):
    parent_rule = get_rule(parent)
    changed = rule(f'parent = "{parent}"\n{text}{READ}')
    assert set(changed_slots(changed, parent_rule)) == {"read", slot}
    assert not one_change.run(changed, parent_rule, False).passed


def test_a_step_is_one_change():
    """The slots that it replaces do not count one by one."""
    step = (
        "def step(q, k, u, w, scores, causal, S):\n    e = u - w @ S\n    return q @ S, {'S': S + k.mT @ e}\n"
    )
    prepare = "def prepare(k, v, beta):\n    return wy(k, 0.5 * v, beta)\n"
    parent = get_rule("delta_net")
    assert changed_slots(rule(f'parent = "delta_net"\n{step}'), parent) == ("step",)
    assert changed_slots(rule(f'parent = "delta_net"\n{prepare}{step}'), parent) == ("prepare", "step")


def test_another_layer_is_said_with_what_it_was():
    parent = get_rule("delta_net")
    wider = rule(f'parent = "delta_net"\nfrom archer.rules import Layer\nlayer = Layer(heads=2)\n{READ}')
    assert "(read, layer.heads None → 2)" in one_change.run(wider, parent, False).message


def test_a_parent_that_nobody_knows_is_told_where_a_file_of_ones_own_would_go():
    found = verify_rule('parent = "softmx"\ndef read(o):\n    return 2 * o\n', "mine")
    assert not found.passed
    assert "did you mean 'softmax'" in found.checks[-1].message
    assert "in that project alone (--project)" in found.checks[-1].message
