"""Options that had another name before 0.2: the old name, and the new one as a path through nested options.

Where several methods renamed it differently, the paths as a tuple; the first that the method has is meant. An old name
that is the path with a dot for its first underscore (``pair_epochs``, now ``pair.epochs``) needs no row.
"""

from __future__ import annotations

RENAMED: dict[str, str | tuple[str, ...]] = {
    "augment": "augment_outliers",
    "finetune_epochs": "tune_epochs",
    "finetune_lr": "tune_lr",
    "head_epochs": "tune_epochs",
    "head_lr": "tune_lr",
    "ngf": "gan.width",
    "pair_batch": "pair.batch_size",
    "tune": "tune_epochs",
    "teacher_augment": "teacher.augment",
    "teacher_epochs": "teacher.epochs",
    "teacher_lr": "teacher.lr",
    "teacher_pretrained": "teacher.pretrained",
}
