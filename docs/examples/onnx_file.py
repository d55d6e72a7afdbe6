"""A guard for a classifier that you have as an ONNX file, whoever wrote it.

    python docs/examples/onnx_file.py

The file is made here by torch.onnx. `guard.fit` finds the last layer in its graph; the guard's file is that graph with
the normalisation in front and the score behind.
"""

from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

import guard

digits = load_digits()
images = (digits.images * 255 / 16).astype(np.uint8)[..., None].repeat(3, -1).repeat(4, 1).repeat(4, 2)
shown = digits.target < 8
learned, held_out = np.flatnonzero(shown)[:800], np.flatnonzero(shown)[800:]

torch.manual_seed(0)
model = nn.Sequential(
    nn.Conv2d(3, 16, 3, 2, 1),
    nn.ReLU(),
    nn.Conv2d(16, 32, 3, 2, 1),
    nn.ReLU(),
    nn.AdaptiveAvgPool2d(2),
    nn.Flatten(),
    nn.Linear(128, 8),
)
x = torch.from_numpy(images[learned]).permute(0, 3, 1, 2).float() / 255
y = torch.from_numpy(digits.target[learned])
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
for _ in range(30):
    for rows in torch.randperm(len(x)).split(50):
        optimizer.zero_grad()
        F.cross_entropy(model(x[rows]), y[rows]).backward()
        optimizer.step()
Path("runs/examples").mkdir(parents=True, exist_ok=True)
shape = ({0: torch.export.Dim("batch")},)
torch.onnx.export(model.eval(), (x[:2],), "runs/examples/classifier.onnx", dynamic_shapes=shape, verbose=False)

g = guard.fit(
    "runs/examples/classifier.onnx",
    (images[held_out], digits.target[held_out]),
    score="energy+mahalanobis",
    score_options={"part_options": {"mahalanobis": {"normalise": 1}}},
    mean=(0, 0, 0),
    std=(1, 1, 1),
)
path = guard.export(g, "runs/examples/onnx_file.onnx")

nines = images[digits.target == 9]
verdicts = guard.load(path).predict(nines)
print(f"a nine is called {verdicts[0].class_name} at {verdicts[0].probability:.0%}, OOD: {verdicts[0].is_ood}")
print(f"{verdicts.is_ood.mean():.0%} of {len(nines)} nines are flagged")
