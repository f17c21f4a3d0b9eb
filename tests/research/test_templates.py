"""Every template, set onto delta_net and gated_delta_net, is a lawful rule."""

import pytest
import torch

from archer.research.space import Space
from archer.research.templates import TEMPLATES
from archer.rules import chunk_loop, get_rule, load_rule

PARENTS = ("delta_net", "gated_delta_net")
HEADS, LENGTH, WIDTH, CHUNK = 2, 21, 8, 8


def load(source, name):
    return load_rule(source, name, get_rule)


def first_values(rule, generator):
    sizes = {"1": 1, "Dk": WIDTH, "Dv": WIDTH}
    values = {}
    for name, parameter in rule.parameters.items():
        shape = (HEADS, sizes[parameter.rows], sizes[parameter.columns])
        if isinstance(parameter.initial, float | int):
            stored = torch.full(shape, parameter.stored_initial())
        else:
            stored = parameter.initial.transform(torch.rand(shape, generator=generator))
        values[name] = stored.double().requires_grad_()
    return values


def run(rule, stored, inputs):
    parameters = {name: rule.parameters[name].value(x) for name, x in stored.items()}
    q, k, v, beta, features = inputs
    return chunk_loop(rule, q, k, v, beta, features, parameters, chunk_size=CHUNK)[0]


def inputs_for(rule, generator):
    def draw(width):
        return torch.randn(HEADS, LENGTH, width, generator=generator, dtype=torch.float64)

    q, k = (x / x.norm(dim=-1, keepdim=True) for x in (draw(WIDTH), draw(WIDTH)))
    features = {}
    for name, feature in rule.features.items():
        x = draw({"1": 1, "Dk": WIDTH, "Dv": WIDTH}[feature.width]) + (feature.bias or 0.0)
        features[name] = x.sigmoid() if feature.within else x
    return [q, k, draw(WIDTH), draw(1).sigmoid(), features]


@pytest.fixture(scope="module")
def changes(sources):
    space = Space(sources)
    found = {}
    for change in space.changes(PARENTS):
        if change.template is not None:
            found.setdefault((change.template.label, change.parent), (space, change))
    return found


def cases():
    return [(template.label, parent) for template in TEMPLATES for parent in PARENTS]


@pytest.mark.parametrize(("label", "parent"), cases())
def test_template_is_a_lawful_rule(changes, label, parent):
    space, change = changes[label, parent]
    source = space.write(change)
    rule = load(source, change.name)
    assert rule.own == (change.slot,)
    assert rule.parent == parent
    assert rule.hash == space.hash(source, change.name)
    generator = torch.Generator().manual_seed(3)
    stored, inputs = first_values(rule, generator), inputs_for(rule, generator)
    o = run(rule, stored, inputs)
    assert o.isfinite().all()
    cut = 10
    changed = [
        x if isinstance(x, dict) else torch.cat([x[:, :cut], x[:, cut:].flip(1)], 1) for x in inputs[:4]
    ]
    changed_features = {n: torch.cat([x[:, :cut], x[:, cut:].flip(1)], 1) for n, x in inputs[4].items()}
    after = run(rule, stored, [*changed, changed_features])
    assert torch.equal(after[:, :cut], o[:, :cut])
    assert not torch.allclose(after[:, cut:], o[:, cut:])
    if stored:
        o.square().sum().backward()
    own = [
        name
        for name in rule.parameters
        if name in change.template.code or name not in get_rule(parent).parameters
    ]
    for name in own:
        gradient = stored[name].grad
        assert gradient is not None
        assert gradient.isfinite().all(), name
        assert gradient.abs().sum() > 0, name


@pytest.mark.parametrize(("label", "parent"), cases())
def test_template_differs_from_its_parent(changes, label, parent):
    space, change = changes[label, parent]
    rule = load(space.write(change), change.name)
    generator = torch.Generator().manual_seed(5)
    inputs = inputs_for(rule, generator)
    stored = first_values(rule, generator)
    moved = {
        name: (x + 0.7).detach() for name, x in stored.items() if name not in get_rule(parent).parameters
    }
    stored = {**stored, **moved}
    base = get_rule(parent)
    plain = run(base, {n: stored[n] for n in base.parameters}, inputs)
    assert not torch.allclose(run(rule, stored, inputs), plain)


def test_gradients_stay_finite_on_empty_and_repeated_input(changes):
    for (label, parent), (space, change) in changes.items():
        if parent != "delta_net":
            continue
        rule = load(space.write(change), change.name)
        generator = torch.Generator().manual_seed(1)
        stored, inputs = first_values(rule, generator), inputs_for(rule, generator)
        inputs[2] = torch.zeros_like(inputs[2]).requires_grad_()
        inputs[1] = inputs[1][:, :1].expand(-1, LENGTH, -1)
        run(rule, stored, inputs).sum().backward()
        assert inputs[2].grad is not None
        assert inputs[2].grad.isfinite().all(), label
        assert all(x.grad is None or x.grad.isfinite().all() for x in stored.values()), label
