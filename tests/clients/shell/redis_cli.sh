#!/usr/bin/env bash
# redis-cli as people and their scripts use it. REDIS_PORT names the port; BEHIND_PROXY is set when a
# cluster is behind it. Ends with "ok", or non-zero with the first wrong answer.
set -euo pipefail
port=$REDIS_PORT
dir=$(mktemp -d)
trap 'rm -rf "$dir"; kill $(jobs -p) 2>/dev/null || true' EXIT

cli() { timeout --foreground 20 redis-cli -p "$port" "$@"; }
expect() { # GOT WANTED WHAT
  [ "$1" = "$2" ] || { echo "$3: got '$1', wanted '$2'"; exit 1; }
}
says() { # TEXT WANTED WHAT
  case $1 in *"$2"*) ;; *) echo "$3: '$1' does not say '$2'"; exit 1 ;; esac
}
wait_for() { # WHAT COMMAND...
  local what=$1 n; shift
  for n in $(seq 400); do "$@" >/dev/null 2>&1 && return; sleep 0.05; done
  echo "not within 20 s: $what"; exit 1
}

echo "part commands"
expect "$(cli flushall)" OK FLUSHALL
expect "$(cli set a 1)" OK SET
expect "$(cli -3 incr a)" 2 "INCR with RESP3"
expect "$(cli -c get a)" 2 "GET with -c"
expect "$(printf hello | cli -x set text)" OK "SET with -x"
expect "$(cli --no-raw get text)" '"hello"' "--no-raw"
expect "$(cli hset h f v g w)" 2 HSET
expect "$(cli -3 --json hgetall h)" '{"f":"v","g":"w"}' "--json"
expect "$(cli --csv hmget h f g)" '"v","w"' "--csv"
expect "$(cli -r 3 -i 0.01 incr a | tail -1)" 5 "-r"
expect "$(timeout --foreground 20 redis-cli -u "redis://127.0.0.1:$port/0" ping)" PONG "-u"
printf 'return {KEYS[1], ARGV[1]}' > "$dir/script.lua"
expect "$(cli --eval "$dir/script.lua" k , v | tr '\n' ' ')" "k v " "--eval"
says "$(cli -n 0 client list)" "cmd=client|list" "CLIENT LIST"
says "$(cli --help-of-no-such 2>&1 || true)" "Unrecognized option" "a wrong option"

echo "part transactions"
expect "$(printf 'MULTI\nSET {t}a 1\nINCR {t}a\nEXEC\n' | cli | tr '\n' ' ')" "OK QUEUED QUEUED OK 2 " "MULTI"
expect "$(printf 'MULTI\nNOSUCH\nEXEC\n' | cli 2>&1 | tail -2 | head -1 | cut -c1-9)" "EXECABORT" "EXECABORT"

echo "part mass insertion and scans"
for n in $(seq 2000); do echo "SET k:$n v$n"; done > "$dir/mass"
says "$(cli --pipe < "$dir/mass")" "errors: 0, replies: 2000" "--pipe"
expect "$(cli --scan --pattern 'k:*' | sort -u | wc -l)" 2000 "--scan"
cli rpush big $(seq 200) > "$dir/out"
says "$(cli --bigkeys | tr -s ' ')" "Biggest list found '\"big\"' has 200 items" "--bigkeys"
says "$(cli --memkeys)" "Sampled 2005 keys" "--memkeys"
says "$(cli --hotkeys 2>&1 || true)" "An LFU maxmemory policy is not selected" "--hotkeys"

echo "part latency"
expect "$(cli --latency -i 0.3 --raw | wc -w)" 4 "--latency"

echo "part subscribe"
stdbuf -oL timeout --foreground 30 redis-cli -p "$port" subscribe news > "$dir/news" &
wait_for "a subscriber" bash -c "redis-cli -p $port pubsub numsub news | grep -qx 1"
expect "$(cli publish news hello)" 1 "PUBLISH"
wait_for "the message" bash -c "[ \"\$(tr '\n' ' ' < '$dir/news')\" = 'subscribe news 1 message news hello ' ]"

echo "part monitor"
stdbuf -oL timeout --foreground 30 redis-cli -p "$port" monitor > "$dir/monitor" &
wait_for "the monitor" bash -c "redis-cli -p $port get a-mark; grep -q a-mark '$dir/monitor'"

if [ -n "${BEHIND_PROXY:-}" ]; then
  echo "part passwords"
  expect "$(timeout --foreground 20 redis-cli -u "redis://any:thing@127.0.0.1:$port/0" --no-auth-warning ping)" PONG "any password"
  echo "part what one port of a cluster cannot"
  says "$(cli -n 1 ping 2>&1 || true)" "DB index is out of range" "-n 1"
  says "$(cli --rdb "$dir/dump" 2>&1 || true)" "concerns one node of the cluster" "--rdb"
  says "$(timeout --foreground 20 redis-cli --cluster check "127.0.0.1:$port" 2>&1 || true)" "is not configured as a cluster node" \
    "--cluster check: INFO shows one server"
  expect "$(cli cluster info | head -1 | tr -d '\r')" "cluster_state:ok" "CLUSTER INFO"
  cli cluster nodes
  cli cluster slots
  cli cluster shards
fi
echo ok
