"""What a rule costs, beside what it scores: parameters, state, operations, speed. Unknown is None, never 0.

Parameters and training speed come from runs, the state from the rule's declarations, operations from its
exported layer; decoding speed is measured by `archer report --decoding` and kept beside the ledger.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from archer.errors import UserError
from archer.ledger.records import Comparison, RunRecord

if TYPE_CHECKING:
    import torch

    from archer.ledger.store import Ledger
    from archer.mad.settings import Setting
    from archer.rules import Rule
    from archer.verify.layer_cost import LayerSize

DECODING_FILE = "decoding.json"
"""In a project folder: what `archer report --decoding` measured."""

NOTICEABLE = 0.01
"""A surplus of parameters below this share is named, and no comparison at equal parameters is asked for."""


@dataclass(frozen=True)
class Decoding:
    """Seconds per token of one layer's `step`, batch of one, on one thread of a machine."""

    rule: str
    rule_hash: str
    width: int
    heads: int
    chunk_size: int
    machine: str
    torch: str
    seconds: float


@dataclass(frozen=True)
class RuleCost:
    """parameters: of the whole model, in one setting for all rules; sized_on: the task of that setting.
    state_per_head: numbers that pass from chunk to chunk. heads: per layer. operations_per_token: of one
    layer's forward pass. step_seconds: device to one run's share of a training step. decoding: one layer, by
    machine. state_per_token: what each further token adds to the state of one layer, for attention;
    counted_at: the length in tokens at which operations were counted, where they grow with it.
    """

    parameters: int | None = None
    state_per_head: int | None = None
    heads: int | None = None
    operations_per_token: float | None = None
    step_seconds: Mapping[str, float] = field(default_factory=dict)
    decoding: tuple[Decoding, ...] = ()
    state_per_token: int | None = None
    counted_at: int | None = None
    sized_on: str | None = None


@dataclass(frozen=True)
class Surplus:
    """A candidate that has more parameters than the rule it is compared with.

    extra: how many more, in the largest setting; share: of the baseline's. width: the smallest at which the
    baseline has at least as many, None where that is not known. comparison: with the baseline so widened,
    None where it has no runs.
    """

    candidate: str
    baseline: str
    preset: str
    extra: int
    share: float
    width: int | None = None
    comparison: Comparison | None = None

    @property
    def command(self) -> str:
        """What makes the runs that are missing."""
        return (
            f"archer bench {self.baseline} --preset {self.preset} --width {self.width} "
            f"--reference {self.baseline}"
        )


def widened_preset(preset: str, width: int) -> str:
    """The name under which `archer bench --width` keeps runs: they never mix with the preset's own."""
    return f"{preset}-width{width}"


def rule_costs(
    runs: Sequence[RunRecord], rules: Mapping[str, Rule], decoding: Iterable[Decoding] = ()
) -> dict[str, RuleCost]:
    """Rule to cost, for every rule with runs. All runs are of one preset.

    rules: those that are loaded, by name; where a rule's text is not the one that was trained, its state and
    its operations are not known.
    """
    from archer.rules import rule_names
    from archer.verify.layer_cost import layer_costs

    size = layer_size(runs)
    hashes = {run.rule: run.rule_hash for run in sorted(runs, key=lambda run: run.finished_at)}
    same = {n: rules[n] for n, digest in hashes.items() if n in rules and rules[n].hash == digest}
    texts = {name: rule.source for name, rule in rules.items() if name not in rule_names()}
    counted = layer_costs(same.values(), size, texts) if size else {}
    measured, sizes = tuple(decoding), largest(runs)
    beside = {name: cost for name, digest in hashes.items() if (cost := baseline_cost(name, digest, size))}
    costs = {
        name: beside[name]
        if name in beside
        else RuleCost(
            state_per_head=_state(same[name], size) if size and name in same else None,
            heads=(same[name].layer.heads or size.heads) if size and name in same else None,
            operations_per_token=counted[name].operations_per_token if name in counted else None,
            decoding=tuple(one for one in measured if one.rule_hash == digest and _fits(one, size)),
        )
        for name, digest in hashes.items()
    }
    return {name: _of_runs(cost, sizes.get(name), _speed(runs, name)) for name, cost in costs.items()}


def _of_runs(cost: RuleCost, sized: RunRecord | None, speed: Mapping[str, float]) -> RuleCost:
    """A cost with what runs alone tell."""
    size = {"parameters": sized.parameters, "sized_on": sized.task} if sized else {}
    return replace(cost, step_seconds=speed, **size)


def _speed(runs: Sequence[RunRecord], rule: str) -> dict[str, float]:
    return step_seconds(run for run in runs if run.rule == rule)


@cache
def baseline_cost(name: str, digest: str, size: LayerSize | None) -> RuleCost | None:
    """State and operations of a token mixer that is no rule, counted as those of rules are.

    None for other names, and where the mixer's text is not the one that was trained. Softmax attention keeps
    the keys and values of all tokens: it has no state of a fixed size, and its operations grow with length.
    """
    from archer.model import baselines

    if size is None or name not in baselines.BASELINES:
        return None
    mixer = baselines.baseline(name, size.width, size.heads)
    source = Path(baselines.__file__).read_text(encoding="utf-8")
    if hashlib.sha256(f"{type(mixer).__name__}\0{source}".encode()).hexdigest()[:12] != digest:
        return None
    tokens, operations = _count(mixer, size)
    if isinstance(mixer, baselines.SoftmaxAttention):
        return RuleCost(operations_per_token=operations, state_per_token=2 * size.width, counted_at=tokens)
    if isinstance(mixer, baselines.Mamba):
        return RuleCost(state_per_head=mixer.inner * mixer.state, heads=1, operations_per_token=operations)
    assert isinstance(mixer, baselines.GatedLinearAttention)
    state = mixer.key_width // mixer.heads * (size.width // mixer.heads)
    return RuleCost(state_per_head=state, heads=mixer.heads, operations_per_token=operations)


def _count(mixer: torch.nn.Module, size: LayerSize) -> tuple[int, float]:
    """Tokens, and operations for each of them, of one forward pass as long as that of a rule's count."""
    import torch

    from archer.verify.checks.cost import Counter
    from archer.verify.layer_cost import CHUNKS

    tokens = CHUNKS * size.chunk_size
    x = torch.zeros(1, tokens, size.width)
    with torch.no_grad(), Counter() as counter:
        mixer(x)
    return tokens, counter.operations / tokens


def ledger_costs(ledger: Ledger, runs: Sequence[RunRecord]) -> dict[str, RuleCost]:
    """`rule_costs` with the rules as the ledger has their texts. All runs are of one preset."""
    from archer.rules import get_rule, load_rule, rule_names
    from archer.verify.language import check_top

    texts = {name: text for name, text in ledger.accepted().items() if name not in rule_names()}
    rules: dict[str, Rule] = {}

    def find(name: str) -> Rule:
        if name in texts and name not in rules:
            check_top(texts[name], name)
        if name not in rules:
            rules[name] = load_rule(texts[name], name, find) if name in texts else get_rule(name)
        return rules[name]

    for name in dict.fromkeys(run.rule for run in runs):
        if name in texts or name in rule_names():
            with suppress(UserError):  # a rule that no longer loads was trained all the same
                find(name)
    return rule_costs(runs, rules, read_decoding(ledger.path.parent))


def largest(runs: Sequence[RunRecord]) -> dict[str, RunRecord]:
    """Rule to a run of it, all in one setting: the one with most parameters of those most rules have.

    A rule that was not trained in that setting is not in the answer.
    """
    rules = dict.fromkeys(run.rule for run in runs)
    by_rule = {rule: _by_setting(runs, rule) for rule in rules}
    trained: dict[str, list[int]] = {}
    for found in by_rule.values():
        for setting, run in found.items():
            trained.setdefault(setting, []).append(run.parameters)
    if not trained:
        return {}
    chosen = max(sorted(trained), key=lambda name: (len(trained[name]), max(trained[name])))
    return {rule: found[chosen] for rule, found in by_rule.items() if chosen in found}


def layer_size(runs: Sequence[RunRecord]) -> LayerSize | None:
    """The layer's sizes: as a run's own recipe has them, else its preset's; None where neither is known."""
    from archer.verify.layer_cost import LayerSize

    for run in runs[:1]:
        width, heads, chunk = (_recipe(run, name) for name in ("width", "heads", "chunk_size"))
        if width and heads and chunk:
            return LayerSize(width, heads, chunk)
    return None


def _state(rule: Rule, size: LayerSize) -> int:
    from archer.rules.describe import describe

    key = size.width // (rule.layer.heads or size.heads)
    return describe(rule).state_per_head(key, int(key * rule.layer.expand_value))


def step_seconds(runs: Iterable[RunRecord]) -> dict[str, float]:
    """Device to seconds per optimiser step of one run: its share of the fleet that it was trained in.

    A run whose length is not known, or that took no step, does not count.
    """
    spent: dict[str, tuple[float, int]] = {}
    for run in runs:
        steps = _steps(run)
        if run.status == "finished" and steps and run.wall_seconds > 0 and run.device:
            seconds, number = spent.get(run.device, (0.0, 0))
            spent[run.device] = (seconds + run.wall_seconds, number + steps)
    return {device: seconds / number for device, (seconds, number) in sorted(spent.items())}


def _steps(run: RunRecord) -> int | None:
    """Optimiser steps of a run; None where neither it nor its preset says how long an epoch is."""
    setting, batch = _setting(run), _recipe(run, "batch_size")
    return run.epochs * math.ceil(setting.train_examples / batch) if setting and batch else None


def _setting(run: RunRecord) -> Setting | None:
    """What a run was trained on, as it says itself, or as a preset has it under that name."""
    from archer.mad.presets import PRESETS
    from archer.mad.settings import Setting

    given = run.effective.get("setting")
    known = (one for preset in PRESETS.values() for one in preset.settings if one.name == run.setting)
    return Setting(**given) if given else next(known, None)


def _recipe(run: RunRecord, name: str) -> int | None:
    """A number of the recipe, as the run says itself, or as its preset has it."""
    from archer.mad.presets import PRESETS

    known = PRESETS.get(run.preset)
    return run.effective.get("recipe", {}).get(name) or (getattr(known, name) if known else None)


def _fits(one: Decoding, size: LayerSize | None) -> bool:
    return size is not None and (one.width, one.heads, one.chunk_size) == (
        size.width, size.heads, size.chunk_size,
    )  # fmt: skip


# More parameters than the other


def surpluses(
    comparisons: Iterable[Comparison],
    runs: Sequence[RunRecord],
    runs_of_preset: Callable[[str], Sequence[RunRecord]],
    rules: Mapping[str, Rule],
) -> tuple[Surplus, ...]:
    """Every comparison whose candidate has more parameters, in the largest setting that both have.

    runs_of_preset: finds the runs under a preset's name; a widened baseline is looked for among them.
    """
    found = []
    for comparison in comparisons:
        mine, theirs = (_by_setting(runs, name) for name in (comparison.candidate, comparison.baseline))
        common = sorted(mine.keys() & theirs.keys(), key=lambda name: theirs[name].parameters)
        if not common or mine[common[-1]].parameters <= theirs[common[-1]].parameters:
            continue
        wanted, other = mine[common[-1]].parameters, theirs[common[-1]]
        width = matching_width(wanted, other, rules)
        wide = None if width is None else _against_widened(comparison, runs, runs_of_preset, width)
        names = (comparison.candidate, comparison.baseline, comparison.preset)
        extra = wanted - other.parameters
        found.append(Surplus(*names, extra, extra / other.parameters, width, wide))
    return tuple(found)


def _by_setting(runs: Iterable[RunRecord], rule: str) -> dict[str, RunRecord]:
    """One run of a rule per setting, of those that say how many parameters they have.

    A parent's run that stands in for the rule (its key ends in "=") has the parent's parameters: left out.
    """
    own = (run for run in runs if run.rule == rule and not run.key.endswith("="))
    return {run.setting: run for run in own if run.parameters > 0}


def matching_width(wanted: int, run: RunRecord, rules: Mapping[str, Rule]) -> int | None:
    """The smallest width, a multiple of the heads, at which a run's model learns at least `wanted` numbers.

    None where the model of that run cannot be built again.
    """
    rule, size = rules.get(run.rule), layer_size([run])
    if rule is None or size is None or _model_parameters(run, rule, size.width) != run.parameters:
        return None
    step = math.lcm(size.heads, rule.layer.heads or size.heads)
    widths = range(size.width + step, 8 * size.width + 1, step)
    return next((w for w in widths if (_model_parameters(run, rule, w) or 0) >= wanted), None)


def _model_parameters(run: RunRecord, rule: Rule, width: int) -> int | None:
    """What a run's model would learn at another width."""
    from archer.mad.settings import COMPRESS
    from archer.model.backbone import Model
    from archer.model.mixer import RuleMixer

    setting, heads, mixers = _setting(run), _recipe(run, "heads"), _recipe(run, "mixers")
    if setting is None or not heads or not mixers:
        return None
    mixer = RuleMixer(rule, width, heads)
    backbone = "auto-encoder" if setting.task == COMPRESS else "language-model"
    return Model(mixer, backbone, setting.vocabulary, width, mixers, setting.length).parameters


def _against_widened(
    comparison: Comparison,
    runs: Sequence[RunRecord],
    runs_of_preset: Callable[[str], Sequence[RunRecord]],
    width: int,
) -> Comparison | None:
    """The candidate against its baseline at a width with as many parameters, where that was trained."""
    from archer.judge import compare

    name, preset = f"{comparison.baseline} (width {width})", comparison.preset
    wide = [
        replace(run, rule=name, preset=preset)
        for run in runs_of_preset(widened_preset(preset, width))
        if run.rule == comparison.baseline
    ]
    return compare([*runs, *wide], comparison.candidate, name, preset=preset) if wide else None


# Decoding


def measure_decoding(
    runs: Sequence[RunRecord], rules: Mapping[str, Rule], folder: Path
) -> tuple[Decoding, ...]:
    """Time one token through each rule's exported layer, here and now, and keep it in the project folder."""
    import torch

    from archer.verify.layer_cost import layer_costs

    size = layer_size(runs)
    trained = [rules[name] for name in dict.fromkeys(run.rule for run in runs) if name in rules]
    if size is None:
        return ()
    found = layer_costs(trained, size, {name: rule.source for name, rule in rules.items()}, decoding=True)
    where = (size.width, size.heads, size.chunk_size, machine(), torch.__version__)
    new = tuple(
        Decoding(rule.name, rule.hash, *where, seconds)
        for rule in trained
        if rule.name in found and (seconds := found[rule.name].decoding_seconds)
    )
    kept = {replace(one, torch="", seconds=0.0): one for one in (*read_decoding(folder), *new)}
    draft = folder / f".{DECODING_FILE}.part"
    draft.write_text(json.dumps([asdict(one) for one in kept.values()], indent=1) + "\n", encoding="utf-8")
    draft.replace(folder / DECODING_FILE)
    return new


def read_decoding(folder: Path) -> tuple[Decoding, ...]:
    """What was measured in a project so far. Raises UserError for a file that is broken."""
    path = folder / DECODING_FILE
    if not path.exists():
        return ()
    try:
        return tuple(Decoding(**one) for one in json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise UserError(
            f"{path} is not what `archer report --decoding` wrote ({error}): delete it and measure again"
        ) from error


def machine() -> str:
    """This machine's processor, as it names itself."""
    import platform

    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or platform.machine()


def as_values(cost: RuleCost) -> dict[str, Any]:
    """A cost for JSON and CSV: unknown is None."""
    return {
        "parameters": cost.parameters,
        "sized_on": cost.sized_on,
        "state_per_head": cost.state_per_head,
        "heads": cost.heads,
        "operations_per_token": cost.operations_per_token,
        "state_per_token": cost.state_per_token,
        "counted_at_tokens": cost.counted_at,
        "step_seconds": dict(cost.step_seconds),
        "decoding_seconds": {one.machine: one.seconds for one in cost.decoding},
    }
