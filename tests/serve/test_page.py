"""The page in a browser: what is searched, by how many dims, and that nothing is cut off."""

import shutil
from pathlib import Path

import axe_playwright_python
import pytest
from PIL import Image
from playwright.sync_api import sync_playwright
from serving import Process, options

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium")
AXE = Path(axe_playwright_python.__file__).with_name("axe.min.js")


@pytest.fixture(scope="module")
def chromium():
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def opened(chromium):
    contexts = []

    def opened(url, width=1000, scheme="light"):
        """Open the page; what goes wrong in it, and what it loads from elsewhere, is an error."""
        context = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.wrong = []
        page.on("pageerror", lambda error: page.wrong.append(str(error)))
        page.on("console", lambda said: page.wrong.append(said.text) if said.type == "error" else None)
        page.on(
            "request",
            lambda asked: (
                None if asked.url.startswith((url, "data:", "blob:")) else page.wrong.append(asked.url)
            ),
        )
        page.goto(url)
        page.wait_for_selector("html[data-ready]", timeout=30_000)
        return page

    yield opened
    for context in contexts:
        context.close()


@pytest.fixture(scope="module")
def picture(pictures, tmp_path_factory):
    path = tmp_path_factory.mktemp("picture") / "digit.png"
    Image.fromarray(pictures[4].squeeze()).save(path)
    return path


def slide(page, position):
    page.locator("#dims").evaluate(
        "(slider, at) => { slider.value = at; slider.dispatchEvent(new Event('input')); }", position
    )


@pytest.mark.slow
def test_a_picture_is_searched_and_the_slider_searches_again(server, opened, picture, model):
    page = opened(server.url)
    assert page.inner_text("#model") == model.run.name and "360 vectors" in page.inner_text("#about")
    assert not page.is_visible("#text") and not page.is_visible("#key")
    page.set_input_files("#image", picture)
    page.wait_for_selector("#results li:nth-child(10)")
    first = page.locator("#results li").first
    assert first.locator("img").evaluate("image => image.naturalWidth") == 32
    assert "similarity 1.000" in first.inner_text()
    assert f"at {model.width} dims" in page.inner_text("#class")
    for position, dim in enumerate(model.dims[:-1]):
        with page.expect_response("**/search") as waiting:
            slide(page, position)
        assert waiting.value.request.post_data_json["dimensions"] == dim
        page.locator(
            "#class", has_text=f"at {dim} dims"
        ).wait_for()  # no script: the page's policy forbids it
        assert page.inner_text("#shown-dims") == f"{dim} of {model.width} dims"
        shown = [one["id"] for one in waiting.value.json()["results"][0]]
        assert [f"number {one}" for one in shown] == page.locator(
            "#results li div:nth-of-type(2)"
        ).all_inner_texts()
    assert page.wrong == []


@pytest.mark.parametrize(("width", "scheme"), [(1000, "dark"), (400, "light")])
def test_nothing_is_cut_off_and_axe_finds_no_fault(server, opened, picture, width, scheme):
    page = opened(server.url, width, scheme)
    page.set_input_files("#image", picture)
    page.wait_for_selector("#results li:nth-child(10)")
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 22, 26)"
    assert dark == (scheme == "dark")
    page.evaluate(AXE.read_text(encoding="utf-8"))
    faults = page.evaluate("axe.run(document, {resultTypes: ['violations']}).then((r) => r.violations)")
    assert [(fault["id"], [node["html"][:200] for node in fault["nodes"]]) for fault in faults] == []
    assert page.wrong == []


@pytest.mark.slow
def test_texts_are_searched_with_a_key_and_shown_as_they_are(opened, trained_runs, tmp_path):
    import numpy as np

    from mrl_experiments import AdaptiveIndex, load
    from mrl_experiments.adaptive.retrieval.spec import IndexSpec
    from mrl_experiments.serve.folder import write_folder

    run = trained_runs["captions"]
    dual = load(run.folder)
    texts = ["red square", "<img src=x onerror=alert(1)>", "blue circle"]
    spec = IndexSpec((dual.dims[0],), "Flat", ((dual.dims[0], 3), (dual.width, 3)))
    index = AdaptiveIndex.build(dual.encode(texts), np.array([3, 1, 2]), spec)
    payload = [{"text": text, "image": "https://example.org/x.png"} for text in texts]
    write_folder(tmp_path / "texts", index, run, payload)
    assert options(run).port == 8000
    server = Process(run, f"index={tmp_path / 'texts'}", "api_key=OUR_KEY", env={"OUR_KEY": "open"})
    try:
        page = opened(server.url)
        page.wait_for_selector("#key", state="visible")
        assert "a key is needed" in page.inner_text("#status")
        page.fill("#key", "open")
        page.click("button")
        page.wait_for_selector("#text", state="visible")
        page.fill("#text", texts[1])
        page.press("#text", "Enter")
        page.wait_for_selector("#results li:nth-child(3)")
        first = page.locator("#results li").first
        assert first.inner_text().split("\n") == [texts[1], "number 1", "similarity 1.000"]
        assert first.locator("img").count() == 0
        assert [text for text in page.wrong if "401" not in text] == []
    finally:
        assert server.end()[0] == 0
