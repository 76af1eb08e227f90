"""The report in Chromium: offline, by mouse, by keyboard and on a phone."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import mean

import pytest
from PIL import Image

from alexnet_exp.compare.render.html import write_report
from alexnet_exp.compare.select import runs_table
from tests.browser import CONTROL, END, ENTER, ESCAPE, LEFT, RIGHT, Browser, browser, why_not
from tests.compare.generated import compared, write_run, write_sweep

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(why_not()), reason=why_not() or "there is a browser")]

HOSTILE = "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 2'>"
ROWS = "return [...document.querySelectorAll('#runs-table tbody a')].map(link => link.textContent)"
COLUMN = """
const heads = [...document.querySelectorAll('#runs-table thead th')];
const at = heads.findIndex(th => th.textContent === arguments[0]);
return [...document.querySelectorAll('#runs-table tbody tr')].map(row => row.cells[at].textContent)
"""
# Returns every text with less contrast to its background than level AA of WCAG requires.
LOW_CONTRAST = """
const parse = (text) => (text.match(/[\\d.]+/g) || []).map(Number);
const light = ([r, g, b]) => [r, g, b].map((v) => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
  .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
const behind = (node) => {
  for (; node; node = node.parentElement) {
    const colour = parse(getComputedStyle(node).backgroundColor);
    if (colour.length === 3 || colour[3] === 1) return colour;
  }
  return [255, 255, 255];
};
const found = [];
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const node = walker.currentNode.parentElement;
  const content = walker.currentNode.textContent.trim();
  if (!content || !node.getClientRects().length || node.closest('script, style, title, option')) continue;
  const style = getComputedStyle(node);
  const text = parse(node.namespaceURI.endsWith('svg') ? style.fill : style.color);
  const [a, b] = [light(text), light(behind(node))].sort((x, y) => y - x);
  if ((a + 0.05) / (b + 0.05) < 4.5) found.push(node.tagName + ' ' + content);
}
return found;
"""


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as started:
        yield started


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report") / "outputs"
    write_sweep(folder, pictures=1)
    return folder


@pytest.fixture(scope="module")
def report(outputs: Path) -> Path:
    file = outputs.parent / "report.html"
    comparison = compared(outputs)
    # The failed runs come first in the data, so that the page must sort them last.
    runs = comparison.runs[::-1]
    write_report(replace(comparison, runs=runs, runs_table=runs_table(runs, comparison.varying)), file)
    return file


@pytest.fixture
def page(chromium: Browser, report: Path) -> Browser:
    """The report, newly opened in a desktop window."""
    # WebDriver cannot click in a page that is still scrolling smoothly.
    chromium.prefer(prefers_color_scheme="light", prefers_reduced_motion="reduce")
    chromium.size(1280, 900)
    chromium.open(report)
    chromium.script("localStorage.clear()")
    chromium.open(report)
    chromium.errors()
    chromium.requests()
    return chromium


def test_page_opens_without_errors_and_requests_nothing(page, report):
    page.open(report)
    assert page.errors() == []
    requests = page.requests()
    assert report.resolve().as_uri() in requests
    assert [one for one in requests if not one.startswith(("file://", "data:"))] == []
    assert [one for one in requests if one.startswith("file://")] == [report.resolve().as_uri()]


def test_heading_sorts_by_mouse_and_by_keyboard(page, outputs):
    heads = "#runs-table thead th"
    place = page.script(
        f"return [...document.querySelectorAll('{heads}')].findIndex(th => th.textContent === 'test top-1')"
    )
    button = f"{heads}:nth-child({place + 1}) button"
    page.click(button)
    values = page.script(COLUMN, "test top-1")
    numbers = [float(value.rstrip("%")) for value in values[:12]]
    assert numbers == sorted(numbers, reverse=True)
    assert values[12:] == ["\N{EN DASH}"] * 2
    assert page.script("return document.querySelector('[aria-sort]').getAttribute('aria-sort')") == "descending"
    page.script("document.querySelector(arguments[0]).focus()", button)
    page.press(ENTER)
    values = page.script(COLUMN, "test top-1")
    numbers = [float(value.rstrip("%")) for value in values[:12]]
    assert numbers == sorted(numbers)
    assert values[12:] == ["\N{EN DASH}"] * 2  # missing values are always last
    assert page.script("return document.querySelectorAll('[aria-sort]').length") == 1
    assert page.script("return document.querySelector('[aria-sort]').getAttribute('aria-sort')") == "ascending"
    assert page.script("return getComputedStyle(document.activeElement).outlineStyle") == "solid"


@pytest.mark.parametrize(
    ("typed", "wanted"),
    [
        ("lrn seed=3", ["model-lrn_lr-0.01_seed-3", "model-lrn_lr-0.1_seed-3"]),
        ("model=bn lr<0.1 seed!=2", ["model-bn_lr-0.01_seed-1", "model-bn_lr-0.01_seed-3"]),
        ("optim.lr=0.10 seed>=3 bn", ["model-bn_lr-0.1_seed-3", "model-bn_lr-0.1_seed-9"]),
        ("not finite", ["model-bn_lr-0.1_seed-9"]),
        ("nothing-like-this", []),
    ],
)
def test_filter_hides_other_rows(page, typed, wanted):
    page.type("#filter", typed)
    if wanted:
        assert sorted(page.script(ROWS)) == [f"norms/{name}" for name in wanted]
    else:
        assert page.script("return document.querySelector('#runs-table tbody').textContent") == "No run matches."
    assert page.script("return document.getElementById('shown').textContent") == f"{len(wanted)} of 14 runs"


def test_status_button_hides_runs(page):
    assert "norms/model-bn_lr-0.1_seed-9" in page.script(ROWS)
    page.click("[data-status=failed]")
    assert "norms/model-bn_lr-0.1_seed-9" not in page.script(ROWS)
    assert len(page.script(ROWS)) == 13
    page.click("[data-status=failed]")
    assert len(page.script(ROWS)) == 14


def test_theme_follows_the_system_until_selected_and_is_remembered(page, report):
    background = "return getComputedStyle(document.body).backgroundColor"
    light = page.script(background)
    page.prefer(prefers_color_scheme="dark")
    dark = page.script(background)
    assert dark != light
    page.click("#theme")
    assert page.script(background) == light
    page.open(report)
    assert page.script(background) == light
    page.prefer(prefers_color_scheme="light")
    page.click("#theme")
    assert page.script(background) == dark


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_sufficient_contrast(page, scheme):
    page.prefer(prefers_color_scheme=scheme)
    page.script("for (const details of document.querySelectorAll('details')) details.open = true")
    assert page.script(LOW_CONTRAST) == []


def curve(outputs: Path, run: str, column: str) -> list[float]:
    with (outputs / "norms" / run / "metrics.csv").open() as file:
        return [float(row[column]) for row in csv.DictReader(file)]


def shown(value: float) -> str:
    return f"{float(f'{value:.4g}'):g}"


def test_curve_is_the_mean_over_seeds_of_the_selected_metric(page, outputs):
    page.script(
        "const select = document.getElementById('curve-metric');"
        "select.value = [...select.options].find(option => option.text === 'val loss').value;"
        "select.dispatchEvent(new Event('change'));"
    )
    assert page.script("return document.querySelector('#curve-plot .title').textContent") == "val loss"
    runs = [curve(outputs, f"model-lrn_lr-0.01_seed-{seed}", "val/loss") for seed in (1, 2, 3)]
    last = [values[-1] for values in runs]
    tip = "const tip = document.getElementById('tip'); return !tip.hidden && tip.innerText.includes(arguments[0])"
    page.script("document.getElementById('curves').scrollIntoView()")
    # The scroll event arrives with the next frame and hides the tooltip.
    page.script("return new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    page.script("document.querySelector('#curve-plot svg').focus({preventScroll: true})")
    page.press(END)
    page.until(tip, "epoch 29")
    page.until(tip, f"model=lrn optim.lr=0.01\t{shown(mean(last))}\t{shown(min(last))} to {shown(max(last))}")
    page.press(LEFT)
    page.until(tip, "epoch 28")
    page.press(RIGHT)
    page.until(tip, "epoch 29")
    assert "epoch 29" in page.script("return document.querySelector('#curve-plot svg').getAttribute('aria-label')")


def test_pointer_over_curves_shows_values(page):
    page.script("document.getElementById('curves').scrollIntoView({behavior: 'instant'})")
    page.point("#curve-plot svg", x=0)
    assert page.script("const tip = document.getElementById('tip'); return !tip.hidden && tip.innerText").startswith(
        "epoch "
    )


def test_individual_runs_and_arms_are_shown_on_demand(page):
    lines = "return document.querySelectorAll('#curve-plot .{}').length"
    assert (page.script(lines.format("mean")), page.script(lines.format("single"))) == (4, 0)
    page.click("#curve-single")
    assert page.script(lines.format("single")) == 14
    assert page.script(lines.format("unfinished")) == 2
    page.click("#curve-legend button")
    assert page.script(lines.format("mean")) == 3


def test_each_varying_setting_has_a_plot(page):
    panels = "return [...document.querySelectorAll('#settings-plots h3')].map(head => head.textContent)"
    assert page.script(panels) == ["model", "optim.lr log scale"]
    dots = "return document.querySelectorAll('#settings-plots > :nth-child(2) .dot').length"
    assert page.script(dots) == 12


def test_two_runs_are_compared_side_by_side(page):
    choose = (
        "const select = document.getElementById(arguments[0]);"
        "select.value = [...select.options].find(option => option.text === arguments[1]).value;"
        "select.dispatchEvent(new Event('change'));"
    )
    page.script(choose, "run-a", "norms/model-lrn_lr-0.01_seed-1")
    page.script(choose, "run-b", "norms/model-lrn_lr-0.1_seed-2")
    keys = "return [...document.querySelectorAll('#config-table .differs th')].map(th => th.firstChild.textContent)"
    assert [key for key in page.script(keys) if key in ("seed", "optim.lr", "model.norm", "name")] == [
        "optim.lr",
        "seed",
    ]
    page.click("#config-differing")
    page.type("#config-filter", "conv3.out")
    cells = "return [...document.querySelectorAll('#config-table tbody tr:not(.group)')].map(row => row.innerText)"
    assert page.script(cells) == ["model.stages.conv3.out\t192\t192"]


def test_selecting_a_run_shows_its_configuration(page):
    page.type("#filter", "seed=9 bn")
    page.click("#runs-table tbody a")
    chosen = "const select = document.getElementById('run-a'); return select.options[select.selectedIndex].text"
    assert page.script(chosen) == "norms/model-bn_lr-0.1_seed-9 (failed)"
    assert "the loss is not finite" in page.script("return document.getElementById('run-notes').innerText")
    assert page.script("return document.activeElement.id") == "configuration-title"


def test_methods_paragraph_can_be_copied_and_pasted(page):
    page.click("[data-copy=methods]")
    assert page.until("return document.getElementById('copied').textContent") == "Copied."
    page.script("document.getElementById('filter').focus()")
    page.press(f"{CONTROL}v")
    methods = page.script("return document.getElementById('methods').value")
    assert page.until("return document.getElementById('filter').value") == methods


def test_picture_is_enlarged_and_closed(page):
    page.click(".zoom")
    assert page.script("return document.getElementById('zoomed').open") is True
    page.press(ESCAPE)
    assert page.script("return document.getElementById('zoomed').open") is False


@pytest.mark.parametrize("width", [390, 320])
def test_page_does_not_scroll_sideways_on_a_phone(page, report, width):
    page.size(width, 844, phone=True)
    page.open(report)
    page.script("for (const details of document.querySelectorAll('details')) details.open = true")
    assert page.script("return document.documentElement.scrollWidth") <= width
    assert page.script("return innerWidth") == width
    assert page.script("return document.querySelector('#curve-plot svg').getBoundingClientRect().right") <= width


def test_difference_is_visible_on_a_phone_and_options_do_not_wrap(page, report):
    page.size(390, 844, phone=True)
    page.open(report)
    ends = (
        "return [...document.querySelectorAll('.arms tr:first-child > :nth-child(3)')]"
        ".map(cell => Math.round(cell.getBoundingClientRect().right))"
    )
    heading, value = page.script(ends)
    assert heading <= 390
    assert value <= 390
    broken = (
        "return [...document.querySelectorAll('.whole, p code')].filter(node => node.getClientRects().length > 1)"
        ".map(node => node.textContent)"
    )
    assert page.script(broken) == []
    assert "top-1" in page.script("return [...document.querySelectorAll('h1 .whole')].map(node => node.textContent)")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_clipped_table_has_a_shadow_at_the_clipped_edge(page, report, tmp_path, scheme):
    page.size(390, 844, phone=True)
    page.prefer(prefers_color_scheme=scheme)
    page.open(report)
    box = page.script(
        "const box = document.querySelector('#runs .scroll').getBoundingClientRect();"
        "return [box.left + 1, box.right - 2, box.bottom + scrollY - 3]"
    )

    def edges() -> tuple[int, int]:
        page.picture(tmp_path / "page.png")
        with Image.open(tmp_path / "page.png") as picture:
            grey = picture.convert("L")
            left, right, y = (round(number) for number in box)
            paper = grey.getpixel((left // 2, y))
            return tuple(abs(grey.getpixel((x, y)) - paper) for x in (left, right))

    left, right = edges()
    assert left <= 2 < right
    page.script("const box = document.querySelector('#runs .scroll'); box.scrollLeft = box.scrollWidth")
    left, right = edges()
    assert right <= 2 < left


def test_printed_page_is_white_without_controls(page):
    page.prefer(prefers_color_scheme="dark")
    page.click("#theme")
    page.click("#theme")
    page.devtools("Emulation.setEmulatedMedia", media="print")
    try:
        assert page.script("return getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert page.script("return getComputedStyle(document.body).color") == "rgb(28, 33, 39)"
        assert page.script("return document.getElementById('filter').getClientRects().length") == 0
        assert page.script("return document.querySelector('#runs-table th').getClientRects().length") == 1
    finally:
        page.devtools("Emulation.setEmulatedMedia", media="")


def test_reduced_motion_disables_smooth_scrolling(page):
    behaviour = "return getComputedStyle(document.documentElement).scrollBehavior"
    assert page.script(behaviour) == "auto"
    page.prefer(prefers_reduced_motion="no-preference")
    assert page.script(behaviour) == "smooth"


def test_landmarks_and_accessible_names_exist(page):
    assert page.script(
        "return ['main', 'header', 'nav', 'footer'].every(tag => document.querySelectorAll(tag).length === 1)"
    )
    nameless = (
        "return [...document.querySelectorAll('button, input, select, textarea, svg[role=img], img')].filter(node => "
        "!(node.getAttribute('aria-label') || node.textContent.trim() || node.alt || node.closest('label'))"
        " && !node.closest('dialog')).length"
    )
    assert page.script(nameless) == 0


def test_text_of_a_run_is_never_executed(chromium, tmp_path):
    write_run(tmp_path / "outputs" / "s" / "<img src=x onerror=1>", "lrn", 0.1, 1, note=HOSTILE, tags=[HOSTILE])
    write_run(tmp_path / "outputs" / "s" / "b", "lrn", 0.1, 2, status="failed", error=HOSTILE)
    write_report(compared(tmp_path / "outputs"), tmp_path / "report.html")
    chromium.open(tmp_path / "report.html")
    assert chromium.script("return window.hacked === undefined")
    assert HOSTILE in chromium.script("return document.getElementById('run-notes').textContent")
    assert "s/<img src=x onerror=1>" in chromium.script(ROWS)
    assert chromium.script("return document.querySelectorAll('img[src=x]').length") == 0
    assert chromium.errors() == []
    chromium.script(
        "const bad = document.createElement('script'); bad.textContent = 'window.hacked = 3'; document.body.append(bad)"
    )
    assert chromium.script("return window.hacked === undefined")
