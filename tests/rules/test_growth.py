"""A rule's work grows linearly with the sequence: counted, not timed.

Counted are the numbers that all operations of a forward and backward pass write. A product of matrices is
part of it by what it gives; inside a chunk its inner size does not change with the length.
"""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from archer.rules import get_rule, rule_names
from archer.rules.inputs import random_inputs

CHUNKS = (4, 8, 16)


class Written(TorchDispatchMode):
    """Numbers and operations: what is written to memory of its own, views left out."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = self.operations = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        given = {x.untyped_storage().data_ptr() for x in tree_leaves((args, kwargs)) if torch.is_tensor(x)}
        for x in tree_leaves(result):
            if torch.is_tensor(x) and x.untyped_storage().data_ptr() not in given:
                self.numbers += x.numel()
                self.operations += 1
        return result


def written(name: str, chunks: int) -> tuple[int, int]:
    rule = get_rule(name)
    inputs = random_inputs(rule, leading=(1, 2), length=8 * chunks, dtype=torch.float32)
    inputs = inputs.map(lambda x: x.requires_grad_())
    with Written() as seen:
        o, state = inputs.run(rule, chunk_size=8)
        (o.sum() + state["S"].sum()).backward()
    return seen.numbers, seen.operations


@pytest.mark.parametrize("name", rule_names())
def test_twice_the_length_is_twice_the_work(name):
    numbers, operations = zip(*(written(name, chunks) for chunks in CHUNKS), strict=True)
    for counted in (numbers, operations):
        first, second = counted[1] - counted[0], counted[2] - counted[1]
        assert second == 2 * first, f"{counted} for {CHUNKS} chunks is no straight line"
