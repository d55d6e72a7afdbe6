"""The blocks of a page of Markdown: fenced ones, and lines that are indented by four spaces or more.

A block is Python, commands of a shell, data (JSON, YAML), another language, or text: an equation, a table, output.
Fences say which; of indented blocks `kind_of` tells. A comment above a block says why nobody runs it:

    <!-- not executed: needs a GPU -->
"""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

#: what may stand in such a comment
REASONS = (
    "another language",
    "needs a GPU",
    "needs several GPUs",
    "needs several hosts",
    "needs Docker",
    "needs another program",
    "needs published weights",
    "installs packages",
    "orders a running service",
)

FENCES = {"python": "python", "bash": "shell", "json": "data", "yaml": "data"}
PROGRAMS = (
    "guard|python|python3|pip|make|git|cd|export|source|docker|podman|kubectl|helm|systemctl|bentoml|torchrun|accelerate"
    "|curl|wget|duckdb|kill|trtexec|sudo|apt|npm|npx|g\\+\\+|cmake"
)
COMMAND = re.compile(rf"(\$ )?([A-Z_]+=\S* )*({PROGRAMS})(\s|$)|.*\s--[a-z]|\$ ")
LIKE_PYTHON = re.compile(
    r"\s*(>>> |import \w|from [\w.]+ import|(async )?def \w+\(|class \w+[(:]|(with|for|if|while) .*:$|@\w|"
    r"([\w.]+, )*[\w.]+ = [\w.]+\(|(guard|monitor|service|client)\.\w+)"
)
MARK = re.compile(r"\s*<!-- not executed: (.+?) -->\s*$")
FENCE = re.compile(r"\s*```(\S*)")


@dataclass(frozen=True)
class Block:
    """`line` counts from one; `mark` is the reason in the comment above, which is line `mark_line`."""

    page: str
    line: int
    kind: str
    text: str
    mark: str | None = None
    mark_line: int | None = None

    @property
    def runs(self) -> bool:
        return self.kind in ("python", "shell", "data") and self.mark is None

    def __str__(self) -> str:
        return f"{self.page}:{self.line} {self.text.strip().splitlines()[0].strip()[:60]}"


def kind_of(text: str) -> str:
    """What an indented block is: "python", "shell", "text", or "broken": like Python, and none.

    Python is what parses and calls, imports or defines something. A line that begins with a program's name, or has an
    option of two dashes, makes a block a shell's.
    """
    if _is_python(text):
        return "python"
    lines = [line for line in text.splitlines() if line.strip()]
    if any(COMMAND.match(line.strip()) for line in lines):
        return "shell"
    return "broken" if any(LIKE_PYTHON.match(line) for line in lines) else "text"


def blocks(page: Path, name: str) -> list[Block]:
    """All of a page, in order; an indented block of Python and then commands is two."""
    lines = page.read_text(encoding="utf-8").splitlines()
    found: list[Block] = []
    for start, end, language in _spans(lines):
        row = next((row for row in range(start - 1, -1, -1) if lines[row].strip()), 0)
        marked = MARK.match(lines[row]) if row < start else None
        mark = (marked.group(1), row + 1) if marked else (None, None)
        if language is None or language == "":
            inner = lines[start:end] if language is None else lines[start + 1 : end - 1]
            first = start + (1 if language is None else 2)
            found += [Block(name, n, kind_of(text), text, *mark) for n, text in _pieces(inner, first)]
        else:
            text = textwrap.dedent("\n".join(lines[start + 1 : end - 1]))
            found.append(Block(name, start + 2, FENCES.get(language, f"language {language}"), text, *mark))
    return found


def commands(block: Block) -> Iterator[Block]:
    """Its commands, one a block; where some lines begin with ``$``, the others are what was answered."""
    prompt = any(line.startswith("$ ") for line in block.text.splitlines())
    joined = ""
    for number, line in enumerate(block.text.splitlines(), block.line):
        if line.endswith("\\"):
            joined += line[:-1] + " "
            continue
        line, joined = joined + line, ""
        if line.strip() and not line.startswith("#") and line.startswith("$ ") == prompt:
            yield Block(block.page, number, "shell", line.removeprefix("$ ").strip(), block.mark, block.mark_line)


def marks(page: Path) -> list[str]:
    return [found.group(1) for line in page.read_text(encoding="utf-8").splitlines() if (found := MARK.match(line))]


def _spans(lines: list[str]) -> Iterator[tuple[int, int, str | None]]:
    """First and last line (not included) of each block, and the language of a fence; None: indented."""
    row = 0
    while row < len(lines):
        fence = FENCE.match(lines[row])
        end = row + 1
        if fence:
            while end < len(lines) and not FENCE.match(lines[end]):
                end += 1
            yield row, end + 1, fence.group(1)
            row = end + 1
        elif _indented(lines[row]) and (row == 0 or not lines[row - 1].strip()):
            while end < len(lines) and (_indented(lines[end]) or not lines[end].strip()):
                end += 1
            yield row, end, None
            row = end
        else:
            row = end


def _indented(line: str) -> bool:
    return line.startswith("    ") and bool(line.strip())


def _pieces(lines: list[str], first: int) -> Iterator[tuple[int, str]]:
    """Line and text: the whole where it is Python, else what empty lines divide."""
    text = textwrap.dedent("\n".join(lines)).rstrip()
    if _is_python(text):
        yield first, text
        return
    for piece in re.finditer(r"(?:.*\S.*(?:\n|$))+", text):
        yield first + text.count("\n", 0, piece.start()), piece.group()


def _is_python(text: str) -> bool:
    if ">>> " in text:
        return True
    try:
        tree = ast.parse(text)
    except SyntaxError:
        return False
    acts = (ast.Call, ast.Import, ast.ImportFrom, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return any(isinstance(node, acts) for node in ast.walk(tree))
