# What the Ruby scenarios share: REDIS_PORT in the environment, parts in order, "ok" at the end.
# BEHIND_PROXY is set when a cluster is behind the port.

HOST = ENV.fetch("REDIS_HOST", "127.0.0.1")
PORT = Integer(ENV.fetch("REDIS_PORT"))
URL = "redis://#{HOST}:#{PORT}/0"
BEHIND_PROXY = ENV.key?("BEHIND_PROXY")

def expect(got, wanted, what)
  raise "#{what}: got #{got.inspect}, wanted #{wanted.inspect}" unless got == wanted
end

def expect_error(kind, pattern, what)
  got = yield
rescue kind => e
  raise "#{what}: #{e.inspect} does not say #{pattern}" unless e.message.match?(pattern)
else
  raise "#{what}: got #{got.inspect}, wanted an error"
end

def wait_for(what, limit = 20)
  finish = Process.clock_gettime(Process::CLOCK_MONOTONIC) + limit
  loop do
    value = yield
    return value if value
    raise "not within #{limit} s: #{what}" if Process.clock_gettime(Process::CLOCK_MONOTONIC) > finish

    sleep 0.01
  end
end

def run(*parts)
  $stdout.sync = true
  # A hanging part shows where before the test's own deadline ends it.
  Thread.new { sleep 90; warn Thread.main.backtrace.join("\n"); exit!(1) }
  wanted = ARGV.map(&:to_sym)
  parts.each do |part|
    next unless wanted.empty? || wanted.include?(part)

    puts "part #{part}"
    send(part)
  end
  puts "ok"
end
