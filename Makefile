# GNU make. Everything runs in .venv, which the first target that needs it sets up from
# requirements.lock; the system's Python gets nothing but that folder.

# What `make run` runs, as in NOTEBOOKS="S7 S9"; nothing stands for all four. It is told how by
# PROFILE, DATASET, SEED, RESUME and REUSE: make hands on to the commands whatever was given on its
# own command line, as in `make run PROFILE=quick`, or in the environment.
NOTEBOOKS =

# As many processes as cores, four at most. Each has one thread, as several threads a process would
# wait for one another (see tests/conftest.py).
IN_PARALLEL = --numprocesses auto --maxprocesses 4

# The one place that says how notebooks are tested. nbval's --nbval-current-env starts .venv's own
# kernel, whatever kernels are registered on the machine and named in the notebooks. A lax run
# compares the output of marked cells only: the stored outputs come from a long run, these from a
# short one on images that need no download. A notebook's cells stay in one process; the notebooks
# that take longest come first.
TEST_NOTEBOOKS = PROFILE=smoke DATASET=digits RESUME=0 REUSE=0 OMP_NUM_THREADS=1 \
	.venv/bin/python -m pytest --nbval-lax --nbval-current-env --nbval-cell-timeout=300 \
	$(IN_PARALLEL) --dist loadfile --no-loadscope-reorder -p no:cacheprovider \
	notebooks/solutions/*.ipynb notebooks/*.ipynb

# Which of Colab's Pythons, each with its own list of packages in colab/, `make rehearse-colab` takes.
COLAB = 3.12

# Keeps the pins of the lock that it writes, unless pyproject.toml rules them out; delete the file
# first to get the newest of everything. The comment on top must not tell where uv ran.
LOCK = uv pip compile pyproject.toml --group test --universal --python-version 3.11 \
	--fork-strategy fewest --generate-hashes --custom-compile-command "make lock" --quiet

# How often `make drill` kills: some ten seconds each, on two cores.
KILLS = 100

# How long `make gpu` may take; called again, it goes on.
MINUTES = 25

.DEFAULT_GOAL = help
.DELETE_ON_ERROR:
.PHONY: help setup run test check drill test-lowest rehearse-colab verify report bench gpu badges \
	lint format lock clean

help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1|\2/p' Makefile | \
		while IFS='|' read -r target text; do printf 'make %-14s %s\n' "$$target" "$$text"; done

setup: .venv/.installed ## Set up .venv only

run: .venv/.installed ## Execute the notebooks (NOTEBOOKS="S7 S9", PROFILE=full|quick|smoke)
	.venv/bin/python -m helpers run $(NOTEBOOKS)

# Agg is for the tests alone: in a notebook it would suppress the figures.
test: lint ## Lint, run the unit tests, and run the notebooks on a few small images
	@echo 'Thirteen minutes on two slow cores, a good third of it notebooks. Quicker: make check'
	MPLBACKEND=Agg .venv/bin/python -m pytest $(IN_PARALLEL) --dist worksteal tests
	rm -rf checkpoints/smoke-*  # of the notebooks' last test, some gigabytes
	$(TEST_NOTEBOOKS)

check: lint ## Lint, and run the quick unit tests, for work in between
	MPLBACKEND=Agg .venv/bin/python -m pytest -m 'not slow' -q $(IN_PARALLEL) --dist worksteal tests

drill: .venv/.installed ## Kill commands at KILLS=100 random moments, and look at what is left
	KILLS=$(KILLS) .venv/bin/python -m pytest $(IN_PARALLEL) tests/drills/kills.py

test-lowest: .venv-lowest/.installed ## Run the unit tests with the oldest dependencies allowed
	MPLBACKEND=Agg .venv-lowest/bin/python -m pytest -W ignore::DeprecationWarning $(IN_PARALLEL) tests

rehearse-colab: .venv-colab-$(COLAB)/.installed ## Run the notebooks (NOTEBOOKS="S7 S9") as Colab does
	.venv-colab-$(COLAB)/bin/python colab/rehearse.py $(NOTEBOOKS)

verify: .venv/.installed ## Evaluate the kept networks again and compare with their metrics
	.venv/bin/python -m helpers verify

report: .venv/.installed ## Write README's tables, and the reports and pages in results/
	.venv/bin/python -m helpers report
	.venv/bin/python -c 'from benchmarks import report; report.write()'

bench: .venv/.installed ## Measure the speed against the hand-ins' way (leave the machine alone)
	.venv/bin/python -m benchmarks

gpu: .venv/.installed ## Show what only a GPU can, in order of weight, within MINUTES=25
	.venv/bin/python -m benchmarks.gpu --minutes $(MINUTES)

badges: ## Write your repository's address everywhere (REPO=owner/name)
	@echo '$(REPO)' | grep -qE '^[A-Za-z0-9._-]+/[A-Za-z0-9._-]+$$' || \
		{ echo "make badges: REPO='$(REPO)' is not of the form owner/name" >&2; exit 1; }
	@old=$$(sed -n 's#^Repository = "https://github.com/\(.*\)"#\1#p' pyproject.toml); \
	perl -pi -e "s#(https://github\.com/|research\.google\.com/github/)\Q$$old\E#\$${1}$(REPO)#g" \
		pyproject.toml README.md notebooks/*.ipynb notebooks/solutions/*.ipynb

lint: .venv/.installed ## Check style and formatting, of the notebooks too
	.venv/bin/python -m ruff check
	.venv/bin/python -m ruff format --check

format: .venv/.installed ## Format, and repair what can be repaired
	.venv/bin/python -m ruff check --fix-only
	.venv/bin/python -m ruff format

lock: ## Pin all dependencies again from pyproject.toml
	@command -v uv >/dev/null || { echo 'make lock: needs uv, https://docs.astral.sh/uv' >&2; exit 1; }
	$(LOCK) --output-file requirements.lock
	$(LOCK) --resolution lowest-direct --output-file requirements-lowest.lock

clean: ## Remove the virtual environments and caches; data, checkpoints and results stay
	rm -rf .venv .venv-lowest .venv-colab-* .pytest_cache .ruff_cache .hypothesis
	find . \( -name __pycache__ -o -name .ipynb_checkpoints \) -prune -exec rm -rf {} +

.venv/.installed: requirements.lock
.venv-lowest/.installed: requirements-lowest.lock
.venv-colab-$(COLAB)/.installed: colab/python$(COLAB).txt

# Colab's list has no hashes; its versions can be had for later Pythons and for earlier ones too.
PYTHONS = python3.13 python3.12 python3.11 python3 python
HASHES = --require-hashes
.venv-colab-$(COLAB)/.installed: PYTHONS := python$(COLAB) $(PYTHONS)
.venv-colab-$(COLAB)/.installed: HASHES =

# Sets up the folder that holds the target, from nothing, so that nothing of an older lock is left.
# PYTHON may name an interpreter. Names are tried by running them, as one that is found may be a
# version manager's stub without anything behind it, or a system's Python without venv.
# Of what pip says, only downloads that one has to wait for are shown, and its errors; where it works
# in silence, the size that the folder has reached, for as long as this shell lives. The target
# appears last, and only when pip has succeeded: a set-up that was cut short starts anew. Byte code is
# compiled afterwards, on all cores.
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
