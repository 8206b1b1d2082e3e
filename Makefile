# make demo and make test need Python 3.11+ and make, nothing else.
PYTHON ?= python3
BIN := .venv/bin
PYTEST := $(BIN)/python -m pytest -q --numprocesses 2 --no-loadscope-reorder --durations 10

# Half of a short run is Python compiling its libraries anew, if it may not keep what it compiled.
unexport PYTHONDONTWRITEBYTECODE
IMPORT := $(BIN)/python -c 'import importlib, sys; [importlib.import_module(name) for name in sys.argv[1:]]'
WARM_A := diffusers.loaders.peft diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion_instruct_pix2pix \
  diffusers.pipelines.ddpm.pipeline_ddpm transformers.models.clip.modeling_clip torchvision.transforms.v2 \
  torchmetrics.image.fid
WARM_B := mlflow.server mlflow.store.tracking.sqlalchemy_store ray.data ray.tune.search.optuna ray.dashboard.dashboard \
  ray._private.log_monitor ray._private.runtime_env.agent.main optuna matplotlib.backends.backend_svg scipy.stats \
  sklearn.datasets jsonschema pytest xdist.remote
BY_PATH := $(addprefix .venv/lib/python3*/site-packages/, ray/data ray/dashboard ray/autoscaler mlflow/store)

.PHONY: demo test nightly check setup lock clean

demo: setup
	$(BIN)/synthaug run experiments/digits.py:one_shot
	$(BIN)/synthaug run experiments/digits.py:five_shots

test: check
	$(PYTEST)

nightly: check
	$(PYTEST) -m nightly

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

setup: .venv/ready

.venv/ready: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: Python 3.11 or newer is needed; name it: make PYTHON=/path/to/python3.11"; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip sync --quiet --python $(BIN)/python requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@echo "importing once what a run needs, so that its bytecode is there"
	@$(IMPORT) $(WARM_A) & $(IMPORT) $(WARM_B) && $(BIN)/python -m compileall -q $(BY_PATH) && wait $$!
	touch $@

# Newer versions within pyproject's ranges: make lock UPGRADE=--upgrade
lock:
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
	  --no-annotate --extra dev $(UPGRADE) pyproject.toml -o requirements.lock

clean:
	rm -rf .venv runs
