# Everything this project needs happens in .venv; nothing outside the repository is written but pip's own cache, and,
# by `make soak` when it may, Debian's package faketime.
#
# A machine needs Python 3.11 or later (with venv and pip) and make, no compiler. `make` alone lists the targets.

VENV := .venv
BIN := $(VENV)/bin
# `python3` may be an older one than the python3.X beside it.
PYTHON ?= $(firstword $(foreach name,python3.11 python3.12 python3.13 python3.14 python3,$(shell command -v $(name))))
PACKAGES := proto server client loadgen

# What `make run` races. For example: make run RACE="--policy exclusive,shared --seed 7"
RACE ?= --policy all --seed 1 --install-failure-rate 0.02
# How much `make fuzz` throws, and more for it. For example: make fuzz SEED=7 FUZZ="--sqlite"
INPUTS ?= 100000
FUZZ ?=
# More for `make fairness`, or some of its attacks. For example: make fairness FAIRNESS="stores resets --repeats 5"
FAIRNESS ?=
# More for `make docs`: --matrix computes what every policy comes to in every world, too.
DOCS ?=
# How long each policy of `make soak` runs, and the edges. For example: make soak SOAK_SECONDS=3600 SOAK_SEED=7
SOAK_SECONDS ?= 300
SOAK_SEED ?= 1
# How many processes `make test` spreads the files of tests over; auto is one a core. For example: make test JOBS=1
JOBS ?= auto
# More for pytest. For example: make test ARGS="-x tests/proto"
ARGS ?=

# By file, since what a module sets up once serves its tests only; in the order of tests/conftest.py, longest first.
PARALLEL := --numprocesses=$(JOBS) --maxprocesses=8 --dist=loadfile --no-loadscope-reorder

# docker's compose where a docker daemon answers, else podman with the podman-compose that .venv holds.
COMPOSE ?= $(shell if docker compose version >/dev/null 2>&1 && docker info >/dev/null 2>&1; then echo docker compose; \
	else echo $(BIN)/podman-compose; fi)
# podman drops an image's health check in its own default format.
export BUILDAH_FORMAT ?= docker

# Which services `make up` starts; all of them when empty.
SERVICES ?=

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help venv run test quick explore fuzz fairness soak docs check lint format type proto lock wheel up down test-containers clean .compose .faketime

help: ## List the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | while IFS='	' read -r target text; do \
		printf '  make %-16s %s\n' "$$target" "$$text"; done

venv: $(VENV)/.ready ## Set up .venv from the pinned, hashed requirements

run: venv ## Set up, then race the swap-in policies and show who loses pages
	$(BIN)/swaptier-loadgen race $(RACE)

test: venv ## Set up, then run the tests, a process on each core
	$(BIN)/python -m pytest $(PARALLEL) $(ARGS)
	@echo ok

quick: venv ## Set up, then run the tests without the races that take seconds each
	$(BIN)/python -m pytest $(PARALLEL) -m "not slow_race and not container and not exhaustive and not soak" $(ARGS)
	@echo ok

explore: venv ## Set up, then search every schedule of every small world (minutes)
	$(BIN)/swaptier-loadgen explore --matrix
	$(BIN)/python -m pytest -m exhaustive -k three_threads $(ARGS)
	@echo ok

fuzz: venv ## Set up, then throw INPUTS=100000 inputs at a server, from SEED=... or a new one (minutes)
	$(BIN)/python -m tests.fuzz --inputs $(INPUTS) $(if $(SEED),--seed $(SEED)) $(FUZZ)

fairness: venv ## Set up, then measure how much one tenant's attacks slow another down (4 minutes)
	$(BIN)/python -m tests.fairness $(FAIRNESS)

soak: venv .faketime ## Set up, then race with every fault on, a server at every edge, the corruption storm, and tenants beside others (25 minutes)
	SOAK_SECONDS=$(SOAK_SECONDS) SOAK_SEED=$(SOAK_SEED) $(BIN)/python -m pytest -m soak --capture=no \
		tests/test_soak.py tests/test_soak_edges.py tests/server/swapfile/test_storm.py tests/server/isolation/test_isolation.py \
		$(ARGS)
	@echo ok

# Without it the soak of the edges is skipped, with its reason.
.faketime:
	@ls /usr/lib/*/faketime/libfaketimeMT.so.1 >/dev/null 2>&1 || \
		{ [ "$$(id -u)" = 0 ] && apt-get install -y faketime >/dev/null 2>&1; } || \
		echo "make: no libfaketime here, and it could not be installed: apt-get install faketime" >&2

docs: venv ## Write into README.md and docs/ what they take from the code; DOCS=--matrix: the large table, too (minutes)
	$(BIN)/python -m tests.docs $(DOCS)

check: lint type ## Lint, format and types

lint: venv ## Lint, and check the format
	$(BIN)/ruff check
	$(BIN)/ruff format --check

format: venv ## Format, and fix what the linter can
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

type: venv ## Check the types, strictly
	$(BIN)/mypy

proto: venv ## Regenerate the gencode of proto/swaptier/v1/swaptier.proto
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m grpc_tools.protoc -I proto --python_out=proto \
		--grpc_python_out=proto --mypy_out=proto --mypy_grpc_out=proto proto/swaptier/v1/swaptier.proto

# The images install subsets of what the tests ran with, hence the constraint. Hashes only: where pip and uv fetch from
# is the business of the machine. uv keeps the versions that a file already has; `make lock UPGRADE=--upgrade` moves on.
UPGRADE ?=
LOCK = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	--no-annotate --custom-compile-command "make lock"
lock: venv ## Pin the dependencies anew, after a change of pyproject.toml
	$(LOCK) $(UPGRADE) --extra dev --output-file requirements.txt pyproject.toml
	$(LOCK) --constraint requirements.txt --extra server --output-file server/requirements.txt pyproject.toml
	$(LOCK) --constraint requirements.txt --extra loadgen --output-file loadgen/requirements.txt pyproject.toml
	echo hatchling | $(LOCK) --constraint requirements.txt --output-file deploy/requirements-build.txt -

wheel: venv ## Build the wheel into dist/
	$(BIN)/python -m hatchling build --target wheel

up: venv .compose ## Start server, load generator, Prometheus and Grafana in containers
	$(COMPOSE) --file deploy/compose.yaml up --build --detach $(SERVICES)
	@echo "dashboard: http://127.0.0.1:3000   prometheus: http://127.0.0.1:9090   stop: make down"

down: venv .compose ## Stop these containers and forget their data
	$(COMPOSE) --file deploy/compose.yaml down --volumes

.compose:
	@case "$(COMPOSE)" in *podman-compose) command -v podman >/dev/null || { \
		echo "make: neither 'docker compose' with a daemon nor podman is here; make up COMPOSE=... names another" >&2; \
		exit 1; };; esac

test-containers: venv ## Build the images and test them with the container engine that is there
	$(BIN)/python -m pytest -m container $(ARGS)

clean: ## Remove .venv and everything else that was made
	rm -rf $(VENV) dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find $(PACKAGES) tests -name __pycache__ -type d -prune -exec rm -rf {} +

# Two stamps: a change of pyproject.toml alone installs the package again, not its dependencies.
$(VENV)/.ready: $(VENV)/.dependencies pyproject.toml
	$(BIN)/python -m pip install --quiet --no-build-isolation --no-deps --no-index --editable .
	touch $@

$(VENV)/.dependencies: requirements.txt
	@$(PYTHON) -c 'import sys; sys.version_info < (3, 11) and sys.exit("swaptier needs Python 3.11 or later; say which with make PYTHON=...")'
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --require-hashes --only-binary :all: --requirement requirements.txt
	touch $@
