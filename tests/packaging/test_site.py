"""The documentation site: it builds without a warning, its links lead somewhere, it names all that is public."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

import guard

ROOT = Path(__file__).parents[2]
NO_OBJECT = {"errors"}  # a module


class Links(HTMLParser):
    """The links of a page, and what can be linked to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        self.anchors.update(value for key in ("id", "name") if (value := named.get(key)))
        if tag in ("a", "img") and (link := named.get("href") or named.get("src")):
            self.links.append(link)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert built.returncode == 0, built.stdout + built.stderr
    assert "WARNING" not in built.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Links]:
    return {page: Links(page.read_text(encoding="utf-8")) for page in site.rglob("*.html") if page.name != "404.html"}


def test_every_page_of_the_repository_is_on_it(site: Path) -> None:
    for page in (ROOT / "docs").rglob("*.md"):
        place = page.relative_to(ROOT / "docs").with_suffix("")
        place = place.parent if place.name == "README" else place
        assert (site / place / "index.html").is_file(), page
    for page in (ROOT / "benchmarks" / "results").glob("*.md"):
        assert (site / "results" / page.stem / "index.html").is_file(), page
    assert "OOD" in (site / "index.html").read_text(encoding="utf-8")


def test_every_method_has_a_page(site: Path) -> None:
    """What is on it: tests/contract/test_method_pages.py."""
    for name in guard.list_methods():
        shown = (site / "methods" / name / "index.html").read_text(encoding="utf-8")
        assert "guard train" in shown
        assert 'id="options"' in shown


def test_its_links_lead_somewhere(site: Path, pages: dict[Path, Links]) -> None:
    broken = []
    for page, found in pages.items():
        for link in found.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            target = target / "index.html" if target.is_dir() else target
            anchors = pages[target].anchors if target in pages else set()
            if not target.is_file() or (parts.fragment and target in pages and unquote(parts.fragment) not in anchors):
                broken.append(f"{page.relative_to(site)}: {link}")
    assert not broken


def test_links_between_pages_are_links(site: Path) -> None:
    shown = (site / "methods" / "index.html").read_text(encoding="utf-8")
    assert re.search(r'href="\.\./results/cifar10/?"', shown)
    assert "fine_tuning" in (site / "index.html").read_text(encoding="utf-8")


def test_the_reference_describes_all_that_is_public(site: Path) -> None:
    shown = (site / "api" / "index.html").read_text(encoding="utf-8")
    missing = [name for name in guard.__all__ if name not in NO_OBJECT and f'id="guard.{name}"' not in shown]
    assert not missing
    assert "ConfigError" in shown


def test_nothing_is_fetched_from_elsewhere(pages: dict[Path, Links]) -> None:
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert not re.search(r'<(?:script|link|img)[^>]+(?:src|href)="(?:https?:)?//', text), page
