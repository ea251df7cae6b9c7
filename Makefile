# The commands of everyday work; `make setup` first.
BIN := .venv/bin

.PHONY: setup demo test coverage lint bench docs ci

setup:  ## an environment in .venv with everything
	python3 -m venv .venv
	$(BIN)/pip install -c constraints.txt -e ".[all]"

demo:  ## the main job on the data that ship with the package
	$(BIN)/emcl-rerank demo

test:  ## the suite, in as many processes as there are cores
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --dist loadfile

coverage:  ## how much of the package the suite reaches; less than pyproject.toml wants is an error
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --dist loadfile \
		--cov --cov-report=term-missing:skip-covered -k "not full_disk and not somebody_else"

lint:  ## style and types, as before every commit
	PATH="$(abspath $(BIN)):$$PATH" pre-commit run --all-files

bench:  ## how fast each part is, beside the plain way
	$(BIN)/python benchmarks/core_speed.py

docs:  ## the site, in docs/_build/html; warnings are errors
	$(BIN)/sphinx-build -W --keep-going -b html docs docs/_build/html

ci:  ## all that has to pass
	bash .ci/run
