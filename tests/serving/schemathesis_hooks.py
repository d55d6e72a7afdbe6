"""What Schemathesis cannot know: files that are images. Named by SCHEMATHESIS_HOOKS."""

from __future__ import annotations

import io

import schemathesis
from hypothesis import strategies as st
from PIL import Image


def files(format: str) -> st.SearchStrategy[bytes]:
    """Small images of one colour."""

    def encoded(colour: tuple[int, int, int], side: int) -> bytes:
        file = io.BytesIO()
        Image.new("RGB", (side, side), colour).save(file, format)
        return file.getvalue()

    return st.builds(encoded, st.tuples(*[st.integers(0, 255)] * 3), st.integers(1, 12))


for kind in ("jpeg", "png", "webp", "gif", "bmp"):
    schemathesis.openapi.media_type(f"image/{kind}", files(kind.upper()))
schemathesis.openapi.media_type("application/octet-stream", files("PNG"))
schemathesis.openapi.format("binary", files("PNG"))
