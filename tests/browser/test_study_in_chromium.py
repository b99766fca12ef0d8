"""The page of a study in a real browser: it fits, it sorts, and marks of one recipe light up together."""

import json

import pytest
from report.test_study_page import FRONT, STUDY

from bertpress.report import study_page

DESKTOP, PHONE = 1280, 390
BOTH = {**STUDY, "fronts": [FRONT, {**FRONT, "task": "mrpc"}]}


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    place = tmp_path_factory.mktemp("pages") / "study.html"
    place.write_text(study_page(BOTH), encoding="utf-8")
    return place


@pytest.mark.parametrize(("width", "dark"), [(DESKTOP, False), (PHONE, True), (320, False)])
def test_it_fits_its_window_and_is_silent(browser, page, width, dark):
    browser.open(page, width=width, dark=dark)
    assert browser.run("return document.documentElement.scrollWidth") <= width
    assert browser.run("return performance.getEntriesByType('resource').length") == 0
    assert browser.messages() == []


def test_a_press_on_a_heading_sorts_and_another_turns_it_round(browser, page):
    browser.open(page, width=DESKTOP)
    press = """
        const heading = [...document.querySelectorAll(".study thead th")].find(th => th.textContent === "Size, %");
        heading.querySelector("button").click();
        return [heading.ariaSort, ...[...document.querySelectorAll(".study tbody tr")].map(row => row.className)];
    """
    assert browser.run(press) == ["ascending", "published", "measured"]
    assert browser.run(press) == ["descending", "measured", "published"]


def test_what_has_no_figure_comes_last_either_way(browser, page):
    browser.open(page, width=DESKTOP)
    press = """
        const heading = [...document.querySelectorAll(".study thead th")].find(th => th.textContent === "GPU");
        heading.querySelector("button").click();
        return [...document.querySelectorAll(".study tbody tr")].map(row => row.className);
    """
    assert browser.run(press) == ["published", "measured"]
    assert browser.run(press) == ["published", "measured"]


def test_pointing_at_a_mark_lights_up_the_same_recipe_everywhere(browser, page):
    browser.open(page, width=DESKTOP)
    lit = browser.run("""
        const mark = document.querySelector('[data-link="gobo"]');
        mark.dispatchEvent(new PointerEvent("pointermove", {bubbles: true, clientX: 9, clientY: 9}));
        const tip = document.getElementById("tip");
        return [document.querySelectorAll(".linked").length, tip.hidden, tip.textContent.startsWith("gobo: 10.0")];
    """)
    assert lit == [2, False, True]
    assert browser.run("""
        document.querySelector("h1").dispatchEvent(new PointerEvent("pointermove", {bubbles: true}));
        return document.querySelectorAll(".linked").length;
    """) == 0  # fmt: skip


def test_claims_open_their_evidence(browser, page):
    browser.open(page, width=PHONE)
    opened = browser.run("""
        const claim = document.querySelector(".claim");
        claim.querySelector("summary").click();
        return [claim.open, claim.querySelector("dl").getBoundingClientRect().height > 0];
    """)
    assert opened == [True, True]


def test_a_label_that_is_a_script_stays_text(browser, page, tmp_path):
    hostile = "<script>document.title = 'owned'</script>"
    place = tmp_path / "attacked.html"
    place.write_text(study_page(json.loads(json.dumps(BOTH).replace("gobo", hostile))), encoding="utf-8")
    browser.open(page, width=DESKTOP)
    scripts, title = browser.run("return [document.scripts.length, document.title]")
    browser.open(place, width=DESKTOP)
    assert browser.run("return [document.scripts.length, document.title]") == [scripts, title]
    assert browser.messages() == []
    assert hostile in browser.run("return document.querySelector('.study').textContent")
