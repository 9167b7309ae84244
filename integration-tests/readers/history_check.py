"""Checks the chain of a history with nothing but its files: every hash, and the order. Shares no code with the program.

    history_check.py TABLE

Prints `good`, the number of chained rows and of those whose values were erased, and the head; or what is wrong first,
and exits with 1.
"""

import decimal
import hashlib
import struct
import sys

from verdict import end
from verify import connect_duckdb


def wrong(what):
    end(what, 1)


def column(name, kind):
    """A column in a query: instants and dates as numbers, of whatever year."""
    quoted = '"%s"' % name.replace('"', '""')
    number = "epoch_us(%s)" if kind.startswith("TIMESTAMP") else "(%s - DATE '1970-01-01')"
    if not kind.startswith(("TIMESTAMP", "DATE")):
        return quoted
    number = f"[{number % 'x'} FOR x IN {quoted}]" if kind.endswith("[]") else number % quoted
    return f"{number} AS {quoted}"


def form(value, kind):
    if isinstance(value, list):
        items = [None if item is None else form(item, kind) for item in value]
        return b"".join(b"-\n" if item is None else b"%d:%s\n" % (len(item), item) for item in items)
    if isinstance(value, bytes):
        return value
    if isinstance(value, float):
        is_single = kind.startswith("FLOAT")
        return b"nan" if value != value else struct.pack(">f" if is_single else ">d", value).hex().encode()
    if isinstance(value, bool):
        return b"true" if value else b"false"
    return (format(value, "f") if isinstance(value, decimal.Decimal) else str(value)).encode()


database = connect_duckdb(None)
history = f"delta_scan('{sys.argv[1]}')"
described = database.sql(f"SELECT * FROM {history}")
kinds = dict(zip(described.columns, map(str, described.types)))
columns = ", ".join(column(*each) for each in kinds.items())
rows = database.sql(f"SELECT {columns} FROM {history} WHERE _sequence IS NOT NULL ORDER BY _sequence")
previous, number, erased = "0" * 64, 0, 0
for number, row in enumerate(rows.fetchall(), start=1):
    row = dict(zip(kinds, row))
    if row["_sequence"] != number:
        wrong(f"row {number} is missing, or there twice")
    text = b"sooner-history-1\n" + previous.encode() + b"\n"
    for name in sorted(set(row) - {"_hash", "_erased"}, key=str.encode):
        if row[name] is not None:
            for part in (name.encode(), form(row[name], kinds[name])):
                text += b"%d:%s\n" % (len(part), part)
    previous = row["_hash"]
    if row["_erased"]:
        erased += 1
    elif previous != hashlib.sha256(text).hexdigest():
        wrong(f"row {number} was changed")
end(f"good {number} {erased} {number}:{previous}", 0)
