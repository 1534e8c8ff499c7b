# The habits. `make` alone lists them.

# What the simulation, the tests and the agent's jail need beside Rust.
NEEDS := git redis-server bwrap cc
PACKAGES := git redis-server bubblewrap gcc libc6-dev ca-certificates
# The HTTP client does not start without any authority to trust, not even towards loopback.
CERTIFICATES := /etc/ssl/certs/ca-certificates.crt
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)
ARGS ?=
TARGET := $(or $(CARGO_TARGET_DIR),target)

.PHONY: help
help: ## list these commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

.PHONY: setup
setup: ## install what is missing: git, redis-server (tests), bubblewrap (the jail), a C compiler
	@missing=; for need in $(NEEDS); do command -v $$need >/dev/null || missing="$$missing $$need"; done; \
	if command -v apt-get >/dev/null && [ ! -e $(CERTIFICATES) ]; then missing="$$missing ca-certificates"; fi; \
	if [ -z "$$missing" ]; then exit 0; fi; \
	echo "missing:$$missing"; \
	echo "  git drives the workspaces, redis-server is the queue in tests and 'make demo --redis',"; \
	echo "  bubblewrap (bwrap) is the jail in which the agent's commands run,"; \
	echo "  a C compiler builds SQLite and links, ca-certificates say which servers to trust"; \
	if ! command -v apt-get >/dev/null; then \
		echo "this is no Debian or Ubuntu: install git, redis and bubblewrap with your package manager" >&2; exit 1; fi; \
	if [ -n "$(SUDO)" ] && ! command -v sudo >/dev/null; then \
		echo "not root and no sudo: have somebody run 'apt-get install $(PACKAGES)'" >&2; exit 1; fi; \
	set -e; echo "installing $(PACKAGES) by apt-get"; \
	$(SUDO) apt-get update -qq; \
	$(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(PACKAGES)

.PHONY: demo
demo: setup ## show it at work against simulated APIs; ARGS='--jobs 20 --rpm 120', see ARGS=--help
	@cargo build --workspace --bins
	@$(TARGET)/debug/steadfast-demo $(ARGS)

# Of 'chaos': the first seed and how many. Of 'chaos-real': how long; FIRST is its seed.
SEEDS ?= 1000
FIRST ?= 0
SECONDS ?= 600

.PHONY: chaos
chaos: ## simulated storms by seeds, each step judged; SEEDS=1000 FIRST=0
	@STEADFAST_SEED=$(FIRST)..$$(($(FIRST) + $(SEEDS))) cargo test --quiet --test promises -- \
		any_weather_ends_well::fixed_seeds --nocapture

.PHONY: chaos-real
chaos-real: setup ## kill -9, SIGSTOP and Redis restarts on real processes; SECONDS=600 FIRST=1
	@cargo build --quiet --bin steadfast
	@STEADFAST_CHAOS_SECONDS=$(SECONDS) STEADFAST_CHAOS_SEED=$(FIRST) cargo test --quiet --test promises -- \
		any_weather_ends_well::in_earnest --nocapture

.PHONY: bench-limits
bench-limits: setup ## jobs at rate limits, simulated and real, with plots; ARGS='--quick', '--json', '--mode real'
	@mkdir -p docs/plots
	@cargo build --quiet --release -p steadfast -p steadfast-bench --bin steadfast --bin steadfast-bench
	@$(TARGET)/release/steadfast-bench --plots docs/plots $(ARGS)

# The other systems' programs: a workspace of its own, so that what it needs is no dependency of ours.
PEERS := $(abspath $(TARGET))/bench-queue

.PHONY: bench-queue
bench-queue: setup ## the queue beside BullMQ and apalis-redis; ARGS='--quick', '--json', '--only NAME'
	@bench/queue/peers.sh $(PEERS)
	@cargo run --quiet --release -p steadfast-bench --bin steadfast-bench-queue -- \
		--apalis $(PEERS)/release/steadfast-bench-apalis $(ARGS)

.PHONY: bench-permits
bench-permits: ## the time of a permit with up to 10,000 waiting, and round trips a permit in fleets; ARGS='--only NAME'
	@cargo bench --quiet -p steadfast-actors --bench permits
	@for processes in 4 16; do cargo run --quiet --release -p steadfast-core --example limits -- \
	--ours --seeds 5 --processes $$processes $(or $(ARGS),--only known-bucket); done

.PHONY: build
build: ## the release binary, target/release/steadfast
	cargo build --release --bin steadfast

.PHONY: test
test: setup ## every test
	cargo test --workspace

.PHONY: mutants
mutants: setup ## faults put in on purpose, each of which a test must notice; ARGS='--list', '--json', NAMES
	@tests/mutants/run.sh $(ARGS)

.PHONY: lint
lint: ## formatting and clippy, warnings are errors
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings

.PHONY: doc
doc: ## the API's documentation, warnings are errors; and docs/configuration.md anew
	RUSTDOCFLAGS='-D warnings -A rustdoc::private-intra-doc-links' cargo doc --workspace --no-deps --document-private-items
	cargo build --workspace --bins
	$(TARGET)/debug/steadfast config docs > docs/configuration.md

.PHONY: deny
deny: ## licences and sources of the dependencies; installs cargo-deny by cargo where it is missing
	@command -v cargo-deny >/dev/null || { \
		echo "installing cargo-deny by cargo: once, some minutes"; cargo install --locked --quiet cargo-deny; }
	cargo deny check licenses sources bans

.PHONY: check
check: lint test doc deny ## all of it: before every push
	@git diff --exit-code --stat -- docs/configuration.md \
	|| { echo "docs/configuration.md was out of date: commit it" >&2; exit 1; }
