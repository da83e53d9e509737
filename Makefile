# Each target makes the environment it needs; a second call finds it made.
#   PYTHON=python3.12 make test    another interpreter (3.11 to 3.13)
#   make run DATASET=mnist         MNIST instead of the embedded digits (or a path to an .npz)
#   make serve PORT=8080           another port; always on 127.0.0.1

PYTHON  ?= python3
PORT    ?= 3000
DATASET ?= digits
BUNDLE  ?= bundles/mnist
NAME    ?= $(basename $(notdir $(DATASET)))

VENV       := .venv
VENV_SERVE := .venv-serve
VENV_TEST  := .venv-serve-test
VENV_PEERS := .venv-peers
PY         := $(VENV)/bin/python
PY_SERVE   := $(VENV_SERVE)/bin/python
LOCK       := $(PY) -m uv pip compile --quiet --universal --python-version 3.11 \
              --generate-hashes --no-emit-index-url --no-header --custom-compile-command "make lock"

SERVE       = exec $(VENV)/bin/$(BENTOML)
SERVE_ALONE = exec $(VENV_SERVE)/bin/$(BENTOML)
BENTOML     = bentoml serve service.app:Denoiser --host 127.0.0.1 --port $(PORT)
export BENTOML_DO_NOT_TRACK = True

define ANNOUNCE
printf '%s\n' "" "When it says that the service is initialized, from another terminal:" "" \
  "  curl -s http://127.0.0.1:$(PORT)/model" \
  "  curl -s -H 'Content-Type: image/png' --data-binary @examples/noisy.png http://127.0.0.1:$(PORT)/encode" \
  "  curl -s -H 'Content-Type: image/png' --data-binary @examples/noisy.png http://127.0.0.1:$(PORT)/denoise -o clean.png" ""
endef

.DEFAULT_GOAL := help
.PHONY: help env env-serve run test test-fast test-serving serve check format bench screenshots \
        lock clean release-bundle

help:  ## this list
	@awk -F ':.*##' '/^[a-z-]+:.*##/ {printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@sed -n 's/^#   /  /p' $(firstword $(MAKEFILE_LIST))

run: env  ## train on real digits, export with enforced parity, serve: all of it
	@$(PY) -m training fit --dataset $(DATASET) --out runs/$(NAME) --resume --overwrite
	@echo "figures: runs/$(NAME)/figures"
	@$(PY) -m export runs/$(NAME) --out bundles/$(NAME)-local --overwrite
	@$(ANNOUNCE)
	@DENOISER_BUNDLE=bundles/$(NAME)-local $(SERVE)

serve: env-serve  ## serve bundles/mnist at once, in an environment without TensorFlow
	@$(ANNOUNCE)
	@DENOISER_BUNDLE=$(BUNDLE) $(SERVE_ALONE)

# Those that measure time come last, when nothing else runs.
test: env env-serve  ## all tests, and their coverage
	@$(PY) -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder \
	  -m "not alone" --cov --cov-report= --cov-fail-under 0
	@$(PY) -m pytest -m alone --cov --cov-append

test-fast: env  ## the tests that need no TensorFlow and no server: for every edit
	@$(PY) -m pytest -q -n auto -p no:schemathesis -m "not system and not tensorflow and not slow"

test-serving: $(VENV_TEST)/.test  ## the service's tests, in an environment for serving alone
	@$(VENV_TEST)/bin/python -m pytest -q -n auto -m "not tensorflow" \
	  tests/service tests/common tests/client

check: env  ## ruff, formatting, mypy, who imports whom: what CI asks for
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy
	@$(VENV)/bin/lint-imports

format: env  ## let ruff mend what it can
	@$(PY) -m ruff check --fix .
	@$(PY) -m ruff format .

bench: env $(VENV)/.bench $(VENV_PEERS)/.ready  ## the README's tables, peers in the same run
	@$(PY) -m benchmarks $(if $(RUN),--run $(RUN)) $(if $(filter-out digits,$(DATASET)),--dataset $(DATASET))
	@$(PY) -m benchmarks engine scaling --image-shape 64x64x3
	@$(PY) -m benchmarks.readme

screenshots: env env-serve  ## docs/playground-*.png, from the real service; needs chromium
	@$(PY) -m tests.support.screenshots

env: $(VENV)/.ready  ## .venv, with everything

env-serve: $(VENV_SERVE)/.ready  ## .venv-serve, for serving alone

$(VENV)/.ready: requirements/dev.txt
	@PYTHON="$(PYTHON)" sh requirements/install.sh $(VENV) $<

$(VENV_SERVE)/.ready: requirements/serve.txt
	@PYTHON="$(PYTHON)" sh requirements/install.sh $(VENV_SERVE) $<

$(VENV_TEST)/.ready: requirements/serve.txt
	@PYTHON="$(PYTHON)" sh requirements/install.sh $(VENV_TEST) $<

$(VENV_TEST)/.test: requirements/test.txt $(VENV_TEST)/.ready
	@$(VENV_TEST)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps \
	  --only-binary :all: --requirement $<
	@touch $@

$(VENV_PEERS)/.ready: requirements/peers.txt
	@PYTHON="$(PYTHON)" sh requirements/install.sh $(VENV_PEERS) $<

$(VENV)/.bench: requirements/bench.txt $(VENV)/.ready
	@$(PY) -m pip install --quiet --require-hashes --no-deps --only-binary :all: --requirement $<
	@touch $@

lock: env  ## resolve pyproject.toml into hashed pins under requirements/
	@$(LOCK) pyproject.toml --extra serve --extra train --extra evaluate --extra bulk --extra ray \
	  --extra drift --extra examples --extra dev -o requirements/dev.txt $(LOCK_FLAGS)
	@$(LOCK) pyproject.toml --extra serve --extra train -c requirements/dev.txt -o requirements/train.txt
	@$(LOCK) pyproject.toml --extra serve -c requirements/dev.txt -o requirements/serve.txt
	@$(LOCK) requirements/bench.in -c requirements/dev.txt -o requirements/bench.txt
	@$(LOCK) requirements/spark.in -c requirements/dev.txt -o requirements/spark.txt
	@$(LOCK) requirements/peers.in -o requirements/peers.txt

clean:  ## remove environments, caches, runs and local bundles; keep what git tracks
	@rm -rf $(VENV) $(VENV_SERVE) $(VENV_TEST) $(VENV_PEERS) runs
	@rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage build dist *.egg-info
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
	@find bundles -mindepth 1 -maxdepth 1 ! -name mnist ! -name classic -exec rm -rf {} +

release-bundle: env  ## remake bundles/mnist, bundles/classic and their reports from DATASET=path/to/mnist.npz
	@case "$(DATASET)" in digits) echo "make release-bundle DATASET=path/to/mnist.npz" >&2; exit 2;; esac
	@$(PY) -m training fit --dataset $(DATASET) --preset standard --out runs/standard --resume --overwrite
	@$(PY) -m export runs/standard --out bundles/mnist --overwrite
	@$(PY) -m training fit --dataset $(DATASET) --preset classic --out runs/classic --resume --overwrite
	@$(PY) -m export runs/classic --out bundles/classic --overwrite
	@$(PY) -m training compare runs/classic runs/standard --dataset $(DATASET) --html docs/report.html
	@cp runs/standard/figures/denoising.png runs/standard/figures/latent_scatter.png docs/
