"""The language wall: a rule file is read as a syntax tree, and only tensor mathematics is let through.

Nothing is executed or imported here. Everything that is not on a list is refused: syntax, imports, names
and attributes. What passes can neither open, start, load, hook nor keep anything; what it can still do is
loop for ever or fill the memory, which is the business of the process wall (`archer.verify.contain`).
"""

from __future__ import annotations

import ast
import builtins
import os
import re
import stat
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from archer.errors import UserError

SOURCE_BYTES = 64 * 1024
NODES = 20_000
INTEGER = 2**31

BUILTINS = frozenset(
    "abs bool dict enumerate float int len list max min range reversed round sum tuple zip".split()  # noqa: SIM905
)
"""Python's own functions that a rule may call."""

DECLARATIONS = frozenset({"Parameter", "Feature", "Carried", "Draw", "Layer"})
RULE_NAMES = DECLARATIONS | {
    "wy",
    "invert_unit_lower",
    "invert_unit_lower_plainly",
    "rotate",
    "faded_products",
}
"""What a rule may import from `archer.rules`."""

MATHEMATICS = frozenset(
    """
    abs absolute acos acosh add addcdiv addcmul addmm allclose amax amin aminmax angle arange argmax
    argmin argsort asin asinh atan atan2 atanh baddbmm bmm bool broadcast_tensors broadcast_to bucketize
    cat cdist ceil celu chunk clamp clamp_max clamp_min clip clone complex concat conj contiguous
    copysign cos cosh cosine_similarity count_nonzero cross cummax cummin cumprod cumsum detach diag
    diag_embed diagonal diff dim dist div divide dot einsum elu eps eq equal erf erfc erfinv exp exp2
    expand expand_as expm1 eye finfo fix flatten flip float floor floor_divide fmax fmin fmod frac full
    full_like gather ge gelu ger glu greater greater_equal group_norm gt hardsigmoid hardswish hardtanh
    heaviside hypot imag index_add index_select inner int inverse is_complex is_floating_point isclose
    isfinite isinf isnan isneginf isposinf kron kthvalue layer_norm le leaky_relu lerp less less_equal
    linear linspace log log10 log1p log2 log_softmax logaddexp logaddexp2 logcumsumexp logical_and
    logical_not logical_or logical_xor logit logsigmoid logspace logsumexp long lt mH mT T masked_fill
    masked_scatter masked_select matmul matrix_exp matrix_power max maximum mean median meshgrid min
    minimum mish mm moveaxis movedim mul multiply mv mvlgamma nan_to_num nanmean nansum narrow ndim ne
    neg negative new_empty new_full new_ones new_tensor new_zeros norm normalize not_equal numel one_hot
    ones ones_like outer pad permute pinverse polar positive pow prelu prod quantile real reciprocal
    relu relu6 remainder renorm repeat repeat_interleave reshape reshape_as resolve_conj rms_norm roll
    rot90 round rsqrt scatter scatter_add searchsorted select selu sgn shape sigmoid sign signbit silu
    sin sinc sinh size slogdet softmax softmin softplus softshrink softsign solve_triangular sort
    special split split_with_sizes sqrt square squeeze stack std std_mean sub subtract sum svd swapaxes
    swapdims t take take_along_dim tan tanh tanhshrink tensor tensor_split tensordot threshold tile tiny
    to topk trace transpose trapezoid triangular_solve tril tril_indices triu triu_indices true_divide
    trunc type_as unbind unfold unflatten unsqueeze var var_mean vander vdot vecdot vector_norm view
    view_as view_as_complex view_as_real where xlogy zeros zeros_like cholesky cholesky_solve det eigh
    eigvalsh inv lstsq lu_factor matrix_norm pinv qr solve pairwise_distance
    scaled_dot_product_attention append device dtype get indices items keys values resolution
    smallest_normal nn functional linalg special bfloat16 complex64 complex128 double float16 float32
    float64 half int8 int16 int32 int64 uint8 e inf nan pi tau Tensor
    """.split()  # noqa: SIM905 - eleven lines of words read better than three hundred of quotes
)
"""Attributes that a rule may ask for, of torch, of a tensor, or of a dictionary."""

PLAIN_MATH = frozenset(
    """
    acos acosh asin asinh atan atan2 atanh cbrt ceil comb copysign cos cosh degrees dist e erf erfc exp
    exp2 expm1 fabs floor fmod frexp fsum gamma gcd hypot inf isclose isfinite isinf isnan ldexp lgamma
    log log10 log1p log2 modf nan pi pow prod radians remainder sin sinh sqrt tan tanh tau trunc
    """.split()  # noqa: SIM905
)
"""What a rule may take from `math` (`factorial` and `perm` are not among them: they grow without bound)."""

MODULES = {
    "torch": MATHEMATICS,
    "torch.nn.functional": MATHEMATICS,
    "torch.nn": frozenset({"functional"}),
    "torch.linalg": MATHEMATICS,
    "math": PLAIN_MATH,
    "archer.rules": RULE_NAMES,
    "archer.rules.algebra": RULE_NAMES - DECLARATIONS,
    "__future__": frozenset({"annotations"}),
}
"""Modules that a rule may import, and what of each."""

WHOLE_MODULES = frozenset({"torch", "torch.nn.functional", "torch.linalg", "math"})
"""Modules that a rule may import as a whole; their attributes are on the lists above."""

ATTRIBUTES = MATHEMATICS | PLAIN_MATH

SYNTAX = (
    ast.Module, ast.FunctionDef, ast.arguments, ast.arg, ast.Return, ast.Assign, ast.AnnAssign, ast.If,
    ast.For,
    ast.Break, ast.Continue, ast.Pass, ast.Expr, ast.Import, ast.ImportFrom, ast.alias, ast.BinOp,
    ast.UnaryOp,
    ast.BoolOp, ast.Compare, ast.IfExp, ast.Call, ast.keyword, ast.Name, ast.Attribute, ast.Subscript,
    ast.Slice,
    ast.Constant, ast.Tuple, ast.List, ast.Dict, ast.Starred, ast.ListComp, ast.GeneratorExp, ast.DictComp,
    ast.comprehension, ast.operator, ast.unaryop, ast.boolop, ast.cmpop, ast.expr_context,
)  # fmt: skip
"""The nodes that a rule's syntax tree may be built from."""

HINTS: dict[type[ast.AST], str] = {
    ast.AugAssign: "`x += y` changes a tensor in place; write `x = x + y`",
    ast.While: "use `for i in range(n)`",
    ast.ClassDef: "write functions; declare with Parameter, Feature and Carried (an nn.Module is named as "
    "FILE.py:ClassName)",
    ast.Lambda: "write a function",
    ast.JoinedStr: "a slot needs no text",
    ast.NamedExpr: "assign on a line of its own",
    ast.Raise: "a slot computes; Archer checks",
    ast.Assert: "a slot computes; Archer checks",
}

_OUTSIDE_BUILTINS = (
    frozenset(dir(builtins)) | {"exit", "quit", "copyright", "credits", "license"}
) - BUILTINS
WRITING = frozenset({"out", "inplace"})
"""Arguments by which a function changes what it was given."""
_HIDDEN = {"\N{ZERO WIDTH SPACE}", "\N{ZERO WIDTH JOINER}", "\N{ZERO WIDTH NON-JOINER}", "\ufeff"}


class Refused(UserError):  # noqa: N818 - the language wall refuses; nothing went wrong in it
    """A source text that the language wall does not let through.

    line: where, counted from 1 (0: the file as a whole). reason: what was found and what to do.
    """

    def __init__(self, reason: str, line: int = 0, filename: str = "rule"):
        self.line, self.reason, self.filename = line, reason, filename
        super().__init__(f"{filename}{f', line {line}' if line else ''}: {reason}")


def load_source(path: Path | str) -> str:
    """The text of a rule file. Raises Refused unless it is a regular UTF-8 file of at most SOURCE_BYTES."""
    path = Path(path)
    name = str(path)
    try:
        if path.is_symlink():
            raise Refused("this is a symbolic link; give the file that it points to", filename=name)
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | getattr(os, "O_NOFOLLOW", 0))
    except FileNotFoundError:
        hint = "" if path.suffix else "; give a Python file, such as my_rule.py"
        raise Refused(f"there is no such file{hint}", filename=name) from None
    except OSError as error:
        raise Refused(f"cannot be opened: {error.strerror}", filename=name) from error
    try:
        kind = os.fstat(handle)
        if stat.S_ISDIR(kind.st_mode):
            raise Refused("this is a folder; give a Python file", filename=name)
        if not stat.S_ISREG(kind.st_mode):
            raise Refused("this is no regular file; give a Python file", filename=name)
        if kind.st_size > SOURCE_BYTES:
            raise Refused(_too_large(kind.st_size), filename=name)
        with os.fdopen(os.dup(handle), "rb") as file:
            raw = file.read(SOURCE_BYTES + 1)
    finally:
        os.close(handle)
    return _decode(raw, name)


def _decode(raw: bytes, filename: str) -> str:
    if len(raw) > SOURCE_BYTES:
        raise Refused(_too_large(len(raw)), filename=filename)
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise Refused("this is not UTF-8; save it as UTF-8", line, filename) from error


def _too_large(size: int) -> str:
    return f"it has {size:,} bytes, at most {SOURCE_BYTES:,} are read; a rule is a few lines"


def check_name(name: str) -> None:
    """Refuses a rule's name that could be a path or a markup: letters, digits, `_` and `-`, at most 80.

    Raises Refused.
    """
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,79}", name):
        raise Refused(
            f"the name {name[:80]!r}; a rule is named by letters, digits, `_` and `-`, at most 80 of them"
        )


def check_language(source: str, filename: str = "rule") -> None:
    """Refuses a source text that is anything but tensor mathematics.

    Raises Refused with the line and the reason. The text is parsed, never executed.
    """
    _check(_parse(source, filename), filename)


def check_top(source: str, filename: str = "rule") -> None:
    """Refuses a source text that does anything but declare while it is loaded; what its functions do is free.

    For a file whose language wall a person lifted: Archer's own process loads it to know its slots and
    parameters, and calls none of its functions. Raises Refused with the line and the reason.
    """
    tree = _parse(source, filename)
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            node.body = [ast.copy_location(ast.Return(None), node)]
    try:
        _check(tree, filename)
    except Refused as refused:
        raise Refused(
            f"{refused.reason} (with --trust too: Archer's own process reads the top of the file; what else "
            "it does belongs into a function)",
            refused.line,
            filename,
        ) from None


def _check(tree: ast.Module, filename: str) -> None:
    nodes = list(ast.walk(tree))
    if len(nodes) > NODES:
        raise Refused(f"it has {len(nodes):,} syntax nodes, at most {NODES:,} are read", filename=filename)
    documentation = {id(text) for text in _docstrings(tree)}
    problems = [*_problems(nodes, documentation), *_at_top_level(tree)]
    if problems:
        node, reason = min(problems, key=lambda problem: getattr(problem[0], "lineno", SOURCE_BYTES))
        raise Refused(reason, getattr(node, "lineno", 0), filename)


def _parse(source: str, filename: str) -> ast.Module:
    size = len(source.encode("utf-8", errors="surrogatepass"))
    if size > SOURCE_BYTES:
        raise Refused(_too_large(size), filename=filename)
    for number, line in enumerate(source.splitlines(), start=1):
        hidden = [
            c for c in line if c in _HIDDEN or _is_direction_mark(c) or (ord(c) < 32 and c not in "\t\f")
        ]
        if hidden:
            raise Refused(f"hidden character U+{ord(hidden[0]):04X}; remove it", number, filename)
    try:
        return ast.parse(source)
    except SyntaxError as error:
        raise Refused(f"this is not Python: {error.msg}", error.lineno or 0, filename) from error
    except (RecursionError, MemoryError, ValueError) as error:
        raise Refused(f"Python cannot read it: {error or 'nested too deeply'}", filename=filename) from error


def _is_direction_mark(character: str) -> bool:
    marks = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
    return unicodedata.bidirectional(character) in marks


def _docstrings(tree: ast.Module) -> Iterator[ast.Constant]:
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.FunctionDef)) and node.body:
            first = node.body[0]
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                yield first.value


Problem = tuple[ast.AST, str]


def _problems(nodes: list[ast.AST], documentation: set[int]) -> Iterator[Problem]:
    """Everything in the tree that is on no list, wherever it stands."""
    modules = {
        alias.asname or alias.name.split(".")[0]: alias.name
        for node in nodes
        if isinstance(node, ast.Import)
        for alias in node.names
    }
    known = _bound_names(nodes) | BUILTINS | {"True", "False", "None"}
    for node in nodes:
        if not isinstance(node, SYNTAX):
            hint = HINTS.get(type(node))
            yield node, f"{_word(node)} is not let through{f'; {hint}' if hint else ''}"
        elif isinstance(node, ast.Import):
            yield from _import_problems(node)
        elif isinstance(node, ast.ImportFrom):
            yield from _import_from_problems(node)
        elif isinstance(node, ast.Attribute):
            yield from _attribute_problems(node, modules)
        elif isinstance(node, ast.Name):
            yield from _name_problems(node, node.id, known)
        elif isinstance(node, ast.arg):
            yield from _name_problems(node, node.arg, known)
        elif isinstance(node, ast.keyword):
            if node.arg is None:
                yield node, "`**` in a call is not let through; name each argument"
            elif node.arg.startswith("_"):
                yield node, f"the argument `{node.arg}` is not let through"
            elif node.arg in WRITING:
                yield node, f"`{node.arg}` writes into a tensor that others read; keep what is returned"
        elif isinstance(node, ast.Compare):
            yield from _comparison_problems(node)
        elif isinstance(node, ast.FunctionDef):
            yield from _function_problems(node, known)
        elif isinstance(node, ast.Constant) and id(node) not in documentation:
            yield from _constant_problems(node)
        elif isinstance(node, ast.Expr) and not isinstance(node.value, (ast.Constant, ast.Call)):
            yield (
                node,
                "a line that computes and keeps nothing; put `return` or a name in front, or remove it",
            )
        elif isinstance(node, ast.Subscript) and not isinstance(node.ctx, ast.Load):
            yield node, "writing into a tensor or dictionary is not let through; use torch.where or torch.cat"


def _comparison_problems(node: ast.Compare) -> Iterator[Problem]:
    for part in (node.left, *node.comparators):
        if isinstance(part, ast.Attribute) and part.attr in ("device", "dtype"):
            yield (
                node,
                f"comparing a `{part.attr}`; a rule computes the same on every device and in every precision",
            )


def _bound_names(nodes: list[ast.AST]) -> set[str]:
    bound: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            bound.add(node.id)
        elif isinstance(node, ast.arg):
            bound.add(node.arg)
        elif isinstance(node, ast.FunctionDef):
            bound.add(node.name)
        elif isinstance(node, ast.alias):
            bound.add(node.asname or node.name.split(".")[0])
    return bound


def _word(node: ast.AST) -> str:
    return f"`{type(node).__name__}`"


def _import_problems(node: ast.Import) -> Iterator[Problem]:
    for alias in node.names:
        if alias.name not in WHOLE_MODULES:
            yield node, f"import of `{alias.name}`; a rule may import {', '.join(sorted(WHOLE_MODULES))}"
        if alias.asname is not None:
            yield from _name_problems(node, alias.asname, {alias.asname})


def _import_from_problems(node: ast.ImportFrom) -> Iterator[Problem]:
    module = node.module or ""
    if node.level or module not in MODULES:
        where = "." * node.level + module
        yield node, f"import from `{where}`; a rule may import from {', '.join(sorted(MODULES))}"
        return
    for alias in node.names:
        if alias.name not in MODULES[module]:
            yield node, f"`{alias.name}` of `{module}` is not let through"
        if alias.asname is not None:
            yield from _name_problems(node, alias.asname, {alias.asname})


def _attribute_problems(node: ast.Attribute, modules: dict[str, str]) -> Iterator[Problem]:
    if not isinstance(node.ctx, ast.Load):
        yield node, f"setting the attribute `{node.attr}` is not let through"
    elif node.attr.endswith("_") and node.attr.rstrip("_") in ATTRIBUTES and not node.attr.startswith("_"):
        yield node, f"`.{node.attr}` changes a tensor in place; use `.{node.attr.rstrip('_')}`"
    elif node.attr not in ATTRIBUTES:
        yield node, f"the attribute `{node.attr}` is not on the list of tensor mathematics"
    elif _module_of(node, modules) == "math" and node.attr not in PLAIN_MATH:
        yield node, f"`math.{node.attr}` is not let through"


def _module_of(node: ast.Attribute, modules: dict[str, str]) -> str | None:
    return modules.get(node.value.id) if isinstance(node.value, ast.Name) else None


def _name_problems(node: ast.AST, name: str, known: set[str]) -> Iterator[Problem]:
    if "__" in name:
        yield (
            node,
            f"the name `{name}` has two underscores in a row; Python's inner names are not let through",
        )
    elif name in _OUTSIDE_BUILTINS and name not in {"True", "False", "None"}:
        yield node, f"Python's own `{name}` is not let through"
    elif name not in known:
        yield node, f"`{name}` is nowhere defined in this file; import it or spell it as it was defined"


def _function_problems(node: ast.FunctionDef, known: set[str]) -> Iterator[Problem]:
    yield from _name_problems(node, node.name, known)
    if node.name in BUILTINS:
        yield node, f"a function named like Python's own `{node.name}`"
    if node.decorator_list:
        yield node, "decorators are not let through"
    if node.args.vararg or node.args.kwarg:
        yield node, "`*` and `**` among the arguments; a slot asks for what it needs by name"
    if getattr(node, "type_params", None):
        yield node, "type parameters are not let through"
    for default in (*node.args.defaults, *(d for d in node.args.kw_defaults if d is not None)):
        if not _is_number(default):
            yield default, "a default value must be a number, True, False or None"


def _is_number(node: ast.AST) -> bool:
    if isinstance(node, ast.UnaryOp):
        return _is_number(node.operand)
    return isinstance(node, ast.Constant) and not isinstance(node.value, (str, bytes))


def _constant_problems(node: ast.Constant) -> Iterator[Problem]:
    value = node.value
    if isinstance(value, bytes):
        yield node, "bytes are not let through"
    elif isinstance(value, str) and ("__" in value or "{" in value or "%" in value):
        yield node, "a text with `__`, `{` or `%` in it is not let through"
    elif isinstance(value, int) and not isinstance(value, bool) and abs(value) > INTEGER:
        yield node, f"a whole number beyond {INTEGER:,}"
    elif value is ... or value is None or isinstance(value, (str, int, float, complex)):
        return
    else:
        yield node, f"a constant of type {type(value).__name__}"


def _at_top_level(tree: ast.Module) -> Iterator[Problem]:
    """What runs while the file is loaded: imports, declarations, plain constants and functions; no more.

    No function of the file itself is called, under whatever name.
    """
    own = _bound_names([node for node in tree.body if not isinstance(node, (ast.Import, ast.ImportFrom))])
    own |= _bound_names(
        [n for node in tree.body if isinstance(node, (ast.Assign, ast.AnnAssign)) for n in ast.walk(node)]
    )
    for number, node in enumerate(tree.body):
        yield from _annotated_calls(node)
        if isinstance(node, (ast.Import, ast.ImportFrom, ast.FunctionDef)):
            continue
        if number == 0 and isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            continue
        value = node.value if isinstance(node, (ast.Assign, ast.AnnAssign)) else None
        targets = node.targets if isinstance(node, ast.Assign) else ()
        if any(isinstance(part, ast.Starred) for target in targets for part in ast.walk(target)):
            yield (
                node,
                "a starred name at the top of a file is a list, which could keep something between calls",
            )
        elif value is None:
            yield node, "at the top of a file stand imports, declarations, constants and functions only"
        else:
            yield from _constant_expression(value, own)


def _annotated_calls(node: ast.stmt) -> Iterator[Problem]:
    """Annotations at the top are evaluated while the file is loaded: calls in them."""
    annotations: list[ast.expr | None] = [node.annotation] if isinstance(node, ast.AnnAssign) else []
    if isinstance(node, ast.FunctionDef):
        arguments = (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
        annotations = [node.returns, *(argument.annotation for argument in arguments)]
    for annotation in annotations:
        for part in ast.walk(annotation) if annotation is not None else ():
            if isinstance(part, ast.Call):
                yield part, "a call in an annotation; write the plain name of a type"


def _constant_expression(value: ast.AST, own: set[str]) -> Iterator[Problem]:
    for node in ast.walk(value):
        if isinstance(node, ast.Call):
            plain = (DECLARATIONS | {"float", "int", "dict"}) - own
            allowed = (isinstance(node.func, ast.Name) and node.func.id in plain) or (
                isinstance(node.func, ast.Attribute) and node.func.attr in PLAIN_MATH
            )
            if not allowed:
                yield node, "at the top of a file only Parameter, Feature, Carried, Draw, Layer are called"
        elif isinstance(node, (ast.List, ast.Dict, ast.ListComp, ast.GeneratorExp, ast.DictComp)):
            yield (
                node,
                "a list or dictionary at the top of a file could keep something between calls; use a tuple",
            )
