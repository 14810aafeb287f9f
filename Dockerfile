# quartermaster as an image: ./build.sh, or docker build -t quartermaster .
# No later syntax than Docker 20.10's, with or without BuildKit.

# Any Debian with Python 3.11 or newer and its venv module serves as a base.
# The digest is that of the index of all platforms; change it with the tag.
ARG BASE=python:3.13.14-slim-trixie@sha256:6771159cd4fa5d9bba1258caf0b82e6b73458c694d178ad97c5e925c2d0e1a91

FROM ${BASE} AS build
# For a builder that cannot reach PyPI: a mirror's address, or 1 and all packages in the folder wheels/.
ARG PIP_INDEX_URL
ARG PIP_NO_INDEX
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
# "wheel[s]" is wheels where there is one: a pattern may match nothing.
COPY requirements.txt wheel[s] /build/
# pip has a place of its own, so that what ships is without it.
RUN python3 -m venv /build/pip \
    && python3 -m venv --without-pip /opt/quartermaster \
    && /build/pip/bin/python -m pip --python /opt/quartermaster/bin/python install \
        --quiet --no-compile --only-binary :all: --find-links /build \
        --require-hashes --requirement /build/requirements.txt
COPY . /opt/quartermaster/app
# What is imported is compiled here, also of the base's library, which the official images hold as source only.
# And the modes of a checkout (umask 077) would shut out a user.
RUN cd /opt/quartermaster/app \
    && rm -rf requirements.txt wheels \
    && PYTHONPYCACHEPREFIX=/opt/quartermaster/pycache \
        /opt/quartermaster/bin/python -c 'import qmaster.server.app, qmaster.cli.commands' \
    && chmod -R u=rwX,go=rX /opt/quartermaster

FROM ${BASE}
# Group 0 may write, for a container that is started with a --user of its own.
RUN useradd --no-log-init --uid 10001 --user-group --no-create-home --shell /usr/sbin/nologin quartermaster \
    && install -d -o quartermaster -g 0 -m 0770 /data
COPY --from=build /opt/quartermaster /opt/quartermaster
# docker stop kills after ten seconds, and followed logs have two for their last words.
ENV PATH=/opt/quartermaster/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    PYTHONPATH=/opt/quartermaster/app \
    PYTHONPYCACHEPREFIX=/opt/quartermaster/pycache \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONSAFEPATH=1 \
    QMASTER_DATA_DIR=/data \
    QMASTER_SHUTDOWN_TIMEOUT=7 \
    QMASTER_USER=quartermaster
VOLUME /data
# The API, and the one that instances of functions call.
EXPOSE 9090 9091
# It starts as root for what entrypoint.sh does; then it is quartermaster (QMASTER_USER).
ENTRYPOINT ["/opt/quartermaster/app/entrypoint.sh", "python", "-m", "qmaster"]
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s --retries=3 CMD ["python", "-m", "qmaster", "healthcheck"]
LABEL org.opencontainers.image.title="quartermaster" \
    org.opencontainers.image.description="Runs functions and jobs on Docker and Docker Swarm over HTTP, with a token" \
    org.opencontainers.image.licenses="MIT"
