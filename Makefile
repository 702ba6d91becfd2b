# `make demo` and `make test` set everything up on a fresh machine and then run; a second call installs nothing.
PYTHON ?= python3
PY := .venv/bin/python
JOBS ?= 2
export TOKENIZERS_PARALLELISM := false

.PHONY: demo test test-long lint bench clean

demo: .venv/ready
	HF_HUB_OFFLINE=1 $(PY) cli.py study studies/demo.yaml --jobs $(JOBS)
	HF_HUB_OFFLINE=1 $(PY) cli.py report results/demo

test: .venv/ready lint
	HF_HUB_OFFLINE=1 $(PY) -m pytest -m "not long"

test-long: .venv/ready
	HF_HUB_OFFLINE=1 $(PY) -m pytest

# Full runs, one thread; their last lines are kept under benchmarks/results.
BENCHMARKS := kernels apet_step train_resume rehearsal kill_resume store_scale
bench: .venv/ready
	mkdir -p benchmarks/results
	for name in $(BENCHMARKS); do $(PY) benchmarks/$$name.py | tee /dev/stderr | tail -n 1 > benchmarks/results/$$name.json; done

lint: .venv/ready
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/basedpyright

# The pinned torch comes as a CPU build where pip's index offers one (a local wheel "2.13.0+cpu" wins over "2.13.0").
.venv/ready: setup.cfg pyproject.toml constraints.txt
	test -x $(PY) || $(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	touch $@

clean:
	rm -rf .venv results figures/out
