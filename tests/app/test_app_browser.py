"""The page of `robust-vit app` in headless Chromium."""

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page, expect, sync_playwright

from robust_vit_hf.app.options import AppOptions
from robust_vit_hf.app.server import running

from ..helpers.tiny import masked_rows
from .conftest import BROWSER_OPTIONS, CHROMIUM


WAIT = 120_000  # milliseconds
SIZES = {"desktop": {"width": 1280, "height": 900}, "phone": {"width": 390, "height": 844}}
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed: apt-get install chromium"),
]


@pytest.fixture(scope="module")
def address(models, evaluated, diagnosed):
    shown = {"results": evaluated.results, "dataset": evaluated.dataset, "diagnose": diagnosed}
    with running(AppOptions(model=models[0], compare=models[1], **shown)) as address:
        yield address


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=CHROMIUM, args=BROWSER_OPTIONS, timeout=WAIT)


@pytest.fixture(params=[SIZES["desktop"]], ids=["desktop"])
def page(request, browser, address):
    """The page, which fits a desktop and a phone, whatever it shows at the end. No request may leave loopback."""
    page = browser.new_page(viewport=request.param)
    page.set_default_timeout(WAIT)
    expect.set_options(timeout=WAIT)
    requested = []
    page.on("request", lambda sent: requested.append(sent.url))
    page.goto(address)
    page.wait_for_selector("#examples img")
    yield page
    assert [url for url in requested if not url.startswith((address, "data:", "blob:"))] == []
    for size in (request.param, *SIZES.values()):
        page.set_viewport_size(size)
        page.wait_for_function("document.documentElement.scrollWidth <= innerWidth", timeout=10_000)
    page.close()


def drop(page: Page, path: Path, on: str = "#image", kind: str = "image/png") -> None:
    """Drop a file on an image, as a user does."""
    content = base64.b64encode(path.read_bytes()).decode()
    transfer = page.evaluate_handle(
        """async ([content, name, type]) => {
            const transfer = new DataTransfer();
            const bytes = await (await fetch(`data:${type};base64,${content}`)).arrayBuffer();
            transfer.items.add(new File([bytes], name, {type}));
            return transfer;
        }""",
        [content, path.name, kind],
    )
    page.dispatch_event(f"{on} [aria-dropeffect], {on} .wrap button, {on} button", "drop", {"dataTransfer": transfer})


def maps(page: Page) -> list[str]:
    """Addresses of both pictures under the slider."""
    return [image.get_attribute("src") for image in page.locator("#maps img").all()]


def wait_for_other_maps(page: Page, earlier: list[str]) -> None:
    page.wait_for_function(
        """earlier => {
            const now = [...document.querySelectorAll('#maps img')].map(image => image.getAttribute('src'));
            return now.length >= 2 && now.every(source => !earlier.includes(source));
        }""",
        arg=earlier,
    )


@pytest.mark.parametrize("page", [SIZES["phone"]], ids=["phone"], indirect=True)
def test_drop_an_image_choose_a_class_and_move_the_slider(page, tmp_path):
    masked_rows(1, size=(300, 300))[0]["image"].save(tmp_path / "image.png")
    drop(page, tmp_path / "image.png")
    wait_for_other_maps(page, [])
    expect(page.locator("#before")).to_contain_text("LABEL_")
    expect(page.locator("#difference img")).to_be_visible()
    predicted = maps(page)
    page.locator("#target input").click()
    page.get_by_role("option", name="LABEL_2").click()
    wait_for_other_maps(page, predicted)
    expect(page.locator("#measures")).to_contain_text("LABEL_2")

    page.wait_for_function("[...document.querySelectorAll('#maps img')].every(image => image.complete)")
    slider = page.locator("#maps")
    for _ in range(5):  # on a busy machine, the page may move under the mouse
        slider.hover()  # waits until it stands still
        box = slider.bounding_box()
        middle = box["y"] + box["height"] / 2
        left = slider.screenshot()
        page.mouse.move(box["x"] + box["width"] / 2, middle)
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] / 5, middle, steps=5)
        page.mouse.up()
        before, after = (
            np.asarray(Image.open(io.BytesIO(one)).convert("L"), int) for one in (left, slider.screenshot())
        )
        if before.shape == after.shape and (abs(before - after) > 20).mean() > 0.05:
            break
    else:
        pytest.fail("the slider uncovered nothing")


def test_an_example_from_the_gallery(page):
    page.get_by_role("tab", name="Gallery").click()
    page.locator("#set input").click()
    page.get_by_role("option", name="paper/validation").click()
    page.wait_for_selector("#images img")
    page.locator("#images button").first.click()
    wait_for_other_maps(page, [])
    expect(page.locator("#measures")).to_contain_text("%")
    expect(page.locator("#measures")).not_to_contain_text("–")  # the mask of the set is known


def test_click_through_a_diagnosis(page):
    page.get_by_role("tab", name="Backgrounds").click()
    expect(page.locator("#verdict")).to_contain_text("Before: ")
    expect(page.locator("#conditions img")).to_have_count(7)
    page.wait_for_function("[...document.querySelectorAll('#conditions img')].every(img => img.naturalWidth === 32)")
    expect(page.locator("#conditions")).to_contain_text("mixed_rand: on LABEL_")
    first = page.locator("#conditions").inner_html()
    page.locator("#place input").fill("2")
    expect(page.locator("#which")).to_contain_text("Image 2 of ")
    page.wait_for_function("first => document.querySelector('#conditions').innerHTML !== first", arg=first)
    page.locator("#place input").fill("25")  # the first image follows the last
    expect(page.locator("#which")).to_contain_text("Image 1 of 24")
    page.get_by_label("wrong on another background").click()
    expect(page.locator("#which")).to_contain_text("Image 1 of ")
    expect(page.locator("#conditions img")).to_have_count(7)
