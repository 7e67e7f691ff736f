# make demo: a whole federation on this machine, from nothing.   make test: every test.
# Both install what is missing first (scripts/setup.sh), then build into build/release.
# Options of the build: make test CMAKE_ARGS="-DFEDUMM_WITH_CUDA=OFF"
BUILD ?= build/release
CMAKE_ARGS ?=
JOBS ?= $(shell nproc)
DEPS := $(shell scripts/setup.sh --print-dir)

.PHONY: demo test build setup clean help

help:
	@sed -n '1,3s/^# //p' Makefile

setup:
	@scripts/setup.sh

build: setup
	@test -e $(BUILD)/build.ninja -a -z "$(CMAKE_ARGS)" || cmake --preset release -B $(BUILD) -DFEDUMM_TORCH_DIR=$(DEPS)/torch $(CMAKE_ARGS)
	@cmake --build $(BUILD) -j $(JOBS)

demo: build
	@scripts/demo.sh $(BUILD) $(DEPS)

test: build
	@ctest --test-dir $(BUILD) --output-on-failure -j $(JOBS)

clean:
	rm -rf build
