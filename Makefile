# Two commands do all the set-up: `make demo` shows the main job on a database of its own, `make test` runs all tests.
# `make bench` measures. Each installs what it lacks, into .stack/ where that is possible.

.PHONY: demo test bench lint build stack-demo stack-test clean

demo: stack-demo build
	.stack/venv/bin/python integration-tests/demo/demo.py

test: stack-test
	cargo test --workspace

bench: stack-test
	cargo build
	cargo run -p integration-tests --bin bench

lint:
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings

build:
	cargo build

stack-demo:
	bash integration-tests/stack/install.sh demo

stack-test:
	bash integration-tests/stack/install.sh test

clean:
	cargo clean
	rm -rf .stack .demo .bench
