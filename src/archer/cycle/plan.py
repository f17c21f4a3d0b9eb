"""From rules and a preset to runs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from inspect import signature
from pathlib import Path
from typing import Any

from archer.errors import UserError, unknown
from archer.fleet.run import Recipe, Run, Subject
from archer.mad import PRESETS, Preset, Setting
from archer.rules import Rule, get_rule, rule_names


def get_preset(preset: str | Preset) -> Preset:
    """The preset of that name. Raises UserError with the nearest names."""
    if isinstance(preset, Preset):
        return preset
    if preset not in PRESETS:
        raise unknown("preset", preset, PRESETS)
    return PRESETS[preset]


def check_schedule(schedule: str) -> str:
    """The schedule of that name. Raises UserError with the nearest names."""
    if schedule not in ("constant", "cosine"):
        raise unknown("schedule", schedule, ("constant", "cosine"))
    return schedule


def recipe_of(preset: Preset, schedule: str = "constant") -> Recipe:
    """How a preset trains."""
    return Recipe(
        width=preset.width, mixers=preset.mixers, heads=preset.heads, chunk_size=preset.chunk_size,
        batch_size=preset.batch_size, epochs=preset.epochs, evaluate_every=preset.evaluate_every,
        precision=preset.precision, schedule=schedule,  # type: ignore[arg-type]
    )  # fmt: skip


def runs_of(
    subject: Subject, preset: Preset, recipe: Recipe, settings: Iterable[Setting] | None = None,
    seeds: Iterable[int] | None = None,
) -> tuple[Run, ...]:  # fmt: skip
    """The whole grid of one subject: settings, learning rates, weight decays, seeds."""
    return tuple(
        Run(subject, setting, recipe, rate, decay, seed)
        for setting in (preset.settings if settings is None else settings)
        for rate in preset.learning_rates
        for decay in preset.weight_decays
        for seed in (range(preset.seeds) if seeds is None else seeds)
    )


def subject_of(rule: Rule, known: Mapping[str, str] | None = None) -> Subject:
    """A loaded rule as a subject. known: texts of rules that are not built in, by name."""
    from archer.fleet.subjects import rule_subject

    return rule_subject(rule, dict(known or {}))


def named_subject(
    name: str,
    arguments: Mapping[str, Any] | None = None,
    trust: bool = False,
    known: Mapping[str, str] | None = None,
) -> Subject:
    """What `archer bench` accepts: a built-in rule, a baseline mixer, a rule file, or file.py:ClassName.

    known: texts of further rules by name (a project's), to be named or to be a file's ancestors.
    """
    known = known or {}
    if name in rule_names():
        return subject_of(get_rule(name))
    if name in known:
        return subject_of(_finder(known)(name), known)
    if ":" in name and Path(name.rpartition(":")[0]).suffix == ".py":
        return module_subject(name, arguments or {})
    if name.endswith(".py"):
        return subject_of(read_rule_file(Path(name), trust, known), known)
    from archer.model import baselines

    if name in baselines.BASELINES:
        return _baseline_subject(name)
    raise unknown("rule", name, (*rule_names(), *known, *baselines.BASELINES))


def _baseline_subject(name: str) -> Subject:
    """One of the token mixers that stand beside the rules, with its default arguments and four heads."""
    from archer.model import baselines

    mixer = type(baselines.baseline(name, 64))
    heads = {"heads": 4} if "heads" in signature(mixer).parameters else {}
    subject = module_subject(f"{baselines.__file__}:{mixer.__name__}", {})
    return replace(subject, name=name, arguments=tuple(heads.items()))


def module_subject(place: str, arguments: Mapping[str, Any]) -> Subject:
    """A PyTorch module, "file.py:ClassName", built as ClassName(width, **arguments): with other arguments it
    is another one, as an edited rule is another rule under the same name."""
    from archer.verify import load_source

    path, _, class_name = place.rpartition(":")
    source = load_source(Path(path))
    built = [class_name, source, *([json.dumps(dict(arguments), sort_keys=True)] if arguments else [])]
    digest = hashlib.sha256("\0".join(built).encode()).hexdigest()[:12]
    return Subject(
        class_name,
        source,
        digest,
        module=f"{Path(path).name}:{class_name}",
        arguments=tuple(arguments.items()),
    )


def _finder(known: Mapping[str, str]) -> Callable[[str], Rule]:
    from archer.verify.verification import Finder

    return Finder(known)


def read_rule_file(path: Path, trust: bool = False, known: Mapping[str, str] | None = None) -> Rule:
    """A rule from a person's file. Nothing of it is executed unless the language wall lets it pass.

    known: texts of further rules by name that may be its ancestors: those that a project has accepted.
    trust: the person lifts that wall for what the functions do; the top of the file still only declares, for
    this process reads it. It does so once a contained process has.
    """
    from archer.rules import load_rule
    from archer.verify import check_language, load_source
    from archer.verify.contain import WallFailed
    from archer.verify.contained import load_contained
    from archer.verify.language import check_top

    source = load_source(path)
    ancestors = {name: text for name, text in (known or {}).items() if name != path.stem}
    if path.stem in rule_names():
        raise UserError(f"{path}: the name {path.stem} is a built-in rule's; rename the file")
    (check_top if trust else check_language)(source, str(path))
    try:
        load_contained(source, path.stem, ancestors)
        return load_rule(source, path.stem, _finder(ancestors))
    except WallFailed:
        raise
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def with_width(preset: Preset, **changes: Any) -> Preset:
    """A preset with other numbers, for tests and experiments.

    It gets another name, so that runs never mix.
    """
    digest = hashlib.sha256(repr(sorted(changes.items())).encode()).hexdigest()[:6]
    return replace(preset, name=f"{preset.name}-{digest}", **changes)
