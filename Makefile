# What a newcomer and a developer run. `make demo` and `make test` need Python 3.11 or newer and make, and nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: help demo front test test-front test-slow test-alerts test-console test-environment test-nightly test-nussknacker lint audit format wheel proto docs lock fuzz bench-batch bench-large bench-start bench-catalog bench-loading bench-nussknacker bench-overload bench-remote bench-wide bench-peers bench-security bench-scrape bench-http bench-checkouts bench-flight bench-acceleration hostile soak clean

help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; name one with: make PYTHON=/path/to/python3"; exit 1; }
	@uv pip install --help 2>/dev/null | grep -q -e --group || $(PYTHON) -c 'import ensurepip' 2>/dev/null || \
	  { echo "Neither uv nor Python's venv module is installed; on Debian: apt-get install python3-venv"; exit 1; }
# uv does not read pip's settings: a package index of your own is passed on. The uv of this environment, which is first
# on the path where it is active, goes with it.
	@set -e; if [ "$$(command -v uv)" != "$(abspath $(BIN))/uv" ] && uv pip install --help 2>/dev/null | grep -q -e --group; then \
	  uv=uv; uv venv --quiet --clear --python $(PYTHON) $(VENV); \
	else \
	  uv=$(BIN)/uv; $(PYTHON) -m venv --clear $(VENV); \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt uv; \
	  index=$$($(BIN)/python -m pip config get global.index-url 2>/dev/null || true); \
	  [ -z "$$index" ] || export UV_DEFAULT_INDEX="$${UV_DEFAULT_INDEX:-$$index}"; \
	fi; \
	$$uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --editable . --group dev
	@touch $@

demo: $(READY) ## Train sample models, serve them, and say how to call them (ARGS=--once: score each and end)
	$(BIN)/prinz-enricher demo $(ARGS)

# Two processes, each of which has its own servers; what a file's tests share stays in one of them.
test: $(READY) lint ## Pass the linters and the quick tests, two at a time (ARGS go to pytest instead, and it runs one)
	$(BIN)/pytest --ignore tests/environment --ignore tests/console $(or $(ARGS),-m "not slow" --numprocesses 2 --dist loadfile)

test-slow: $(READY) ## The tests that start, stop and kill servers, or build environments (ARGS go to pytest)
	$(BIN)/pytest --ignore tests/environment --ignore tests/console -m slow --numprocesses 2 --dist loadfile $(ARGS)
# Without anything beside it: what callers may hear of a killed worker depends on how soon another one is there.
	$(if $(ARGS),,PRINZ_TEST_SOAK=1 $(BIN)/pytest -m slow tests/soak)

test-environment: $(READY) ## The tests of the whole environment, on ports of its own (ARGS go to pytest)
	$(BIN)/pytest --durations 0 tests/environment $(ARGS)

test-console: $(READY) ## The console in Chromium, which is to be installed (PRINZ_CONSOLE_IMAGES=1: new pictures for docs/)
	$(BIN)/pytest --durations 0 tests/console $(ARGS)

test-alerts: $(READY) ## Have each alert's cause before a real Prometheus, which is to be installed; takes the whole machine
	PRINZ_TEST_ALERTS=1 $(BIN)/pytest tests/integration/test_alerts.py $(ARGS)

test-nightly: $(READY) ## The property tests of the columnar core with over a million random values
	HYPOTHESIS_PROFILE=nightly $(BIN)/pytest --timeout 0 tests/batch tests/signature tests/worker/test_worker_frames.py

test-nussknacker: $(READY) ## Build the modules for the JVM with Maven, and test them against real services (ARGS go to mvn)
	$(BIN)/python -m tests.nussknacker $(ARGS)

front: $(READY) ## Build the Rust front into the environment, where cargo is (docs/fronts.md)
	@command -v cargo >/dev/null || { echo "cargo is needed, Rust 1.85 or newer; on Debian: apt-get install rustup"; exit 1; }
	rm -rf dist/front
	PATH="$(abspath $(BIN)):$$PATH" maturin build --quiet --release --manifest-path front/Cargo.toml --interpreter $(BIN)/python --out dist/front
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --reinstall --no-index dist/front/*.whl

test-front: ## Format, lint and test the Rust front's crate
	cargo fmt --manifest-path front/Cargo.toml --check
	cargo clippy --quiet --release --manifest-path front/Cargo.toml --all-features --all-targets -- --deny warnings
	cargo test --quiet --release --manifest-path front/Cargo.toml

lint: $(READY) ## Format, lint, types, the direction of imports, the contract
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python scripts/generate_contract.py --check
	$(BIN)/python scripts/check_contract.py
	$(BIN)/python scripts/settings_page.py --check
	$(BIN)/python scripts/check_compose.py

audit: $(READY) ## Look for known vulnerabilities and for licences that are not allowed (ARGS=--help)
	$(BIN)/python scripts/audit.py $(ARGS)

format: $(READY) ## Format the code, and mend what the linter can mend
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

wheel: $(READY) ## Build the wheel into dist/, with its bill of materials
	$(BIN)/python -m build --wheel --no-isolation
	$(BIN)/python scripts/sbom.py dist

proto: $(READY) ## Generate prinz_enricher/contract from proto/
	$(BIN)/python scripts/generate_contract.py

docs: $(READY) ## Generate docs/settings.md from the settings, and the table of docs/answers.md
	$(BIN)/python scripts/settings_page.py
	$(BIN)/python -W ignore -m tests.worker.answer_matrix

lock: ## Write constraints.txt anew: the newest versions that fit pyproject.toml
	$(PYTHON) scripts/lock.py

fuzz: $(READY) ## Ask the service all sorts of nonsense (MINUTES=10), and see that it stands (ARGS=--front=grpcio)
	$(BIN)/python -m tests.fuzz.campaign --minutes $(or $(MINUTES),10) $(ARGS)

hostile: $(READY) ## Attack a service in each known way, and print what others see of it (ARGS=--help)
	$(BIN)/python -m tests.hostile $(ARGS)

soak: $(READY) ## Call a service in all ways while workers, files and registry fail (MINUTES=30), and see that it holds (ARGS=--help)
	$(BIN)/python -m tests.soak --minutes $(or $(MINUTES),30) $(ARGS)

bench-batch: $(READY) ## What the columnar core costs, beside its floor
	$(BIN)/python benchmarks/batch.py

bench-large: $(READY) ## What one large batch costs the front in memory, beside its floor
	$(BIN)/python benchmarks/large_batch.py

bench-flight: $(READY) ## What Arrow Flight costs beside bare Flight servers and Score, by turns (ARGS=--help)
	$(BIN)/python -m benchmarks.flight $(ARGS)

bench-acceleration: $(READY) ## What acceleration gains: the sample fraud pipeline with it and without, by turns (ARGS=--help)
	$(BIN)/python -m benchmarks.acceleration $(ARGS)

bench-start: $(READY) ## How long the front takes to start, and how much memory it holds
	$(BIN)/python benchmarks/start.py

bench-catalog: $(READY) ## What a registry of 20,000 versions costs, and how quickly lists are answered
	$(BIN)/python benchmarks/catalog.py

bench-loading: $(READY) ## How long a version takes until it scores, and where the time goes
	$(BIN)/python benchmarks/loading.py

bench-nussknacker: $(READY) ## How many events a second a JVM gets scored
	$(BIN)/python benchmarks/nussknacker.py

bench-overload: $(READY) ## What callers see at three times the load that can be carried
	$(BIN)/python benchmarks/overload.py

bench-remote: $(READY) ## What a remote model gains over one HTTP request for each row
	$(BIN)/python benchmarks/remote.py

bench-wide: $(READY) ## What rows of 500 columns of several types cost beside rows of doubles (ARGS=--help)
	$(BIN)/python benchmarks/wide_rows.py $(ARGS)

bench-peers: $(READY) ## Ours beside MLflow, MLServer, KServe, BentoML, LitServe and Ray Serve (ARGS=--quick, --help)
	$(BIN)/python -m benchmarks.peers $(ARGS)

bench-security: $(READY) ## What TLS, tokens and access rules cost, by turns (ARGS=--help)
	$(BIN)/python -m benchmarks.security $(ARGS)

bench-scrape: $(READY) ## What a scrape of /metrics costs with 3,000 versions in use
	$(BIN)/python -m benchmarks.scrape

bench-http: $(READY) ## Single rows over HTTP, beside MLflow's server and the least that answers HTTP (ARGS=--help)
	$(BIN)/python -m benchmarks.http_api $(ARGS)

bench-checkouts: $(READY) ## What a change costs: this checkout and another one by turns (OTHER=folder, ARGS=--help)
	$(BIN)/python -m benchmarks.checkouts $(OTHER) $(ARGS)

clean: ## Remove the environment and what the demo made
	rm -rf $(VENV) .demo build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
