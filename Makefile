# One command each: make train, make test. Set-up happens by itself, once.
PYTHON  ?= python3.11
VENV    := .venv
BIN     := $(VENV)/bin
ARGS    ?=
PROFILE ?= full
# TORCH=cpu: builds of torch without CUDA, which saves 4 GB, where the index offers them; TORCH_INDEX names another one.
TORCH   ?= cuda
LOCKS   := $(if $(filter cpu,$(TORCH)),$(VENV)/cpu,requirements)
# One worker a core, of one thread each; the tests of a file share what is dear to make, and tests/conftest.py says
# which files begin. Compiled tests are kept.
PYTEST  := OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n auto --dist loadfile \
  --no-loadscope-reorder
INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check --no-build-isolation
HASHED  := $(INSTALL) --require-hashes $(if $(filter cpu,$(TORCH)),--no-deps)
# For every platform and Python; of the index, only the hashes remain.
LOCK    := $(VENV)/lock/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate \
  --no-emit-index-url --custom-compile-command "make lock" -o

.DEFAULT_GOAL := help
.PHONY: help setup train reproduce test test-slow test-all lint format docs lock clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 20

setup: $(VENV)/.system $(VENV)/.python ## system packages, .venv with exact versions, this package; TORCH=cpu: no CUDA

# Without the rights to install, the script prints the command and the rest goes on; it is asked again next time.
$(VENV)/.system: scripts/system/*.txt scripts/install_system.sh
	@mkdir -p $(VENV)
	@PYTHON=$(PYTHON) scripts/install_system.sh && touch $@ || true

# What is locked, without torch and the packages of CUDA.
$(VENV)/cpu/%.txt: requirements/%.txt
	@mkdir -p $(@D)
	awk '/^[^ ]/ { cuda = /^(torch|torchvision|triton|(nvidia|cuda)-[a-z0-9-]+)==/ } !cuda' $< > $@

# Only files whose hashes are locked are installed, but for torch's builds without CUDA, which have no hash here. Source
# packages (FFCV among them) are built with the locked tools.
$(VENV)/.python: pyproject.toml requirements/build.txt $(LOCKS)/dev.txt $(LOCKS)/ffcv.txt | $(VENV)/.system
	$(PYTHON) -m venv $(VENV)
	$(HASHED) -r requirements/build.txt
ifeq ($(TORCH),cpu)
	$(INSTALL) --no-deps $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) \
	  $$(sed -nE 's/^(torch|torchvision)==([^ ]+).*/\1==\2+cpu/p' requirements/dev.txt) \
	  || { echo "the index offers no such build: name one that does, TORCH_INDEX=<address>"; exit 1; }
endif
	$(HASHED) -r $(LOCKS)/dev.txt
	$(INSTALL) --no-deps -e .
	@$(HASHED) -r $(LOCKS)/ffcv.txt 2>$(VENV)/ffcv.log \
	  || echo "FFCV could not be built (see $(VENV)/ffcv.log): loaders fall back to torch, all else works"
	@touch $@

train: setup ## the default job, MRL on kanji1k, up to its report; options through ARGS="model=resnet50 loss=mrl_e"
	$(BIN)/python scripts/first_run.py $(ARGS)

reproduce: setup ## the paper's core on Kanji; PROFILE=quick: in 20 minutes; ARGS=--plan: the plan only
	$(BIN)/python scripts/reproduce.py $(PROFILE) $(ARGS)

test: setup ## fast tests
	$(PYTEST)

test-slow: setup ## processes that are killed, DDP ranks, whole pipelines
	$(PYTEST) -m slow -n $$(( $$(nproc) * 3 / 2 ))  # they wait for processes as long as they compute

test-all: setup ## all tests
	$(PYTEST) -m 'slow or not slow'

lint: setup ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup ## let ruff put the code in order
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: setup $(LOCKS)/docs.txt ## the documentation as a site, in outputs/docs
	$(HASHED) -r $(LOCKS)/docs.txt
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going -j auto -c docs . outputs/docs
	SITE=outputs/docs $(BIN)/python -m pytest tests/test_pages.py -k the_site
	@echo "site: outputs/docs/index.html"

# What is locked stays as it is; UPGRADE=--upgrade takes the newest versions, UPGRADE="--upgrade-package timm" one.
lock: ## write requirements/*.txt anew from pyproject.toml
	$(PYTHON) -m venv $(VENV)/lock
	$(VENV)/lock/bin/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/lock.txt
	$(LOCK) requirements/ffcv.txt pyproject.toml --extra dev --extra ffcv $(UPGRADE)
	$(LOCK) requirements/dev.txt pyproject.toml --extra dev -c requirements/ffcv.txt
	$(LOCK) requirements/base.txt pyproject.toml -c requirements/ffcv.txt
	$(LOCK) requirements/docs.txt pyproject.toml --extra docs -c requirements/ffcv.txt $(UPGRADE)
	$(LOCK) requirements/build.txt requirements/build.in -c requirements/ffcv.txt $(UPGRADE)
	$(LOCK) requirements/lock.txt requirements/lock.in $(UPGRADE)

clean: ## remove .venv and caches; runs and data stay
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis build src/*.egg-info
	find . -name __pycache__ -not -path './outputs/*' -prune -exec rm -rf {} +
