# Tidemark's habits, one command each. `make` alone lists them.
# A variable may be given: make setup PYTHON=/path/to/python3.11 (after make clean, to change it), make test ARGS="-k revisits", JOBS=4.

VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.tidemark-setup
PYTHON ?=
JOBS   ?= 2
ARGS   ?=
SERVICE ?= pypi

PACKAGES := flows feature_repo online_model replay benchmarks
TYPED    := $(foreach p,$(PACKAGES),$(if $(wildcard $(p)/*.py),$(p))) $(wildcard tidemark.py)
# The soak takes half an hour, and has a command of its own.
BENCHES  := $(filter-out _% soak,$(basename $(notdir $(wildcard benchmarks/*.py))))

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

.PHONY: help
help: ## List these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

.PHONY: setup
setup: $(STAMP) ## Make .venv with Tidemark and all it needs (Python 3.11 or 3.12; quick when nothing changed)
	@:

.PHONY: demo
demo: $(STAMP) ## Run the whole pipeline on generated actions and show what comes out
	@$(BIN)/tidemark demo $(ARGS)

# Each process begins with a stretch of its own, so that what the tests of a file share is made once.
.PHONY: test
test: $(STAMP) ## Run the tests (ARGS="-k name" to choose, JOBS=4 for more processes)
	@$(BIN)/python -m pytest -n $(JOBS) --dist worksteal $(ARGS)

.PHONY: stack-test
stack-test: $(STAMP) ## Run the commands of docker-compose.yml against a real Kafka, Redis and Prometheus
	@TIDEMARK_REQUIRE=kafka,promtool,redis $(BIN)/python -m pytest -m soak tests/ops/test_stack.py tests/ops/test_live_alerts.py $(ARGS)

.PHONY: soak
soak: $(STAMP) ## Run the whole stack for half an hour with faults (ARGS=--quick: some minutes)
	@$(BIN)/python -m benchmarks.soak $(ARGS)

# Of the pins, over the network. A service that says nothing of a package, or can't be reached, is no pass: nothing is known then.
.PHONY: audit
audit: $(STAMP) ## Ask for known vulnerabilities of all pinned packages (needs the network; SERVICE=osv asks another)
	@said=$$($(BIN)/python -m pip_audit --requirement constraints.txt --no-deps --disable-pip --strict --progress-spinner off \
	    --vulnerability-service $(SERVICE) $(ARGS) 2>&1) && { echo "$$said"; exit 0; }; \
	case "$$said" in \
	    *"known vulnerabilit"*) echo "$$said"; exit 1;; \
	    *) echo "$$said" | tail -n 1 >&2; \
	       echo "audit: service '$(SERVICE)' could not be asked about every package, so nothing is known; try again with a network, or SERVICE=osv" >&2; \
	       exit 2;; \
	esac

.PHONY: lint
lint: $(STAMP) ## Check style and types
	@failed=0; $(BIN)/ruff check . || failed=1; $(BIN)/mypy $(TYPED) || failed=1; exit $$failed

.PHONY: format
format: $(STAMP) ## Format the code, and fix what can be fixed
	@$(BIN)/ruff check --fix --exit-zero --quiet .
	@$(BIN)/ruff format .

.PHONY: bench
bench: $(STAMP) ## Run every benchmark (ARGS=--quick ends each within a minute)
	@$(if $(BENCHES),,echo "make bench: benchmarks/ holds none yet")
	@set -e; for bench in $(BENCHES); do echo "== $$bench" >&2; $(BIN)/python -m benchmarks.$$bench $(ARGS); done

.PHONY: clean
clean: ## Remove .venv, caches and build leftovers (data directories stay)
	@rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The first Python that fits makes .venv. One that fits but can't make a venv (Debian's, without python3-venv) is passed over, and named
# at the end if nothing better is found. A .venv whose own Python doesn't run or doesn't fit is made anew.
$(STAMP): pyproject.toml constraints.txt
	@set -e; \
	fits='import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))'; \
	if [ -e $(VENV) ] && ! { $(BIN)/python -c "$$fits" && $(BIN)/python -m pip --version; } >/dev/null 2>&1; then \
	    echo "setup: $(VENV) holds no working Python 3.11 or 3.12 with pip; making it anew"; rm -rf $(VENV); \
	fi; \
	if [ ! -e $(VENV) ]; then \
	    seen=; bare=; found=; \
	    for candidate in $(if $(PYTHON),"$(PYTHON)",python3.12 python3.11 python3); do \
	        version=$$("$$candidate" -c 'import platform; print(platform.python_version())' 2>/dev/null) || continue; \
	        seen="$$seen $$candidate=$$version"; \
	        "$$candidate" -c "$$fits" || continue; \
	        if "$$candidate" -c 'import ensurepip, venv' 2>/dev/null; then found=$$candidate; break; fi; \
	        bare=$${bare:-$${version%.*}}; \
	    done; \
	    if [ -z "$$found" ] && [ -n "$$bare" ]; then \
	        echo "setup: Python $$bare is here, but not its ensurepip, which makes virtual environments." >&2; \
	        echo "       On Debian and Ubuntu: sudo apt-get install python$$bare-venv, then make setup" >&2; exit 1; \
	    elif [ -z "$$found" ]; then \
	        echo "setup: Tidemark needs Python 3.11 or 3.12 (bytewax has no wheels for newer ones); found:$${seen:- none}." >&2; \
	        echo "       Install one, or name it: make setup PYTHON=/path/to/python3.12" >&2; exit 1; \
	    fi; \
	    echo "setup: making $(VENV) with $$found ($$version)"; \
	    "$$found" -m venv $(VENV) || { rm -rf $(VENV); echo "setup: $$found could not make $(VENV); see above" >&2; exit 1; }; \
	fi; \
	echo "setup: installing what constraints.txt pins; some minutes the first time"; \
	pip="$(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt"; \
	{ $$pip setuptools && $$pip --no-build-isolation --editable '.[dev]'; } || \
	    { echo "setup: pip failed, see above; make setup goes on where it stopped" >&2; exit 1; }; \
	touch $@; \
	echo "setup: done; $(BIN)/tidemark --help"
