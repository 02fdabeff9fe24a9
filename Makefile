# `make run` and `make test` do all the set-up a fresh machine needs: Python 3.11 or newer and make.
PYTHON ?= python3
CORES ?= $(shell nproc 2>/dev/null || sysctl -n hw.ncpu 2>/dev/null || echo 2)
# Of each test worker: workers that compete for cores are slow.
THREADS ?= 1
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
DEVELOPING := $(VENV)/.developing

# Compiled afterwards, by all cores; pip would take one, and where PYTHONDONTWRITEBYTECODE is set jobs would compile anew.
define install
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "diffmech needs Python 3.11 or newer; name one: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt --editable '$(1)'
	@$(BIN)/python -m compileall -qq -j 0 $(VENV)/lib || true  # a file that is not for this Python
endef

.PHONY: run everything plan test cluster settings lint docs matrix benchmark clean

run: $(INSTALLED)  ## the study of config.yaml, up to results/report.html
	$(BIN)/snakemake --cores $(CORES) $(ARGS)
	@echo "The report is results/report.html"

everything: $(INSTALLED)  ## every study that config.yaml asks for, up to results/index.html
	$(BIN)/snakemake --cores $(CORES) everything $(ARGS)
	@echo "The front page is results/index.html"

plan: $(INSTALLED)  ## what that study will take on this machine: disk, memory, time
	$(BIN)/snakemake --cores $(CORES) --quiet all $(ARGS) -- plan

test: $(DEVELOPING)  ## all tests
	OMP_NUM_THREADS=$(THREADS) $(BIN)/pytest -n 2 --dist loadgroup $(ARGS)

cluster: $(DEVELOPING)  ## the tiny study on a SLURM of its own, and what happens to clusters (root, slurm-wlm and munge)
	$(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt --editable '.[dev,slurm]'
	$(BIN)/pytest -n 0 tests/cluster $(ARGS)

settings:  ## all tests with each Python, vector width and number of threads, with oneDNN and without
	.ci/settings $(ARGS)

lint: $(DEVELOPING)  ## style, types, workflow lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/snakefmt --check Snakefile rules
	$(BIN)/mypy
	$(BIN)/snakemake --lint

docs: $(DEVELOPING)  ## regenerate docs/config.md, docs/tables.md, resources/config.schema.json and resources/captions
	$(BIN)/python -m diffmech.config.documentation
	$(BIN)/python -m diffmech.dictionary
	$(BIN)/python -m diffmech.report.heads.captions

matrix: $(DEVELOPING)  ## contract tests with the oldest, the pinned and the newest diffusers
	.ci/matrix $(ARGS)

benchmark: $(DEVELOPING)  ## what seeing attention costs, beside other tools
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,benchmarks]'
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps attention-map-diffusers
	$(BIN)/python benchmarks/engine $(ARGS)

$(INSTALLED): pyproject.toml constraints.txt
	$(call install,.)
	@touch $@

$(DEVELOPING): pyproject.toml constraints.txt
	$(call install,.[dev])
	@touch $(INSTALLED) $@

clean:  ## remove the environment and all results
	rm -rf $(VENV) results .snakemake
