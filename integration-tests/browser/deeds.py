"""Looks at what the page says of reports, erasures, legal holds and the audit chain, in a real Chromium, at the size of a
desk and of a phone, and uses its verbs where they are allowed: makes a report, a hold and a cut at a position that has
passed, releases the hold, and has a subject looked for. Where they are not, there must be no such button.
"""

import argparse
import time

from page import check_keyboard, check_look, get, pages
from trust import look_at, picture, rows_of, show


def until(holds, what):
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.2)


def check_numbers(page, options):
    show(page, options, ":trust")
    section = page.locator("[aria-label=audit]")
    section.get_by_text("as it was written").wait_for(timeout=20000)
    trail = get(options.url, "/api/v1/audit")
    text = section.inner_text()
    key = trail["signing_key_id"]
    assert key in text and f"{get(options.url, '/api/v1/audit/check')['signatures']:,}"[0] in text, text
    erasures = get(options.url, "/api/v1/erasures")
    shown = [[cells[0], cells[4]] for cells in rows_of(page, "erasures")]
    assert shown == [[one["name"], f"{one['rows']:,}"] for one in erasures["erasures"]], shown
    holds = get(options.url, "/api/v1/holds")["holds"]
    assert sorted(cells[0] for cells in rows_of(page, "holds")) == sorted(hold["name"] for hold in holds)
    reports = get(options.url, "/api/v1/reports")
    shown = [[cells[0], cells[5], cells[6]] for cells in rows_of(page, "reports")]
    assert shown == [[one["report"], str(one["runs_made"]), str(one["runs_failed"])] for one in reports], shown
    overview = page.locator("[aria-label=overview]").inner_text()
    assert f"{sum(hold['in_force'] for hold in holds)}\nin force" in overview, overview


def check_details(page, options):
    for view in options.views.split(","):
        if view.startswith(":erasure/"):
            certificate = get(options.url, f"/api/v1/erasures/{view[9:]}")
            show(page, options, view)
            page.wait_for_selector("[aria-label=erasure] tbody tr")
            text = page.locator("[aria-label=erasure]").inner_text()
            wanted = [certificate["search"]["sha256"], certificate["subjects"][0]["sha256"], certificate["complete_lsn"]]
            assert all(part in text for part in wanted) and "nothing is left" in text, text
        if view == ":report/wrong":
            show(page, options, view)
            error = get(options.url, "/api/v1/reports/wrong")["runs"][0]["error"]
            text = page.locator("[aria-label=report]").inner_text()
            assert error["why"].split()[0] in text and error["remedy"] in text, text


def use_holds(page, options, name):
    show(page, options, ":trust")
    page.get_by_label("A hold named").fill(name)
    page.get_by_label("what it keeps").fill("public.people")
    page.get_by_label("because of").fill("a trial")
    page.get_by_role("button", name="Hold it").click()
    page.locator("#answer", has_text=f"The hold {name} is in force").wait_for()
    check_look(page, "a hold")
    page.once("dialog", lambda dialog: dialog.accept("it is over"))
    page.get_by_role("button", name=f"Release {name}").click(timeout=20000)
    page.locator("#answer", has_text=f"Released the hold {name}").wait_for()
    held = {hold["name"]: hold for hold in get(options.url, "/api/v1/holds")["holds"]}
    assert held[name]["released"]["reason"] == "it is over" and not held[name]["in_force"], held


def use_erasures(page, options, size):
    page.get_by_label("Rows where").fill("email=p17@doe.example")
    page.get_by_role("button", name="What is there?").click()
    page.wait_for_selector("[aria-label=erasure] tbody tr", timeout=40000)
    text = page.locator("[aria-label=erasure]").inner_text()
    assert "Dry run" in text and "The source still has 1 rows in public.people" in text, text
    check_look(page, "a dry run")
    check_keyboard(page)
    picture(page, options, f"dry-run-{size}")
    page.get_by_role("button", name="Forget it").click()
    page.locator("#answer", has_text="Forgot").wait_for()


def use_reports_and_cuts(page, options, name):
    show(page, options, ":trust")
    made = lambda: [run for run in get(options.url, "/api/v1/reports/count")["runs"] if run["state"] == "made"]
    before = made()
    page.get_by_role("button", name="Make count now").click()
    page.locator("#answer", has_text="Asked for the report count").wait_for()
    page.get_by_label("A cut named").fill(name)
    page.get_by_label("at", exact=True).fill("0/1")
    page.get_by_role("button", name="Make it", exact=True).click()
    page.get_by_text(f"{name} was not made").wait_for(timeout=40000)
    check_look(page, "a cut that cannot be")
    page.get_by_role("button", name=f"Forget {name}").click()
    page.get_by_text(f"{name} was not made").wait_for(state="hidden", timeout=20000)
    until(lambda: len(made()) > len(before), "the report is not made")


def check_no_verbs(page, options):
    for view in options.views.split(","):
        show(page, options, view)
        buttons = page.locator("main button:visible").all_inner_texts()
        assert set(buttons) <= {"Check the whole chain"}, buttons
        assert not page.locator("main form").count(), view


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True)
    parser.add_argument("--views", required=True, help="fragments, apart by commas")
    parser.add_argument("--screenshots", help="folder")
    options = parser.parse_args()
    control = get(options.url, "/api/v1/health")["control"]
    # What is refused is told by the browser, too.
    for size, page in pages("Failed to load resource"):
        check_numbers(page, options)
        who = "control" if control else "looks"
        look_at(page, options, size, lambda view: f"deeds-{view.strip(':').split('/')[0]}-{who}")
        check_details(page, options)
        show(page, options, ":trust")
        check_keyboard(page)
        if control:
            use_holds(page, options, f"held-on-a-{size}")
            use_erasures(page, options, size)
            use_reports_and_cuts(page, options, f"early-on-a-{size}")
        else:
            check_no_verbs(page, options)


if __name__ == "__main__":
    main()
