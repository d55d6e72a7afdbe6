"""The engine stays readable: no function of it is long, and none has many branches."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import train.engine

MOST_LINES, MOST_BRANCHES = 40, 12
FILES = sorted(Path(train.engine.__file__ or "").parent.glob("*.py"))
Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions(source: str) -> list[Function]:
    return [node for node in ast.walk(ast.parse(source)) if isinstance(node, Function)]


def lines(function: Function) -> int:
    return (function.end_lineno or function.lineno) - function.lineno + 1


def branches(function: Function) -> int:
    """McCabe's number: 1, and one for each place where it may go either way; functions within count for themselves."""
    count, todo = 1, list(ast.iter_child_nodes(function))
    while todo:
        node = todo.pop()
        if isinstance(node, Function | ast.ClassDef):
            continue
        if isinstance(node, ast.If | ast.IfExp | ast.For | ast.While | ast.ExceptHandler | ast.Assert):
            count += 1
        elif isinstance(node, ast.BoolOp):
            count += len(node.values) - 1
        elif isinstance(node, ast.comprehension):
            count += 1 + len(node.ifs)
        elif isinstance(node, ast.Match):
            count += len(node.cases)
        todo += ast.iter_child_nodes(node)
    return count


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_no_function_is_long_or_branches_often(path: Path) -> None:
    for function in functions(path.read_text()):
        assert lines(function) <= MOST_LINES, f"{function.name} has {lines(function)} lines"
        assert branches(function) <= MOST_BRANCHES, f"{function.name} has {branches(function)} branches"


def test_the_count_counts() -> None:
    source = """
def f(x):
    if x and x > 1 or x < -3:
        return [y for y in x if y]
    for _ in x:
        try:
            assert x
        except ValueError:
            return 1 if x else 2
    def inner(z):
        while z: z -= 1
"""
    outer, inner = functions(source)
    # 1 + if + and + or + comprehension with its if + for + assert + except + conditional expression
    assert (branches(outer), branches(inner)) == (10, 2)
    assert (lines(outer), lines(inner)) == (10, 2)
    assert len(FILES) > 10
