# `make run`   one research cycle in its own environment; ARGS go to `archer run`: make run ARGS="--preset quick"
# `make test`  every check: format, lint, types, and all tests but those marked slow or gpu
# `make test-all`  the same with every test (those of the GPU are skipped where there is none)
# Everything is installed into .venv at the versions of constraints.txt, again only when those files change.

ARGS ?=
WORKERS ?= $(shell n=$$(( $$(nproc 2>/dev/null || echo 2) + 1 )); [ "$$n" -gt 8 ] && n=8; echo "$$n")
PYTEST_ARGS ?=
TRITON := triton==3.6.0
VENV := .venv
BIN := $(VENV)/bin
DEFINITIONS := pyproject.toml constraints.txt

export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: run test test-all lint format types pytest bench doctor hooks install install-test clean distclean

run: $(VENV)/.installed
	@$(BIN)/python -m archer run $(ARGS)

# pyright takes a minute of one core: it runs beside the tests.
test: override MARKED := -m "not slow and not gpu"
test test-all: lint
	@$(MAKE) --no-print-directory -j2 types pytest MARKED='$(MARKED)'

# Whoever works in the checkout has rules and projects of their own in it, which are not held to our style.
OURS := src tests benchmarks

lint: $(VENV)/.installed-test
	@$(BIN)/python -m ruff check $(OURS)
	@$(BIN)/python -m ruff format --check $(OURS)

format: $(VENV)/.installed-test
	@$(BIN)/python -m ruff check --fix $(OURS)
	@$(BIN)/python -m ruff format $(OURS)

types: $(VENV)/.installed-test
	@$(BIN)/python -m pyright

# One thread per worker: the workers themselves fill the cores, one more than there are, since some tests
# wait for a process or a limit; an idle one takes over waiting tests.
pytest: $(VENV)/.installed-test
	@OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(WORKERS) --dist worksteal $(MARKED) $(PYTEST_ARGS)

bench: $(VENV)/.installed
	@$(BIN)/python -m archer bench $(ARGS)

doctor: $(VENV)/.installed
	@$(BIN)/python -m archer doctor $(ARGS)

hooks: $(VENV)/.installed-dev
	@$(BIN)/python -m pre_commit install

install: $(VENV)/.installed
install-test: $(VENV)/.installed-test

# The environment. A missing or too old Python is said in one line.
$(VENV)/pyvenv.cfg:
	@chosen=""; \
	for candidate in "$(PYTHON)" python3 python3.13 python3.12 python3.11 python3.14 python; do \
	  if "$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	    chosen="$$candidate"; break; fi; \
	done; \
	if [ -z "$$chosen" ]; then \
	  echo "error: Python 3.11 or newer was not found (python3 is: $$(python3 --version 2>/dev/null || echo missing)). Install it," \
	    "or name it: make run PYTHON=/path/to/python3.11" >&2; exit 2; fi; \
	if ! "$$chosen" -c 'import venv, ensurepip' 2>/dev/null; then \
	  echo "error: $$chosen has no venv module. On Debian or Ubuntu: apt-get install python3-venv" >&2; exit 2; fi; \
	echo "Creating $(VENV) with $$("$$chosen" --version) ..."; \
	"$$chosen" -m venv $(VENV) || { rm -f $@; exit 2; }

$(VENV)/.installed: $(VENV)/pyvenv.cfg $(DEFINITIONS)
	@$(call install,.)

$(VENV)/.installed-test: $(VENV)/pyvenv.cfg $(DEFINITIONS)
	@$(call install,.[test])
	@$(call install-fla,$@)
	@touch $(VENV)/.installed

$(VENV)/.installed-dev: $(VENV)/pyvenv.cfg $(DEFINITIONS)
	@$(call install,.[dev])
	@$(call install-fla,$@)
	@touch $(VENV)/.installed $(VENV)/.installed-test

# pip is quiet unless something fails; an interrupted install leaves no stamp and is taken up again.
define install
echo "Installing archer-lab$(patsubst .%,%,$(1)) into $(VENV) (the first time takes minutes) ..." && \
{ $(BIN)/python -m pip --version >/dev/null 2>&1 || $(BIN)/python -m ensurepip >/dev/null; } && \
$(BIN)/python -m pip install -qq -c constraints.txt -e '$(1)' && touch $@
endef

# flash-linear-attention's plain references, for the tests that compare with them (they skip where it is absent).
# Without dependencies: torch is here already, and a torch built for CUDA has brought its own triton.
define install-fla
if [ "$$(uname -sm)" = "Linux x86_64" ]; then \
  { $(BIN)/python -m pip install -qq --no-deps -c constraints.txt fla-core einops packaging && \
    { $(BIN)/python -c 'import triton' 2>/dev/null || \
      $(BIN)/python -m pip install -qq --no-deps $(TRITON); }; } || { rm -f $(1); exit 1; }; fi
endef

clean:
	@rm -rf build dist .pytest_cache .ruff_cache .hypothesis src/*.egg-info
	@find src tests -type d -name __pycache__ -exec rm -rf {} +

# The ledger and the reports in archer-project are never removed from here.
distclean: clean
	@rm -rf $(VENV)
