#!/usr/bin/env bash
# Whether a release can be made again: reproducible.sh [--check PROGRAM...]
#
# Without arguments the committed and changed sources are built twice, in two directories of different
# length, under different time zones and languages, from nothing; the programs must be the same byte for
# byte. With --check it looks whether programs that were built (release-env.sh) name a path of this
# machine or a home directory, which is what makes builds differ, and takes no time.
set -euo pipefail
cd "$(dirname "$0")/.."
name=memorystore-auth-proxy

check() {
  local program=$1 path
  for path in ${work:+"$work"} "$PWD" "${CARGO_HOME:-$HOME/.cargo}" "$HOME/" "/home/"; do
    if grep -a -q -F -e "$path" "$program"; then
      echo "reproducible: $program holds '$path':" >&2
      grep -a -o -m 3 -E ".{0,60}$(printf '%s' "$path" | sed 's/[][\.*^$/+?(){}|]/\\&/g').{0,60}" "$program" | tr -cd '[:print:]\n' >&2
      return 1
    fi
  done
  echo "reproducible: $program holds no path of this machine"
}

if [ "${1-}" = --check ]; then
  shift
  for program in "$@"; do check "$program"; done
  exit
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
build() {
  mkdir -p "$1"
  git ls-files -z --cached --others --exclude-standard -- Cargo.toml Cargo.lock src deploy bench tests/demo |
    xargs -0 cp --parents -t "$1"
  (
    cd "$1"
    unset CARGO_TARGET_DIR
    export TZ=$2 LANG=$3
    . deploy/release-env.sh
    cargo build --release --locked --bin "$name"
  )
}
build "$work/a" UTC C
build "$work/b/with/a/longer/path" Asia/Tokyo C.UTF-8
first=$work/a/target/release/$name second=$work/b/with/a/longer/path/target/release/$name
sha256sum "$first" "$second"
cmp "$first" "$second"
check "$first"
echo "reproducible: both are the same"
