# Every target does the set-up it needs: Python 3.11+ and make are enough.
#   make demo PYTHON=python3.13     another interpreter
#   make demo PIP_TORCH="--index-url https://download.pytorch.org/whl/cpu"     a CPU-only torch on Linux (smaller)
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ad_distill-installed
PIP := $(BIN)/python -m pip --disable-pip-version-check
PIP_TORCH ?=
# nbdev 3 needs fastcore 2; the wheel runs with fastcore 1 as well, and tests/test_5_wheel.py tries it with this one.
FASTCORE1 := 1.12.3

# One torch thread a process: the models are small, and two threads on a busy machine are slower than one.
OMP_NUM_THREADS ?= 1
export OMP_NUM_THREADS
export PATH := $(CURDIR)/$(BIN):$(PATH)

.DEFAULT_GOAL := help
.PHONY: help install demo test docs docs-check bench clean

help: ## this list
	@echo "make TARGET, where TARGET is one of"
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1|\2/p' Makefile | awk -F'|' '{printf "%-11s %s\n", $$1, $$2}'

install: $(STAMP) ## set up .venv with the pinned versions and the dev tools (the targets below do it by themselves)

# The PYTHON that you name; else the first of the usual names that is new enough and can make a virtual environment.
CANDIDATES := $(if $(filter file,$(origin PYTHON)),python3 python3.13 python3.12 python3.11 python3.14 python,"$(PYTHON)")
$(BIN)/python:
	@set -e; found=; \
	for p in $(CANDIDATES); do \
	  if "$$p" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then found=$$p; break; fi; \
	done; \
	if [ -z "$$found" ]; then \
	  echo "ad_distill needs Python 3.11 or newer with its venv module; '$(PYTHON)' is `"$(PYTHON)" --version 2>/dev/null || echo not there`." >&2; \
	  echo "Name another one: make PYTHON=/path/to/python3.11 ..." >&2; exit 1; \
	fi; \
	echo "Creating $(VENV) with `$$found --version`"; "$$found" -m venv $(VENV)

# torch first, by its pin, before anything else can choose it; the stamp spares a second call the work.
$(STAMP): settings.ini constraints.txt | $(BIN)/python
	@echo "Installing (a few minutes the first time, then only when settings.ini or constraints.txt changes)"
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(BIN)/python -m ensurepip -q
	$(PIP) install -q $(PIP_TORCH) `grep '^torch==' constraints.txt`
	$(PIP) install -q -c constraints.txt setuptools wheel
	$(PIP) install -q -c constraints.txt --no-build-isolation -e '.[dev]'
	@rm -rf $(VENV)/fastcore1
	$(PIP) install -q --no-deps --target $(VENV)/fastcore1 fastcore==$(FASTCORE1)
	@touch $@

demo: $(STAMP) ## distill RLHF runs into a language model, freeze it, see it learn in context (minutes on two cores)
	@mkdir -p runs/demo
	$(BIN)/ad_distill run exp_sentiment --out runs/demo/exp_sentiment.ipynb

test: $(STAMP) ## everything CI checks: export, clean, lint, notebooks, experiments, command line, wheel
	$(BIN)/python -m pytest tests -n auto --maxprocesses 4 --dist loadfile $(PYTEST_ARGS)

docs: $(STAMP) ## the website into _docs (with Quarto where installed, else a preview of it)
	@# nbdev-docs begins by overwriting README.md: it is made anew however that ends.
	@if command -v quarto >/dev/null 2>&1; then echo "Building the website with `quarto --version | sed 's/^/Quarto /'`."; \
	  trap '$(BIN)/python scripts/make_readme.py' EXIT; trap 'exit 130' INT; trap 'exit 143' TERM HUP; $(BIN)/nbdev-docs; \
	else echo "Quarto is not installed: building a preview of the website instead (pandoc; same pages, other looks)."; $(BIN)/python scripts/docs_preview.py; fi

# DOCS_CHECK: options of scripts/docs_check.py, such as --shots FOLDER or --need-browser
docs-check: $(STAMP) ## the preview into _docs, then its links, pictures and pages checked, in Chromium where there is one
	$(BIN)/python scripts/docs_preview.py
	$(BIN)/python scripts/docs_check.py $(DOCS_CHECK)

bench: $(STAMP) ## each fast path against its alternative, into benchmarks/results.json
	$(BIN)/python benchmarks/run.py

clean: ## remove what the targets build, except .venv and your own runs/
	rm -rf build dist _proc _docs runs/demo .pytest_cache .ruff_cache .hypothesis *.egg-info
	find ad_distill nbs tests scripts -name __pycache__ -prune -exec rm -rf {} +
