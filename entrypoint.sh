#!/bin/sh
# The image's entrypoint: become a user (QMASTER_USER; root: stay root) with the group of the engine's socket, without
# capabilities. Root is needed only to find that group and to make the data folder the user's.
set -eu
trap "exit 143" TERM INT # process 1 has no default for them
user=${QMASTER_USER:-quartermaster}
if [ "$(id -u)" = 0 ] && [ "$user" != root ]; then
    # As the server reads them: the flag, else the variable, else the default. What follows a command is the command's.
    data=${QMASTER_DATA_DIR:-./data} socket=${DOCKER_HOST:-} before=-
    for word; do
        case $before in
        --data-dir) data=$word ;;
        --docker-host) socket=$word ;;
        -*) ;;
        *) case $word in -*) ;; *) break ;; esac ;;
        esac
        case $word in
        --data-dir=*) data=${word#*=} ;;
        --docker-host=*) socket=${word#*=} ;;
        esac
        before=$word
    done
    socket=${socket:-unix:///var/run/docker.sock}
    group=$(stat --dereference --format=%g "${socket#unix://}" 2>/dev/null || id -g "$user")
    mkdir -p "$data" 2>/dev/null || true
    chown --recursive "$user:" "$data" 2>/dev/null || true # root may not, where CHOWN is dropped
    groups=$(id -G | tr ' ' '\n' | grep -vx 0 | tr '\n' ,)$group
    HOME=$(getent passwd "$user" | cut -d: -f6)
    export HOME
    set -- setpriv --reuid "$user" --regid "$(id -g "$user")" --groups "$groups" --no-new-privs -- "$@"
fi
exec "$@"
