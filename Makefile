# Every target sets up what it needs first; nothing asks a question.
SHELL := /bin/sh
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: setup setup-peers sandbox-deny-tests repro-quick overnight planted test lint types contracts unit behave nightly bench lock clean

setup: ## system packages (apt when root), .venv, the package
	@sh tools/setup.sh base

setup-peers: ## and what benches, the matrix and nightly runs need
	@sh tools/setup.sh peers

sandbox-deny-tests: setup ## the main job: the proxy under none, seccomp and bwrap, attacked and judged
	@$(BIN)/holdfast gates --suite ccp --name sandbox

repro-quick: setup ## one Sonnet and one Haiku request; results/METRICS_repro_quick.json
	@$(BIN)/holdfast gates --suite ccp-quick --isolation none --name repro_quick

overnight: setup ## rounds until both lanes have a 200 and every gate passes; a bundle at the end
	@$(BIN)/holdfast loop --until-pass --max-hours 8 --backoff 5,300 $(args)

planted: setup ## every planted fault, and the table of them from this very run
	@$(BIN)/pytest -q -n 2 -m planted --planted-table docs/PLANTED-FAULTS.md

test: setup lint types contracts unit behave ## every check
	@echo 'holdfast: every check passed'

lint: setup
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: setup
	@$(BIN)/mypy -p holdfast

contracts: setup
	@$(BIN)/lint-imports --no-logo

unit: setup
	@$(BIN)/pytest -q -n 2

behave: setup
	@$(BIN)/behave --format progress2 features

nightly: setup-peers ## the full sizes; a skip is a failure here
	@HOLDFAST_PROFILE=nightly $(BIN)/pytest -q -n 2 -m 'nightly or not nightly'

bench: setup-peers ## figures against peers and limits, as ratios in one run
	@$(BIN)/python -m holdfast.bench $(only)

lock: ## pin every dependency by hash, without any index's address
	@uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 --generate-hashes \
	    --no-emit-index-url --no-annotate --no-header -q -o requirements/dev.txt
	@uv pip compile requirements/peers.in -c requirements/dev.txt --universal --python-version 3.11 \
	    --generate-hashes --no-emit-index-url --no-annotate --no-header -q -o requirements/peers.txt

clean:
	@rm -rf results logs build dist .mypy_cache .ruff_cache .hypothesis
