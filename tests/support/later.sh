#!/bin/sh
# Servers newer than this Debian has: Postgres 19 and 18, Redis 8 and Valkey 9 from the unstable and experimental suites of
# the Debian mirror that apt is set up with. They are unpacked below DIR and run from there beside the system's own, with
# their own libraries; nothing is installed. Usage: later.sh DIR; fails with the reason where they cannot be had.
set -eu
mkdir -p "$1"
dir="$(cd "$1" && pwd)"
[ ! -e "$dir/complete" ] || exit 0
for need in apt-get dpkg patchelf; do
    command -v "$need" >/dev/null || { echo "$need is not here" >&2; exit 1; }
done
# shellcheck disable=SC2016 # apt's own variables
mirror="$(apt-get indextargets --format '$(ORIGIN) $(CODENAME) $(REPO_URI)' 'Created-By: Packages' |
    awk '$1 == "Debian" && $2 !~ /-/ { print $3; exit }')"
[ -n "$mirror" ] || { echo "apt knows no mirror of Debian here: run apt-get update first" >&2; exit 1; }

rm -rf "$dir"
mkdir -p "$dir/apt/lists/partial" "$dir/apt/archives/partial" "$dir/apt/parts" "$dir/root"
for suite in sid experimental; do
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main"
done >"$dir/apt/sources.list"
: >"$dir/apt/status"
# Of the opinion that nothing is installed: so every library comes along.
apt() {
    apt-get -qq -o APT::Sandbox::User= -o Acquire::Check-Valid-Until=false -o Debug::NoLocking=true \
        -o Dir::Etc::SourceList="$dir/apt/sources.list" -o Dir::Etc::SourceParts="$dir/apt/parts" \
        -o Dir::Etc::Preferences=/dev/null -o Dir::Etc::PreferencesParts="$dir/apt/parts" \
        -o Dir::State::Lists="$dir/apt/lists" -o Dir::State::Status="$dir/apt/status" \
        -o Dir::Cache="$dir/apt" -o Dir::Cache::Archives="$dir/apt/archives" "$@" >>"$dir/apt/log" 2>&1 ||
        { tail -n 3 "$dir/apt/log" >&2; return 1; }
}
apt update
apt install -y --download-only --no-install-recommends postgresql-18 redis-server valkey-server
# 19 needs the libraries of 18; its packages' own dependencies would pull in experimental's C library.
(cd "$dir/apt/archives" && apt download postgresql-19/experimental postgresql-client-19/experimental libpq5/experimental)

root="$dir/root"
for package in "$dir"/apt/archives/*.deb; do
    case "$package" in */libpq5_19*) ;; *) dpkg -x "$package" "$root" ;; esac
done
dpkg -x "$dir"/apt/archives/libpq5_19*.deb "$root" # last: it serves 18 too
loader="$(find "$root/usr" -name 'ld-linux*.so.*' | head -n 1)"
libraries="$(dirname "$(find "$root/usr/lib" -name libc.so.6 | head -n 1)")"
for program in "$root"/usr/lib/postgresql/*/bin/* "$root"/usr/bin/redis-* "$root"/usr/bin/valkey-*; do
    if [ ! -L "$program" ] && patchelf --print-interpreter "$program" >/dev/null 2>&1; then
        patchelf --set-interpreter "$loader" --force-rpath --set-rpath "$libraries" "$program"
    fi
done
for version in 18 19; do
    "$root/usr/lib/postgresql/$version/bin/postgres" --version >/dev/null
done
rm -rf "$dir/apt"
touch "$dir/complete"
