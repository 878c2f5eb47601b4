# A new machine needs Python 3.11 and a C compiler.
#   make quickstart   install, then run the whole loop      ARGS="--out DIR --resume --smoke"
#   make test         install, then run lint, types and every test that takes seconds
#   make test-slow    run the tests that take minutes
#   make test-models  run the tests that need the real models of ../shared/models/fetch.py
#   make fuzz         look for inputs that break the readers of files and messages, a minute for each
#   make lint         run lint and types only
#   make api          rewrite docs/api.md from the docstrings

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
ARGS ?=
# Further arguments for pip, such as another package index.
PIP_ARGS ?=

# llama-cpp-python is built from source. On x86 machines with AMX, gcc 12 miscompiles AMX code and quantized models crash.
# Compilers for other processors do not know these flags.
ifneq (,$(filter x86_64 amd64,$(shell uname -m)))
NO_AMX := -mno-amx-tile -mno-amx-int8 -mno-amx-bf16
endif
LLAMA_BUILD := CMAKE_ARGS="-DLLAVA_BUILD=OFF" CFLAGS="$(CFLAGS) $(NO_AMX)" CXXFLAGS="$(CXXFLAGS) $(NO_AMX)"
INSTALL := PIP_CONSTRAINT=$(CURDIR)/constraints.txt $(LLAMA_BUILD) $(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check $(PIP_ARGS)

.PHONY: quickstart install test types fast-tests test-slow test-models fuzz lint api clean

quickstart: install
	$(BIN)/mentor-edge quickstart $(ARGS)

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or later is needed; choose one with: make PYTHON=python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@echo "Installing pinned packages; building llama.cpp takes 3 to 5 minutes the first time."
	$(INSTALL) torch
	$(INSTALL) -e '.[dev]'
	@# BFCL's own checker is the oracle of some tests. They do not need its dependencies (dozens of API clients).
	$(INSTALL) --no-deps bfcl_eval
	@# pip would compile one file after another. Some packages contain templates that are not Python: those fail.
	@$(BIN)/python -m compileall -qq -j 0 $(VENV)/lib || true
	@# pip may have cached a wheel that was built with other flags: try it, and rebuild it if it crashes.
	@$(BIN)/mentor-edge doctor || { echo "Rebuilding llama-cpp-python."; \
		$(INSTALL) --force-reinstall --no-deps --no-cache-dir --no-binary llama-cpp-python llama-cpp-python && \
		$(BIN)/mentor-edge doctor; }
	@touch $@

# The tests start hundreds of processes that import the package: it is compiled once, whatever the environment says.
fast-tests test-slow test-models: export PYTHONDONTWRITEBYTECODE =

test: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check --quiet .
	@$(MAKE) --no-print-directory --jobs 2 types fast-tests

types:
	$(BIN)/mypy

fast-tests:
	@# pytest-xdist would run files with few tests last; ours with few tests take the longest.
	$(BIN)/python -m pytest -m "not slow and not models" --numprocesses 2 --dist loadfile --no-loadscope-reorder

test-slow: install
	$(BIN)/python -m pytest -m "slow and not models"

test-models: install
	$(BIN)/python -m pytest -m models

fuzz: install
	@for target in turns gguf templates manifests tasks schemas replies; do echo "fuzzing $$target for a minute"; \
		$(BIN)/python tests/helpers/fuzz.py $$target -max_total_time=60 -verbosity=0 || exit 1; done

lint: install
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

api: install
	$(BIN)/python docs/generate_api.py

clean:
	rm -rf $(VENV) build dist *.egg-info
