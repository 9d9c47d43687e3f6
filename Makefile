# Two commands do all the set-up on a fresh Debian with Rust: `make demo` and `make test`.
CARGO ?= cargo
KEEP ?=

.PHONY: demo test test-fast test-full model mutations chaos torture outage waits lint bench bench-large fuzz deb package-test test-matrix prerequisites readers

demo: prerequisites ## the main job, step by step, on throw-away servers; KEEP=1 leaves them up
	$(CARGO) build --profile demo --features demo --bins
	KEEP=$(KEEP) target/demo/demo

test-fast: ## what needs no server: unit tests, house rules, documentation; under a minute after the build
	$(CARGO) test --lib
	$(CARGO) test --doc
	$(CARGO) test --test coherd -- tidy:: docs::texts:: schema::

test: prerequisites readers ## every test, on real Postgres and Redis
	$(CARGO) test

test-full: prerequisites readers ## the same with long tests at their full length (10,000 tables and the like); takes minutes more
	COHERD_MANY_TABLES=10000 COHERD_TEST_FULL=1 $(CARGO) test

model: ## why it is built as it is: every order of steps, with READERS (3) readers and COMMITS (1) commits; takes minutes
	COHERD_MODEL_READERS=$(or $(READERS),3) COHERD_MODEL_COMMITS=$(or $(COMMITS),1) COHERD_MODEL_THREADS=2 \
		$(CARGO) test --test coherd model:: -- --nocapture --test-threads=1

mutations: ## takes away one line of the core after the other: a unit test or the model must fail each time
	tests/model/mutations.sh

chaos: prerequisites ## everything breaks at random for SECONDS (60), chosen by SEED (a new one each time)
	COHERD_CHAOS_SECONDS=$(or $(SECONDS),60) COHERD_CHAOS_SEED=$(SEED) $(CARGO) test --test coherd chaos:: -- --nocapture

torture: prerequisites ## readers of every protocol against hanging commits and lagging replicas for SECONDS (60), SEED as above
	COHERD_TORTURE_SECONDS=$(or $(SECONDS),60) COHERD_TORTURE_SEED=$(SEED) $(CARGO) test --test coherd torture:: -- --nocapture

outage: prerequisites ## a cache is away for SECONDS (600) under load: memory and the log held back stay within bounds
	COHERD_OUTAGE_SECONDS=$(or $(SECONDS),600) $(CARGO) test --test coherd e2e::soak:: -- --nocapture

waits: prerequisites ## how long coherd.wait() takes behind changes of several kinds, COUNT (250) of each
	COHERD_WAITS=$(or $(COUNT),250) $(CARGO) test --test coherd e2e::wait:: -- --nocapture --test-threads=1

lint: ## formatting, clippy, the house rules, and links between the pages of the code
	$(CARGO) fmt --check
	$(CARGO) clippy --all-targets --features demo -- -D warnings
	$(CARGO) test --quiet --test coherd tidy::
	RUSTDOCFLAGS="-D rustdoc::broken_intra_doc_links" $(CARGO) doc --quiet --no-deps --document-private-items
	# Without what tests bring along.
	$(CARGO) check --quiet --features demo --bins
	@# libfuzzer is C++.
	@command -v c++ >/dev/null || echo "the fuzz targets are not checked: there is no c++ here"
	! command -v c++ >/dev/null || $(CARGO) check --quiet --manifest-path fuzz/Cargo.toml --target-dir target

bench: prerequisites ## speed and cost beside pg_recvlogical and a bare consumer; benches/bench/main.rs says how to choose a part
	$(CARGO) build --release --bins
	$(CARGO) bench --bench bench

bench-large: prerequisites ## one transaction of ROWS (10000000) rows: memory, and what it does to others
	$(CARGO) build --release --bins
	ONLY=large $(CARGO) bench --bench bench

fuzz: ## the decoder, then all that people write, against arbitrary bytes, SECONDS (60) each, on stable Rust
	$(CARGO) fuzz --version >/dev/null 2>&1 || $(CARGO) install --locked cargo-fuzz
	for target in pgoutput words; do \
		mkdir -p fuzz/corpus/$$target && \
		$(CARGO) fuzz run $$target --sanitizer none fuzz/corpus/$$target fuzz/seeds/$$target -- \
			-max_total_time=$(or $(SECONDS),60) $(FUZZ) || exit 1; \
	done

deb: prerequisites ## target/debian/coherd_VERSION_ARCH.deb: program, service, manual, completions, SQL; see docs/install.md
	$(CARGO) deb --version >/dev/null 2>&1 || $(CARGO) install --locked cargo-deb
	$(CARGO) build --release --locked --bins
	rm -rf target/package target/debian/coherd_*.deb
	target/release/coherd man target/package/man
	target/release/coherd schema >target/package/coherd.schema.json
	for shell in bash zsh fish; do target/release/coherd completions $$shell >target/package/coherd.$$shell || exit 1; done
	$(CARGO) deb --no-build --quiet --strip

package-test: deb ## INSTALLS THE PACKAGE ON THIS MACHINE, as root, follows docs/install.md, upgrades and purges it again
	@[ "$$(id -u)" = 0 ] || { echo "package-test installs a package on this machine and takes it away again: run it as root, best in a container" >&2; exit 1; }
	mkdir -p target/package-test && cp target/debian/coherd_*.deb target/package-test/first.deb
	$(CARGO) deb --no-build --quiet --strip --deb-revision 2 --output target/package-test/next.deb
	COHERD_PACKAGE=$(CURDIR)/target/package-test/first.deb COHERD_PACKAGE_NEXT=$(CURDIR)/target/package-test/next.deb \
		$(CARGO) test --test coherd package:: -- --nocapture --test-threads=1

test-matrix: prerequisites readers ## every test on Postgres 15 to 19, and on Redis 8 and Valkey 9; VERSIONS and CACHES choose; fetches the newer ones
	tests/support/matrix.sh

prerequisites:
	@tests/support/prerequisites.sh

readers: ## what the examples of docs/reading.md need, for the languages that are here
	@tests/support/readers.sh target/readers
