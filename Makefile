# `make` alone lists what there is to make.

.DEFAULT_GOAL := help
.PHONY: help run build test test-rabbitmq4 lint bench soak clean need-go devnode

SHELL := /bin/sh
# Where Go's own archive puts it, for a PATH that does not say so.
export PATH := $(PATH):/usr/local/go/bin
# The tree may be no git checkout, or somebody else's, of which git will not speak.
export GOFLAGS += -buildvcs=false

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
CONFIG ?= lsmtpd.yaml
PKG ?= ./...
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
# Runs its command with a RabbitMQ of its own; -c: with the configuration's.
WITH_RABBITMQ := bin/devnode

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "make %-14s %s\n", $$1, $$2 }' Makefile

run: build devnode ## run lsmtpd.yaml (CONFIG=...), with a RabbitMQ if none answers; Ctrl-C ends it
	@$(WITH_RABBITMQ) -c $(CONFIG) -- bin/lsmtpd run -c $(CONFIG)

build: need-go ## build bin/lsmtpd
	CGO_ENABLED=0 go build -trimpath -ldflags '-X main.version=$(VERSION)' -o bin/lsmtpd ./gateway/cmd/lsmtpd

test: need-go devnode ## vet and test everything, under the race detector where there is a C compiler (PKG=./gateway/...)
	go vet $(PKG)
	@race=-race; \
	if ! $(CAN_RACE); then race=; echo "no C compiler with its headers here: testing without -race (on Debian: apt-get install gcc libc6-dev)"; fi; \
	echo "go test $$race -timeout 9m $(PKG)"; \
	$(WITH_RABBITMQ) -- go test $$race -timeout 9m $(PKG)

test-rabbitmq4: PKG = ./gateway/internal/rabbit ./gateway/publish ./gateway/e2e
test-rabbitmq4: ## test what speaks to the broker against RabbitMQ 4.0, fetched once (needs root, Debian)
	@server=$$(gateway/internal/rabbit/rabbitmq4.sh) && \
	env -u LSMTPD_TEST_AMQP_URL LSMTPD_TEST_RABBITMQ="$$server" $(MAKE) --no-print-directory test PKG='$(PKG)'

# What the race detector needs: cgo, its compiler, and the headers of libc.
CAN_RACE = { test "$$(go env CGO_ENABLED)" = 1 && echo '\#include <stdlib.h>' | $$(go env CC) -E - >/dev/null 2>&1; }

lint: need-go ## vet, staticcheck and gofmt
	go vet $(PKG)
	go run $(STATICCHECK) $(PKG)
	@bad=$$(gofmt -l gateway routes) && if [ -n "$$bad" ]; then echo "gofmt -w:"; echo "$$bad"; exit 1; fi

bench: need-go devnode ## run the benchmarks (BENCH=pattern)
	$(WITH_RABBITMQ) -- go test -run '^$$' -bench '$(or $(BENCH),.)' -benchmem -timeout 60m $(PKG)

soak: need-go devnode ## run the tests that take long, those named TestSoak
	LSMTPD_SOAK=1 $(WITH_RABBITMQ) -- go test -run '^TestSoak' -count 1 -v -timeout 6h $(PKG)

clean: ## remove what was built (mail and queues stay in .run/)
	rm -rf bin

devnode: need-go
	@go build -o bin/devnode ./gateway/internal/devnode

need-go:
	@test -n "$$(go env GOTOOLCHAIN 2>/dev/null)" || { echo "Go 1.21 or later is needed (it fetches the version that go.mod names): https://go.dev/doc/install"; exit 1; }
