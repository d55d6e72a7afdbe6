"""Do frozen and fine-tuned features together detect better than the better of them (DSGF, arXiv 2311.12076)?

    python -m benchmarks.frozen_and_tuned runs/transfer_textures [MORE ...]      # finished ones; seconds

The score energy+mahalanobis++ is a sum of -log p of its parts, so the sum of those of two networks combines all four
parts. The scores of single images are those that `guard benchmark` keeps.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from guard.evaluation.metrics import auroc
from train.benchmark.results import Row, Rows, read_scores

SCORE = "energy+mahalanobis++"
METHODS = "frozen", "fine-tuned"


def pairs(folder: Path) -> list[tuple[Row, Row]]:
    """The rows of both networks that were trained with one seed and without the same classes."""
    rows = [row for row in Rows(folder).read().values() if row["score"] == SCORE]
    first, second = ({(r["seed"], r.get("left_out")): r for r in rows if r["method"] == name} for name in METHODS)
    return [(first[key], second[key]) for key in sorted(first) if key in second]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+")
    for folder in parser.parse_args().folders:
        for names in pairs(folder):
            scores = [read_scores(folder, row) for row in names]
            print(f"{folder.name}, seed {names[0]['seed']}, without {names[0].get('left_out')}:")
            for name in (key for key in scores[0] if key):
                alone = [auroc(s[""], s[name]) for s in scores]
                both = auroc(np.add(scores[0][""], scores[1][""]), np.add(scores[0][name], scores[1][name]))
                numbers = zip((*METHODS, "together"), (*alone, both), strict=True)
                print(f"  {name}: " + ", ".join(f"{title} {100 * value:.1f}" for title, value in numbers))


if __name__ == "__main__":
    main()
