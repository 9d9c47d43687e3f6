#!/bin/sh
# Writes keys.tsv: installs the frameworks into a temporary folder, lets each of them write its keys to a Redis server of
# its own, and reads back what is there. Needs redis-server and redis-cli; and, for each part, python3 with venv and pip,
# node with npm, or apt-get and dpkg (Rails, Laravel and Symfony, as packaged by Debian 12; run `apt-get update` first).
# A part whose tools or packages are missing keeps its lines. Nothing is installed outside the temporary folder.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
# pip and npm leave files behind when they are interrupted.
export TMPDIR="$work"
redis=
stop() {
    [ -z "$redis" ] || kill "$redis" 2>/dev/null || true
    [ -z "$redis" ] || wait "$redis" 2>/dev/null || true
    rm -rf "$work"
}
trap stop EXIT
trap 'exit 1' HUP INT TERM

skip() {
    echo "$1: $2; its lines stay as they are" >&2
}

has() {
    for tool in "$@"; do
        command -v "$tool" >/dev/null || return 1
    done
}

# keys NAME COMMAND...: the lines that the command prints take the place of the framework's lines.
keys() {
    name=$1
    shift
    "$@" >"$work/part" || { echo "$name: its keys are not as expected; keys.tsv is unchanged" >&2; exit 1; }
    # The names hold a slash (@keyv/redis), which a file's name cannot.
    cp "$work/part" "$work/parts/$(echo "$name" | tr / _)"
}

has redis-server redis-cli || { echo "redis-server and redis-cli are needed" >&2; exit 1; }
port=$((20000 + $$ % 20000))
until [ -n "$redis" ]; do
    redis-server --port "$port" --bind 127.0.0.1 --save '' --appendonly no --dir "$work" >"$work/redis.log" &
    candidate=$!
    for _ in 1 2 3 4 5 6 7 8 9 10; do
        # Another server may have the port: this one has ended then.
        sleep 0.2
        kill -0 "$candidate" 2>/dev/null || break
        grep -q 'Ready to accept connections' "$work/redis.log" && { redis=$candidate; break; }
    done
    [ -n "$redis" ] || { kill "$candidate" 2>/dev/null || true; port=$((port + 1)); }
    [ "$port" -lt 41000 ] || { echo "redis-server does not start" >&2; exit 1; }
done
mkdir "$work/parts"

python_part() {
    has python3 || { skip Python "python3 is missing"; return; }
    python3 -m venv "$work/python" >"$work/log" 2>&1 || { skip Python "python3 -m venv fails"; return; }
    "$work/python/bin/pip" install --quiet django==5.2.19 django-redis==7.0.0 flask==3.1.3 flask-caching==2.5.1 \
        dogpile.cache==1.5.0 aiocache==0.12.3 redis==8.1.0 >"$work/log" 2>&1 || { skip Python "pip install fails"; return; }
    for framework in django django-redis flask-caching dogpile.cache aiocache; do
        # Django warns of keys that memcached would refuse.
        keys "$framework" "$work/python/bin/python" -W ignore "$here/python_keys.py" "$framework" "$port"
    done
}

node_part() {
    has node npm || { skip Node "node or npm is missing"; return; }
    mkdir "$work/node"
    echo '{ "private": true }' >"$work/node/package.json"
    (cd "$work/node" && npm install --no-audit --no-fund keyv@5.6.0 @keyv/redis@5.1.6 cache-manager@7.2.9 cacheable@2.5.0 \
        apicache@1.6.3 express@5.3.0 redis@3.1.2) >"$work/log" 2>&1 || { skip Node "npm install fails"; return; }
    for framework in @keyv/redis cache-manager cacheable apicache; do
        keys "$framework" env NODE_PATH="$work/node/node_modules" node "$here/node_keys.js" "$framework" "$port"
    done
}

# Unpacks Debian packages and all that they depend on into $work/debian, whether or not they are installed. libc stays
# the system's, because it must fit the system's loader.
unpack() {
    mkdir -p "$work/packages" "$work/debian"
    apt-get install --simulate --no-install-recommends -o Dir::State::status=/dev/null "$@" 2>/dev/null |
        awk '/^Inst/ && $2 !~ /^(libc6|libc-bin|libgcc-s1|gcc-.*-base)$/ { print $2 }' >"$work/list"
    [ -s "$work/list" ] || return 1
    (cd "$work/packages" && xargs apt-get download <"$work/list") >"$work/log" 2>&1 || return 1
    for package in "$work"/packages/*.deb; do
        dpkg-deb -x "$package" "$work/debian" || return 1
    done
}

# The folders that match the patterns, with colons between them.
joined() {
    for folder in "$@"; do
        [ ! -d "$folder" ] || printf '%s:' "$folder"
    done
}

# The version of a package's program, without Debian's own numbers.
version() {
    dpkg-deb -f "$work/packages/$1"_*.deb Version | sed 's/^[0-9]*://; s/[+-].*//'
}

debian_part() {
    has apt-get dpkg-deb || { skip Debian "apt-get or dpkg-deb is missing"; return; }
    unpack ruby ruby-actionpack ruby-activerecord ruby-sqlite3 ruby-redis ruby-minitest php-cli php-redis \
        php-illuminate-cache php-illuminate-redis php-symfony-cache php-psr-simple-cache ||
        { skip "Rails, Laravel, Symfony" "apt-get cannot download them"; return; }
    root=$work/debian
    libraries=$(joined "$root"/usr/lib/*-linux-* "$root"/lib/*-linux-*)
    keys rails env LD_LIBRARY_PATH="$libraries" \
        GEM_PATH="$(joined "$root"/usr/share/rubygems-integration/* "$root"/usr/lib/*/rubygems-integration/*)" \
        RUBYLIB="$(joined "$root"/usr/lib/ruby/vendor_ruby "$root"/usr/lib/*/ruby/vendor_ruby/* "$root"/usr/lib/ruby/[0-9]* \
            "$root"/usr/lib/*/ruby/[0-9]*)" \
        "$(echo "$root"/usr/bin/ruby[0-9]*)" -W0 "$here/rails_keys.rb" "$port"
    for framework in laravel symfony; do
        package=php-illuminate-cache
        [ "$framework" = laravel ] || package=php-symfony-cache
        # error_reporting leaves out deprecations: Debian's PHP is newer than these versions of the libraries.
        keys "$framework" env LD_LIBRARY_PATH="$libraries" "$(echo "$root"/usr/bin/php[0-9]*)" -n -d error_reporting=8191 \
            -d include_path="$root/usr/share/php" -d extension_dir="$(echo "$root"/usr/lib/php/20*)" \
            -d extension=igbinary -d extension=redis "$here/php_keys.php" "$framework" "$port" "$(version "$package")"
    done
}

python_part
node_part
debian_part

{
    printf 'framework\tversion\twhat\ttemplate\thash\trow\tkey\n'
    for framework in django django-redis flask-caching dogpile.cache aiocache rails laravel symfony \
        @keyv/redis cache-manager cacheable apicache; do
        part=$work/parts/$(echo "$framework" | tr / _)
        if [ -s "$part" ]; then
            cat "$part"
        elif [ -f "$here/keys.tsv" ]; then
            awk -F '\t' -v name="$framework" '$1 == name' "$here/keys.tsv"
        fi
    done
} >"$work/keys.tsv"
cp "$work/keys.tsv" "$here/keys.tsv"
echo "$(($(wc -l <"$work/keys.tsv") - 1)) keys in keys.tsv"
