# For GNU make. All commands run in .venv. The first target that needs it creates it from
# requirements.lock. Nothing is installed into the system's Python.

# The notebooks of `make run`, for example NOTEBOOKS="S7 S9". Empty: all four. The variables PROFILE,
# DATASET, SEED, RESUME and REUSE choose how they run. make passes them to the commands, from its
# own command line (`make run PROFILE=quick`) or from the environment.
NOTEBOOKS =

# One process per core, at most four. Each process uses one thread (see tests/conftest.py), because
# several threads per process would wait for one another.
IN_PARALLEL = --numprocesses auto --maxprocesses 4

# How the notebooks are tested. --nbval-current-env starts the kernel of .venv, whatever kernels the
# machine has or the notebooks name. --nbval-lax compares the outputs of marked cells only, because
# the stored outputs come from a full run on CIFAR-10 and these from a short run on the sample of
# CIFAR-10 in the repository. --dist loadfile keeps the cells of a notebook in one process. The slowest
# notebooks come first.
TEST_NOTEBOOKS = PROFILE=smoke DATASET=sample RESUME=0 REUSE=0 OMP_NUM_THREADS=1 \
	.venv/bin/python -m pytest --nbval-lax --nbval-current-env --nbval-cell-timeout=300 \
	$(IN_PARALLEL) --dist loadfile --no-loadscope-reorder -p no:cacheprovider \
	notebooks/solutions/*.ipynb notebooks/*.ipynb

# Colab's Python version for `make rehearse-colab`. tools/colab/ has a package list for each version.
COLAB = 3.12

# uv keeps the versions in the existing lock file if pyproject.toml allows them. To get the newest
# versions, delete the file first. --custom-compile-command keeps local paths out of the lock files.
LOCK = uv pip compile pyproject.toml --universal --python-version 3.11 \
	--fork-strategy fewest --generate-hashes --custom-compile-command "make lock" --quiet

# The number of processes that `make drill` kills. Each takes about ten seconds on two cores.
KILLS = 100

# The time limit of `make gpu`. The next call continues from there.
MINUTES = 25

.DEFAULT_GOAL = help
.DELETE_ON_ERROR:
.PHONY: help setup run lab test check drill test-lowest rehearse-colab verify report bench gpu badges \
	lint format lock clean

help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1|\2/p' Makefile | \
		while IFS='|' read -r target text; do printf 'make %-14s %s\n' "$$target" "$$text"; done

setup: .venv/.installed ## Set up .venv only

run: .venv/.installed ## Execute the notebooks (NOTEBOOKS="S7 S9", PROFILE=full|quick|smoke)
	.venv/bin/python -m helpers run $(NOTEBOOKS)

lab: .venv/.lab-installed ## Open the notebooks in JupyterLab
	.venv/bin/python -m jupyterlab --notebook-dir=. notebooks/S7.ipynb

# MPLBACKEND=Agg is only for the unit tests. In a notebook it would hide the figures.
test: lint ## Lint, run the unit tests, and run the notebooks on a few small images
	@echo 'This takes about 13 minutes on two slow cores. make check is quicker.'
	MPLBACKEND=Agg .venv/bin/python -m pytest $(IN_PARALLEL) --dist worksteal tests
	rm -rf checkpoints/smoke-*  # some gigabytes from the previous notebook tests
	$(TEST_NOTEBOOKS)

check: lint ## Lint, and run the quick unit tests only
	MPLBACKEND=Agg .venv/bin/python -m pytest -m 'not slow' -q $(IN_PARALLEL) --dist worksteal tests

drill: .venv/.installed ## Kill commands at KILLS=100 random moments and check the files
	KILLS=$(KILLS) .venv/bin/python -m pytest $(IN_PARALLEL) tests/chaos/kill_commands.py

test-lowest: .venv-lowest/.installed ## Run the unit tests with the oldest dependencies allowed
	MPLBACKEND=Agg .venv-lowest/bin/python -m pytest -W ignore::DeprecationWarning $(IN_PARALLEL) tests

rehearse-colab: .venv-colab-$(COLAB)/.installed ## Run the notebooks (NOTEBOOKS="S7 S9") with Colab's packages
	.venv-colab-$(COLAB)/bin/python tools/colab/rehearse.py $(NOTEBOOKS)

verify: .venv/.installed ## Evaluate the saved networks again and compare with their metrics
	.venv/bin/python -m helpers verify

report: .venv/.installed ## Write the tables in README.md, docs/ and notebooks/, and the reports in results/
	.venv/bin/python -m helpers report
	.venv/bin/python -c 'from tools.benchmarks import report; report.write()'

bench: .venv/.installed ## Measure the training speed (the machine must be idle)
	.venv/bin/python -m tools.benchmarks

gpu: .venv/.installed ## Run the tests, benchmark and trainings of a GPU for MINUTES=25
	.venv/bin/python -m tools.benchmarks.gpu --minutes $(MINUTES)

# In notebooks, links and pictures become absolute, because Colab resolves no relative ones. The
# workflow `address` calls this when a copy is published.
BLOB = https://github.com/$(REPO)/blob/main
badges: ## Write the address of your repository everywhere (REPO=owner/name)
	@echo '$(REPO)' | grep -qE '^[A-Za-z0-9._-]+/[A-Za-z0-9._-]+$$' || \
		{ echo "make badges: REPO='$(REPO)' is not of the form owner/name" >&2; exit 1; }
	@old=$$(sed -n 's#^Repository = "https://github.com/\(.*\)"#\1#p' pyproject.toml); \
	perl -pi -e "s#(https://github\.com/|research\.google\.com/github/)\Q$$old\E#\$${1}$(REPO)#g" \
		pyproject.toml README.md notebooks/*.ipynb notebooks/solutions/*.ipynb
	@perl -pi -e 's#\]\(\.\./\.\./#]($(BLOB)/#g; s#\]\(\.\./#]($(BLOB)/notebooks/#g;' \
		notebooks/solutions/*.ipynb
	@perl -pi -e 's#\]\(\.\./#]($(BLOB)/#g; s#\]\(((solutions/)?\w+\.ipynb)#]($(BLOB)/notebooks/$$1#g; \
		s#(!\[[^]]*\]\(https://github\.com/$(REPO))/blob/#$$1/raw/#g;' notebooks/*.ipynb

lint: .venv/.installed ## Check style and formatting, also of the notebooks
	.venv/bin/python -m ruff check
	.venv/bin/python -m ruff format --check

format: .venv/.installed ## Format, and fix what ruff can fix
	.venv/bin/python -m ruff check --fix-only
	.venv/bin/python -m ruff format

lock: ## Write the lock files from pyproject.toml
	@command -v uv >/dev/null || { echo 'make lock: needs uv, https://docs.astral.sh/uv' >&2; exit 1; }
	$(LOCK) --group test --output-file requirements.lock
	$(LOCK) --group lab --constraints requirements.lock --output-file requirements-lab.lock
	$(LOCK) --group test --resolution lowest-direct --output-file requirements-lowest.lock

clean: ## Remove virtual environments and caches; keep data, checkpoints, results
	rm -rf .venv .venv-lowest .venv-colab-* .pytest_cache .ruff_cache .hypothesis
	find . \( -name __pycache__ -o -name .ipynb_checkpoints \) -prune -exec rm -rf {} +

.venv/.lab-installed: requirements-lab.lock .venv/.installed
	@echo 'Installing JupyterLab into .venv'
	.venv/bin/python -m pip install --require-hashes --disable-pip-version-check --no-input --quiet -r $<
	@: >$@

.venv/.installed: requirements.lock
.venv-lowest/.installed: requirements-lowest.lock
.venv-colab-$(COLAB)/.installed: tools/colab/python$(COLAB).txt

# Colab's package lists have no hashes. Any Python from 3.11 on can install their versions.
PYTHONS = python3.13 python3.12 python3.11 python3 python
HASHES = --require-hashes
.venv-colab-$(COLAB)/.installed: PYTHONS := python$(COLAB) $(PYTHONS)
.venv-colab-$(COLAB)/.installed: HASHES =

# Creates the virtual environment that contains the target. --clear removes packages of an older lock
# file. PYTHON can name an interpreter. Each candidate is executed first, because it can be a version
# manager's stub or a Python without venv. The output shows pip's large downloads, its errors, and
# every ten seconds the size of the folder. The target is written only after pip has succeeded, so an
# interrupted set-up starts again. Byte code is compiled last, on all cores.
.venv/.installed .venv-lowest/.installed .venv-colab-$(COLAB)/.installed:
	@for python in $(or $(PYTHON),$(PYTHONS)); do \
		"$$python" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' \
			2>/dev/null && break; \
		python=; \
	done; \
	test -n "$$python" || { \
		echo 'No Python of version 3.11 or newer with its venv module was found; try PYTHON=path' >&2; \
		exit 1; \
	}; \
	echo "Setting up $(@D) with $$("$$python" --version): some gigabytes, a few minutes"; \
	if [ -L $(@D) ]; then rm $(@D); fi; \
	"$$python" -m venv --clear $(@D)
	@while sleep 10 >/dev/null 2>&1 && kill -0 $$$$ 2>/dev/null; do \
		echo "  $$(du -sh $(@D) | cut -f1) in $(@D) so far"; \
	done & \
	trap "kill $$!" EXIT; \
	{ $(@D)/bin/python -m pip install $(HASHES) --disable-pip-version-check \
		--no-input --no-compile --progress-bar off -r $< && : >$@; } | \
	while IFS= read -r line; do \
		case $$line in \
			*' '[MG]B\)) echo "$$line" ;; \
			'Building wheel'*|'Installing collected'*) echo "  $${line%%:*}" ;; \
		esac; \
	done; \
	test -e $@ && echo '  Compiling' && { $(@D)/bin/python -W ignore -m compileall -qq -j 0 $(@D)/lib || true; }
