"""Looks at the page of a pipeline of very many tables, in a real Chromium, at the size of a desk and of a phone.

Fails if a table cannot be found by its name or by turning pages, if something overflows, or if the document grows with
the number of tables. With --measure, prints as JSON how many milliseconds it takes instead.
"""

import argparse
import json
import pathlib
import random
import time
import urllib.request

from playwright.sync_api import sync_playwright

from page import OVERFLOWING, QUIET, SIZES, check_look

# Elements of the document at most, whatever the number of tables.
MOST_ELEMENTS = 4000
# Names that are looked for, at each size.
SOUGHT = 25

# Notes when rows are first on the screen, by the page's own clock, which starts with the navigation.
WATCH = """new MutationObserver(() => {
  if (!window.shownAt && document.querySelector("tbody tr")) {
    requestAnimationFrame(() => setTimeout(() => { window.shownAt ||= performance.now(); }));
  }
}).observe(document, { childList: true, subtree: true });"""


def names_of(url):
    with urllib.request.urlopen(url + "/api/v1/tables") as answer:
        return list(json.load(answer))


def rows(page):
    return page.locator("tbody tr td:first-child").all_inner_texts()


def check_bounds(page, what):
    overflowing = page.evaluate(OVERFLOWING)
    assert not overflowing, f"{what} overflows: {overflowing}"
    count = page.evaluate("document.querySelectorAll('*').length")
    assert count <= MOST_ELEMENTS, f"{what} has {count} elements"


def wait_until(page, holds, what):
    """The page's policy lets no text be evaluated while it runs, so it is looked at from outside."""
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline, f"{what}: {rows(page)[:3]}"
        page.wait_for_timeout(20)


def find_by_name(page, name):
    page.locator("#filter").fill(name)
    wait_until(page, lambda: rows(page) == [name], f"{name} is not found")


def turn_all_pages(page, names):
    """Turns all pages in the order of the names, which must show each table once."""
    page.locator("#filter").fill("")
    page.get_by_role("button", name="table", exact=True).click()
    seen = []
    while True:
        wait_until(page, lambda: rows(page)[:1] == names[len(seen):][:1], f"{names[len(seen)]} is not first")
        seen += rows(page)
        check_bounds(page, f"the page after {len(seen)} tables")
        following = page.get_by_role("button", name="Next")
        if following.is_disabled():
            break
        following.click()
    assert seen == names, f"{len(seen)} of {len(names)} tables, or in another order"


def check(browser, url, screenshots):
    names = names_of(url)
    for size, (width, height) in SIZES.items():
        page = browser.new_page(viewport={"width": width, "height": height})
        page.goto(url)
        page.wait_for_selector("tbody tr")
        if screenshots:
            page.screenshot(path=pathlib.Path(screenshots) / f"many-{size}.png")
        assert "parked" in page.locator("tbody tr").first.inner_text(), "what is worst comes first"
        check_bounds(page, size)
        check_look(page, f"many tables, {size}")
        for name in random.Random(7).sample(names, SOUGHT) + [names[0], names[-1]]:
            find_by_name(page, name)
        if size == "desk":
            turn_all_pages(page, names)
        page.close()


def measure(browser, url):
    times = {}
    for size, (width, height) in SIZES.items():
        page = browser.new_page(viewport={"width": width, "height": height})
        page.add_init_script(WATCH)
        shown = []
        for _ in range(5):
            page.goto("about:blank")
            page.goto(url)
            wait_until(page, lambda: page.evaluate("window.shownAt"), "no rows")
            shown.append(page.evaluate("window.shownAt"))
        times[size] = sorted(shown)[len(shown) // 2]
        times[f"{size}_elements"] = page.evaluate("document.querySelectorAll('*').length")
        times[f"{size}_filter"] = page.evaluate(
            """(name) => new Promise((resolve) => { const start = performance.now(), input = document.querySelector("#filter");
            new MutationObserver(() => { if (document.querySelectorAll("tbody tr").length === 1) resolve(performance.now() - start); })
              .observe(document, { childList: true, subtree: true, characterData: true });
            input.value = name; input.dispatchEvent(new Event("input", { bubbles: true })); })""", names_of(url)[-1])
        times[f"{size}_whole_status"] = page.evaluate(
            "async () => { const start = performance.now(); await (await fetch('/api/v1/status')).json(); return performance.now() - start; }")
        page.close()
    return times


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True)
    parser.add_argument("--measure", action="store_true")
    parser.add_argument("--screenshots", help="folder")
    options = parser.parse_args()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=QUIET)
        if options.measure:
            print(json.dumps(measure(browser, options.url)))
        else:
            check(browser, options.url, options.screenshots)
        browser.close()


main()
