"""A guard for a timm model that you fine-tuned yourself.

    python docs/examples/timm_model.py

The fine-tuning is a stand-in: a small timm network learns the digits 0 to 7 for a moment. What matters is the end:
`guard.fit` on the model as it is, an export, and its verdict on a digit that was never shown.
"""

import numpy as np
import timm
import torch
from sklearn.datasets import load_digits
from torch.nn import functional as F

import guard

digits = load_digits()
images = (digits.images * 255 / 16).astype(np.uint8)[..., None].repeat(3, -1)  # (N, 8, 8, 3)
images = images.repeat(4, 1).repeat(4, 2)  # 32 pixels
shown = digits.target < 8
learned, held_out = np.flatnonzero(shown)[:800], np.flatnonzero(shown)[800:]

torch.manual_seed(0)
model = timm.create_model("test_resnet", num_classes=8)
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
x = torch.from_numpy(images[learned]).permute(0, 3, 1, 2).float() / 255
x = (x - 0.5) / 0.25
y = torch.from_numpy(digits.target[learned])
for _ in range(8):
    for rows in torch.randperm(len(x)).split(50):
        optimizer.zero_grad()
        F.cross_entropy(model(x[rows]), y[rows]).backward()
        optimizer.step()
model.eval()

# Images that the model was not trained on: they fit the score and choose the threshold.
g = guard.fit(
    model,
    (images[held_out], digits.target[held_out]),
    score="energy+mahalanobis",
    score_options={"part_options": {"mahalanobis": {"normalise": 1}}},
    mean=(0.5, 0.5, 0.5),
    std=(0.25, 0.25, 0.25),
    image_size=32,
)
path = guard.export(g, "runs/examples/timm_model.onnx")

nines = images[digits.target == 9]
verdicts = guard.load(path).predict(nines)  # ONNX Runtime; torch is not needed any more
print(f"a nine is called {verdicts[0].class_name} at {verdicts[0].probability:.0%}, OOD: {verdicts[0].is_ood}")
print(f"{verdicts.is_ood.mean():.0%} of {len(nines)} nines are flagged")
