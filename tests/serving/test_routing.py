from __future__ import annotations

from typing import Any

import pytest

from serving.routing import Route, Router


async def nothing(_: Any) -> Any:
    raise NotImplementedError


def test_a_path_is_found_as_it_is_written_and_by_its_parts() -> None:
    router = Router(
        {"/a": Route(nothing), "/v2/models/{name}/infer": Route(nothing)}, {"/v2/models/{name}": Route(nothing)}
    )
    assert router.find("/a") == ("/a", {})
    assert router.find("/v2/models/x.y/infer") == ("/v2/models/{name}/infer", {"name": "x.y"})
    assert router.find("/v2/models/x") == ("/v2/models/{name}", {"name": "x"})
    for path in ("/b", "/a/", "/v2/models//infer", "/v2/models/a/b/infer", "/v2/models/a/infer/", "/v2/modelsXa"):
        assert router.find(path) is None


def test_one_path_belongs_to_one_family() -> None:
    with pytest.raises(ValueError, match="two handlers for /a"):
        Router({"/a": Route(nothing)}, {"/a": Route(nothing)})
