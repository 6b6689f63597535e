# keyfold-server in a container.
#
#     docker build --tag keyfold --build-arg DIGEST=sha256:… .
#     docker run --read-only --volume keyfold:/var/lib/keyfold keyfold
#
# BASE is Debian's Python; DIGEST pins it to one image, which a release always does.
ARG BASE=python:3.11-slim
ARG DIGEST=

# --- the wheel, from what is in the source distribution ----------------------------------

FROM ${BASE}${DIGEST:+@${DIGEST}} AS wheel
WORKDIR /build
COPY requirements/build.lock /build/requirements/build.lock
RUN ["python", "-m", "venv", "/build/tools"]
RUN ["/build/tools/bin/python", "-m", "pip", "install", "--require-hashes", "--no-deps", "--only-binary=:all:", "-r", "/build/requirements/build.lock"]
COPY pyproject.toml LICENSE README.md /build/
COPY clients/python /build/clients/python
COPY server /build/server
# No build isolation: what builds the wheel comes from the lock above.
RUN ["/build/tools/bin/python", "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", "/build/wheels", "/build"]

# --- the installed program ---------------------------------------------------------------

FROM ${BASE}${DIGEST:+@${DIGEST}} AS installed
# The name of a lock in requirements/: `all` is every extra, the key services' SDKs among them;
# `server` leaves those out, and serves LOCAL keys and other packages' providers alone.
ARG EXTRAS=all
COPY requirements/${EXTRAS}.lock /build/requirements/installed.lock
# The environment has no pip of its own; the image's pip fills it. Only ready-made wheels: there
# is no compiler here.
RUN ["python", "-m", "venv", "--without-pip", "/opt/keyfold"]
RUN ["python", "-m", "pip", "--python", "/opt/keyfold/bin/python", "install", "--require-hashes", "--no-deps", "--only-binary=:all:", "-r", "/build/requirements/installed.lock"]
COPY --from=wheel /build/wheels /build/wheels
RUN ["python", "-m", "pip", "--python", "/opt/keyfold/bin/python", "install", "--no-deps", "--no-index", "--find-links", "/build/wheels", "keyfold"]
RUN ["/opt/keyfold/bin/keyfold-server", "--help"]

# --- what runs ---------------------------------------------------------------------------

FROM ${BASE}${DIGEST:+@${DIGEST}}
ARG VERSION=0.1.0
ARG REVISION=
LABEL org.opencontainers.image.title="keyfold-server" \
      org.opencontainers.image.description="Customer-managed encryption keys: a gRPC service that wraps data keys under keys the customer holds" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
# The image's own pip goes, too: nothing is installed where keys are in memory.
RUN ["python", "-m", "pip", "uninstall", "--yes", "--quiet", "setuptools", "wheel", "pip"]
# The one folder that is written: the store, its service key, the socket, SQLite's temporary
# files. Numbers, not names: an orchestrator that forbids root can then see that this is not root.
RUN ["install", "--directory", "--owner=65532", "--group=65532", "--mode=0700", "/var/lib/keyfold"]
COPY --from=installed /opt/keyfold /opt/keyfold

# A unix socket, because without TLS the server listens on loopback or on a socket alone, and a
# container's loopback reaches nobody but the container. Callers mount the socket's folder and run
# as this user: the socket is open to its owner only. In this default that folder holds the store
# and its service key, too; where callers must not see those, mount a second folder for the socket
# and name it in KEYFOLD_LISTEN. For the same reason metrics are off: KEYFOLD_METRICS=0.0.0.0:9464
# shows them to whoever reaches the container.
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
# The server drains on SIGTERM for up to KEYFOLD_DRAIN_GRACE, 30 s unless set: give it longer
# before it is killed (docker stop --time 40).
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=10s --start-period=10s --retries=3 \
    CMD ["/opt/keyfold/bin/keyfold-server", "health"]
ENTRYPOINT ["/opt/keyfold/bin/keyfold-server"]
