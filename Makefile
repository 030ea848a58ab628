# The two commands a newcomer needs are `make quickstart` and `make test`; each target makes .venv itself when it is
# missing or older than what defines it.  PYTHON=... picks the interpreter, ARGS=... is passed to the tool.

PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
STAMP := .venv/.installed
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help quickstart quick test test-all test-multinode chaos check lint types format bench

help: ## what each target does
	@sed -n 's/^\([a-z-]*\):.*## /make \1\t/p' Makefile

quickstart: $(STAMP) ## the whole pipeline on the shipped tiny models; writes runs/quickstart/report.html
	$(BIN)/mplat quickstart $(ARGS)

# Compiled modules are kept, whatever the environment says: hundreds of processes are started. What starts Ray comes first.
PYTEST := env -u PYTHONDONTWRITEBYTECODE OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadgroup \
	--no-loadscope-reorder

quick: $(STAMP) ## the contracts of everything registered and the layers, in under two minutes
	$(PYTEST) -m "not slow" tests/contracts tests/test_layering.py tests/test_imports.py $(ARGS)

test: $(STAMP) ## the test suite without what is marked slow
	$(PYTEST) -m "not slow" $(ARGS)

test-all: $(STAMP) ## the whole test suite, as continuous integration runs it
	$(PYTEST) $(ARGS)

test-multinode: $(STAMP) ## what needs several nodes, each a Ray node of its own on this machine
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m multinode $(ARGS)

chaos: $(STAMP) ## fifty random kills of a command, its workers or their machines in every stage; takes two to three hours
	MPLAT_KILLS=50 OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/chaos $(ARGS)

# A static checker does not run front/mplat/__init__.py, which says where the modules are: it gets a folder of links.
types: $(STAMP) ## types alone, which take some minutes
	@rm -rf .venv/typing/mplat && mkdir -p .venv/typing/mplat
	@ln -s $(CURDIR)/platform/* $(CURDIR)/front/mplat/__init__.py .venv/typing/mplat/
	$(BIN)/pyright

lint: $(STAMP) ## lint and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

check: lint types ## lint, formatting and types

format: $(STAMP) ## rewrite the sources in the project's formatting, and the page of everything registered
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/python tools/listing.py

bench: $(STAMP) ## every benchmark, side by side with its peers; prints and writes benchmarks/results/*.json
	@set -e; for name in kernels forward train_step decode tiny_models metrics tracing; do \
		echo "== $$name"; $(BIN)/python benchmarks/$$name.py $(ARGS); done

# setuptools comes first because the project itself is then built with that version instead of a downloaded one.
$(STAMP): pyproject.toml setup.py constraints.txt
	@[ -n "$(PYTHON)" ] || { echo "error: mplat needs Python 3.11 or newer; install one, or name it: make PYTHON=/path/to/python3" >&2; exit 2; }
	$(BIN)/python -c '' 2>/dev/null || $(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install -q -c constraints.txt pip setuptools
	PYTHONWARNINGS=ignore $(BIN)/python -m pip install -q -c constraints.txt --no-build-isolation -e '.[dev]'
	touch $@
