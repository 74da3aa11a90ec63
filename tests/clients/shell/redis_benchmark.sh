#!/usr/bin/env bash
# redis-benchmark, all its tests: plain, pipelined, RESP3, several threads, client-side caching.
set -euo pipefail
bench() {
  local out
  # An error reply ends it with status 1; -q writes progress over itself with carriage returns.
  out=$(timeout --foreground 50 redis-benchmark -p "$REDIS_PORT" -q "$@" 2>&1 | tr '\r' '\n') || { echo "$* failed: $out"; exit 1; }
  case $out in *rror*) echo "$*: $out"; exit 1 ;; esac
  echo "$*: $(grep -c 'requests per second' <<< "$out") tests"
}
bench -n 500
bench -n 2000 -P 16 -r 1000
bench -n 500 -3 -t set,get,lpush
bench -n 500 --threads 2 -t set,get
bench -n 500 --enable-tracking -t get
bench -n 200 -k 0 -t ping,set
bench -n 500 -c 200 -t get
bench -n 500 -r 1000 eval "return redis.call('SET', KEYS[1], ARGV[1])" 1 key:__rand_int__ v
echo ok
