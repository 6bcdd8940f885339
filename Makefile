# make run          the product on http://127.0.0.1:8501
# make run DEMO=1   the same on a folder of its own, with accounts and sample images
# make run TLS=1    the same over https, with a certificate made on first use
# make run DEMO=1 RESET=1   the same, begun anew
# make run GPU=1    with PyTorch, as is the default where nvidia-smi finds a GPU; GPU=0 without
# make audit DATABASE=all.zip   pinned versions against known vulnerabilities, see docs/operating.md
# make test         lint, types, architecture and tests
#
# Each installs what it needs into .venv and no more; requirements.txt says what that is.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
GPU ?= $(shell nvidia-smi --list-gpus 2>/dev/null | grep -q GPU && echo 1)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt
# Browser tests wait most of their time: one worker more than cores, and four at most.
WORKERS := $(shell n=$$(nproc 2>/dev/null || echo 2); [ $$n -lt 4 ] && echo $$((n + 1)) || echo 4)
# The folders of tests lie in memory where there is room for them: what tests write durably waits for
# no disk then. A folder goes when its test has passed.
SHM_MB := $(shell n=$$(df -Pm /dev/shm 2>/dev/null | awk 'NR == 2 {print $$4}'); echo $${n:-0})
FREE_MB := $(shell n=$$(awk '/^MemAvailable/ {print int($$2 / 1024)}' /proc/meminfo 2>/dev/null); echo $${n:-0})
FOLDERS := $(shell [ $(SHM_MB) -ge 6000 ] && [ $(FREE_MB) -ge 8000 ] && echo /dev/shm)
export YOLO_OFFLINE := true
export YOLO_AUTOINSTALL := false
export YOLO_CONFIG_DIR := $(CURDIR)/runs/ultralytics
export PYTHONUNBUFFERED := 1

.PHONY: run test check lint types architecture format bench train soak audit clean

run: $(VENV)/.run $(if $(filter-out 0,$(GPU)),$(VENV)/.gpu)
	$(BIN)/python serve.py $(if $(DEMO),--demo) $(if $(RESET),--reset) $(if $(TLS),--tls)

# Workers, servers and decoders are processes of their own: without kept bytecode each of them
# compiles the sources, and rewrites the asserts of all tests, anew.
test soak: export PYTHONDONTWRITEBYTECODE :=
# The threads of PyTorch and of linear algebra wait for each other in loops that keep their cores
# busy, and several workers share these: the tests of the training took twice as long.
test soak: export OMP_NUM_THREADS := 1

test: export PYTEST_DEBUG_TEMPROOT := $(FOLDERS)
test: check
	$(BIN)/python -m pytest -m "not slow" --deselect tests/test_architecture.py \
		--numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder

# Side by side: none of them keeps more than one core busy.
check: $(VENV)/.test
	+$(MAKE) --no-print-directory --jobs 2 --output-sync architecture types lint $(VENV)/.compiled

types lint architecture: $(VENV)/.test

types:
	$(BIN)/mypy

lint:
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

# Imports every test, so that what cannot be imported shows here, and the workers of `make test` find
# its bytecode instead of compiling it each for themselves.
architecture:
	$(BIN)/python -m pytest -k test_architecture

format: $(VENV)/.test
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/.test
	for b in $(filter-out crash crash_intake crash_server days fairness goals hospital intake_memory load many network outages presidio_peer screening scripted series several,$(basename $(notdir $(wildcard benchmarks/*.py)))); \
		do nice $(BIN)/python -m benchmarks.$$b || exit 1; done

train: $(VENV)/.train
	$(BIN)/python -m model.train

soak: $(VENV)/.test
	$(BIN)/python -m pytest
	$(BIN)/python -m benchmarks.crash --kills 110
	$(BIN)/python -m benchmarks.crash_server --kills 25
	$(BIN)/python -m benchmarks.crash_intake --kills 25
	$(BIN)/python -m benchmarks.load --minutes 10
	$(BIN)/python -m benchmarks.fairness
	$(BIN)/python -m benchmarks.many
	$(BIN)/python -m benchmarks.intake_memory

audit: $(VENV)/.test
	$(BIN)/python -m tests.known_vulnerabilities $(DATABASE)

$(VENV)/.made:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11) and "MedSec needs Python 3.11")'
	$(PYTHON) -m venv $(VENV)
	touch $@

# ultralytics brings the other build of the same OpenCV, which needs libGL; the headless one
# is put back, so that everybody runs and tests the build that the server runs.
HEADLESS = $(PIP) --constraint requirements-run.txt --no-deps --force-reinstall opencv-python-headless

$(VENV)/.run: requirements-run.txt constraints.txt | $(VENV)/.made
	$(PIP) --requirement requirements-run.txt
	touch $@

$(VENV)/.gpu: requirements-gpu.txt requirements-run.txt constraints.txt | $(VENV)/.made
	$(PIP) --requirement requirements-run.txt --requirement requirements-gpu.txt
	$(HEADLESS)
	touch $(VENV)/.run $@

$(VENV)/.train: requirements-train.txt requirements-gpu.txt requirements-run.txt constraints.txt | $(VENV)/.made
	$(PIP) $(foreach part,run gpu train,--requirement requirements-$(part).txt)
	$(HEADLESS)
	touch $(VENV)/.run $(VENV)/.gpu $@

# PyTorch and what it brings for a GPU are most of the bytes: pip unpacks them on one core while it
# installs the rest on another. Should either fail, the line after them installs what is missing.
LARGE = $(shell grep -hoE '^(torch|triton|nvidia-[a-z0-9-]+)==[^ ]+' requirements-gpu.txt constraints.txt)

$(VENV)/.test: requirements.txt $(wildcard requirements-*.txt) constraints.txt | $(VENV)/.made
	$(PIP) --no-compile --no-deps $(LARGE) & \
		$(PIP) --no-compile --no-warn-conflicts --requirement requirements-run.txt \
			--requirement requirements-dev.txt; wait
	$(PIP) --no-compile --requirement requirements.txt
	$(HEADLESS) --no-compile
	touch $(VENV)/.run $(VENV)/.gpu $(VENV)/.train $@

# Workers of the sandbox can keep no bytecode: what they load must have some. Of the largest packages
# few files are ever loaded, by processes that keep it, and by no decoder or network.
UNREAD := altair|faker|fhir|fontTools|matplotlib|mypy|networkx|nvidia|pandas|pip|playwright|plotly|polars|pygments|schemathesis|setuptools|streamlit|sympy|torch|triton|ultralytics
$(VENV)/.compiled: $(VENV)/.test
	-$(BIN)/python -m compileall -qq -x '/($(UNREAD))/' $(VENV)/lib
	touch $@

clean:
	rm -rf $(VENV) runs build *.egg-info
