# persona4rec: `make demo` shows it, `make test` proves it. Each target sets itself up.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
# More arguments for pip. On Linux, PyPI's torch is the CUDA build; for the CPU build name PyTorch's own index:
#   make setup PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu"
PIP_ARGS ?=
# Processes that run tests side by side, those of a file in one, as they share fixtures; 0: one after the other, as a plain `pytest` does.
TEST_WORKERS ?= 2
PERSONA4REC_HOME ?= $(CURDIR)/var
export PERSONA4REC_HOME
# Nothing is fetched at run time, and nobody is told that you run it.
OFFLINE := HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 DO_NOT_TRACK=1

.PHONY: setup demo test lint format ui serve bench clean

setup: $(VENV)/.installed .env

# --no-compile: a third of the time of an installation goes into byte code that most packages never need.
$(VENV)/.installed: requirements/cpu.txt pyproject.toml setup.cfg
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile $(PIP_ARGS) --no-deps -r requirements/cpu.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

# Dagster reads .env; with it, a plain `dagster dev` here keeps its state under the state directory as well.
.env: Makefile dagster.yaml
	@mkdir -p $(PERSONA4REC_HOME)/dagster
	@ln -sf $(CURDIR)/dagster.yaml $(PERSONA4REC_HOME)/dagster/dagster.yaml
	@printf 'DAGSTER_HOME=%s/dagster\nPERSONA4REC_HOME=%s\n' "$(PERSONA4REC_HOME)" "$(PERSONA4REC_HOME)" > $@

demo: setup
	@$(OFFLINE) $(BIN)/persona4rec demo

# Many tests start processes, which would each compile what they import where a setting keeps byte code from being written.
test: setup
	$(OFFLINE) PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n $(TEST_WORKERS) --dist loadfile --no-loadscope-reorder

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Dagster on http://127.0.0.1:3000, MLflow on http://127.0.0.1:5000; Ctrl-C stops both.
ui: setup
	@$(OFFLINE) $(BIN)/persona4rec ui

serve: setup
	@$(OFFLINE) $(BIN)/persona4rec serve

bench: setup
	$(BIN)/python -m benchmarks.scoring
	$(BIN)/python -m benchmarks.whole_catalogue

# The environment and caches; the state directory stays, it holds what was paid for.
clean:
	rm -rf $(VENV) .env build *.egg-info .pytest_cache .mypy_cache .ruff_cache
