# What a developer types. `make test` passes the tests on a fresh Debian machine with Rust; it installs what they need.

.PHONY: test lint sim bench packages

# Every test: unit, property, conformance (against runc), real containers, a real registry, and some minutes of simulation.
test: packages
	./scripts/tests
	cargo build --release -p stint -p stint-sim
	./target/release/sim --minutes 1
	./target/release/sim --attached --seeds 0..300
	./target/release/sim --model --seeds 0..10000 --jobs 2

lint:
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --quiet -- --deny warnings
	./scripts/licences

# Ten thousand seeds of the simulation, and a million of the model of decisions.
sim:
	cargo run --release -p stint-sim -- --seeds 0..10000
	cargo run --release -p stint-sim -- --model --seeds 0..1000000 --jobs 2

# The figures of README, on this machine.
bench: packages
	cargo build --release
	cargo bench --quiet -p stint-core --bench schedule
	cargo bench --quiet -p stint-core --bench decide
	cargo bench --quiet -p stint --bench run
	cargo bench --quiet -p stint --bench pods
	cargo bench --quiet -p stint --bench serve
	cargo bench --quiet -p stint --bench watch
	cargo bench --quiet -p stint-sim --bench jobs
	cargo bench --quiet -p stint-sim --bench cronjobs
	cargo bench --quiet -p stint-runtime --bench launch

packages:
	@./scripts/packages
	@./scripts/clients
	@./scripts/kernel
