#!/bin/sh
# Takes away one line of the core after the other, as mutations.tsv has them (file, what the line is for, text, what stands in its
# place), in a copy of the work tree: the unit tests or the model must fail each time.
set -u
cd "$(dirname "$0")/../.." || exit 1
copy="$PWD/target/mutations"
rm -rf "$copy" && mkdir -p "$copy" || exit 1
git ls-files -z | xargs -0 tar -cf - | tar -xf - -C "$copy" || exit 1
export CARGO_TARGET_DIR="$PWD/target/mutations-target"
cd "$copy" || exit 1
tests() { "${CARGO:-cargo}" test "$@" >"$copy/log" 2>&1; }
survivors=0
while IFS="$(printf '\t')" read -r file what old new; do
    cp "$file" "$copy/original"
    old="$old" new="$new" perl -0pi -e '$n = s/\Q$ENV{old}\E/$ENV{new}/; END { exit !$n }' "$file" ||
        { echo "not found in $file: $old" >&2; exit 1; }
    if tests --lib core:: && tests --lib runtime:: && tests --test coherd model::; then
        echo "SURVIVES: $what ($file)"
        survivors=$((survivors + 1))
    elif grep -q '^error\[' "$copy/log"; then
        echo "does not compile: $file: $new" >&2
        exit 1
    else
        echo "fails, as it must: $what: $(grep -m 1 -o '^test .* FAILED' "$copy/log")"
    fi
    cp "$copy/original" "$file"
done <"tests/model/mutations.tsv"
[ "$survivors" = 0 ]
