"""The campaign of benchmarks/serving_bad_requests.py, 500 bad requests long."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from benchmarks.bad_requests import BOMB, MAKERS, RARE, Bad, bad_requests
from benchmarks.serving_bad_requests import bad_campaign, judged
from guard.errors import ImageError
from guard.preprocess import open_image


def test_500_bad_requests_hurt_nobody(colour_guard: Path) -> None:
    r = bad_campaign(colour_guard, 500, seed=1, share=0.5)
    assert (r["bad"], r["wrong_answers"], r["good_lost_or_wrong"]) == (500, 0, 0), (r["wrong"], r["lost"])
    assert r["good"] >= 450
    statuses = {int(status) for status in r["bad_by_status"]}
    assert {200, 400, 404, 405, 408, 413} <= statuses  # or the requests were not as bad as they should be
    assert statuses <= {0, 200, 400, 404, 405, 408, 413, 415, 431}


def test_every_kind_is_sent_and_the_seed_decides() -> None:
    sent = list(bad_requests(200, seed=3))
    assert {bad.kind for bad in sent} == {maker(random.Random(0)).kind for maker in (*MAKERS, *RARE)}
    assert sent == list(bad_requests(200, seed=3)) != list(bad_requests(200, seed=4))


def test_the_bomb_is_a_whole_image() -> None:
    with pytest.raises(ImageError, match=r"12000 x 12000 = 144\.0 megapixels"):
        open_image(BOMB)
    assert open_image(BOMB, max_pixels=150_000_000).size == (12_000, 12_000)


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n{}", None),
        (b'HTTP/1.1 400 Bad Request\r\n\r\n{"error":"no"}', None),
        (b"HTTP/1.1 400 Bad Request\r\n\r\nno", "without a sentence"),
        (b'HTTP/1.1 400 Bad Request\r\n\r\n{"error":"one\\ntwo"}', "400"),
        (b'HTTP/1.1 500 Internal Server Error\r\n\r\n{"error":"no"}', "500"),
        (b"", "no answer"),
    ],
)
def test_answers_are_judged(answer: bytes, complaint: str | None) -> None:
    judgement = judged(Bad("x", b""), answer)
    assert judgement is None if complaint is None else complaint in str(judgement)
