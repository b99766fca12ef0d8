"""The pages in a real browser: they fit, they answer to a finger, and they fetch and run nothing foreign."""

import json
from pathlib import Path

import pytest

from bertpress.report import profile_page, run_page

SAMPLES = Path(__file__).parents[1] / "unit" / "report"
DESKTOP, PHONE = 1280, 390
HOSTILE = "<img src=x onerror=document.title=1></title></td><script>document.title = 'owned'</script>"


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    results = json.loads((SAMPLES / "results.json").read_text(encoding="utf-8"))
    profile = json.loads((SAMPLES / "profile.json").read_text(encoding="utf-8"))
    made = json.loads((SAMPLES / "packed.json").read_text(encoding="utf-8"))
    results["artifact"]["storage"], results["stages"][-1]["notes"] = made["storage"], made["notes"]
    attacked = json.loads(json.dumps(results).replace("quick-sst2", HOSTILE))
    folder = tmp_path_factory.mktemp("pages")
    sources = {
        "run": run_page(results),
        "empty": run_page({}),
        "profile": profile_page(profile),
        "attacked": run_page(attacked),
        "injected": run_page(results).replace("</main>", "<script>document.title = 'owned'</script></main>"),
    }
    for name, source in sources.items():
        (folder / f"{name}.html").write_text(source, encoding="utf-8")
    return folder


@pytest.mark.parametrize(("width", "dark"), [(DESKTOP, False), (PHONE, True), (320, False)])
@pytest.mark.parametrize("name", ["run", "empty", "profile"])
def test_pages_fit_their_window_and_are_silent(browser, pages, tmp_path, name, width, dark):
    browser.open(pages / f"{name}.html", width=width, dark=dark)
    assert browser.run("return document.documentElement.scrollWidth") <= width
    assert browser.run("return performance.getEntriesByType('resource').length") == 0
    assert browser.messages() == []
    browser.picture(tmp_path / f"{name}-{width}.png")
    assert (tmp_path / f"{name}-{width}.png").stat().st_size > 10_000


def test_text_is_large_enough_on_a_phone(browser, pages):
    browser.open(pages / "run.html", width=PHONE)
    smallest = browser.run("""
        const sizes = [];
        for (const node of document.querySelectorAll("main *")) {
          if (!node.childNodes.length || ![...node.childNodes].some(c => c.nodeType === 3 && c.data.trim())) continue;
          const svg = node.closest("svg");
          const scale = svg && svg.viewBox.baseVal.width
            ? svg.getBoundingClientRect().width / svg.viewBox.baseVal.width : 1;
          sizes.push(parseFloat(getComputedStyle(node).fontSize) * scale);
        }
        return Math.min(...sizes);
    """)
    assert smallest >= 10


@pytest.mark.parametrize("dark", [False, True])
def test_text_has_contrast(browser, pages, dark):
    browser.open(pages / "run.html", width=DESKTOP, dark=dark)
    worst = browser.run("""
        const light = (colour) => {
          const [r, g, b] = colour.match(/[\\d.]+/g).slice(0, 3).map(v => v / 255)
            .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
          return 0.2126 * r + 0.7152 * g + 0.0722 * b;
        };
        const ground = light(getComputedStyle(document.body).backgroundColor);
        const ratios = [...document.querySelectorAll("p, td, th, h1, h2, dt, dd, .share, .figure")].map(node => {
          const ink = light(getComputedStyle(node).color);
          return (Math.max(ink, ground) + 0.05) / (Math.min(ink, ground) + 0.05);
        });
        return Math.min(...ratios);
    """)
    assert worst >= 4.5


def test_a_touch_shows_the_exact_figure(browser, pages):
    browser.open(pages / "run.html", width=PHONE)
    shown = browser.run("""
        const cell = document.querySelector(".comparison tbody td");
        cell.scrollIntoView();
        const at = cell.getBoundingClientRect();
        cell.dispatchEvent(new PointerEvent("pointerdown", {bubbles: true, clientX: at.left, clientY: at.top}));
        const tip = document.getElementById("tip");
        const box = tip.getBoundingClientRect();
        return [tip.hidden, tip.textContent, box.left >= 0 && box.right <= innerWidth];
    """)
    assert shown == [False, "22,714,754", True]
    assert browser.run("""
        document.querySelector("h1").dispatchEvent(new PointerEvent("pointerdown", {bubbles: true}));
        return document.getElementById("tip").hidden;
    """)


def test_names_that_are_markup_do_nothing(browser, pages):
    browser.open(pages / "run.html", width=DESKTOP)
    scripts = browser.run("return document.scripts.length")
    browser.open(pages / "attacked.html", width=DESKTOP)
    assert browser.run("return document.scripts.length") == scripts
    assert browser.messages() == []
    assert browser.run("return document.title") != "owned"
    assert browser.run("return document.images.length") == 0
    assert "smaller" in browser.run("return document.title")
    assert "<img src=x" in browser.run("return document.querySelector('.comparison').textContent")


def test_the_policy_stops_a_foreign_script(browser, pages):
    browser.open(pages / "injected.html", width=DESKTOP)
    assert browser.run("return document.title") != "owned"
    assert any("Content Security Policy" in message for message in browser.messages())
