# make run    a working installation on http://127.0.0.1:8000/, or on PORT
# make test   every test, on SQLite and on PostgreSQL
# make check  lint, types and the tests without a server, in about a minute: for while you work
# make test-store   an S3 service, named by CAS_S3_*: what it can do, then every test of the store
# make conformance  the same with the stand-in of the tests, and with a Ceph cluster
# make lint   style, types, import directions, missing migrations
# make lock   pins what pyproject.toml asks for in requirements*.txt; UPGRADE=1 takes the newest
# make bench  measures against rivals and writes benchmarks/RESULTS.md; GROUPS names some, QUICK=1 is a trial

PYTHON ?= python3
PYTEST = .venv/bin/pytest -q -n auto

.PHONY: run test test-store conformance check lint lock bench

run: .venv/runtime
	@.venv/bin/python -m inventory.first_run
	@exec .venv/bin/python -m inventory.serve

test: .venv/development
	@tests/install_servers.sh
	$(PYTEST) -m "not postgres"
	.venv/bin/python -m tests.postgres $(PYTEST) -m "not sqlite" tests attachments parts accounts

check: lint
	$(PYTEST) --units -m "not postgres" cas attachments parts accounts inventory

test-store: .venv/development
	.venv/bin/python -m tests.store

conformance: .venv/development
	@tests/install_servers.sh ceph
	.venv/bin/python -m tests.store --stand-in
	.venv/bin/python -m tests.ceph .venv/bin/python -m tests.store

# Type checking and migrations load the settings, which make a data directory.
lint: export INVENTORY_DATA_DIR = $(CURDIR)/.venv/lint
lint: .venv/development
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy .
	.venv/bin/lint-imports
	.venv/bin/python manage.py makemigrations --check --dry-run

# What exists is kept as it is pinned, unless UPGRADE is given.
PIN = CUSTOM_COMPILE_COMMAND="make lock" .venv/lock/bin/pip-compile --quiet --strip-extras \
	--no-emit-options --annotation-style=line $(if $(UPGRADE),--upgrade)

lock: .venv/lock/bin/pip-compile
	$(PIN) --output-file=requirements.txt pyproject.toml
	$(PIN) --extra=dev --constraint=requirements.txt --output-file=requirements-dev.txt pyproject.toml

bench: .venv/benchmarks
	@benchmarks/install_tools.sh
	.venv/bin/python -m benchmarks $(if $(QUICK),--quick) $(GROUPS)

.venv/bin/python:
	@deploy/make_venv.sh "$(PYTHON)"

.venv/lock/bin/pip-compile: | .venv/bin/python
	@.venv/bin/python -m venv .venv/lock
	@.venv/lock/bin/pip install --quiet --disable-pip-version-check pip-tools==7.6.2

# The stamps are newer than what they were made from, so an unchanged clone installs nothing.
.venv/runtime: requirements.txt | .venv/bin/python
	@echo "Installing what the service runs on into .venv/"
	@.venv/bin/pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

.venv/development: requirements-dev.txt .venv/runtime
	@echo "Installing what the tests need into .venv/"
	@.venv/bin/pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@

.venv/benchmarks: benchmarks/requirements.txt .venv/development
	@echo "Installing the rivals that benchmarks measure against into .venv/"
	@.venv/bin/pip install --quiet --disable-pip-version-check -r benchmarks/requirements.txt
	@touch $@
