# One command each: `make quickstart`, `make test` (ruff and mypy, then the tests), `make lint`. Everything lives in .venv.
# Benchmarks take flags: `make speed FLAGS="--lengths 4096 --rounds 3"`.

VENV   := .venv
BIN    := $(VENV)/bin
PYTHON := $(BIN)/python
STAMP  := $(VENV)/.installed

# The launchers start `python` and `ninja` by name: find the ones of this environment first.
export PATH := $(CURDIR)/$(BIN):$(PATH)
# What DeepSpeed compiles for the CPU is built once, here, and not in a cache that other clones rebuild or leave locked.
export TORCH_EXTENSIONS_DIR := $(CURDIR)/$(VENV)/torch_extensions

.PHONY: install quickstart lint test hf-tests parity memory speed longest balance scaling document larger launches generation quality gpu compat fuzz faults elastic soak audit docs clean

install: $(STAMP)

$(PYTHON):
	@python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: cached_ds needs Python 3.11 or newer; python3 here is $$(python3 --version 2>&1)" >&2; exit 1; }
	@python3 -c 'import ensurepip' 2>/dev/null || \
		{ echo "error: python3 has no ensurepip, so it cannot make a virtual environment; on Debian or Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	python3 -m venv $(VENV)

# torch comes first: DeepSpeed's build imports it.
$(STAMP): setup.py pyproject.toml constraints.txt | $(PYTHON)
	$(PYTHON) -m pip install -q 'setuptools>=77' torch==2.13.0
	$(PYTHON) -m pip install -q -c constraints.txt -e '.[test]'
	rm -rf $(TORCH_EXTENSIONS_DIR)
	DS_ACCELERATOR=cpu $(PYTHON) tests/lab/programs/build_op.py > $(VENV)/build.log 2>&1 || { cat $(VENV)/build.log >&2; exit 1; }
	@touch $@

quickstart: install
	$(BIN)/deepspeed --num_gpus 2 launch/train.py launch/quickstart.yaml

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# One worker for the tests that start processes, one for the others (tests/conftest.py). Profile: no deadline on a busy machine.
test: lint
	$(PYTHON) -m pytest -n 2 --hypothesis-profile ci $(FLAGS)

# What the tests of transformers import lies beside .venv's own packages: `make hf-tests TRANSFORMERS=DIR`.
HF_TESTS := $(VENV)/hf-tests
$(HF_TESTS): | $(STAMP)
	$(PYTHON) -m pip install -q -c constraints.txt --target $@ httpx parameterized timeout-decorator

hf-tests: install $(HF_TESTS)
	@test -d '$(TRANSFORMERS)/tests/models' || { echo 'error: TRANSFORMERS=DIR must name a checkout of transformers' >&2; exit 1; }
	PYTHONPATH=$(CURDIR)/$(HF_TESTS) $(PYTHON) tests/hugging_face/hf_tests.py '$(TRANSFORMERS)' $(FLAGS)

parity: install
	$(PYTHON) benchmarks/parity.py $(FLAGS)

memory: install
	$(PYTHON) benchmarks/memory.py $(FLAGS)

speed: install
	$(PYTHON) benchmarks/speed.py $(FLAGS)

longest: install
	$(PYTHON) benchmarks/longest.py $(FLAGS)

balance: install
	$(PYTHON) benchmarks/balance.py $(FLAGS)

scaling: install
	$(PYTHON) benchmarks/scaling.py $(FLAGS)

document: install
	$(PYTHON) benchmarks/document.py $(FLAGS)

larger: install
	$(PYTHON) benchmarks/larger.py $(FLAGS)

generation: install
	$(PYTHON) benchmarks/generation.py $(FLAGS)

quality: install
	$(PYTHON) benchmarks/quality.py $(FLAGS)

launches: install
	$(PYTHON) benchmarks/launches.py $(FLAGS)

# The oldest and the newest releases that are tested, each in an environment over .venv.
compat: install
	$(PYTHON) tests/versions/compat.py $(FLAGS)

# Made-up flags, recipes, DeepSpeed files and documents for launch/train.py, for some minutes.
fuzz: install
	PYTHONPATH=tests $(PYTHON) tests/fuzz/fuzz.py $(FLAGS)

# Training runs that are killed at random moments and while they write a checkpoint, and go on.
faults: install
	PYTHONPATH=tests DS_ACCELERATOR=cpu $(PYTHON) tests/faults/faults.py $(FLAGS)

# Checkpoints of every engine, resumed under every other engine and on other numbers of ranks.
elastic: install
	PYTHONPATH=tests DS_ACCELERATOR=cpu $(PYTHON) tests/faults/elastic.py $(FLAGS)

# A long run, and whether memory, open files or threads grow.
soak: install
	PYTHONPATH=tests DS_ACCELERATOR=cpu $(PYTHON) tests/faults/soak.py $(FLAGS)

# Known vulnerabilities of the versions in constraints.txt; pip-audit has an environment of its own, and needs the network.
AUDIT := $(VENV)/audit
$(AUDIT): | $(PYTHON)
	$(PYTHON) -m venv $@
	$@/bin/python -m pip install -q pip-audit==2.10.1 || { rm -rf $@; exit 1; }

audit: $(AUDIT)
	$(AUDIT)/bin/pip-audit --strict --disable-pip --no-deps -r constraints.txt

# On a cluster's own python too: torch, transformers, accelerate and pytest are all it needs.
gpu:
	$(or $(wildcard $(PYTHON)),python3) benchmarks/gpu.py $(FLAGS)

# MkDocs 2 will not run this theme; the pins keep MkDocs 1, so the theme's notice about it is switched off.
docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean:
	rm -rf build dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
