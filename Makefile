# Everything runs in .venv, which `make` builds and keeps; it is built again only when pyproject.toml changes.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
MODEL  ?=

# Two processes, a file of tests in one of them: what a module's tests share is made once.
PARALLEL := -n 2 --dist loadfile

# What arithmetic decides: run once more as on a processor without AVX512 and AMX, whose kernels round differently.
# On a processor without them the first run was already that one.
NUMERIC := tests/guard/scores tests/guard/heads tests/train/losses tests/export/test_parity.py \
           tests/contract/test_scores.py tests/contract/test_heads.py::TestEveryHead

.DEFAULT_GOAL := help
.PHONY: help demo test lint docs chromium serve clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-7s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(READY) ## Train, export, verify, evaluate and serve a guard for digits (3 minutes)
	@$(BIN)/guard demo

test: lint chromium ## Lint, then run the tests, the numeric ones on two kinds of processor
	$(BIN)/python -m pytest $(PARALLEL)
	@if grep -qs avx512 /proc/cpuinfo || [ ! -e /proc/cpuinfo ]; then \
	  echo "the numeric tests again, under ONEDNN_MAX_CPU_ISA=AVX2"; \
	  ONEDNN_MAX_CPU_ISA=AVX2 $(BIN)/python -m pytest -q $(PARALLEL) $(NUMERIC); fi

lint: $(READY) ## Check style (ruff) and types (mypy)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(READY) ## Build the documentation site into site/
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet
	@echo "site/index.html"

# The system's own: Playwright's download would be another. Where it cannot be installed, the browser tests say so.
chromium: ## Install Chromium for the browser tests, where it is missing
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null || { \
	  echo "installing Chromium for the browser tests"; \
	  as_root=$$([ "$$(id -u)" = 0 ] || echo "sudo -n"); \
	  { $$as_root apt-get update -qq && $$as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium; } \
	    >/dev/null || echo "Chromium could not be installed: the browser tests will be skipped" >&2; }

serve: $(READY) ## Serve runs/latest/guard.onnx, or MODEL=path
	$(BIN)/guard serve $(MODEL)

clean: ## Remove build products and caches (the environment itself: rm -rf .venv)
	rm -rf build dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +

# The stamp is touched last, so an installation that was interrupted is done again.
$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	  { echo "ood-guard needs Python 3.11 or newer, and '$(PYTHON)' is not: install one, or name it: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(BIN)/python -c '' 2>/dev/null || $(PYTHON) -m venv --clear $(VENV) || \
	  { echo "'$(PYTHON) -m venv' failed: on Debian and Ubuntu it needs the package python3-venv" >&2; exit 1; }
	@echo "installing into $(VENV) (torch and its CUDA libraries: 6 GB, some minutes the first time)"
	@$(BIN)/python -m pip install --quiet --upgrade pip
	@$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@
