"""Checks an audit trail with nothing but its files: every hash, the order, the signatures. Shares no code with the program.

    audit_check.py TABLE [PUBLIC.pem [SEQUENCE:HASH]]

Prints `good`, the number of entries and of signatures, and the head; or what is wrong first, and exits with 1.
"""

import base64
import hashlib
import sys

import deltalake
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from verdict import end


def wrong(what):
    end(what, 1)


table, key, head = (sys.argv[1:] + [None, None])[:3]
public = load_pem_public_key(open(key, "rb").read()) if key else None
rows = deltalake.DeltaTable(table).to_pyarrow_table()
rows = rows.set_column(1, "at", rows["at"].cast("int64")).to_pylist()
rows.sort(key=lambda row: row["sequence"])

previous, signatures = "0" * 64, 0
for number, row in enumerate(rows, start=1):
    if row["sequence"] != number:
        wrong(f"entry {number} is missing")
    if row["previous"] != previous:
        wrong(f"entry {number} does not follow the one before it")
    text = b"sooner-audit-1\n"
    for name in ["sequence", "at", "pipeline", "side", "kind", "table", "actor", "entry", "previous"]:
        value = None if row[name] is None else str(row[name]).encode()
        text += b"-\n" if value is None else b"%d:%s\n" % (len(value), value)
    previous = hashlib.sha256(text).hexdigest()
    if row["hash"] != previous:
        wrong(f"entry {number} was changed")
    if public and row["signature"]:
        public.verify(base64.b64decode(row["signature"]), bytes.fromhex(previous))
        signatures += 1
if public and not rows[-1]["signature"]:
    wrong("the end is not signed")
if head and head not in [f"{row['sequence']}:{row['hash']}" for row in rows]:
    wrong(f"the entry {head} is gone")
end(f"good {len(rows)} {signatures} {rows[-1]['sequence']}:{previous}", 0)
