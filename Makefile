# make run: set up, get MovieLens 100K, run the whole pipeline.  make test: set up, then everything that CI checks.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
SHELL := /bin/bash
# Where this is set, as in many containers, every process would compile all modules again: 15 seconds each.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: run test test-slow ui faults setup lint constraints clean help bench docs

help:
	@echo "make run   set up and run the whole pipeline on MovieLens 100K"
	@echo "make test  set up, then linter, type checker, definition check and all tests but the slow ones"
	@echo "make test-slow  the tests with daemons and killed workers, and the whole pipeline on Spark"
	@echo "make ui    set up and open the Dagster UI on http://localhost:3000"
	@echo "make bench time, memory and disk on generated data, ratios against other packages; QUICK=1 for small data"
	@echo "make docs  the docs as a site that needs no network, in build/docs"
	@echo "make faults break things on purpose and print what survived"
	@echo "make lint  linter, type checker and layers of imports only"
	@echo "make clean remove the virtual environment (homes stay)"

# pip needs most of its time to read the index, on one core, so two of them fetch the pinned packages first. What they
# cannot install here, the one after them does: it resolves and checks everything. pip compiles all modules, of which
# most are never used, in a minute; the import beside it compiles what a run needs, and later ones the rest.
ONLY_S3 := (s3fs|aiobotocore|aioitertools|botocore|jmespath)
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile
setup: $(STAMP)

# Before `setup` wherever Spark sessions start, so that nobody installs for minutes before Java is found missing.
.PHONY: check-java
check-java:
	@$(PYTHON) -m recsys_assets.home.java

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed; this is " + sys.version.split()[0] + ". Set another one: make run PYTHON=python3.12")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV) (a few minutes the first time)"
	@grep -vE '^(#|$(ONLY_S3)=)' constraints.txt | xargs -P 2 -n 40 $(PIP_INSTALL) --no-deps --retries 0 2>/dev/null || true
	@$(BIN)/python -c 'import recsys_assets.orchestration.build' 2>/dev/null & \
	  $(PIP_INSTALL) -c constraints.txt -e '.[connect,dev,docs,postgres]'; installed=$$?; wait; exit $$installed
	@touch $@

run: setup
	@$(BIN)/recsys-assets run

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

# The type checker and the definitions need one core each, so they are checked side by side. The tests begin as soon as
# the definitions are found to load.
test: check-java setup
	@$(MAKE) --no-print-directory -j 2 lint pytest

.PHONY: definitions pytest
definitions: setup
	$(BIN)/dg check defs
	$(BIN)/dagster definitions validate -w workspace.yaml

# Groups and their order are in conftest.py. A third worker on 2 cores makes the whole slower, and so do threads of BLAS
# in each worker, which wait for each other without sleeping.
pytest: definitions
	OPENBLAS_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder

ui: setup
	@$(BIN)/recsys-assets serve

# With a real daemon, a real web server and killed workers, and everything on Spark; many minutes.
test-slow: check-java setup
	$(BIN)/pytest -m slow

# The table of docs/reference/faults.md and the kills at every change; takes hours.
faults: check-java setup
	@$(BIN)/python benchmarks/faults.py

# The tables of docs/reference/benchmarks.md. With QUICK=1 on data that takes five minutes instead of fifty.
BENCH_SIZES := $(if $(QUICK),20000,1000000 27753444)
bench: check-java setup
	@$(BIN)/python benchmarks/scale.py $(addprefix --ratings ,$(BENCH_SIZES)) $(if $(QUICK),,--refresh)
	@$(BIN)/python benchmarks/compare.py $(if $(QUICK),--quick)

# NO_MKDOCS_2_WARNING silences an advertisement of the theme.
docs: setup
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet && echo "Open build/docs/index.html"

# The versions installed now, as the ones that everybody gets. `setup` leaves out what only homes on S3 need, and only
# what is installed gets a pin.
constraints: setup
	@$(PIP_INSTALL) -e '.[s3]'
	@{ echo "# The versions that CI uses. Made by: make constraints"; $(BIN)/pip freeze --exclude-editable; } > constraints.new
	@mv constraints.new constraints.txt

clean:
	rm -rf $(VENV)
