# make demo: a whole federation on this machine, from nothing.   make test: every test.
# Both install what is missing first (scripts/setup.sh), then build into build/release.
# Options of the build: make test CMAKE_ARGS="-DFEDUMM_WITH_CUDA=OFF"
BUILD ?= build/release
CMAKE_ARGS ?=
JOBS ?= $(shell nproc)
DEPS := $(shell scripts/setup.sh --print-dir)

PROGRAMS := fedumm fedumm-superlink fedumm-supernode example_to_jpeg
CONFIGURE = test -e $(BUILD)/build.ninja -a -z "$(CMAKE_ARGS)" || cmake --preset release -B $(BUILD) -DFEDUMM_TORCH_DIR=$(DEPS)/torch $(CMAKE_ARGS)

.PHONY: demo test build programs setup clean help

help:
	@sed -n '1,3s/^# //p' Makefile

setup:
	@scripts/setup.sh

build: setup
	@$(CONFIGURE)
	@cmake --build $(BUILD) -j $(JOBS)

# Without the tests, and without Flower, which only they need.
programs:
	@scripts/setup.sh --demo
	@$(CONFIGURE)
	@cmake --build $(BUILD) -j $(JOBS) --target $(PROGRAMS)

demo: programs
	@scripts/demo.sh $(BUILD) $(DEPS)

test: build
	@ctest --test-dir $(BUILD) --output-on-failure -j $(JOBS)

clean:
	rm -rf build
