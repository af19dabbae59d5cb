# Two images: `server`, which serves, and `loadtest`, which proves that it does.
#
#   docker build --target server -t prefork .
#   docker build --target loadtest -t prefork-loadtest .
#
# What changes rarely comes first: the base, the locked requirements, and the sources at last.

ARG PYTHON=3.13

# base: what both images run on ------------------------------------------------------------------------------------------

FROM python:${PYTHON}-slim AS base

# netbase is /etc/services: step 1 of the chapter, the port by the service's name. The slim image has none.
# The ids are numbers that a security policy can name.
RUN apt-get update \
 && apt-get install --yes --no-install-recommends netbase \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/apt /var/log/dpkg.log \
 && groupadd --gid 10001 prefork \
 && useradd --uid 10001 --gid prefork --no-log-init --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin prefork

# build: pip and the build backend, left behind ----------------------------------------------------------------------------

FROM python:${PYTHON}-slim AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /build
COPY requirements/build.txt requirements/
RUN python -m venv /build/venv \
 && /build/venv/bin/pip install --require-hashes -r requirements/build.txt
# The environment that is shipped has no pip in it; this one installs into it, and compiles the bytecode once.
RUN python -m venv --without-pip /opt/prefork

FROM build AS server-build
COPY requirements/server.txt requirements/
RUN pip --python /opt/prefork/bin/python install --only-binary :all: --require-hashes -r requirements/server.txt
COPY client client
COPY server server
RUN /build/venv/bin/pip wheel --no-deps --no-build-isolation --wheel-dir wheels ./client ./server \
 && pip --python /opt/prefork/bin/python install --no-deps --no-index wheels/*.whl

FROM build AS loadtest-build
COPY requirements/loadtest.txt requirements/
RUN pip --python /opt/prefork/bin/python install --only-binary :all: --require-hashes -r requirements/loadtest.txt
COPY client client
COPY loadtest loadtest
RUN /build/venv/bin/pip wheel --no-deps --no-build-isolation --wheel-dir wheels ./client ./loadtest \
 && pip --python /opt/prefork/bin/python install --no-deps --no-index wheels/*.whl

# final: the base and one environment ---------------------------------------------------------------------------------------

FROM base AS final
ARG VERSION=0.1.0
LABEL org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.licenses="MIT"
# No bytecode is written at run time: it was compiled with the build, and the root file system may be read-only.
ENV PATH=/opt/prefork/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1

FROM final AS loadtest
LABEL org.opencontainers.image.title="prefork-loadtest" \
      org.opencontainers.image.description="A Locust kit for framed TCP whose exit code is the verdict"
COPY --from=loadtest-build /opt/prefork /opt/prefork
COPY loadtest/locustfile.py /srv/loadtest/locustfile.py
# Reports are written below the working directory; a volume mounted there takes over its owner.
RUN install --directory --owner prefork --group prefork /srv/loadtest/reports
WORKDIR /srv/loadtest
USER 10001:10001
STOPSIGNAL SIGTERM
EXPOSE 8089 5557
ENTRYPOINT ["prefork-loadtest"]
CMD ["list"]

# The last stage is what a plain `docker build .` makes.
FROM final AS server
LABEL org.opencontainers.image.title="prefork" \
      org.opencontainers.image.description="A preforking server for any TCP protocol: one listener, many workers, nothing lost"
COPY --from=server-build /opt/prefork /opt/prefork
# The control socket's folder, open to the server's user alone. With a read-only root, mount a tmpfs here.
RUN install --directory --mode 0700 --owner prefork --group prefork /run/prefork
# A target of your own, module:attribute, is imported from the working directory: mount or COPY it there.
WORKDIR /srv/prefork
USER 10001:10001
ENV PREFORK_BIND=: \
    PREFORK_CONTROL=/run/prefork/control.sock
EXPOSE 7
STOPSIGNAL SIGTERM
# A real request, and its answer checked. Another service needs its own: `prefork-client ping --help`.
HEALTHCHECK --interval=10s --timeout=5s --retries=3 --start-period=30s --start-interval=1s \
    CMD ["prefork-client", "ping", "--timeout", "3", "127.0.0.1:echo"]
ENTRYPOINT ["prefork"]
CMD ["serve", "echo"]
