"""The frame that every report has: head, colours of both themes, and where its parts go (``report.html``)."""

from __future__ import annotations

import re
from html import escape
from importlib.resources import files
from string import Template

from .charts import COLOURS


def framed(*, title: str, header: str, main: str, footer: str, style: str = "", script: str = "") -> str:
    """One self-contained page. `title` is text, the others are HTML; `style` and `script` go into such elements."""
    colours = "\n".join(f".c{i} {{ stroke: var(--c{i}); --own: var(--c{i}); }}" for i in range(COLOURS))
    fills = ", ".join(f".area.c{i}, .point.c{i}" for i in range(COLOURS))
    parts = re.sub(r"(?<=\d) %", "&nbsp;%", main)
    return Template(files(__package__).joinpath("report.html").read_text(encoding="utf-8")).substitute(
        title=escape(title),
        colours=f"{colours}\n{fills} {{ fill: var(--own); }}{style}",
        header=header,
        main=parts + (f"\n<script>{script}</script>" if script else ""),
        footer=footer,
    )
