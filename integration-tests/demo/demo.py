"""The main job on a database of its own: copy, stream under load, then prove that the lake equals the source.

With --kafka the path leads through a Kafka broker and a schema registry into an S3 bucket."""

import json
import os
import pathlib
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid

import psycopg

from services import Kafka, Registry, S3

ROOT = pathlib.Path(__file__).resolve().parents[2]
WORK = ROOT / ".demo"
PYTHON = ROOT / ".stack" / "venv" / "bin" / "python"
BINARIES = pathlib.Path("/usr/lib/postgresql/15/bin")
SOONER = ROOT / "target" / "debug" / "sooner"
LOAD_SECONDS = 15
TABLES = [f"public.{name}" for name in ["customers", "products", "orders", "order_lines", "price_list", "returns"]] + [
    f"public.pgbench_{name}" for name in ["accounts", "branches", "tellers", "history"]
]
COLOUR = sys.stdout.isatty()


def say(text):
    print(f"\x1b[1m{text}\x1b[0m" if COLOUR else text, flush=True)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Postgres:
    """A server with its data in a folder that goes with it. Postgres refuses to run as root."""

    def __init__(self):
        self.port = free_port()
        self.folder = pathlib.Path(f"/tmp/sooner-demo-{os.getpid()}")
        self.prefix = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []
        self.url = f"postgres://postgres@127.0.0.1:{self.port}/shop"

    def start(self):
        self.run("initdb", "-A", "trust", "-U", "postgres", "--no-sync", "-D", self.folder)
        settings = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories=/tmp -c wal_level=logical"
        self.run("pg_ctl", "-D", self.folder, "-o", settings, "-l", self.folder / "log", "-w", "start")
        with psycopg.connect(self.url.replace("/shop", "/postgres"), autocommit=True) as connection:
            connection.execute("CREATE DATABASE shop")

    def stop(self):
        if self.folder.exists():
            self.run("pg_ctl", "-D", self.folder, "-m", "immediate", "stop", check=False)
            shutil.rmtree(self.folder, ignore_errors=True)

    def run(self, program, *arguments, check=True):
        command = [*self.prefix, str(BINARIES / program), *map(str, arguments)]
        result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd="/tmp", text=True)
        if check and result.returncode != 0:
            sys.exit(f"{program} failed:\n{result.stdout}")

    def load_schema(self):
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute((pathlib.Path(__file__).parent / "shop.sql").read_text())
        self.run("pgbench", "-i", "-q", "-s", "3", "-h", "127.0.0.1", "-p", self.port, "-U", "postgres", "shop")
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute("ALTER TABLE pgbench_history ADD COLUMN id bigserial PRIMARY KEY")
            connection.execute("ANALYZE")


class Load:
    """A mixed load in threads of its own, until it is stopped."""

    def __init__(self, postgres):
        self.postgres = postgres
        self.stopping = threading.Event()
        self.next_order = 60_000
        self.threads = [threading.Thread(target=work) for work in [self.shop, self.big_transaction, self.new_tables]]
        self.pgbench = None

    def start(self):
        binary = str(BINARIES / "pgbench")
        command = [binary, "-n", "-T", str(LOAD_SECONDS), "-R", "300", "-h", "127.0.0.1", "-p", str(self.postgres.port)]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.pgbench = subprocess.Popen([*command, "-U", "postgres", "shop"], **quiet)
        for thread in self.threads:
            thread.start()

    def stop(self):
        self.stopping.set()
        for thread in self.threads:
            thread.join()
        self.pgbench.wait()

    def shop(self):
        chance = random.Random(7)
        with psycopg.connect(self.postgres.url, autocommit=True) as connection:
            while not self.stopping.wait(0.01):
                with connection.transaction():
                    self.one_purchase(connection, chance)

    def one_purchase(self, connection, chance):
        order = self.next_order
        self.next_order += 1
        connection.execute(
            "INSERT INTO orders VALUES (%s, %s, 'new', localtimestamp, NULL)", [order, chance.randint(1, 20000)]
        )
        for line in range(chance.randint(1, 5)):
            connection.execute(
                "INSERT INTO order_lines SELECT %s, %s, md5('product' || %s)::uuid, %s, NULL",
                [order, line, chance.randint(1, 5000), chance.randint(1, 9)],
            )
        connection.execute("UPDATE orders SET state = 'paid', note = %s WHERE id = %s", [str(uuid.uuid4()), order - 3])
        connection.execute(
            "UPDATE products SET price = price + 0.01 WHERE sku = md5('product' || %s)::uuid", [chance.randint(1, 5000)]
        )
        if chance.random() < 0.2:
            connection.execute("DELETE FROM orders WHERE id = %s", [chance.randint(1, 50000)])
        if chance.random() < 0.1:
            connection.execute("UPDATE orders SET id = -id WHERE id = %s AND NOT EXISTS "
                               "(SELECT FROM order_lines WHERE order_id = %s)", [order - 50, order - 50])

    def big_transaction(self):
        time.sleep(LOAD_SECONDS / 3)
        with psycopg.connect(self.postgres.url) as connection:
            connection.execute("UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid <= 100000")
        say("  … a transaction of 100,000 rows was committed")


    def new_tables(self):
        """A table that was not there before, and another one swapped by rename."""
        time.sleep(LOAD_SECONDS / 2)
        with psycopg.connect(self.postgres.url, autocommit=True) as connection:
            connection.execute(
                "CREATE TABLE returns (id bigint PRIMARY KEY, order_id bigint, reason text); "
                "INSERT INTO returns SELECT i, i, 'reason ' || i % 7 FROM generate_series(1, 1000) i"
            )
            connection.execute(
                "BEGIN; CREATE TABLE price_list_next (sku uuid PRIMARY KEY, price numeric(10, 2) NOT NULL); "
                "INSERT INTO price_list_next SELECT sku, price * 2 FROM price_list; "
                "ALTER TABLE price_list RENAME TO price_list_former; "
                "ALTER TABLE price_list_next RENAME TO price_list; COMMIT"
            )
            for change in [
                "ALTER TABLE orders ADD COLUMN channel text",
                "ALTER TABLE customers RENAME COLUMN born TO \"date of birth\"",
                "ALTER TABLE products DROP COLUMN description",
                "ALTER TABLE order_lines ALTER COLUMN quantity TYPE bigint",
            ]:
                connection.execute(change)
        say("  … columns were added, renamed, dropped and widened")
        say("  … the table returns was created, and price_list was swapped for another one by rename")


def write_configuration(postgres, services, page):
    path = WORK / "sooner.toml"
    command = [SOONER, "init", "--from", postgres.url, "--to", services.lake, "--output", path]
    subprocess.run(command, check=True)
    # Tables that come later take part as well.
    text = re.sub(r"^tables = \[.*?^\]", 'tables = ["public.*"]', path.read_text(), flags=re.DOTALL | re.MULTILINE)
    http = f'\n[http]\nlisten = "{page}"\n'
    path.write_text(text.replace("[lake]", "[lake]\n" + services.lake_lines) + services.lines + http)
    return path


class Direct:
    """Nothing between Postgres and a folder."""

    lake, lake_lines, lines, environment, verify = WORK / "lake", "", "", {}, []

    def stop(self):
        pass


class ThroughKafka:
    """A broker and a registry between Postgres and a bucket."""

    lake = "s3://lake/shop"
    environment = {"AWS_ACCESS_KEY_ID": "demo", "AWS_SECRET_ACCESS_KEY": "demo"}

    def __init__(self):
        say("Starting a Kafka broker, a schema registry and an S3 server")
        self.parts = [Kafka(WORK), Registry(WORK), S3(WORK)]
        self.kafka, registry, s3 = self.parts
        for part in self.parts:
            part.wait()
        s3.create_bucket("lake")
        self.lake_lines = f'endpoint = "{s3.url}"'
        self.lines = f"""
[kafka]
brokers = "{self.kafka.brokers}"
partitions = 3

[registry]
url = "{registry.url}"
"""
        self.verify = ["--s3-endpoint", s3.address]

    def stop(self):
        for part in self.parts:
            part.stop()

    def show_topics(self):
        say("\nThe topics, by Kafka's own tools (kafka-topics.sh and kafka-console-consumer.sh)")
        print(self.kafka.tool("tools.TopicCommand", "--list"))
        print(self.kafka.tool("tools.TopicCommand", "--describe", "--topic", "shop.public.orders"))
        consume = ["--from-beginning", "--max-messages", "1", "--isolation-level", "read_committed", "--timeout-ms", "20000"]
        print("one progress record:")
        print(self.kafka.tool("tools.consumer.ConsoleConsumer", "--topic", "sooner.shop.progress", *consume))
        print("one event's headers (its value is Avro):")
        headers = ["--formatter-property", "print.headers=true", "--formatter-property", "print.value=false"]
        print(self.kafka.tool("tools.consumer.ConsoleConsumer", "--topic", "shop.public.orders", *headers, *consume))


def status(configuration):
    result = subprocess.run([SOONER, "--config", configuration, "status", "--json"], capture_output=True, text=True)
    return json.loads(result.stdout) if result.returncode == 0 else None


def wait_until(configuration, process, condition, seconds):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if process.poll() is not None:
            sys.exit(f"sooner ended unexpectedly; see {WORK / 'sooner.log'}")
        current = status(configuration)
        if current and condition(current):
            return current
        time.sleep(0.3)
    sys.exit(f"sooner did not get there in {seconds} s; see {WORK / 'sooner.log'}")


def show(current, before, elapsed):
    tables = [table for table in current["tables"].values() if table["lag_seconds"] is not None]
    events = sum(table["events"] for table in tables)
    copied = sum(table["rows_copied"] for table in tables)
    versions = sum(table["table_version"] or 0 for table in tables)
    lag_seconds = max((table["lag_seconds"] for table in tables), default=0)
    lag_bytes = max((table["lag_bytes"] or 0 for table in tables), default=0)
    rate = (events - before) / elapsed
    print(
        f"  {copied:>9,} rows copied   {events:>9,} events   {rate:>8,.0f} events/s   "
        f"lag {lag_seconds:4.1f} s, {lag_bytes / 1024:8,.0f} KiB   {versions:>4} table versions",
        flush=True,
    )
    return events


def watch(configuration, seconds):
    events, last = 0, time.monotonic()
    end = last + seconds
    while time.monotonic() < end:
        time.sleep(1)
        current, now = status(configuration), time.monotonic()
        if current:
            events = show(current, events, now - last)
        last = now


def prove(postgres, services):
    verify = ROOT / "integration-tests" / "readers" / "verify.py"
    command = [PYTHON, verify, "--postgres", postgres.url, "--lake", services.lake, *services.verify, *TABLES]
    return subprocess.run(command, env=os.environ | services.environment).returncode == 0


def commands():
    orders = WORK / "lake" / "public" / "orders"
    python = PYTHON.relative_to(ROOT)
    extension = "duckdb_extension_delta.__path__[0]"
    return f"""
The lake stays at {WORK / 'lake'}. Query it:

  DuckDB   {python} -c "import duckdb, duckdb_extension_delta, glob
c = duckdb.connect(config={{'allow_unsigned_extensions': 'true'}})
c.load_extension(glob.glob({extension} + '/extensions/*/delta.duckdb_extension')[0])
print(c.sql(\\"SELECT state, count(*) FROM delta_scan('{orders}') GROUP BY state\\"))"

  Polars   pip install polars deltalake
           python -c "import polars; print(polars.scan_delta('{orders}').group_by('state').len().collect())"

  Spark    pyspark --packages io.delta:delta-spark_4.1_2.13:4.4.0 \\
               --conf spark.sql.extensions=io.delta.sql.DeltaSparkSessionExtension \\
               --conf spark.sql.catalog.spark_catalog=org.apache.spark.sql.delta.catalog.DeltaCatalog
           >>> spark.read.format("delta").load("{orders}").groupBy("state").count().show()
"""


def main():
    through_kafka = "--kafka" in sys.argv[1:]
    shutil.rmtree(WORK, ignore_errors=True)
    WORK.mkdir()
    postgres, process, services = Postgres(), None, Direct()
    try:
        if through_kafka:
            services = ThroughKafka()
        say("Starting a Postgres with a shop and pgbench's tables")
        postgres.start()
        postgres.load_schema()
        page = f"127.0.0.1:{free_port()}"
        configuration = write_configuration(postgres, services, page)
        with open(WORK / "sooner.log", "w") as log:
            environment = os.environ | services.environment
            process = subprocess.Popen([SOONER, "--config", configuration, "run"], stderr=log, env=environment)
        say("\nStarting `sooner run`: the initial copy, then the stream")
        say(f"While it runs, look at http://{page}/")
        wait_until(configuration, process, is_streaming, 120)
        load = Load(postgres)
        load.start()
        watch(configuration, LOAD_SECONDS)
        load.stop()
        say("\nThe load has ended. Waiting for the last event, then comparing every row of every table")
        with psycopg.connect(postgres.url) as connection:
            end = connection.execute("SELECT pg_current_wal_insert_lsn()::text").fetchone()[0]
        wait_until(configuration, process, lambda current: is_complete(current, end), 60)
        held = prove(postgres, services)
        if through_kafka:
            services.show_topics()
        process.send_signal(signal.SIGTERM)
        ended = process.wait(timeout=20)
        if not held or ended != 0:
            sys.exit(f"the proof FAILED; see {WORK / 'sooner.log'}")
        say("\nEvery row of every table in the lake equals Postgres.")
        print(f"The configuration stays at {configuration}." if through_kafka else commands())
    finally:
        if process and process.poll() is None:
            process.kill()
        postgres.stop()
        services.stop()


def is_streaming(current):
    """Whether every table is copied and in the lake."""
    tables = current["tables"].values()
    return tables and all(table["phase"] == "streaming" and table["table_version"] is not None for table in tables)


def is_complete(current, end):
    """Whether every table of the proof follows the stream, and all of it up to an LSN is in the lake."""
    phases = [current["tables"].get(name, {}).get("phase") for name in TABLES]
    return number(current["durable_lsn"]) >= number(end) and all(phase == "streaming" for phase in phases)


def number(lsn):
    high, low = lsn.split("/")
    return int(high, 16) << 32 | int(low, 16)


if __name__ == "__main__":
    main()
