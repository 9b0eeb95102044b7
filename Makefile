# make demo   the whole way once, in minutes        make test   the tests
# make check  linters and types                     make bench  the tables of the README
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test slow check bench
demo: $(VENV)/ready
	$(BIN)/mobilevit demo

# One process for each core. Converters bring thread pools and compilers of their own: what uses them
# is run apart, the longest first.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" --numprocesses auto --dist loadfile
APART := tests/test_readme.py tests/verbs/test_every_format.py tests/verbs/test_starter.py tests/deployment
test: $(VENV)/ready-dev
	$(PYTEST) $(APART:%=--ignore=%)
	$(PYTEST) --no-loadscope-reorder $(APART)

slow: $(VENV)/ready-dev
	$(BIN)/python -m pytest -m slow

check: $(VENV)/ready-dev
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/ruff format --check src tests benchmarks
	$(BIN)/mypy

bench: $(VENV)/ready-dev
	for name in inference training_step loader sampler startup detection; do $(BIN)/python benchmarks/$$name.py; done

$(VENV)/ready: pyproject.toml constraints.txt
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 10) and 'Python 3.10 or newer is needed; name one: make PYTHON=python3.12')"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[all]"
	touch $@

$(VENV)/ready-dev: $(VENV)/ready requirements-dev.txt
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[all,devices]" -r requirements-dev.txt
	touch $@
