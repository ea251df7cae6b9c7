# The commands of everyday work; `make setup` first.
BIN := .venv/bin
PARALLEL := OMP_NUM_THREADS=1 $(BIN)/pytest --all -n auto --dist loadfile

.PHONY: setup demo test test-all coverage lint bench docs ci

setup:  ## create .venv with every extra
	python3 -m venv .venv
	$(BIN)/pip install -c constraints.txt -e ".[all]"

demo:  ## run the main job on the data that ship with the package
	$(BIN)/emcl-rerank demo

test:  ## run the fast tests
	$(BIN)/pytest

test-all:  ## run every test, in one process per core
	$(PARALLEL)

coverage:  ## measure branch coverage; fails below the limit in pyproject.toml
	$(PARALLEL) --cov --cov-report=term-missing:skip-covered \
		-k "not full_disk and not somebody_else"

lint:  ## check style and types, as before every commit
	PATH="$(abspath $(BIN)):$$PATH" pre-commit run --all-files

bench:  ## compare the speed of each part with the plain implementation
	$(BIN)/python benchmarks/core_speed.py

docs:  ## build the site in docs/_build/html; warnings are errors
	$(BIN)/sphinx-build -W --keep-going -b html docs docs/_build/html

ci:  ## run everything that must pass
	bash .ci/run
