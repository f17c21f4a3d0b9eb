"""Rule files read as text: what they are made of, and that one change changes one slot."""

import re

import pytest

from archer.errors import UserError
from archer.research.researcher import ResearchError
from archer.research.rule_text import read_rule
from archer.research.space import Space, composition_key, nearby, read_values
from archer.research.templates import TEMPLATES
from archer.rules import get_rule, load_rule, rule_names


@pytest.fixture(scope="module")
def space(sources):
    return Space(sources)


def test_the_base_is_plain(space):
    assert space.composition("delta_net") == ()


@pytest.mark.parametrize("name", rule_names())
def test_reading_agrees_with_loading(space, name):
    rule = get_rule(name)
    text = space.rules[name]
    assert set(text.functions) == set(rule.own)
    assert text.parent == rule.parent
    assert text.history == rule.history
    assert space.hash(text.source, name) == rule.hash
    assert set(text.declared) == {
        n for kind in (rule.parameters, rule.features, rule.carries) for n in kind if n in text.declared
    }


def test_names_do_not_matter_constants_do(space):
    source = space.rules["decay"].source
    renamed = source.replace("gamma", "fading")
    other = source.replace("0.98", "0.9")
    assert space.describe(renamed, "copy") == space.composition("decay")
    assert space.describe(other, "copy") != space.composition("decay")
    assert space.describe(other, "copy")[0].label == "decay"


def test_code_of_its_own_is_a_label_of_its_own(space):
    strange = 'parent = "delta_net"\n\n\ndef retain(S):\n    return S.tanh()\n'
    other = 'parent = "delta_net"\n\n\ndef retain(S):\n    return S.sin()\n'
    (one,), (two,) = space.describe(strange, "a"), space.describe(other, "b")
    assert one.label != two.label
    assert one.reads_state


def test_kinds_of_declarations_tell_code_apart(space):
    """a S + b: the same words mean something else where `g` is a feature of the token."""
    labels = {t.label for t in TEMPLATES if t.slot == "similarity"}
    assert {"softmax_mix", "softmax_token_mix"} <= labels
    for label in ("softmax_mix", "softmax_token_mix", "decay", "channel_decay"):
        change = next(c for c in space.changes(("gated_delta_net",)) if c.label == label)
        described = space.describe(space.write(change), change.name)
        assert label in {choice.label for choice in described}


def test_every_change_reads_back_as_what_it_is_and_is_one_slot(space):
    changes = list(space.changes(("gated_delta_net", "hybrid")))
    assert len({change.key for change in changes}) == len(changes) > 100
    for change in changes[::7]:
        source = space.write(change)
        assert composition_key(space.describe(source, change.name)) == change.key
        assert list(read_rule(source, change.name).functions) == [change.slot]


def test_a_name_that_is_taken_gets_another(space):
    """gated_delta_net declares `a`, and so does the mixture: both must stay themselves."""
    change = next(c for c in space.changes(("gated_delta_net",)) if c.label == "softmax_mix")
    rule = load_rule(space.write(change), change.name, get_rule)
    assert "a" in rule.features
    assert "a_2" in rule.parameters


def test_a_composed_change_is_the_slot_languages_own_rule(space):
    from archer.rules.compose import compose

    change = next(c for c in space.changes(("gated_delta_net",)) if c.donor == "hybrid")
    rule = compose({"similarity": "hybrid"}, "gated_delta_net")
    assert change.name == "gated_delta_net_similarity_hybrid"
    assert space.hash(space.write(change), change.name) == rule.hash


def test_every_change_passes_the_language_wall(space):
    from archer.verify.language import check_language, check_name

    seen = set()
    for change in space.changes(("gated_delta_net", "hybrid")):
        if change.label not in seen:
            seen.add(change.label)
            check_name(change.name)
            check_language(space.write(change))
    assert len(seen) > 40


def test_a_change_to_beta_keeps_its_parents_preparation(space):
    change = next(c for c in space.changes(("gated_delta_net",)) if c.label == "double_beta")
    assert [c.label for c in change.composition] == ["gated_delta_net", "double_beta"]
    source = space.write(change)
    assert composition_key(space.describe(source, change.name)) == change.key
    assert "q_read" in source


def test_refinement_moves_one_constant(sources):
    first = Space(sources)
    change = next(c for c in first.changes(("delta_net",)) if c.label == "softmax_mix")
    space = Space({**sources, change.name: first.write(change)})
    finer = [c for c in space.changes((change.name,)) if c.parent == "delta_net"]
    assert len(finer) == 4
    before = dict(change.values)
    assert all(sum(dict(c.values)[n] != before[n] for n in before) == 1 for c in finer)


@pytest.mark.parametrize("template", [t for t in TEMPLATES if t.constants], ids=lambda t: t.label)
def test_constants_are_read_back(template):
    for values in template.settings():
        assert read_values(template, template.fill(values).declared) == values
    name, value = next(iter(template.settings()[0].items()))
    low, high = nearby(template, name, value)
    assert low < value < high


def test_templates_have_their_words_and_labels_of_their_own():
    assert len({(t.slot, t.label) for t in TEMPLATES}) == len(TEMPLATES)
    for template in TEMPLATES:
        assert template.issue
        assert template.why
        assert template.risk
        assert template.cards


def test_unknown_parent_names_the_nearest(space):
    with pytest.raises(UserError, match="did you mean 'hybrid'"):
        space.line("hybird")


def test_a_circle_of_parents_is_refused(sources):
    turned = {**sources, "decay": sources["decay"].replace('parent = "delta_net"', 'parent = "decay"')}
    with pytest.raises(ResearchError, match="comes back"):
        Space(turned).line("decay")


def test_what_is_no_python_is_refused_with_its_line():
    with pytest.raises(ResearchError, match="line 2"):
        read_rule("x = 1\ndef (", "broken")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("parent = name\n", "line 1: parent is name; expected a name in quotes"),
        ('"""A."""\nparent = ["delta_net"]\n', "line 2: parent is"),
        ("parent = 3\n", 'expected a name in quotes, such as parent = "delta_net"'),
        ("parent = open('x')\n", "parent is open"),
        (
            'parent = "delta_net"\nhistory = "decay"\n',
            "line 2: history is 'decay'; expected a tuple of names",
        ),
        ("parent = 'delta\0net'\n", "null bytes"),
        ("parent = " + "-" * 100_000 + "1\n", "Python cannot read it"),
    ],
)
def test_a_parent_that_is_no_name_is_refused_with_its_line(source, message):
    with pytest.raises(ResearchError, match="^rule faulty: .*" + re.escape(message)):
        read_rule(source, "faulty")
