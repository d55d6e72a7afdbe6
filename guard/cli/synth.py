"""``guard synth``: a store of outlier images."""

from __future__ import annotations

from pathlib import Path

from .. import api
from ..launched import is_first_process
from ..requests import SynthRequest
from . import output
from .flags import DATA, INPUT, SPLIT, Debug, Flag, Json, call, from_request, settings_flag


@from_request(
    SynthRequest,
    data=DATA,
    out=Flag(Path, names=("--out", "-o")),
    options=settings_flag("--set"),
    classifier=Flag(Path, metavar="RUN"),
    match=Flag(list[str], tuple, metavar="WHAT"),
    calibration=SPLIT,
    test=SPLIT,
    gallery=Flag(bool, lambda given: not given, names=("--no-gallery",), help="Do not write gallery.html."),
    **INPUT,
)
def synth(asked: SynthRequest, json: Json = False, debug: Debug = False) -> None:
    """Make outlier images from in-distribution ones: a folder that --outliers of guard train takes."""
    store = call(api.synth, asked)
    if not is_first_process():
        return
    if json:
        output.print_json({"store": str(store.folder), "gallery": store.gallery, **store.card.model_dump(mode="json")})
    else:
        output.print_store(store)
