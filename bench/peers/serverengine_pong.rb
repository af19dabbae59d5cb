# Ruby's ServerEngine, on the event loop its documents recommend, Cool.io: `ruby serverengine_pong.rb PORT PROCESSES`.
require 'socket'
require 'cool.io'
require 'serverengine'

class Pong < Coolio::TCPSocket
  def on_connect
    @rest = +''
  end

  def on_read(data)
    lines = (@rest << data).lines
    @rest = lines.last&.end_with?("\n") ? +'' : lines.pop
    lines.each { |line| write(pong(line)) }
  end

  def pong(_line)
    "+PONG\r\n"
  end
end

module Server
  attr_reader :listener

  def before_run
    @listener = TCPServer.new('127.0.0.1', config[:port])
    @listener.listen(2048)
  end
end

module Worker
  def run
    @loop = Coolio::Loop.new
    Coolio::TCPServer.new(server.listener, nil, Pong).attach(@loop)
    @loop.run
  end

  def stop
    @loop.stop
  end
end

port, processes = ARGV.map(&:to_i)
ServerEngine.create(Server, Worker, {
  worker_type: 'process',
  workers: processes,
  port: port,
  log: '-',
  log_level: 'error',
}).run
