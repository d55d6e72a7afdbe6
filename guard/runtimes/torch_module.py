"""A torch `GuardModule` behind the `Runtime` protocol: what `guard.train` and `guard.fit` return."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from ..errors import ConfigError, RuntimeUnavailableError
from . import Outputs, check_images

if TYPE_CHECKING:
    from ..graph.module import GuardModule
    from ..manifest import Preprocess


def resolve_device(device: str) -> torch.device:
    """ "auto" -> CUDA where there is one; "cuda" without one is an error."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.split(":")[0] not in ("cpu", "cuda"):
        raise ConfigError(f"device must be 'auto', 'cpu' or 'cuda', got {device!r}")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise RuntimeUnavailableError("device='cuda' was asked for, but torch sees no CUDA device; use device='cpu'")
    return torch.device(device)


class TorchModule:
    """Runs the module in eval mode, float32, without gradients."""

    name = "torch"

    def __init__(self, module: GuardModule, preprocess: Preprocess, device: str = "auto") -> None:
        self._device = resolve_device(device)
        self.device = self._device.type
        self.module = module.to(self._device).eval()
        self._shape = (preprocess.height, preprocess.width, preprocess.channels)

    @torch.inference_mode()
    def run(self, images: np.ndarray, threshold: float | None = None, **_: np.ndarray) -> Outputs:
        """See `guard.runtimes`; the module has no optional inputs. A missing threshold flags NaN alone (the calibrated
        one lives in the manifest)."""
        check_images(images, self._shape)
        limit = torch.tensor(float("inf") if threshold is None else threshold, device=self._device)
        self.module.eval()
        outputs = self.module(torch.from_numpy(np.ascontiguousarray(images)).to(self._device), limit)
        return Outputs(*(output.cpu().numpy() for output in outputs))
