# `make serve` and `make test` work from a fresh clone: each creates the virtual environment that it needs.
PYTHON ?= python3
SERVE := .venv/serve
EXPORT := .venv/export
DEV := .venv/dev
# Clients of other projects, which the tests run. Their requirements and those of DEV exclude each other.
CLIENTS := .venv/clients
MLSERVER := .venv/mlserver
# Ray, for the tests of deploy/ray. Its 800 MB are in no other environment.
RAY := .venv/ray
# The tool that writes the SBOM, and the packages of the container image that it lists.
SBOM := .venv/sbom
IMAGE := .venv/image
# Debian's package of Prometheus, unpacked. The tests of alerts and dashboard run its programs.
PROMETHEUS := build/prometheus
DASHBOARD := docker/monitoring/grafana/dashboards/swin-serve.json
# kserve needs a Python below 3.14, mlserver one below 3.13: make test CLIENTS_PYTHON=python3.12.
CLIENTS_PYTHON ?= $(PYTHON)
# The target of the Dockerfile that `make image` builds, and its tag.
TARGET := cpu
TAG := swin-serve$(if $(filter gpu,$(TARGET)),:gpu)
# The version is in pyproject.toml. These files repeat it, because their tools cannot read it there.
VERSION = $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
VERSIONED := pyproject.toml clients/python/pyproject.toml Dockerfile docs/how-to/kubernetes.md deploy/kserve/servingruntime.yaml \
    deploy/kubernetes/overlays/cpu/kustomization.yaml deploy/kubernetes/overlays/gpu/kustomization.yaml
# A command that starts a Docker engine where none responds.
ENGINE_START ?= true
# Processes that run tests. More than four of them need more memory than they save time.
PARALLEL := -n auto --maxprocesses 4 --dist worksteal
PIP := -m pip install --disable-pip-version-check --quiet --constraint

.DEFAULT_GOAL := help
.PHONY: help serve bundle bundle-arguments test test-all test-container test-browser test-ray screenshots clients prometheus fuzz chaos soak bench image push wheel sbom version print-version lint format docs dashboard proto supported-models demo clean

help:  ## List the targets.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-18s%s\n", $$1, $$2 }' $(MAKEFILE_LIST)

serve: $(SERVE)/ready  ## Serve the demonstration bundle, or another one: make serve BUNDLE=DIR PORT=9000.
	$(SERVE)/bin/swin-serve run $(if $(BUNDLE),--bundle $(BUNDLE)) $(if $(PORT),--port $(PORT))

bundle: bundle-arguments $(EXPORT)/ready  ## Export a checkpoint: make bundle CHECKPOINT=./my-fine-tune BUNDLE=./my-bundle
	$(EXPORT)/bin/swin-export build "$(CHECKPOINT)" "$(BUNDLE)" $(ARGS)

bundle-arguments:  # before minutes of installation
	@: $(or $(and $(CHECKPOINT),$(BUNDLE)),$(error set CHECKPOINT to a folder, a file or an id on the Hugging Face hub, and BUNDLE to the folder to write))

test: $(DEV)/ready $(CLIENTS)/ready $(MLSERVER)/ready prometheus  ## Run the tests except the slow ones (a few minutes); with options of pytest: make test ARGS='-k decode'.
	$(DEV)/bin/python -m pytest -m "not slow and not container and not browser" $(PARALLEL) $(ARGS)

test-all: $(DEV)/ready $(CLIENTS)/ready $(MLSERVER)/ready prometheus test-ray  ## Run all tests, with the slow ones, except those of containers.
	$(DEV)/bin/python -m pytest -m "not container" $(PARALLEL) $(ARGS)

# One process: the builds share the cache of the engine. Without an engine, pytest prints the reason and skips the tests.
test-container: $(DEV)/ready prometheus  ## Build the container images and test them (a few minutes); with a command that starts a Docker engine: make test-container ENGINE_START=…
	@docker info >/dev/null 2>&1 || $(ENGINE_START) || echo "the command of ENGINE_START failed: $(ENGINE_START)"
	$(DEV)/bin/python -m pytest -m container -rs tests/container $(ARGS)

test-ray: $(RAY)/ready  ## Run the tests of the deployment for Ray Serve (in an environment of their own, 800 MB).
	$(RAY)/bin/python -m pytest tests/ray $(RAY_ARGS)

test-browser: $(DEV)/ready  ## Run the tests of the page in Chromium (Debian: apt-get install chromium). Without it, they are skipped.
	$(DEV)/bin/python -m pytest -m browser -rs tests/browser $(ARGS)

screenshots: $(DEV)/ready  ## Write the pictures of the page and of a terminal for the documentation (two minutes).
	$(DEV)/bin/python -m tests.browser.screenshots

clients: $(CLIENTS)/ready $(MLSERVER)/ready  ## Install the clients of other projects that the tests run (two virtual environments).

# Needs no root. Without Prometheus, its tests are skipped.
prometheus:  ## Unpack Debian's package of Prometheus into build/, unless Prometheus is installed.
	@if command -v promtool >/dev/null || test -x $(PROMETHEUS)/usr/bin/promtool; then exit 0; fi; \
	mkdir -p $(PROMETHEUS) && cd $(PROMETHEUS) && \
	apt-get --quiet=2 download prometheus && dpkg-deb --extract prometheus_*.deb . && rm prometheus_*.deb || \
	echo "Prometheus is not installed, and apt-get cannot download it (apt-get update may help): its tests are skipped"

chaos: $(DEV)/ready  ## Attack a running service for three minutes with faulty clients, engine failures and shutdowns.
	$(DEV)/bin/python -m tests.chaos $(ARGS)
	$(DEV)/bin/python -m pytest -m slow tests/chaos/test_shutdown.py

soak: $(DEV)/ready  ## Load a service at 80 % of its capacity for 15 minutes, then measure the cost of a refusal.
	$(DEV)/bin/python -m benchmarks.behavior.soak $(ARGS)
	$(DEV)/bin/python -m benchmarks.behavior.refusal

bench: $(DEV)/ready  ## Measure load over HTTP; with baselines: make bench ARGS='--baselines mosec --photos DIR'.
	$(DEV)/bin/python -m benchmarks.comparison --latency $(ARGS)

fuzz: $(DEV)/ready  ## Decode 200,000 damaged images, send 100,000 damaged requests, and compare decoding with libvips and OpenCV.
	$(DEV)/bin/python -m tests.fuzz 200000
	$(DEV)/bin/python -m tests.fuzz.infer_bodies 100000
	$(DEV)/bin/python -m tests.differential

image:  ## Build the container image of the service; for a GPU: make image TARGET=gpu.
	docker build --target $(TARGET) --tag $(TAG) --build-arg REVISION="$$(git rev-parse HEAD)" .

# Tags of a version X.Y.Z: X.Y.Z, X.Y and latest; for a GPU, each with -gpu. Needs a builder of the driver docker-container.
push:  ## Build both images with their SBOM and provenance, and push them: make push REPOSITORY=registry.example.com/swin-serve
	@: $(or $(REPOSITORY),$(error set REPOSITORY to the name of the images, with their registry))
	$(foreach target,cpu gpu,docker buildx build --push --sbom=true --provenance=mode=max --target $(target) \
	    $(foreach tag,$(VERSION) $(basename $(VERSION)) latest,--tag $(REPOSITORY):$(tag)$(filter -gpu,-$(target))) \
	    --build-arg REVISION="$$(git rev-parse HEAD)" . &&) true

# setuptools would put files of earlier builds into the wheel.
wheel: $(DEV)/ready  ## Write the wheels of swin-serve and of its client to dist/. One commit makes one digest.
	rm -rf build/lib build/bdist.* clients/python/build dist
	SOURCE_DATE_EPOCH="$$(git log -1 --format=%ct)" $(DEV)/bin/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist . ./clients/python

version: $(DEV)/ready  ## Write another version to all files that have it: make version NEXT=X.Y.Z
	@: $(or $(NEXT),$(error set NEXT to the version to write))
	sed -i 's/\b$(subst .,\.,$(VERSION))\b/$(NEXT)/' $(VERSIONED)
	$(DEV)/bin/python -m pip install --quiet --no-deps --editable .
	$(MAKE) docs

print-version:
	@echo $(VERSION)

# Into an environment without pip, so that pip is not listed.
sbom: $(SBOM)/ready  ## Write build/sbom.json: the packages of the container image, with versions and licenses (CycloneDX).
	mkdir -p build
	$(PYTHON) docker/requirements.py cpu grpc otel >build/requirements.txt
	$(PYTHON) -m venv --clear --without-pip $(IMAGE)
	$(SBOM)/bin/python -m pip --python $(IMAGE)/bin/python install --disable-pip-version-check --quiet --constraint constraints.txt --requirement build/requirements.txt
	$(SBOM)/bin/cyclonedx-py environment $(IMAGE)/bin/python --pyproject pyproject.toml --output-reproducible --output-file build/sbom.json

lint: $(DEV)/ready  ## Check style, format, import contracts, types, the Dockerfile and the workflows.
	$(DEV)/bin/ruff check
	$(DEV)/bin/ruff format --check
	PYTHONPATH=clients/python $(DEV)/bin/lint-imports
	$(DEV)/bin/mypy
	$(DEV)/bin/hadolint Dockerfile
	$(DEV)/bin/zizmor --quiet --offline --strict-collection .github/workflows

format: $(DEV)/ready  ## Apply the automatic fixes of style, and format all files.
	$(DEV)/bin/ruff check --fix
	$(DEV)/bin/ruff format

docs: $(DEV)/ready  ## Write the pages of docs/reference that the code and the results determine.
	$(DEV)/bin/python -m docs.generate

dashboard: $(DEV)/ready  ## Write the dashboard of Grafana.
	$(DEV)/bin/python docker/monitoring/dashboard.py >$(DASHBOARD)

proto: $(DEV)/ready  ## Compile the definitions of gRPC's messages.
	$(DEV)/bin/python -m grpc_tools.protoc --proto_path=app/grpc/proto --descriptor_set_out=app/grpc/proto/inference.binpb --pyi_out=app/grpc/proto inference.proto

supported-models: $(DEV)/ready  ## Compare all published variants with their sources (about an hour), and write the results and their table.
	$(DEV)/bin/python -m tests.references.table
	$(DEV)/bin/python -m docs.generate

demo: $(DEV)/ready  ## Train the demonstration classifier again, and export it.
	$(DEV)/bin/python -m model_export.demo

clean:  ## Delete the virtual environments, build outputs and caches of tools.
	rm -rf .venv build clients/python/build *.egg-info clients/python/*.egg-info .mypy_cache .pytest_cache .ruff_cache

# Without torch: the service does not need it.
$(SERVE)/ready: pyproject.toml constraints.txt
	@echo "creating $(SERVE) (about a minute) …"
	$(PYTHON) -m venv $(SERVE)
	$(SERVE)/bin/python $(PIP) constraints.txt --editable '.[cpu]'
	@touch $@

$(EXPORT)/ready: pyproject.toml constraints.txt
	@echo "creating $(EXPORT) (with torch: a few minutes) …"
	$(PYTHON) -m venv $(EXPORT)
	$(EXPORT)/bin/python $(PIP) constraints.txt --editable '.[cpu,export]'
	@touch $@

$(DEV)/ready: pyproject.toml constraints.txt
	@echo "creating $(DEV) (with torch: a few minutes) …"
	$(PYTHON) -m venv $(DEV)
	$(DEV)/bin/python $(PIP) constraints.txt --editable '.[cpu,export,demo,test,browser,lint]'
	@touch $@

# tritonclient and kserve need an older protobuf than DEV.
$(CLIENTS)/ready: constraints-clients.txt
	@echo "creating $(CLIENTS) (a few minutes, half a gigabyte) …"
	$(CLIENTS_PYTHON) -m venv $(CLIENTS)
	$(CLIENTS)/bin/python $(PIP) constraints-clients.txt 'tritonclient[http,grpc]' kserve
	@touch $@

# mlserver needs an older fastapi and grpcio than kserve.
$(MLSERVER)/ready: constraints-mlserver.txt
	@echo "creating $(MLSERVER) (a few minutes) …"
	$(CLIENTS_PYTHON) -m venv $(MLSERVER)
	$(MLSERVER)/bin/python $(PIP) constraints-mlserver.txt mlserver
	@touch $@

$(RAY)/ready: pyproject.toml constraints-ray.txt
	@echo "creating $(RAY) (two minutes, 800 MB) …"
	$(PYTHON) -m venv $(RAY)
	$(RAY)/bin/python $(PIP) constraints-ray.txt --editable '.[cpu,offline,ray]' httpx pytest pytest-timeout
	@touch $@

$(SBOM)/ready: constraints-sbom.txt
	@echo "creating $(SBOM) (about a minute) …"
	$(PYTHON) -m venv $(SBOM)
	$(SBOM)/bin/python $(PIP) constraints-sbom.txt cyclonedx-bom
	@touch $@
