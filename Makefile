PYTHON ?= python3
CLANG_FORMAT_FILES = $(shell git ls-files '*.cpp' '*.h' '*.cu' '*.cuh')

.PHONY: install develop test test-all sanitize faults fuzz aot lint format bench sbom audit dist clean

install:
	$(PYTHON) -m pip install -c constraints.txt .

develop:
	$(PYTHON) -m pip install -c constraints.txt -e '.[dev]'

test:
	pytest

# With the tests that take long and guard little.
test-all:
	pytest -m ""

sanitize:
	tests/native/sanitize.sh

# A thousand kills and every file-system error, then every byte of a checkpoint damaged: about an hour.
faults:
	$(PYTHON) tests/faults/faults.py --kills 1000 --saves 200 --every 1
	$(PYTHON) tests/faults/damage.py

# Every fuzz target for SECONDS.
SECONDS ?= 600
fuzz:
	tests/fuzz/run.sh $(SECONDS)

# Every Triton configuration for every architecture, without a GPU; the table of what they take.
aot:
	$(PYTHON) bench/aot.py bench/results/aot

lint:
	ruff check .
	ruff format --check .
	clang-format --dry-run --Werror $(CLANG_FORMAT_FILES)
	mypy
	lint-imports

format:
	ruff check --fix .
	ruff format .
	clang-format -i $(CLANG_FORMAT_FILES)

bench:
	pytest bench/ --results bench/results/local

# The tested versions as a bill of materials, and their known vulnerabilities (this one needs a network).
sbom:
	mkdir -p dist
	cyclonedx-py requirements constraints.txt --pyproject pyproject.toml --mc-type library --output-reproducible \
	  --of JSON -o dist/sbom.cdx.json

audit:
	pip-audit --strict --no-deps --disable-pip -r constraints.txt

dist: sbom
	$(PYTHON) -m build

clean:
	rm -rf build dist *.egg-info pyllmclf/_C*.so
