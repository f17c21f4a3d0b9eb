"""A fleet: runs of one subject and one shape, trained as one program.

F members share every operation: parameters are [F, ...], activations [F, B, T, D]. Members differ in data,
seed, learning rate, weight decay and age. Nothing that a member does reaches another: every product has one
batch per member, and the sum of the losses only adds up gradients of disjoint parameters.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from archer.fleet.capture import Look, Step, captured_look, captured_step
from archer.fleet.compile import trouble_of
from archer.fleet.data import IGNORED, Load, Split, load_split, shuffled
from archer.fleet.modules import AloneMixer
from archer.fleet.run import Evaluation, Outcome, Run, select
from archer.fleet.state import Weights
from archer.mad import macro_accuracy_torch
from archer.mad.settings import BATCH_SIZE as SCORE_BATCH
from archer.model.backbone import Model, Region
from archer.model.mixer import RuleMixer
from archer.rules.algebra import enable_kernels


@dataclass(frozen=True)
class Member:
    """One run inside a fleet: how old it is, and what was seen of it.

    steps, loss_sum: of the epoch under way, where that was left for a moment. dropped: why, where a race lost
    it.
    """

    run: Run
    epoch: int = 0
    steps: int = 0
    loss_sum: float = 0.0
    curve: tuple[Evaluation, ...] = ()
    wall_seconds: float = 0.0
    train_loss: float = float("nan")
    alive: bool = True
    dropped: str = ""


@dataclass
class Fleet:
    """Members and their state on one device. `run_epoch` trains all of them for one pass over their data.

    Members differ in epoch, but an epoch that is under way has the same number of steps behind it for all.
    """

    model: Model
    members: list[Member]
    weights: Weights
    splits: dict[str, Split]
    device: torch.device
    region: Region | None = None
    spare: int = 0
    rates: Tensor = field(init=False)
    decays: Tensor = field(init=False)
    seeds: Tensor = field(init=False)
    step: Step | None = field(init=False)
    looks: dict[int, Look] = field(init=False)
    pool: Any = field(init=False)

    @classmethod
    def start(
        cls, model: Model, runs: Sequence[Run], load: Load, device: torch.device, region: Region | None = None
    ) -> Fleet:
        """New members at epoch 0, from their seeds."""
        members = [Member(run) for run in runs]
        weights = Weights.start(model, [run.seed for run in runs], device)
        return cls(model, members, weights, load_splits(runs, load, device), device, region)

    def __post_init__(self) -> None:
        self.step, self.looks, self.pool = None, {}, None
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device.index or 0)  # Triton starts its kernels on the current device
            self.pool = torch.cuda.graph_pool_handle()
            enable_kernels()
        if isinstance(self.model.mixer, RuleMixer) and self.members:
            half = self.members[0].run.recipe.precision == "bf16"
            self.model.mixer.make_kernel(self.device, torch.bfloat16 if half else torch.float32)
        if self.region is not None and self.rows == 1:
            self._take(torch.zeros(2, dtype=torch.long, device=self.device), spare=1)
        runs = [member.run for member in self._in_rows(self.members)]
        self.rates = torch.tensor([run.learning_rate for run in runs], device=self.device)
        self.decays = torch.tensor([run.weight_decay for run in runs], device=self.device)
        self.seeds = torch.tensor([run.seed for run in runs], device=self.device)

    @property
    def captures(self) -> bool:
        """Whether steps are recorded as CUDA graphs."""
        return self.region is not None and self.device.type == "cuda"

    @property
    def size(self) -> int:
        return len(self.members)

    @property
    def rows(self) -> int:
        """F of the tensors: the members, and behind them spare rows, which nobody looks at."""
        return self.size + self.spare

    def _in_rows(self, of_members: list[Any]) -> list[Any]:
        """One value per row; spare rows stand in for the first member."""
        return [*of_members, *of_members[:1] * self.spare]

    @property
    def steps_per_epoch(self) -> int:
        return -(-self.splits["train"].examples // self.members[0].run.recipe.batch_size)

    @property
    def under_way(self) -> bool:
        """Whether an epoch was begun and left: nobody may join, leave or be evaluated before its end."""
        return any(m.steps for m in self.members)

    def run_epoch(self, pause: Callable[[], bool] | None = None) -> None:
        """One pass of every member over its training set, or what is left of it.

        pause: asked after every step; where it says so, the epoch is left there, to the same results. None
        where steps are queued on a device, or drawn at random (`AloneMixer`).

        Raises what `trouble_of` knows with the state as before.
        """
        began, before = time.perf_counter(), self.weights.snapshot()
        try:
            with self._drawing():
                total, steps = self._train_steps(pause)
        except Exception as error:
            if trouble_of(error):
                self.weights.restore(before)
            raise
        done = steps == self.steps_per_epoch
        losses = (total / steps if done else total).tolist()  # the one wait for the device in an epoch
        share = (time.perf_counter() - began) / self.size
        self.members = [
            replace(
                replace(m, epoch=m.epoch + 1, steps=0, loss_sum=0.0, train_loss=loss)
                if done
                else replace(m, steps=steps, loss_sum=loss),
                wall_seconds=m.wall_seconds + share,
            )
            for m, loss in zip(self.members, losses[: self.size], strict=True)
        ]

    def _drawing(self) -> AbstractContextManager[None]:
        """Where random draws may be made: in the module of a run that is trained alone."""
        mixer, first = self.model.mixer, self.members[0]
        if isinstance(mixer, AloneMixer):
            return mixer.drawing(first.run.seed, first.epoch, self.device)
        return nullcontext()

    def _train_steps(self, pause: Callable[[], bool] | None) -> tuple[Tensor, int]:
        """(sum of the losses [F], number of steps) of the epoch so far."""
        recipe, train = self.members[0].run.recipe, self.splits["train"]
        epochs = torch.tensor(self._in_rows([m.epoch for m in self.members]), device=self.device)
        orders = shuffled(self.seeds, epochs, train.examples, recipe.batch_size)
        rates = self.rates * self._schedule(epochs)
        if self.step is None:
            self.step = captured_step(self) if self.captures else self.train_step
        total = torch.tensor(self._in_rows([m.loss_sum for m in self.members]), device=self.device)
        steps = self.members[0].steps
        while steps < orders.shape[1]:
            total += self.step(orders[:, steps], rates)
            steps += 1
            if pause and pause():
                break
        return total, steps

    def train_step(self, order: Tensor, rates: Tensor) -> Tensor:
        """One optimiser step of every member on the examples in order [F, B]; the losses [F] before it."""
        loss = self.losses(*self.splits["train"].batch(order))[0]
        self.weights.update(self.weights.gradient(loss.sum()), rates, self.decays)
        return loss.detach()

    def _schedule(self, epochs: Tensor) -> Tensor:
        recipe = self.members[0].run.recipe
        if recipe.schedule == "constant":
            return torch.ones_like(self.rates)
        return 0.01 + 0.99 * 0.5 * (1 + torch.cos(torch.pi * epochs / recipe.epochs))

    def losses(self, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """(mean loss [F], predictions [F, B, T]) of one batch, inputs and targets [F, B, T]."""
        recipe = self.members[0].run.recipe
        with torch.autocast(self.device.type, torch.bfloat16, enabled=recipe.precision == "bf16"):
            logits = self.model.logits(self.weights.views, inputs, self.region)
        wrap = self.region or (lambda function, name: function)
        return wrap(loss_and_predictions, "loss")(logits, targets)

    def evaluate(self) -> None:
        """Adds a point to the curve of every member that is due; one whose losses are not finite is dead.

        Raises OutOfMemoryError with the members as before.
        """
        began = time.perf_counter()
        mixer = self.model.mixer
        with mixer.looking() if isinstance(mixer, AloneMixer) else nullcontext():
            seen = {name: self._evaluate_split(self.splits[name]) for name in ("validation", "test")}
        share = (time.perf_counter() - began) / self.size
        self.members = [
            self._with_point(member, tuple(value[i] for name in seen for value in seen[name]), share)
            for i, member in enumerate(self.members)
        ]

    def _with_point(self, m: Member, seen: tuple[float, ...], share: float) -> Member:
        """A member with what was seen: validation loss and accuracy, test loss and accuracy."""
        if not owes_a_point(m):  # it came along: one that never trained has no loss yet
            return replace(m, wall_seconds=m.wall_seconds + share)
        v_loss, v_acc, t_loss, t_acc = seen
        alive = all(abs(x) < float("inf") for x in (m.train_loss, v_loss, t_loss))
        point = Evaluation(m.epoch, m.train_loss, v_loss, v_acc, t_loss, t_acc)
        curve = (*m.curve, point) if alive else m.curve
        return replace(m, alive=alive, curve=curve, wall_seconds=m.wall_seconds + share)

    @torch.no_grad()
    def _evaluate_split(self, split: Split) -> tuple[list[float], list[float]]:
        """(mean loss per scored token, MAD accuracy) of every member."""
        size = self.members[0].run.recipe.batch_size
        look = self._look_at(split)
        total, count, predictions, targets = 0.0, 0.0, [], []
        for first in range(0, split.examples, size):
            order = torch.arange(first, first + size, device=self.device)
            order = torch.where(order < split.examples, order, -1).expand(self.rows, -1)
            loss, scored, predicted, wanted = look(order)
            total, count = total + loss * scored, count + scored
            predictions.append(predicted)
            targets.append(wanted)
        accuracy = self._accuracy(torch.cat(predictions, 1), torch.cat(targets, 1), split.examples)
        assert isinstance(total, Tensor)
        return (total / count).tolist(), accuracy.tolist()

    def _look_at(self, split: Split) -> Look:
        """What evaluates a batch of this split; recorded once per fleet and split."""
        if not self.captures:
            return partial(self.look, split)
        if id(split) not in self.looks:
            self.looks[id(split)] = captured_look(self, split)
        return self.looks[id(split)]

    def look(self, split: Split, order: Tensor) -> tuple[Tensor, ...]:
        """Mean loss [F], number of scored tokens [F], predictions and targets [F, B, T] of some examples."""
        inputs, wanted = split.batch(order)
        with torch.set_grad_enabled(self.region is not None):  # compiled regions exist with gradients only
            loss, predicted = self.losses(inputs, wanted)
        return loss.detach(), (wanted != IGNORED).sum((1, 2)), predicted, wanted

    def _accuracy(self, predictions: Tensor, targets: Tensor, examples: int) -> Tensor:
        """The mean over examples; in float64, so that all right is exactly 1."""
        total, classes = (
            torch.zeros(self.rows, dtype=torch.float64, device=self.device),
            self.model.vocabulary,
        )
        for first in range(0, examples, SCORE_BATCH):
            batch = slice(first, min(first + SCORE_BATCH, examples))
            count = batch.stop - batch.start
            total += count * macro_accuracy_torch(predictions[:, batch], targets[:, batch], classes).double()
        return total / examples

    def is_over(self, member: Member) -> bool:
        """Diverged, done, or as good as a run can be told to be."""
        recipe, last = member.run.recipe, member.curve[-1] if member.curve else None
        reached = (
            last is not None and min(last.validation_accuracy, last.test_accuracy) >= recipe.stop_accuracy
        )
        return not member.alive or member.epoch >= recipe.epochs or reached or bool(member.dropped)

    def due(self) -> bool:
        """Whether some member is to be evaluated before it trains on."""
        return any(owes_a_point(member) for member in self.members)

    def drop(self, reasons: Mapping[str, str]) -> None:
        """Marks members (by key) that lost a race, so that they leave; who is over anyway stays as it is."""
        self.members = [
            m if self.is_over(m) else replace(m, dropped=reasons.get(m.run.key, "")) for m in self.members
        ]

    def leave(self, over: Callable[[Member], bool]) -> list[Outcome]:
        """Takes out the members that are over, and says what became of them."""
        gone = [member for member in self.members if over(member)]
        if gone:
            self.select([i for i, member in enumerate(self.members) if not over(member)])
        mixer = self.model.mixer
        alone = f"trained alone, not in a fleet: {mixer.why}" if isinstance(mixer, AloneMixer) else ""
        return [outcome(member, self.model.parameters, device_name(self.device), alone) for member in gone]

    def select(self, indices: list[int]) -> None:
        """Keeps only these members.

        A compiled fleet keeps its rows until half of them would be spare: another number needs a recording of
        its own, and where something fixes the number (a module under vmap) a compilation. It has two at
        least: for one, PyTorch compiles another program, with other sums.
        """
        spare = self.rows - len(indices)
        spare = spare if self.region is not None and 0 < spare < len(indices) else 0
        rows = [*indices, *indices[:1] * spare]
        self.forget_recordings()
        self._take(torch.tensor(rows, dtype=torch.long, device=self.device), spare)
        self.members = [self.members[i] for i in indices]
        self.__post_init__()

    def forget_recordings(self) -> None:
        """Gives back the memory in which steps are recorded: before others join or some leave, after which
        the recordings are of no use."""
        self.step, self.looks = None, {}
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _take(self, rows: Tensor, spare: int) -> None:
        """Keeps these rows, of which the last are spare."""
        self.spare = spare
        self.weights = self.weights.keep(rows)
        self.splits = {name: split.keep(rows) for name, split in self.splits.items()}

    def state(self) -> dict[str, Any]:
        """Everything that decides how the members go on: plain data and tensors on the CPU."""
        from dataclasses import asdict

        members = [
            {"key": m.run.key, "epoch": m.epoch, "steps": m.steps, "loss_sum": m.loss_sum,
             "wall_seconds": m.wall_seconds, "alive": m.alive, "train_loss": m.train_loss,
             "curve": [asdict(point) for point in m.curve]}
            for m in self.members
        ]  # fmt: skip
        return {"members": members, "weights": self.weights.to_cpu(self.size)}

    def weights_of_members(self) -> Weights:
        """The state without spare rows."""
        return self.weights.keep(torch.arange(self.size, device=self.device)) if self.spare else self.weights


def device_name(device: torch.device) -> str:
    """What trained a run, for its record: the card's name, or "cpu"."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def load_splits(runs: Sequence[Run], load: Load, device: torch.device) -> dict[str, Split]:
    """Training, validation and test sets of these runs, on the device."""
    return {name: load_split(runs, name, load, device) for name in ("train", "validation", "test")}


def restored(
    model: Model, runs: Sequence[Run], state: dict[str, Any], load: Load, device: torch.device,
    region: Region | None = None,
) -> Fleet:  # fmt: skip
    """A fleet as `state` left it; runs: those of its members, and maybe others."""
    members = members_of(state, runs)
    weights = Weights(model.specs, **{n: t.to(device, copy=True) for n, t in state["weights"].items()})
    return Fleet(model, members, weights, load_splits([m.run for m in members], load, device), device, region)


def members_of(state: dict[str, Any], runs: Sequence[Run]) -> list[Member]:
    """The members of a fleet as `state` left it."""
    by_key, members = {run.key: run for run in runs}, []
    for saved in map(dict, state["members"]):
        run, curve = by_key[saved.pop("key")], tuple(Evaluation(**point) for point in saved.pop("curve"))
        members.append(Member(run, curve=curve, **saved))
    return members


def owes_a_point(member: Member) -> bool:
    """Whether a member is to be evaluated at its age, and was not yet."""
    recipe, seen = member.run.recipe, member.curve[-1].epoch if member.curve else 0
    due = member.epoch % recipe.evaluate_every == 0 or member.epoch >= recipe.epochs
    return due and member.epoch > seen


def outcome(member: Member, parameters: int, device: str, alone: str = "") -> Outcome:
    """What became of a member that is over. alone: said of a run that no fleet could take."""
    run = member.run
    common = (member.epoch, member.curve, parameters, member.wall_seconds, device)
    if not member.alive:
        message = f"a loss was not finite by epoch {member.epoch}"
        return Outcome(run.key, "diverged", None, None, None, *common, message)
    if member.dropped:
        return Outcome(run.key, "dropped", None, None, None, *common, member.dropped)
    return Outcome(run.key, "finished", *select(member.curve), *common, alone)


def loss_and_predictions(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """(mean cross-entropy over scored positions [F], the likeliest class [F, B, T]).

    logits [F, B, T, V] in any precision, targets [F, B, T] with -100 where nothing is scored.
    """
    wide = logits.float() if logits.dtype != torch.float64 else logits
    scored = targets != IGNORED
    wanted = wide.gather(-1, targets.clamp_min(0)[..., None]).squeeze(-1)
    losses = torch.where(scored, wide.logsumexp(-1) - wanted, 0.0)
    return losses.sum((1, 2)) / scored.sum((1, 2)).clamp_min(1), wide.argmax(-1)
