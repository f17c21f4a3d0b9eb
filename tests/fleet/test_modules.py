"""Any module is trained: in a fleet where vmap takes it, else alone, which is said."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.fleet.test_fleet import results
from tests.fleet.tiny import load, tiny_runs
from torch import Tensor, nn

from archer.cycle.plan import named_subject
from archer.errors import UserError
from archer.fleet.compile import forget_what_is_compiled
from archer.fleet.fleet import Fleet
from archer.fleet.modules import AloneMixer
from archer.fleet.run import Outcome, Run, Subject
from archer.fleet.state import Weights
from archer.fleet.subjects import build_mixer, rule_subject
from archer.fleet.train import Options, build_model, train
from archer.model.mixer import RuleMixer
from archer.rules import algebra, get_rule, load_rule

HEAD = "import torch\nfrom torch import nn\n"

FITS = """
class Mixer(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.linear = nn.Linear(width, width)
        self.register_buffer("mask", torch.ones(64, 1))

    def forward(self, x):
        return self.linear(torch.tanh(x).cumsum(1)) * self.mask[: x.shape[1]]
"""

BRANCH = """
class Mixer(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.linear = nn.Linear(width, width)

    def forward(self, x):
        y = self.linear(x.cumsum(1))
        return y.tanh() if y.mean() > 0 else y
"""

IN_PLACE = """
class Mixer(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.linear = nn.Linear(width, width)

    def forward(self, x):
        y = torch.zeros(x.shape)
        y[:, 1:] += self.linear(x)[:, :-1]
        return y
"""

NO_RULE = """
class Double(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, gradient):
        return gradient * 2


class Mixer(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.linear = nn.Linear(width, width)

    def forward(self, x):
        return Double.apply(self.linear(x.cumsum(1)))
"""

DROPOUT = """
class Mixer(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.linear, self.dropout = nn.Linear(width, width), nn.Dropout(0.5)

    def forward(self, x):
        return self.dropout(self.linear(x.cumsum(1)))
"""

HARD = {"branch": BRANCH, "in place": IN_PLACE, "no vmap rule": NO_RULE, "dropout": DROPOUT}


def runs_of(text: str, count: int = 2, **recipe: object) -> list[Run]:
    subject = Subject("Mixer", HEAD + textwrap.dedent(text), str(hash(text)), module="mixer.py:Mixer")
    made = tiny_runs(count, **recipe)  # type: ignore[arg-type]
    return [replace(run, subject=subject) for run in made]


def trained(runs: list[Run], **options: object) -> tuple[dict[str, Outcome], list[dict]]:
    heard: list[dict] = []
    found = train(runs, Options(**options), load=load, report=heard.append)  # type: ignore[arg-type]
    return {outcome.key: outcome for outcome in found}, heard


def test_a_module_that_vmap_takes_is_a_fleet() -> None:
    runs = runs_of(FITS)
    found, heard = trained(runs)
    assert [event["members"] for event in heard if event["event"] == "fleet"] == [2]
    assert not any(event["event"] == "alone" for event in heard)
    assert {outcome.message for outcome in found.values()} == {""}


@pytest.mark.parametrize("text", HARD.values(), ids=HARD)
def test_a_module_that_vmap_cannot_take_is_trained_alone_and_that_is_said(text: str) -> None:
    runs = runs_of(text)
    found, heard = trained(runs)
    said = [event for event in heard if event["event"] == "alone"]
    assert len(said) == 1
    assert said[0]["message"]
    assert {event["members"] for event in heard if event["event"] == "fleet"} == {1}
    for run in runs:
        assert found[run.key].status == "finished"
        assert found[run.key].message.startswith("trained alone, not in a fleet: ")
        (alone,) = train([run], load=load)
        assert results(alone) == results(found[run.key])
        assert alone.curve == found[run.key].curve


AS_IMPORTED = """
from __future__ import annotations
from dataclasses import dataclass

@dataclass
class Sizes:
    width: int

class Mixer(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.linear = nn.Linear(Sizes(width).width, width)

    def forward(self, x):
        return self.linear(x.cumsum(1))
"""


def test_a_module_file_is_executed_as_python_imports_it() -> None:
    """Dataclasses look for their module among those that are loaded."""
    text = textwrap.dedent(AS_IMPORTED).replace("from __future__ import annotations\n", "")
    runs = [
        replace(
            run, subject=replace(run.subject, source="from __future__ import annotations\n" + HEAD + text)
        )
        for run in runs_of(AS_IMPORTED)
    ]
    assert {outcome.status for outcome in trained(runs)[0].values()} == {"finished"}


@pytest.fixture
def traced_only(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Any], None]]:
    """Compiled regions on a processor that are traced and not translated to machine code, which would take
    minutes; another backend may be set."""
    plain = torch.compile

    def set_backend(backend: Any) -> None:
        monkeypatch.setattr(torch, "compile", partial(plain, backend=backend))

    set_backend("eager")
    forget_what_is_compiled()
    yield set_backend
    forget_what_is_compiled()


@pytest.mark.filterwarnings("ignore")  # of PyTorch, about its own tracing
@pytest.mark.parametrize("name", ["gla", "mamba", "attention", "file"])
def test_modules_are_compiled_and_end_as_they_end_uncompiled(name: str, traced_only: object) -> None:
    if name == "file":
        runs = runs_of(FITS, epochs=2)
    else:
        runs = [replace(run, subject=named_subject(name)) for run in tiny_runs(2, epochs=2)]
    found, heard = trained(runs, compiled=True)
    assert {event["event"] for event in heard} - {"steps"} == {"fleet", "epoch"}
    plain, _ = trained(runs)
    for run in runs:
        losses = [[point.test_loss for point in one[run.key].curve] for one in (found, plain)]
        assert losses[0] == pytest.approx(losses[1], abs=1e-5)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("rule", [False, True])
def test_what_cannot_be_compiled_is_trained_uncompiled_and_that_is_said(
    rule: bool, traced_only: Callable[[Any], None]
) -> None:
    """A compiler that fails, as where Triton is missing or a card too old for it."""

    def fails(graph: object, example: object) -> None:
        raise RuntimeError("no compiler for this card")

    traced_only(fails)
    runs = tiny_runs(3) if rule else runs_of(FITS, 3)
    found, heard = trained(runs, compiled=True)
    (said,) = [event for event in heard if event["event"] == "plainer"]
    assert (said["subject"], said["without"]) == (runs[0].subject.name, "compiling")
    assert "no compiler for this card" in said["message"]
    plain, _ = trained(runs)
    assert sorted(map(results, found.values())) == sorted(map(results, plain.values()))


@pytest.fixture(params=[True, False], ids=["shared memory", "compiler"])
def no_kernel(request: pytest.FixtureRequest) -> Iterator[Exception]:
    """What Triton says of a kernel that needs more shared memory than the card has, and Triton 3.2 of one
    that it cannot compile."""
    errors = pytest.importorskip("triton.runtime.errors")
    too_large = errors.OutOfResources(385024, 232448, "shared memory")
    yield too_large if request.param else RuntimeError("PassManager::run failed")
    algebra._Kernels.refused = False


@pytest.mark.parametrize("measuring", [False, True])
def test_without_the_kernels_that_a_card_cannot_take_it_ends_the_same(
    measuring: bool, no_kernel: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found while a run's memory is measured, or in the first step."""

    def region(function: Callable[..., Any], name: str) -> Callable[..., Any]:
        def call(*given: Any) -> Any:
            if not algebra._Kernels.refused:
                raise no_kernel
            return function(*given)

        return call

    def measured(*given: object) -> int:
        if not algebra._Kernels.refused:
            raise no_kernel
        return 9

    monkeypatch.setattr("archer.fleet.train.compiler", lambda exact: region)
    if measuring:
        monkeypatch.setattr("archer.fleet.train.capacity", measured)
    runs = tiny_runs(3)
    found, heard = trained(runs, compiled=True)
    (said,) = [event for event in heard if event["event"] == "plainer"]
    assert said["without"] == "Archer's kernels"
    assert said["message"] == str(no_kernel)
    assert sorted(map(results, found.values())) == sorted(map(results, train(runs, load=load)))
    algebra.enable_kernels()
    assert algebra._Kernels.module is None


def test_what_no_way_of_training_can_do_ends(no_kernel: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(self: Weights, loss: Tensor) -> Tensor:
        raise no_kernel

    monkeypatch.setattr(Weights, "gradient", fails)
    monkeypatch.setattr("archer.fleet.train.compiler", lambda exact: lambda function, name: function)
    with pytest.raises(RuntimeError) as raised:
        trained(tiny_runs(2), compiled=True)
    assert str(raised.value) == str(no_kernel)


def test_another_error_of_what_is_compiled_is_no_reason_to_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*given: object) -> None:
        raise ValueError("another error")

    monkeypatch.setattr("archer.fleet.train.compiler", lambda exact: lambda function, name: fails)
    with pytest.raises(ValueError, match="another error"):
        trained(tiny_runs(2), compiled=True)


def test_an_alone_module_computes_what_the_module_computes() -> None:
    """Losses of the fleet of one against the backbone around the plain module, gradients by autograd."""
    (run,) = runs_of(BRANCH, 1)
    model = build_model(run)
    mixer = AloneMixer(model.mixer.name, model.mixer.make, "a test")  # type: ignore[union-attr]
    values, x = mixer.initial_values(3), torch.randn(2, 9, 16, generator=torch.Generator().manual_seed(0))
    stacked = {name: value[None].requires_grad_() for name, value in values.items()}
    plain: nn.Module = mixer._made(3)
    expected = plain(x)
    expected.square().sum().backward()
    made = mixer(stacked, x[None])
    assert torch.equal(made[0], expected)
    gradients = torch.autograd.grad(made.square().sum(), list(stacked.values()))
    for gradient, parameter in zip(gradients, plain.parameters(), strict=True):
        assert parameter.grad is not None
        assert torch.equal(gradient[0], parameter.grad)


def test_dropout_acts_in_training_and_not_in_evaluation() -> None:
    (run,) = runs_of(DROPOUT, 1)
    model = build_model(run)
    mixer = AloneMixer(model.mixer.name, model.mixer.make, "a test")  # type: ignore[union-attr]
    fleet = Fleet.start(replace(model, mixer=mixer), [run], load, torch.device("cpu"))

    def loss() -> Tensor:
        order = torch.arange(16)[None]
        return fleet.losses(*fleet.splits["train"].batch(order))[0].detach()

    with mixer.drawing(0, 0, fleet.device):
        first, second = loss(), loss()
    assert not torch.equal(first, second)
    with mixer.drawing(0, 0, fleet.device):
        assert torch.equal(loss(), first)
    with mixer.looking():
        assert torch.equal(loss(), loss())


def test_a_run_with_dropout_goes_on_as_it_would_have(tmp_path: Path) -> None:
    runs = runs_of(DROPOUT, 2)
    whole, _ = trained(runs)
    parts: dict[str, Outcome] = {}
    for _ in range(20):
        left = [run for run in runs if run.key not in parts]
        if not left:
            break
        found, _ = trained(left, checkpoints=tmp_path, stop_after_seconds=1e-9)
        parts |= found
    assert {key: results(one) for key, one in parts.items()} == {k: results(o) for k, o in whole.items()}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (FITS.replace("self.linear(torch", "self.missing(torch"), "fails on"),
        (FITS.replace("return ", "return torch.ones(2) + "), "fails on"),
        ("""
         class Mixer(nn.Module):
             def __init__(self, width):
                 super().__init__()
                 self.linear = nn.Linear(width, 2 * width)

             def forward(self, x):
                 return self.linear(x)
         """, "expected \\[B, T, D\\] to the same"),
        ("""
         class Mixer(nn.Module):
             def __init__(self, width):
                 super().__init__()
                 self.norm = nn.BatchNorm1d(width)

             def forward(self, x):
                 return self.norm(x.mT).mT
         """, "changes its buffer norm"),
    ],
)  # fmt: skip
def test_what_is_no_token_mixer_is_refused(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        trained(runs_of(text))


def test_why_a_rule_has_no_kernel_for_its_loop_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton", reason="kernels need triton")
    monkeypatch.setattr(algebra._Kernels, "module", object())
    rule = load_rule('parent = "delta_net"\ndef retain(S):\n    return 0.9 * S\n', "mine", get_rule)
    runs = [replace(run, subject=rule_subject(rule)) for run in tiny_runs(2)]
    mixer = build_mixer(runs[0].subject, runs[0].recipe)
    assert isinstance(mixer, RuleMixer)
    mixer.make_kernel(torch.device("cuda"), torch.float32)
    found, heard = trained(runs)
    assert {outcome.status for outcome in found.values()} == {"finished"}
    (said,) = [event for event in heard if event["event"] == "plainer"]
    assert (said["subject"], said["without"]) == ("mine", "a kernel for its loop")
    assert said["message"].startswith("a shape of [8, 8]: two axes are expected")
