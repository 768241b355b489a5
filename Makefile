# Python packages go into .venv; only the GL libraries and, where Debian splits it off, Python's
# venv module are the system's. `make PYTHON=/path/to/python3 ...` chooses the interpreter.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.SILENT:
.NOTPARALLEL:
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

BIN := .venv/bin
GL_LIBRARIES := libOSMesa.so.8 libEGL.so.1 libGL.so.1
GL_PACKAGES := libosmesa6 libegl1 libgl1 libgl1-mesa-dri

export DEBIAN_FRONTEND := noninteractive
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_CONSTRAINT := constraints.txt
export PIP_BUILD_CONSTRAINT := constraints.txt

.PHONY: help
help:
	echo "make demo     collect, pretrain, probe and write one report (runs/demo), in minutes"
	echo "make test     linters, types, import layers, then the whole test suite"
	echo "make check    the linters alone"
	echo "make faults   the fault campaign: every gate, hundreds of kills, in minutes"
	echo "make bench    every benchmark, one JSON line each"
	echo "make install  what the demo needs, into .venv (demo and test do this themselves)"
	echo "make clean    remove .venv and caches; runs/ and data/ stay"

.PHONY: demo
demo: install
	./.venv/bin/saccade demo --out runs/demo

.PHONY: test
test: check
	$(BIN)/python -m pytest -n 2

.PHONY: check
check: .venv/.installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports --no-logo
	$(BIN)/pyright

.PHONY: faults
faults: .venv/.installed-dev
	$(BIN)/python -m tests.faults

.PHONY: bench
bench: .venv/.installed-dev
	for name in acting collection features hdf5 loader mamba reliability rlds train_step video vla_step world_model; do $(BIN)/python benchmarks/$$name.py; done
	for case in ridge features pairs store; do $(BIN)/python benchmarks/probing.py $$case; done

.PHONY: clean
clean:
	rm -rf .venv .pytest_cache .ruff_cache .import_linter_cache dist
	find src tests benchmarks examples -name __pycache__ -prune -exec rm -rf {} +

.PHONY: install
install: .venv/.installed

# $(call apt_install,PACKAGES): install them, or end with one sentence that names them.
define apt_install
	if [ "$$(id -u)" = 0 ]; then root=; else root=$$(command -v sudo || echo false); fi
	echo "installing the system packages $(1)"
	$$root apt-get update -qq 2>/dev/null || true # one unreachable source may not matter
	if ! $$root apt-get install -y -qq --no-install-recommends $(1) >/dev/null; then
		echo "error: the system packages $(1) are missing and could not be installed;" \
			"run 'apt-get install $(1)' as root, then make again" >&2
		exit 1
	fi
endef

# $(call pip_install,EXTRAS): torch alone and first, so that pip never weighs other builds of it.
define pip_install
	echo "installing Python packages into .venv (minutes the first time)"
	$(BIN)/python -m pip install -qq torch
	$(BIN)/python -m pip install -qq -e '.[$(1)]'
endef

.venv/.created:
	for python in $(or $(PYTHON),python3.11 python3.12 python3.13 python3) none; do
		if "$$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' \
			2>/dev/null; then break; fi
	done
	if [ "$$python" = none ]; then
		echo "error: found no Python 3.11, 3.12 or 3.13; install one (apt-get install python3)" \
			"or name it: make PYTHON=/path/to/python3" >&2
		exit 1
	fi
	if ! "$$python" -c 'import ensurepip, venv' 2>/dev/null; then
		version=$$("$$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
		$(call apt_install,python$$version-venv)
	fi
	"$$python" -m venv .venv
	touch $@

.venv/.system: .venv/.created
	if ! $(BIN)/python -c 'import ctypes, sys; [ctypes.CDLL(name) for name in sys.argv[1:]]' \
		$(GL_LIBRARIES) 2>/dev/null; then
		$(call apt_install,$(GL_PACKAGES))
	fi
	touch $@

.venv/.installed: pyproject.toml constraints.txt .venv/.system
	$(call pip_install,sim)
	touch $@

.venv/.installed-dev: pyproject.toml constraints.txt .venv/.system
	$(call pip_install,dev)
	$(BIN)/saccade doctor --install libero >/dev/null
	touch .venv/.installed $@ # dev includes sim
