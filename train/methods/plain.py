"""Cross-entropy, nothing else: the baseline every other method is measured against, and the default.

Its score is ViM, which reads features and logits: an energy alone accepts images unlike anything in training when they
excite one class (colour noise, photographs), and the residual of the features catches those. The measurements behind
this choice are in docs/methods.md.
"""

from __future__ import annotations

from .base import Method, MethodContext, Stage, register


@register
class Plain(Method):
    """Cross-entropy on the in-distribution images. L = -log softmax(f(x))_y."""

    name = "plain"
    score = "vim"

    def stages(self, context: MethodContext) -> list[Stage]:
        return [Stage("classifier", context.epochs, context.lr)]
