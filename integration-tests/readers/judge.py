"""Replays the log of a Delta table by the protocol's rules alone, and checks what it says against the files.

Shares nothing with the program: JSON by Python, Parquet by DuckDB, deletion vectors by the code below. Checked are, for
each version that the log still has: every removed file was live, with that very deletion vector; no file is live twice;
every vector holds as many rows as it says, all of them within its file. Each checkpoint says what the entries up to it
say. For the last version: every file is there with the size, the rows and the statistics that the log tells, and files
that were removed lately are still there for readers of former versions.

Exit code 0 only if all of it holds. https://github.com/delta-io/delta/blob/master/PROTOCOL.md
"""

import argparse
import decimal
import json
import pathlib
import struct
import sys
import time
import urllib.parse

import duckdb

Z85 = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"
MAGIC = 1681511377
ACTIONS = ["protocol", "metaData", "txn", "domainMetadata", "add", "remove"]

problems = []


def complain(text):
    problems.append(text)


def z85(text):
    out = b""
    for at in range(0, len(text), 5):
        number = 0
        for character in text[at : at + 5]:
            number = number * 85 + Z85.index(character)
        out += struct.pack(">I", number)
    return out


def roaring32(data, at):
    """Rows of one 32-bit bitmap in the portable format, and where it ends."""
    (cookie,) = struct.unpack_from("<I", data, at)
    runs = None
    if cookie & 0xFFFF == 12347:
        count = (cookie >> 16) + 1
        at += 4
        runs = data[at : at + (count + 7) // 8]
        at += (count + 7) // 8
    else:
        assert cookie == 12346, f"unknown cookie {cookie}"
        (count,) = struct.unpack_from("<I", data, at + 4)
        at += 8
    keys = [struct.unpack_from("<HH", data, at + 4 * number) for number in range(count)]
    at += 4 * count
    if runs is None or count >= 4:
        at += 4 * count
    rows = []
    for number, (key, cardinality) in enumerate(keys):
        base = key << 16
        if runs is not None and runs[number // 8] >> (number % 8) & 1:
            (pieces,) = struct.unpack_from("<H", data, at)
            for piece in range(pieces):
                start, length = struct.unpack_from("<HH", data, at + 2 + 4 * piece)
                rows.extend(range(base + start, base + start + length + 1))
            at += 2 + 4 * pieces
        elif cardinality + 1 <= 4096:
            rows.extend(base + low for low in struct.unpack_from(f"<{cardinality + 1}H", data, at))
            at += 2 * (cardinality + 1)
        else:
            words = struct.unpack_from("<1024Q", data, at)
            rows.extend(base + 64 * word + bit for word, bits in enumerate(words) for bit in range(64) if bits >> bit & 1)
            at += 8192
    return rows, at


def vector_rows(table, vector):
    """Rows that a deletion vector removes."""
    kind, text = vector["storageType"], vector["pathOrInlineDv"]
    if kind == "i":
        data = z85(text)[: vector["sizeInBytes"]]
    else:
        folder, name = text[:-20], z85(text[-20:]).hex()
        name = "-".join([name[:8], name[8:12], name[12:16], name[16:20], name[20:]])
        content = (table / folder / f"deletion_vector_{name}.bin").read_bytes()
        start = vector["offset"] + 4
        (size,) = struct.unpack_from(">I", content, vector["offset"])
        assert size == vector["sizeInBytes"], f"size of the vector in {name}"
        data = content[start : start + size]
    magic, bitmaps = struct.unpack_from("<IQ", data, 0)
    assert magic == MAGIC, f"magic number {magic}"
    rows, at = [], 12
    for _ in range(bitmaps):
        (high,) = struct.unpack_from("<I", data, at)
        low, at = roaring32(data, at + 4)
        rows.extend(high << 32 | row for row in low)
    return rows


def name_of(file):
    vector = file.get("deletionVector") or {}
    return file["path"], vector.get("storageType"), vector.get("pathOrInlineDv"), vector.get("offset")


class State:
    """A version of a table."""

    def __init__(self):
        self.live, self.tombstones, self.others = {}, {}, {}

    def apply(self, version, actions):
        removes = [action["remove"] for action in actions if action.get("remove")]
        adds = [action["add"] for action in actions if action.get("add")]
        for remove in removes:
            name = name_of(remove)
            if self.live.pop(name, None) is None:
                complain(f"version {version} removes {name}, which was not live")
            self.tombstones[name] = remove
        for add in adds:
            name = name_of(add)
            if any(live[0] == name[0] for live in self.live):
                complain(f"version {version} adds {name[0]}, which was live")
            self.live[name] = add
            self.tombstones.pop(name, None)
        for action in actions:
            for kind, key in [("protocol", None), ("metaData", None), ("txn", "appId"), ("domainMetadata", "domain")]:
                if action.get(kind):
                    self.others[kind, action[kind].get(key)] = action[kind]


def read_checkpoint(database, path):
    columns = [row[0] for row in database.execute(f"DESCRIBE SELECT * FROM read_parquet('{path}')").fetchall()]
    state = State()
    for kind in [kind for kind in ACTIONS if kind in columns]:
        rows = database.execute(f"SELECT to_json({kind}) FROM read_parquet('{path}') WHERE {kind} IS NOT NULL").fetchall()
        for (text,) in rows:
            body = json.loads(text)
            if kind == "add":
                state.live[name_of(body)] = body
            elif kind == "remove":
                state.tombstones[name_of(body)] = body
            else:
                state.others[kind, body.get({"txn": "appId", "domainMetadata": "domain"}.get(kind))] = body
    return state


def check_checkpoint(version, found, expected):
    if found.live.keys() != expected.live.keys():
        complain(f"the checkpoint of {version} has other files: {found.live.keys() ^ expected.live.keys()}")
    for name, add in found.live.items():
        if add.get("stats") != expected.live.get(name, {}).get("stats"):
            complain(f"the checkpoint of {version} has other statistics of {name[0]}")
    positions = lambda state: {key: body["version"] for key, body in state.others.items() if key[0] == "txn"}
    if positions(found) != positions(expected):
        complain(f"the checkpoint of {version} has other positions")
    schema = lambda state: state.others.get(("metaData", None), {}).get("schemaString")
    if schema(found) != schema(expected):
        complain(f"the checkpoint of {version} has another schema")


def check_file(database, table, add):
    path = table / urllib.parse.unquote(add["path"])
    if not path.exists():
        return complain(f"{path.name} is live, and not there")
    if path.stat().st_size != add["size"]:
        complain(f"{path.name} has another size than the log tells")
    statistics = json.loads(add["stats"], parse_float=decimal.Decimal) if add.get("stats") else {}
    (rows,) = database.execute(f"SELECT count(*) FROM read_parquet('{path}')").fetchone()
    if statistics.get("numRecords", rows) != rows:
        complain(f"{path.name} has {rows} rows, the log tells of {statistics['numRecords']}")
    gone = []
    if add.get("deletionVector"):
        try:
            gone = vector_rows(table, add["deletionVector"])
        except Exception as error:
            return complain(f"the vector of {path.name} cannot be read: {error}")
        if len(gone) != add["deletionVector"]["cardinality"] or len(set(gone)) != len(gone):
            complain(f"the vector of {path.name} removes {len(gone)} rows, and says otherwise")
        if any(row >= rows for row in gone):
            complain(f"the vector of {path.name} removes rows that are not there")
    database.execute("CREATE OR REPLACE TEMP TABLE gone (row BIGINT)")
    database.execute("INSERT INTO gone SELECT unnest(?::BIGINT[])", [gone])
    check_statistics(database, path, statistics)


def check_statistics(database, path, statistics):
    left = f"(SELECT * FROM read_parquet('{path}', file_row_number = true) WHERE file_row_number NOT IN (FROM gone))"
    for column, bound in statistics.get("minValues", {}).items():
        smallest = statistics["minValues"][column], statistics["maxValues"].get(column)
        quoted = '"' + column.replace('"', '""') + '"'
        # As text where it is text, and otherwise in the column's own type.
        low = f"CAST(? AS {type_of(database, path, quoted)})"
        wrong = database.execute(f"SELECT count(*) FROM {left} WHERE {quoted} < {low}", [str(smallest[0])]).fetchone()[0]
        if wrong:
            complain(f"{path.name}: {wrong} values of {column} are below {bound}")
        if smallest[1] is not None:
            # Instants are told to the millisecond, and rounded up by those who write them.
            wrong = database.execute(f"SELECT count(*) FROM {left} WHERE {quoted} > {low}", [str(smallest[1])]).fetchone()[0]
            if wrong:
                complain(f"{path.name}: {wrong} values of {column} are above {smallest[1]}")
    for column, nulls in statistics.get("nullCount", {}).items():
        quoted = '"' + column.replace('"', '""') + '"'
        if not isinstance(nulls, int):
            continue
        found = database.execute(f"SELECT count(*) FROM read_parquet('{path}') WHERE {quoted} IS NULL").fetchone()[0]
        if found != nulls:
            complain(f"{path.name}: {found} NULLs in {column}, the log tells of {nulls}")


def type_of(database, path, quoted):
    return database.execute(f"SELECT typeof({quoted}) FROM read_parquet('{path}') LIMIT 1").fetchone()[0]


def judge(database, table, kept_seconds):
    log = table / "_delta_log"
    entries = {int(path.stem): path for path in log.glob("*.json") if path.stem.isdigit()}
    checkpoints = {int(path.name[:20]): path for path in log.glob("*.checkpoint.parquet")}
    first = min(entries)
    state = State()
    if first > 0:
        started = min(version for version in checkpoints if version >= first - 1)
        state, first = read_checkpoint(database, checkpoints[started]), started + 1
    last = max(entries)
    for version in range(first, last + 1):
        if version not in entries:
            return complain(f"version {version} is missing")
        state.apply(version, [json.loads(line) for line in entries[version].read_text().splitlines() if line.strip()])
        if version in checkpoints:
            check_checkpoint(version, read_checkpoint(database, checkpoints[version]), state)
    for add in state.live.values():
        check_file(database, table, add)
    recently = (time.time() - kept_seconds) * 1000
    for remove in state.tombstones.values():
        path = table / urllib.parse.unquote(remove["path"])
        if remove.get("deletionTimestamp", 0) > recently and not path.exists():
            complain(f"{path.name} was removed lately, and is not there any more")
    print(f"{table.name}: {last + 1} versions, {len(state.live)} files, {len(checkpoints)} checkpoints")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kept-seconds", type=int, default=0, help="files removed so lately must still be there")
    parser.add_argument("tables", nargs="+", type=pathlib.Path, help="folders of tables")
    options = parser.parse_args()
    database = duckdb.connect()
    database.execute("SET TimeZone = 'UTC'")
    for table in options.tables:
        assert (table / "_delta_log").is_dir(), f"{table} is no table"
        judge(database, table, options.kept_seconds)
    for problem in problems:
        print(problem)
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
