# spikeleak: `make demo` and `make test` are all that a newcomer needs; each makes .venv and installs what it asks for.
#
#   make demo TORCH=torch==2.13.0            another torch
#   make test PIP_ARGS="--index-url URL"     another source of wheels
#   make test PYTHON=python3.13              another Python (3.11 to 3.13)
#   make chaos                               long fault runs, one table (hours); make chaos ROWS="server-kill" SHARE=0.1
#   make loihi                               snntorch against the simulation of Loihi 2; lava in an environment of its own
#   make arm64-smoke                         the board's training step on emulated Pi cores (wants qemu-user-static)
#   make arm64                               a bundle on an emulated Debian arm64, no network (root; debootstrap, qemu)
#   make boards                              `spikeleak deploy` on booted Debian roots (root; systemd-container, debootstrap)

PYTHON   ?= python3
TORCH    ?= torch==2.13.0
PIP_ARGS ?=
VENV     ?= .venv
LOIHI    ?= .venv-loihi
OUT      ?=
# Many tests wait for brokers and processes: two at a time take little more than half as long.
PYTEST_ARGS ?= -n 2 --dist worksteal

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS)

.PHONY: demo test bench chaos loihi arm64-smoke arm64 boards lint clean

# torch comes first and by its exact version: what asks for plain "torch" afterwards finds it there.
$(BIN)/python:
	$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v <= (3, 13) else f"Python 3.11 to 3.13 is needed, this is {v[0]}.{v[1]}: make PYTHON=python3.11 …")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/torch.stamp: | $(BIN)/python
	$(PIP) "$(TORCH)"
	@touch $@

$(VENV)/lab.stamp: pyproject.toml $(VENV)/torch.stamp
	$(PIP) -e ".[lab]"
	@touch $@

$(VENV)/dev.stamp: pyproject.toml $(VENV)/torch.stamp
	$(PIP) -e ".[dev]"
	@touch $@ $(VENV)/lab.stamp

demo: $(VENV)/lab.stamp
	$(BIN)/spikeleak demo $(if $(OUT),--out $(OUT))

test: $(VENV)/dev.stamp
	$(BIN)/python -m pytest $(PYTEST_ARGS)

bench: $(VENV)/dev.stamp
	$(BIN)/python -m tests.benchmarks

chaos: $(VENV)/dev.stamp
	$(BIN)/python -m tests.faults.chaos $(ROWS) $(if $(SHARE),--share $(SHARE))

# Lava is archived: its metadata ask for Python 3.10 and old torch, hence --no-deps and its needs from a list of ours. Both
# wheels bring a top-level package "tests", which would hide this project's own from whoever runs in that environment.
$(LOIHI)/lava.stamp: hardware/loihi/requirements.txt hardware/loihi/lava.txt | $(BIN)/python
	$(BIN)/python -m venv $(LOIHI)
	$(LOIHI)/bin/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -r hardware/loihi/requirements.txt
	$(LOIHI)/bin/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) --no-deps --ignore-requires-python -r hardware/loihi/lava.txt
	$(LOIHI)/bin/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) --no-deps --editable .
	rm -rf $(LOIHI)/lib/python3*/site-packages/tests
	@touch $@

loihi: $(VENV)/lab.stamp $(LOIHI)/lava.stamp
	SPIKELEAK_LOIHI="$(abspath $(LOIHI))" $(BIN)/python -m deploy.loihi

arm64-smoke: $(VENV)/dev.stamp
	PIP_ARGS="$(PIP_ARGS)" $(BIN)/python -m tests.arm64

arm64: $(VENV)/dev.stamp
	PIP_ARGS="$(PIP_ARGS)" $(BIN)/python -m tests.deployment.arm64

boards: $(VENV)/dev.stamp
	PIP_ARGS="$(PIP_ARGS)" $(BIN)/python -m tests.deployment

lint: $(VENV)/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

clean:
	rm -rf $(VENV) $(LOIHI) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
