# The two commands that matter: `make quickstart` and `make test`. Each sets up everything that it needs.

PYTHON ?=
VENV := .venv
STAMP := $(VENV)/.installed
GL_PACKAGES := libegl1 libgl1-mesa-dri

# An empty environment has no PATH, and then Python does not find itself.
export PATH := $(or $(PATH),/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin)

.DEFAULT_GOAL := help
.PHONY: help install gl quickstart test test-fast test-cluster lint docs clean

# Two processes; more skipped tests than pyproject.toml allows are a failure (tests/support/skip_limit.py).
PYTEST := WORLDGYMNAST_COUNT_SKIPS=1 OMP_NUM_THREADS=1 MUJOCO_GL=egl $(VENV)/bin/python -m pytest -n 2 --dist loadgroup -m "not gpu and not cluster"

define GL_CHECK
import mujoco
model = mujoco.MjModel.from_xml_string("<mujoco><worldbody><light pos='0 0 3'/><geom size='1'/></worldbody></mujoco>")
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
with mujoco.Renderer(model, 32, 32) as renderer:
    renderer.update_scene(data)
    assert renderer.render().any(), "the picture is black"
endef
export GL_CHECK

# $(call need,PROGRAMS): installs everything again if one of them is missing, as in a .venv of another origin.
need = @for program in $(1); do \
	  if [ -x "$(VENV)/bin/$$program" ]; then continue; fi; \
	  echo "$(VENV) has no $$program; installing"; \
	  $(VENV)/bin/python -m pip install --quiet -c constraints.txt -e '.[dev]' && [ -x "$(VENV)/bin/$$program" ] && continue; \
	  echo "$$program could not be installed; run: $(VENV)/bin/python -m pip install -c constraints.txt -e '.[dev]'" >&2; \
	  exit 2; \
	done

help: ## this list
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  make \1 \t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 20

install: $(STAMP) ## everything into .venv, at the pinned versions; redone when pyproject.toml or constraints.txt change

$(STAMP): pyproject.toml constraints.txt
	@python=; for candidate in $(or $(PYTHON),python3.11 python3.12 python3); do \
	  if "$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then python=$$candidate; break; fi; \
	done; \
	if [ -z "$$python" ]; then \
	  echo "found no Python 3.11 or newer (looked for: $(or $(PYTHON),python3.11 python3.12 python3));" \
	    "install one, or name it: make install PYTHON=/path/to/python3.11" >&2; exit 2; \
	fi; \
	echo "setting up $(VENV) with $$("$$python" --version); 2.6 GB, or 7 GB with a CUDA build of torch; a few minutes"; \
	"$$python" -m venv $(VENV)
	$(VENV)/bin/python -m pip install -c constraints.txt -e '.[dev]'
	@touch $@

gl: install ## a software GL to render with: checked, installed where that is possible, else the line to run
	@check() { MUJOCO_GL=egl $(VENV)/bin/python -c "$$GL_CHECK" 2>&1; }; \
	if check >/dev/null; then exit 0; fi; \
	if [ "$$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then \
	  echo "no software GL (EGL) to render with; on Debian or Ubuntu run:" >&2; \
	  echo "  sudo apt-get update && sudo apt-get install -y $(GL_PACKAGES)" >&2; exit 2; \
	fi; \
	echo "no software GL (EGL) to render with; installing $(GL_PACKAGES)"; \
	export DEBIAN_FRONTEND=noninteractive; \
	apt-get update -qq </dev/null && apt-get install -y -qq --no-install-recommends $(GL_PACKAGES) </dev/null || exit 2; \
	if ! reason=$$(check); then echo "EGL still does not work: $$(echo "$$reason" | tail -n 1)" >&2; exit 2; fi

quickstart: install gl ## the main job: RL of the starter policy in the starter world, real evaluation, report
	$(VENV)/bin/worldgymnast quickstart

test: install gl ## every test that needs no GPU and no cluster, two processes
	$(PYTEST)

test-fast: install gl ## unit tests, contracts and the examples in docstrings; about a minute
	$(PYTEST) tests/unit tests/contracts worldgymnast

test-cluster: install ## killed Ray workers, nodes and drivers; three minutes
	OMP_NUM_THREADS=1 MUJOCO_GL=egl $(VENV)/bin/python -m pytest -m cluster tests/slow

lint: install ## ruff, pyright, the import rules
	$(call need,ruff pyright lint-imports)
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/pyright
	$(VENV)/bin/lint-imports --no-cache

docs: install ## the documentation site, into site/; a warning is a failure
	$(call need,mkdocs)
	NO_MKDOCS_2_WARNING=1 PYTHONPATH=. $(VENV)/bin/mkdocs build --strict --quiet
	@echo "open site/index.html; with search: $(VENV)/bin/python -m http.server --bind 127.0.0.1 --directory site"

clean: ## removes .venv and caches; runs and data stay
	rm -rf $(VENV) build dist site *.egg-info .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
