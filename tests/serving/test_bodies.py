from __future__ import annotations

import httpx
import pytest

from serving.bodies import Budget, Part, form_images, multipart_boundary
from serving.errors import Refusal


def form(files: list[tuple[str, str, bytes]]) -> tuple[bytes, bytes]:
    """(body, boundary) as an independent encoder writes them."""
    request = httpx.Request("POST", "http://x/", files=[(name, (file, data)) for name, file, data in files])
    return request.read(), multipart_boundary(request.headers["content-type"]) or b""


def test_the_bytes_of_a_form_come_back_as_they_were() -> None:
    data = bytes(range(256)) * 40 + b"\r\n--almost-a-boundary\r\n"
    body, boundary = form([("images", "a.png", data), ("image", "b.png", b""), ("images", "ü.png", b"\0")])
    parts = form_images(body, boundary, ("images", "image"), most=3)
    assert [part.data for part in parts] == [data, b"", b"\0"]
    assert parts[2].where == "image 2 ('ü.png'): "


def test_a_part_is_called_by_its_number_where_there_may_be_several() -> None:
    (part,) = form_images(*form([("images", "16", b"x")]), ("images",), most=64)
    assert part.where == "image 0 ('16'): "


def test_a_single_part_needs_no_name() -> None:
    assert form_images(*form([("image", "a.png", b"x")]), ("image",), most=1) == [Part(b"x")]


@pytest.mark.parametrize(
    ("files", "status", "sentence"),
    [
        ([("file", "a.png", b"x")], 400, "unknown field 'file'; send the image in the field 'image'"),
        ([("image", "a.png", b"x"), ("image", "b.png", b"x")], 413, "more than 1 image in one request"),
    ],
)
def test_wrong_forms(files: list[tuple[str, str, bytes]], status: int, sentence: str) -> None:
    with pytest.raises(Refusal, match=sentence) as caught:
        form_images(*form(files), ("image",), most=1)
    assert caught.value.status == status


@pytest.mark.parametrize("cut", [0, 1, 30, 100, -4, -40])
def test_a_form_that_is_cut_short_is_refused(cut: int) -> None:
    body, boundary = form([("image", "a.png", b"x" * 100)])
    with pytest.raises(Refusal, match="malformed or cut short") as caught:
        form_images(body[:cut], boundary, ("image",), most=1)
    assert caught.value.status == 400


@pytest.mark.parametrize(
    "content_type",
    ["multipart/form-data", "multipart/form-data; boundary=", "multipart/mixed; boundary=a", "multipart/"],
)
def test_multipart_without_a_usable_boundary(content_type: str) -> None:
    with pytest.raises(Refusal, match="boundary") as caught:
        multipart_boundary(content_type)
    assert caught.value.status == 400


@pytest.mark.parametrize("content_type", [None, "", "image/png", "application/x-www-form-urlencoded", "nonsense;;"])
def test_any_other_body_is_the_image(content_type: str | None) -> None:
    assert multipart_boundary(content_type) is None


def test_a_budget_refuses_at_once_and_recovers() -> None:
    budget = Budget(3)
    budget.take(2, "images")
    with pytest.raises(Refusal, match="3 images are in work already") as caught:
        budget.take(2, "images")
    assert caught.value.status == 503
    assert caught.value.headers == {"Retry-After": "1"}
    budget.give(1)
    budget.take(2, "images")


def test_an_unknown_field_is_named_also_where_it_is_one_part_too_many() -> None:
    body = (
        b'--x\r\nContent-Disposition: form-data; name="image"\r\n\r\none\r\n'
        b'--x\r\nContent-Disposition: form-data; name="colour"\r\n\r\nred\r\n--x--\r\n'
    )
    with pytest.raises(Refusal, match="unknown field 'colour'") as caught:
        form_images(body, b"x", ("image",), most=1)
    assert caught.value.status == 400
    with pytest.raises(Refusal, match="more than 1 image in one request") as caught:
        form_images(body.replace(b"colour", b"image"), b"x", ("image",), most=1)
    assert caught.value.status == 413
