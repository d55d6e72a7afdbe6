"""A guard for grey images, such as scans: one channel from the first layer on, grey pixels in the exported file.

    python docs/examples/grey_images.py

The "scans" are drawn: discs, rings and bars in noise. What must be flagged is a scan with a second object, an inverted
one, and an empty field.
"""

import numpy as np

import guard

SIDE = 32
rng = np.random.default_rng(0)
rows, columns = np.mgrid[:SIDE, :SIDE]


def drawn(kind: int) -> np.ndarray:
    """uint8 (SIDE, SIDE): a disc (0), a ring (1) or a bar (2) somewhere, on a noisy ground."""
    y, x = rng.uniform(11, 21, 2)
    distance = np.hypot(rows - y, columns - x)
    inside = [distance < 7, (distance < 9) & (distance > 5), (abs(rows - y) < 3) & (abs(columns - x) < 10)][kind]
    return (60 + 110 * inside + rng.normal(0, 12, inside.shape)).clip(0, 255).astype(np.uint8)


labels = np.arange(1200) % 3
images = np.stack([drawn(kind) for kind in labels])[..., None]  # (N, 32, 32, 1)
g = guard.train(
    (images, labels),
    in_chans=1,
    calibration=300,
    class_conditional=True,  # each predicted class is flagged at most at alpha
    score="energy+mahalanobis",
    backbone="wrn10_2",
    epochs=5,
    out="runs/examples/grey",
    resume=True,  # a second run of this file takes what the first one trained
)
path = guard.export(g, "runs/examples/grey_images.onnx")

ordinary = np.stack([drawn(kind) for kind in np.arange(150) % 3])[..., None]
strange = {
    "two objects": np.maximum(ordinary, ordinary[::-1]),
    "inverted": 255 - ordinary,
    "empty": rng.normal(60, 12, ordinary.shape).clip(0, 255).astype(np.uint8),
}
exported = guard.load(path)
print(f"ordinary scans: {exported.predict(ordinary).is_ood.mean():.1%} flagged, 5 % promised at most")
for name, scans in strange.items():
    print(f"{name}: {exported.predict(scans).is_ood.mean():.0%} flagged")
