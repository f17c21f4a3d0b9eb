"""Training processes that stand by: all that needs no plan is done before there is one.

A training process executes the code of rules, and so is used for one training. Before its first step it
imports PyTorch and its compiler and starts the device's driver, which takes longer than the way from there
to the first step where compiled code is kept. While a candidate is proposed and verified, nobody waits for
that.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor

from archer.fleet.process import Plan, Process, Start, training_process

Place = tuple[str, str, int]
"""Device, scratch folder, threads: what a process must be told before it has its plan."""


class Standby:
    """Processes for the places of a plan, each handed out once. Closing it ends those that nobody took."""

    def __init__(self, start: Start) -> None:
        self._start = start
        self._waiting: dict[Place, Future[Process]] = {}
        self._starter = ThreadPoolExecutor(max_workers=1, thread_name_prefix="archer-standby")

    def ready(self, plan: Plan, most: int | None = None) -> None:
        """Starts a process for every place, or the first so many, that has none, in the background."""
        for place, device in enumerate(plan.places[:most]):
            key = self._key(plan, place)
            if key not in self._waiting:
                command = training_process(plan, place)
                scratch, gpu = plan.scratch_of(place), device.startswith("cuda")
                scratch.mkdir(parents=True, exist_ok=True)
                self._waiting[key] = self._starter.submit(self._start, command, scratch, gpu)

    def take(self, plan: Plan, place: int) -> Process | None:
        """The process that stands by for a place, now the caller's; None where there is none. Raises what
        kept it from being started."""
        waiting = self._waiting.pop(self._key(plan, place), None)
        return waiting.result() if waiting else None

    def close(self) -> None:
        """Ends whoever still waits."""
        self._starter.shutdown(cancel_futures=True)
        for waiting in self._waiting.values():
            if not waiting.cancelled() and waiting.exception() is None:
                waiting.result().kill()
                waiting.result().end()
        self._waiting.clear()

    @staticmethod
    def _key(plan: Plan, place: int) -> Place:
        return plan.places[place], str(plan.scratch_of(place)), plan.threads


def prepare(device: str) -> None:
    """Imports what training needs; starts a GPU, and has PyTorch compile one small function for it, so that
    whatever is looked up on first use is looked up."""
    import torch

    import archer.fleet.train  # noqa: F401  for what it imports
    from archer.fleet.compile import compiler, fixed_parts
    from archer.rules.algebra import enable_kernels

    if torch.device(device).type != "cuda":
        return
    torch.cuda.set_device(torch.device(device).index or 0)
    enable_kernels()
    compiler()
    fixed_parts()

    def small(x: torch.Tensor) -> torch.Tensor:
        return (x @ x).relu().sum()

    x = torch.ones(16, 16, device=device, requires_grad=True)
    torch.compile(small, dynamic=False)(x).backward()
    torch.cuda.synchronize(device)
