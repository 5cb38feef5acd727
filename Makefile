# One line each: make build test lint bench docs. Nothing has to be installed first on Debian or
# Ubuntu: missing system packages are installed with apt where that is allowed, else named.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory --no-builtin-rules

PYTHON ?= python3
BENCH_ARGS ?=
DEMO_ARGS ?=
PYTEST_ARGS ?=

VENV := .venv
STAMPS := build/stamps
INSTALLED := $(VENV)/.rdmaorder-installed
EXTRAS := plot,metrics,hdr,test,lint
CPP_SOURCES := $(shell find cpp -name '*.[ch]pp')
CPP_FORMATTED := $(shell find cpp tests/cpp -name '*.[ch]pp')
# Randomised addresses can collide with ThreadSanitizer's shadow memory (gcc before 14); where the
# machine allows it the suites run without them.
FIXED_ADDRESSES := $(shell setarch -R true 2>/dev/null && echo setarch -R)
PIP := $(VENV)/bin/pip --disable-pip-version-check install -q

export PYTHON
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)

.PHONY: help build test test-cpp sanitize test-python test-rdma rdma-shell demo bench bench-peers bench-rdma
.PHONY: lint format docs
.PHONY: package clean distclean

help: ## say what each target does
	@grep -hE '^[a-z-]+:.*## ' Makefile | sed -E 's/:.*## /\t/' | expand -t 14

build: $(STAMPS)/extension ## make .venv, install the package editable, build the extension in place

test: build $(STAMPS)/system-test ## every test: C++ suites, plain and sanitized; pytest, RDMA included
	@$(MAKE) test-cpp
	@$(MAKE) sanitize
	@python -m pytest $(PYTEST_ARGS)

test-cpp: $(INSTALLED) $(STAMPS)/system-test ## the C++ suites without sanitizers
	@$(call run_preset,dev)

sanitize: $(INSTALLED) $(STAMPS)/system-test ## the C++ suites under asan + ubsan, then under tsan
	@$(call run_preset,asan)
	@$(call run_preset,tsan)

test-python: build ## pytest alone
	@python -m pytest $(PYTEST_ARGS)

test-rdma: build $(STAMPS)/system-test ## the tests on RDMA devices alone: soft-RoCE in QEMU, or RDMAORDER_RDMA=native
	@cmake --preset dev >/dev/null
	@cmake --build --preset dev
	@python -m pytest $(PYTEST_ARGS) tests/rdma

rdma-shell: build ## a shell in the machine with two soft-RoCE devices
	@tests/rdma/run --shell --timeout 86400

demo: build ## gateway, journal and venue; 300,000 real messages replayed; the verdict order by order
	@rdmaorder demo $(DEMO_ARGS)

bench: build $(STAMPS)/system-test $(STAMPS)/system-bench ## run the benchmarks; JSON into benchmarks/results
	@cmake --preset release >/dev/null
	@cmake --build --preset release
	@python -m benchmarks.run $(BENCH_ARGS)

bench-peers: build ## install what the ping-pong references need: UCX, libfabric, ZeroMQ, iceoryx2, Aeron
	@.make/bench-peers

bench-rdma: build $(STAMPS)/system-test ## measure RDMA on soft-RoCE beside perftest; benchmarks/results/rdma.json
	@cmake --preset release >/dev/null
	@cmake --build --preset release --target bench_rdma
	@python -m benchmarks.rdma $(BENCH_ARGS)

lint: build ## ruff, mypy strict, stubs against the extension, clang-format; changes nothing
	@echo "== ruff"
	@ruff check -q .
	@ruff format --check -q . || { echo "make format would change files"; exit 1; }
	@echo "== mypy"
	@mypy
	@echo "== stubtest"
	@python -m mypy.stubtest --mypy-config-file pyproject.toml rdmaorder._core
	@echo "== clang-format"
	@clang-format --dry-run -Werror $(CPP_FORMATTED)

format: $(INSTALLED) ## rewrite the sources as lint wants them
	@ruff check -q --fix-only .
	@ruff format -q .
	@clang-format -i $(CPP_FORMATTED)

docs: build ## check the documentation: links, names, examples
	@python -m pytest -q tests/codebase/test_docs.py

package: $(INSTALLED) ## an sdist, and a wheel built from that sdist, in dist/
	@rm -rf dist
	@python setup.py -q sdist
	@$(VENV)/bin/pip wheel -q --no-deps --no-build-isolation -w dist dist/*.tar.gz
	@ls -l dist

clean: ## remove what was built; .venv stays
	@rm -rf build dist demo-out *.egg-info rdmaorder/_core*.so
	@rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis .benchmarks
	@find rdmaorder tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean ## remove .venv too
	@rm -rf $(VENV)

# Configure, build and run one preset of CMakePresets.json.
define run_preset
echo "== C++ suites: $(1)"; \
cmake --preset $(1) >build/configure-$(1).log 2>&1 || { cat build/configure-$(1).log; exit 1; }; \
cmake --build --preset $(1); \
$(FIXED_ADDRESSES) ctest --preset $(1)
endef

$(STAMPS)/system-%: .make/system-packages
	@mkdir -p $(@D)
	@.make/system-packages $*
	@touch $@

$(VENV)/bin/python: | $(STAMPS)/system-build
	@$(PYTHON) -m venv $(VENV)

$(INSTALLED): pyproject.toml setup.py rdmaorder/VERSION | $(VENV)/bin/python $(STAMPS)/system-build
	@echo "== $(VENV): the package, editable, and its tools"
	@.make/build-requires | $(PIP) -r /dev/stdin
	@$(PIP) --no-build-isolation -e '.[$(EXTRAS)]'
	@touch $@

$(STAMPS)/extension: $(CPP_SOURCES) CMakeLists.txt $(INSTALLED)
	@echo "== extension"
	@python setup.py -q build_ext --inplace
	@mkdir -p $(@D)
	@touch $@
