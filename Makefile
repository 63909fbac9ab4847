# `make demo` and `make test` need nothing but Python 3.11 or newer: they set up .venv by themselves.
.PHONY: help setup demo test check lint layers types generated lock bench bench-scale bench-more soak clean

BIN = .venv/bin
SIMULATE_S = 600
BENCH_OUTPUT = bench-report

help:
	@echo "make demo    start a cluster, store a real tree and a 1 GiB file, kill two daemons, read all back"
	@echo "make test    all tests"
	@echo "make check   lint, layers, types, generated code, and make test"
	@echo "make soak    power cuts on a real file system, under load (needs root), and the simulation for ten minutes"
	@echo "make bench   measure a local cluster in memory and on disk, beside nginx and this machine's limits (12 minutes);"
	@echo "             AGAINST=objects.json compares with an earlier run, BENCH=... adds options of reedbed bench objects"
	@echo "make bench-scale  measure how cost grows with objects, devices, clients and sizes (15 minutes), into docs/scale"
	@echo "make bench-more  measure a cluster with a slow device, repair and compaction"
	@echo "make lock    renew requirements.lock from requirements-dev.in"

setup:
	@tools/setup.sh

demo: setup
	$(BIN)/python bench/demo.py

test: setup
	$(BIN)/pytest -n 2 --dist loadgroup

check: setup lint layers types generated test

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

layers: setup
	$(BIN)/lint-imports

types: setup
	$(BIN)/mypy -p reedbed

generated: setup
	tools/protos.sh --check

# Not named test_*.py, so that `make test` passes them over
soak: setup
	$(BIN)/pytest -s tests/soak/power_cut.py tests/soak/moments.py
	REEDBED_SCENARIOS="2 3 4 5" $(BIN)/pytest -n 2 tests/integration/test_scenarios.py
	PYTHONHASHSEED=0 PYTHONPATH=tests/lib $(BIN)/python -m reedbed_sim --seed $$(date +%s) --count 1000000 --at-once 2 \
		--seconds $(SIMULATE_S)

bench:
	@tools/setup_bench.sh
	.venv-bench/bin/reedbed bench objects --progress --output $(BENCH_OUTPUT) $(if $(AGAINST),--against $(AGAINST)) $(BENCH)

bench-scale:
	@tools/setup_bench.sh
	.venv-bench/bin/reedbed bench scale --progress --output docs/scale $(BENCH)

bench-more: setup
	$(BIN)/python bench/slow.py
	$(BIN)/python bench/compact.py
	$(BIN)/python bench/repair.py

lock: setup
	$(BIN)/pip install --quiet uv
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
		--no-header --no-annotate --upgrade requirements-dev.in -o requirements.lock

clean:
	rm -rf .venv .venv-bench bench-report build dist src/*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
