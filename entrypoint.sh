#!/bin/sh
# The image's entrypoint: become a user (QMASTER_USER; root: stay root) with the group of the engine's socket, without
# capabilities. Root is needed only to find that group and to make the data folder the user's.
set -eu
trap "exit 143" TERM INT # process 1 has no default for them
user=${QMASTER_USER:-quartermaster}
if [ "$(id -u)" = 0 ] && [ "$user" != root ]; then
    socket=${DOCKER_HOST:-unix:///var/run/docker.sock}
    group=$(stat --dereference --format=%g "${socket#unix://}" 2>/dev/null || id -g "$user")
    chown --recursive "$user:" "$QMASTER_DATA_DIR" 2>/dev/null || true # root may not, where CHOWN is dropped
    groups=$(id -G | tr ' ' '\n' | grep -vx 0 | tr '\n' ,)$group
    HOME=$(getent passwd "$user" | cut -d: -f6)
    export HOME
    set -- setpriv --reuid "$user" --regid "$(id -g "$user")" --groups "$groups" --no-new-privs -- "$@"
fi
exec "$@"
