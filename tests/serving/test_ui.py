from __future__ import annotations

import re

import httpx
import pytest

from serving.ui import HEADERS, PAGE, POLICY

FILES = sorted(path.name for path in PAGE.iterdir())


def test_the_page_is_self_contained() -> None:
    assert {"index.html", "style.css", "page.js"} <= set(FILES)
    html = (PAGE / "index.html").read_text(encoding="utf-8")
    linked = re.findall(r"""(?:src|href)\s*=\s*["'](?!data:)([^"']+)""", html)
    assert set(linked) == {"ui/style.css", "ui/page.js"}
    imported = [name for file in FILES if file.endswith(".js") for name in _imports(file)]
    assert {name.removeprefix("./") for name in imported} == {name for name in FILES if name.endswith(".js")} - {
        "page.js"
    }
    text = "".join((PAGE / name).read_text(encoding="utf-8") for name in FILES)
    assert set(re.findall(r"https?://[^\s\"'<]+", text)) == {"http://www.w3.org/2000/svg"}  # a name, never fetched
    assert re.findall(r"url\(|@import", text) == []


def _imports(file: str) -> list[str]:
    return re.findall(r'from "([^"]+)"', (PAGE / file).read_text(encoding="utf-8"))


def test_nothing_is_inline() -> None:
    html = (PAGE / "index.html").read_text(encoding="utf-8")
    assert re.findall(r"""\s(?:style|on\w+)\s*=\s*["']|<style|<script(?![^>]*src=)""", html) == []
    assert "unsafe" not in POLICY
    assert POLICY.startswith("default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; ")


@pytest.mark.parametrize("file", FILES)
def test_the_page_and_its_words_come_from_text_nodes_only(file: str) -> None:
    """A class name or a file name is never parsed as HTML."""
    text = (PAGE / file).read_text(encoding="utf-8")
    assert re.findall(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function", text) == []


def test_every_file_is_sent_as_what_it_is(client: httpx.Client) -> None:
    kinds = {"html": "text/html", "css": "text/css", "js": "text/javascript"}
    for file in FILES:
        answer = client.get("/ui" if file == "index.html" else f"/ui/{file}")
        assert answer.content == (PAGE / file).read_bytes()
        assert answer.headers["content-type"].startswith(kinds[file.rpartition(".")[2]])
        assert HEADERS.items() <= {**{k: answer.headers[k] for k in HEADERS}}.items()


def test_a_slash_at_the_end_leads_to_the_page_whose_files_are_found(client: httpx.Client) -> None:
    answer = client.get("/ui/", follow_redirects=True)
    assert (answer.status_code, answer.url.path) == (200, "/ui")
    assert client.get("/ui/other.js").status_code == 404
