"""What the library says about itself: history names, state-write rules, declarations, errors."""

import csv
from pathlib import Path

import pytest
import torch

import archer
from archer.errors import UserError
from archer.rules import RuleError, get_rule, load_rule, resolve_history_name, rule_names
from archer.rules.inputs import random_inputs

HISTORY = Path(archer.__file__).parent / "ledger" / "history"
STATE_WRITES = {
    "decay", "adaptive_decay", "momentum", "adam", "rmsprop", "layernorm_write", "error_gated", "topk_error",
}  # fmt: skip
"""The rules that RULES says compute exactly what delta_net computes within one chunk."""


def writes_only(name: str) -> bool:
    rule = get_rule(name)
    return rule.parent is not None and set(rule.own) <= {"retain", "write"}


def test_the_state_write_rules_are_those_that_change_only_retain_and_write():
    assert {n for n in rule_names() if writes_only(n) and get_rule(n).parent == "delta_net"} == STATE_WRITES


@pytest.mark.parametrize("name", [name for name in rule_names() if writes_only(name)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_within_one_chunk_a_state_write_rule_is_its_parent_to_the_bit(name, dtype):
    rule = get_rule(name)
    for length in (1, 31, 32):
        inputs = random_inputs(rule, length=length, spread=1.0, dtype=dtype)
        parent_o, _ = inputs.run(get_rule(rule.parent))
        assert torch.equal(inputs.run(rule)[0], parent_o)


@pytest.mark.parametrize("name", [name for name in rule_names() if writes_only(name)])
def test_beyond_one_chunk_a_state_write_rule_differs_from_its_parent(name):
    """From the second chunk on where the write changes; from the third where only the retained state does."""
    rule = get_rule(name)
    inputs = random_inputs(rule, length=96)
    parent_o, _ = inputs.run(get_rule(rule.parent))
    o, _ = inputs.run(rule)
    same = (
        32 if get_rule(rule.parent).slots["write"] is not rule.slots["write"] and name != "momentum" else 64
    )
    assert torch.equal(o[..., :same, :], parent_o[..., :same, :])
    assert (o - parent_o)[..., same:, :].abs().max() > 1e-3


def test_no_two_rules_compute_the_same():
    outputs = {}
    for name in rule_names():
        o, _ = random_inputs(get_rule(name), length=70).run(get_rule(name))
        outputs[name] = o
    names = list(outputs)
    same = [
        (left, right)
        for i, left in enumerate(names)
        for right in names[i + 1 :]
        if torch.allclose(outputs[left], outputs[right], atol=1e-6)
    ]
    # each pair starts at one point and parts when the learned number moves
    assert same == [("hybrid", "hybrid_half"), ("softmax_scaled", "softmax_scaled_fixed")]


def history_models():
    for path in sorted(HISTORY.glob("*.csv")):
        with path.open(encoding="utf-8") as file:
            yield from (row[0] for row in list(csv.reader(file))[1:] if row[0].startswith(("delta", "gated")))


def test_every_model_of_the_history_tables_has_its_rule():
    models = set(history_models())
    assert len(models) >= 20
    assert {model for model in models if resolve_history_name(model) is None} == set()


def test_history_names_are_unique():
    names = [alias for name in rule_names() for alias in get_rule(name).history]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("history", "name"),
    [
        ("delta_net_4layer", "delta_net"),
        ("gated_delta_net_4layer", "gated_delta_net"),
        ("delta_net_4layer_rope_qk_in_for_loop", "rope_in_loop"),
        ("delta_net_4layer_add_rope_to_keys_and_queries_before_l2norm", "rope"),
        ("softmax_after_attn", "softmax"),
        ("hybrid_softmax_raw_attention_in_for_loop", "hybrid"),
        ("adam", "adam"),
        ("delta_net_4layer_of_another_kind", None),
    ],
)
def test_history_names_resolve(history, name):
    assert resolve_history_name(history) == name


@pytest.mark.parametrize("name", rule_names())
def test_a_rule_says_what_it_is(name):
    rule = get_rule(name)
    assert rule.title
    assert rule.equation
    assert rule.citation
    assert rule.parent in rule_names() or name == "delta_net"


def test_an_unknown_rule_gives_the_nearest():
    with pytest.raises(UserError, match="did you mean 'softmax'"):
        get_rule("sofmax")


def load(text):
    return load_rule(text, "mine", get_rule)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('parent = "delta_net"\n', "it defines no slot"),
        (
            'parent = "delta_net"\ndef predict(S):\n    return S\n',
            "defines no slot; `predict` is none; write a",
        ),
        ("def write(G):\n    return G\n", 'expected a line `parent = "delta_net"`'),
        ('parent = "delta_net"\ndef write(G, speed):\n    return speed * G\n', "asks for `speed`"),
        (
            'from archer.rules import Parameter\nparent = "delta_net"\ngamma = Parameter(0.9)\n'
            "def retain(S, gama):\n    return gama * S\n",
            "did you mean `gamma`",
        ),
        ('parent = "delta_net"\ndef write(G:\n', "line 2 is not Python"),
        (
            'from archer.rules import Parameter\nparent = "delta_net"\nspeed = Parameter()\n'
            "def write(G):\n    return G\n",
            "`speed` is declared, but no slot asks for it",
        ),
        ('parent = "delta_nt"\ndef write(G):\n    return G\n', "did you mean 'delta_net'"),
        (
            'parent = "delta_net"\ndef half(o):\n    return 0.5 * o\nread = half\n',
            r"slot `read` is another function under a second name; write it out as `def read\(...\):`",
        ),
        (
            'parent = "delta_net"\ndef corect(e):\n    return 0.5 * e\ndef read(o):\n    return 2 * o\n',
            "nobody calls `corect`; if it is meant as the slot `correct`, name it so",
        ),
        (
            'parent = "delta_net"\ndef layer(o):\n    return o\ndef read(o):\n    return layer(o)\n',
            "`layer` is a function; that name is for the layer around the rule",
        ),
        (
            'from archer.rules import Parameter\nparent = "delta_net"\ngamma = Parameter(1, within=(0, 1))\n'
            "def retain(S, gamma):\n    return gamma * S\n",
            r"starts at 1, outside of within=\(0, 1\), whose ends it never reaches",
        ),
    ],
)
def test_a_broken_file_says_what_to_change(text, message):
    with pytest.raises(ValueError, match=message):
        load(text)


def test_a_slot_that_asks_too_early_is_told_what_there_is():
    rule = load('parent = "delta_net"\ndef correct(e, G):\n    return e\n')
    with pytest.raises(RuleError, match="`correct` asks for `G`, which does not exist at that point"):
        random_inputs(rule).run(rule)


@pytest.mark.parametrize("name", ["causal", "scores", "weights", "S"])
def test_prepare_may_not_return_what_the_loop_makes(name):
    """A mask of its own would be ignored where a kernel masks, or the loop would write over it."""
    rule = load(
        'from archer.rules import wy\nparent = "delta_net"\n'
        f"def prepare(k, v, beta, causal):\n    return {{**wy(k, v, beta), '{name}': ~causal}}\n"
    )
    with pytest.raises(RuleError, match=f"`prepare` returned `{name}`, which the loop itself makes; it may"):
        random_inputs(rule).run(rule)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            "def prepare(k, v, beta):\n    wy(k, v, beta)\n",
            "`prepare` returned nothing .does it end with `ret",
        ),
        (
            "def prepare(k, v, beta):\n    return k, v\n",
            "`prepare` returned a tuple; expected a dictionary with",
        ),
        (
            "def prepare(k, v):\n    return {'u': v}\n",
            "`prepare` returned no `w`; expected a dictionary with",
        ),
        (
            "def prepare(k, v):\n    return {'u': v, 'w': 1.0}\n",
            "returned a float as `w`; a tensor was expected",
        ),
        (
            "M = Carried()\ndef prepare(k, v, beta):\n    return {**wy(k, v, beta), 'M': v}\n"
            "def write(G, M):\n    return G + M\n",
            "`prepare` returned `M`, which the loop itself makes",
        ),
        (
            "def step(S, q):\n    return q @ S\n",
            "`step` returned a tensor of the shape .*; expected o and the",
        ),
        (
            "M = Carried()\ndef write(G, M):\n    return G + M, {'M': G}, 3\n",
            "`write` returned 3 values; expected its matrix, or its matrix and a dictionary",
        ),
    ],
)
def test_a_slot_that_returns_something_else_is_told_what_was_expected(body, message):
    rule = load(f'from archer.rules import Carried, wy\nparent = "delta_net"\n{body}')
    with pytest.raises(RuleError, match=message):
        random_inputs(rule).run(rule)


@pytest.mark.parametrize("made", ["dict(**wy(k, v, beta), half=0.5 * v)", "both"])
def test_what_prepare_hands_on_may_be_named_in_any_way(made):
    lines = (
        "both = {}\n    both['u'], both['w'], both['half'] = 0 * v, 0 * k, 0.5 * v\n    "
        if made == "both"
        else ""
    )
    rule = load(
        'from archer.rules import wy\nparent = "delta_net"\n'
        f"def prepare(k, v, beta):\n    {lines}return {made}\ndef correct(e, half):\n    return e + half\n"
    )
    assert random_inputs(rule).run(rule)[0].isfinite().all()


def test_weights_and_keep_may_come_from_parameters_alone():
    """Without the axis of chunks, as the mean over the past and a constant fading do."""
    rule = load(
        "from archer.rules import Parameter, wy\n"
        'parent = "delta_net"\n'
        "gamma = Parameter(0.5, within=(0, 1))\n"
        "def prepare(k, v, beta, gamma):\n    return {**wy(k, v, beta), 'keep': gamma}\n"
        "def similarity(causal, gamma):\n    return causal * gamma\n"
    )
    o, state = random_inputs(rule, length=100).run(rule)
    assert o.shape == (2, 3, 100, 6)
    _, expected = random_inputs(get_rule("decay"), length=100).run(load(
        "from archer.rules import Parameter\n"
        'parent = "delta_net"\n'
        "gamma = Parameter(0.5, within=(0, 1))\n"
        "def retain(S, gamma):\n    return 0.5 * S\n"
    ))  # fmt: skip
    torch.testing.assert_close(state["S"], expected["S"])


def test_a_name_may_change_its_kind_in_a_child():
    """The child's feature replaces the parent's parameter of that name."""
    rule = load(
        'from archer.rules import Feature\nparent = "decay"\ngamma = Feature(within=(0, 1))\n'
        "def retain(S, gamma):\n    return gamma[..., -1:, :] * S\n"
    )
    assert set(rule.features) == {"gamma"}
    assert not rule.parameters


def test_a_step_may_replace_the_loop():
    rule = load(
        'parent = "delta_net"\n'
        "def step(q, k, u, w, scores, causal, S):\n"
        "    e = u - w @ S\n"
        '    return q @ S + (scores * causal) @ e, {"S": S + k.mT @ e}\n'
    )
    inputs = random_inputs(rule, length=100)
    o, state = inputs.run(rule)
    expected, expected_state = inputs.run(get_rule("delta_net"))
    assert torch.equal(o, expected)
    assert torch.equal(state["S"], expected_state["S"])
