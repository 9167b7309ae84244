"""Asks for what takes long on the page, in a real Chromium, at the size of a desk and of a phone: an export, a
verification, a replay and a check of a chain; sees what they come to; and forgets them.
"""

import argparse
import time

from page import check_keyboard, check_look, get, pages

from trust import picture, rows_of, show


DONE = ["cut_export", "cut_verification", "replay", "history_verification", "audit_verification", "optimize", "vacuum"]


def names(options):
    return {task["name"] for task in get(options.url, "/api/v1/tasks")["tasks"]}


def asked(page, options, press, text):
    """Presses something that asks for a task, and sees that there is one more."""
    before = names(options)
    press()
    page.locator("#answer", has_text=text).wait_for()
    assert len(names(options) - before) == 1, before


def use_cut(page, options, cut, size):
    show(page, options, f":trust/{cut}")
    page.get_by_role("button", name="DuckDB").click()
    statements = get(options.url, f"/api/v1/cuts/{cut}/sql?engine=duckdb")["tables"].values()
    page.locator("[aria-label=reading] pre", has_text="ATTACH").wait_for()
    text = page.locator("[aria-label=reading] pre").inner_text()
    assert all(statement in text for kinds in statements for statement in kinds.values()), text
    asked(page, options, page.get_by_role("button", name="Export it").click, f"an export of {cut}")
    asked(page, options, page.get_by_role("button", name="Verify it").click, f"a verification of {cut}")
    check_look(page, "a cut with its verbs")
    check_keyboard(page)
    picture(page, options, f"tasks-cut-{size}")


def use_table(page, options, table, size):
    show(page, options, table)
    page.get_by_label("Its events after").fill("copy")
    page.get_by_label("to", exact=True).fill("now")
    page.locator("#replay-format").select_option("parquet")
    asked(page, options, page.get_by_role("button", name="Replay them").click, f"the events of {table}")
    press = page.get_by_role("button", name="Check the chain of its history").click
    asked(page, options, press, f"a check of the chain of {table}")
    lsn = get(options.url, "/api/v1/cuts")["cuts"][0]["lsn"]
    page.get_by_label("A query of the table as of").fill(lsn)
    page.get_by_role("button", name="Show it").click()
    query = page.locator("[data-part='as of']", has_text="FROM states")
    query.wait_for()
    assert query.inner_text().strip() == get(options.url, f"/api/v1/tables/{table}/history?as_of={lsn}")["sql"].strip()
    asked(page, options, page.get_by_role("button", name="Optimize it").click, f"an optimization of {table}")
    press = page.get_by_role("button", name="What would a vacuum delete?").click
    asked(page, options, press, f"what a vacuum of {table} would delete")
    check_look(page, "a table with its verbs")
    picture(page, options, f"tasks-table-{size}")


def check_audit(page, options, size):
    show(page, options, ":trust")
    page.get_by_label("Check it beside the stream").fill(get(options.url, "/api/v1/audit")["head"])
    press = page.get_by_role("button", name="Check it", exact=True).click
    asked(page, options, press, "a check of the whole audit chain")
    page.locator("#audit-kind").select_option("cut_exported")
    deadline = time.monotonic() + 30
    while (kinds := set(page.locator("[aria-label=audit] ol li strong").all_inner_texts())) != {"cut exported"}:
        assert time.monotonic() < deadline, kinds
        time.sleep(0.2)
    picture(page, options, f"tasks-audit-{size}")


def see_and_forget(page, options, size):
    show(page, options, ":trust")
    section = page.locator("[aria-label=tasks]")
    deadline = time.monotonic() + 60
    while not {cells[1] for cells in rows_of(page, "tasks")}.isdisjoint({"waiting", "begun"}):
        assert time.monotonic() < deadline, "they are not done"
        time.sleep(0.2)
    tasks = get(options.url, "/api/v1/tasks")["tasks"]
    shown = [cells[1] for cells in rows_of(page, "tasks")]
    wanted = ["failed" if task["state"] == "failed" else "done" if task["good"] else "not as it should be" for task in tasks]
    assert shown == wanted[:20], f"{shown} is not {wanted}"
    kinds = {(task["wanted"]["kind"], task["state"], task.get("good")) for task in tasks}
    done = {(kind, "done", kind != "cut_verification") for kind in DONE}
    assert done <= kinds, f"what was asked for went well, and a table without a history is unverified: {kinds}"
    text = section.inner_text()
    assert "public.notes" in text and "rows of 2 tables and 1 histories" in text and "chained rows" in text, text
    check_look(page, "tasks")
    picture(page, options, f"tasks-{size}")
    first = tasks[0]["name"]
    page.get_by_role("button", name=f"Forget {first}").click()
    page.locator("#answer", has_text="Forgot it").wait_for()
    assert first not in names(options)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True)
    parser.add_argument("--views", required=True, help="the name of a cut and of a table, apart by a comma")
    parser.add_argument("--screenshots", help="folder")
    options = parser.parse_args()
    cut, table = options.views.split(",")
    for size, page in pages():
        use_cut(page, options, cut, size)
        use_table(page, options, table, size)
        check_audit(page, options, size)
        see_and_forget(page, options, size)


if __name__ == "__main__":
    main()
