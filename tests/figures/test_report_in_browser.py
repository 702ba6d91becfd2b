"""The report page in a real browser: sorting, charts, keyboard, contrast, widths, print, and no request that leaves the page."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from figures.report.page import write_report
from tests.figures.synthetic import TWO, change, claims, study

FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update",
    "--disable-sync",
]  # fmt: skip
CHROMIUM = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium is installed, which these tests start")
A4_WIDTH = 680  # pixels between the margins of a printed page
CONTRAST = """() => {
  const channels = text => (text.match(/[\\d.]+/g) || []).map(Number);
  const luminance = ([r, g, b]) => [r, g, b].map(c => c / 255).map(c => c <= .03928 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [.2126, .7152, .0722][i], 0);
  const behind = element => {
    for (; element; element = element.parentElement) {
      const colour = channels(getComputedStyle(element).backgroundColor);
      if (colour.length === 3 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  const found = [];
  for (const element of document.body.querySelectorAll('*')) {
    if (element.closest('.plot, script') || !element.getClientRects().length) continue;
    if (![...element.childNodes].some(node => node.nodeType === 3 && node.data.trim())) continue;
    const [one, other] = [channels(getComputedStyle(element).color), behind(element)].map(luminance).sort((a, b) => b - a);
    found.push([(one + .05) / (other + .05), element.tagName + ' ' + element.textContent.trim().slice(0, 40)]);
  }
  return found;
}"""


@dataclass
class Opened:
    """The page in the browser, with all errors and requests since it was opened."""

    page: Any
    path: Path
    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def column(self, heading: str, column: int) -> list[str]:
        """Return the cells of a column of the table below a heading."""
        return self.page.eval_on_selector_all(
            f"h3:text-is('{heading}') + .wide tbody tr", f"rows => rows.map(row => row.cells[{column}].textContent)"
        )

    def header(self, heading: str, column: int) -> Any:
        return self.page.locator(f"h3:text-is('{heading}') + .wide th").nth(column)

    def chart(self, name: str) -> Any:
        """Scroll to a chart, wait until it is drawn, and return it."""
        self.page.locator(f"#{name} .plot").scroll_into_view_if_needed()
        self.page.wait_for_selector(f"#{name} .plot[data-drawn]")
        return self.page.locator(f"#{name} .plot")


def rows() -> pd.DataFrame:
    return pd.concat([change(study(TWO), "mini-t5-6m", "symmetry_defect", value=3e-3), claims()], ignore_index=True)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a report with a figure as wide as a page and one as wide as a column."""
    root = tmp_path_factory.mktemp("browser")
    sizes = {"thresholds": (1380, 400), "spectra": (660, 500)}
    for name, size in sizes.items():
        Image.new("RGB", size, "white").save(root / f"{name}.png")
    return write_report(rows(), root, "Study", {name: root / f"{name}.png" for name in sizes}, skipped={"paths": "no path in the rows"})


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)  # headless, with a new profile
        yield started
        started.close()


@pytest.fixture(scope="module")
def opened(browser: Any, report: Path) -> Opened:
    page = browser.new_page(viewport={"width": 1400, "height": 900}, color_scheme="light")
    found = Opened(page, report)
    page.on("console", lambda message: found.errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: found.errors.append(str(error)))
    page.on("request", lambda request: found.requests.append(request.url))
    page.goto(report.as_uri())
    return found


def test_a_click_sorts_a_column_in_both_directions(opened: Opened):
    given = opened.column("Training runs", 5)
    for order in ("ascending", "descending"):
        opened.header("Training runs", 5).locator("button").click()
        assert opened.header("Training runs", 5).get_attribute("aria-sort") == order
        assert opened.column("Training runs", 5) == sorted(given, key=lambda text: float(text.split()[0]), reverse=order == "descending")
    assert opened.page.locator("[aria-sort]").count() == 1


def test_the_keyboard_sorts_a_column_of_words(opened: Opened):
    opened.header("Best score on validation", 2).locator("button").focus()
    opened.page.keyboard.press("Enter")
    assert opened.column("Best score on validation", 2) == ["APET"] * 2 + ["full fine-tuning"] * 2 + ["LoRA"] * 2


def test_numbers_sort_by_size_and_missing_ones_stay_last(opened: Opened):
    opened.page.evaluate("document.querySelector('#tables tbody').rows[0].cells[4].textContent = '–'")
    for order in (["21 [17.8, 25.2]", "–"], ["21 [17.8, 25.2]", "–"]):
        opened.header("Thresholds", 4).locator("button").click()
        assert opened.column("Thresholds", 4) == order
    for order in (["241,248", "5,739,776"], ["5,739,776", "241,248"]):
        opened.header("Thresholds", 2).locator("button").click()
        assert opened.column("Thresholds", 2) == order


def test_pointing_at_the_spectrum_and_arrow_keys_show_the_value(opened: Opened):
    plot, output = opened.chart("spectra"), opened.page.locator("#spectra output")
    box = plot.bounding_box()
    x, y = opened.page.evaluate("""() => {
        const plot = document.querySelector('#spectra .plot'), { xaxis, yaxis } = plot._fullLayout, { x, y } = plot.data[1];
        return [xaxis._offset + xaxis.d2p(x[0]), yaxis._offset + yaxis.d2p(y[0])];
    }""")
    opened.page.mouse.move(box["x"] + x, box["y"] + y)
    top = rows().query("model == 'mini-t5-6m' and quantity == 'eigenvalue' and x == 1")["value"].iloc[0]
    expected = f"mini-t5-6m, k = 4,096: rank by magnitude 1, eigenvalue {float(f'{top:.4g}'):g}"
    opened.page.wait_for_function("text => document.querySelector('#spectra output').textContent.startsWith(text)", arg=expected)
    assert expected in opened.page.locator("#spectra .hoverlayer").text_content().replace("\xa0", " ")
    plot.focus()
    opened.page.keyboard.press("ArrowRight")
    assert output.text_content().startswith("mini-t5-240k, k = 4,096: rank by magnitude 1, ")
    opened.page.keyboard.press("ArrowRight")
    assert "rank by magnitude 2, " in output.text_content()
    opened.page.locator("#spectra [data-menu=view]").select_option("density")
    opened.page.wait_for_function("document.querySelector('#spectra .plot').layout.yaxis.title.text === 'density'")


def test_the_loss_over_a_plane_is_drawn_and_read_by_keyboard(opened: Opened):
    plot, output = opened.chart("surfaces"), opened.page.locator("#surfaces output")
    for shape in opened.page.locator("#surfaces [data-menu=shape] option").evaluate_all("all => all.map(option => option.value)"):
        opened.page.locator("#surfaces [data-menu=shape]").select_option(shape)
        opened.page.wait_for_function(f"document.querySelector('#surfaces .plot').data?.[0].type === '{shape}'")
        plot.focus()
        opened.page.keyboard.press("ArrowRight")
        opened.page.keyboard.press("ArrowDown")
        lowest = output.text_content()
        assert "% of variance)" in lowest and ": loss " in lowest
        x, y = opened.page.evaluate("(() => { const {x, y} = document.querySelector('#surfaces .plot').data[0]; return [x[0], y[1]]; })()")
        planes = rows().query("model == 'mini-t5-240k' and quantity == 'slice_loss' and y == y")
        near = planes.iloc[((planes["x"] - x).abs() + (planes["y"] - y).abs()).argmin()]
        assert float(lowest.rpartition(" ")[2]) == pytest.approx(near["value"], rel=1e-3)


def test_every_control_is_reached_by_the_tab_key_and_shows_its_focus(opened: Opened):
    page = opened.page
    page.evaluate("scrollTo(0, 0); document.activeElement.blur()")
    page.reload()
    count = page.evaluate("""() => {
        const controls = document.querySelectorAll('a[href], button, select, summary, [tabindex="0"]');
        const all = [...controls].filter(each => each.getClientRects().length);
        all.forEach((each, index) => { each.dataset.number = index; });
        return all.length;
    }""")
    seen, unmarked = set(), []
    for _ in range(count):
        page.keyboard.press("Tab")
        number, name, outline = page.evaluate(
            "(() => { const at = document.activeElement; return [at.dataset.number, at.outerHTML, getComputedStyle(at).outlineStyle]; })()"
        )
        seen.add(int(number or -1))
        unmarked += [name[:80]] if outline == "none" else []
    assert seen == set(range(count))
    assert unmarked == []


def test_the_first_tab_stop_skips_to_the_answers(opened: Opened):
    opened.page.reload()
    opened.page.keyboard.press("Tab")
    opened.page.keyboard.press("Enter")
    assert opened.page.evaluate("document.activeElement.id") == "answers"


def test_boxes_that_scroll_are_named_and_focusable(opened: Opened):
    opened.page.set_viewport_size({"width": 390, "height": 800})
    opened.page.wait_for_selector("#tables .wide[tabindex]")
    scrolls = "box.scrollWidth > box.clientWidth || box.scrollHeight > box.clientHeight"
    boxes = opened.page.eval_on_selector_all(".wide", f"all => all.map(box => [{scrolls}, box.tabIndex === 0, box.ariaLabel])")
    assert any(scrolls for scrolls, *_ in boxes)
    assert all(scrolls == reached == bool(name) for scrolls, reached, name in boxes)
    opened.page.set_viewport_size({"width": 1400, "height": 900})


@pytest.mark.parametrize("width", [1400, 390])
def test_the_page_never_scrolls_sideways(opened: Opened, width: int):
    opened.page.set_viewport_size({"width": width, "height": 900})
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= width
    opened.page.set_viewport_size({"width": 1400, "height": 900})


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_enough_contrast_with_and_without_the_switch(opened: Opened, scheme: str):
    opened.page.emulate_media(color_scheme=scheme)
    opened.page.evaluate("document.querySelectorAll('details').forEach(each => { each.open = true; })")
    pages = []
    for _ in range(2):  # as the system asks, then the other one by the switch
        pages.append(opened.page.evaluate("getComputedStyle(document.body).backgroundColor"))
        found = opened.page.evaluate(CONTRAST)
        assert len(found) > 100
        assert [text for ratio, text in found if ratio < 4.5] == []
        opened.page.locator("#theme").click()
    assert pages == ["rgb(255, 255, 255)", "rgb(22, 24, 26)"][:: 1 if scheme == "light" else -1]
    opened.page.emulate_media(color_scheme="light")
    opened.page.reload()


def test_headings_and_landmarks_are_in_order_and_images_have_texts(opened: Opened):
    levels = opened.page.eval_on_selector_all("h1, h2, h3, h4", "all => all.map(heading => Number(heading.tagName[1]))")
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert [opened.page.locator(name).count() for name in ("header", "nav", "main")] == [1, 1, 1]
    alternatives = opened.page.eval_on_selector_all("img", "all => all.map(image => image.alt)")
    assert "Measured k*: 96 [81.6, 115] for mini-t5-240k on sst2; 21 [17.8, 25.2] for mini-t5-6m on sst2." in alternatives[0]
    assert "Largest eigenvalue: " in alternatives[1] and "for mini-t5-6m on sst2 (ggn)" in alternatives[1]
    ids = opened.page.eval_on_selector_all("[id]", "all => all.map(each => each.id)")
    targets = opened.page.eval_on_selector_all("a[href^='#']", "all => all.map(link => link.getAttribute('href').slice(1))")
    assert len(ids) == len(set(ids)) and set(targets) <= set(ids)


def test_the_printed_page_is_complete_and_has_no_blank_sheet(opened: Opened, tmp_path: Path):
    import pypdfium2

    opened.page.emulate_media(color_scheme="dark")
    opened.page.pdf(path=tmp_path / "report.pdf", format="A4", print_background=True)
    opened.page.emulate_media(color_scheme="light")
    document = pypdfium2.PdfDocument(tmp_path / "report.pdf")
    shades = [np.asarray(page.render(scale=0.4).to_numpy()).astype(int) for page in document]
    assert len(shades) > 2
    assert all(shade.min() < 128 for shade in shades)  # not blank
    assert all(np.median(shade) > 240 for shade in shades)  # not dark
    sheets = [" ".join(page.get_textpage().get_text_bounded().split()) for page in document]
    assert [sheet for sheet in sheets if "finished" in sheet] == [sheet for sheet in sheets if "(position, train)" in sheet]  # heads repeat
    text = " ".join(sheets)
    assert "Figure “paths” was not drawn: no path in the rows." in text  # folded on the screen
    assert "symmetry defect 0.003" in text
    assert "Dark page" not in text and "Light page" not in text and "Curve" not in text


def test_no_table_is_cut_in_print(opened: Opened):
    opened.page.emulate_media(media="print")
    opened.page.set_viewport_size({"width": A4_WIDTH, "height": 900})
    widths = opened.page.eval_on_selector_all(".wide", "all => all.map(box => box.scrollWidth)")
    opened.page.emulate_media(media="screen")
    opened.page.set_viewport_size({"width": 1400, "height": 900})
    assert max(widths) <= A4_WIDTH


def test_the_page_is_complete_without_its_script(browser: Any, report: Path):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(report.as_uri())
    assert page.locator("h3:text-is('Training runs') + .wide tbody tr").count() == 36
    assert page.locator("img").first.is_visible()
    assert not page.locator(".chart, #theme, th button").first.is_visible()
    assert page.get_by_text("The interactive charts need JavaScript.").is_visible()
    context.close()


def test_nothing_failed_and_no_request_left_the_page(opened: Opened):
    assert opened.errors == []
    assert {url.partition(":")[0] for url in opened.requests} <= {"file", "data", "blob"}
    assert {url for url in opened.requests if url.startswith("file:")} == {opened.path.as_uri()}
