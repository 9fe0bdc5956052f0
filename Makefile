# `make serve` and `make test` work from nothing: each makes the virtual environment it needs.
PYTHON ?= python3
SERVE := .venv/serve
DEV := .venv/dev
PIP := -m pip install --disable-pip-version-check --quiet --constraint constraints.txt

.PHONY: serve test test-all fuzz chaos soak bench image lint format docs supported-models demo clean

serve: $(SERVE)/ready  ## serve the demonstration bundle, or another: make serve BUNDLE=… PORT=…
	$(SERVE)/bin/swin-serve run $(if $(BUNDLE),--bundle $(BUNDLE)) $(if $(PORT),--port $(PORT))

test: $(DEV)/ready  ## everything this machine can run in minutes
	$(DEV)/bin/python -m pytest -m "not slow" $(ARGS)

test-all: $(DEV)/ready  ## what takes longer, too
	$(DEV)/bin/python -m pytest $(ARGS)

chaos: $(DEV)/ready  ## attack a real process for three minutes: callers that leave, lie and dawdle, engines that fail, stops
	$(DEV)/bin/python -m tests.chaos $(ARGS)
	$(DEV)/bin/python -m pytest -m slow tests/chaos/test_shutdown.py

soak: $(DEV)/ready  ## a quarter of an hour at four fifths of the capacity; then what a refusal costs
	$(DEV)/bin/python -m benchmarks.behavior.soak $(ARGS)
	$(DEV)/bin/python -m benchmarks.behavior.refusal

bench: $(DEV)/ready  ## load over HTTP; beside other servers: make bench ARGS='--peers mosec torchserve --photos DIR'
	$(DEV)/bin/python -m benchmarks.comparison --latency $(ARGS)

fuzz: $(DEV)/ready  ## decode 200 000 damaged images, and all kinds of sound ones beside libvips and OpenCV (several minutes)
	$(DEV)/bin/python -m tests.fuzz 200000
	$(DEV)/bin/python -m tests.differential

image: $(DEV)/ready  ## build the service's container image and test it; needs a Docker engine
	docker build --tag swin-serve .
	TEST_IMAGE=swin-serve $(DEV)/bin/python -m pytest -m container

lint: $(DEV)/ready  ## style, format, import contracts and types
	$(DEV)/bin/ruff check
	$(DEV)/bin/ruff format --check
	$(DEV)/bin/lint-imports
	$(DEV)/bin/mypy

format: $(DEV)/ready
	$(DEV)/bin/ruff check --fix
	$(DEV)/bin/ruff format

docs: $(DEV)/ready  ## write the pages of docs/reference that the code determines
	$(DEV)/bin/python -m docs.generate

supported-models: $(DEV)/ready  ## compare all published variants with their sources; writes docs/reference/supported-models.md
	$(DEV)/bin/python -m tests.references.table

demo: $(DEV)/ready  ## train the demonstration classifier again and export it
	$(DEV)/bin/python -m model_export.demo

clean:
	rm -rf .venv build *.egg-info .mypy_cache .pytest_cache .ruff_cache

# No torch: what serves needs none.
$(SERVE)/ready: pyproject.toml constraints.txt
	@echo "making $(SERVE) (about a minute) …"
	$(PYTHON) -m venv $(SERVE)
	$(SERVE)/bin/python $(PIP) --editable '.[cpu]'
	@touch $@

$(DEV)/ready: pyproject.toml constraints.txt
	@echo "making $(DEV) (torch included: a few minutes) …"
	$(PYTHON) -m venv $(DEV)
	$(DEV)/bin/python $(PIP) --editable '.[cpu,export,demo,test,lint]'
	@touch $@
