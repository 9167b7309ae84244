"""Looks at what the page says of trust, in a real Chromium, at the size of a desk and of a phone: what is verified,
written and masked, against the API; makes a cut by the form, looks at it, and drops it.
"""

import argparse
import pathlib

from page import check_keyboard, check_look, get, pages


def show(page, options, view):
    page.goto(f"{options.url}/#{view}")
    page.wait_for_selector(f'main[data-view="{view}"] section')


def picture(page, options, name):
    if options.screenshots:
        page.screenshot(path=pathlib.Path(options.screenshots) / f"trust-{name}.png", full_page=True)


def rows_of(page, label):
    rows = page.locator(f"[aria-label={label}] tbody tr").all()
    return [[cell.strip() for cell in row.locator("td").all_text_contents()] for row in rows]


def check_verifications(page, options):
    show(page, options, ":trust")
    page.wait_for_selector("[aria-label=verifications] tbody tr")
    told = get(options.url, "/api/v1/verifications")["reports"]
    shown = rows_of(page, "verifications")
    assert len(shown) == len(told) > 0, f"{shown} is not {told}"
    for cells, report in zip(shown, told):
        wanted = f"{report['differing']:,} rows differ" if report["verdict"] == "different" else report["verdict"]
        assert cells[:2] == [report["table"], wanted] and cells[4] == f"{report['rows']:,}", f"{cells} is not {report}"
    histories = get(options.url, "/api/v1/histories")["histories"]
    assert [cells[:2] for cells in rows_of(page, "histories")] == [[one["table"], str(one["version"])] for one in histories]


def check_tables(page, options):
    show(page, options, "public.orders")
    told = get(options.url, "/api/v1/tables/public.orders")
    section = page.locator("[aria-label=trust]")
    section.wait_for()
    text = section.inner_text()
    report = told["verification"]
    assert f"{report['differing']} rows differ" in text and "--repair" in text, text
    assert all(example["key"] in text for example in report["examples"]), text
    assert page.get_by_role("button", name="Copy it again now").is_visible()
    show(page, options, "public.people")
    page.wait_for_selector("[aria-label=columns] tbody tr")
    columns = get(options.url, "/api/v1/tables/public.people/schema")["columns"]
    heads = page.locator("[aria-label=columns] th").all_text_contents()
    at = heads.index("mask")
    assert [cells[at] for cells in rows_of(page, "columns")] == [column.get("mask", "") for column in columns]
    assert "mirror and history" in page.locator("[aria-label=trust]").inner_text()
    assert "people-history" in page.locator("[aria-label=queries]").inner_text()


def make_and_drop(page, options, name):
    show(page, options, ":trust")
    page.get_by_label("A cut named").fill(name)
    page.get_by_label("kept for").fill("90days")
    page.get_by_role("button", name="Make it").click()
    page.locator("#answer", has_text=name).wait_for()
    check_look(page, "a cut that is asked for")
    page.get_by_role("link", name=name, exact=True).click(timeout=40000)
    page.wait_for_selector("[aria-label=cut] tbody tr")
    cut = get(options.url, f"/api/v1/cuts/{name}")
    kinds = [[table, kind, str(versions[kind]["version"])] for table, versions in cut["tables"].items()
             for kind in ("mirror", "history") if kind in versions]
    assert [cells[:3] for cells in rows_of(page, "cut")] == kinds, kinds
    assert cut["lsn"] in page.locator("[aria-label=cut]").inner_text()
    check_look(page, "a cut")
    check_keyboard(page)
    picture(page, options, f"cut-{name}")
    page.once("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Drop it").click()
    page.locator("#answer", has_text="Dropped").wait_for()


def look_at(page, options, size, name):
    """Looks at each view by day and by night; its picture has what `name` makes of it."""
    for scheme in ["light", "dark"]:
        page.emulate_media(color_scheme=scheme)
        for view in options.views.split(","):
            show(page, options, view)
            page.wait_for_timeout(300)
            check_look(page, f"{view}, {size}, {scheme}")
            picture(page, options, f"{name(view)}-{size}-{scheme}")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True)
    parser.add_argument("--views", required=True, help="fragments, apart by commas")
    parser.add_argument("--screenshots", help="folder")
    options = parser.parse_args()
    for size, page in pages():
        look_at(page, options, size, lambda view: view.strip(":"))
        check_verifications(page, options)
        check_keyboard(page)
        check_tables(page, options)
        make_and_drop(page, options, f"made-on-a-{size}")


if __name__ == "__main__":
    main()
