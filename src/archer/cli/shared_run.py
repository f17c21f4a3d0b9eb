"""What the commands that train have in common: their options, and what they print at the end."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, is_dataclass
from functools import wraps
from inspect import Parameter, signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from archer.cli.shared import DEFAULT_PROJECT
from archer.errors import UserError

if TYPE_CHECKING:
    from archer.cycle.cycle import Result
    from archer.cycle.training import Resources
    from archer.research.exchange import Transport
    from archer.research.researcher import Researcher

MOST_SEEDS = 8
"""Where --until-decided ends unless --max-seeds says otherwise."""

ProjectOption = Annotated[
    Path, typer.Option("--project", "-p", metavar="DIR", help="Project folder: ledger, rules, reports.")
]
PresetOption = Annotated[
    str, typer.Option("--preset", metavar="NAME", help="smoke, quick, baseline or full (see `archer mad`).")
]
DeviceOption = Annotated[
    str | None,
    typer.Option(
        "--device",
        metavar="NAME",
        help="cpu, cuda or cuda:1. Default: all GPUs, or the CPU where there is none.",
    ),
]
DataOption = Annotated[
    Path | None,
    typer.Option(
        "--data",
        metavar="DIR",
        help="Folder of mad-lab's published benchmark data, used instead of generated.",
    ),
]
BudgetOption = Annotated[
    float | None,
    typer.Option(
        "--budget-seconds", metavar="SECONDS", help="Stop training after so long; the same command continues."
    ),
]
RaceOption = Annotated[
    bool,
    typer.Option(
        "--race", help="Stop the grid points that lose clearly before their end; not for the preset full."
    ),
]
ModelOption = Annotated[
    list[str] | None,
    typer.Option(
        "--model",
        metavar="PROVIDER:NAME",
        help="A language model as the researcher, provider:name. Several take turns.",
    ),
]
AddressOption = Annotated[
    str | None, typer.Option("--base-url", metavar="URL", help="An OpenAI-compatible server, with its /v1.")
]
CostOption = Annotated[
    float | None,
    typer.Option(
        "--max-cost", metavar="DOLLARS", min=0, help="Dollars that each model may spend in this project."
    ),
]
ReplayOption = Annotated[
    Path | None,
    typer.Option("--replay", metavar="FILE", help="Answer from a recorded exchanges.jsonl, offline."),
]
HistoryOption = Annotated[
    Path | None,
    typer.Option("--history", metavar="FILE", help="A table of past results, instead of the built-in ones."),
]
SeedOption = Annotated[int, typer.Option("--seed", metavar="N", help="Seed of the researcher.")]

UntilDecidedOption = Annotated[
    bool,
    typer.Option(
        "--until-decided",
        help="Add seeds in the tasks and rules that are undecided, instead of the preset's seeds; the error "
        "rate stays below 5% though it looks several times.",
    ),
]
MaxSeedsOption = Annotated[
    int | None,
    typer.Option(
        "--max-seeds",
        metavar="N",
        min=1,
        help=f"With --until-decided: at most so many; {MOST_SEEDS} by default.",
    ),
]
ConfirmOption = Annotated[
    bool | None,
    typer.Option(
        "--confirm/--no-confirm",
        help="Train a winner and the rule it beat again with fresh seeds before it is called one. Default: "
        "where the preset ranks.",
    ),
]

STATUS = {"finished": 0, "rejected": 3, "failed": 4, "running": 5}


@dataclass(frozen=True)
class Place:
    """Where training happens, and on what."""

    project: ProjectOption = DEFAULT_PROJECT
    device: DeviceOption = None
    data: DataOption = None
    race: RaceOption = False

    def resources(self, budget_seconds: float | None = None) -> Resources:
        """The options as a cycle takes them. Raises UserError for a budget that is not above 0."""
        from archer.cycle.training import Resources

        if budget_seconds is not None and not 0 < budget_seconds < math.inf:
            raise UserError(f"--budget-seconds is {budget_seconds}: expected a number of seconds above 0")
        return Resources(
            device=self.device, data_dir=self.data, budget_seconds=budget_seconds, race=self.race
        )


@dataclass(frozen=True)
class Training(Place):
    """The options of the commands that train rules once and judge them."""

    preset: PresetOption = "smoke"
    until_decided: UntilDecidedOption = False
    max_seeds: MaxSeedsOption = None
    confirm: ConfirmOption = None
    budget_seconds: BudgetOption = None

    def asked(self) -> dict[str, Any]:
        """The options as the functions of `archer.cycle` take them."""
        from archer.cycle.measuring import Judging

        if self.max_seeds is not None and not self.until_decided:
            raise UserError("--max-seeds says where --until-decided ends: give both")
        most = (self.max_seeds or MOST_SEEDS) if self.until_decided else None
        return {
            "project": self.project,
            "preset": self.preset,
            "judging": Judging(most, self.confirm),
            "resources": self.resources(self.budget_seconds),
        }


@dataclass(frozen=True)
class Proposing:
    """The options that say who proposes, and from what."""

    history: HistoryOption = None
    seed: SeedOption = 0
    model: ModelOption = None
    base_url: AddressOption = None
    max_cost: CostOption = None
    replay: ReplayOption = None

    def asked(self, project: Path, preset: str) -> dict[str, Any]:
        """The options as the functions of `archer.cycle` take them."""
        researcher = researcher_of(project, preset, self.model, self.base_url, self.max_cost, self.replay)
        return {"history": self.history, "seed": self.seed, "researcher": researcher}


def with_options(command: Callable[..., None]) -> Callable[..., None]:
    """The command with the fields of its option groups (arguments that are dataclasses, such as Training) as
    options of its own."""
    groups: dict[str, tuple[Any, list[str]]] = {}
    parameters: list[Parameter] = []
    for name, hint in get_type_hints(command, include_extras=True).items():
        if is_dataclass(hint):
            parameters += _parameters(hint)
            groups[name] = (hint, [one.name for one in _parameters(hint)])
    own = [one for one in _parameters(command) if one.name not in groups]

    @wraps(command)
    def flat(**given: Any) -> None:
        for name, (group, fields) in groups.items():
            given[name] = group(**{field: given.pop(field) for field in fields})
        command(**given)

    flat.__signature__ = signature(command).replace(parameters=[*own, *parameters])  # type: ignore[attr-defined]
    flat.__annotations__ = {one.name: one.annotation for one in (*own, *parameters)}
    return flat


def _parameters(function: Any) -> list[Parameter]:
    hints = get_type_hints(function, include_extras=True)
    return [
        one.replace(kind=Parameter.KEYWORD_ONLY, annotation=hints[one.name])
        for one in signature(function).parameters.values()
    ]


def researcher_of(
    project: Path,
    preset: str,
    model: list[str] | None,
    base_url: str | None,
    max_cost: float | None,
    replay: Path | None,
) -> Researcher:
    """Who proposes: the structured search, or one or several language models with it as their fallback.

    Every exchange with a model is kept in exchanges.jsonl in the project folder.
    """
    from archer.cycle.plan import get_preset
    from archer.research.structured import StructuredResearcher

    given = {"--base-url": base_url, "--max-cost": max_cost, "--replay": replay}
    alone = [name for name, value in given.items() if value is not None]
    if not model:
        if alone:
            raise UserError(f"{alone[0]} needs --model: give provider:name, such as openai:gpt-5")
        return StructuredResearcher()

    from archer.cycle.team import Models, verifier
    from archer.research.model import ModelResearcher

    verify = verifier(project, get_preset(preset))
    transports = _transports(project, model, base_url, replay)
    members = [
        ModelResearcher(name, transports[name], verify=verify, max_dollars=max_cost) for name in transports
    ]
    return members[0] if len(members) == 1 else Models(members)


def _transports(
    project: Path, models: list[str], base_url: str | None, replay: Path | None
) -> dict[str, Transport]:
    """One line to each model; all recorded in one transcript, or all answered from one."""
    from importlib.util import find_spec

    from archer.research.exchange import Address, PydanticTransport, Recorder, Replay, append_to

    for name in models:
        if not all(name.partition(":")):
            raise UserError(f"--model is '{name}': expected provider:name, such as openai:gpt-5")
    if replay is not None:
        return dict.fromkeys(models, Replay(replay))
    if find_spec("pydantic_ai") is None:
        raise UserError("--model needs the extra llm: pip install -e '.[llm]' in Archer's folder")
    write = append_to(project / "exchanges.jsonl")
    lines = {name: PydanticTransport(Address(name, base_url)) for name in models}
    for line in lines.values():
        line.open()  # a wrong name or a missing key is said before anything is written
    return {name: Recorder(line, write) for name, line in lines.items()}


def finish(result: Result) -> None:
    """Prints the table and the paths, and leaves with the status that says what happened."""
    from archer.cli.console import results
    from archer.report import final_table

    console = results()
    if result.cycle.state == "running":
        console.print(f"{result.cycle.message}.", soft_wrap=True)
        raise typer.Exit(STATUS["running"])
    if result.cycle.state == "rejected":
        console.print(f"No proposal passed verification. The last one: {result.cycle.message}")
    elif result.cycle.state == "failed":
        console.print("No run finished: nothing can be said. The report lists what went wrong.")
    console.print(final_table(result.facts, paths=result.reports))
    raise typer.Exit(STATUS[result.cycle.state])
