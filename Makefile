# `make` alone lists the targets.
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

# A Python with pytest, known once `setup` has run.
PYTHON = $$(scripts/install-prerequisites --python)

# Only the tests themselves run as root: what is built belongs to whoever builds it, and Python leaves no files here.
AS_ROOT := $(if $(filter 0,$(shell id -u)),,sudo)
PYTEST = $(AS_ROOT) env PYTHONDONTWRITEBYTECODE=1 "$(PYTHON)" -m pytest

# Where `install` puts it; a packager collects it below DESTDIR.
PREFIX = /usr/local
DESTDIR =

.PHONY: help setup build install uninstall demo check test soak fuzz mutants bench order recording clean

help: ## list these targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1|\2/p' $(MAKEFILE_LIST) | while IFS='|' read -r name does; do \
		printf '%-12s  %s\n' "$$name" "$$does"; done

setup: ## install what the rest needs, on Debian and its kin (quick where it is there)
	@scripts/install-prerequisites

build: ## build the program, one static file
	cargo build --release --locked
	@echo "built $$(ls -t target/*/release/nix-build-shell | head -n 1)"

install: ## install what was built, with manual and completions: make install PREFIX=/usr/local DESTDIR=
	@scripts/install "$(DESTDIR)$(PREFIX)"

uninstall: ## remove what `make install` has installed
	@scripts/install --remove "$(DESTDIR)$(PREFIX)"

demo: setup build ## make a real Nix build fail and open its sandbox
	@scripts/demo

check: setup ## format, lints, every test
	cargo fmt --check
	cargo clippy --all-targets --locked -- -D warnings
	cargo test --locked
	@$(MAKE) test

test: setup build ## only the tests against the real Nix; ARGS goes to pytest: make test ARGS='-k hostname'
	$(PYTEST) $(ARGS)

fuzz: setup ## feed every reader with ten million made-up inputs (RUNS=N: fewer), and compare 10,000 dumps with bash
	@scripts/fuzz
	NIX_BUILD_SHELL_CASES=10000 cargo test --locked --test env_vars_of_bash

mutants: setup ## take each wall of the sandbox out, and see that its tests fail
	$(AS_ROOT) env "PATH=$$PATH" "$(PYTHON)" tests/mutations/run $(ARGS)

soak: setup build ## start 10,000 sandboxes in a row and 64 at a time for five minutes: nothing may be left
	@$(AS_ROOT) env PYTHONDONTWRITEBYTECODE=1 "$(PYTHON)" scripts/soak $(ARGS)

bench: setup ## measure the start-up, and compare it with bubblewrap's
	@scripts/bench

order: setup ## find out anew which functions a start executes, which the linker puts side by side
	@$(AS_ROOT) env "PATH=$$PATH" PYTHONDONTWRITEBYTECODE=1 "$(PYTHON)" scripts/order-start-up

recording: setup build ## record a session anew, for the picture in the README
	@$(AS_ROOT) env PYTHONDONTWRITEBYTECODE=1 "$(PYTHON)" scripts/record-session docs/session.svg

clean: ## remove what was built
	cargo clean
