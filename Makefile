# make run          the product on http://127.0.0.1:8501
# make run DEMO=1   the same on a folder of its own, with accounts and sample images
# make run TLS=1    the same over https, with a certificate made on first use
# make run DEMO=1 RESET=1   the same, begun anew
# make test         lint, types, architecture and tests
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
export YOLO_OFFLINE := true
export YOLO_AUTOINSTALL := false
export YOLO_CONFIG_DIR := $(CURDIR)/runs/ultralytics
export PYTHONUNBUFFERED := 1

.PHONY: run test check format bench train soak clean

run: $(STAMP)
	$(BIN)/python serve.py $(if $(DEMO),--demo) $(if $(RESET),--reset) $(if $(TLS),--tls)

test: check
	$(BIN)/python -m pytest -m "not slow" --numprocesses auto --maxprocesses 4 --dist loadfile

check: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(STAMP)
	for b in $(filter-out crash crash_server load many presidio_peer scripted,$(basename $(notdir $(wildcard benchmarks/*.py)))); \
		do nice $(BIN)/python -m benchmarks.$$b || exit 1; done

train: $(STAMP)
	$(BIN)/python -m model.train

soak: $(STAMP)
	$(BIN)/python -m pytest
	$(BIN)/python -m benchmarks.crash --kills 110
	$(BIN)/python -m benchmarks.crash_server --kills 25
	$(BIN)/python -m benchmarks.load --minutes 10
	$(BIN)/python -m benchmarks.many

$(STAMP): requirements.txt requirements-dev.txt constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11) and "MedSec needs Python 3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --requirement requirements-dev.txt --constraint constraints.txt
	touch $@

clean:
	rm -rf $(VENV) runs
