# make demo: set-up and the main job.  make test: set-up and all tests.  make soak: interrupts, long.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Processes that share the tests, a file at a time, with one core each. A GPU is not shared.
PROCESSES ?= $(if $(wildcard /dev/nvidia0),0,2)

.PHONY: demo test check counts mutants soak lab readme goldens notebooks sums clean

demo: $(VENV)/.installed
	$(BIN)/vdkit demo

test: check
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(PROCESSES) --dist loadfile \
		--no-loadscope-reorder --junitxml .pytest_cache/tests.xml

check: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy vdkit
	$(BIN)/python -m pytest -q tests/cpu/test_imports.py

# How big it all is, and how long the last tests took.
counts: $(VENV)/.installed
	$(BIN)/python tools/counts.py

# Planted bugs: each must be noticed by the tests that its patch names (in a copy of this tree).
mutants: $(VENV)/.installed-dev
	$(BIN)/python tests/mutants/run.py

# Thousands of interrupted, failing and cancelled decodes in child processes (a quarter of an hour).
soak: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.interrupts $(SOAK)

lab: $(VENV)/.installed
	$(BIN)/jupyter lab notebooks

# Write the recorded figures into README.md and results/README.md (a test keeps them equal).
readme: $(VENV)/.installed
	$(BIN)/python tools/readme.py README.md

# Write down anew what the commands print of every recording (a test compares; read the diff).
goldens: $(VENV)/.installed-dev
	$(BIN)/python -m tests.goldens.make

# Execute all notebooks in place; those in git hold the outputs of a GPU.
notebooks: $(VENV)/.installed-dev
	$(BIN)/python tools/execute_notebooks.py

# Checksums of what data/ ships (a test compares them).
sums:
	cd data && git ls-files --cached --others --exclude-standard . | grep -v '^SHA256SUMS$$' | LC_ALL=C sort | xargs sha256sum > SHA256SUMS

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if (3, 11) <= v[:2] <= (3, 13) else "vdkit needs Python 3.11 to 3.13, $(PYTHON) is %d.%d; use make PYTHON=python3.12" % v[:2])'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,scale]'
	touch $@

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache results/demo
