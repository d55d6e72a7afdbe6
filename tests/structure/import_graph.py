"""Which file imports which, read from the source: at module level and inside functions, and for types alone."""

from __future__ import annotations

import ast
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]

Edges = dict[str, set[str]]


@dataclass
class Graph:
    """Files by their path from the root; `runtime` and `types` map an importer to what it imports."""

    runtime: Edges = field(default_factory=dict)
    types: Edges = field(default_factory=dict)

    def cycles(self) -> list[list[str]]:
        """The shortest cycle of every group of files that reach each other at run time, first file repeated."""
        left, found = set(self.runtime), []
        for file in sorted(self.runtime):
            if file in left and (cycle := self._cycle_through(file)):
                group = {f for f in left if _path(self.runtime, file, f) and _path(self.runtime, f, file)} | {file}
                found.append(min((self._cycle_through(f) or cycle for f in sorted(group)), key=len))
                left -= group
        return found

    def _cycle_through(self, file: str) -> list[str] | None:
        paths = [_path(self.runtime, imported, file) for imported in sorted(self.runtime[file])]
        shortest = min((p for p in paths if p), key=len, default=None)
        return [file, *shortest] if shortest else None

    def closing_types(self) -> set[tuple[str, str]]:
        """The type-only imports that would close a cycle if they ran."""
        pairs = ((file, other) for file, others in self.types.items() for other in others)
        return {(file, other) for file, other in pairs if _path(self.runtime, other, file)}


def _path(edges: Edges, start: str, end: str) -> list[str] | None:
    """The shortest way from `start` to `end`, both named; [start] where they are one."""
    before: dict[str, str] = {}
    queue = deque([start])
    while queue:
        file = queue.popleft()
        if file == end:
            way = [file]
            while way[-1] != start:
                way.append(before[way[-1]])
            return way[::-1]
        for imported in sorted(edges.get(file, ())):
            if imported != start and imported not in before:
                before[imported] = file
                queue.append(imported)
    return None


def import_graph(*folders: str, root: Path = ROOT) -> Graph:
    """The imports among the files of some top folders."""
    files = {p.relative_to(root) for folder in folders for p in sorted((root / folder).rglob("*.py"))}
    modules = {".".join(p.with_suffix("").parts).removesuffix(".__init__"): p.as_posix() for p in files}
    graph = Graph()
    for module, path in modules.items():
        package = module if path.endswith("__init__.py") else module.rpartition(".")[0]
        graph.runtime[path], graph.types[path] = set(), set()
        for names, for_types in _imported(ast.parse((root / path).read_text()), package):
            target = next((modules[name] for name in names if name in modules), None)
            if target is not None and target != path:
                (graph.types if for_types else graph.runtime)[path].add(target)
        graph.types[path] -= graph.runtime[path]
    return graph


def _imported(node: ast.AST, package: str, for_types: bool = False) -> Iterator[tuple[list[str], bool]]:
    """What is imported below a node, each as the modules it may mean, the likelier first; and whether for types only.

    ``from pkg import name`` means pkg/name.py where there is one, else pkg/__init__.py.
    """
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            for statement in child.body:
                yield from _imported(ast.Module([statement], []), package, True)
            for statement in child.orelse:
                yield from _imported(ast.Module([statement], []), package, for_types)
        elif isinstance(child, ast.Import):
            for alias in child.names:
                yield [alias.name], for_types
        elif isinstance(child, ast.ImportFrom):
            base = child.module or ""
            if child.level:
                parents = package.split(".")
                base = ".".join([*parents[: len(parents) - child.level + 1], *filter(None, [child.module])])
            for alias in child.names:
                yield [f"{base}.{alias.name}", base], for_types
        else:
            yield from _imported(child, package, for_types)
