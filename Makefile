# Two commands: `make demo` (install, render, prepare, train, measure, dub) and `make test`.
SHELL := /bin/bash
VENV ?= .venv
# The first interpreter of a supported version that really runs.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3.10 python3.14 python3; do \
	$$p -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] < (3, 15))' 2>/dev/null && { echo $$p; break; }; done)
BIN := $(VENV)/bin
# The folder that experiments/sample.yaml names.
OUT := outputs/demo
RUN := $(OUT)/run
VIDEOS := $(OUT)/sample/videos

# Setuptools warns of every editable installation, whatever is in it.
INSTALL = PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --editable

.PHONY: demo test test-slow lint docs install developed clean

install: $(VENV)/.installed

$(VENV)/.installed: setup.cfg pyproject.toml
	@test -n "$(PYTHON)" || { echo "No Python 3.10 to 3.14 found. Install one, or call make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(INSTALL) .
	@touch $@

# What tests and checks need besides, which the demo does not wait for.
developed: $(VENV)/.developed

$(VENV)/.developed: $(VENV)/.installed
	$(INSTALL) '.[dev]'
	@touch $@

$(OUT)/sample/index.parquet: | $(VENV)/.installed
	$(BIN)/stsa prepare sample --out $(OUT)/sample

# A stopped training goes on from its last checkpoint.
$(RUN)/.trained: $(OUT)/sample/index.parquet experiments/sample.yaml
	$(BIN)/stsa fit -c experiments/sample.yaml --run $(RUN) --ckpt_path last
	@touch $@

$(OUT)/evaluation/report.json: $(RUN)/.trained
	$(BIN)/stsa evaluate checkpoint $(RUN)/last.ckpt --data $(OUT)/sample --protocol experiments/protocols/sample.yaml --out $(@D)

# A speaker that training never saw says another one's sentence.
$(OUT)/dubbed.mp4: $(RUN)/.trained
	$(BIN)/stsa dub $(VIDEOS)/speaker05/clip01.mp4 $(VIDEOS)/speaker06/clip02.mp4 --checkpoint $(RUN)/last.ckpt -o $@

demo: $(OUT)/evaluation/report.json $(OUT)/dubbed.mp4
	@$(BIN)/stsa evaluate --show $(OUT)/evaluation
	@echo
	@echo "rendered videos    $(VIDEOS)/"
	@echo "prepared corpus    $(OUT)/sample/ (clips/, index.parquet)"
	@echo "training run       $(RUN)/ (last.ckpt, logs/, logs/pictures/)"
	@echo "evaluation         $(OUT)/evaluation/report.html (tables, plots, pictures)"
	@echo "dubbed clip        $(OUT)/dubbed.mp4"

# Two processes of one thread each: threads that share two cores wait for each other.
# A file stays in one process, which then makes the fixtures of the file once.
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --durations 15

test: $(VENV)/.developed
	$(PYTEST)

# What takes minutes rather than seconds.
test-slow: $(VENV)/.developed
	$(PYTEST) -m slow -rs

# The pages, into site/. The variable silences an advertisement.
docs: $(VENV)/.installed
	$(INSTALL) '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# Ruff finds files by their ending, which commands in scripts/ have none of.
SCRIPTS = $(shell grep --files-with-matches '^.!/usr/bin/env python' scripts/*)

lint: $(VENV)/.developed
	$(BIN)/ruff check . $(SCRIPTS)
	$(BIN)/ruff format --check . $(SCRIPTS)
	$(BIN)/mypy

clean:
	rm -rf $(OUT)
