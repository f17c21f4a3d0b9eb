"""The slot language: names, texts, constants, and that whatever it gives is a rule like any other."""

import contextlib
import random

import pytest
import torch

from archer.errors import UserError
from archer.rules import BASE, PREPARED, SLOTS, get_rule, load_rule, rule_names
from archer.rules.compose import alternatives, compose, constants, grammar, slots_differing
from archer.rules.inputs import random_inputs

EXAMPLE = "delta_net+retain=decay+similarity=hybrid"


def outputs(rule, **options):
    return random_inputs(rule, length=100, **options).run(rule)[0]


def drawn_choices(seed: int) -> dict[str, str]:
    """A random composition in which some slots are left alone."""
    generator = random.Random(seed)
    choices = {slot: generator.choice(alternatives(slot)) for slot in SLOTS if generator.random() < 0.6}
    companions = {slot: rule for rule, slot, _ in grammar().together}
    for slot in ("prepare", "similarity"):
        if choices.get(slot) in {rule for rule, _, _ in grammar().together}:
            choices |= dict.fromkeys(companions, choices[slot])
            break
    return choices


def test_a_composition_does_what_its_slots_do():
    rule = compose("similarity=hybrid, retain=decay")
    assert rule.name == EXAMPLE
    inputs = random_inputs(rule, length=100)

    byhand = load_rule(
        "import torch\nfrom archer.rules import Parameter\n"
        'parent = "delta_net"\na = Parameter(0.5, within=(0, 1))\ngamma = Parameter(0.98, within=(0, 1))\n'
        "def similarity(scores, causal, a):\n"
        "    return a * scores.masked_fill(~causal, -torch.inf).softmax(-1) + (1 - a) * (scores * causal)\n"
        "def retain(S, gamma):\n    return gamma * S\n",
        "byhand", get_rule,
    )  # fmt: skip
    assert torch.equal(inputs.run(rule)[0], inputs.run(byhand)[0])


@pytest.mark.parametrize(
    "written",
    [
        "retain=decay, similarity=hybrid",
        "similarity = hybrid,retain =decay ",
        "similarity=hybrid, retain=decay, write=delta_net",
        "similarity=hybrid, retain=decay(gamma=0.98)",
        "similarity=hybrid+retain=decay",
        {"retain": "decay", "similarity": "hybrid"},
        EXAMPLE,
    ],
    ids=str,
)
def test_the_same_slots_give_the_same_text(written):
    expected = compose("similarity=hybrid, retain=decay")
    rule = compose(written)
    assert (rule.name, rule.source, rule.hash) == (EXAMPLE, expected.source, expected.hash)


def test_a_composition_is_found_by_its_name():
    for choices in ("similarity=hybrid, retain=decay(gamma=0.9)", "write=adam(EPSILON=1e-05,eta=0.2)"):
        rule = compose(choices)
        assert get_rule(rule.name).hash == rule.hash


@pytest.mark.parametrize(
    ("choices", "parent", "name"),
    [
        ("retain=decay", "delta_net", "decay"),
        ("retain=softmax_decay, similarity=softmax", "delta_net", "softmax_decay"),
        ("similarity=cosine_softmax, write=error_gated", "delta_net", "cosine_softmax_error_gated"),
        ("similarity=delta_net", "cosine_softmax_error_gated", "error_gated"),
        ("prepare=kda", "delta_net", None),  # kda has an output gate
        ("write=delta_net", "delta_net", "delta_net"),
        ("", "softmax", "softmax"),
        ("similarity=softmax_decay", "delta_net", "softmax"),
    ],
)
def test_what_the_library_has_is_not_made_again(choices, parent, name):
    rule = compose(choices, parent=parent)
    assert (rule.name if rule.name in rule_names() else None) == name


@pytest.mark.parametrize("name", [name for name in rule_names() if name != BASE])
def test_every_rule_of_the_library_is_a_composition(name):
    original = get_rule(name)
    rule = compose(dict.fromkeys(SLOTS, name), parent=BASE)
    assert torch.equal(outputs(rule, spread=1.0), outputs(original, spread=1.0))


@pytest.mark.parametrize("seed", range(40))
def test_any_composition_is_a_rule(seed):
    choices = drawn_choices(seed)
    parent = (BASE, "gated_delta_net", "kda", "softmax_decay")[seed % 4]
    rule = compose(choices, parent=parent)
    inputs = random_inputs(rule, length=100, spread=0.5)
    o, _ = inputs.run(rule)
    assert o.isfinite().all()
    shorter, state = inputs.tokens(0, 64).run(rule)
    torch.testing.assert_close(shorter, o[..., :64, :], rtol=1e-9, atol=1e-9)
    after, _ = inputs.tokens(64, 100).run(rule, state)
    torch.testing.assert_close(after, o[..., 64:, :], rtol=1e-9, atol=1e-9)
    assert compose(dict(reversed(choices.items())), parent=parent).source == rule.source
    assert load_rule(rule.source, rule.name, get_rule).hash == rule.hash


def test_equal_names_of_two_rules_stay_two_numbers():
    rule = compose("similarity=hybrid", parent="gated_delta_net")
    assert set(rule.features) == {"a"}
    assert set(rule.parameters) == {"A_log", "dt_bias", "hybrid_a"}
    rule = compose("prepare=gated_delta_net, similarity=hybrid")
    assert set(rule.features) == {"a"}
    assert set(rule.parameters) == {"A_log", "dt_bias", "hybrid_a"}


def test_renamed_carried_values_are_returned_under_their_new_name():
    twin = load_rule(
        'from archer.rules import Carried\nparent = "delta_net"\nM = Carried()\n'
        'def read(o, q, M, S):\n    return o - q @ M, {"M": S}\n',
        "twin", get_rule,
    )  # fmt: skip
    rule = compose(
        "write=momentum", parent="twin", find=lambda name: twin if name == "twin" else get_rule(name)
    )
    assert set(rule.carries) == {"M", "momentum_M"}
    _, state = random_inputs(rule, length=100).run(rule)
    assert not torch.equal(state["M"], state["momentum_M"])
    assert state["momentum_M"].abs().max() > 0


def test_constants_are_set():
    rule = compose("retain=decay(gamma=0.9), write=topk_error(KEPT=4)")
    assert rule.name == "delta_net+retain=decay(gamma=0.9)+write=topk_error(KEPT=4)"
    assert rule.parameters["gamma"].initial == 0.9
    assert "KEPT = 4\n" in rule.source
    assert compose("retain=adaptive_decay(fade=2.0), write=adaptive_decay").features["fade"].bias == 2.0
    assert not torch.equal(outputs(rule), outputs(compose("retain=decay, write=topk_error")))


def test_a_parent_may_be_taken_with_other_constants():
    rule = compose("write=momentum(mu=0.9)", parent="momentum")
    assert rule.parameters["mu"].initial == 0.9
    assert set(rule.carries) == {"M"}


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ("retian=decay", "unknown slot 'retian': did you mean 'retain'"),
        ("retain=deca", "unknown rule 'deca': did you mean 'decay'"),
        ("retain=decay(gama=0.9)", "unknown constant of retain=decay 'gama': did you mean 'gamma'"),
        ("retain=decay(gamma=1.5)", "`gamma` is 1.5, expected a number between 0 and 1"),
        ("retain=decay(gamma=nan)", "`gamma` is nan, expected a number between 0 and 1"),
        ("retain=decay(gamma=high)", "`gamma` is 'high', expected a number"),
        ("write=topk_error(KEPT=2.5)", "`KEPT` is 2.5, expected a whole number"),
        ("retain", "cannot read 'retain'"),
        ("retain=decay, retain=adaptive_decay", "slot `retain` is given 2 times"),
        ("similarity=kda, prepare=rope", "needs prepare=kda, but prepare=rope was given"),
        (
            "retain=adaptive_decay(fade=1), write=adaptive_decay(fade=2)",
            "`fade` of adaptive_decay is given as",
        ),
    ],
)
def test_a_mistake_is_explained(choices, message):
    with pytest.raises(UserError, match=message):
        compose(choices)


def test_the_grammar_counts_its_space():
    """Counted again by trying every pair of the two slots that may be tied."""
    shown = grammar()
    names = []
    for prepare in shown.slots["prepare"]:
        for similarity in shown.slots["similarity"]:
            with contextlib.suppress(UserError):
                names.append(compose({"prepare": prepare, "similarity": similarity}).name)
    assert len(names) == len(set(names))
    others = 1
    for slot in ("correct", "read", "retain", "write"):
        others *= len(shown.slots[slot])
    assert shown.size == len(names) * others
    assert str(shown.size) in str(shown)


def test_alternatives_are_distinct_and_start_with_the_parent():
    assert alternatives("write")[0] == "delta_net"
    assert "error_gated" in alternatives("write")
    assert "cosine_softmax_error_gated" not in alternatives("write")
    assert alternatives("similarity", "softmax_decay")[0] == "softmax"
    assert {"kda", "gated_delta_product"} <= set(alternatives("similarity"))


def test_constants_have_ranges_that_hold_their_first_value():
    for slot in SLOTS:
        for name in alternatives(slot):
            for constant in constants(name, slot).values():
                assert constant.low < constant.initial < constant.high
    assert constants("decay", "retain")["gamma"].initial == 0.98
    assert constants("topk_error", "write")["KEPT"].whole
    assert constants("delta_net", "write") == {}


@pytest.mark.parametrize("name", rule_names())
def test_slots_differing_finds_the_slots_of_its_own(name):
    rule = get_rule(name)
    if rule.parent is not None:
        assert slots_differing(rule.source, rule.parent) == tuple(s for s in SLOTS if s in rule.own)


def test_slots_differing_reads_meaning_not_layout():
    decay = get_rule("decay")
    assert slots_differing(decay.source, "decay") == ()
    again = (
        'parent = "decay"\ndef retain(S, gamma):\n    """The same."""\n'
        "    # as before\n    return (gamma *\n S)\n"
    )
    assert slots_differing(again, "decay") == ()
    other = "from archer.rules import Parameter\n" + again + "gamma = Parameter(0.9, within=(0, 1))\n"
    assert slots_differing(other, "decay") == ("retain",)
    assert slots_differing(compose("retain=decay, write=adam").source, BASE) == ("retain", "write")


def test_slots_differing_sees_helpers_and_never_executes():
    text = (
        'parent = "delta_net"\ndef half(x):\n    return x / 2\n'
        "def write(G):\n    return half(G)\nraise SystemExit\n"
    )
    assert slots_differing(text, BASE) == ("write",)
    changed = text.replace("/ 2", "/ 3")
    first = load_rule(text.replace("raise SystemExit\n", ""), "first", get_rule)
    assert slots_differing(changed, first) == ("write",)


def test_prepared_names_are_known_to_slots():
    assert {"q_read", "k_write"} <= set(PREPARED)
