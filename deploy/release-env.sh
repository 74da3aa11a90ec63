# Sourced by a shell at the top of the repository before it builds a release: no path of the machine
# gets into the program, so that the same sources, lock file and toolchain give the same bytes in any
# directory, for any user. `make reproducible` builds twice and compares. (Cargo's own trim-paths would
# say it in Cargo.toml; stable Cargo does not have it yet.)
#
# The bare `cargo build --release` works as well; its line numbers and panics name the paths they were
# built from.
hide_path() {
  CARGO_ENCODED_RUSTFLAGS="${CARGO_ENCODED_RUSTFLAGS:+$CARGO_ENCODED_RUSTFLAGS$(printf '\037')}--remap-path-prefix=$1=$2"
  # For the C and assembler of the TLS library.
  CFLAGS="${CFLAGS:+$CFLAGS }-ffile-prefix-map=$1=$2"
}
: "${CARGO_ENCODED_RUSTFLAGS:=$(printf '%s' "${RUSTFLAGS-}" | tr -s ' ' '\037')}"
hide_path "${CARGO_HOME:-$HOME/.cargo}" /cargo
hide_path "$PWD" /src
# Not the variable of each crate: whoever builds for another target sets those.
export CARGO_ENCODED_RUSTFLAGS CFLAGS
unset -f hide_path
