# Everything runs from .venv: `make demo` and `make test` set it up by themselves.
PYTHON ?= python3.11
BIN := .venv/bin
READY := .venv/ready
# Some machines disable Python's bytecode cache, which makes every import take twice as long.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test coverage test-docs docs test-servers test-spark test-service test-platform \
	test-faults test-dagster bench-smoke container soak audit monitoring-faults \
	dashboard-pictures lint types bench lock clean

demo: $(READY)
	$(BIN)/nextbuy demo

# Tests that break, reload and fuzz servers, one after the other: a quarter of an hour.
SERVER_TESTS := $(addprefix tests/bento/test_,access.py doors.py faults.py hostile.py leftovers.py \
	live.py live_faults.py live_hostile.py live_memory.py reload.py robustness.py) tests/training/test_mlflow_away.py
# Tests that build images and start whole platforms.
SERVICE_TESTS := $(addprefix tests/bento/test_,build.py flow.py)
PLATFORM_TESTS := tests/bento/test_api_page.py tests/test_platform.py
SPARK_TESTS := $(addprefix tests/nextbuy/test_,spark.py feast_on_spark.py)
# Tests that run the commands of the pages: about ten minutes.
DOCS_TESTS := $(addprefix tests/docs/test_,docs_commands.py walkthrough.py)
# Tests with a full disk, no rights, memory, network or Redis, and kills in each stage: some minutes.
FAULT_TESTS := tests/faults/test_machine.py tests/faults/test_kills.py
TESTS := -n 2 --dist loadfile $(addprefix --ignore ,$(SERVER_TESTS) $(SERVICE_TESTS) \
	$(PLATFORM_TESTS) $(SPARK_TESTS) $(DOCS_TESTS) $(FAULT_TESTS))

test: $(READY)
	$(BIN)/pytest $(TESTS)

# The same, counting the lines that ran, in every process; fails below what pyproject.toml says.
coverage: $(READY)
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest $(TESTS)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report
	mkdir -p build/bench
	$(BIN)/coverage json --quiet -o build/bench/coverage.json

# Every command of README.md and docs/, in page order, and the walkthrough.
test-docs: $(READY)
	$(BIN)/pytest $(DOCS_TESTS)

# The pages that are generated from the code.
docs: $(READY)
	$(BIN)/typer nextbuy.cli utils docs --name nextbuy --title Commands --output docs/commands.md
	$(BIN)/python -m nextbuy.features.catalogue > docs/feature-catalogue.md

# Service and Redis slow, killed and restarted, also in the middle of a replay; keys and limits.
# A process for each file: BentoML and Feast read the environment once.
test-servers: $(READY)
	set -e; for file in $(SERVER_TESTS); do $(BIN)/pytest $$file; done

# Every table again by Spark; skips without pyspark and Java. A process for each file, as above.
test-spark: $(READY)
	set -e; for file in $(SPARK_TESTS); do $(BIN)/pytest $$file; done

# bentoml build: what it packs, its image, and that the packed service runs; the files that a request
# passes. A process for each file, as above.
test-service: $(READY)
	set -e; for file in $(SERVICE_TESTS); do $(BIN)/pytest $$file; done

# Schemathesis against the running service; the services of docker-compose.yml as plain processes.
test-platform: $(READY)
	$(BIN)/pytest $(PLATFORM_TESTS)

# Real faults of the machine and twenty kills: nothing is lost, and the same command completes the rest.
test-faults: $(READY)
	$(BIN)/pytest $(FAULT_TESTS)

# The Dagster example, in its own environment; with NEXTBUY_DATA of a demo it runs a day.
test-dagster: $(READY)
	test -x build/dagster/bin/python || $(PYTHON) -m venv build/dagster
	$(BIN)/uv pip install --quiet --python build/dagster/bin/python --require-hashes -r requirements/dagster.lock
	build/dagster/bin/pytest tests/test_dagster.py

# The Bento's image, built and run by buildah: see the script.
container: $(READY)
	containers/end_to_end.sh

# Ten minutes at 80 % of the service's capacity: is its memory flat?
soak: $(READY)
	$(BIN)/python -m benchmarks.soak

# Known vulnerabilities of what is locked.
audit: $(READY)
	$(BIN)/pip-audit --strict --require-hashes --disable-pip --requirement requirements.lock

# Plants every fault, runs 20 clean months day by day, and writes docs/monitoring-faults.md
# (half an hour).
monitoring-faults: $(READY)
	$(BIN)/python -m tests.monitoring.faults

# Pictures of the dashboard for the docs, from the data folder (NEXTBUY_DATA) after `make demo` and
# `nextbuy monitor`, with a running `nextbuy serve`.
dashboard-pictures: $(READY)
	$(BIN)/python -m tests.monitoring.browser

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy

# make bench NAME=pit
bench: $(READY)
	$(BIN)/python -m benchmarks.$(NAME)

# Every benchmark once at its smallest, to see that it runs; on the shop that `make demo` made.
BENCHMARKS := sessionize features increment pit materialize online events predict bulk train \
	checks monitor
bench-smoke: $(READY)
	set -e; for name in $(BENCHMARKS); do $(BIN)/python -m benchmarks.$$name --small; done

# The README's table of figures, from the results in build/bench.
.PHONY: figures
figures: $(READY)
	$(BIN)/python -m benchmarks.figures

# The installer is locked with hashes too; it takes the rest from requirements.lock.
# The .pth line keeps telemetry off for every command of this environment (nextbuy/telemetry.py).
$(READY): requirements.lock requirements/installer.lock pyproject.toml
	$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 11) <= v <= (3, 13) else "Nextbuy needs Python 3.11 to 3.13, this is %d.%d. Name one: make demo PYTHON=python3.11" % v)'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/installer.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	echo 'import nextbuy.telemetry' > "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/nextbuy_telemetry.pth"
	touch $(READY)

# After a change of dependencies: writes the locks again.
lock:
	$(BIN)/uv pip compile --quiet --generate-hashes --universal --python-version 3.11 --no-emit-index-url --no-emit-find-links --no-header requirements/installer.in -o requirements/installer.lock
	$(BIN)/uv pip compile --quiet --generate-hashes --universal --python-version 3.11 --no-emit-index-url --no-emit-find-links --no-header --extra dev pyproject.toml -o requirements.lock
	$(BIN)/uv pip compile --quiet --generate-hashes --universal --python-version 3.11 --no-emit-index-url --no-emit-find-links --no-header requirements/spark.in -o requirements/spark.lock
	$(BIN)/uv pip compile --quiet --generate-hashes --universal --python-version 3.11 --no-emit-index-url --no-emit-find-links --no-header requirements/dagster.in -o requirements/dagster.lock
	$(BIN)/uv pip compile --quiet --generate-hashes --constraint requirements.lock --universal --python-version 3.11 --no-emit-index-url --no-emit-find-links --no-header requirements/service.in -o requirements/service.lock

clean:
	rm -rf .venv build
