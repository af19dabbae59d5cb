# Everything a person or CI does here. `make` alone lists the targets; each sets up what it needs.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
BENCH_VENV := .venv-bench
BENCH_READY := $(BENCH_VENV)/.ready
FUZZ_VENV := .venv-fuzz
FUZZ_READY := $(FUZZ_VENV)/.ready
FUZZ_SECONDS ?= 600
BENCH_PACKAGES := gcc libc6-dev redis-tools golang-go libnet-server-perl ruby ruby-serverengine ruby-cool.io apache2
SOURCES := client server loadtest tests examples docs bench

# Tests that mostly wait run side by side, one more than there are CPUs; those that load the machine now and then, in
# pairs; those that prove timing, or load it all the time, have it to themselves.
SIDES := $(shell expr $$(getconf _NPROCESSORS_ONLN) + 1)
rows = $(addprefix tests/scorecard/test_,$(addsuffix .py,$(1)))
WAITING_ROWS := $(call rows,accidents logs reload)
PAIRED_ROWS := $(call rows,balancer garbage memory recycling sources stop upgrade)
SIDE_BY_SIDE := -n $(SIDES) --maxprocesses 4 --dist worksteal tests/wire tests/client tests/server tests/system $(WAITING_ROWS)
IN_PAIRS := -n 2 --dist loadgroup tests/docker tests/loadtest $(PAIRED_ROWS)
ALONE := tests/bench tests/scorecard $(patsubst %,--ignore=%,$(WAITING_ROWS) $(PAIRED_ROWS))

.DEFAULT_GOAL := help
.PHONY: help demo test scorecard chaos fuzz bench bench-peers check format coverage up down lock clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(READY): requirements/dev.txt client/pyproject.toml server/pyproject.toml loadtest/pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "make: needs Python 3.11 or newer; set PYTHON=" >&2; exit 2; }
	@echo "setting up $(VENV) (once)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e client -e server -e loadtest
	@touch $@

demo: $(READY) ## a server, a load test, a worker killed in the middle, and the verdict, in a minute
	$(BIN)/prefork-loadtest demo

test: $(READY) ## all tests; those with Docker are skipped, with a reason, where there is no engine
	@all=5; for part in "$(SIDE_BY_SIDE)" "$(IN_PAIRS)" "$(ALONE)"; do \
	  $(BIN)/pytest $$part $(ARGS); one=$$?; \
	  case $$one in 0) [ $$all -ne 5 ] || all=0 ;; 2) exit 2 ;; 5) ;; *) all=1 ;; esac; \
	done; exit $$all  # 5, nothing to do: so it is for some parts with ARGS="-k NAME"

scorecard: $(READY) ## the reliability table: each row as a test, with its figures
	$(BIN)/pytest -q tests/scorecard $(ARGS)

chaos: $(READY) ## ten minutes of reloads, upgrades, stops and kills under load that checks every answer
	$(BIN)/prefork-loadtest chaos echo --workers 4 --seed 1 --duration 600 --report reports/chaos

fuzz: $(FUZZ_READY) ## what strangers may send, under a coverage-guided fuzzer for FUZZ_SECONDS; ARGS="control" for one
	PYTHONPATH=tests:client:server $(FUZZ_VENV)/bin/python -m fuzz --seconds $(FUZZ_SECONDS) $(ARGS)

$(FUZZ_READY): requirements/fuzz.txt
	@$(PYTHON) -m venv $(FUZZ_VENV)
	@$(FUZZ_VENV)/bin/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/fuzz.txt
	@touch $@

bench: $(READY) ## what prefork costs, beside C and its peers, into docs/benchmarks; ARGS=--quick for a look
	$(BIN)/python -m bench $(ARGS)

bench-peers: $(BENCH_READY) ## install what the bench compares with (root, Debian); without it, what is there is measured
	apt-get update -qq
	apt-get install -y -qq --no-install-recommends $(BENCH_PACKAGES)

$(BENCH_READY): requirements/bench.txt
	@$(PYTHON) -m venv $(BENCH_VENV)
	@$(BENCH_VENV)/bin/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/bench.txt
	@touch $@

check: $(READY) ## the one gate: lint, format, types
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy $(SOURCES)

format: $(READY) ## put the code in its form
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

coverage: $(READY) ## tests without Docker, with coverage of this process and of every process the tests start
	$(BIN)/coverage erase
	COVERAGE_PROCESS_START=$(CURDIR)/pyproject.toml $(BIN)/coverage run -m pytest -m 'not docker' $(ARGS)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

up: ## the whole of it in Docker: the server, and Locust at http://localhost:8089
	docker compose up --build

down: ## and down again
	docker compose --profile ci --profile lb down --volumes --remove-orphans

lock: $(READY) ## lock the versions anew
	$(BIN)/pip install --quiet uv
	for name in build server loadtest dev bench fuzz; do \
	  $(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-annotate --no-header \
	    requirements/$$name.in -o requirements/$$name.txt; done

clean: ## remove what was made
	rm -rf $(VENV) $(BENCH_VENV) $(FUZZ_VENV) reports build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage*
