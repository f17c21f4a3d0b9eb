"""Exported files: alone in an empty process, against the chunk loop and the model's own layer."""

import importlib.util
import inspect
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

from archer.rules import RuleError, get_rule, load_rule, rule_names
from archer.rules.compose import compose
from archer.rules.export import export, function_source, layer_source
from archer.rules.inputs import random_inputs

RULES = (
    *rule_names(),
    "delta_net+retain=decay(gamma=0.9)+similarity=hybrid",
    "gated_delta_net+read=local_softmax+similarity=hybrid+write=adam",
    "delta_net+correct=gelu_error+retain=adaptive_decay+write=topk_error(KEPT=3)",
)


def load_module(text: str, name: str):
    spec = importlib.util.spec_from_loader(name, loader=None)
    module = importlib.util.module_from_spec(spec)
    exec(compile(text, name, "exec"), module.__dict__)
    return module


@pytest.fixture(params=RULES)
def rule(request):
    return get_rule(request.param)


@pytest.mark.parametrize("length", [1, 32, 100])
def test_the_function_equals_the_chunk_loop(rule, length):
    function = load_module(function_source(rule), rule.name).delta_rule_chunkwise
    inputs = random_inputs(rule, length=length, spread=0.5)
    o, state = inputs.run(rule)
    extra = {**inputs.features, **inputs.parameters}
    o_exported, S = function(inputs.q, inputs.k, inputs.v, inputs.beta[..., 0], **extra)
    torch.testing.assert_close(o_exported, o, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(S, state["S"], rtol=1e-9, atol=1e-9)


def test_the_function_has_defaults_for_what_is_extra(rule):
    function = load_module(function_source(rule), rule.name).delta_rule_chunkwise
    inputs = random_inputs(rule, length=70, dtype=torch.float32)
    o, S = function(inputs.q, inputs.k, inputs.v, inputs.beta[..., 0], chunk_size=16)
    assert o.shape == inputs.v.shape
    assert S.shape == (2, 3, 8, 6)
    assert o.isfinite().all()
    flat = {name: x[..., 0, 0] for name, x in inputs.parameters.items() if x.shape[-2:] == (1, 1)}
    function(inputs.q, inputs.k, inputs.v, inputs.beta[..., 0], **flat)
    half = [x.bfloat16() for x in (inputs.q, inputs.k, inputs.v, inputs.beta[..., 0])]
    assert function(*half)[0].dtype == torch.bfloat16


def test_the_function_stands_in_for_flas(rule):
    """First arguments, their order and default, and for delta_net the results are those of fla's file."""
    pytest.importorskip("triton", reason="flash-linear-attention needs triton: pip install triton")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # importing it warns where there is no GPU
        reason = "flash-linear-attention is not installed: pip install 'archer-lab[fla]'"
        theirs = pytest.importorskip("fla.ops.delta_rule.naive", reason=reason).delta_rule_chunkwise
    ours = load_module(function_source(rule), rule.name).delta_rule_chunkwise
    wanted = [(x.name, x.default) for x in inspect.signature(theirs).parameters.values()]
    found = [(x.name, x.default) for x in inspect.signature(ours).parameters.values()]
    assert found[: len(wanted)] == wanted
    inputs = random_inputs(get_rule("delta_net"), length=64, dtype=torch.float32, value_width=8)
    given = (inputs.q, inputs.k, inputs.v, inputs.beta[..., 0])
    for x, expected in zip(ours(*given), theirs(*given), strict=True):
        assert x.shape == expected.shape
        if rule.name == "delta_net":
            torch.testing.assert_close(x, expected, rtol=1e-5, atol=1e-5)


def test_the_default_of_a_number_is_its_first_value():
    rule = get_rule("decay")
    inputs = random_inputs(rule, length=100)
    function = load_module(function_source(rule), "decay").delta_rule_chunkwise
    o, _ = function(inputs.q, inputs.k, inputs.v, inputs.beta[..., 0])
    torch.testing.assert_close(o, inputs.run(rule)[0])


def make_layer(rule, width=24, heads=None, seed=0):
    torch.manual_seed(seed)
    mixer = load_module(layer_source(rule), rule.name).TokenMixer
    layer = mixer(width) if rule.layer.heads else mixer(width, heads or 3, chunk_size=16)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return layer.double()


def test_decoding_equals_the_parallel_form(rule):
    layer = make_layer(rule)
    x = torch.randn(2, 40, 24, dtype=torch.float64)
    expected = layer(x)
    state, outputs = None, []
    for t in range(x.shape[1]):
        y, state = layer.step(x[:, t], state)
        outputs.append(y)
    torch.testing.assert_close(torch.stack(outputs, 1), expected, rtol=1e-9, atol=1e-9)


def test_decoding_leaves_an_earlier_state_as_it_was():
    layer = make_layer(get_rule("gated_delta_net"))
    x = torch.randn(2, 21, 24, dtype=torch.float64)
    _, state = layer.step(x[:, 0])
    for t in range(1, 20):
        _, state = layer.step(x[:, t], state)
    first, _ = layer.step(x[:, 20], state)
    second, _ = layer.step(x[:, 20], state)
    assert torch.equal(first, second)


def test_the_layer_learns_everything_it_has(rule):
    layer = make_layer(rule).float()
    x = torch.randn(2, 80, 24)
    layer(x).square().sum().backward()
    unused = {"mamba2": {"project.beta"}}.get(rule.name, set())
    for name, parameter in layer.named_parameters():
        if name in unused:
            continue
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


def test_the_layer_is_the_models_layer(rule):
    """The same weights, by the same names, give the same output as the layer that is trained."""
    from archer.model.mixer import RuleMixer

    layer = make_layer(rule)
    mixer = RuleMixer(rule, width=24, heads=3, chunk_size=16)
    weights = {name: x.detach()[None] for name, x in layer.named_parameters()}
    assert set(weights) == {spec.name for spec in mixer.specs()}
    assert {n: x.shape[1:] for n, x in weights.items()} == {
        s.name: torch.Size(s.shape) for s in mixer.specs()
    }
    x = torch.randn(2, 40, 24, dtype=torch.float64)
    torch.testing.assert_close(layer(x), mixer(weights, x[None])[0], rtol=1e-9, atol=1e-9)


def test_a_fresh_layer_starts_where_the_rule_says():
    rule = get_rule("gated_delta_net")
    layer = load_module(layer_source(rule), "fresh").TokenMixer(24, 3)
    assert (layer.rule["A_log"].exp() < 16).all()
    dt = torch.nn.functional.softplus(layer.rule["dt_bias"])
    assert ((dt > 0.0009) & (dt < 0.11)).all()
    decay = load_module(layer_source(get_rule("decay")), "decay").TokenMixer(24, 3)
    torch.testing.assert_close(decay.rule["gamma"].sigmoid(), torch.full((3, 1, 1), 0.98))


EMPTY_PROCESS = """
import importlib, pathlib, sys
sys.path.insert(0, sys.argv[1])
import torch
torch.manual_seed(0)
for path in sorted(pathlib.Path(sys.argv[1]).glob("*.py")):
    module = importlib.import_module(path.stem)
    if path.stem.endswith("_layer"):
        layer = module.TokenMixer(24, 3)
        x = torch.randn(1, 40, 24)
        assert layer(x).shape == x.shape
        layer.step(x[:, 0])
    else:
        q, k = (torch.nn.functional.normalize(torch.randn(2, 40, 8), dim=-1)[None] for _ in range(2))
        o, S = module.delta_rule_chunkwise(q, k, torch.randn(1, 2, 40, 6), torch.rand(1, 2, 40))
        assert o.shape == (1, 2, 40, 6) and S.shape == (1, 2, 8, 6)
assert "archer" not in sys.modules
print("good")
"""


def test_all_files_work_in_an_empty_process_without_archer(tmp_path):
    paths = [path for name in RULES for path in export(name, tmp_path / "out")]
    assert len(set(paths)) == 2 * len(RULES)
    torch_place = str(Path(torch.__file__).parents[1])
    program = f"import sys; sys.path.append({torch_place!r})\n{EMPTY_PROCESS}"
    result = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program, str(tmp_path / "out")],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert result.stdout.strip() == "good", result.stderr[-2000:]


def test_a_step_rule_is_exported_too():
    rule = load_rule(
        'from archer.rules import Carried\nparent = "delta_net"\nM = Carried()\n'
        "def step(q, k, u, w, scores, causal, S, M):\n"
        "    e = u - w @ S\n    M = M + k.mT @ e\n"
        '    return q @ S + (scores * causal) @ e, {"S": S + M, "M": M}\n',
        "stepping", get_rule,
    )  # fmt: skip
    function = load_module(function_source(rule), "stepping").delta_rule_chunkwise
    inputs = random_inputs(rule, length=100)
    o, S = function(inputs.q, inputs.k, inputs.v, inputs.beta)
    expected, state = inputs.run(rule)
    torch.testing.assert_close(o, expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(S, state["S"], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("retain", ["return S - 0.01 * last", "S = S - 0.01 * last\n    return S"])
def test_a_slot_may_read_a_carried_value_without_changing_it(retain):
    source = f"""from archer.rules import Carried
parent = "delta_net"
last = Carried()
def retain(S, last):
    {retain}
def write(G, last):
    return G, {{"last": 0.5 * last + G}}
"""
    rule = load_rule(source, "reads", get_rule)
    inputs = random_inputs(rule, length=70)
    function = load_module(function_source(rule), "reads").delta_rule_chunkwise
    o_exported, _ = function(inputs.q, inputs.k, inputs.v, inputs.beta[..., 0])
    torch.testing.assert_close(o_exported, inputs.run(rule)[0], rtol=1e-9, atol=1e-9)


def test_what_the_loop_refuses_is_not_exported():
    source = """from archer.rules import wy
parent = "delta_net"
def prepare(q, k, v, beta, causal):
    return {**wy(k, v, beta), "weights": 2 * (q @ k.mT) * causal}
"""
    with pytest.raises(RuleError, match="returned `weights`, which the loop itself makes"):
        function_source(load_rule(source, "own", get_rule))


def test_a_rule_that_needs_more_than_torch_is_refused():
    rule = load_rule(
        'import numpy\nparent = "delta_net"\ndef write(G):\n    return float(numpy.float64(2)) * G\n',
        "more", get_rule,
    )  # fmt: skip
    with pytest.raises(ValueError, match="imports numpy; to be exported it may import only torch"):
        function_source(rule)


def test_file_names_are_module_names(tmp_path):
    rule = compose("similarity=hybrid, retain=decay")
    function, layer = export(rule, tmp_path)
    assert function.name == "delta_net_retain_decay_similarity_hybrid.py"
    assert layer.name == "delta_net_retain_decay_similarity_hybrid_layer.py"
