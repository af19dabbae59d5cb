/* The limit: an epoll server in C that does nothing else. `limit MODE PORT PROCESSES`.
 *
 * MODE is `pong` (each line is answered by +PONG), `echo` (bytes come back as they came), or a number: frames of so many
 * bytes, each of which comes back when all of it is there. The processes share one listener, EPOLLEXCLUSIVE. */
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

enum { ROOM = 65536, MOST = 1 << 16 };
static char in[ROOM], out[7 * ROOM];
static size_t frame; /* 0: not in frames */
static int echo, poll_fd;

/* A connection in frames: what it holds of its frame, and how much of that has gone back. */
static struct half {
  char *bytes;
  size_t got, sent;
} halves[MOST];

static void end(int conn) {
  free(halves[conn].bytes);
  halves[conn] = (struct half){0};
  close(conn);
}

static void send_all(int conn, const char *from, size_t size) {
  for (size_t sent = 0; sent < size;) {
    ssize_t now = write(conn, from + sent, size - sent);
    if (now < 0 && errno != EAGAIN) break;
    if (now > 0) sent += now;
  }
}

static void serve(int conn) {
  ssize_t got = read(conn, in, sizeof in);
  if (got <= 0) {
    if (got == 0 || errno != EAGAIN) end(conn);
    return;
  }
  if (echo) {
    send_all(conn, in, got);
    return;
  }
  size_t size = 0;
  for (char *at = in, *stop = in + got; (at = memchr(at, '\n', stop - at)); at++) {
    memcpy(out + size, "+PONG\r\n", 7);
    size += 7;
  }
  send_all(conn, out, size);
}

static void wait_for(int conn, unsigned what) {
  struct epoll_event event = {.events = what, .data.fd = conn};
  epoll_ctl(poll_fd, EPOLL_CTL_MOD, conn, &event);
}

/* Return whether the whole frame has gone back. */
static int give_back(int conn, struct half *half) {
  while (half->sent < frame) {
    ssize_t now = write(conn, half->bytes + half->sent, frame - half->sent);
    if (now < 0) {
      if (errno == EAGAIN) wait_for(conn, EPOLLOUT);
      else end(conn);
      return 0;
    }
    half->sent += now;
  }
  half->got = half->sent = 0;
  return 1;
}

static void serve_frame(int conn, unsigned events) {
  struct half *half = &halves[conn];
  if (!half->bytes) half->bytes = malloc(frame);
  if (events & EPOLLOUT) {
    if (give_back(conn, half)) wait_for(conn, EPOLLIN);
    return;
  }
  ssize_t got = read(conn, half->bytes + half->got, frame - half->got);
  if (got <= 0) {
    if (got == 0 || errno != EAGAIN) end(conn);
    return;
  }
  half->got += got;
  /* redis-benchmark asks for the CONFIG first, which is no frame; it takes an end of file for an answer */
  if (half->got >= 8 && !memcmp(half->bytes, "*3\r\n$6\r\n", 8)) end(conn);
  else if (half->got == frame) give_back(conn, half);
}

static int listen_on(int port) {
  int on = 1, listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
  struct sockaddr_in where = {.sin_family = AF_INET, .sin_port = htons(port)};
  where.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (bind(listener, (struct sockaddr *)&where, sizeof where) || listen(listener, 2048)) {
    perror("limit");
    exit(1);
  }
  return listener;
}

int main(int argc, char **argv) {
  if (argc != 4) {
    fprintf(stderr, "usage: limit pong|echo|BYTES PORT PROCESSES\n");
    return 2;
  }
  echo = !strcmp(argv[1], "echo");
  frame = echo ? 0 : strtoul(argv[1], NULL, 10);
  int on = 1, listener = listen_on(atoi(argv[2]));
  for (int count = atoi(argv[3]); count > 1; count--)
    if (!fork()) break;
  poll_fd = epoll_create1(0);
  struct epoll_event event = {.events = EPOLLIN | EPOLLEXCLUSIVE, .data.fd = listener}, events[256];
  epoll_ctl(poll_fd, EPOLL_CTL_ADD, listener, &event);
  for (;;) {
    int count = epoll_wait(poll_fd, events, 256, -1);
    for (int i = 0; i < count; i++) {
      int conn = events[i].data.fd;
      if (conn != listener) {
        if (frame) serve_frame(conn, events[i].events);
        else serve(conn);
        continue;
      }
      while ((conn = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
        setsockopt(conn, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        event = (struct epoll_event){.events = EPOLLIN, .data.fd = conn};
        epoll_ctl(poll_fd, EPOLL_CTL_ADD, conn, &event);
      }
    }
  }
}
