"""What every image synthesiser must do, tested for each one that is listed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from guard.data import ImageData, load
from guard.errors import ConfigError, UnknownNameError
from tests.conftest import DIFFUSION, ENCODER
from train.outliers.base import PrepareContext, create_synthesiser, get_synthesiser, list_synthesisers
from train.outliers.store.fill import fill
from train.outliers.store.shards import read_made
from train.runs.synth import untrained

SYNTHESISERS = list_synthesisers()
PAIR = {"pair": {"epochs": 1, "width": 8, "latent": 8, "batch_size": 16}}
DECODED = {"diffusion": DIFFUSION, "encoder": ENCODER}
QUICK: dict[str, dict[str, Any]] = {  # generators that are trained for a moment
    "cmg": {"cvae": {"epochs": 1, "width": 8, "latent": 4}},
    "gan": {"gan": {"epochs": 1, "width": 8, "latent": 8}},
    "bood": DECODED,
    "dmr": PAIR,
    "dmr_mlm": PAIR,
    "label_mixup": {"diffusion": DIFFUSION},
    "blurred_object": {"max_area": 1.0},
    "drawn": {"pictures": 16},
    "dream_id": DECODED,
    "dream_ood": DECODED,
    "fodfom": DECODED,
    "mlm": PAIR,
    "ncis": {"diffusion": "toy", "embed": {"pairs": 4}, "invariants": {"epochs": 4}, "ridge": 1e-2},
}


def images(classes: int, channels: int) -> ImageData:
    """40 images of 16 x 16 with something in them: a bright square on noise."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 100, (40, 16, 16, channels), dtype=np.uint8)
    for i in range(40):
        top, left = rng.integers(0, 10, 2)
        pixels[i, top : top + 6, left : left + 6] = 140 + 100 * (i % classes) // classes
    return load((pixels, np.arange(40) % classes), channels=channels)


@pytest.mark.parametrize("name", SYNTHESISERS)
class TestEverySynthesiser:
    def test_it_says_what_it_is_and_its_options_are_frozen(self, name: str) -> None:
        kind = get_synthesiser(name)
        assert kind.name == name
        assert kind.space == "image"
        assert (kind.__doc__ or "").strip()
        options = kind.Options()  # every option has a default
        for field in kind.Options.model_fields:
            with pytest.raises(ValidationError, match="frozen"):
                setattr(options, field, None)
        with pytest.raises(ConfigError, match=f"synthesiser '{name}' has no option 'colour'"):
            create_synthesiser(name, 4, 3, colour="red")
        with pytest.raises(UnknownNameError, match=f"did you mean .*'{name}'"):
            get_synthesiser(name + "x")

    @pytest.mark.parametrize(("classes", "channels"), [(4, 3), (2, 1)])
    def test_it_fills_a_store_and_the_seed_decides(
        self, name: str, classes: int, channels: int, tmp_path: Path
    ) -> None:
        data = images(classes, channels)
        stores = []
        for folder, seed in (("a", 1), ("b", 1), ("c", 2)):
            module = untrained(data, torch.device("cpu"))
            made = create_synthesiser(name, 8, classes, **QUICK.get(name, {}))
            context = PrepareContext(module, data, tmp_path / folder, seed, torch.device("cpu"))
            stores.append(fill(tmp_path / folder, made, context, 20, batch_size=16, shard_size=12))
        first, same, other = ([p.read_bytes() for p in s.paths()] for s in stores)
        assert first == same
        assert first[0] != other[0]
        pool = stores[0].images()
        assert pool.array is not None
        assert pool.array.shape == (20, 16, 16, channels)
        assert len({image.tobytes() for image in pool.array}) > 10
        parents, origins = read_made(stores[0].paths())
        assert {p for row in parents for p in row} <= set(range(classes))
        assert all(origins)
