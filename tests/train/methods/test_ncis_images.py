"""NCIS's outliers: which points are decoded, in which units, at which size; and that all that takes long is kept."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

import tests.train.outliers.conditioning.solvable_diffusion as solvable
from guard.data import ImageData, load
from guard.errors import ConfigError
from train.engine.distributed import Processes
from train.methods.ncis import NCISImageOptions, NCISImages, chosen_ridge
from train.outliers.base import IDBatch, PrepareContext, create_synthesiser
from train.outliers.conditioning import image_embeddings
from train.outliers.conditioning import invariants as fitting
from train.outliers.conditioning.low_density import ClassGaussians
from train.outliers.resize import resized
from train.outliers.store.fill import fill
from train.outliers.store.store import Store
from train.runs.synth import untrained

CLASSES, SIDE = 3, 8
SHORT: dict[str, Any] = {"diffusion": "solvable", "embed": {"pairs": 4}, "invariants": {"epochs": 4}}
NO_BATCH = IDBatch(torch.zeros(0), torch.zeros(0))


def made_of(data: ImageData, folder: Path, count: int = 12, **options: Any) -> NCISImages:
    made = create_synthesiser("ncis", count, CLASSES, **{**SHORT, **options})
    assert isinstance(made, NCISImages)
    made.prepare(setting_of(data, folder))
    return made


def setting_of(data: ImageData, folder: Path) -> PrepareContext:
    return PrepareContext(untrained(data, torch.device("cpu")), data, folder, 0, torch.device("cpu"))


@pytest.fixture
def data() -> ImageData:
    rng = np.random.default_rng(0)
    labels = np.arange(60) % CLASSES
    images = rng.integers(0, 120, (60, SIDE, SIDE, 3)) + 60 * labels[:, None, None, None]
    return load((images.astype(np.uint8), labels))


def test_processes_divide_the_embedding_and_get_what_one_gets(
    data: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_embeddings, "BLOCK", 8)  # 8 blocks over 3 processes
    alone = fill(tmp_path / "alone", create_synthesiser("ncis", 12, CLASSES, **SHORT), setting_of(data, tmp_path), 40)
    barrier, ranks, made = threading.Barrier(3, timeout=60), threading.local(), dict[int, list[int]]()
    monkeypatch.setattr(Processes, "wait", lambda _: barrier.wait())
    monkeypatch.setattr("train.outliers.store.fill.processes", lambda: Processes(ranks.rank, 3))
    block = image_embeddings._block

    def noted(*arguments: Any) -> Any:
        made.setdefault(ranks.rank, []).append(int(arguments[-1][0]))
        return block(*arguments)

    monkeypatch.setattr(image_embeddings, "_block", noted)

    def run(rank: int) -> Store:
        ranks.rank = rank
        synthesiser = create_synthesiser("ncis", 12, CLASSES, **SHORT)
        return fill(tmp_path / "shared", synthesiser, setting_of(data, tmp_path), 40)

    with ThreadPoolExecutor(3) as pool:
        stores = list(pool.map(run, range(3)))
    assert made == {0: [0, 24, 48], 1: [8, 32, 56], 2: [16, 40]}
    expected = alone.images().take(np.arange(40))
    for store in stores:
        np.testing.assert_array_equal(store.images().take(np.arange(40)), expected)


def generator(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_embeddings_are_low_density_points_through_the_inverse(
    data: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """v' of the Gaussians of f(e_i / scale, y_i), mapped back and put to scale."""
    seen: list[tuple[Tensor, Tensor]] = []
    init = ClassGaussians.__init__

    def spy(self: ClassGaussians, v: Tensor, classes: Tensor, *more: Any) -> None:
        seen.append((v, classes))
        init(self, v, classes, *more)

    monkeypatch.setattr(ClassGaussians, "__init__", spy)
    made = made_of(data, tmp_path, embed={"pairs": 4, "per_class": 15}, ridge=1e-5)
    ready = made._prepared.get()
    (v, fitted_classes), *_ = seen
    assert torch.bincount(fitted_classes).tolist() == [15] * CLASSES
    embedded = image_embeddings.embed_images(
        ready.diffusion, setting_of(data, tmp_path), made.options.embed, made.options.diffusion
    )
    with torch.no_grad():
        torch.testing.assert_close(ready.map(embedded.e / ready.scale, embedded.classes), v)
        classes = torch.arange(60) % CLASSES
        e = made.embeddings(classes, generator())
        back = ready.map(e / ready.scale, classes)
    torch.testing.assert_close(back, ready.gaussians.sample(classes, generator()), rtol=1e-4, atol=1e-5)
    assert e.shape == (60, 12)
    for c in range(CLASSES):  # around the embeddings of their class, farther out than these
        mine = embedded.e[embedded.classes == c]
        centre, spread = mine.mean(0), (mine - mine.mean(0)).norm(dim=-1).mean()
        away = (e[classes == c] - centre).norm(dim=-1).mean()
        assert spread < away < 4 * spread


def test_images_are_those_of_the_embeddings_and_parents_their_classes(
    data: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = made_of(data, tmp_path)
    asked: list[tuple[Tensor, Tensor]] = []
    sample = solvable.SolvableDiffusion.sample

    def spy(self: Any, e: Tensor, classes: Tensor, generator: torch.Generator) -> Tensor:
        asked.append((e, classes))
        return sample(self, e, classes, generator)

    monkeypatch.setattr(solvable.SolvableDiffusion, "sample", spy)
    outliers = made.sample(NO_BATCH, generator())
    ((e, classes),) = asked
    assert outliers.data.shape == (12, SIDE, SIDE, 3)
    assert outliers.data.dtype == torch.uint8
    assert outliers.parents is not None
    assert outliers.parents.equal(classes[:, None])
    assert len(e) == 12  # of one size with the data: no image twice
    assert len({image.numpy().tobytes() for image in outliers.data}) == 12
    many = made_of(data, tmp_path, count=600).sample(NO_BATCH, generator())
    assert many.parents is not None
    assert torch.bincount(many.parents[:, 0]).min() > 150


def test_the_seed_decides(data: ImageData, tmp_path: Path) -> None:
    first, again = made_of(data, tmp_path / "a"), made_of(data, tmp_path / "b")
    assert first.sample(NO_BATCH, generator()).data.equal(again.sample(NO_BATCH, generator()).data)
    assert not first.sample(NO_BATCH, generator()).data.equal(first.sample(NO_BATCH, generator(2)).data)


@pytest.mark.parametrize("kernel", ["nearest", "bilinear", "both"])
@pytest.mark.parametrize("count", [6, 7])
def test_larger_images_are_resized_by_the_kernel(data: ImageData, tmp_path: Path, kernel: Any, count: int) -> None:
    made = made_of(data, tmp_path, count=count, diffusion="solvable-larger", resize_kernel=kernel)
    outliers = made.sample(NO_BATCH, generator())
    decoded = -(-count // 2) if kernel == "both" else count
    random = generator()
    classes = torch.randint(CLASSES, (decoded,), generator=random)
    large = made._prepared.get().diffusion.sample(made.embeddings(classes, random), classes, random)
    assert large.shape[1:] == (2 * SIDE, 2 * SIDE, 3)
    assert outliers.data.equal(resized(large, SIDE, SIDE, kernel)[:count])
    assert outliers.parents is not None
    expected = classes.repeat_interleave(2) if kernel == "both" else classes
    assert outliers.parents[:, 0].equal(expected[:count])


@pytest.mark.parametrize(
    ("more", "tuned_with"),
    [
        ({}, "An image of a {}"),
        ({"prompt": "this is the {}"}, "this is the {}"),
        ({"prompt": None}, "A high-quality image of the {}"),
    ],
)
def test_stable_diffusion_is_told_one_prompt_and_asked_another(
    data: ImageData,
    tmp_path: Path,
    tiny_pipeline: Path,
    monkeypatch: pytest.MonkeyPatch,
    more: dict[str, Any],
    tuned_with: str,
) -> None:
    from diffusers import StableDiffusionPipeline

    encode, seen = StableDiffusionPipeline.encode_prompt, set[str]()

    def spy(self: Any, prompt: Any, *others: Any, **named: Any) -> Any:
        seen.update(prompt or ())
        return encode(self, prompt, *others, **named)

    monkeypatch.setattr(StableDiffusionPipeline, "encode_prompt", spy)
    stable = {"model": "stable-diffusion", "pipeline": str(tiny_pipeline), "sampling_steps": 1}
    made = made_of(data, tmp_path, diffusion=stable, embed={"pairs": 4, "per_class": 2, **more})
    assert seen == {"", *(tuned_with.replace("{}", name) for name in data.class_names)}
    seen.clear()
    made.sample(NO_BATCH, generator())
    assert seen - {""} == {f"A high-quality image of the {name}" for name in data.class_names}


def test_prompts_for_tuning_are_checked_before_anything_is_trained() -> None:
    with pytest.raises(ValidationError, match=r"prompt='an image' has no place for the class's name; put \{\}"):
        NCISImageOptions(embed={"prompt": "an image"})
    for prompt in ("this is the {}", None):
        with pytest.raises(
            ValidationError, match=r"embed\.prompt=.* is not read with diffusion\.model='built-in'; drop it, or"
        ):
            NCISImageOptions(embed={"prompt": prompt})


def test_both_kernels_are_the_default() -> None:
    assert NCISImageOptions().resize_kernel == "both"
    assert (NCISImageOptions().draws, NCISImageOptions().keep) == (3330, 10)


def test_points_are_farther_out_where_a_small_model_decodes_them(data: ImageData, tmp_path: Path) -> None:
    """By the published lambda it decodes images of their class."""
    stable = {"model": "stable-diffusion", "pipeline": "a/b"}
    assert chosen_ridge(NCISImageOptions(diffusion=stable)) == 1e-5  # type: ignore[arg-type]
    assert chosen_ridge(NCISImageOptions()) == 1e-3
    assert chosen_ridge(NCISImageOptions(ridge=0.0)) == 0
    factors = [made_of(data, tmp_path, **given)._prepared.get().gaussians.factors for given in ({}, {"ridge": 1e-3})]
    assert factors[0].equal(factors[1])


def test_what_takes_long_is_kept(data: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = made_of(data, tmp_path)
    names = sorted(path.name.split("-")[0] for path in tmp_path.iterdir())
    assert names == ["cvpn", "embeddings"]
    monkeypatch.setattr(image_embeddings, "tuned", lambda *_: pytest.fail("embedded again"))
    monkeypatch.setattr(fitting.Invariants, "update", lambda *_: pytest.fail("trained again"))
    again = made_of(data, tmp_path)
    assert again.sample(NO_BATCH, generator()).data.equal(first.sample(NO_BATCH, generator()).data)


def test_embeddings_lie_with_a_model_that_is_shared(data: ImageData, tmp_path: Path) -> None:
    made_of(data, tmp_path / "run", diffusion={"model": "solvable", "folder": str(tmp_path / "model")})
    assert list((tmp_path / "model").glob("embeddings-*"))
    assert not list((tmp_path / "run").glob("embeddings-*"))


def test_the_ridge_decides_how_far_out_embeddings_lie(data: ImageData, tmp_path: Path) -> None:
    """Fig. 3 of the paper."""
    classes, spreads = torch.zeros(200, dtype=torch.int64), []
    for ridge in (1e-7, 1e-4, 1e-2):
        made = made_of(data, tmp_path, ridge=ridge)
        ready = made._prepared.get()
        with torch.no_grad():
            e = made.embeddings(classes, generator())
            spreads.append(float(ready.map(e / ready.scale, classes).std(0).mean()))
    assert spreads == sorted(spreads)
    assert spreads[2] > 2 * spreads[0]


def test_it_samples_once_it_is_prepared() -> None:
    with pytest.raises(ConfigError, match=r"'ncis' has no diffusion model yet; call prepare\(context\) first"):
        create_synthesiser("ncis", 4, CLASSES).sample(NO_BATCH, generator())


def test_linear_invariants_are_gaussians_of_the_embeddings(data: ImageData, tmp_path: Path) -> None:
    """Table 3 of the paper: no network is fitted, and outliers lie around the embeddings' own mean, by their spread."""
    made = made_of(data, tmp_path, invariants={"kind": "linear"}, ridge=1e-9, embed={"pairs": 4, "lr": 0.05})
    assert not list(tmp_path.rglob("cvpn*"))
    embedded = image_embeddings.embed_images(
        solvable.SolvableDiffusion(CLASSES, (SIDE, SIDE), 3),
        setting_of(data, tmp_path),
        made.options.embed,
        made.options.diffusion,
    )
    classes = torch.arange(300) % CLASSES
    e = made.embeddings(classes, torch.Generator().manual_seed(0))
    for c in range(CLASSES):
        own, drawn = embedded.e[embedded.classes == c], e[classes == c]
        spread = own.std(0)
        assert ((drawn.mean(0) - own.mean(0)).abs() < 1.2 * spread).all()
        assert 1 < float((drawn.std(0) / spread).median()) < 3  # the least likely of 3,330


def test_embeddings_can_be_dream_oods(data: ImageData, tmp_path: Path) -> None:
    """Features of an encoder, each as long as the embedding of its class."""
    seen: list[tuple[Tensor, Tensor]] = []
    with pytest.MonkeyPatch.context() as patch:
        embedded = NCISImages._embedded

        def spy(self: NCISImages, *arguments: Any) -> tuple[Tensor, Tensor]:
            seen.append(embedded(self, *arguments))
            return seen[-1]

        patch.setattr(NCISImages, "_embedded", spy)
        made_of(data, tmp_path, embedding="encoder", embed={}, encoder={"backbone": "wrn10_2", "epochs": 1})
    e, classes = seen[0]
    table = solvable.SolvableDiffusion(CLASSES, (SIDE, SIDE), 3).table
    torch.testing.assert_close(e.norm(dim=-1), table.norm(dim=-1)[classes])
    assert sorted(classes.tolist()) == sorted(data.labels.tolist())  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("given", "unread"),
    [
        ({"embedding": "encoder", "embed": {"pairs": 4}}, "embed=.* is not read with embedding='encoder'"),
        ({"encoder": {"epochs": 2}}, "encoder=.* is not read with embedding='tuned'"),
        ({"invariants": {"kind": "linear", "epochs": 3}}, "epochs=3 is not read with kind='linear'"),
        (
            {"invariants": {"kind": "linear"}, "variant": "code"},
            "variant='code' is not read with invariants.kind='linear'",
        ),
    ],
)
def test_what_the_papers_ablations_do_not_read_is_refused(given: dict[str, Any], unread: str) -> None:
    with pytest.raises(ConfigError, match=unread):
        create_synthesiser("ncis", 4, CLASSES, **given)


def test_a_way_of_resizing_that_is_none_is_refused_before_anything_is_embedded(data: ImageData, tmp_path: Path) -> None:
    made = create_synthesiser("ncis", 4, CLASSES, diffusion="built-in", resize_via=256)
    with pytest.raises(ConfigError, match="resize_via=256 is not read where images of 8 x 8 pixels become 8 x 8"):
        made.check(setting_of(data, tmp_path))
