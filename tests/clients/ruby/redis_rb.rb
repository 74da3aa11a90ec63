# redis-rb in its ordinary, non-cluster mode, and its cluster mode on the same port.

require "redis"
require_relative "common"

def connect(**options)
  Redis.new(host: HOST, port: PORT, reconnect_attempts: 0, **options)
end

R = connect

def keys
  R.flushall
  names = (0...100).map { |n| "k:#{n}" }
  expect(R.mset(*names.flat_map { |name| [name, "v"] }), "OK", "MSET over slots")
  expect(R.mapped_mget(*names).values.uniq, ["v"], "MGET over slots")
  expect(R.scan_each(match: "k:*", count: 30).to_a.uniq.size, 100, "SCAN")
  expect(R.del(*names), 100, "DEL over slots")
  R.hset("h", "a", 1, "b", 2)
  expect(R.hgetall("h"), { "a" => "1", "b" => "2" }, "HGETALL")
  R.zadd("z", [[1.5, "m"]])
  expect(R.zrange("z", 0, -1, with_scores: true), [["m", 1.5]], "ZRANGE")
  expect(R.info["redis_mode"], "standalone", "INFO")
  expect(connect(id: "ruby").client(:getname), "ruby", "CLIENT GETNAME")
  expect_error(Redis::CommandError, /WRONGTYPE/, "LPUSH to a hash") { R.lpush("h", 1) }
end

def pipelines_and_transactions
  got = R.pipelined { |p| 200.times { |n| p.set("p:#{n}", n); p.get("p:#{n}") } }
  expect(got.each_slice(2).map(&:last), (0...200).map(&:to_s), "a pipeline")
  expect(R.multi { |m| m.set("{t}n", 1); m.incr("{t}n") }, ["OK", 2], "MULTI")
  other = connect
  got = R.watch("{t}n") { other.set("{t}n", 9); R.multi { |m| m.incr("{t}n") } }
  expect(got, nil, "MULTI after a touched WATCH")
  return unless BEHIND_PROXY

  expect_error(Redis::CommandError, /CROSSSLOT|EXECABORT/, "MULTI over slots") { R.multi { |m| m.set("{a}", 1); m.set("{b}", 1) } }
end

def scripts_and_blocking
  sha = R.script(:load, "return {KEYS[1], ARGV[1]}")
  %w[{a} {b} {c}].each { |key| expect(R.evalsha(sha, [key], ["x"]), [key, "x"], "EVALSHA") }
  popping = Thread.new { connect.blpop("{q}1", "{q}2", timeout: 20) }
  wait_for("a blocked client") { R.client(:list).any? { |c| c["flags"].include?("b") } }
  R.rpush("{q}2", "job")
  expect(popping.value, ["{q}2", "job"], "BLPOP")
  expect(R.brpop("{q}1", timeout: 1), nil, "BRPOP that times out")
end

def subscriptions
  got = []
  listening = Thread.new do
    subscriber = connect
    subscriber.psubscribe("n*") do |on|
      on.pmessage do |_, channel, text|
        got << [channel, text]
        subscriber.punsubscribe if text == "99"
      end
    end
    subscriber.ping
  end
  wait_for("the subscription") { R.pubsub(:numpat) == 1 }
  100.times { |n| R.publish("news", n) }
  listening.join(20) or raise "the subscriber does not end"
  expect(listening.value, "PONG", "an ordinary client again")
  expect(got, (0...100).map { |n| ["news", n.to_s] }, "messages in order")
end

def cluster
  c = Redis.new(cluster: [URL])
  100.times { |n| c.set("c:#{n}", n) }
  expect((0...100).map { |n| c.get("c:#{n}") }, (0...100).map(&:to_s), "GETs of the cluster client")
  expect(c.mget("{t}a", "{t}b"), [nil, nil], "MGET in one slot")
  expect(c.dbsize.positive?, true, "DBSIZE")
  nodes = c.cluster("nodes")
  puts "nodes #{nodes.inspect}"
  expect(nodes.map { |n| n["ip_port"].split("@").first }, ["#{HOST}:#{PORT}"], "CLUSTER NODES")
end

run(:keys, :pipelines_and_transactions, :scripts_and_blocking, :subscriptions, *(BEHIND_PROXY ? [:cluster] : []))
