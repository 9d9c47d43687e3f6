#!/bin/sh
# Fetches the client libraries that the examples in docs/examples need, for the languages that are here, into the
# directory $1. What cannot be had is told and left out: the tests of such an example say that they are skipped.
set -u
root=$(cd "$(dirname "$0")/../.." && pwd)
mkdir -p "$1"
into=$(cd "$1" && pwd)

# One language: its runtime's program, the file that says what it needs, and the command that fetches it.
fetch() {
	language=$1 program=$2 needs=$root/docs/examples/$1/$3
	shift 3
	command -v "$program" >/dev/null || return 0
	! cmp -s "$needs" "$into/$language.fetched" || return 0
	# What was not to be had is asked for again after an hour, so that a machine without a network is not held up.
	[ -z "$(find "$into" -name "$language.missing" -mmin -60)" ] || return 0
	echo "fetching what the $language example needs"
	rm -rf "${into:?}/$language"
	mkdir -p "$into/$language"
	if "$@" >"$into/$language.log" 2>&1 </dev/null; then
		cp "$needs" "$into/$language.fetched"
	else
		touch "$into/$language.missing"
		echo "not to be had: its test will be skipped; see $into/$language.log" >&2
	fi
}

python() {
	python3 -m venv "$into/python" &&
		timeout 120 "$into/python/bin/pip" install -q --retries 1 --timeout 10 -r "$root/docs/examples/python/requirements.txt"
}

node() {
	# Node looks for packages beside the module.
	cp "$root/docs/examples/node/package.json" "$into/node" &&
		timeout 120 npm install --prefix "$into/node" --silent --no-audit --no-fund --no-package-lock \
			--fetch-retries 0 --fetch-timeout 10000
}

java() {
	timeout 180 mvn -q -f "$root/docs/examples/java/pom.xml" dependency:copy-dependencies \
		-DincludeScope=runtime -DoutputDirectory="$into/java"
}

go() {
	cp "$root/docs/examples/go/go.mod" "$root/docs/examples/go/reader.go" "$into/go" && cd "$into/go" &&
		timeout 120 env go mod tidy && timeout 180 env go build -o reader .
}

ruby() {
	env ruby -e 'require "pg"; require "redis"' ||
		timeout 120 gem install -q --no-document --install-dir "$into/ruby" pg redis
}

fetch python python3 requirements.txt python
fetch node npm package.json node
fetch java mvn pom.xml java
fetch go go go.mod go
fetch ruby ruby Gemfile ruby
