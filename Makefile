# Two commands do everything: `make demo` and `make test`. Both start from a fresh clone.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin
UV_VERSION := 0.13.9
SOURCES := app backup_manager cli crds rotator sandbox benchmarks tests
export PATH := $(CURDIR)/.tools/bin:$(CURDIR)/.venv/bin:$(PATH)
# Debian's Python and pyenv's may carry settings of the shell; ours are in pyproject.toml.
export PYTHONWARNINGS :=
export PYTHONDONTWRITEBYTECODE :=
# As many workers as processors that may be used (tests/conftest.py).
WORKERS := $(BIN)/pytest -q -n auto --dist loadfile

.PHONY: help venv tools demo check audit release static documented-unit format test servers-and-others property soak gotest unit servers integration e2e crds bench images clean

help: ## show this list
	@awk 'BEGIN {FS = ":.*## "} /^[a-z0-9-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

venv: .venv/.installed ## make .venv with the locked dependencies (about 30 s)

.venv/.installed: pyproject.toml uv.lock
	@echo "venv: installing the locked dependencies"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@test "$$($(BIN)/uv --version 2>/dev/null | cut -d' ' -f2)" = "$(UV_VERSION)" || $(BIN)/python -m pip install --quiet --disable-pip-version-check "uv==$(UV_VERSION)"
	@$(BIN)/uv sync --frozen --quiet --compile-bytecode
	@touch $@

tools: venv ## build the real servers and tools once (about 12 min on 2 cores), then from the cache
	@$(PYTHON) sandbox/tools/build.py

demo: tools ## back up a real TiDB to a real S3 server, restore it into a second one, compare (3 min)
	@$(BIN)/python -m sandbox.demo.main

check: venv ## format, lint, types, import contracts, unit tests (under a minute)
	@$(MAKE) --no-print-directory --jobs=2 --output-sync=target static documented-unit

static: venv ## format, lint, types, import contracts
	@$(BIN)/ruff format --check --quiet . || { echo "run: make format"; exit 1; }
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy --no-error-summary
	@$(BIN)/lint-imports --no-cache > .venv/lint-imports.log 2>&1 || { cat .venv/lint-imports.log; exit 1; }
	@$(BIN)/python -m crds.generate --check

documented-unit: venv
	@$(WORKERS) tests/unit tests/golden --doctest-modules crds app backup_manager cli rotator sandbox/standins/metacontroller sandbox/session.py

format: venv ## let ruff format and sort
	@$(BIN)/ruff check --fix --quiet . ; $(BIN)/ruff format .

audit: venv ## the locked packages against the database of known vulnerabilities; says so where it cannot be reached
	@scripts/audit.sh

release: venv ## dist/: the wheel, and a bill of materials (CycloneDX) for each image and the command
	@rm -rf dist
	@$(BIN)/uv build --wheel --quiet --out-dir dist
	@scripts/sbom.sh dist

test: check audit ## every test (some 12 min on 2 cores, tools built)
	@if [ "$$(nproc)" -gt 1 ]; then $(MAKE) --no-print-directory servers-and-others; else $(MAKE) --no-print-directory property gotest servers; fi

# Tests on servers mostly wait. What needs nothing but a processor runs beside them, yields to them, and is shown at the end.
servers-and-others: tools
	@nice -n 5 $(MAKE) --no-print-directory --keep-going property gotest > .venv/others.log 2>&1 & others=$$!; \
	trap 'kill $$others 2> /dev/null' EXIT; \
	failed=0; $(MAKE) --no-print-directory servers || failed=$$?; \
	wait $$others || failed=$$?; trap - EXIT; \
	cat .venv/others.log; exit $$failed

property: venv ## random worlds: nothing lost, nothing doubled, nothing foreign deleted
	@$(WORKERS) tests/property

soak: venv ## many more random histories than `make test` plays (PATH_HISTORIES, 1,000,000; SOAK_STEPS, 3,000,000; an hour)
	@PATH_HISTORIES=$${PATH_HISTORIES:-1000000} $(BIN)/pytest -q -n auto --dist load --timeout=0 tests/property/test_path_histories.py -k random
	@$(BIN)/pytest -q -n auto --dist load --timeout=0 -rP tests/soak

gotest: tools ## the Go tests of minikv
	@cd sandbox/tools/minikv && CGO_ENABLED=0 GOFLAGS="-trimpath -buildvcs=false -mod=readonly" $$($(CURDIR)/$(BIN)/python ../build.py --print-go) test ./...

unit: venv ## unit and golden tests alone
	@$(BIN)/pytest -q tests/unit tests/golden

ON_SERVERS := $(WORKERS) --no-loadscope-reorder --durations=15

servers: tools ## integration and e2e together, which takes less time than one after the other
	@$(ON_SERVERS) tests/integration tests/e2e

integration: tools ## against a real S3 server, TiDB, dumpling, lightning, br, kube-apiserver
	@$(ON_SERVERS) tests/integration

e2e: tools ## through the sandbox cluster
	@$(ON_SERVERS) tests/e2e

crds: venv ## write crds/*.yaml from the models
	@$(BIN)/python -m crds.generate

bench: tools ## measure against the rivals, print ratios
	@$(BIN)/python -m benchmarks

images: ## build the two container images (needs buildah or docker)
	@scripts/build_images.sh

clean: ## remove .venv, .tools and .sandbox; the tool cache in the home folder stays
	@$(BIN)/python -m sandbox down --all 2>/dev/null || true
	@rm -rf .venv .tools .sandbox .mypy_cache .ruff_cache .pytest_cache .hypothesis
