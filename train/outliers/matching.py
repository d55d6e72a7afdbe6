"""Match outliers to in-distribution images in what no detector should learn (sharpness, contrast, colour, coding).

Outliers that differ from in-distribution images in a low-level statistic teach that statistic: averages of images are
soft, and a head trained on them learns softness. Each function gives every outlier the statistic of one in-distribution
image, so that over a set both have the same distribution of it (before pixels are rounded and cut to 0..255).

    spectrum     power at each radius of the Fourier plane, per channel; phases stay          sharpness, contrast, mean
    detail       values of the detail, x less its mean over 3 x 3 neighbours, rank by rank    kurtosis, noise, sharpness
    colour       mean and standard deviation of each channel
    saturation   mean over pixels of (largest - smallest channel); luminance stays
    contrast     standard deviation of luminance; channel means stay
    brightness   mean luminance
    histogram    values of each channel, rank by rank: so its clipped pixels too
    coding       one round of JPEG as in the source's own files, where they are JPEGs of the input's size (stores only)

Several are applied in this order, whatever order they are named in. uint8 (K, H, W, channels) in and out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from guard.data.coding import Coding, recode
from guard.errors import ConfigError, UnknownNameError

from .base import Changed, IDBatch, Outliers, Synthesiser

LUMINANCE = (0.299, 0.587, 0.114)  # ITU-R BT.601, as in JPEG
_TINY = 1e-3  # grey levels; flatter images have nothing to scale


def luminance(images: Tensor) -> Tensor:
    """Grey levels (K, H, W, 1) of float images (K, H, W, 1 or 3)."""
    if images.shape[-1] == 1:
        return images
    red, green, blue = images.split(1, dim=-1)  # scalars: a tensor of weights would be a copy to the device
    grey: Tensor = LUMINANCE[0] * red + LUMINANCE[1] * green + LUMINANCE[2] * blue
    return grey


def match_spectrum(images: Tensor, like: Tensor) -> Tensor:
    """|F| scaled ring by ring so that the mean power at each radius is that of `like`; both float (K, H, W, channels).

    Rings are one frequency step of the shorter side wide. The ring of radius 0 is the mean, so that images come out
    with the mean and, by Parseval, the variance of `like` as well. A ring without power stays empty.
    """
    spectrum, other = (torch.fft.rfft2(x, dim=(1, 2)) for x in (images, like))
    ring, weight = _rings(images.shape[1], images.shape[2], images)
    numbers = torch.arange(int(max(images.shape[1:3])) + 1, device=images.device)
    member = (ring.flatten()[:, None] == numbers) * weight.flatten()[:, None]  # a product sums in one order everywhere

    def power(f: Tensor) -> Tensor:
        squared = f.real.square() + f.imag.square()
        return torch.einsum("kmc,mr->krc", squared.flatten(1, 2), member)

    ours, theirs = power(spectrum), power(other)
    floor = _TINY**2 * images.shape[1] * images.shape[2]
    gain = torch.where(ours > floor, (theirs / ours.clamp_min(floor)).sqrt(), 1.0)
    scaled = spectrum * gain[:, ring.flatten()].view(spectrum.shape)
    matched: Tensor = torch.fft.irfft2(scaled, s=images.shape[1:3], dim=(1, 2))
    return matched


def _rings(height: int, width: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """For the half plane of `rfft2` (H, W // 2 + 1): the ring of each frequency, and how often it counts."""
    rows = torch.fft.fftfreq(height, dtype=like.dtype, device=like.device) * min(height, width)
    columns = torch.fft.rfftfreq(width, dtype=like.dtype, device=like.device) * min(height, width)
    ring = torch.hypot(rows[:, None], columns[None]).round().long().clamp_min(1)
    ring[0, 0] = 0  # the mean alone: of a long image other frequencies lie as near
    twice = torch.full_like(columns, 2.0)
    twice[0] = 1
    if width % 2 == 0:
        twice[-1] = 1
    return ring, twice.expand(height, -1)


def match_detail(images: Tensor, like: Tensor) -> Tensor:
    """x - its mean over 3 x 3 neighbours takes the values that it has in `like`, of each channel, in its own order."""
    smooth, other = (_smoothed(x) for x in (images, like))
    return smooth + _ranked(images - smooth, like - other)


def match_histogram(images: Tensor, like: Tensor) -> Tensor:
    """Each channel takes the values of `like`'s, the smallest where it was smallest: exact after rounding, too."""
    return _ranked(images, like)


def _smoothed(images: Tensor) -> Tensor:
    """Means over 3 x 3 neighbours, edges repeated; (K, H, W, channels)."""
    padded = torch.nn.functional.pad(images.permute(0, 3, 1, 2), (1, 1, 1, 1), mode="replicate")
    return torch.nn.functional.avg_pool2d(padded, 3, 1).permute(0, 2, 3, 1)


def _ranked(values: Tensor, like: Tensor) -> Tensor:
    """The values of `like` in the order of `values`, for each image and channel; both (K, H, W, channels)."""
    flat = values.flatten(1, 2)
    order = flat.argsort(dim=1, stable=True)
    return torch.empty_like(flat).scatter_(1, order, like.flatten(1, 2).sort(1).values).view(values.shape)


def match_colour(images: Tensor, like: Tensor) -> Tensor:
    """Each channel's mean and standard deviation become those of `like`."""
    mean, other = (x.mean((1, 2), keepdim=True) for x in (images, like))
    std, wanted = (x.std((1, 2), keepdim=True, correction=0) for x in (images, like))
    return other + (images - mean) * _ratio(wanted, std)


def match_saturation(images: Tensor, like: Tensor) -> Tensor:
    """Differences from luminance are scaled so that the mean spread of the channels becomes that of `like`."""
    if images.shape[-1] == 1:
        return images
    grey = luminance(images)
    return grey + (images - grey) * _ratio(_spread(like), _spread(images))


def match_contrast(images: Tensor, like: Tensor) -> Tensor:
    """Differences from the channels' means are scaled so that luminance has the standard deviation of `like`'s."""
    mean = images.mean((1, 2), keepdim=True)
    std, wanted = (luminance(x).std((1, 2), keepdim=True, correction=0) for x in (images, like))
    return mean + (images - mean) * _ratio(wanted, std)


def match_brightness(images: Tensor, like: Tensor) -> Tensor:
    """A constant is added so that mean luminance becomes that of `like`."""
    here, wanted = (luminance(x).mean((1, 2), keepdim=True) for x in (images, like))
    return images + (wanted - here)


def _spread(images: Tensor) -> Tensor:
    return (images.amax(-1) - images.amin(-1)).mean((1, 2)).view(-1, 1, 1, 1)


def _ratio(wanted: Tensor, have: Tensor) -> Tensor:
    """wanted / have; 1 where there is nothing to scale."""
    return torch.where(have > _TINY, wanted / have.clamp_min(_TINY), 1.0)


MATCHES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "spectrum": match_spectrum,
    "detail": match_detail,
    "colour": match_colour,
    "saturation": match_saturation,
    "contrast": match_contrast,
    "brightness": match_brightness,
    "histogram": match_histogram,
}
CODING = "coding"


def checked(names: Sequence[str] | str, *, online: bool = False) -> tuple[str, ...]:
    """`names` in the order they are applied in, each once.

    Raises:
        UnknownNameError: there is no such match.
        ConfigError: "coding" where images are made in every step (`online`).
    """
    names = (names,) if isinstance(names, str) else tuple(names)
    known = (*MATCHES, CODING)
    for name in names:
        if name not in known:
            raise UnknownNameError("match", name, known)
    if online and CODING in names:
        raise ConfigError(
            "match 'coding' writes and reads JPEGs on the host and is for stores: "
            "guard synth --match coding, then outliers='the/store'"
        )
    return tuple(name for name in known if name in names)


def check_treated(treat_id: bool, names: tuple[str, ...]) -> None:
    """Raises ValueError where in-distribution images are to be matched too, in nothing that a step can match."""
    if treat_id and not names:
        raise ValueError("treat_id=True needs match= (what is to be treated), got none")
    if treat_id and names == (CODING,):
        raise ValueError(
            "treat_id=True is not read with match=('coding',): JPEGs are written for stores, not in every step; "
            "drop it, or match something else as well"
        )


def match(images: Tensor, inliers: Tensor, names: Sequence[str], generator: torch.Generator) -> Tensor:
    """Each image matched to a random one of `inliers` (N, H, W, channels) in `names` ("coding" is left out).

    All on the images' device, without synchronisation; draws come from `generator` alone.
    """
    steps = [MATCHES[name] for name in names if name in MATCHES]
    if not steps:
        return images
    n = len(inliers)
    pick = torch.rand(len(images), generator=generator, device=images.device).mul_(n).long().clamp_max_(n - 1)
    like, x = inliers[pick].float(), images.float()
    for step in steps:
        x = step(x, like)
    return x.round().clamp(0, 255).to(torch.uint8)


def match_half(batch: IDBatch, names: Sequence[str], generator: torch.Generator) -> IDBatch:
    """The batch with each image matched to a random other one with probability 1/2; its images are no longer `rows`."""
    changed = match(batch.images, batch.images, names, generator)
    treated = torch.rand(len(changed), generator=generator, device=changed.device) < 0.5
    return batch._replace(images=torch.where(treated.view(-1, 1, 1, 1), changed, batch.images), rows=None)


def recoded(
    images: np.ndarray, names: Sequence[str], codings: Sequence[Coding | None], generator: torch.Generator
) -> np.ndarray:
    """The images with a random one of the source's codings each, where "coding" is asked for and there are any."""
    if CODING not in names or not codings:
        return images
    pick = torch.randint(len(codings), (len(images),), generator=generator, device=generator.device).tolist()
    chosen = [codings[i] for i in pick]
    return np.stack([x if c is None else recode(x, c) for x, c in zip(images, chosen, strict=True)])


class Matched(Changed):
    """Another synthesiser's outliers, matched in every step to random images of the batch."""

    def __init__(self, synthesiser: Synthesiser, names: Sequence[str]) -> None:
        super().__init__(synthesiser)
        self.names = checked(names, online=True)

    def change(self, made: Outliers, batch: IDBatch, generator: torch.Generator) -> Outliers:
        data = match(made.data, batch.images, self.names, generator)
        return made._replace(data=data, origin=f"{made.origin}, {', '.join(self.names)} as in-distribution")
