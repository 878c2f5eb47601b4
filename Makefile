# Everything a new machine needs: Python 3.11 and a C compiler.
#   make quickstart   install and run the whole loop        ARGS="--out DIR --resume --smoke"
#   make test         install and run the test suite

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
ARGS ?=
# More arguments for pip, such as another package index.
PIP_ARGS ?=

# llama-cpp-python is built from source. On x86 machines with AMX, gcc 12 miscompiles AMX code: quantized models crash.
# Compilers for other processors do not know the flags.
ifneq (,$(filter x86_64 amd64,$(shell uname -m)))
NO_AMX := -mno-amx-tile -mno-amx-int8 -mno-amx-bf16
endif
LLAMA_BUILD := CMAKE_ARGS="-DLLAVA_BUILD=OFF" CFLAGS="$(CFLAGS) $(NO_AMX)" CXXFLAGS="$(CXXFLAGS) $(NO_AMX)"
INSTALL := PIP_CONSTRAINT=$(CURDIR)/constraints.txt $(LLAMA_BUILD) $(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS)

.PHONY: quickstart install test test-slow lint clean

quickstart: install
	$(BIN)/mentor-edge quickstart $(ARGS)

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or later is needed; name one with: make PYTHON=python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@echo "Installing pinned packages; building llama.cpp takes 3 to 5 minutes the first time."
	$(INSTALL) torch
	$(INSTALL) -e '.[dev]'
	@# BFCL's own checker, for tests only: an oracle. What it asks for (dozens of API clients) is not needed for that.
	$(INSTALL) --no-deps bfcl_eval
	@# pip may hold a wheel that was built with other flags: try it, and build it anew when it crashes.
	@$(BIN)/mentor-edge doctor || { echo "Rebuilding llama-cpp-python."; \
		$(INSTALL) --force-reinstall --no-deps --no-cache-dir --no-binary llama-cpp-python llama-cpp-python && \
		$(BIN)/mentor-edge doctor; }
	@touch $@

test: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check --quiet .
	$(BIN)/mypy
	$(BIN)/python -m pytest -m "not slow" --numprocesses 2 --dist loadfile

test-slow: install
	$(BIN)/python -m pytest -m slow

lint: install
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

clean:
	rm -rf $(VENV) build dist *.egg-info
