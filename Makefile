# Every target sets itself up: all that is needed is Python 3.11 or newer, pip and make.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
WORKERS ?= 2
TESTS ?= tests
BENCHMARKS ?= startup costs generation training_step trends indexing long_conv hyena_operator hyena_generation long_memory promoters m2_bert monarch retrieval search first_use fine_tuning compressors genome faults

.DEFAULT_GOAL := help
.PHONY: help demo test lint format docs bench clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/demo.stamp ## train a MEGABYTE and a Transformer on real text and compare them (minutes)
	$(BIN)/python examples/demo.py

# One thread for each worker: on few cores, threads of several workers hinder each other.
test: $(VENV)/dev.stamp ## all tests; make test TESTS=tests/cli for some
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal $(TESTS)

lint: $(VENV)/dev.stamp ## ruff and mypy
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy $(wildcard src tests benchmarks examples)

format: $(VENV)/dev.stamp ## let ruff put the source in its format
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

docs: $(VENV)/docs.stamp ## the manual as a web site, in site/
	$(BIN)/zensical build --clean

bench: $(VENV)/bench.stamp ## every benchmark, one after the other (long); make bench BENCHMARKS=generation for one
	set -e; for name in $(BENCHMARKS); do echo "== $$name"; $(BIN)/python -m benchmarks.$$name; done

clean: ## remove the environment and all that was built
	rm -rf $(VENV) build dist site .pytest_cache .mypy_cache .ruff_cache

# The stamps say what is installed; a change of the project's requirements makes them old.
dev_extras := dev,report,data,tokens,metrics
demo_extras := report
docs_extras := docs
bench_extras := bench,report,data,tokens,metrics

# Some systems ship Python without ensurepip: then pip, which is there, puts itself into the environment.
$(VENV)/torch.stamp: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("subquad needs Python 3.11 or newer, $(PYTHON) is " + sys.version.split()[0] + ": make PYTHON=python3.12")'
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV) 2>/dev/null || \
		{ $(PYTHON) -m venv --clear --without-pip $(VENV) && $(PYTHON) -m pip --python $(BIN)/python install -q pip; }
	@echo "installing torch into $(VENV) (the largest part; minutes on a slow line)"
	@$(BIN)/python -m pip install -q torch numpy -c constraints.txt
	@touch $@

$(VENV)/%.stamp: $(VENV)/torch.stamp
	@echo "installing subquad[$($*_extras)]"
	@$(BIN)/python -m pip install -q -e '.[$($*_extras)]' -c constraints.txt
	@touch $@
