"""What stands between Postgres and the lake in the demo with Kafka: a broker, a schema registry, an S3 server."""

import os
import pathlib
import socket
import subprocess
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
STACK = ROOT / ".stack"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Service:
    """A process that listens on a port of its own, and is stopped by its id."""

    def __init__(self, folder, name, command, environment=None):
        self.name = name
        self.log = open(folder / f"{name}.log", "w")
        quiet = {"stdin": subprocess.DEVNULL, "stdout": self.log, "stderr": self.log}
        self.process = subprocess.Popen([str(part) for part in command], env=environment, cwd=folder, **quiet)

    def answers(self):
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def wait(self):
        deadline = time.monotonic() + 90
        while not self.answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"the {self.name} did not start; see {self.log.name}")
            time.sleep(0.1)

    def stop(self):
        self.process.kill()
        self.process.wait()
        self.log.close()


class Kafka(Service):
    """One broker in KRaft mode."""

    java = ["java", "-Xms128m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", STACK / "kafka-jars" / "*"]

    def __init__(self, folder):
        self.port, controller = free_port(), free_port()
        self.brokers = f"127.0.0.1:{self.port}"
        properties = folder / "kafka.properties"
        properties.write_text(f"""
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
controller.listener.names=CONTROLLER
listeners=PLAINTEXT://127.0.0.1:{self.port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{self.port}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs={folder / "kafka"}
auto.create.topics.enable=false
default.replication.factor=1
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
group.initial.rebalance.delay.ms=0
""")
        identity = self.run("kafka.tools.StorageTool", "random-uuid").strip()
        self.run("kafka.tools.StorageTool", "format", "-t", identity, "-c", properties)
        super().__init__(folder, "kafka", [*self.java, "kafka.Kafka", properties])

    def run(self, tool, *arguments):
        command = [str(part) for part in [*self.java, tool, *arguments]]
        return subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout

    def tool(self, name, *arguments):
        """One of Kafka's console tools, as its shell scripts start it."""
        return self.run(f"org.apache.kafka.{name}", "--bootstrap-server", self.brokers, *arguments)


class Registry(Service):
    """A registry with Confluent's API, in memory."""

    def __init__(self, folder):
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/apis/ccompat/v7"
        jar = next((STACK / "registry").glob("*-runner.jar"))
        environment = os.environ | {"QUARKUS_HTTP_PORT": str(self.port), "QUARKUS_HTTP_HOST": "127.0.0.1"}
        super().__init__(folder, "registry", ["java", "-Xmx384m", "-XX:+UseSerialGC", "-jar", jar], environment)

    def answers(self):
        try:
            return urllib.request.urlopen(f"{self.url}/subjects", timeout=2).status == 200
        except OSError:
            return False


class S3(Service):
    """An S3 server, in memory."""

    def __init__(self, folder):
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.url = f"http://{self.address}"
        program = STACK / "venv" / "bin" / "moto_server"
        super().__init__(folder, "s3", [program, "-H", "127.0.0.1", "-p", self.port])

    def create_bucket(self, name):
        urllib.request.urlopen(urllib.request.Request(f"{self.url}/{name}", method="PUT"), timeout=10)
