"""The page in a real browser: every way in, every thing that it shows, by keyboard, on a phone, and by axe's rules."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from serving.runner import running_service
from tests.browser.conftest import explained_graph
from tests.serving.conftest import colour_manifest, encoded

Opened = Callable[..., Any]
Images = Callable[..., Path]
WAIT_MS = 60_000  # on a busy machine
PHONE = {"viewport": {"width": 360, "height": 740}, "device_scale_factor": 2, "has_touch": True, "is_mobile": True}
DESK = {"viewport": {"width": 1200, "height": 900}}
VIEWS = {
    "light": DESK | {"color_scheme": "light"},
    "dark": DESK | {"color_scheme": "dark"},
    "phone": PHONE | {"color_scheme": "light"},
}


def choose(page: Any, *paths: Path) -> None:
    """Through the file chooser; returns when every image has its answer."""
    page.set_input_files("#file", [str(path) for path in paths])
    expect(page.locator("#status")).to_have_text(re.compile(r"^\d+ images? checked"), timeout=WAIT_MS)


def three(images: Images) -> tuple[Path, Path, Path]:
    return images("red", (250, 10, 10)), images("dark", (4, 4, 4)), images("blue", (10, 20, 240))


def tile_texts(page: Any) -> list[list[str]]:
    return [tile.inner_text().split("\n") for tile in page.query_selector_all("#tiles button")]


def test_several_images_at_once_and_what_is_said_of_each(opened: Opened, images: Images) -> None:
    page = opened()
    choose(page, *three(images))
    assert page.inner_text("#status") == "3 images checked, 1 flagged."
    assert [text[:2] for text in tile_texts(page)] == [
        ["✓ familiar", "blue"],
        ["▲ flagged", "red"],
        ["✓ familiar", "red"],
    ]
    page.click("#tiles li:nth-child(2) button")
    assert page.inner_text("#headline") == "Unfamiliar: flagged as out-of-distribution"
    assert page.inner_text("#name") == "dark.png"
    assert page.locator("#top li").count() == 3
    assert "%" in page.inner_text("#top li:first-child")
    assert page.inner_text("#rarity") == "Stranger than every one of the 99 calibration images"
    assert page.get_attribute("#tiles li:nth-child(2) button", "aria-pressed") == "true"
    chart = page.get_attribute("#chart", "aria-label")
    assert re.search(r"scores of 99 calibration images; this image has −1\.\d+, the threshold is −4", chart)
    assert page.locator("#chart rect.bin").count() > 20


def test_why_it_was_flagged_and_what_is_near(opened: Opened, images: Images) -> None:
    page = opened()
    choose(page, images("dim", (20, 6, 60)))
    parts = [part.split("\n") for part in page.locator("#parts li").all_inner_texts()]
    # exp(-0.02 * (255 - 60)) and exp(-0.02 * (255 - 20))
    assert parts == [["energy", "1 in 49 ordinary images looks this strange"],
                     ["knn", "1 in 110 ordinary images looks this strange"]]  # fmt: skip
    assert page.locator("#exemplars li").all_inner_texts()[0] == "blue"  # the most like it
    pixel = page.evaluate(
        """async () => { const image = document.querySelector('#exemplars img'); await image.decode();
        const canvas = document.createElement('canvas'), brush = canvas.getContext('2d');
        brush.drawImage(image, 0, 0); return [...brush.getImageData(8, 8, 1, 1).data]; }"""
    )
    assert pixel[2] > 200 > 100 > pixel[0]


def test_sorting_is_by_the_score(opened: Opened, images: Images, explained_service: str) -> None:
    page, files = opened(), three(images)
    choose(page, *files)
    scores = {}
    for path in files:
        answer = httpx.post(f"{explained_service}/predict", content=path.read_bytes(), trust_env=False).json()
        scores[path] = f"{answer['ood_score']:.4g}".replace("-", "−")
    by_score = sorted(scores.values(), key=lambda text: float(text.replace("−", "-")), reverse=True)
    page.select_option("#sort", "strange")
    assert [text[2] for text in tile_texts(page)] == by_score
    page.select_option("#sort", "familiar")
    assert [text[2] for text in tile_texts(page)] == by_score[::-1]
    page.select_option("#sort", "newest")
    assert [text[2] for text in tile_texts(page)] == [scores[path] for path in files[::-1]]


@pytest.mark.parametrize("kind", ["drop", "paste"])
def test_images_are_dropped_and_pasted(kind: str, opened: Opened) -> None:
    page = opened()
    bodies = [list(encoded(colour)) for colour in ((250, 0, 0), (0, 0, 250))]
    page.evaluate(
        """([kind, bodies]) => {
          const data = new DataTransfer();
          bodies.forEach((body, i) => data.items.add(
            new File([new Uint8Array(body)], i + ".png", {type: "image/png"})));
          document.body.dispatchEvent(kind === "drop" ? new DragEvent("drop", {dataTransfer: data, bubbles: true})
            : new ClipboardEvent("paste", {clipboardData: data, bubbles: true})); }""",
        [kind, bodies],
    )
    expect(page.locator("#status")).to_have_text(re.compile("^2 images checked"), timeout=WAIT_MS)
    assert [text[1] for text in tile_texts(page)] == ["blue", "red"]


def test_the_camera_takes_a_picture(opened: Opened) -> None:
    page = opened()
    page.click("#camera")
    page.wait_for_selector("#viewfinder:not([hidden])")
    page.evaluate("() => new Promise(seen => document.getElementById('video').requestVideoFrameCallback(seen))")
    page.click("#shoot")
    expect(page.locator("#status")).to_have_text(re.compile("^1 image checked"), timeout=WAIT_MS)
    assert page.inner_text("#name") == "camera.jpg"
    page.click("#close-camera")
    assert page.is_hidden("#viewfinder")
    assert page.evaluate("document.activeElement.id") == "camera"


def test_a_file_that_is_no_image_is_said_and_the_others_are_answered(
    opened: Opened, images: Images, tmp_path: Path
) -> None:
    bad = tmp_path / "<img src=x onerror=alert(1)>.png"
    bad.write_bytes(b"no image")
    page = opened()
    choose(page, bad, images("red", (250, 10, 10)))
    assert page.inner_text("[role=alert]").startswith("<img src=x onerror=alert(1)>.png: ")
    assert page.inner_text("#status") == "1 image checked, 0 flagged."
    assert sorted(text[0] for text in tile_texts(page)) == ["not an answer", "✓ familiar"]
    assert page.locator("#tiles img[onerror]").count() == 0


def test_everything_is_reached_by_keyboard(opened: Opened, images: Images) -> None:
    page = opened()
    choose(page, *three(images))
    reached = []
    page.evaluate("document.body.focus()")
    for _ in range(12):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.tagName"))
        if reached[-1] == "BUTTON":
            break
    assert [name for name in reached if name in ("file", "camera", "sort", "BUTTON")] == [
        "file",
        "camera",
        "sort",
        "BUTTON",
    ]
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.inner_text("#name") == "dark.png"
    assert page.evaluate("document.activeElement.getAttribute('aria-pressed')") == "true"


def test_all_traffic_is_watched(opened: Opened, images: Images, explained_service: str) -> None:
    httpx.post(f"{explained_service}/predict", content=encoded((250, 0, 0)), trust_env=False)
    page = opened()
    page.wait_for_selector("#traffic:not([hidden])")
    before = int(page.inner_text("#images"))
    assert before >= 1
    assert page.inner_text("#rate").endswith("%")
    assert "Evidence for drift after" in page.get_attribute("#curve", "aria-label")
    for _ in range(30):
        httpx.post(f"{explained_service}/predict", content=encoded((2, 2, 2)), trust_env=False)
    page.wait_for_selector("#drift-words.bad")
    counted = httpx.get(f"{explained_service}/drift", trust_env=False).json()["images"]
    assert counted >= before + 30
    expect(page.locator("#images")).to_have_text(str(counted), timeout=WAIT_MS)
    assert re.match(
        r"Drift: unlike the calibration images; the alarm was raised at image \d+$", page.inner_text("#drift-words")
    )
    page.click("#by-class summary")
    assert page.locator("#class-rows tr").count() >= 1


def test_the_model_card_says_what_answers(opened: Opened, explained_service: str) -> None:
    page = opened()
    card = httpx.get(f"{explained_service}/model", trust_env=False).json()
    assert card["exemplars"] == 3  # their number; the images are in answers only
    expect(page.locator("#model")).not_to_be_empty(timeout=WAIT_MS)
    assert page.inner_text("#model") == card["identity"]
    page.click("#card-title")
    facts = page.inner_text("#card")
    for fact in ("energy + knn", "mean-colour", "8 × 8 × 3", "red, green, blue", "99"):
        assert fact in facts


def test_the_token_is_asked_for_once_and_sent_with_every_request(opened: Opened, images: Images) -> None:
    """As the service would answer: everything but the page itself is refused without it."""
    sent: list[str | None] = []

    def check(route: Any) -> None:
        token = route.request.headers.get("authorization")
        sent.append(token)
        if token == "Bearer right":
            route.continue_()
        else:
            route.fulfill(status=401, json={"error": "give the token"}, headers={"WWW-Authenticate": "Bearer"})

    page = opened()
    page.context.route(re.compile(r"/(model|explain|drift)$"), check)
    page.reload()
    for token in ("wrong", "right"):
        page.wait_for_selector("#token-form:not([hidden])")
        assert page.text_content("[role=alert]") == "give the token"
        assert page.evaluate("document.activeElement.id") == "token"
        page.fill("#token", token)
        page.keyboard.press("Enter")
    expect(page.locator("#model")).not_to_be_empty(timeout=WAIT_MS)
    choose(page, images("red", (250, 10, 10)))
    assert page.is_hidden("#token-form")
    assert "Bearer wrong" in sent
    assert sent[-1] == "Bearer right"
    assert page.evaluate("[sessionStorage.length, localStorage.length]") == [1, 0]


def test_an_uncalibrated_guard_has_a_page_too(opened: Opened, images: Images, tmp_path: Path) -> None:
    from guard.artefact.files import write_onnx

    write_onnx(tmp_path / "plain.onnx", explained_graph(), colour_manifest(calibrated=False))
    with running_service(tmp_path / "plain.onnx") as base:
        page = opened(base)
        choose(page, images("red", (250, 10, 10)))
        assert page.inner_text("#rarity") == "Without calibration a score has no scale"
        assert page.is_hidden("#traffic")
        assert page.is_hidden("#chart")
        page.context.close()


@pytest.mark.parametrize("view", VIEWS)
def test_axe_finds_nothing_and_nothing_overflows(view: str, opened: Opened, images: Images, tmp_path: Path) -> None:
    page = opened(**VIEWS[view])
    assert not violations(page)
    bad = tmp_path / "none.png"
    bad.write_bytes(b"no image")
    choose(page, *three(images), bad)
    page.click("#tiles li:nth-child(3) button")
    page.wait_for_selector("#traffic:not([hidden])")
    page.click("#card-title")
    assert not violations(page)
    wide, room = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert wide <= room


def violations(page: Any) -> list[str]:
    """What axe-core finds, one line each."""
    found = Axe().run(page).response["violations"]
    return [f"{v['id']}: {v['help']}: {[n['html'][:120] for n in v['nodes'][:3]]}" for v in found]


def test_axe_would_find_something(opened: Opened) -> None:
    page = opened()
    page.evaluate("document.getElementById('sort').removeAttribute('id'); document.title = ''")
    assert any("document-title" in line for line in violations(page))
