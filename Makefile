# `make` alone lists the targets.
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

# A Python with pytest, known once `setup` has run.
PYTHON = $$(scripts/install-prerequisites --python)

# Only the tests themselves run as root: what is built belongs to whoever builds it, and Python leaves no files here.
AS_ROOT := $(if $(filter 0,$(shell id -u)),,sudo)
PYTEST = $(AS_ROOT) env PYTHONDONTWRITEBYTECODE=1 "$(PYTHON)" -m pytest

.PHONY: help setup build demo check test soak bench clean

help: ## list these targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1|\2/p' $(MAKEFILE_LIST) | while IFS='|' read -r name does; do \
		printf '%-12s  %s\n' "$$name" "$$does"; done

setup: ## install what the rest needs, on Debian and its kin (quick where it is there)
	@scripts/install-prerequisites

build: ## build the program, one static file
	cargo build --release --locked
	@echo "built $$(ls -t target/*/release/nix-build-shell | head -n 1)"

demo: setup build ## make a real Nix build fail and open its sandbox
	@scripts/demo

check: setup ## format, lints, every test
	cargo fmt --check
	cargo clippy --all-targets --locked -- -D warnings
	cargo test --locked
	@$(MAKE) test

test: setup build ## only the tests against the real Nix; ARGS goes to pytest: make test ARGS='-k hostname'
	$(PYTEST) $(ARGS)

soak: setup build ## start 10,000 sandboxes in a row and 64 at a time for five minutes: nothing may be left
	@$(AS_ROOT) env PYTHONDONTWRITEBYTECODE=1 "$(PYTHON)" scripts/soak $(ARGS)

bench: setup ## measure the start-up, and compare it with bubblewrap's
	@scripts/bench

clean: ## remove what was built
	cargo clean
