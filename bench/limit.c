/* The limit: an epoll server in C that answers each line with +PONG, in one process. `limit PORT`. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

static void serve(int conn) {
  static char in[65536], out[7 * 65536];
  ssize_t got = read(conn, in, sizeof in);
  if (got <= 0) {
    if (got < 0 && errno == EAGAIN) return;
    close(conn);
    return;
  }
  size_t size = 0;
  for (char *at = in, *end = in + got; (at = memchr(at, '\n', end - at)); at++) {
    memcpy(out + size, "+PONG\r\n", 7);
    size += 7;
  }
  for (size_t sent = 0; sent < size;) {
    ssize_t now = write(conn, out + sent, size - sent);
    if (now < 0 && errno != EAGAIN) break;
    if (now > 0) sent += now;
  }
}

int main(int argc, char **argv) {
  int on = 1, listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), poll = epoll_create1(0);
  struct sockaddr_in where = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[argc - 1]))};
  where.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (bind(listener, (struct sockaddr *)&where, sizeof where) || listen(listener, 2048)) {
    perror("limit");
    return 1;
  }
  struct epoll_event event = {.events = EPOLLIN, .data.fd = listener}, events[256];
  epoll_ctl(poll, EPOLL_CTL_ADD, listener, &event);
  for (;;) {
    int count = epoll_wait(poll, events, 256, -1);
    for (int i = 0; i < count; i++) {
      if (events[i].data.fd != listener) {
        serve(events[i].data.fd);
        continue;
      }
      int conn;
      while ((conn = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
        setsockopt(conn, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        event = (struct epoll_event){.events = EPOLLIN, .data.fd = conn};
        epoll_ctl(poll, EPOLL_CTL_ADD, conn, &event);
      }
    }
  }
}
