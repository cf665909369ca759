# make demo | test | check | bench: each makes its own environment in .venv first.
PYTHON ?= python3.11
VENV := .venv
RUN := $(VENV)/bin/python -m

# Threads that wait by spinning make a busy machine many times slower.
export OMP_WAIT_POLICY ?= passive
# Modules are compiled when they are first imported, and not all 20,000 by pip, which takes minutes.
# Where this is set, as in many images, every process would compile them anew.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo test test-ops check format bench constraints clean

$(VENV)/.installed: pyproject.toml constraints.txt
	@echo "making $(VENV): 2.2 GB, about three minutes" >&2
	$(PYTHON) -m venv $(VENV)
	$(RUN) pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt -e '.[dev]'
	touch $@

test: $(VENV)/.installed
	$(RUN) pytest --numprocesses=2 --dist=loadscope --no-loadscope-reorder

test-ops: $(VENV)/.installed
	$(RUN) pytest tests/ops

check: $(VENV)/.installed
	$(RUN) ruff format --check .
	$(RUN) ruff check .
	$(RUN) mypy
	$(VENV)/bin/lint-imports

format: $(VENV)/.installed
	$(RUN) ruff format .
	$(RUN) ruff check --fix .

demo: $(VENV)/.installed
	$(VENV)/bin/styleclip demo
	@echo "source $(VENV)/bin/activate gives you the command styleclip" >&2

bench: $(VENV)/.installed
	$(RUN) benchmarks

# uv resolves all extras together in seconds, where pip takes a quarter of an hour. The reasons at the
# head of the file stay; what torch's builds for CUDA bring goes by their own index.
constraints:
	rm -rf build/constraints && $(PYTHON) -m venv build/constraints
	build/constraints/bin/python -m pip install --quiet uv
	echo torch==2.13.0 > build/constraints/held.txt
	build/constraints/bin/uv pip compile --quiet --no-header --no-annotate --all-extras \
		--python-version 3.11 -c build/constraints/held.txt -o build/constraints/all.txt pyproject.toml
	sed '/^[^#]/,$$d' constraints.txt > build/constraints/new.txt
	grep -vE '^(cuda|nvidia|triton)' build/constraints/all.txt >> build/constraints/new.txt
	mv build/constraints/new.txt constraints.txt

clean:
	rm -rf $(VENV) build dist demo-output *.egg-info
