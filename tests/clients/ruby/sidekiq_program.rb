# Sidekiq with one worker process. It waits for all its queues with one BRPOP and writes its heartbeat
# in one MULTI, so its keys share a hash tag: redis-namespace puts it before every key, without a
# change of the jobs.

require "sidekiq"
require "sidekiq/api"
require "redis-namespace"

OPTIONS = { url: "redis://127.0.0.1:#{ENV.fetch("REDIS_PORT")}/0", namespace: "{sidekiq}" }.freeze
Redis.silence_deprecations = true

Sidekiq.configure_client { |config| config.redis = OPTIONS }
Sidekiq.configure_server do |config|
  config.redis = OPTIONS
  # How often the worker looks for scheduled jobs and retries, in seconds.
  config.average_scheduled_poll_interval = 1 if config.respond_to?(:average_scheduled_poll_interval=)
  config.options[:poll_interval_average] = 1 if config.respond_to?(:options)
end

class Double
  include Sidekiq::Worker

  def perform(n)
    Sidekiq.redis { |r| r.hset("results", n.to_s, n * 2) }
  end
end

class Fails
  include Sidekiq::Worker
  sidekiq_options queue: "low", retry: 3

  def perform
    raise "as told"
  end
end

class SecondTime
  include Sidekiq::Worker
  sidekiq_options retry: 3

  def perform
    raise "not yet" if Sidekiq.redis { |r| r.incr("tries") } < 2

    Sidekiq.redis { |r| r.set("second", "done") }
  end
end

return unless $PROGRAM_NAME == __FILE__

require_relative "common"

if Gem::Version.new(Sidekiq::VERSION) >= Gem::Version.new("7")
  puts "not run: Sidekiq #{Sidekiq::VERSION} has no prefix for its keys (docs/clients.md)", "ok"
  exit
end

def result(key)
  Sidekiq.redis { |r| r.hget("results", key.to_s) }
end

def queues
  Redis.new(url: URL).flushall
  Double.perform_async(1)
  Sidekiq::Client.push_bulk("class" => Double, "args" => (2...50).map { |n| [n] })
  expect(Sidekiq::Queue.new.size, 49, "jobs in the queue")
  expect(Sidekiq::Queue.all.map(&:name), ["default"], "the queues")
  job = Sidekiq::Queue.new.find { |j| j.args == [49] }
  expect(job.delete, true, "a job that was deleted")
end

def start
  here = File.dirname(File.expand_path(__FILE__))
  $worker = spawn("setpriv", "--pdeathsig", "KILL", "--", "sidekiq", "-r", "#{here}/sidekiq_program.rb",
                  "-c", "3", "-q", "default", "-q", "low", "-t", "5", chdir: here)
  wait_for("the worker's start", 40) { Sidekiq::ProcessSet.new.size == 1 }
end

def jobs
  wait_for("all results") { Sidekiq.redis { |r| r.hlen("results") } == 48 }
  expect((1...49).map { |n| result(n) }, (1...49).map { |n| (n * 2).to_s }, "results")
  wait_for("the count of jobs") { Sidekiq::Stats.new.processed >= 48 }
end

def scheduled_and_retried
  Double.perform_in(1, 100)
  expect(Sidekiq::ScheduledSet.new.size, 1, "scheduled jobs")
  Fails.perform_async
  wait_for("a failed job in the retries") { Sidekiq::RetrySet.new.map(&:klass) == ["Fails"] }
  Sidekiq::RetrySet.new.first.kill
  expect(Sidekiq::DeadSet.new.size, 1, "dead jobs")
  SecondTime.perform_async
  # It would come by itself in half a minute.
  wait_for("a job that failed once") { Sidekiq::RetrySet.new.map(&:klass) == ["SecondTime"] }
  Sidekiq::RetrySet.new.first.retry
  wait_for("a scheduled job") { result(100) == "200" }
  wait_for("a retried job") { Sidekiq.redis { |r| r.get("second") } == "done" }
end

def stop
  Sidekiq::ProcessSet.new.each(&:stop!)
  pid = wait_for("the worker's end", 30) { Process.wait($worker, Process::WNOHANG) }
  expect([pid, $?.exitstatus], [$worker, 0], "the worker's exit code")
end

run(:queues, :start, :jobs, :scheduled_and_retried, :stop)
