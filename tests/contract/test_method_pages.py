"""Every registered method has a page on the site: command, parts, a picture or why not, rows and options."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image

from guard.cli.cards import option_rows
from train.methods import get_method, list_methods

ROOT = Path(__file__).parents[2]
PICTURES = ROOT / "docs" / "images" / "methods"
METHODS = list_methods()


def _loaded() -> ModuleType:
    spec = importlib.util.spec_from_file_location("method_pages", ROOT / "docs" / "method_pages.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


method_pages = _loaded()


def shown(name: str) -> str:
    """Markdown of the page."""
    written = ROOT / "docs" / "methods" / f"{name}.md"
    text: str = method_pages.page(name, written.read_text(encoding="utf-8") if written.is_file() else f"# {name}\n")
    return text


@pytest.mark.parametrize("name", METHODS)
class TestEveryMethod:
    def test_its_page_has_its_title_and_a_command(self, name: str) -> None:
        text = shown(name)
        assert text.startswith(f"# {name}\n")
        assert re.search(rf"^    guard train \S+ --method {name}\b", text, re.MULTILINE)

    def test_its_page_has_all_its_options(self, name: str) -> None:
        rows = [row for rows in option_rows(get_method(name).Options).values() for row in rows]
        said = shown(name).split("## Options")[1]
        assert [row.path for row in rows if f"| `{row.path}` |" not in said] == []
        assert all(row.description.replace("|", "\\|") in said for row in rows)

    def test_its_page_has_a_picture_or_says_why_not(self, name: str) -> None:
        reason, text = method_pages.why_no_picture(name), shown(name)
        pictures = re.findall(r"!\[[^\]]+\]\(\.\./(images/\S+)\)", text)
        assert all((ROOT / "docs" / path).is_file() for path in pictures)
        if reason:
            assert f"No picture: {reason}." in text
            assert not (PICTURES / f"{name}.png").exists()
        else:
            assert pictures, f"python -m benchmarks.method_pictures {name} draws it"

    def test_its_page_has_its_rows_or_says_that_there_are_none(self, name: str) -> None:
        said = shown(name).split("## Measured")[1].split("## Options")[0].strip()
        assert said == method_pages.NOT_MEASURED or re.search(rf"^\| [^|]*\b{name}\b[^|]* \|", said, re.MULTILINE)

    def test_its_page_says_with_which_heads_and_losses_it_trains_and_for_how_long(self, name: str) -> None:
        facts = dict(
            re.findall(r"^\| (heads|stages|time of a step|default score|source) \| (.+) \|$", shown(name), re.M)
        )
        assert len(facts) == 5
        assert all(f"`{head}`" in facts["heads"] for head in get_method(name).heads)
        assert re.search(r"\d+ epochs, .+; losses.*: .+", facts["stages"])
        assert re.match(r"not measured$|\d+\.\d\d of a plain one", facts["time of a step"])


@pytest.mark.parametrize("path", sorted(PICTURES.glob("*")), ids=lambda path: path.name)
def test_a_picture_is_small_and_of_a_method(path: Path) -> None:
    assert path.stem in METHODS
    assert path.stat().st_size < 25_000
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        assert 200 <= picture.width <= 1000


def test_a_row_is_that_of_the_committed_file() -> None:
    vos = method_pages.parts_table("vos")
    assert "Du, Wang, Cai & Li, ICLR 2022" in vos
    assert "| `outliers=` | not taken |" in vos
    acet = method_pages.table_row("acet")  # "the same" is resolved
    assert (acet["regulariser"], acet["source"]) == (
        "log of the largest probability",
        "Hein, Andriushchenko & Bitterwolf, CVPR 2019",
    )
    assert "| oe, ratio 1 | energy | 86.7 | 97.8 | 97.8 | 95.1 | 49 |" in method_pages.measured("oe")
    assert "| phase_mix | energy+vim | 85.9 | 90.4 | 91.0 |" in method_pages.measured("phase_mix")
    assert "`recommended`" in method_pages.measured("recommended")
    assert "dmr_kirby" not in method_pages.measured("dmr")


def test_a_method_without_a_row_is_told_to_add_one() -> None:
    with pytest.raises(KeyError, match=r"docs/methods.md has no row of method 'nonsense'"):
        method_pages.table_row("nonsense")


def test_a_page_without_a_file_has_a_command() -> None:
    assert "    guard train PATH --method oe --outliers OTHER_IMAGES\n" in method_pages.page("oe", "# oe\n")
