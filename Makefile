# One command does each job on a fresh machine; PYTHON and VENV can be set, e.g. `make test PYTHON=python3.12`.
PYTHON ?= python3
VENV ?= .venv
OUTPUT ?= outputs/digits

help: ## Show this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

$(VENV)/demo: setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --editable .
	touch $@

$(VENV)/test: $(VENV)/demo
	$(VENV)/bin/pip install --quiet --editable '.[test,lint]'
	touch $@

demo: $(VENV)/demo ## Set up, fine-tune a ViT on real digits, reopen it through AutoModel, draw its attention
	$(VENV)/bin/hf-vit-suite finetune --dataset digits --output_dir $(OUTPUT)
	$(VENV)/bin/hf-vit-suite predict $(OUTPUT) docs/images/digit.png
	$(VENV)/bin/hf-vit-suite explain $(OUTPUT) docs/images/digit.png --out $(OUTPUT)/explained.png

test: $(VENV)/test ## Set up and run the tests
	$(VENV)/bin/python -m pytest -q -n 2 --durations 40

conventions: $(VENV)/test ## Run transformers' own common tests on every model class
	$(VENV)/bin/python tests/conventions/download.py $(VENV)/conventions
	TRANSFORMERS_TESTS=$(VENV)/conventions $(VENV)/bin/python -m pytest -q -n 2 \
		-o addopts= -o filterwarnings=default tests/conventions

check: $(VENV)/test ## Check style and format
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

format: $(VENV)/test ## Format the code
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

.PHONY: help demo test conventions check format
