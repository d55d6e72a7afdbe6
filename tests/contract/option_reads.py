"""Which options does the code read? A small type inference over the syntax trees of modules.

An attribute counts as a read where what stands before the dot is known to be a `Record`: ``self.options`` of a class
with `Options`, an argument or variable annotated with a record, a nested record of one of these, or a name bound to any
of them. So ``context.epochs`` is no read of an option ``epochs``. Validators check options; they do not read them.
Options that are copied into another record, or handed on to a synthesiser by name, are read where that record's are.
"""

from __future__ import annotations

import ast
import functools
import inspect
from collections.abc import Iterable, Iterator
from types import ModuleType
from typing import Any

from guard.record import Record

Types = frozenset[type[Record]]
Option = tuple[type[Record], str]  # the record that declares it, its name
NONE: Types = frozenset()
HANDS_ON = {
    "shared_options",
    "filled_store",
    "store",
}  # functions that give a record's options to a synthesiser by name


def owner(record: type[Record], name: str) -> Option:
    """The record that declares an option, for records that extend others."""
    declared = (kind for kind in record.__mro__ if name in vars(kind).get("__annotations__", {}))
    return next(declared, record), name


def parts(record: type[Record]) -> Iterator[type[Record]]:
    """A record and the records nested in it."""
    yield record
    for field in record.model_fields.values():
        for kind in _records_in(field.annotation):
            yield from parts(kind)


def unread(records: Iterable[type[Record]], modules: Iterable[ModuleType]) -> list[str]:
    """The options of `records` that no module reads, as "Record.option"."""
    found = reads(modules)
    wanted = {owner(kind, name) for record in records for kind in parts(record) for name in kind.model_fields}
    nested = {owner(kind, n) for record in records for kind in parts(record) for n in kind.model_fields
              if _records_in(kind.model_fields[n].annotation)}  # fmt: skip
    return sorted(f"{kind.__name__}.{name}" for kind, name in wanted - found - nested)


def reads(modules: Iterable[ModuleType]) -> set[Option]:
    """Every option that the modules read."""
    inference = _Inference()
    trees = [(module, ast.parse(inspect.getsource(module))) for module in modules]
    while True:  # until nothing more is learned about attributes
        known = inference.size()
        for module, tree in trees:
            inference.read_module(module, tree)
        if inference.size() == known:
            return inference.with_copies()


def _records_in(annotation: Any) -> list[type[Record]]:
    inside = getattr(annotation, "__args__", ())
    here = [annotation] if isinstance(annotation, type) and issubclass(annotation, Record) else []
    return here + [kind for argument in inside for kind in _records_in(argument)]


def _all_subclasses(kind: type) -> list[type]:
    return [kind, *(deeper for child in kind.__subclasses__() for deeper in _all_subclasses(child))]


class _Inference:
    def __init__(self) -> None:
        self.found: set[Option] = set()
        self.attributes: dict[tuple[type, str], Types] = {}  # of classes that are no records
        self.returned: dict[str, Types] = {}  # by the name of a function
        self.copies: dict[Option, set[Option]] = {}  # to which options of other records a value is handed on
        self.subclasses = functools.cache(_all_subclasses)
        self.records: dict[str, set[type[Record]]] = {}
        for kind in self.subclasses(Record):
            self.records.setdefault(kind.__name__, set()).add(kind)

    def size(self) -> int:
        learned = [*self.attributes.values(), *self.returned.values(), *self.copies.values()]
        return len(self.found) + sum(map(len, learned))

    def with_copies(self) -> set[Option]:
        """What is read, directly or after being copied."""
        found = set(self.found)
        while more := {option for option, others in self.copies.items() if others & found} - found:
            found |= more
        return found

    def read_module(self, module: ModuleType, tree: ast.Module) -> None:
        self._block(tree.body, {}, None, vars(module))

    def _block(self, body: list[ast.stmt], names: dict[str, Types], kind: type | None, inside: dict[str, Any]) -> None:
        for statement in body:
            if isinstance(statement, ast.ClassDef):
                inner = inside.get(statement.name)
                self._block(statement.body, {}, inner if isinstance(inner, type) else None, inside)
            elif isinstance(statement, ast.FunctionDef):
                self._function(statement, names, kind, inside)
            else:
                self._statement(statement, names, kind, inside)

    def _function(
        self, function: ast.FunctionDef, names: dict[str, Types], kind: type | None, inside: dict[str, Any]
    ) -> None:
        if any("validator" in ast.unparse(decorator) for decorator in function.decorator_list):
            return
        self._learn(self.returned, function.name, self._annotated(function.returns))
        arguments = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
        own = names | {argument.arg: self._annotated(argument.annotation) for argument in arguments}
        if kind is not None and issubclass(kind, Record) and arguments:
            own[arguments[0].arg] = frozenset({kind})
        self._block(function.body, own, kind, inside)
        for call in (node for node in ast.walk(function) if isinstance(node, ast.Call)):
            self._copied(call, function, own, kind, inside)

    def _copied(
        self,
        call: ast.Call,
        function: ast.FunctionDef,
        names: dict[str, Types],
        kind: type | None,
        inside: dict[str, Any],
    ) -> None:
        """Note where a call hands the options of a record on by name."""
        called = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
        values = [*call.args, *(keyword.value for keyword in call.keywords)]
        targets: set[type[Record]] = set()
        if called == "part" and len(values) == 2:
            targets = set(self._annotated(values[1]))
        elif called in HANDS_ON:
            targets = set(self.subclasses(Record)) - {Record}
        elif called == "getattr" and not isinstance(values[1], ast.Constant):
            targets = self._built(function, inside)
        elif called in ("model_dump", "dict"):
            values = [call.func.value] if isinstance(call.func, ast.Attribute) else values
            targets = self._built(function, inside)
        for source in NONE.union(*(self._types(value, names, kind) for value in values)):
            for target in targets - {source}:
                for name in set(source.model_fields) & set(target.model_fields):
                    self.copies.setdefault(owner(source, name), set()).add(owner(target, name))

    def _built(self, function: ast.FunctionDef, inside: dict[str, Any]) -> set[type[Record]]:
        """The records that a function makes with ``**values``, and the `Options` of what it makes so."""
        made: set[type[Record]] = set()
        for call in (node for node in ast.walk(function) if isinstance(node, ast.Call)):
            if any(keyword.arg is None for keyword in call.keywords):
                thing = inside.get(getattr(call.func, "id", ""))
                options = getattr(thing, "Options", thing)
                made |= {options} if isinstance(options, type) and issubclass(options, Record) else set()
        return made

    def _statement(self, node: ast.AST, names: dict[str, Types], kind: type | None, inside: dict[str, Any]) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef):
                self._function(child, names, kind, inside)
            else:
                self._statement(child, names, kind, inside)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            for record in self._types(node.value, names, kind):
                having = (each for each in self.subclasses(record) if node.attr in each.model_fields)
                self.found |= {owner(each, node.attr) for each in having}
        elif isinstance(node, ast.Assign):
            for target in node.targets:
                self._bind(target, node.value, names, kind)
        elif isinstance(node, ast.AnnAssign):
            annotated = self._annotated(node.annotation)
            self._bind(node.target, node.value or node.target, names, kind, annotated)
        elif isinstance(node, ast.NamedExpr):
            self._bind(node.target, node.value, names, kind)

    def _bind(
        self, target: ast.expr, value: ast.expr, names: dict[str, Types], kind: type | None, annotated: Types = NONE
    ) -> None:
        if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
            for one, its in zip(target.elts, value.elts, strict=False):
                self._bind(one, its, names, kind)
            return
        types = annotated or self._types(value, names, kind)
        if isinstance(target, ast.Name):
            names[target.id] = types
        elif isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name) and target.value.id == "self":
            for each in self.subclasses(kind) if kind is not None else ():
                self._learn(self.attributes, (each, target.attr), types)

    def _learn(self, known: dict[Any, Types], key: Any, types: Types) -> None:
        if types:
            known[key] = known.get(key, NONE) | types

    def _types(self, node: ast.expr, names: dict[str, Types], kind: type | None) -> Types:
        """The records that an expression may be."""
        if isinstance(node, ast.Name):
            return names.get(node.id, NONE)
        if isinstance(node, ast.Attribute):
            return self._attribute(node, names, kind)
        if isinstance(node, ast.Call):
            return self._call(node, names, kind)
        choices: list[ast.expr] = []
        if isinstance(node, ast.BoolOp):
            choices = node.values
        elif isinstance(node, ast.IfExp):
            choices = [node.body, node.orelse]
        elif isinstance(node, ast.NamedExpr):
            choices = [node.value]
        return NONE.union(*(self._types(choice, names, kind) for choice in choices))

    def _attribute(self, node: ast.Attribute, names: dict[str, Types], kind: type | None) -> Types:
        if isinstance(node.value, ast.Name) and node.value.id == "self" and kind is not None:
            known = self.attributes.get((kind, node.attr), NONE)
            if node.attr == "options":
                options = (vars(each).get("Options") for each in self.subclasses(kind))
                own = getattr(kind, "Options", None)
                known |= frozenset(o for o in (own, *options) if isinstance(o, type) and issubclass(o, Record))
            if known:
                return known
        before = self._types(node.value, names, kind)
        fields = (record.model_fields[node.attr] for record in before if node.attr in record.model_fields)
        return frozenset(found for field in fields for found in _records_in(field.annotation))

    def _call(self, node: ast.Call, names: dict[str, Types], kind: type | None) -> Types:
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if called in ("part", "parse_options"):
            return NONE.union(*(self._annotated(argument) for argument in node.args[:2]))
        if called == "model_copy" and isinstance(node.func, ast.Attribute):
            return self._types(node.func.value, names, kind)
        return frozenset(self.records.get(called, ())) or self.returned.get(called, NONE)

    def _annotated(self, annotation: ast.expr | None) -> Types:
        """The records whose names stand in an annotation, written as text or not."""
        if annotation is None:
            return NONE
        if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
            annotation = ast.parse(annotation.value, mode="eval").body
        words = (n.id for n in ast.walk(annotation) if isinstance(n, ast.Name))
        return NONE.union(*(self.records.get(word, set()) for word in words))
