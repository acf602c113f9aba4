# Needs Go 1.26, make, git and, for the tests, a C compiler (the race detector), age and
# OpenSSH's client (ssh-agent).
# Everything else is pinned in go.mod and tools/go.mod and built on first use.

GO       ?= go
VERSION  ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
FUZZTIME ?= 10s

# grpcnotrace drops golang.org/x/net/trace, and with it html/template, which
# keeps the linker from dropping unused methods: 5 MB of program, 3 MB resident.
# nethttpomithttp2 drops the second HTTP/2 of net/http, which nobody here speaks.
BUILDFLAGS = -tags grpcnotrace,nethttpomithttp2 -trimpath -ldflags "-s -w -X github.com/cameronraysmith/fleet/pkg/buildinfo.version=$(VERSION)"
# The agent idles on every host, for ever: without inlining 1.2 MB less of it are in memory.
AGENTFLAGS = -gcflags=all=-l
PROGRAMS   = fleet-coordinator fleetctl
BIN       ?= bin

# Example plugins, each a module of its own as those of other authors are.
EXAMPLES := $(patsubst %/go.mod,%,$(wildcard docs/examples/*/go.mod))

# Tools are built once for each state of tools/go.sum.
TOOLS_KEY := $(shell cat tools/go.mod tools/go.sum | cksum | cut -d' ' -f1)
TOOLS     := $(CURDIR)/.tools/$(TOOLS_KEY)
GOLANGCI  := $(TOOLS)/golangci-lint
BUF       := $(TOOLS)/buf
# A module of its own, so that it and the linters need not agree on anything.
NFPM      := $(CURDIR)/.tools/nfpm-$(shell cat tools/nfpm/go.mod tools/nfpm/go.sum | cksum | cut -d' ' -f1)/nfpm

# The real sops takes part in tests; nothing of ours links it.
SOPS      := $(CURDIR)/.tools/sops-$(shell cat tools/sops/go.mod tools/sops/go.sum | cksum | cut -d' ' -f1)/sops

# Packages are for this machine's architecture, or for another one of Go's names.
ARCH     ?= $(shell $(GO) env GOARCH)
PACKAGES ?= bin/packages

.DEFAULT_GOAL := help
.PHONY: help build packages demo lab crash power attack test sops lint format generate bench fuzz clean

help: ## Say what the targets do.
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## Build the three programs to bin/, or to the directory BIN.
	CGO_ENABLED=0 $(GO) build $(BUILDFLAGS) -o $(BIN)/ $(addprefix ./cmd/,$(PROGRAMS))
	CGO_ENABLED=0 $(GO) build $(BUILDFLAGS) $(AGENTFLAGS) -o $(BIN)/ ./cmd/fleet-agent

packages: $(NFPM) ## Build deb and rpm packages of the programs to bin/packages; ARCH=arm64 for others.
	CGO_ENABLED=0 GOOS=linux GOARCH=$(ARCH) $(GO) build $(BUILDFLAGS) -o $(PACKAGES)/linux_$(ARCH)/ $(addprefix ./cmd/,$(PROGRAMS))
	CGO_ENABLED=0 GOOS=linux GOARCH=$(ARCH) $(GO) build $(BUILDFLAGS) $(AGENTFLAGS) -o $(PACKAGES)/linux_$(ARCH)/ ./cmd/fleet-agent
	@packaging/nfpm/build.sh $(NFPM) $(VERSION) $(ARCH) $(PACKAGES)

demo: build ## The main job: ten machines, a good release, a broken one that undoes itself.
	CGO_ENABLED=0 $(GO) build $(BUILDFLAGS) -o bin/ ./test/demo ./test/demo/web
	bin/demo -bin bin

lab: build packages ## Scenarios on real booted hosts with a real Nix; Linux, root (docs/testing.md).
	$(GO) build -o bin/ ./test/lab
	bin/lab -bin bin -json bin/lab.json $(LABFLAGS)

crash: ## Kill the programs at every crash point, once and twice in a row (two hours on 2 cores; see docs/testing.md).
	$(GO) run ./test/crash $(CRASHFLAGS)

power: ## Cut the power of a fleet's disk at every crash point; Linux, root (some minutes).
	$(GO) run ./test/crash -power -first $(CRASHFLAGS)

attack: ## Run the tables of hostile peers and write them to docs/measurements.md (two minutes).
	$(GO) run ./test/attack

# Programs of the race detector sleep a second before they end, and the agent's tests run
# thousands of them one after the other.
test: $(SOPS) ## All tests under the race detector; no root needed.
	GORACE=atexit_sleep_ms=0 $(GO) test -race -timeout 30m ./...
	@for dir in $(EXAMPLES); do echo "$(GO) -C $$dir test -race ./..."; $(GO) -C $$dir test -race ./... || exit 1; done

sops: $(SOPS) ## Build the real sops, which tests need, and say where it is.
	@echo $(SOPS)

lint: $(GOLANGCI) $(BUF) ## Linters, formatting, and that go.mod and generated code are as they should be.
	$(GOLANGCI) run ./...
	GOOS=darwin CGO_ENABLED=0 $(GO) vet ./agent/... ./cmd/fleet-agent ./fleetctl/... ./cmd/fleetctl
	$(GO) mod tidy -diff
	@for dir in $(EXAMPLES); do \
	  echo "$(GO) -C $$dir vet ./..."; $(GO) -C $$dir vet ./... && $(GO) -C $$dir mod tidy -diff || exit 1; \
	done
	$(BUF) lint
	@tmp=$$(mktemp -d) && trap 'rm -rf "$$tmp"' EXIT && \
	  $(BUF) generate -o "$$tmp" && \
	  (cd proto && find . -name '*.pb.go' | sort) >"$$tmp/have" && \
	  (cd "$$tmp/proto" && find . -name '*.pb.go' | sort) >"$$tmp/want" && \
	  diff "$$tmp/have" "$$tmp/want" && \
	  while read -r f; do diff -u "proto/$$f" "$$tmp/proto/$$f" || exit 1; done <"$$tmp/want" || \
	  { echo "generated code is not what proto/ says: run 'make generate'" >&2; exit 1; }

format: $(GOLANGCI) ## Format all Go files with gofumpt.
	$(GOLANGCI) fmt

generate: $(BUF) ## Generate the Go code of proto/.
	$(BUF) generate

bench: build ## Measure and write docs/measurements.md (20 minutes; wants an idle machine, and root for a part).
	$(GO) build -o bin/ ./test/lab
	@status=0; \
	$(GO) run ./test/bench || status=1; \
	if [ "$$(id -u)" = 0 ]; then bin/lab -bin bin -bench -write || status=1; \
	else echo "LEFT OUT, because it needs root: from a commit to the switch" >&2; fi; \
	exit $$status

fuzz: ## Run each fuzz target for FUZZTIME (10s); FUZZFLAGS=-write keeps what came of it.
	$(GO) run ./test/fuzz -time $(FUZZTIME) $(FUZZFLAGS)

clean: ## Remove what was built here.
	rm -rf bin .tools

$(GOLANGCI):
	@echo "building golangci-lint, once: takes some minutes"
	@mkdir -p $(TOOLS)
	$(GO) -C tools build -o $@ github.com/golangci/golangci-lint/v2/cmd/golangci-lint

$(BUF):
	@echo "building buf, once: takes a minute or two"
	@mkdir -p $(TOOLS)
	$(GO) -C tools build -o $@ github.com/bufbuild/buf/cmd/buf

$(NFPM):
	@echo "building nfpm, once: takes a minute or two"
	@mkdir -p $(@D)
	$(GO) -C tools/nfpm build -o $@ github.com/goreleaser/nfpm/v2/cmd/nfpm

$(SOPS):
	@echo "building sops, once: takes some minutes" >&2
	@mkdir -p $(@D)
	$(GO) -C tools/sops build -buildvcs=false -o $@.new github.com/getsops/sops/v3/cmd/sops && mv $@.new $@
