"""Checks what ships to run the program elsewhere: the chart, the compose file, the unit.

Without helm the chart's templates are not rendered, and without systemd-analyze the unit is not verified; that is told.
"""

import json
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

import jsonschema
import yaml

HERE = pathlib.Path(__file__).resolve().parent
CHART = HERE / "helm/sooner"
KAFKA = {
    "mode": "kafka",
    "sink": {"keda": {"enabled": True, "authentication": "login"}},
    "podMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
    "prometheusRule": {"enabled": True},
    "networkPolicy": {"enabled": True, "from": [{"namespaceSelector": {}}]},
    "serviceAccount": {"annotations": {"eks.amazonaws.com/role-arn": "arn:aws:iam::1:role/lake"}},
    "tolerations": [{"operator": "Exists"}],
}
# Values to render with, and the kinds of objects that come of them.
CASES = [
    ({}, ["ConfigMap", "Service", "ServiceAccount", "StatefulSet"]),
    (
        KAFKA,
        ["ConfigMap", "Deployment", "NetworkPolicy", "PodMonitor", "PrometheusRule", "ScaledObject", "Service"]
        + ["ServiceAccount", "StatefulSet"],
    ),
    (
        {"mode": "kafka", "source": {"persistence": {"enabled": False}}, "serviceAccount": {"create": False}},
        ["ConfigMap", "Deployment", "Service", "StatefulSet"],
    ),
    (
        {"http": {"tls": {"existingSecret": "shop-tls", "clientCa": True}}, "podMonitor": {"enabled": True}},
        ["ConfigMap", "PodMonitor", "Service", "ServiceAccount", "StatefulSet"],
    ),
]


def check_values():
    schema = json.loads((CHART / "values.schema.json").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    jsonschema.validate(values, schema)
    for wrong in [{"mode": "both"}, {"config": values["config"] + "[http]\n"}, {"sink": {"replicas": -1}}] + [
        {"http": {"tls": {"secret": "misspelt"}}}
    ]:
        try:
            jsonschema.validate(values | wrong, schema)
        except jsonschema.ValidationError:
            continue
        raise AssertionError(f"{wrong} is taken")
    # Each value that a template asks for is there.
    templates = "".join(path.read_text() for path in (CHART / "templates").iterdir())
    for path in set(re.findall(r"\.Values\.([A-Za-z.]+)", templates)):
        found = values
        for part in path.split("."):
            assert part in found, f"values.yaml has no {path}"
            found = found[part]


def check_tls(values, objects):
    """Where the listener speaks TLS, whoever asks it does, and only there; and the process has its files."""
    secret = values.get("http", {}).get("tls", {}).get("existingSecret")
    for pod in [found["spec"]["template"]["spec"] for found in objects if found["kind"] in ("Deployment", "StatefulSet")]:
        container = pod["containers"][0]
        probes = [container[kind]["httpGet"] for kind in ("startupProbe", "livenessProbe", "readinessProbe")]
        schemes = {probe["scheme"] for probe in probes}
        assert schemes == {"HTTPS" if secret else "HTTP"}, schemes
        mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        assert ("tls" in mounts) == ("tls" in volumes) == bool(secret), (mounts, volumes)
        if secret:
            assert volumes["tls"]["secret"]["secretName"] == secret
    config = next(found for found in objects if found["kind"] == "ConfigMap")["data"]["sooner.toml"]
    assert ('certificate = "/etc/sooner-tls/tls.crt"' in config) == bool(secret), config
    for monitor in [found for found in objects if found["kind"] == "PodMonitor"]:
        assert monitor["spec"]["podMetricsEndpoints"][0].get("scheme", "http") == ("https" if secret else "http")


def check_probes():
    """Also without helm: each probe, and each who scrapes, goes by the listener's scheme."""
    helpers = (CHART / "templates/_helpers.tpl").read_text()
    probes = re.findall(r"httpGet: (.*)", helpers)
    assert len(probes) == 3 and all('scheme: {{ include "sooner.scheme" $root }}' in probe for probe in probes), probes
    assert "scheme: https" in (CHART / "templates/podmonitor.yaml").read_text()


def check_chart(program):
    helm = shutil.which("helm")
    if helm is None:
        print("helm is not installed: the chart's templates were not rendered")
        return
    for values, kinds in CASES:
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
            yaml.safe_dump(values, file)
            file.flush()
            subprocess.run([helm, "lint", "--strict", CHART, "-f", file.name], check=True, stdout=subprocess.PIPE)
            command = [helm, "template", "shop", CHART, "--kube-version", "1.31.0", "-f", file.name]
            rendered = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        objects = list(yaml.safe_load_all(rendered))
        assert sorted(found["kind"] for found in objects) == sorted(kinds), [found["kind"] for found in objects]
        config = next(found for found in objects if found["kind"] == "ConfigMap")["data"]["sooner.toml"]
        check_tls(values, objects)
        with tempfile.TemporaryDirectory() as folder:
            for name in ("tls.crt", "tls.key", "ca.crt"):
                (pathlib.Path(folder) / name).touch()
            check_configuration(program, config.replace("/etc/sooner-tls", folder))
    print("the chart was rendered")


def check_configuration(program, text):
    """The only thing wrong with a configuration is that its variables are not set here."""
    with tempfile.NamedTemporaryFile("w", suffix=".toml") as file:
        file.write(text)
        file.flush()
        said = subprocess.run([program, "--config", file.name, "status"], stderr=subprocess.PIPE, text=True).stderr
    problems = re.findall(r"\n  - (.*)", said)
    assert problems and all("is not set" in problem for problem in problems), said


def check_unit():
    if shutil.which("systemd-analyze") is None:
        print("systemd-analyze is not installed: the unit was not verified")
        return
    unit = HERE / "systemd/sooner.service"
    said = subprocess.run(["systemd-analyze", "verify", "--man=no", unit], stderr=subprocess.PIPE, text=True).stderr
    # The program is installed where the unit runs, not here.
    others = [line for line in said.splitlines() if unit.name in line and "is not executable" not in line]
    assert not others, others
    print("the unit was verified")


def main():
    program = sys.argv[1]
    check_values()
    check_probes()
    check_chart(program)
    check_unit()
    compose = yaml.safe_load((HERE / "compose/compose.yaml").read_text())
    for name, service in compose["services"].items():
        for mount in service.get("volumes", []):
            source = mount.split(":")[0]
            assert not source.startswith(".") or (HERE / "compose" / source).exists(), f"{name} mounts {source}"
    check_configuration(program, (HERE / "compose/sooner.toml").read_text())
    for path in HERE.glob("compose/**/*.yml"):
        yaml.safe_load(path.read_text())


main()
