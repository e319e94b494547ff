# Each target is one line and calls what a person would type; `make help` explains them.
PROFILE ?= mini
# requirements/install.py looks further where this one's version does not serve.
PYTHON ?= $(firstword $(foreach name,python3 python3.13 python3.12 python3.11,$(shell command -v $(name))) python3)
ARGS ?=
RUN = .venv/bin/python
# The embedded models are too small to keep several cores busy: two cells at a time, each on its share of the cores.
# At paper scale one cell a GPU; each takes GPUs that are free.
comma := ,
VISIBLE = $(subst $(comma), ,$(CUDA_VISIBLE_DEVICES))
GPUS ?= $(if $(VISIBLE),$(words $(VISIBLE)),$(shell nvidia-smi -L 2>/dev/null | grep -c ^GPU))
LAUNCHER_paper = $(if $(filter-out 0 1,$(GPUS)),hydra/launcher=joblib hydra.launcher.n_jobs=$(GPUS))
LAUNCHER_mini = hydra/launcher=joblib hydra.launcher.n_jobs=2

.PHONY: help setup test smoke reproduce plan status report claims ablation chaos test-cluster bench bench-gpu gpu-check lint clean-env

help:      ## this list
	@grep -hE '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 14

setup:     ## create .venv from the full lock (other targets call it)
	@$(PYTHON) requirements/install.py

test: setup lint ## lint, then every test, offline, on all cores
	$(RUN) -m pytest -n auto --dist loadgroup --no-loadscope-reorder $(ARGS)

smoke: setup ## every stage on a tiny random model (2 minutes)
	$(RUN) -m experiments.run -m profile=smoke $(ARGS)

reproduce: setup ## run and print the table; PROFILE=mini (default) or PROFILE=paper; continues where it stopped
	$(RUN) -m experiments.run -m profile=$(PROFILE) $(LAUNCHER_$(PROFILE)) $(ARGS)

plan: setup ## what reproduce would do: cells, cached and shared stages, rough cost
	@$(RUN) -m experiments.plan profile=$(PROFILE) $(ARGS)

status: setup ## how far it is
	@$(RUN) -m experiments.status profile=$(PROFILE) $(ARGS)

report: setup ## print the table and write Markdown, CSV and HTML
	@$(RUN) -m experiments.report profile=$(PROFILE) $(ARGS)

claims: setup ## every published claim with a verdict, from the cells that are finished
	@$(RUN) -m experiments.claims profile=$(PROFILE) $(ARGS)

ablation: setup ## dispersion only, anisotropy only and both, through fine-tuning and evaluation
	$(RUN) -m experiments.run -m profile=$(PROFILE) experiment=terms $(LAUNCHER_$(PROFILE)) $(ARGS)

chaos: setup ## kill, starve and damage a small study, 400 times; ARGS="--damages 30 --kills 10" for fewer (about an hour)
	$(RUN) tests/chaos.py $(ARGS)

test-cluster: setup ## a real Slurm of one node on this machine, jobs killed in the middle of a stage (ten minutes)
	$(RUN) -m pytest tests/cluster $(ARGS)

bench: setup ## speed and memory against the plain way, in one run
	$(RUN) -m bench $(ARGS)

bench-gpu: ## scoring and sampling on a GPU at LLaMA-3-8B's shape, random weights; needs only torch and transformers
	$(if $(wildcard $(RUN)),$(RUN),$(PYTHON)) -m bench.gpu $(ARGS)

gpu-check: setup ## does all that a study needs of a GPU work here? 8 minutes on one; ARGS=--tiny tries it on a CPU
	$(RUN) -m bench.gpu_check $(ARGS)

lint: setup ## ruff and mypy
	$(RUN) -m ruff check . && $(RUN) -m ruff format --check . && $(RUN) -m mypy

clean-env: ## remove .venv
	rm -rf .venv
