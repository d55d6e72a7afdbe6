"""Imports run one way: guard <- train, export, serving; and no file waits for itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.structure.import_graph import Graph, import_graph

# A type-only import that would close a circle if it ran: importer -> imported.
TYPES_ONLY = frozenset(
    {
        ("guard/artefact/run_folder.py", "guard/detector.py"),  # writes a Guard, whose methods read and write
        ("guard/artefact/save.py", "guard/detector.py"),
        ("guard/evaluation/table.py", "guard/evaluation/result.py"),  # a result prints itself as a table
    }
)

# What public functions return, for type checkers: at run time guard asks `sibling` for it, by a string.
RETURNED = {
    ("guard/api/benchmarking.py", "train/benchmark/expected.py"),
    ("guard/api/benchmarking.py", "train/benchmark/results.py"),
    ("guard/api/synthesis.py", "train/outliers/store/store.py"),
    ("guard/api/using.py", "export/parity.py"),
}

ONE_WAY = {  # whose files must never import whose
    "guard": ("train", "export", "serving", "benchmarks"),
    "train": ("export", "serving", "benchmarks"),
    "export": ("serving", "benchmarks"),
    "serving": ("benchmarks",),
}


@pytest.fixture(scope="module")
def graph() -> Graph:
    return import_graph("guard", "train", "export", "serving", "benchmarks")


def test_no_file_imports_itself_through_others(graph: Graph) -> None:
    cycles = graph.cycles()
    assert not cycles, "imported in a circle:\n" + "\n".join(" -> ".join(cycle) for cycle in cycles)


def test_only_the_listed_imports_for_types_would_close_a_circle(graph: Graph) -> None:
    found = graph.closing_types()
    assert found - TYPES_ONLY == set(), "these close a circle; import from further down, or list them with a reason"
    assert TYPES_ONLY - found == set(), "these are no longer needed in the list"


@pytest.mark.parametrize("top", ONE_WAY)
def test_imports_run_one_way(top: str, graph: Graph) -> None:
    def backwards(edges: dict[str, set[str]]) -> set[tuple[str, str]]:
        pairs = {(file, other) for file, others in edges.items() for other in others}
        return {(f, other) for f, other in pairs if f.startswith(f"{top}/") and other.split("/")[0] in ONE_WAY[top]}

    assert backwards(graph.runtime) == set()
    assert backwards(graph.types) == {pair for pair in RETURNED if pair[0].startswith(f"{top}/")}


def _written(root: Path, **sources: str) -> None:
    for name, source in sources.items():
        path = root / "pkg" / f"{name}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(source)


def test_the_walk_sees_lazy_relative_and_submodule_imports(tmp_path: Path) -> None:
    _written(
        tmp_path,
        __init__="from .a import thing\n",
        a="def thing():\n    from . import b\n    return b\n",
        b="import pkg.c as c\n",
        c="from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .a import thing\nelse:\n    from . import d\n",
        d="class D:\n    def e(self):\n        from pkg import thing\n",
    )
    graph = import_graph("pkg", root=tmp_path)
    assert graph.runtime["pkg/a.py"] == {"pkg/b.py"}
    assert graph.runtime["pkg/c.py"] == {"pkg/d.py"}
    assert graph.runtime["pkg/d.py"] == {"pkg/__init__.py"}
    assert graph.closing_types() == {("pkg/c.py", "pkg/a.py")}
    (cycle,) = graph.cycles()
    assert len(cycle) == 6
    assert set(cycle) == {f"pkg/{name}.py" for name in ("__init__", "a", "b", "c", "d")}


def test_each_circle_is_shown_by_its_shortest_way(tmp_path: Path) -> None:
    _written(
        tmp_path,
        a="from . import b\n",
        b="from . import c\n",
        c="from . import a, b\n",
        x="from . import y\n",
        y="from . import x, a\n",
    )
    assert import_graph("pkg", root=tmp_path).cycles() == [
        ["pkg/b.py", "pkg/c.py", "pkg/b.py"],
        ["pkg/x.py", "pkg/y.py", "pkg/x.py"],
    ]
