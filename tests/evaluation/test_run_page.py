"""`robust-vit page`: one file for a run or an evaluation, and `report --html` for a sweep, read as a file and in a browser."""

import re
from pathlib import Path

import pytest
from playwright.sync_api import sync_playwright

from ..app.conftest import BROWSER_OPTIONS, CHROMIUM
from ..helpers.commands import call, succeed
from ..helpers.tiny import DATA, masked_dataset, masked_folder, named, save_pretrained, tiny_vit


HOSTILE = "<script>fetch('https://example.org')</script>"


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> dict[str, Path]:
    """The page of an evaluation, of a run and of a sweep's results. A class of the models has a hostile name."""
    root = tmp_path_factory.mktemp("pages")
    for name, seed in (("before", 0), ("after", 1)):
        save_pretrained(tiny_vit(seed, **named((HOSTILE, "b", "c", "d"))), root / name)
    rows = masked_dataset(60)
    rows = rows.add_column("plain", rows["label"]).remove_columns("label").rename_column("plain", "label")
    rows.to_parquet(root / "data" / "validation-00000.parquet")
    pair = ["--model", root / "before", "--compare", root / "after", "--dataset", root / "data"]
    succeed("evaluate", *pair, "--protocols", "paper", "--output_dir", root / "evaluation")
    masked_folder(root / "own")
    options = "--num_train_epochs 1 --use_cpu --report_to none --learning_rate 0.01 --protocol paper".split()
    tiny_vit().save_pretrained(root / "model")
    succeed("train", "--model", root / "model", "--dataset", root / "own", "--output_dir", root / "run", *options)
    for name in ("evaluation", "run"):
        succeed("page", root / name, "--output_dir", root / "pages" / name)
    report = ["report", DATA / "experiment" / "results.parquet", "--html", "--output_dir", root / "pages" / "sweep"]
    succeed("experiments", *report)
    return {name: root / "pages" / name / "report.html" for name in ("evaluation", "run", "sweep")}


def test_one_file_that_names_no_other_equal_to_the_byte(pages, tmp_path):
    succeed("page", pages["run"].parents[2] / "run", "--output_dir", tmp_path)
    assert (tmp_path / "report.html").read_text() == pages["run"].read_text()
    assert "<dt>model</dt><dd>model</dd>\n<dt>data</dt><dd>own</dd>" in pages["run"].read_text()
    for page in pages.values():
        text = page.read_text()
        for address in re.findall(r'(?:src|href)="([^"]*)"', text):
            assert address.startswith(("data:", "#")), address
        assert "@import" not in text and "url(" not in text and text.count("<script") == 1
        assert all('alt="' in image for image in re.findall(r"<img [^>]*>", text))


def test_the_folder_of_another_command_is_rejected(tmp_path):
    error = call("page", tmp_path, "--output_dir", tmp_path / "page").error
    assert "has no results of this version of `robust-vit train`, `improve` or `evaluate`" in error


def test_text_of_the_user_is_escaped(pages):
    text = pages["evaluation"].read_text()
    assert HOSTILE not in text and "&lt;script&gt;fetch(&#39;https://example.org&#39;)&lt;/script&gt;" in text


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed: apt-get install chromium")
def test_in_a_browser(pages):
    """A table is sorted by its column, nothing is requested, no error is shown, and the page fits a phone."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=BROWSER_OPTIONS, timeout=120_000)
        for name in ("evaluation", "run", "sweep"):
            page = browser.new_page(viewport={"width": 390, "height": 844}, color_scheme="dark")
            page.set_default_timeout(120_000)
            problems, requested = [], []
            page.on("console", lambda message, problems=problems: problems.append(message.text))
            page.on("pageerror", lambda error, problems=problems: problems.append(str(error)))
            page.on("request", lambda request, requested=requested: requested.append(request.url))
            page.goto(pages[name].as_uri())
            heads = page.locator("table.sortable").first.locator("thead th")
            last = heads.count() - 1

            def column(page=page, last=last) -> list[float]:
                cells = page.locator(f"table.sortable tbody tr :nth-child({last + 1})").all()
                return [float(cell.get_attribute("data-value")) for cell in cells]

            assert column() == sorted(column()) and heads.nth(last).get_attribute("aria-sort") == "ascending"
            heads.nth(last).get_by_role("button").click()
            assert column() == sorted(column(), reverse=True)
            assert column()[0] > column()[-1] or name == "run"  # of few images, in which nothing may change
            assert heads.nth(last).get_attribute("aria-sort") == "descending"
            heads.nth(0).get_by_role("button").click()
            names = page.locator("table.sortable tbody th").all_inner_texts()
            assert names == sorted(names) and heads.nth(last).get_attribute("aria-sort") is None
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "wider than the screen"
            assert page.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
            dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
            page.emulate_media(color_scheme="light")
            assert dark != page.evaluate("getComputedStyle(document.body).backgroundColor")
            assert problems == []
            assert [url for url in requested if not url.startswith(("file:", "data:"))] == []
            page.close()
        browser.close()
