# Each target installs what a fresh Debian or Ubuntu lacks, or names it.

.DEFAULT_GOAL := help
export PATH := $(HOME)/.cargo/bin:$(PATH)

.PHONY: help deps deps-tests build demo up test test-long fuzz bench bench-eval bench-review bench-limits bench-allocate bench-start bench-burst release install lint lint-code docs

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

deps: ## Install what building and the demo need
	@.ci/deps

deps-tests: ## Install what testing needs as well
	@.ci/deps tests

build: deps ## Build every program
	cargo build --workspace --bins

release: deps ## Build every program for use, optimized, into target/twill
	@.ci/release

install: release ## Install the optimized programs below PREFIX=/usr/local
	install -d "$(DESTDIR)$(or $(PREFIX),/usr/local)/bin" "$(DESTDIR)$(or $(PREFIX),/usr/local)/lib/twill"
	install target/twill/bin/* "$(DESTDIR)$(or $(PREFIX),/usr/local)/bin"
	install target/twill/lib/twill/* "$(DESTDIR)$(or $(PREFIX),/usr/local)/lib/twill"

demo: build ## Run the whole loop once on this machine and check every step (root, about a minute)
	@examples/demo/run

up: build ## Start Twill with the shop running, and leave it running
	@examples/demo/run --leave-running

test: deps-tests ## Run every test
	@.ci/test

test-long: deps-tests build ## Run the tests with full volumes: 200 kills under load, ten minutes without a controller, 10,000 quick exits, 20,000 starts, 1,000 simulator seeds
	TW_QUICK_EXITS=10000 TW_SOAK_STARTS=20000 cargo test -p tw-agent --test machine endurance -- --nocapture
	TW_FAULTS=200 cargo test -p tw --test e2e kills -- --nocapture
	TW_CONTROLLER_AWAY=600 cargo test -p tw --test e2e limits_rise -- --nocapture
	cargo run --release -p tw-scheduler --example simulate -- --seeds 1000

fuzz: deps-tests ## Fuzz what is made of the words of a sealed child; SECONDS_MAX=180
	@spec/fuzz/run $(or $(SECONDS_MAX),180)

bench-eval: deps-tests ## Measure evaluation: one spec, a repository of 10,000, and other languages
	@cargo bench -q -p tw-eval --bench evaluate
	@cargo bench -q -p tw-eval --bench repository
	@spec/eval/benches/peers/run

bench-review: deps-tests ## Measure `tw diff` over the history that the tests review
	@cargo build -q --release -p tw-eval --bins
	@cargo bench -q -p tw --bench review

bench: deps-tests bench-eval bench-review bench-start ## Measure; one JSON line a figure
	@cargo bench -q -p tw-store --bench commit
	@cargo bench -q -p tw-scheduler --bench allocate

bench-limits: deps-tests ## Measure the replay of limits; TRACE=FILE replays a trace as well
	@cargo bench -q -p tw-scheduler --bench limits
	@if [ -n "$(TRACE)" ]; then cargo run -q --release -p tw -- replay "$(TRACE)"; fi

bench-allocate: deps-tests ## Measure placement and durable placement; TW_TRACES=DIR adds the Google 2011 trace
	@cargo bench -q -p tw-scheduler --bench allocate
	@cargo bench -q -p tw-store --bench commit

bench-start: deps-tests release ## Measure task starts beside other container runtimes (root, about two minutes)
	@.ci/bench-peers
	@BENCH_PROGRAMS="$(CURDIR)/target/twill" cargo bench -q -p tw-agent --bench start

bench-burst: deps-tests ## Measure 1,000 tasks from `tw apply` until all run, through a controller and two agents (root)
	@cargo build -q --release -p tw -p tw-agent -p tw-eval --bins
	@core/cli/benches/burst/run

lint-code: deps ## Check format and lints
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings

lint: lint-code ## Check format, lints, licences and sources of dependencies
	@command -v cargo-deny >/dev/null || cargo install --locked cargo-deny
	cargo deny check bans licenses sources

docs: ## Write what is generated from the schema
	cargo run -q -p tw-model --example generate
