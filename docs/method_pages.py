"""A method's page on the site: what docs/methods/NAME.md says, and around it what is registered and what was measured.

    above    the summary; the outliers' picture, or why there is none; a table of its parts; the equations
    below    measured rows, options

Nothing is written twice: the summary, the equations and the options are those of the code, a table's row that of
docs/methods.md, the numbers those of benchmarks/. A method without a file in docs/methods has the rest of its page.
"""

from __future__ import annotations

import csv
import functools
import inspect
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from guard.cli.cards import OptionRow, option_rows
from guard.scores import create_score
from train.methods import get_method, list_methods
from train.methods.base import Method, MethodContext, Stage

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PICTURES = ROOT / "docs" / "images" / "methods"
CSV = ("cifar10_three_seeds", "learning_rate", "transfer_textures_one_pass")
TABLES = {  # of a page: the first column's name, and where the budget is said
    "benchmarks/notes.md": ("method", "every-method-in-one-budget"),
    "docs/methods.md": ("training", "what-was-measured-and-the-default"),
}
NOT_MEASURED = "Not measured on CIFAR-10: no committed table has a row of it."
FEATURES = (
    "The first two principal components of the features of digits, a colour per class; black: outliers. What is off a "
    "class in other directions may be inside it here."
)
IMAGES = "First row: grey digits 0 to 7 of 16 pixels. Below: what the method makes."
MADE_BY = "Small networks that train for a moment (`python -m benchmarks.method_pictures`): what is made, not how well."


def names() -> list[str]:
    """Of all registered methods."""
    return list_methods()


def above(name: str) -> str:
    """What the page has before docs/methods/NAME.md."""
    method = get_method(name)
    parts = [
        inspect.getdoc(method) or "",
        picture(name),
        parts_table(name),
        "## Equations and source",
        equations(method),
    ]
    return "\n\n".join(parts)


def command(name: str) -> str:
    """For a method without a file in docs/methods."""
    given = " --outliers OTHER_IMAGES" if get_method(name).wants_outliers == "required" else ""
    return f"## Commands\n\n    guard train PATH --method {name}{given}"


def page(name: str, text: str) -> str:
    """The whole page; `text` is that of docs/methods/NAME.md, or its title alone."""
    title, _, rest = text.partition("\n")
    return "\n\n".join([title, above(name), rest.strip() or command(name), below(name)])


def below(name: str) -> str:
    """What the page has after it."""
    return "\n\n".join(["## Measured", measured(name), "## Options", options(name)])


# ------------------------------------------------------------------------------------------------------------- picture


def picture(name: str) -> str:
    """The picture of its outliers, or why there is none; "" where the page's own text has one."""
    if (PICTURES / f"{name}.png").is_file():
        what = FEATURES if makes(name) == "feature" else IMAGES
        return f"![Outliers of {name} on digits](../images/methods/{name}.png)\n\n*{what} {MADE_BY}*"
    reason = why_no_picture(name)
    return f"No picture: {reason}." if reason else ""


def why_no_picture(name: str) -> str:
    method = get_method(name)
    if method.wants_outliers == "required":
        return "its outliers are the images that you give"
    if makes(name) is None and name != "oal":
        return "it makes no outliers"
    return ""


def makes(name: str) -> str | None:
    """The space of the outliers that it makes by itself: "feature", "image" or None."""
    if get_method(name).wants_outliers == "required":
        return None
    return next((stage.synthesiser.space for stage in stages(name) if stage.synthesiser is not None), None)


# --------------------------------------------------------------------------------------------------------------- parts


@functools.cache
def stages(name: str) -> list[Stage]:
    """With default options, for ten classes of 5,000 images."""
    method = get_method(name)
    context = MethodContext(
        num_classes=10,
        num_features=128,
        map_shape=(128, 8, 8),
        class_counts=(5000,) * 10,
        epochs=method.epochs,
        lr=method.lr,
        batch_size=128,
        seed=0,
        device=torch.device("cpu"),
        outliers={"patch_shuffle": 1.0} if method.wants_outliers == "required" else None,
        initialised=False,
        score=create_score(method.score),
    )
    return method(method.Options()).stages(context)


def parts_table(name: str) -> str:
    """Its row of docs/methods.md, heads, stages and cost, one below the other."""
    method, row = get_method(name), table_row(name)
    facts = {
        "outliers": row["outliers"],
        "loss on them": row["regulariser"],
        "`outliers=`": {"no": "not taken", "optional": "taken", "required": "needed"}[method.wants_outliers],
        "default score": row["default score"],
        "heads": ", ".join(f"`{head}`" for head in method.heads) or "all ([heads](../heads.md))",
        "default head": f"`{method.head}`",
        "stages": "<br>".join(map(_stage, stages(name))),
        "time of a step": cost(name),
        "source": row["source"],
    }
    return "\n".join(["| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in facts.items())])


def _stage(stage: Stage) -> str:
    trains = {"classifier": "all weights", "head": "the head alone", "nothing": "no weight of the classifier"}[
        stage.trains
    ]
    losses = ["the head's own"] if stage.head_loss else []
    losses += [f"`{type(part).__module__.rsplit('.', 1)[-1]}`" for part in stage.regularisers]
    late = f" from epoch {stage.start_epoch + 1}" if stage.start_epoch else ""
    return f"{stage.name}: {stage.epochs} epochs, {trains}; losses{late}: {', '.join(losses)}"


def table_row(name: str) -> dict[str, str]:
    """The method's row of the table in docs/methods.md, by column; "the same" is what stands above it.

    Raises:
        KeyError: there is none.
    """
    lines = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8").splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("|---"))
    columns, above = _cells(lines[first - 1]), [""] * 5
    for line in lines[first + 1 :]:
        if not line.startswith("|"):
            break
        cells = _cells(line)
        above = [re.sub(r"^the same(?!\s)", old, new) for old, new in zip(above, cells, strict=True)]
        if re.match(rf"\[?`{name}`", cells[0]):
            return {key: _deeper(cell) for key, cell in zip(columns, above, strict=True)}
    raise KeyError(f"docs/methods.md has no row of method {name!r}: add one to its table")


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split(" | ")]


def _deeper(text: str, folder: str = "..") -> str:
    """A text with the links of a page in the folder above."""
    return re.sub(r"\]\((?![a-z]+:|#)", f"]({folder}/", text)


def cost(name: str) -> str:
    """Its training step beside a plain one."""
    found = json.loads((RESULTS / "training_cost.json").read_text(encoding="utf-8"))
    settings = found["settings"]
    budget = f"{settings['backbone']}, {settings['pixels']} pixels, batches of {settings['batch']}"
    rows = [
        c for c in found["contenders"] if c["method"] == name and not c["naive"] and c["name"].split(",")[0] == name
    ]
    if not rows:
        return "not measured"
    with_options = "".join(f", `{key}={value}`" for key, value in rows[0]["options"].items())
    link = "[training_cost](../../benchmarks/results/training_cost.md)"
    return f"{rows[0]['ratio']:.2f} of a plain one{with_options} ({budget}; {link})"


def equations(method: type[Method]) -> str:
    """The documentation of the file that defines it."""
    module = sys.modules[method.__module__]
    path = Path(inspect.getfile(method)).resolve().relative_to(ROOT)
    return f"From `{path.as_posix()}`:\n\n```text\n{inspect.getdoc(module) or ''}\n```"


# -------------------------------------------------------------------------------------------------------------- options


def options(name: str) -> str:
    """A table per part, as `guard methods NAME` prints them."""
    groups = {part: rows for part, rows in option_rows(get_method(name).Options).items() if rows}
    shown = [f"{f'### {part}' if part else ''}\n\n{_options(rows)}".strip() for part, rows in groups.items()]
    return "\n\n".join(shown) or "It has none."


def _options(rows: list[OptionRow]) -> str:
    head = ["| `--set` | default | type | range | meaning |", "|---|---|---|---|---|"]
    return "\n".join([*head, *("| " + " | ".join(_option(row)) + " |" for row in rows)])


def _option(row: OptionRow) -> Iterator[str]:
    yield f"`{row.path}`"
    yield _code(json.dumps(row.default))
    yield _code(row.type)
    yield row.range
    yield (row.description + (f" Only with {row.only_with}." if row.only_with else "")).replace("|", "\\|")


def _code(text: str) -> str:
    return f"`{text}`".replace("|", "\\|")


# ------------------------------------------------------------------------------------------------------------- measured


def measured(name: str) -> str:
    """Its rows of the committed benchmarks and of the pages' tables, or that there are none."""
    tables = [*(_csv_table(file, name) for file in CSV), *(t for page in TABLES for t in _page_tables(page, name))]
    return "\n\n".join(filter(None, tables)) or NOT_MEASURED


def _csv_table(file: str, name: str) -> str:
    """Means over seeds, in percent, of the rows of benchmarks/results/FILE.csv."""
    with (RESULTS / f"{file}.csv").open(newline="", encoding="utf-8") as lines:
        rows = [row for row in csv.DictReader(lines) if row["method"].split(",")[0] == name]
    if not rows:
        return ""
    seeds, backbones = sorted({row["seed"] for row in rows}), sorted({row["backbone"] for row in rows})
    wanted = {
        "accuracy": "accuracy",
        "near": "auroc near",
        "far": "auroc far",
        "flagged in-distribution": "false_alarm_rate",
    }
    kinds = dict.fromkeys((row["method"], row["score"]) for row in rows)
    lines_out = [f"| method | score | {' | '.join(wanted)} |", "|" + "---|" * (2 + len(wanted))]
    for kind in kinds:
        mine = [row for row in rows if (row["method"], row["score"]) == kind]
        numbers = (100 * np.mean([float(row[column]) for row in mine]) for column in wanted.values())
        lines_out.append(f"| {kind[0]} | {kind[1]} | {' | '.join(f'{number:.1f}' for number in numbers)} |")
    about = f"{', '.join(backbones)}; {'mean of seeds' if len(seeds) > 1 else 'seed'} {', '.join(seeds)}"
    return f"[{file}](../../benchmarks/results/{file}.md) ({about}; percent):\n\n" + "\n".join(lines_out)


def _page_tables(page: str, name: str) -> Iterator[str]:
    """Of each table of results on a page, the rows whose first cell begins with its name, or says that it is it."""
    column, anchor = TABLES[page]
    text = (ROOT / page).read_text(encoding="utf-8")
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        head, rule, *rows = table.splitlines()
        mine = [row for row in rows if re.match(rf"\| (?:[^|]* = )?`?{name}`?(?!\w)", row)]
        if mine and _cells(head)[0] == column:
            shown = [_deeper(row, f"../../{Path(page).parent}") for row in mine]
            yield f"With the budget [of this table](../../{page}#{anchor}):\n\n" + "\n".join([head, rule, *shown])
