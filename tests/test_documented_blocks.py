"""Every block of Python and of commands in the README and the docs runs, or says above it why not.

A page has a copy of one folder, in which what the blocks name is there (`tests.documented.workspace`). Its blocks run
in their order, with less to train (`tests.documented.budget`). tests/structure/test_contributing.py runs those of
CONTRIBUTING.md.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.documented import workspace
from tests.documented.blocks import REASONS, Block, blocks, commands, kind_of, marks
from tests.documented.run import Page

ROOT = Path(__file__).parents[1]
PAGES = {p.relative_to(ROOT).as_posix(): p for p in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]}
BLOCKS = [block for name, path in PAGES.items() for block in blocks(path, name)]
STEPS = [step for block in BLOCKS if block.runs for step in (commands(block) if block.kind == "shell" else [block])]

pytestmark = pytest.mark.filterwarnings("ignore")  # a reader's warnings are no errors


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Page]]:
    """page(name) -> its state, in a copy of the folder."""
    template = tmp_path_factory.mktemp("documented")
    workspace.build(template)
    made: dict[str, Page] = {}

    def of(name: str) -> Page:
        if name not in made:
            for other in made.values():
                other.close()
            folder = shutil.copytree(template, tmp_path_factory.mktemp("page") / "here", symlinks=True)
            made[name] = Page(folder, PAGES[name].read_text(encoding="utf-8"))
        return made[name]

    yield of
    for other in made.values():
        other.close()


@pytest.mark.parametrize("step", STEPS, ids=str)
def test_a_block_runs(step: Block, page: Callable[[str], Page], monkeypatch: pytest.MonkeyPatch) -> None:
    here = page(step.page)
    monkeypatch.chdir(here.folder)
    here.run(step)


def test_a_block_that_does_not_run_says_why() -> None:
    silent = [str(block) for block in BLOCKS if not block.runs and block.kind != "text" and block.mark is None]
    assert silent == []


def test_a_reason_is_one_of_a_few_and_stands_above_a_block() -> None:
    given = {name: marks(path) for name, path in PAGES.items()}
    assert {reason for reasons in given.values() for reason in reasons} - set(REASONS) == set()
    spans = {name: len({block.mark_line for block in BLOCKS if block.page == name and block.mark}) for name in PAGES}
    assert {name: len(reasons) for name, reasons in given.items()} == spans


def test_most_of_them_run() -> None:
    marked = [block for block in BLOCKS if block.mark]
    assert len(STEPS) > 100
    assert len(marked) < 20


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("guard train PATH --method vos", "shell"),
        ("guard methods", "shell"),
        ("$ curl -s -F image=@photo.jpg http://127.0.0.1:3000/predict\n{}", "shell"),
        ("GUARD_MODEL=a.onnx bentoml serve serving:svc", "shell"),
        ("gaurd train PATH --method vos", "shell"),  # and then nothing runs it
        ("helm install guard", "shell"),
        ("some-program data --count 3", "shell"),
        ('guard.fit(model, "images/")', "python"),
        (">>> v.is_ood\nTrue", "python"),
        ("import numpy as np", "python"),
        ("def factory(context, options):\n    return 1", "python"),
        ('guard.fit(model, "images/"', "broken"),
        ("noise = np.random.default_rng(0", "broken"),
        ("with guard.Client() as service:\nservice.model()", "broken"),
        ("L = -log softmax_c( cos(h(x), T(c)) / t )_y,   t = 0.1", "text"),
        ("add       (a (2x - 1) + b (2m - 1) + 1) / 2", "text"),
        ("images/cat/001.jpg        one sub-folder per class", "text"),
        ("plain      energy      99.8 ± 0.3  89.3 ± 2.2", "text"),
        ("label         int64    (N,)", "text"),
    ],
)
def test_the_rule_tells_code_from_equations_and_output(text: str, kind: str) -> None:
    assert kind_of(text) == kind


MADE_UP = """# A page

    guard methods
    guard heads   # a comment

- An item
  of two lines:

      import guard
      guard.list_scores()

      guard scores

Output:

    method   score

<!-- not executed: needs a GPU -->

    guard bench a.onnx --device cuda

```js
x()
```

```bash
guard train PATH \\
  --method vos
```
"""


def test_a_made_up_page_is_read_whole(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(MADE_UP)
    found = blocks(page, "page.md")
    assert [(block.line, block.kind, block.mark) for block in found] == [
        (3, "shell", None),
        (9, "python", None),
        (12, "shell", None),
        (16, "text", None),
        (20, "shell", "needs a GPU"),
        (23, "language js", None),
        (27, "shell", None),
    ]
    assert [(step.line, step.text) for step in commands(found[0])] == [
        (3, "guard methods"),
        (4, "guard heads   # a comment"),
    ]
    assert [step.text.split() for step in commands(found[-1])] == [["guard", "train", "PATH", "--method", "vos"]]


def test_a_block_that_is_wrong_would_be_found(page: Callable[[str], Page], monkeypatch: pytest.MonkeyPatch) -> None:
    here = page("docs/heads.md")
    monkeypatch.chdir(here.folder)
    for kind, text, message in (
        ("shell", "guard train PATH --method vos --set wieght=1", "has no option 'wieght'"),
        ("shell", "guard eval elsewhere.onnx --id test_images", "elsewhere.onnx"),
        ("shell", "helm install guard", "nothing here runs 'helm'"),
        ("python", "guard.fit(model, data, socre='vim')", "socre"),
        ("python", ">>> guard.list_scores('vim').rows[0].name\n'energy'", "vim"),
    ):
        with pytest.raises(Exception, match=message):
            here.run(Block("docs/heads.md", 1, kind, text))
