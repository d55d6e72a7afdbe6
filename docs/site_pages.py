"""Pages of the site that are files elsewhere in the repository, and the links between all of them.

README.md                  the first page
CONTRIBUTING.md            contributing.md
CHANGELOG.md               changelog.md
SECURITY.md                security.md
benchmarks/README.md       results/index.md
benchmarks/notes.md        results/notes.md
benchmarks/results/X.md    results/X.md
(a registered method)      methods/NAME.md, with docs/methods/NAME.md inside where there is one (`method_pages`)

A link is written as it works in the repository, and here turned to where its target is on the site. A link to a file
that is no page (code, a folder) becomes its text.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

import method_pages
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
NAMED = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
    "benchmarks/README.md": "results/index.md",
    "benchmarks/notes.md": "results/notes.md",
}
LINK = re.compile(r"(?<!!)\[([^\]]*)\]\(([^)\s]+)\)|(!\[[^\]]*\])\(([^)\s]+)\)")
OUTSIDE = re.compile(r"[a-z]+:|#")
METHODS = "methods/"


def elsewhere() -> dict[str, str]:
    """Path in the repository -> path on the site, of pages and pictures that are not in docs/."""
    results = (ROOT / "benchmarks" / "results").glob("*")
    shown = {
        f"benchmarks/results/{p.name}": f"results/{p.name}" for p in results if p.suffix in (".md", ".png", ".svg")
    }
    return {**NAMED, **shown}


def on_files(files: Files, config: Any) -> Files:
    """Add what is elsewhere."""
    for source, target in elsewhere().items():
        files.append(File.generated(config, target, abs_src_path=str(ROOT / source)))
    for name in method_pages.names():
        if files.get_file_from_path(f"{METHODS}{name}.md") is None:
            files.append(File.generated(config, f"{METHODS}{name}.md", content=f"# {name}\n"))
    return files


def on_pre_build(config: Any) -> None:
    """A folder of docs/methods has a page per registered method and no other."""
    unknown = {path.stem for path in (ROOT / "docs" / METHODS).glob("*.md")} - set(method_pages.names())
    if unknown:
        raise PluginError(f"docs/{METHODS} has pages of methods that are not registered: {', '.join(sorted(unknown))}")


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Files) -> str:
    """The page with its links as the site has them."""
    on_site = elsewhere()
    back = {target: source for source, target in on_site.items()}
    here: str = page.file.src_uri
    source = back.get(here, f"docs/{here}")
    if here.startswith(METHODS):
        markdown = method_pages.page(here.removeprefix(METHODS).removesuffix(".md"), markdown)

    def turned(found: re.Match[str]) -> str:
        text, link = (found[1], found[2]) if found[2] else (found[3], found[4])
        if OUTSIDE.match(link):
            return found[0]
        path, _, anchor = link.partition("#")
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        place = on_site.get(target) or (target.removeprefix("docs/") if target.startswith("docs/") else None)
        if place is None or files.get_file_from_path(place) is None:
            return text if found[2] else ""
        relative = posixpath.relpath(place, posixpath.dirname(here) or ".") + (f"#{anchor}" if anchor else "")
        return f"[{text}]({relative})" if found[2] else f"{text}({relative})"

    return LINK.sub(turned, markdown)
