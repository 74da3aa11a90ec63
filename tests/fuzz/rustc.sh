#!/bin/sh
# rustc, with coverage for the crates that are fuzzed: what `cargo fuzz -s none` gives to all of them,
# in less time and with all the guidance on them. Cargo calls it as RUSTC_WRAPPER. (Half of the models
# is for tests: other builds see what is unused.)
case " $* " in
  *" --crate-name memorystore_auth_proxy "* | *" --crate-name fuzz "* | *" --crate-name redis_protocol "*)
    exec "$@" --cfg=fuzzing -Aunused -Cpasses=sancov-module \
      -Cllvm-args=-sanitizer-coverage-level=4 \
      -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
      -Cllvm-args=-sanitizer-coverage-pc-table \
      -Cllvm-args=-sanitizer-coverage-trace-compares
    ;;
esac
exec "$@"
