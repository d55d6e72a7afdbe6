"""The orders in which programs list names."""

from __future__ import annotations

import pytest

from guard.data.natural_orders import natural_orders


@pytest.mark.parametrize(
    ("names", "orders"),
    [
        (["0", "10", "2"], {"text": [0, 1, 2], "numeric": [0, 2, 1]}),
        (["a", "b"], {"text": [0, 1]}),
        (["a", "B"], {"text": [1, 0], "text, ignoring case": [0, 1]}),
    ],
)
def test_each_order_is_given_once(names: list[str], orders: dict[str, list[int]]) -> None:
    assert {title: places.tolist() for title, places in natural_orders(names).items()} == orders


def test_a_name_may_end_where_another_has_a_number() -> None:
    orders = {title: places.tolist() for title, places in natural_orders(["x10", "x", "X", "x2"]).items()}
    assert orders == {"text": [2, 1, 0, 3], "numeric": [3, 1, 0, 2]}
