"""The token mixer around a rule."""

from __future__ import annotations

import pytest
import torch

from archer.model.mixer import RuleMixer
from archer.model.parameters import initialise
from archer.rules import RuleError, get_rule, load_rule


def rule_with_a_feature(name: str, more: str = ""):
    source = f"""from archer.rules import Feature, Layer
parent = "delta_net"
{more}
{name} = Feature("Dv", within=(0, 1))
def read(o, {name}):
    return o * {name}
"""
    return load_rule(source, "mine", get_rule)


def test_a_feature_may_be_called_gate_and_is_not_the_layers_output_gate():
    mixers = {name: RuleMixer(rule_with_a_feature(name), 16, 2, 8) for name in ("gate", "opening")}
    parameters = initialise(mixers["gate"].specs(), [0, 1])
    x = torch.randn(2, 3, 24, 16, generator=torch.Generator().manual_seed(0))
    outputs = [
        mixer({n.replace("gate", name): value for n, value in parameters.items()}, x)
        for name, mixer in mixers.items()
    ]
    assert torch.equal(*outputs)


def test_beside_an_output_gate_no_feature_is_called_gate():
    with pytest.raises(RuleError, match="the name of its layer's output gate; rename it"):
        rule_with_a_feature("gate", "layer = Layer(output_gate=True)")
