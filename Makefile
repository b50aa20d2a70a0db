# `make help` lists the targets. CARGO_TARGET_DIR and CARGO_BUILD_JOBS are honoured, from the environment or as `make X=…`.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := image
.DELETE_ON_ERROR:

TARGET := $(abspath $(or $(CARGO_TARGET_DIR),target))
TRIPLE := x86_64-unknown-linux-gnu
AGENT := $(TARGET)/$(TRIPLE)/dist/platform-agent
AGENT_MAX_MIB := 12
# Static; relocations packed and no unwind tables (the profile aborts on a panic): 1 MiB less to store and to keep resident.
STATIC_FLAGS := -C target-feature=+crt-static -C link-arg=-Wl,-z,pack-relative-relocs -C force-unwind-tables=no
PLATFORMCTL := $(TARGET)/debug/platformctl
IMAGE := platform
CARGO_DENY_VERSION := 0.20.2
SCRIPTS := run.kube .ci/run tests/setup.sh agent/check-static.sh $(wildcard agent/dist/libexec/*)

export CARGO_TARGET_DIR := $(TARGET)
# Where the tests find the Python tools that tests/setup.sh installs.
export PLATFORM_TOOLS := $(TARGET)/tools/venv

.PHONY: image
image: ## build the build container from the Dockerfile (the default target)
	@if ! command -v docker >/dev/null; then \
	  echo "make image: there is no docker command on the PATH." >&2; \
	  echo "  Install Docker (https://docs.docker.com/engine/install/), or do without the container:" >&2; \
	  echo "  'cargo build -p ctl' builds platformctl, 'make agent' the agent, 'make demo' shows both at work." >&2; \
	  exit 2; \
	fi
	@if ! docker version --format '{{.Server.Version}}' >/dev/null 2>&1; then \
	  echo "make image: docker is installed, but its engine does not answer:" >&2; \
	  docker version --format '{{.Server.Version}}' 2>&1 >/dev/null | tail -n 1 | sed 's/^/    /' >&2 || true; \
	  echo "  Start it ('sudo systemctl start docker', or Docker Desktop), check DOCKER_HOST and 'docker context ls'," >&2; \
	  echo "  and that you may use it (group docker). 'make demo' needs no docker." >&2; \
	  exit 2; \
	fi
	docker build --tag $(IMAGE) .

.PHONY: demo
demo: agent ## build everything, then play the tour: publish, amend, attack, repair, outage
	cargo build --locked --workspace
	PLATFORM_AGENT=$(AGENT) $(PLATFORMCTL) dev demo </dev/null

.PHONY: agent
agent: ## build platform-agent as it goes onto nodes: static, stripped, at most 12 MiB
	RUSTFLAGS='$(STATIC_FLAGS)' cargo build --locked --profile dist --target $(TRIPLE) -p agent
	@agent/check-static.sh $(AGENT) $(AGENT_MAX_MIB)

.PHONY: setup
setup: ## install what the tests and the lints need beside cargo (Debian, PyPI)
	@tests/setup.sh

.PHONY: tools
tools: ## install cargo-deny, compiled from source (several minutes)
	@if [ "$$(cargo deny --version 2>/dev/null)" = "cargo-deny $(CARGO_DENY_VERSION)" ]; then \
	  echo "cargo-deny $(CARGO_DENY_VERSION) is there"; \
	else \
	  CARGO_TARGET_DIR=$(TARGET)/tools/cargo-deny cargo install --locked --version $(CARGO_DENY_VERSION) cargo-deny; \
	fi

.PHONY: test
test: setup ## run every test of the workspace
	cargo build --locked --workspace
	@command -v terraform >/dev/null \
	  || echo "!!! SKIPPED: terraform is not on the PATH: every test of tests/tests/infra will do nothing and pass" >&2
	@if cargo nextest --version >/dev/null 2>&1; then \
	  set -x; cargo nextest run --locked --workspace --no-fail-fast; \
	else \
	  set -x; cargo test --locked --workspace --no-fail-fast; \
	fi

# A tool that is not there is said loudly; with PLATFORM_REQUIRE_TOOLS=1 it fails.
define skipped
{ echo "!!! SKIPPED: $(1) is not installed: run 'make $(2)'" >&2; [ "$${PLATFORM_REQUIRE_TOOLS:-0}" != 1 ]; }
endef

.PHONY: lint
lint: ## format, clippy, licences and sources of dependencies, shell scripts
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	@if cargo deny --version >/dev/null 2>&1; then \
	  set -x; cargo deny --locked --offline check licenses bans sources; \
	else $(call skipped,cargo-deny,tools); fi
	@if command -v terraform >/dev/null; then \
	  set -x; terraform fmt -check -diff terraform; \
	else echo "!!! SKIPPED: terraform is not on the PATH: terraform/ was not checked for its format" >&2; fi
	@if command -v shellcheck >/dev/null; then \
	  set -x; shellcheck $(SCRIPTS); \
	else $(call skipped,shellcheck,setup); fi

.PHONY: advisories
advisories: ## check the dependencies against the RustSec database (fetched from GitHub)
	@cargo deny --version >/dev/null 2>&1 || { echo "make advisories: cargo-deny is not installed: run 'make tools'" >&2; exit 2; }
	@cargo deny --locked check advisories || { \
	  echo "!!! The check above did not pass. If it could not FETCH the database, nothing was checked:" >&2; \
	  echo "!!! run 'make advisories' where https://github.com/RustSec/advisory-db can be reached." >&2; \
	  exit 1; }

.PHONY: bench
bench: agent ## measure what docs/benchmarks.md reports
	@tests/setup.sh --bench
	PLATFORM_AGENT=$(AGENT) PATH="$(TARGET)/tools/bench-venv/bin:$$PATH" cargo bench --locked --workspace --bench '*'

.PHONY: clean
clean: ## remove everything that was built, and the tools of the tests
	cargo clean
	rm -rf $(TARGET)/tools

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' Makefile
