# Builds an image of keyfold-server.
#
#     docker build --tag keyfold --build-arg DIGEST=sha256:… .
#     docker run --read-only --volume keyfold:/var/lib/keyfold keyfold
#
# The same image has keyfold-relay, which runs in a container of its own, apart from the keys:
#
#     docker run --read-only --no-healthcheck --entrypoint keyfold-relay \
#         --volume ./relay.toml:/etc/keyfold/relay.toml:ro keyfold run /etc/keyfold/relay.toml
#
# And keyfold-console, for browsers:
#
#     docker run --read-only --no-healthcheck --entrypoint keyfold-console \
#         --publish 127.0.0.1:8080:8080 keyfold run --listen 0.0.0.0:8080 --behind-proxy …
#
# BASE is Debian's Python. DIGEST pins it to one image; a release always sets it.
ARG BASE=python:3.11-slim
ARG DIGEST=

# --- the wheel, from the files of the source distribution --------------------------------

FROM ${BASE}${DIGEST:+@${DIGEST}} AS wheel
WORKDIR /build
COPY requirements/build.lock /build/requirements/build.lock
RUN ["python", "-m", "venv", "/build/tools"]
RUN ["/build/tools/bin/python", "-m", "pip", "install", "--require-hashes", "--no-deps", "--only-binary=:all:", "-r", "/build/requirements/build.lock"]
COPY pyproject.toml LICENSE README.md /build/
COPY clients/console /build/clients/console
COPY clients/python /build/clients/python
COPY clients/relay /build/clients/relay
COPY server /build/server
# No build isolation: the build tools come from the lock above.
RUN ["/build/tools/bin/python", "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", "/build/wheels", "/build"]

# --- the installed program ---------------------------------------------------------------

FROM ${BASE}${DIGEST:+@${DIGEST}} AS installed
# The name of a lock in requirements/. `all` has what Keyfold's programs can use, the SDK of each KMS too. `server`
# leaves the SDKs out, and serves only LOCAL keys and the providers of other packages.
ARG EXTRAS=all
COPY requirements/${EXTRAS}.lock /build/requirements/installed.lock
# The environment has no pip of its own; the image's pip installs into it. Only wheels, because the
# image has no compiler.
RUN ["python", "-m", "venv", "--without-pip", "/opt/keyfold"]
RUN ["python", "-m", "pip", "--python", "/opt/keyfold/bin/python", "install", "--require-hashes", "--no-deps", "--only-binary=:all:", "-r", "/build/requirements/installed.lock"]
COPY --from=wheel /build/wheels /build/wheels
RUN ["python", "-m", "pip", "--python", "/opt/keyfold/bin/python", "install", "--no-deps", "--no-index", "--find-links", "/build/wheels", "keyfold"]
RUN ["/opt/keyfold/bin/keyfold-server", "--help"]

# --- the final image ---------------------------------------------------------------------

FROM ${BASE}${DIGEST:+@${DIGEST}}
ARG VERSION=0.1.0
ARG REVISION=
LABEL org.opencontainers.image.title="keyfold-server" \
      org.opencontainers.image.description="Customer-managed encryption keys: a gRPC service that wraps data keys under keys the customer holds" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
# Remove the image's own pip, so that nobody installs packages where keys are in memory.
RUN ["python", "-m", "pip", "uninstall", "--yes", "--quiet", "setuptools", "wheel", "pip"]
# The only folder that the server writes: it holds the store, its service key, the socket and SQLite's
# temporary files. User and group are numbers, so that an orchestrator that forbids root can tell that
# this is not root.
RUN ["install", "--directory", "--owner=65532", "--group=65532", "--mode=0700", "/var/lib/keyfold"]
COPY --from=installed /opt/keyfold /opt/keyfold

# The server listens on a unix socket, because without TLS it listens only on loopback or on a socket,
# and only the container itself reaches its loopback. Callers mount the socket's folder and run as
# this user, because only its owner may open the socket. By default that folder also holds the store
# and its service key. If callers must not see those, mount a second folder for the socket and name
# it in KEYFOLD_LISTEN. The address of metrics and probes is off, because only the container would
# reach it on loopback, too; KEYFOLD_METRICS=0.0.0.0:9464 opens it to whoever reaches the container.
ENV KEYFOLD_LISTEN=unix:/var/lib/keyfold/keyfold.sock \
    KEYFOLD_METRICS=off \
    KEYFOLD_STORE=sqlite:////var/lib/keyfold/keyfold.db \
    TMPDIR=/var/lib/keyfold \
    PATH=/opt/keyfold/bin:${PATH} \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
WORKDIR /var/lib/keyfold
VOLUME ["/var/lib/keyfold"]
USER 65532:65532
# On SIGTERM the server drains for up to KEYFOLD_DRAIN_GRACE, by default 30 s. Give it longer than that
# before you kill it (docker stop --time 40).
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=10s --start-period=10s --retries=3 \
    CMD ["/opt/keyfold/bin/keyfold-server", "health"]
ENTRYPOINT ["/opt/keyfold/bin/keyfold-server"]
