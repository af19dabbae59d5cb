# Net::Server::PreFork: `perl net_server.pl PORT PROCESSES`. A process serves one connection at a time.
package Pong;
use strict;
use warnings;
use base qw(Net::Server::PreFork);
use Socket qw(IPPROTO_TCP TCP_NODELAY);

sub process_request {
    my $self = shift;
    setsockopt($self->{server}{client}, IPPROTO_TCP, TCP_NODELAY, 1);
    while (<STDIN>) {
        print "+PONG\r\n";
    }
}

# As many children, never more or fewer, none of which is replaced for its age.
my ($port, $processes) = @ARGV;
@ARGV = ();
Pong->run(
    host              => '127.0.0.1',
    port              => $port,
    ipv               => 4,
    listen            => 2048,
    min_servers       => $processes,
    max_servers       => $processes,
    min_spare_servers => 0,
    max_spare_servers => $processes - 1,
    max_requests      => 1_000_000_000,
    log_level         => 1,
    no_client_stdout  => 0,
);
