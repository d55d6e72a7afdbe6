"""The trainings that the results/detection_*.json compare, as the methods of a file of ``guard benchmark``.

Methods that fine-tune or add a rejection network start from the plain run of their seed, as their papers do; those that
share a generator or a diffusion model have equal options for it; OAL's teacher is the plain network.
"""

from __future__ import annotations

from typing import Any

SCORES = ("msp", "energy", "mahalanobis", "knn", "vim", "energy+knn", "energy+vim")
COMBINED = ("energy", "knn", "vim", "energy+vim")  # with a score that is learned in training
CHEAP = ("patch_mix", "patch_shuffle", "phase_mix", "pixel_average", "rotation", "smooth_noise", "strokes")
TUNING = {"ratio": 1.0, "tune_epochs": 2}  # of energy_ft: 2.0 and 10 as published take longer than all of plain
STORE = 20_000  # outliers of the methods that make them once
SHORT = {"epochs": 3, "lr": 0.01}  # of methods whose steps or images are dear: tuning in place of training from scratch
DIFFUSED = ("label_mixup", "dream_ood", "dream_id", "bood", "ncis")
DECODED = {"diffusion": {"conditioning": "label"}}  # of the diffusion model that they share
GENERATED = {**DECODED, "store_size": 3_000, "ratio": 0.5}  # dear images, and few in a step
EMBEDDED = {"embed": {"per_class": 100}, "invariants": {"epochs": 50}}  # of ncis, which by default embeds every image
PLAIN = {"init": "plain"}
LEARNED = {"scores": ["own", *(f"rejection+{other}" for other in COMBINED)]}  # the network below is plain's

Methods = dict[str, dict[str, Any]]


def methods(outliers: str | None) -> Methods:
    """By the names in the tables.

    Args:
        outliers: images for the methods that learn from given ones; without, these are left out.
    """
    listed: Methods = {
        "plain": {},
        "plain, cosine head": {"method": "plain", "head": "cosine", "score": "cosine"},
        "phase_mix": PLAIN,
        "vos": {},
        "npos": {},
        "gan": {"beta": 0.1, **SHORT, "epochs": 2, **PLAIN},
        "ceda": {**SHORT, **PLAIN},
        "acet": {"steps": 5, "ratio": 0.25, **SHORT, **PLAIN},
        "atol": {"gan": {"epochs": 5}, "ratio": 1.0, "tune_epochs": 2, **PLAIN},
        "mim": PLAIN,
        "cmg_e": PLAIN,
        "cmg_s": {"tune_epochs": 5, **PLAIN},
        **{name: {"store_size": STORE, **PLAIN, **LEARNED} for name in ("kirby", "mlm", "dmr", "dmr_mlm", "dmr_kirby")},
        **{
            f"{name} matched": {"method": name, "store_size": STORE, "match": ["spectrum"], **PLAIN, **LEARNED}
            for name in ("mlm", "dmr", "dmr_mlm")
        },
        **{name: {**GENERATED, **SHORT, **(EMBEDDED if name == "ncis" else {}), **PLAIN} for name in DIFFUSED},
        "label_mixup matched": {
            "method": "label_mixup",
            **GENERATED,
            **SHORT,
            "match": ["spectrum", "coding"],
            **PLAIN,
        },
        "fodfom": {**GENERATED, "store_size": 1_500, "tune_epochs": 3, **PLAIN},
        "oal": {**DECODED, "tune_epochs": 3, "teacher": {"model": "run:plain"}, **PLAIN},
        **{f"rejection, {name}": _rejection(f"store:{name}") for name in CHEAP},
        **{
            f"rejection, {name} matched": _rejection(f"store:{name} matched")
            for name in ("pixel_average", "patch_shuffle")
        },
    }
    if outliers:
        listed["rejection, given"] = _rejection(outliers)
        listed["oe"] = {"outliers": outliers, "ratio": 1.0}
        listed["energy_ft"] = {"outliers": outliers, **TUNING, **PLAIN}
    return listed


def _rejection(outliers: str) -> dict[str, Any]:
    return {"method": "rejection", "outliers": outliers, **PLAIN, **LEARNED}


def stores(names: set[str]) -> dict[str, dict[str, Any]]:
    """The stores of outliers that methods of these names learn from."""
    every = {name: {"method": name, "count": STORE} for name in CHEAP}
    every |= {f"{name} matched": {**every[name], "match": ["spectrum"]} for name in ("pixel_average", "patch_shuffle")}
    return {name: told for name, told in every.items() if f"rejection, {name}" in names}
