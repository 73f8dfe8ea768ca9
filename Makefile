# One command each: make train, make test. Set-up happens by itself, once.
PYTHON  ?= python3.11
VENV    := .venv
BIN     := $(VENV)/bin
ARGS    ?=
PROFILE ?= full
# One worker a core, of one thread each; the tests of a file share what is dear to make.
PYTEST  := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile

.DEFAULT_GOAL := help
.PHONY: help setup train reproduce test test-slow test-all lint format freeze clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 20

setup: $(VENV)/.system $(VENV)/.python ## system packages, .venv with exact versions, this package

# Without the rights to install, the script prints the command and the rest goes on; it is asked again next time.
$(VENV)/.system: conf/system/*.txt scripts/install_system.sh
	@mkdir -p $(VENV)
	@PYTHON=$(PYTHON) scripts/install_system.sh && touch $@ || true

$(VENV)/.python: pyproject.toml constraints.txt | $(VENV)/.system
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,ffcv]' 2>$(VENV)/ffcv.log \
	  || echo "FFCV could not be built (see $(VENV)/ffcv.log): loaders fall back to torch, all else works"
	@touch $@

train: setup ## the default job: MRL on kanji1k; options through ARGS="model=resnet50 loss=mrl_e"
	$(BIN)/python train.py $(ARGS)

reproduce: setup ## the paper's core on Kanji; PROFILE=quick: in 20 minutes; ARGS=--plan: the plan only
	$(BIN)/python scripts/reproduce.py $(PROFILE) $(ARGS)

test: setup ## fast tests
	$(PYTEST)

test-slow: setup ## processes that are killed, DDP ranks, whole pipelines
	$(PYTEST) -m slow

test-all: setup ## all tests
	$(PYTEST) -m 'slow or not slow'

lint: setup ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup ## let ruff put the code in order
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

freeze: setup ## write constraints.txt from what is installed
	@(echo "# Exact versions of everything that is installed; \`make freeze\` writes this file anew."; \
	  $(BIN)/pip freeze --exclude-editable) > constraints.txt.new && mv constraints.txt.new constraints.txt

clean: ## remove .venv and caches; runs and data stay
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis build src/*.egg-info
	find . -name __pycache__ -not -path './outputs/*' -prune -exec rm -rf {} +
