"""What a layer costs: the count is of the exported layer, and foreign rules are counted behind the walls."""

from __future__ import annotations

import json

import pytest
import torch

from archer.model.mixer import RuleMixer
from archer.model.parameters import count
from archer.rules import get_rule, rule_names
from archer.rules.compose import compose
from archer.verify import layer_cost
from archer.verify.layer_cost import LayerCost, LayerSize, layer_costs

SIZE = LayerSize(width=32, heads=2, chunk_size=8)


@pytest.mark.parametrize("name", rule_names())
def test_every_rule_is_counted_and_has_the_parameters_of_the_trained_layer(name: str) -> None:
    cost = layer_costs([get_rule(name)], SIZE)[name]
    assert cost.parameters == count(RuleMixer(get_rule(name), 32, 2, 8).specs())
    assert cost.operations_per_token > 2 * 32 * 32
    assert cost.decoding_seconds is None


def test_a_heavier_rule_counts_more() -> None:
    costs = layer_costs([get_rule(n) for n in ("delta_net", "adam", "gated_delta_product")], SIZE)
    operations = [cost.operations_per_token for cost in costs.values()]
    assert operations == sorted(operations)
    assert operations[0] < operations[1]


def test_a_foreign_rule_counts_what_the_same_built_in_rule_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> LayerCost:
        raise AssertionError("a foreign rule must not run in this process")

    expected = layer_costs([get_rule("decay")], SIZE)["decay"]
    foreign = compose("retain=decay(gamma=0.9)")
    monkeypatch.setattr(layer_cost, "measure_layer", refuse)
    (found,) = layer_costs([foreign], SIZE, decoding=True).values()
    assert found.operations_per_token == expected.operations_per_token
    assert found.parameters == expected.parameters
    assert found.decoding_seconds is not None
    assert found.decoding_seconds > 0


def test_decoding_is_timed_on_one_thread_also_where_there_are_more(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    seen: list[int] = []
    monkeypatch.setattr(layer_cost, "_decode", lambda layer, x: seen.append(torch.get_num_threads()) or 1.0)
    try:
        torch.set_num_threads(2)
        (found,) = layer_costs([get_rule("decay")], LayerSize(16, 2, 8), decoding=True).values()
        assert found.decoding_seconds == 1.0
        assert (set(seen), torch.get_num_threads()) == ({1}, 2)
    finally:
        torch.set_num_threads(before)


GOOD = {"parameters": 10, "operations_per_token": 5.0, "decoding_seconds": None}


@pytest.mark.parametrize(
    "answer",
    [
        "no json", "[]", "{}", '{"r": 3}', json.dumps({"other": GOOD}),
        json.dumps({"r": GOOD | {"parameters": 1.5}}), json.dumps({"r": GOOD | {"operations_per_token": -1}}),
        json.dumps({"r": GOOD | {"decoding_seconds": "1"}}), json.dumps({"r": GOOD | {"more": 1}}),
        '{"r": {"parameters": 10, "operations_per_token": NaN, "decoding_seconds": null}}',
        json.dumps({"r": GOOD | {"parameters": None}}),
    ],
)  # fmt: skip
def test_an_answer_in_another_form_is_no_answer(answer: str) -> None:
    assert layer_cost._read(answer, ["r"]) == {}


def test_a_good_answer_is_read() -> None:
    assert layer_cost._read(json.dumps({"r": GOOD}), ["r"]) == {"r": LayerCost(10, 5.0)}
