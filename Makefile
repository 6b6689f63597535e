# Needs Python 3.11 or newer, git and make. `make` alone lists the targets.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules --no-print-directory

PYTHON ?= python3
export PYTHON
# Tests start programs while gRPC's threads run. gRPC's fork handlers sometimes crash the child.
export GRPC_ENABLE_FORK_SUPPORT := false
# Checks and tests start many Python programs. Without a cache, each compiles all of the code again.
unexport PYTHONDONTWRITEBYTECODE
bin := .venv/bin

# Only folders that exist: a clone of an early version does not have all of them.
python_folders := $(wildcard server clients/console clients/python clients/relay tests examples bench scripts)
custom_provider := examples/custom_provider
fast_tests := $(wildcard tests/unit tests/contract)
model_test := tests/integration/test_model.py
# Parts of about one length, of tests that take long: those on the counterparts of each KMS, the alerts,
# which mostly wait, and the others by the beginnings of their names.
kms_tests := $(foreach test,providers health sweep bad_days topology,tests/e2e/test_$(test).py)
alert_tests := tests/e2e/test_alerts.py
other_e2e_tests := $(filter-out $(kms_tests) $(alert_tests),$(wildcard tests/e2e/test_*.py))
first_e2e_tests := $(filter $(foreach letter,a b c d e f g h i j k l m n o,tests/e2e/test_$(letter)%),$(other_e2e_tests))
store_tests := $(wildcard tests/integration/test_store_*.py)
first_unit_tests := $(wildcard tests/unit/test_[a-k]*.py)

.PHONY: help
help: ## List the targets
	@sed -nE 's/^([a-z-]+):[^#]*## (.*)/\1\t\2/p' Makefile | while IFS=$$'\t' read -r name what; do \
	  printf '  %-15s %s\n' "$$name" "$$what"; done

# --- environment -----------------------------------------------------------------------

.PHONY: venv
venv: .venv/installed ## Make .venv with everything at its locked version

# A change of the lock makes a new .venv, so that no package stays that has left the lock.
.venv/locked: requirements/dev.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=…")'
	$(PYTHON) -m venv --clear .venv
	$(bin)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r $<
	@touch $@

# No build isolation: hatchling comes from the lock, not from the network. The example of a provider
# is installed like a third party's package, so that the tests find it as a server does.
.venv/installed: .venv/locked pyproject.toml $(custom_provider)/pyproject.toml
	$(bin)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e . -e $(custom_provider)
	@touch $@

.PHONY: lock
lock: ## Resolve pyproject.toml into requirements/ (UPGRADE=1: to the newest versions)
	scripts/lock.sh

# --- the contract ----------------------------------------------------------------------

# A target of its own, so that two checks that run side by side do not both make it.
.PHONY: generator
generator:
	@scripts/stubs.sh prepare

.PHONY: stubs
stubs: ## Generate the stubs of the clients for Python and Go from protos/
	scripts/stubs.sh generate
	scripts/go.sh generate

.PHONY: check-stubs
check-stubs: generator ## Check that the committed stubs are up to date with protos/
	@scripts/stubs.sh check
	@scripts/go.sh check-stubs || [ $$? -eq 3 ]

.PHONY: check-protos
check-protos: generator ## Run buf: lint, format and, from the first release on, compatibility
	@scripts/protos.sh check || [ $$? -eq 3 ]

.PHONY: release-protos
release-protos: ## At a release: make the current protos the baseline that later protos must not break
	scripts/protos.sh release

# --- checks ----------------------------------------------------------------------------

.PHONY: format
format: venv ## Format the code and apply ruff's safe fixes
	$(bin)/ruff check --fix-only --quiet
	$(bin)/ruff format

.PHONY: lint
lint: venv ## Check the format and the rules with ruff
	@$(bin)/ruff format --check
	@$(bin)/ruff check

.PHONY: types
types: venv ## Check the types with mypy --strict
	@$(bin)/mypy $(python_folders)

.PHONY: imports
imports: venv ## Check the import contracts of pyproject.toml
	@$(bin)/lint-imports --no-logo

.PHONY: docs
docs: venv ## Generate the pages of docs/ that come from the code, and Grafana's dashboard
	$(bin)/python scripts/docs.py write
	$(bin)/python scripts/dashboard.py write

.PHONY: pictures
pictures: venv ## Photograph the console for README.md and docs/
	@PYTHONPATH=tests $(bin)/python scripts/pictures.py

.PHONY: check-docs
check-docs: venv ## Check that those are up to date
	@$(bin)/python scripts/docs.py check
	@$(bin)/python scripts/dashboard.py check

.PHONY: client
client: venv ## Generate the synchronous client, and both clients' errors
	$(bin)/python scripts/client.py write
	$(bin)/python scripts/go_client.py write

.PHONY: check-client
check-client: venv ## Check that the generated parts of the clients are up to date
	@$(bin)/python scripts/client.py check
	@$(bin)/python scripts/go_client.py check

# Go is not needed to work on anything else, so without it this says so. With CI=true it fails.
.PHONY: check-go
check-go: ## Check the client for Go: gofmt, go vet and its tests
	@scripts/go.sh check || [ $$? -eq 3 ]

# Not a part of `make test`: what is known changes without a change of the code, and what CI runs must
# not depend on a service that a machine behind a firewall cannot reach. docs/releases.md says when to
# run it. It fails if it could not look.
.PHONY: vulnerabilities
vulnerabilities: ## Ask OSV for known vulnerabilities of every locked package
	@$(PYTHON) scripts/vulnerabilities.py

.PHONY: tools
tools: ## Try to get all programs that tests use (TOOLS=grpcurl: this one; scripts/tools.sh has the names)
	@scripts/tools.sh $(TOOLS)

# --- tests -----------------------------------------------------------------------------

.PHONY: unit
unit: venv ## Run the fast tests
	@$(bin)/pytest $(fast_tests)

.PHONY: model
model: venv ## Check the model in docs/model with TLC (needs Java and, the first time, Maven)
	@KEYFOLD_MODEL=deep $(bin)/pytest $(model_test)

# Four targets at a time, with the output of each in one piece if this make supports it. On two cores,
# too: those that start servers wait more than they compute.
side_by_side = $(MAKE) --jobs=4 --keep-going \
  $(if $(filter output-sync,$(.FEATURES)),--output-sync=target)

slow_checks := types check-go check-stubs check-protos

.PHONY: checks
checks: venv
	@$(side_by_side) tools lint imports check-docs check-client

# One pool, so that no core waits for the end of a stage. The longest begin first: a long one that
# begins late runs alone in the end, and a core is idle. So none is long: one folder's tests are
# several targets.
.PHONY: test
test: checks ## Run everything that CI runs: the fast checks, then all else, the longest first
	@$(side_by_side) test-alerts test-integration test-unit-first test-e2e-first test-stores test-e2e-second \
	  test-contract test-unit-second test-kms test-model test-chaos $(slow_checks) test-asgi test-clients

# On the transport of KEYFOLD_TRANSPORT=asgi: the tests of rpc/, and a smoke set of whole servers.
rpc_tests := tests/unit/test_rpc_call.py tests/unit/test_asgi.py tests/unit/test_client_channel.py \
  $(foreach test,limits health_service grpcurl callers garbage hostile interop,tests/e2e/test_$(test).py)

.PHONY: test-asgi
test-asgi:
	@KEYFOLD_TEST_TRANSPORT=asgi $(bin)/pytest $(rpc_tests)

.PHONY: test-transports
test-transports: venv ## Run the end-to-end tests and those of rpc/ on both transports
	@for transport in grpc asgi; do \
	  KEYFOLD_TEST_TRANSPORT=$$transport $(bin)/pytest $(filter tests/unit/%,$(rpc_tests)) tests/e2e; \
	done

.PHONY: test-contract test-clients
test-contract test-clients: test-%:
	@$(bin)/pytest tests/$*

.PHONY: test-unit-first
test-unit-first:
	@$(bin)/pytest $(first_unit_tests)

.PHONY: test-unit-second
test-unit-second:
	@$(bin)/pytest tests/unit $(addprefix --ignore=,$(first_unit_tests))

.PHONY: test-integration
test-integration:
	@$(bin)/pytest tests/integration $(addprefix --ignore=,$(model_test) $(store_tests))

.PHONY: test-stores
test-stores:
	@$(bin)/pytest $(store_tests)

.PHONY: test-model
test-model:
	@$(bin)/pytest $(model_test)

.PHONY: test-chaos
test-chaos:
	@$(bin)/pytest tests/chaos tests/drill

.PHONY: test-alerts
test-alerts:
	@$(bin)/pytest $(alert_tests)

.PHONY: test-e2e-first
test-e2e-first:
	@$(bin)/pytest $(first_e2e_tests)

.PHONY: test-e2e-second
test-e2e-second:
	@$(bin)/pytest tests/e2e $(addprefix --ignore=,$(kms_tests) $(alert_tests) $(first_e2e_tests))

.PHONY: test-kms
test-kms:
	@$(bin)/pytest $(kms_tests)

# Add KEY2=, PRINCIPAL=, EXTERNAL_ID= and OPTIONS= if your key needs them. The credential comes from
# the environment.
.PHONY: live
live: venv ## Run the provider suite on a key of yours (PROVIDER=aws KEY=arn:…)
	@PYTHONPATH=tests $(bin)/python -m contract.live

# Add PASSWORD_FILE= if the database asks for a password, and TESTS= to run some tests only.
.PHONY: live-store
live-store: venv ## Run the store suite on a database of yours (URL=postgresql://user@host/database)
	@PYTHONPATH=tests $(bin)/python -m contract.live_store

# CHAOS_RUNS=n makes more runs, CHAOS_KILLS=1000 more kills in each, and CHAOS_SEED=n repeats the run
# that printed this seed.
.PHONY: chaos
chaos: venv ## Break servers under load, the code's safeguards, and the network between regions, and check that this is noticed
	@bad=0; \
	for part in chaos drill; do PYTHONPATH=tests $(bin)/python -m $$part.run || bad=1; done; \
	exit $$bad

# CASES=n (1000 by default), and SEED=n for other cases.
.PHONY: what-if
what-if: venv ## Compare what ListKeyUsage foresees with really doing it at the counterparts
	@CASES=$(CASES) SEED=$(SEED) PYTHONPATH=tests $(bin)/python -m what_if.run

# MINUTES=n (60 by default); KEYFOLD_TEST_TRANSPORT=asgi for the other transport.
.PHONY: soak
soak: venv ## Let two servers serve for an hour while everything around them goes wrong
	@PYTHONPATH=tests $(bin)/python -m chaos.soak $(if $(MINUTES),--minutes $(MINUTES))

# --- releasing -------------------------------------------------------------------------

# SIGN_KEY=file: the SSH key that signs the checksums. docs/releases.md has the steps before and after.
.PHONY: release
release: venv ## Make the release of the tagged commit in dist/ (SIGN_KEY=file to sign it)
	@$(bin)/python scripts/release.py

# --- running ---------------------------------------------------------------------------

# make passes FILE and PROVIDER to the program through the environment. PROVIDER is vault, aws, azure
# or gcp, and starts a counterpart of that KMS on this machine.
.PHONY: demo
demo: venv ## Show the life of a key, on a file (FILE=path; PROVIDER=vault for another KMS)
	@$(bin)/python examples/$(if $(PROVIDER),demo_kms,demo).py

.PHONY: serve
serve: venv ## Run a server on this machine to try things on
	@$(bin)/python examples/serve.py

# All cases take about ten minutes.
.PHONY: bench
bench: venv ## Run the benchmark (CASES="revoke scale" for these cases only)
	@$(bin)/python bench/run.py $(CASES)

.PHONY: bench-quick
bench-quick: venv ## Compare what a call costs with OpenBao and an empty echo, in a minute and a half
	@$(bin)/python bench/run.py cpu --quick

.PHONY: clean
clean: ## Remove the files that make and the checks have written in the clone
	rm -rf .venv dist .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find server clients tests -name __pycache__ -prune -exec rm -rf {} +
