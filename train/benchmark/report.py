"""What a benchmark writes for people: results.csv, results.md and report.html; published.csv where there
are published numbers."""

from __future__ import annotations

from dataclasses import replace

from guard.artefact.files import write_atomic
from guard.benchmark_file import BenchmarkFile

from .page import render
from .published import beside, published_csv
from .results import Results
from .tables import csv_text, markdown, short_table

FILES = ("results.csv", "published.csv", "results.md", "report.html")


def write_report(asked: BenchmarkFile, results: Results) -> Results:
    """Write all of them; the results with their table."""
    write_atomic(results.folder / "results.csv", csv_text(results).encode())
    if asked.published:
        write_atomic(results.folder / "published.csv", published_csv(beside(asked, results)).encode())
    write_atomic(results.folder / "results.md", markdown(asked, results).encode())
    write_atomic(results.folder / "report.html", render(asked, results).encode())
    return replace(results, table=short_table(results))
