# Two commands do all the set-up: `make demo` shows the main job on a database of its own, `make test` runs all tests.
# `make demo-kafka` shows it through a Kafka broker, `make bench` measures, `make soak` takes longer. Each installs what it lacks, into .stack/ where that is possible.

.PHONY: demo demo-kafka test soak bench count lint build stack-demo stack-kafka stack-test stack-soak clean

demo: stack-demo build
	.stack/venv/bin/python integration-tests/demo/demo.py

demo-kafka: stack-kafka build
	.stack/venv/bin/python integration-tests/demo/demo.py --kafka

# Tests wait for servers and readers more than for a core: three at once make use of two. The suite comes last, so that
# what it says of a failure is at the end.
test: stack-test build
	cargo test --workspace --no-fail-fast --lib --bins --test unit --test structure
	RUST_TEST_THREADS=3 cargo test --workspace --test suite

# What takes too long for every change: many more worlds of the simulation, and the faults again and again.
soak: stack-soak build
	SOONER_SEEDS=20000 cargo test -p integration-tests --test suite simulation::
	for round in 1 2 3 4 5; do cargo test -p integration-tests --test suite -- faults:: failpoints:: || exit 1; done
	for seed in 1 2 3; do SOONER_SEED=$$seed SOONER_STORM_SECONDS=200 cargo test -p integration-tests --test suite ddl_storm:: || exit 1; done
	SOONER_FOREIGN_SECONDS=600 cargo test -p integration-tests --test suite foreign_writers::
	SOONER_BENCH_COMMITS=86400 target/debug/bench days
	SOONER_BENCH_SECONDS=600 target/debug/bench sustained
	for version in 16 17; do SOONER_POSTGRES=$$version cargo test -p integration-tests --test suite -- end_to_end:: copies:: living:: lake_alterations:: faults:: || exit 1; done

bench: stack-test build
	target/debug/bench

count:
	python3 integration-tests/scripts/count.py

lint:
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings

# Always the whole workspace: built by parts, crates would differ in features, and the tree would be compiled again.
build:
	cargo build --workspace

stack-demo:
	bash integration-tests/stack/install.sh demo

stack-kafka:
	bash integration-tests/stack/install.sh kafka

stack-soak:
	bash integration-tests/stack/install.sh soak

stack-test:
	bash integration-tests/stack/install.sh test

clean:
	cargo clean
	rm -rf .stack .demo .bench
