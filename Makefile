# Everything lives in .venv; a second call does not install again.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
UV_SETTINGS := $(if $(PIP_FIND_LINKS),UV_FIND_LINKS="$(PIP_FIND_LINKS)")
# Where Python is told not to keep bytecode, every process would compile torch and transformers anew.
COMPILE := $(if $(PYTHONDONTWRITEBYTECODE),env -u PYTHONDONTWRITEBYTECODE $(BIN)/python -m compileall -q -j 0 $(VENV)/lib >/dev/null 2>&1 || true)
DEBIAN_PACKAGES := radosgw ceph-mon ceph-osd prometheus prometheus-alertmanager chromium docker-compose
DEBIAN_COMMANDS := radosgw ceph-mon ceph-osd prometheus amtool chromium docker-compose
DEMO := demo

.PHONY: demo test check soak bench dashboards docs clean install system mlflow

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(UV_SETTINGS) $(BIN)/uv pip install --quiet --python $(BIN)/python -c constraints.txt -e '.[zoo,test]'
	$(COMPILE)
	touch $(STAMP)

# What the tests need from Debian; without root or Debian those tests are skipped with their reason.
system:
	@if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  for command in $(DEBIAN_COMMANDS); do command -v $$command >/dev/null || missing=1; done; \
	  if [ -n "$$missing" ]; then export DEBIAN_FRONTEND=noninteractive; \
	    apt-get update -qq && apt-get install -qq -y --no-install-recommends $(DEBIAN_PACKAGES) >/dev/null; fi; fi

# MLflow's server wants older libraries than we use, so it has an environment of its own; without it its tests are skipped.
mlflow: $(STAMP)
	@test -x .cache/mlflow-server/bin/mlflow || { $(BIN)/uv venv --quiet --clear --python $(BIN)/python .cache/mlflow-server && \
	  $(UV_SETTINGS) $(BIN)/uv pip install --quiet --python .cache/mlflow-server/bin/python 'mlflow==3.17.2'; } || \
	  echo "MLflow's server could not be installed: its tests are skipped" >&2

# Exit code 3 says that a gate refused something: the demo has recipes that go too far on purpose.
demo: $(STAMP)
	$(BIN)/python examples/zoo/train.py $(DEMO)/zoo
	@$(BIN)/prunefleet run examples/demo/fleet.yaml; code=$$?; \
	  if [ $$code = 3 ]; then echo "gates refused the recipes that go too far on purpose (exit code 3); see the report"; fi; \
	  [ $$code = 0 ] || [ $$code = 3 ]

test: $(STAMP) system mlflow
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

soak: $(STAMP) system
	$(BIN)/pytest -n 2 --dist loadfile --hypothesis-profile deep tests/unit tests/numerics tests/integration/test_headers.py
	$(BIN)/pytest -m soak --timeout 4000

bench: $(STAMP)
	$(BIN)/python -m pytest tests/benchmarks -m benchmark -s --timeout 1800

dashboards: $(STAMP)
	$(BIN)/python dashboards/generate.py

docs: $(STAMP)
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html
	@echo docs/_build/html/index.html

clean:
	rm -rf $(DEMO) .cache build dist docs/_build docs/reference *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
