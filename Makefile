# `make demo` and `make test` set everything up on a fresh machine and then run; a second call installs nothing.
SHELL := /bin/bash -o pipefail
PYTHON ?= python3
PY := .venv/bin/python
JOBS ?= 2
export TOKENIZERS_PARALLELISM := false

.PHONY: demo docs test test-long check-gpu lint bench bench-peers clean

demo: .venv/ready
	@echo "demo: short runs of three built-in models, then tables and figures (4 to 12 minutes on two cores)"
	@HF_HUB_OFFLINE=1 $(PY) cli.py study studies/demo.yaml --jobs $(JOBS)
	@HF_HUB_OFFLINE=1 $(PY) cli.py report results/demo
	@echo "next steps, for instance:"
	@echo "  $(PY) cli.py explain results/demo                                 # why k* changes with scale"
	@echo "  $(PY) cli.py intrinsic-dim --model mini-t5-790k --task mini-nli   # k* of another model and task"
	@echo "  $(PY) cli.py train --model mini-bert-1m --task sst2 --k 1000 --data FOLDER   # your train.jsonl and validation.jsonl"

PYTEST := HF_HUB_OFFLINE=1 $(PY) -m pytest -n $(JOBS) --dist worksteal --durations 10
test: .venv/ready lint  # in two parts, so that no worker imports and holds everything
	$(PYTEST) -m "not long" tests/analyses tests/figures tests/docs tests/test_*.py
	$(PYTEST) -m "not long" tests/apet tests/landscape tests/studies

test-long: .venv/ready
	$(PYTEST) -m long

# With whatever torch and transformers are there: a machine with a GPU may have no network and no .venv.
GPU_PY := $(shell test -x $(PY) && echo $(PY) || echo $(PYTHON))
check-gpu:
	@$(GPU_PY) -c "import sys, torch; sys.exit(None if torch.cuda.is_available() else 'check-gpu: torch finds no CUDA device on this machine')"
	HF_HUB_OFFLINE=1 $(GPU_PY) -m pytest tests/test_device.py
	HF_HUB_OFFLINE=1 $(GPU_PY) -m pytest -m "not long" -k cuda tests/landscape/curvature/test_operators.py tests/apet/projections/test_projections_table.py tests/apet/gram/test_jacobian.py
	HF_HUB_OFFLINE=1 $(GPU_PY) benchmarks/gram.py --quick --device cuda

# Full runs, one thread; their last lines are kept under benchmarks/results.
BENCHMARKS := kernels readout projections apet_step hvp gram surface estimators thresholds prediction train_resume rehearsal kill_resume store_scale cluster_scale ray_overhead
bench: .venv/ready
	mkdir -p benchmarks/results
	for name in $(BENCHMARKS); do $(PY) benchmarks/$$name.py | tee /dev/stderr | tail -n 1 > benchmarks/results/$$name.json; done

# Peers bring dependencies that must not meet ours: they get an environment of their own. A torchvision that comes with one of
# them is another build than the CPU's torch, and breaks transformers.
bench-peers: .venv-peers/ready .venv-peers-surface/ready
	mkdir -p benchmarks/results
	.venv-peers/bin/python benchmarks/peers_curvature.py | tee /dev/stderr | tail -n 1 > benchmarks/results/peers_curvature.json
	.venv-peers-surface/bin/python benchmarks/peers_surface.py | tee /dev/stderr | tail -n 1 > benchmarks/results/peers_surface.json

.venv-peers/ready: setup.cfg constraints.txt
	test -x .venv-peers/bin/python || $(PYTHON) -m venv .venv-peers
	.venv-peers/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e . curvlinops-for-pytorch pyhessian hessian-eigenthings
	.venv-peers/bin/python -m pip uninstall --quiet --yes torchvision
	touch $@

# Landscaper asks for an older numpy than our pins, so it takes our package without them.
.venv-peers-surface/ready: setup.cfg
	test -x .venv-peers-surface/bin/python || $(PYTHON) -m venv .venv-peers-surface
	.venv-peers-surface/bin/python -m pip install --quiet --disable-pip-version-check -e . loss-landscapes landscaper
	.venv-peers-surface/bin/python -m pip uninstall --quiet --yes torchvision
	touch $@

# The documentation, in build/docs; it opens without a network. A test checks that the pages made from the code are up to date.
docs: .venv/ready
	$(PY) docs/generate.py
	NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --quiet
	@echo "open build/docs/index.html"

lint: .venv/ready
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/basedpyright
	.venv/bin/codespell
	$(PY) tests/prose.py

# One line that tells which package pip is at, in place of one for each.
PIP_PROGRESS := /^Collecting/ {n += 1; printf "\r  %d packages found: %-40.40s", n, $$2; fflush()} \
    /^Installing/ {printf "\r  installing them, about a minute%40s\n", ""; fflush()}

# The pinned torch comes as a CPU build where pip's index offers one (a local wheel "2.13.0+cpu" wins over "2.13.0").
.venv/ready: setup.cfg pyproject.toml constraints.txt
	@echo "set-up: installing torch, transformers and other packages into .venv (2 to 6 minutes, 2 GB on disk)"
	@test -x $(PY) || $(PYTHON) -m venv .venv
	@$(PY) -m pip install --disable-pip-version-check -c constraints.txt -e '.[test,docs]' | awk '$(PIP_PROGRESS)'
	@touch $@
	@echo "set-up: done"

clean:
	rm -rf .venv .venv-peers .venv-peers-surface results figures/out
