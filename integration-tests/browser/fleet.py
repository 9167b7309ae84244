"""Looks at the page over many pipelines in a real Chromium, at the size of a desk and of a phone.

Fails if a pipeline's row is not what the API says, if the token is not asked for, or if something overflows or can
hardly be read.
"""

import argparse
import json
import pathlib
import urllib.request

from playwright.sync_api import sync_playwright

from page import QUIET, SIZES, check_keyboard, check_look


def pipelines_of(url, token):
    request = urllib.request.Request(url + "/api/v1/pipelines", headers={"authorization": f"Bearer {token}"})
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)


def check_rows(page, told):
    links = page.locator("tbody a")
    shown = [(link.inner_text(), link.get_attribute("href")) for link in links.all()]
    assert shown == [(seen["name"], seen["page"]) for seen in told], f"{shown} is not {told}"
    for row, seen in zip(page.locator("tbody tr:not(.why)").all(), told):
        cells = row.locator("td").all_inner_texts()
        assert cells[1] == seen["health"], f"{cells} is not {seen}"
        if seen["health"] == "silent":
            why = row.locator("xpath=following-sibling::tr[1]").inner_text()
            assert "no answer since" in why and seen["silent_because"] in why, f"{why} is not {seen}"
        if seen["summary"]:
            parked = seen["summary"]["phases"].get("parked", 0)
            assert cells[5] == str(parked), f"{cells} is not {seen}"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True)
    parser.add_argument("--token", required=True)
    parser.add_argument("--screenshots", help="folder")
    options = parser.parse_args()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=QUIET)
        for size, (width, height) in SIZES.items():
            page = browser.new_page(viewport={"width": width, "height": height})
            page.goto(options.url)
            page.get_by_label("This listener asks for its token").fill(options.token)
            page.get_by_role("button", name="Use it").click()
            page.wait_for_selector("tbody tr")
            check_rows(page, pipelines_of(options.url, options.token))
            check_keyboard(page)
            for scheme in ["light", "dark"]:
                page.emulate_media(color_scheme=scheme)
                check_look(page, f"pipelines, {size}, {scheme}")
                if options.screenshots:
                    path = pathlib.Path(options.screenshots) / f"fleet-{size}-{scheme}.png"
                    page.screenshot(path=path, full_page=True)
            page.close()
        browser.close()


main()
