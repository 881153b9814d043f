# make demo   score shipped frames and a shipped inspection with the default pair (no torch needed)
# make serve  keep the scoring service up on http://127.0.0.1:3000
# make test   build the full environment and run every check, as CI does
# make check  the checks alone, in the environment that is active (or the one that `make test` built)
# make test-observability  ask a real Prometheus (apt-get install prometheus) every query of dashboard and alerts
# make test-fuzz, test-soak, test-kill  the long runs of tests/reliability; scale.py there says how to size them

PYTHON ?= python3
SERVE_ENV := .venv-serve
FULL_ENV := .venv
# The checks run in the full environment where it exists, else with whatever is active.
BIN := $(if $(wildcard $(FULL_ENV)/.ready),$(FULL_ENV)/bin/,)

.PHONY: demo serve test check test-observability test-fuzz test-soak test-kill format clean

demo: $(SERVE_ENV)/.ready
	$(SERVE_ENV)/bin/pipeprobe demo --out demo-out

serve: $(SERVE_ENV)/.ready
	$(SERVE_ENV)/bin/pipeprobe serve

test: $(FULL_ENV)/.ready
	$(MAKE) check

check:
	$(BIN)ruff format --check .
	$(BIN)ruff check .
	$(BIN)mypy
	$(BIN)python -m pytest

test-observability:
	$(BIN)python -m pytest tests/serving -s -m observability

test-fuzz test-soak test-kill:
	$(BIN)python -m pytest tests/reliability -s -m $(@:test-%=%)

format:
	$(BIN)ruff format .
	$(BIN)ruff check --fix .

clean:
	rm -rf $(SERVE_ENV) $(FULL_ENV) demo-out build

$(SERVE_ENV)/.ready: EXTRAS := serve
$(FULL_ENV)/.ready: EXTRAS := serve,train,osd,cluster,cloud,dev

%/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo 'error: pipeprobe needs Python 3.11 or newer; name one with `make PYTHON=python3.12 ...`' >&2; exit 1; }
	$(PYTHON) -m venv --clear $* || \
		{ echo 'error: no venv module; on Debian and Ubuntu: apt-get install python3-venv' >&2; exit 1; }
	$*/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[$(EXTRAS)]'
	touch $@
