PYTHON ?= python3
CLANG_FORMAT_FILES = $(shell git ls-files '*.cpp' '*.h' '*.cu' '*.cuh')

.PHONY: install develop test sanitize aot lint format bench dist clean

install:
	$(PYTHON) -m pip install -c constraints.txt .

develop:
	$(PYTHON) -m pip install -c constraints.txt -e '.[dev]'

test:
	pytest

sanitize:
	tests/native/sanitize.sh

# Every Triton configuration for every architecture, without a GPU; the table of what they take.
aot:
	$(PYTHON) bench/aot.py bench/results/aot

lint:
	ruff check .
	ruff format --check .
	clang-format --dry-run --Werror $(CLANG_FORMAT_FILES)
	mypy

format:
	ruff check --fix .
	ruff format .
	clang-format -i $(CLANG_FORMAT_FILES)

bench:
	pytest bench/ --results bench/results/local

dist:
	$(PYTHON) -m build

clean:
	rm -rf build dist *.egg-info pyllmclf/_C*.so
