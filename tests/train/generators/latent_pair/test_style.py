"""The style-based generator against slow formulas."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from train.generators.latent_pair.style import Mapping, ModulatedConv2d, Synthesis, widths
from train.generators.latent_pair.trunk import Discriminator, Encoder, spread


def modulated_conv(x: np.ndarray, style: np.ndarray, weight: np.ndarray, demodulate: bool) -> np.ndarray:
    """One image (inputs, h, w) with its own weights, pixel by pixel, as StyleGAN2 writes it down."""
    own = weight * style[None, :, None, None]
    if demodulate:
        own = own / np.sqrt((own**2).sum((1, 2, 3), keepdims=True) + 1e-8)
    outputs, _, kernel, _ = weight.shape
    pad = kernel // 2
    padded = np.pad(x, ((0, 0), (pad, pad), (pad, pad)))
    y = np.zeros((outputs, *x.shape[1:]))
    for o in range(outputs):
        for i in range(x.shape[1]):
            for j in range(x.shape[2]):
                y[o, i, j] = (own[o] * padded[:, i : i + kernel, j : j + kernel]).sum()
    return y


@pytest.mark.parametrize(("kernel", "demodulate"), [(3, True), (1, False)])
def test_a_modulated_convolution_is_one_with_weights_of_its_own_per_image(kernel: int, demodulate: bool) -> None:
    torch.manual_seed(0)
    layer = ModulatedConv2d(3, 4, latent=5, kernel=kernel, demodulate=demodulate)
    with torch.no_grad():
        layer.bias.normal_()
    x, w = torch.randn(2, 3, 4, 5), torch.randn(2, 5)
    ours = layer(x, w).detach().numpy()
    styles = w.numpy() @ layer.style.weight.detach().numpy().T + layer.style.bias.detach().numpy()
    for n in range(2):
        expected = modulated_conv(x[n].numpy(), styles[n], layer.weight.detach().numpy(), demodulate)
        expected += layer.bias.detach().numpy()[:, None, None]
        np.testing.assert_allclose(ours[n], expected, rtol=1e-4, atol=1e-5)


def test_demodulated_outputs_have_unit_variance_whatever_the_style() -> None:
    torch.manual_seed(0)
    layer = ModulatedConv2d(16, 8, latent=4)
    with torch.no_grad():
        layer.weight.mul_(3)
    x, w = torch.randn(64, 16, 12, 12), 30 * torch.randn(1, 4).expand(64, -1)
    variance = layer(x, w)[:, :, 1:-1, 1:-1].var((0, 2, 3))  # borders see the padding
    np.testing.assert_allclose(variance.detach().numpy(), 1, atol=0.15)


def test_the_first_map_of_an_image_depends_on_the_first_styles_only() -> None:
    torch.manual_seed(0)
    net = Synthesis(16, 4, latent=6, channels=3)
    assert widths(16, 4) == {4: 16, 8: 8, 16: 4}
    assert net.num_styles == 6
    w = torch.randn(1, 6, 6)
    assert net(w).shape == (1, 3, 16, 16)
    for style in range(6):  # every style matters, the last ones least coarsely
        other = w.clone()
        other[:, style] += 1
        assert not net(other).allclose(net(w))
    fine = w.clone()
    fine[:, 4:] += 1
    x, first = net.blocks[0](net.constant[None], None, w[:, :2])
    again, second = net.blocks[0](net.constant[None], None, fine[:, :2])
    assert x.equal(again)
    assert first.equal(second)


def test_classes_and_z_both_decide_w() -> None:
    torch.manual_seed(0)
    mapping = Mapping(8, 3)
    z = torch.randn(2, 8)
    same = mapping(z[:1].expand(2, -1), torch.tensor([0, 1]))
    assert not same[0].allclose(same[1])
    assert not mapping(z, torch.tensor([1, 1]))[0].allclose(mapping(z, torch.tensor([1, 1]))[1])
    assert mapping(7 * z, torch.tensor([1, 1])).allclose(mapping(z, torch.tensor([1, 1])), atol=1e-5)  # direction only


def test_encoder_and_discriminator_shapes() -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 1, 16, 16)
    assert Encoder(16, 4, 6, 1, 6)(x).shape == (3, 6, 6)
    discriminator = Discriminator(16, 4, 1, 5)
    logits, maps = discriminator(x, torch.tensor([0, 1, 2]))
    assert logits.shape == (3,)
    assert [m.shape[-1] for m in maps] == [16, 8, 4]
    assert not discriminator(x, torch.tensor([1, 1, 2]))[0][0].isclose(logits[0])


def test_the_spread_over_a_batch_is_the_mean_standard_deviation() -> None:
    features = torch.randn(7, 5, generator=torch.Generator().manual_seed(0))
    expected = features.numpy().std(0).mean()
    np.testing.assert_allclose(spread(features).numpy(), np.full((7, 1), expected), rtol=1e-5)
