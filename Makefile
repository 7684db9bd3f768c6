# banger: the commands a person needs. `make demo` shows it, `make test` proves it.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := build

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
COMMIT  ?= $(shell git rev-parse --short=12 HEAD 2>/dev/null || echo unknown)
TIME    ?= $(shell git log -1 --format=%cd --date=format-local:%Y-%m-%dT%H:%M:%SZ 2>/dev/null || echo unknown)
MODULE  := github.com/banger-dev/banger
STAMP   := -X $(MODULE).buildVersion=$(VERSION) -X $(MODULE).buildCommit=$(COMMIT) -X $(MODULE).buildTime=$(TIME)
BINARIES := banger bangerd banger-vm banger-agent
PREFIX  ?= $(HOME)/.local
TESTTIMEOUT ?= 25m

export TZ := UTC
# Or each program of a test with the race detector sleeps a second at its end.
export GORACE := atexit_sleep_ms=0

.PHONY: build install demo test check unit vm soak bench generate deps test-deps bench-deps clean

## build: the four binaries, static, with one build stamp, in bin/
build:
	CGO_ENABLED=0 go build -trimpath -ldflags '-s -w $(STAMP)' -o bin/ $(addprefix ./cmd/,$(BINARIES))

## install: build, and put the binaries in ~/.local/bin
install: build
	install -d $(PREFIX)/bin
	install -m 0755 $(addprefix bin/,$(BINARIES)) $(PREFIX)/bin
	@case ":$$PATH:" in *":$(PREFIX)/bin:"*) ;; *) echo "note: $(PREFIX)/bin is not in PATH" ;; esac

## demo: on a fresh machine, install what is missing, build, run a VM
demo: deps build
	bin/banger vm run --rm -- uname -a

## test: everything that must hold: linters, unit tests, scripts, real VMs
test: test-deps check unit vm

## check: formatting, vet, staticcheck, known vulnerabilities
check:
	@unformatted=$$(gofmt -l $$(git ls-files '*.go')); if [ -n "$$unformatted" ]; then echo "gofmt would change:"; echo "$$unformatted"; exit 1; fi
	go vet ./...
	go vet -tags faultinject ./...
	go tool staticcheck ./...
	scripts/govulncheck

## unit: every test that boots no VM, with the race detector
unit:
	go test -race -timeout $(TESTTIMEOUT) $$(go list ./... | grep -v /test/vm)

## vm: the tests that boot real VMs
vm: build
	go test -race -count=1 -parallel 3 -timeout $(TESTTIMEOUT) ./test/vm/...

## soak: what takes long: 100 boots, 1,000 runs, 100 VMs at once, minutes of
## fuzzing
soak: test-deps build
	scripts/soak

## bench: what has a limit, as medians and ratios to yardsticks in the same
## run, with a table and a chart, into docs/bench. IMAGE=1 builds images too,
## SCALE=1 starts up to 100 VMs; each takes minutes. ONLY=fork,run: those alone
bench: bench-deps build
	go run ./test/bench -out docs/bench $(if $(N),-n $(N)) $(if $(ONLY),-only $(ONLY)) $(if $(IMAGE),-image) $(if $(SCALE),-scale)

## generate: regenerate the code of the contracts
generate:
	go tool protogen

deps:
	scripts/deps run

test-deps:
	scripts/deps test

bench-deps:
	scripts/deps bench

clean:
	rm -rf bin
