"""Options that had another name before 0.2: the old name, and the new one as a path through nested options."""

from __future__ import annotations

RENAMED: dict[str, str] = {
    "teacher_augment": "teacher.augment",
    "teacher_epochs": "teacher.epochs",
    "teacher_lr": "teacher.lr",
    "teacher_pretrained": "teacher.pretrained",
}
