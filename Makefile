# Two commands matter: `make run` and `make test`. Both install what is missing first.

CARGO_TARGET_DIR ?= target
export CARGO_TARGET_DIR
PROFILE ?= release
PHAROS = $(CARGO_TARGET_DIR)/$(if $(filter dev,$(PROFILE)),debug,$(PROFILE))/pharos

.PHONY: run test build check deps deps-test bench clean

run: build          ## build, start a one-node cluster with a demo, and say how to look around
	scripts/run $(PHAROS)

test: deps-test check  ## every test, the black-box ones against the real binary included
	cargo nextest run --workspace --exclude pharos-tests
	cargo build -p pharos
	PHAROS_BIN=$$(realpath $(CARGO_TARGET_DIR))/debug/pharos cargo nextest run -p pharos-tests

build: deps         ## the binary alone
	PHAROS_COMMIT=$$(git rev-parse HEAD) cargo build --profile $(PROFILE) -p pharos

check: deps         ## what CI runs first: format, lints, licences
	cargo fmt --check
	cargo clippy --workspace --all-targets -- -D warnings
	@if cargo deny --version >/dev/null 2>&1; then cargo deny check licenses bans sources; else echo "cargo-deny is not installed: licences are not checked"; fi

bench: build        ## figures: see tests/bench
	scripts/deps bench
	PHAROS_BIN=$$(realpath $(PHAROS)) tests/bench/run

deps:
	scripts/deps build

deps-test:
	scripts/deps test

clean:
	cargo clean
