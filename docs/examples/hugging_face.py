"""A guard for a Hugging Face image classifier: a folder, a hub id or a model.

    python docs/examples/hugging_face.py

The folder is made here, so that nothing is downloaded: a tiny vision transformer and its image processor, trained for a
moment. Weights are read from safetensors only.
"""

import numpy as np
import torch
from sklearn.datasets import load_digits
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

import guard

digits = load_digits()
images = (digits.images * 255 / 16).astype(np.uint8)[..., None].repeat(3, -1).repeat(4, 1).repeat(4, 2)
shown = digits.target < 8
learned, held_out = np.flatnonzero(shown)[:800], np.flatnonzero(shown)[800:]

torch.manual_seed(0)
names = ["zero", "one", "two", "three", "four", "five", "six", "seven"]
config = ViTConfig(
    hidden_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=96,
    image_size=32,
    patch_size=4,
    id2label=dict(enumerate(names)),
    label2id={name: i for i, name in enumerate(names)},
)
model = ViTForImageClassification(config)
processor = ViTImageProcessor(size={"height": 32, "width": 32})
pixels = processor(list(images[learned]), return_tensors="pt")["pixel_values"]
labels = torch.from_numpy(digits.target[learned])
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
for _ in range(30):
    for rows in torch.randperm(len(pixels)).split(50):
        optimizer.zero_grad()
        model(pixel_values=pixels[rows], labels=labels[rows]).loss.backward()
        optimizer.step()
model.eval().save_pretrained("runs/examples/vit")
processor.save_pretrained("runs/examples/vit")

# The image processor becomes the guard's preprocessing; the classes keep the model's names. The default score is for
# pretrained weights; this network was trained for a moment.
g = guard.fit("runs/examples/vit", (images[held_out], digits.target[held_out]), score="vim")
path = guard.export(g, "runs/examples/hugging_face.onnx")

nines = images[digits.target == 9]
verdicts = guard.load(path).predict(nines)
print(f"a nine is called {verdicts[0].class_name} at {verdicts[0].probability:.0%}, OOD: {verdicts[0].is_ood}")
print(f"{verdicts.is_ood.mean():.0%} of {len(nines)} nines are flagged")
