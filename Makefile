# mmuwitness: everything runs from .venv, which `make setup` makes from requirements.lock.

SHELL := /bin/bash
.DEFAULT_GOAL := check
.DELETE_ON_ERROR:

PYTHON ?= python3
WORKERS ?= 2

PY := .venv/bin/python
STAMP := .venv/.mmuwitness-setup
LOG := .venv/setup.log

# The stamp names the directory it was made in: a tree that was moved or copied is set up again.
ifneq ($(shell test -x $(PY) && cat $(STAMP) 2>/dev/null),$(CURDIR))
.PHONY: $(STAMP)
endif

.PHONY: help setup demo lint test exhaustive check diff bench bench/run golden survey lock clean

help: ## print this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/\1 \2/p' $(MAKEFILE_LIST) \
	  | while read -r target what; do printf 'make %-7s %s\n' "$$target" "$$what"; done
	@echo
	@echo "PYTHON=python3.12  the interpreter that .venv is made with ('make clean' first)"
	@echo "WORKERS=2          how many processes run the tests"
	@echo "ONLY='ksm arm64'   what 'make diff' compares: scenarios, bugs, arches, kernels"

setup: $(STAMP) ## make .venv from requirements.lock (done by itself when needed)

$(STAMP): requirements.lock pyproject.toml
	@missing() { echo "mmuwitness: $$*" >&2; exit 1; }; \
	command -v "$(PYTHON)" >/dev/null \
	  || missing "'$(PYTHON)' not found: install Python 3.11 or later, or say make PYTHON=/path/to/it"; \
	"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || missing "'$(PYTHON)' is $$("$(PYTHON)" -V 2>&1): 3.11 or later is needed, say make PYTHON=/path/to/it"; \
	"$(PYTHON)" -c 'import venv, ensurepip' 2>/dev/null \
	  || missing "'$(PYTHON)' has no venv module: install it (Debian, Ubuntu: apt install python3-venv)"; \
	if ! $(PY) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	  "$(PYTHON)" -m venv --clear .venv || missing "'$(PYTHON) -m venv .venv' failed"; \
	fi; \
	echo "mmuwitness: setting up .venv (about a minute the first time)"; \
	{ PIP_RETRIES=$${PIP_RETRIES:-2} $(PY) -m pip install --disable-pip-version-check \
	    --no-deps --require-hashes --only-binary :all: -r requirements.lock \
	  && $(PY) -m pip install --disable-pip-version-check --no-index \
	    --no-deps --no-build-isolation -e . ; } </dev/null >$(LOG) 2>&1 || { \
	  if grep -qE '(NewConnection|NameResolution|ConnectTimeout|ReadTimeout|Proxy|Protocol)Error' $(LOG); then \
	    missing "no network: pip cannot reach its package index (its words are in $(LOG))"; \
	  fi; \
	  grep -E '^ *(ERROR|error):' $(LOG) | head -n 5 >&2; \
	  missing "pip failed (all its words are in $(LOG))"; \
	}
	@echo '$(CURDIR)' >$@

demo: $(STAMP) ## the question that started it: can .change_pte() ever do anything?
	@.venv/bin/mmuwitness verdict change_pte

lint: $(STAMP) ## format, lint and types, without tests
	@$(PY) -m ruff format --check .
	@$(PY) -m ruff check .
	@$(PY) -m mypy

test: $(STAMP) ## all tests
	@$(PY) -m pytest -n $(WORKERS) -m "not exhaustive"

exhaustive: $(STAMP) ## the tests that `make test` takes samples of, all of them (an hour)
	@$(PY) -m pytest -n $(WORKERS) -m exhaustive

check: lint ## lint and the tests that are not slow, in less than a minute
	@$(PY) -m pytest -n $(WORKERS) -m "not slow and not exhaustive"

diff: $(STAMP) ## a second opinion: SPIN explores every scenario and bug, too (half an hour)
	@WORKERS=$(WORKERS) $(PY) -m tests.differential.diff $(ONLY)

bench: bench/run ## measure: states/s of exploration, seconds to a verdict, MB/s of traces, touches/s

bench/run: $(STAMP)
	@$(PY) -m bench.explore
	@$(PY) -m bench.verdict
	@$(PY) -m bench.trace
	@$(PY) -m bench.simulate

survey: $(STAMP) ## change every line of the model, one at a time: who notices? (an hour)
	@$(PY) -m tests.model.survey $(ONLY)

golden: $(STAMP) ## accept what the golden tests print now; review the diff
	@MMUWITNESS_GOLDEN=accept $(PY) -m pytest -q -m golden || test $$? = 5 # 5: there are none
	@git --no-pager diff --stat -- tests/golden tests/explore/pinned.toml src/mmuwitness/trace/observed.toml
	@git ls-files --others --exclude-standard -- tests/golden | sed 's/^/ new: /'

lock: ## write requirements.lock anew from pyproject.toml, with the newest releases
	@$(PYTHON) -m venv --clear .venv-lock
	@.venv-lock/bin/python -m pip install --quiet --disable-pip-version-check uv
	@.venv-lock/bin/uv pip compile pyproject.toml --group dev --upgrade --quiet --universal \
	  --python-version 3.11 --fork-strategy fewest --generate-hashes \
	  --no-emit-index-url --no-annotate --no-header --output-file requirements.lock
	@rm -rf .venv-lock

clean: ## remove .venv and every cache in the tree
	@rm -rf .venv .venv-lock build dist src/*.egg-info
	@rm -rf .hypothesis .mypy_cache .pytest_cache .ruff_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
