"""Which layers a score reads where nobody names them, and guards whose score reads layers or the input's gradient."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import guard
from guard.errors import ExportError, ModelError, UnknownNameError
from guard.graph.module import GuardModule
from guard.graph.outputs import Classifier, FeatureClassifier
from guard.heads import create_head
from guard.manifest import Normalisation
from guard.scores import create_score
from tests.conftest import Arrays
from tests.train import models
from train.backbones import create_backbone
from train.features.choose_layers import watch_layers
from train.features.extract import hook_features

NORMALISATION = Normalisation(mean=(0.5,) * 3, std=(0.25,) * 3)
IMAGES = torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def timm_model(name: str, **options: Any) -> nn.Module:
    import timm

    torch.manual_seed(0)
    return timm.create_model(name, num_classes=4, **options)


def tiny_vit() -> nn.Module:
    return timm_model("vit_tiny_patch16_224", img_size=16, patch_size=4, embed_dim=24, depth=6, num_heads=2)


def watched(classifier: FeatureClassifier, **options: Any) -> GuardModule:
    module = GuardModule(classifier, create_score("gram", **options), NORMALISATION)
    watch_layers(module, IMAGES)
    return module


def of_model(model: nn.Module, **options: Any) -> GuardModule:
    return watched(hook_features(model, torch.randn(2, 3, 32, 32)), **options)


class TestChoice:
    def test_a_resnet_is_read_at_the_end_of_its_four_stages(self) -> None:
        import torchvision

        ends = ("layer1.1", "layer2.1", "layer3.1", "layer4.1")
        assert of_model(timm_model("resnet18")).score.layers == ends
        assert of_model(torchvision.models.resnet18(num_classes=4)).score.layers == ends

    def test_a_wide_resnet_is_read_at_the_end_of_its_three_groups(self) -> None:
        network = create_backbone("wrn16_2")
        module = watched(Classifier(network, create_head("linear", network.num_features, 4)))
        assert module.score.layers == ("backbone.blocks.1", "backbone.blocks.3", "backbone.blocks.5")
        assert module.outputs(IMAGES).feature_map.shape == (2, 5 * (32 + 64 + 128))

    def test_a_transformer_is_read_at_evenly_spaced_blocks(self) -> None:
        module = of_model(timm_model("vit_tiny_patch16_224", img_size=32, embed_dim=24, num_heads=2))
        assert module.score.layers == ("blocks.2", "blocks.5", "blocks.8", "blocks.11")
        assert module.outputs(IMAGES).feature_map.shape == (2, 4 * 5 * 24)  # one map channel per token feature
        shallow = timm_model("vit_tiny_patch16_224", img_size=32, embed_dim=24, num_heads=2, depth=2)
        assert of_model(shallow).score.layers == ("blocks.0", "blocks.1")

    def test_channels_last_maps_are_read_by_their_channels(self) -> None:
        model = timm_model("swin_tiny_patch4_window7_224", img_size=32, embed_dim=12, depths=(1, 1), num_heads=(1, 2))
        module = of_model(model, powers=(1,))
        assert module.score.layers == ("layers.0", "layers.1")
        assert module.outputs(IMAGES).feature_map.shape == (2, 12 + 24)

    def test_networks_without_blocks_are_read_at_the_last_module_of_each_shape(self) -> None:
        assert of_model(models.sequential()).score.layers == ("2", "3")  # ReLU, then pooling

    def test_named_layers_are_read_and_nothing_else(self) -> None:
        module = of_model(timm_model("resnet18"), layers=("layer2", "layer1.0"), powers=(2,))
        found = module.outputs(IMAGES).feature_map
        assert found.shape == (2, 128 + 64)
        model, x = module.classifier.model, module.normalise(IMAGES)
        with torch.no_grad():
            stem = model.maxpool(model.act1(model.bn1(model.conv1(x))))
            second = model.layer2(model.layer1(stem))
            rows = second.flatten(2).square()
            expected = (rows @ rows.transpose(1, 2)).sum(-1).sqrt()
        torch.testing.assert_close(found[:, :128], expected, rtol=1e-4, atol=1e-4)

    def test_an_unknown_layer_is_named_with_near_matches(self) -> None:
        with pytest.raises(UnknownNameError, match=r"unknown layer 'layer5'; did you mean 'layer[1-4]'"):
            of_model(timm_model("resnet18"), layers=("layer5",))

    def test_a_layer_that_does_not_run_is_named(self) -> None:
        model = models.Dropped()
        model.spare = nn.Linear(3, 3)
        with pytest.raises(ModelError, match=r"did not run its layer 'spare'; name others with layers="):
            of_model(model, layers=("hidden", "spare"))

    def test_a_layer_that_gives_no_tensor_is_named(self) -> None:
        class Pair(nn.Module):
            def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
                return x, x

        class Paired(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.pair, self.rest = Pair(), models.sequential()

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return self.rest(self.pair(x)[0])

        with pytest.raises(ModelError, match="layer 'pair' returns a tuple; score 'gram' needs one that returns a ten"):
            of_model(Paired(), layers=("pair",))

    def test_a_network_without_maps_is_refused(self) -> None:
        model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 8), nn.ReLU(), nn.Linear(8, 4))
        with pytest.raises(ModelError, match="no module of Sequential gives one; name modules with layers="):
            of_model(model)
        assert of_model(model, layers=("2",)).outputs(IMAGES).feature_map.shape == (2, 40)


MODELS = {
    "resnet": lambda: timm_model("resnet10t", stem_width=8, channels=(8, 12, 16, 24)),
    "vit": tiny_vit,
    "sequential": models.sequential,
}


class TestGram:
    @pytest.mark.parametrize("kind", MODELS)
    def test_any_classifier_is_guarded_reloaded_and_exported(self, kind: str, four: Arrays, tmp_path: Path) -> None:
        model = MODELS[kind]()
        torch.manual_seed(0)
        model(torch.randn(64, 3, 16, 16))  # batch norms see something
        model = model.eval()
        out = tmp_path / "run"
        g = guard.fit(model, four, score="gram", image_size=16, mean=(0.5,) * 3, std=(0.25,) * 3, device="cpu", out=out)
        images = four[0][g.splits["calibration"]]
        scores = g.predict(images).ood_score
        again = guard.Guard.from_pretrained(out, device="cpu", model=model)
        np.testing.assert_array_equal(again.predict(images).ood_score, scores)
        assert again.module.score.layers == g.module.score.layers != ()
        exported = guard.load(guard.export(again, tmp_path / "guard.onnx", data=images))
        assert exported.manifest.parity.flag_flips == 0
        # the unit is a layer's usual deviation
        np.testing.assert_allclose(exported.predict(images).ood_score, scores, rtol=1e-3, atol=1e-2)

    def test_it_can_be_a_part_of_a_combination(self, four: Arrays, tmp_path: Path) -> None:
        model = models.sequential().eval()
        normalised = {"image_size": 16, "mean": (0.5,) * 3, "std": (0.25,) * 3}
        g = guard.fit(model, four, score="energy+gram", device="cpu", **normalised)
        assert g.module.score.layers != ()
        images = four[0][:50]
        exported = guard.load(guard.export(g, tmp_path / "guard.onnx", data=four))
        expected = g.predict(images).ood_score
        np.testing.assert_allclose(exported.predict(images).ood_score, expected, rtol=1e-3, atol=1e-2)

    def test_training_can_end_with_it(
        self, four: Arrays, noise: np.ndarray, tiny: dict[str, Any], tmp_path: Path
    ) -> None:
        g = guard.train(four, score="gram", out=tmp_path / "run", **tiny)
        loaded = guard.load(tmp_path / "run", device="cpu")
        assert loaded.module.score.layers == ("backbone.blocks.0", "backbone.blocks.1", "backbone.blocks.2")
        np.testing.assert_array_equal(loaded.predict(noise).ood_score, g.predict(noise).ood_score)
        assert loaded.predict(noise).is_ood.mean() > 0.9
        path = guard.export(g, tmp_path / "guard.onnx")
        assert guard.verify(path, against=g, data=four).flag_flips == 0


class TestODIN:
    @pytest.fixture(scope="class")
    def fitted(self, trained: Any, four: Arrays, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
        out = tmp_path_factory.mktemp("odin") / "run"
        return guard.fit(trained("plain"), four, score="odin", out=out, device="cpu"), out

    def test_a_trained_classifier_takes_it_and_its_folder_comes_back(
        self, fitted: tuple[Any, Path], four: Arrays
    ) -> None:
        g, out = fitted
        again = guard.load(out, device="cpu")
        np.testing.assert_array_equal(again.predict(four[0][:40]).ood_score, g.predict(four[0][:40]).ood_score)
        assert again.manifest.score_options == {"temperature": 1000.0, "eps": 0.0014}

    @pytest.mark.parametrize("name", ["guard.onnx", "guard.engine"])
    def test_its_export_is_refused_with_the_reason_and_leaves_no_file(
        self, fitted: tuple[Any, Path], tmp_path: Path, name: str
    ) -> None:
        with pytest.raises(ExportError, match=r"'odin' cannot be exported: it needs the grad.*msp with temperature"):
            guard.export(fitted[0], tmp_path / name)
        assert not list(tmp_path.iterdir())

    def test_the_score_named_as_nearest_is_it_without_the_step(self, trained: Any, four: Arrays) -> None:
        images, module = four[0][:40], trained("plain").module
        found = []
        for score in (create_score("msp", temperature=1000), create_score("odin", eps=0)):
            with torch.inference_mode():
                twin = GuardModule(module.classifier, score, NORMALISATION)
                found.append(twin(torch.from_numpy(images), torch.tensor(0.0))[2])
        torch.testing.assert_close(*found, rtol=1e-6, atol=0)
