# make          .venv with the core, the extras and the development tools
# make demo     the main job end to end (no torch needed)
# make test     the tests;   make check: format, lint, types, tests;   make bench: the figures
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: all core dev demo test check lint bench clean
all: dev

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "splitc needs Python 3.11 or newer: make PYTHON=python3.12"; exit 1; }
	sh .ci/venv $(PYTHON) $(VENV)

$(VENV)/.core: pyproject.toml | $(BIN)/python
	@echo "installing the core of splitc into $(VENV) (half a minute)"
	$(PIP) --upgrade 'pip>=25.1'
	$(PIP) -e .
	touch $@

$(VENV)/.dev: pyproject.toml $(VENV)/.core
	@echo "installing torch and the development tools into $(VENV) (a minute)"
	$(PIP) 'torch==2.13.0'
	$(PIP) --group dev -e '.[torch]'
	@$(PIP) -e '.[tensorrt-rtx]' || echo "no TensorRT-RTX for this machine: its tests will be skipped, saying so"
	@$(PIP) -e '.[tvm]' || echo "no TVM for this machine: its tests will be skipped, saying so"
	touch $@

# what runs aarch64 code in the tests: qemu and the cross compiler (apt, as root), and TVM's runtime
$(VENV)/.emulation: $(VENV)/.dev .ci/emulation
	@sh .ci/emulation $(BIN)/python || echo "no emulation of aarch64: its tests will be skipped, saying so"
	@touch $@

core: $(VENV)/.core
dev: $(VENV)/.dev

demo: core
	$(BIN)/python examples/01_digits_camera/demo.py

test: dev $(VENV)/.emulation
	$(BIN)/python -m pytest -q -n 2 --dist loadfile

lint: dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

check: lint test

bench: dev
	for file in benchmarks/[a-z]*.py; do echo "## $$file"; $(BIN)/python $$file || exit 1; done

clean:
	rm -rf $(VENV) dist .mypy_cache .ruff_cache .pytest_cache
