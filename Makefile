# The two commands: `make demo` and `make test`. Each does its whole set-up on a fresh Debian machine with Python 3.11.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
VIEWER := .tools/viewer
# Command that shows a system package is there : the Debian package that brings it.
PEERS := dsrdump:dcmtk /usr/sbin/Orthanc:orthanc /usr/share/orthanc/plugins/libOrthancDicomWeb.so:orthanc-dicomweb \
         /usr/sbin/rsyslogd:rsyslog /usr/lib/*/rsyslog/lmnsd_ossl.so:rsyslog-openssl \
         curl:curl cc:gcc /usr/include/stdio.h:libc6-dev chromium:chromium node:nodejs npm:npm pdftoppm:poppler-utils \
         /usr/lib/postgresql:postgresql
# One more than the two cores of a machine of CI: many tests wait for processes that start, or for a time to pass.
PYTEST_ARGS ?= -n 3 --dist loadgroup
# What fails runs once more, five tests of a suite at most, and the first failure is shown: see CONTRIBUTING.md.
ONCE_MORE := --reruns 1 --max-suite-reruns 5 --rerun-show-tracebacks

.DEFAULT_GOAL := help
.PHONY: help demo test docs tutorials coverage mutation lint style peers viewer clean

help: ## Show this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 10

demo: $(VENV)/.installed ## Scanner, node and PACS on this machine; STUDY=path uses your own folder of DICOM
	$(BIN)/dicom-node demo $(if $(STUDY),--study "$(STUDY)") --output demo-output

# Compiled code is kept, whatever the environment says: thousands of processes start, and compiling takes each 0.2 s.
# In two parts, of which the first is measured: tracing the whole suite costs 70 % more processor time. The figure judges
# nothing, and is shown whether tests pass.
COVERED_TESTS := tests/storage tests/schedule
COVERED := storage dicom_node.schedule

# Types are checked beside the first part, which waits for disks and databases more than it computes. One computing thread
# a process: with more processes than cores, threads of one wait for each other, and that takes a third more.
test: style peers viewer ## Lint, type check and the whole test suite, real peers included
	@export OMP_WAIT_POLICY=PASSIVE OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE=; status=0; mkdir -p build; set -x; \
	$(BIN)/mypy >build/types.txt 2>&1 & types=$$!; \
	$(BIN)/python -m pytest $(PYTEST_ARGS) $(ONCE_MORE) $(COVERED_TESTS) $(COVERED:%=--cov=%) --cov-report= || status=1; \
	wait $$types || status=1; \
	$(BIN)/python -m pytest $(PYTEST_ARGS) $(ONCE_MORE) $(COVERED_TESTS:%=--ignore=%) || status=1; set +x; \
	cat build/types.txt; echo "Lines of $(COVERED) that their own tests execute: $$($(BIN)/python -m coverage report --format=total) %"; \
	exit $$status

docs: $(VENV)/.installed ## The documentation as a site, in build/site; a link that leads nowhere is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# Not part of `test`: ten analyses' worth of processor time, and ports that the tutorials name.
tutorials: $(VENV)/.installed peers ## Run every command of the tutorials, one after the other
	$(BIN)/python tests/tutorials.py build/tutorials

coverage: $(VENV)/.installed ## Lines of everything that the quick tests execute: a figure, not a gate
	-OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest $(PYTEST_ARGS) -m "not peers and not slow and not real_data" --cov --cov-report=
	@echo "Lines executed: $$($(BIN)/python -m coverage report --format=total) % (by file: $(BIN)/coverage report)"

# Neither in CI nor among the dependencies: it takes minutes a module. What survives is listed; not every one matters.
MUTMUT ?= mutmut==3.8.1
MUTATE ?= storage/leases.py
MUTATION_TESTS ?= tests/storage/test_leases.py
MUTATION_ARGS ?=
mutation: $(VENV)/.installed ## Change MUTATE in small ways: which changes do MUTATION_TESTS not notice?
	$(BIN)/python -m pip install -q --upgrade --target build/mutation/tool "$(MUTMUT)"
	nice -n 19 $(BIN)/python benchmarks/mutation.py $(MUTATE) --tests $(MUTATION_TESTS) $(MUTATION_ARGS)

lint: style ## ruff and mypy
	$(BIN)/mypy

style: $(VENV)/.installed ## ruff alone
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

peers: ## Install the system's DICOM peers for the tests, when root
	@missing=""; for pair in $(PEERS); do \
	  command -v $${pair%%:*} >/dev/null 2>&1 || [ -e $${pair%%:*} ] || missing="$$missing $${pair##*:}"; done; \
	if [ -n "$$missing" ]; then \
	  if [ "$$(id -u)" = 0 ]; then apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $$missing; \
	  else echo "Tests with real peers need: apt-get install$$missing"; fi; fi

viewer: $(VIEWER)/node_modules/.installed ## Fetch OHIF and Playwright for the viewer test

$(VIEWER)/node_modules/.installed: tests/viewer/package.json tests/viewer/package-lock.json | peers
	mkdir -p $(VIEWER)
	cp tests/viewer/package.json tests/viewer/package-lock.json $(VIEWER)/
	cd $(VIEWER) && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error
	touch $@

# Compiled on all cores, where pip takes one; some packages bring files that are not for this version of Python.
$(VENV)/.installed: pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed"; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { [ "$$(id -u)" = 0 ] && apt-get update -qq && \
	  apt-get install -y -qq python3-venv; } || { echo "Install Debian's python3-venv first"; exit 1; }
	[ -x $(BIN)/python ] || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile --requirement requirements.lock
	$(BIN)/python -m compileall -qq -j 0 $(VENV)/lib || true
	$(BIN)/python -m pip install --quiet --no-deps --config-settings editable_mode=compat --editable .
	touch $@

clean: ## Remove what the targets made
	rm -rf $(VENV) .tools demo-output build *.egg-info
