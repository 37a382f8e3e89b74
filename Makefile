# Everything a person or CI needs, one target each. `make setup` first; the others call it.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
UV     := VIRTUAL_ENV=$(CURDIR)/$(VENV) $(BIN)/uv
AISFX  := aisfx==0.1.2
MEDIA  ?=

.PHONY: setup demo data starter test check format lint types bench lock docs clean

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml requirements.lock
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { \
	  echo "python3-venv is missing: apt-get install make python3 python3-venv" >&2; exit 2; }
	@$(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Python 3.11 or newer is needed; name one with make setup PYTHON=python3.11" >&2; exit 2; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(UV) pip install --quiet --require-hashes --no-deps -r requirements.lock
	$(UV) pip install --quiet --no-deps $(AISFX) # its pins are from 2022; only its weights are used
	$(UV) pip install --quiet --no-deps --editable .
	@touch $@

data: setup
	$(BIN)/python data/tuxpaint_stamps.py

# The heads that the package ships, from nothing: data, features, fits, measures. Under an hour on two cores.
starter: setup
	$(BIN)/python data/fit_starter_heads.py
	$(BIN)/python data/compare_heads.py

demo: setup
	$(BIN)/python data/demo.py $(if $(MEDIA),--media "$(MEDIA)")

# The stamps are fetched before the tests, which use no network; without them their tests are skipped.
test: setup
	@$(BIN)/python data/tuxpaint_stamps.py || echo "no stamps: the tests that need them will be skipped"
	$(BIN)/python -m pytest -rs -n auto --maxprocesses 4 --dist loadfile

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_architecture.py
	$(MAKE) test

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: setup
	$(BIN)/python benchmarks/embed_throughput.py
	$(BIN)/python benchmarks/cold_search.py
	$(BIN)/python benchmarks/update.py
	$(BIN)/python benchmarks/search_million.py --no-hnswlib
	$(BIN)/python benchmarks/train_heads.py
	$(BIN)/python benchmarks/evaluate_large.py
	$(BIN)/python benchmarks/table.py

docs: setup
	$(BIN)/python docs/make_cli_reference.py
	$(BIN)/python docs/make_starter_tables.py
	$(BIN)/python docs/make_model_tables.py
	$(BIN)/python docs/make_query_tables.py
	$(BIN)/python benchmarks/table.py

lock:
	test -x $(BIN)/uv || { $(PYTHON) -m venv $(VENV) && $(BIN)/python -m pip install --quiet uv; }
	$(UV) pip compile --universal --python-version 3.11 --extra dev --generate-hashes \
	  --no-emit-index-url --no-annotate --no-header --quiet --output-file requirements.lock pyproject.toml

clean:
	rm -rf $(VENV) data/cache .pytest_cache .mypy_cache .ruff_cache
