"""Looks at the page of a running pipeline as a person does, in a real Chromium, at the size of a desk and of a phone.

Fails if a view does not load, a number differs from the API's, something overflows, text has too little contrast in
light or dark, the keyboard does not reach what can be clicked, or the remedy of a parked table does nothing.
"""

import argparse
import json
import pathlib
import time
import urllib.request

from playwright.sync_api import sync_playwright

SIZES = {"desk": (1280, 900), "phone": (390, 844)}
# What a browser would otherwise ask of the network when it starts.
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
# Contrast of text by WCAG 2.2, 1.4.3.
LEAST_CONTRAST = 4.5

OVERFLOWING = """() => document.documentElement.scrollWidth <= document.documentElement.clientWidth ? [] :
  [...document.querySelectorAll("body *")].filter((element) => element.getBoundingClientRect().right > innerWidth
    && !element.closest(".scroll > *")).map((element) => `${element.tagName} ${element.textContent.slice(0, 40)}`)"""
CONTRASTS = """() => {
  const channel = (value) => { value /= 255; return value <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4; };
  const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
  const parse = (text) => text.match(/[\\d.]+/g).map(Number);
  const back = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const color = parse(getComputedStyle(at).backgroundColor);
      if (color.length < 4 || color[3] > 0) return color;
    }
    return [255, 255, 255];
  };
  const texts = [...document.querySelectorAll("body *")].filter((element) => element.checkVisibility() &&
    [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim()));
  return texts.map((element) => {
    const [a, b] = [light(parse(getComputedStyle(element).color)), light(back(element))].sort((x, y) => y - x);
    return [(a + 0.05) / (b + 0.05), element.textContent.slice(0, 40)];
  });
}"""


def get(url, path):
    with urllib.request.urlopen(url + path) as answer:
        return json.load(answer)


def check_look(page, what):
    overflowing = page.evaluate(OVERFLOWING)
    assert not overflowing, f"{what} overflows: {overflowing}"
    for contrast, text in page.evaluate(CONTRASTS):
        assert contrast >= LEAST_CONTRAST, f"{what}: '{text}' has a contrast of {contrast:.1f}"


def check_numbers(page, url, table):
    row = page.locator("tr", has=page.get_by_role("link", name=table, exact=True))
    deadline = time.monotonic() + 20
    while True:
        told = get(url, "/api/v1/tables")[table]
        cells = row.locator("td").all_inner_texts()
        if cells[1] == told["phase"] and cells[3] == f"{told['events']:,}":
            return
        assert time.monotonic() < deadline, f"{cells} is not {told}"
        time.sleep(0.5)


def check_columns(page, url, table):
    page.goto(f"{url}/#{table}")
    page.wait_for_selector("[aria-label=columns] tbody tr")
    shown = [row.locator("td").all_text_contents() for row in page.locator("[aria-label=columns] tbody tr").all()]
    told = get(url, f"/api/v1/tables/{table}/schema")["columns"]
    assert len(shown) == len(told), f"{shown} is not {told}"
    for cells, column in zip(shown, told):
        assert cells[0].startswith(column["name"]), f"{cells} is not {column}"
        types = [column[kind] for kind in ("postgres_type", "avro_type", "delta_type") if kind in column]
        assert all(any(cell.startswith(name) for cell in cells) for name in types), f"{cells} is not {column}"


def check_keyboard(page):
    page.evaluate("document.activeElement.blur()")
    reached = set()
    for _ in range(80):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.textContent"))
    wanted = set(page.locator("main a:visible, main button:visible:enabled, nav a:visible").all_inner_texts())
    assert wanted <= reached, f"the keyboard does not reach {wanted - reached}"


def look_around(page, options, size, scheme):
    page.emulate_media(color_scheme=scheme)
    for view in options.views.split(","):
        page.goto(f"{options.url}/#{view}")
        page.wait_for_selector(f'main[data-view="{view}"] section')
        check_look(page, f"{view or 'pipeline'}, {size}, {scheme}")
        if view == options.table:
            page.get_by_label("Its key").fill("1")
            page.get_by_role("button", name="Follow it").click()
            page.locator("#traced strong", has_text="up to date").wait_for()
            check_look(page, f"a row, {size}, {scheme}")
        if options.screenshots:
            name = view.strip(":").replace("/", "-") or "pipeline"
            page.screenshot(path=pathlib.Path(options.screenshots) / f"{name}-{size}-{scheme}.png", full_page=True)


def pages(passes_over=None):
    """An empty page of a Chromium at each size, with the size's name. What a page says of errors fails in the end, but for
    messages that have a text which is passed over."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=QUIET)
        for size, (width, height) in SIZES.items():
            page = browser.new_page(viewport={"width": width, "height": height})
            failures = []
            page.on("pageerror", lambda error: failures.append(str(error)))
            counts = lambda message: message.type == "error" and not (passes_over and passes_over in message.text)
            page.on("console", lambda message: failures.append(message.text) if counts(message) else None)
            yield size, page
            assert not failures, failures
            page.close()
        browser.close()


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True)
    parser.add_argument("--views", required=True, help="fragments, apart by commas; the empty one is the pipeline")
    parser.add_argument("--table", required=True, help="a table that streams")
    parser.add_argument("--parked", help="a table that is parked, whose remedy is clicked")
    parser.add_argument("--screenshots", help="folder")
    return parser.parse_args()


def main():
    options = arguments()
    for size, page in pages():
        for scheme in ["light", "dark"]:
            look_around(page, options, size, scheme)
        page.goto(f"{options.url}/#")
        page.wait_for_selector("main table")
        check_numbers(page, options.url, options.table)
        check_keyboard(page)
        check_columns(page, options.url, options.table)
        check_look(page, f"the columns of {options.table}, {size}")
    if options.parked:
        resume_parked(options)


def resume_parked(options):
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=QUIET)
        page = browser.new_page()
        page.goto(options.url)
        assert "To do:" in page.locator(".problem").first.inner_text()
        page.get_by_role("button", name=f"Resume {options.parked}").click()
        page.locator(".problem").first.wait_for(state="detached", timeout=30000)
        browser.close()


if __name__ == "__main__":
    main()
