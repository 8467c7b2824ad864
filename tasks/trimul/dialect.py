"""The part of Python in which a submission's work can be counted, checked by the judge on the source.

Without a GPU the work is counted in the process that runs the submission, so only a program that cannot reach the
counters is believed: names and attributes from a list, no classes, no state that lives on between calls, nothing that
Python could compute behind the counters' back. What lies outside is judged all the same; its work is not counted.
"""

import ast
import builtins
from collections.abc import Iterator

MODULES = {"math", "torch", "torch.nn.functional", "triton", "triton.language"}
BUILTINS = {"range", "len", "min", "max", "abs", "int", "float", "bool", "tuple", "dict", "print", "None"}
_WORDS = """
float16 bfloat16 float32 int32 int64 dtype device shape ndim size stride numel
empty empty_like zeros zeros_like ones full copy_ to float half contiguous cat stack
view reshape permute transpose unsqueeze squeeze expand flatten chunk split narrow select T mT
add add_ sub mul mul_ div matmul mm bmm addmm baddbmm einsum linear layer_norm sigmoid sigmoid_ exp rsqrt sqrt square
sum mean var var_mean where clamp set_float32_matmul_precision
jit cdiv next_power_of_2 constexpr program_id num_programs arange load store dot trans broadcast_to static_range range
minimum maximum multiple_of max_contiguous
ceil floor log2 pi prod
"""
ATTRIBUTES = frozenset(_WORDS.split())
_STATEMENTS = (ast.Assign, ast.AnnAssign, ast.AugAssign, ast.Return, ast.If, ast.For, ast.While, ast.Expr, ast.Assert,
               ast.Pass, ast.Break, ast.Continue)  # fmt: skip
_EXPRESSIONS = (ast.Call, ast.Attribute, ast.Name, ast.Constant, ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare,
                ast.IfExp, ast.Tuple, ast.List, ast.Dict, ast.Subscript, ast.Slice, ast.Lambda,
                ast.Starred)  # fmt: skip
_SMALL_PRINT = (ast.expr_context, ast.operator, ast.unaryop, ast.boolop, ast.cmpop, ast.keyword, ast.arguments, ast.arg)


def fault(source: bytes) -> str:
    """Return the place where the program leaves the dialect, as ``line 12: ...``; empty where it does not."""
    try:
        module = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return f"it does not parse: {getattr(error, 'msg', None) or type(error).__name__}"
    try:
        return next(_faults(module), "")
    except RecursionError:
        return "it is nested too deeply"


def _faults(module: ast.Module) -> Iterator[str]:
    defined: set[str] = set()
    for statement in module.body:
        match statement:
            case ast.Import(names=names):
                for name in names:
                    if name.name not in MODULES or (not name.asname and "." in name.name):
                        yield _at(statement, f"import {name.name}", f"allowed: {', '.join(sorted(MODULES))}; with `as`")
                    defined.add(name.asname or name.name)
            case ast.FunctionDef(name=name):
                defined.add(name)
            case ast.Assign(targets=[ast.Name(id=name)], value=value) if _plain(value):
                defined.add(name)
            case ast.Expr(value=ast.Constant()):
                pass
            case _:
                yield _at(statement, type(statement).__name__, "a module holds imports, plain constants and functions")
    for statement in module.body:
        if isinstance(statement, ast.FunctionDef):
            yield from _of_function(statement, defined)
    if any(name in dir(builtins) or name.startswith("__") for name in defined):
        yield "a module-level name hides a builtin"


def _of_function(function: ast.FunctionDef, defined: set[str]) -> Iterator[str]:
    kernel = any(_is_jit(decorator) for decorator in function.decorator_list)
    if any(not _is_jit(decorator) for decorator in function.decorator_list):
        yield _at(function, "a decorator", "allowed: triton.jit")
    if not all(_plain(value) for value in (*function.args.defaults, *filter(None, function.args.kw_defaults))):
        yield _at(function, "a default value", "allowed: plain constants")
    local = {node.arg for node in ast.walk(function) if isinstance(node, ast.arg)}
    local |= {node.id for node in ast.walk(function) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    annotations = [arg.annotation for arg in ast.walk(function.args) if isinstance(arg, ast.arg) and arg.annotation]
    parts = [node for part in (*function.body, *annotations) for node in ast.walk(part)]
    for node in parts:
        yield from _of_node(node, local | defined, kernel)


def _of_node(node: ast.AST, names: set[str], kernel: bool) -> Iterator[str]:
    if not isinstance(node, (*_STATEMENTS, *_EXPRESSIONS, *_SMALL_PRINT)):
        yield _at(node, type(node).__name__, "no such construct is counted")
    match node:
        case ast.Attribute(attr=name):
            if name not in ATTRIBUTES:
                yield _at(node, f".{name}", "not among the names that are counted")
            if not isinstance(node.ctx, ast.Load):
                yield _at(node, f".{name} =", "attributes cannot be set")
        case ast.Name(id=name, ctx=ast.Load()) if name not in names and name not in BUILTINS:
            yield _at(node, name, "no such name in the program")
        case ast.Name(id=name, ctx=ast.Store()) if name in dir(builtins) or name.startswith("__"):
            yield _at(node, name, "hides a builtin")
        case ast.Subscript(ctx=ast.Store()) if kernel:
            yield _at(node, "an item is set", "a kernel keeps no state but in memory")
        case ast.Constant(value=str() as text) if "__" in text:
            yield _at(node, "a text with __", "none is needed")


def _plain(value: ast.expr) -> bool:
    """Return True for a number, a text, or a tuple of such, which cannot change."""
    match value:
        case ast.Constant():
            return True
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return _plain(operand)
        case ast.Tuple(elts=items):
            return all(_plain(item) for item in items)
    return False


def _is_jit(decorator: ast.expr) -> bool:
    return ast.unparse(decorator) == "triton.jit"


def _at(node: ast.AST, what: str, why: str) -> str:
    return f"line {getattr(node, 'lineno', 0)}: {what} ({why})"
