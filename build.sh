#!/usr/bin/env bash
# Serves, tests, locks and builds quartermaster, with all the set-up that needs: ./build.sh help
set -euo pipefail
{ : <&0; } 2>/dev/null || exec </dev/null # started with standard input closed

root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)
venv=$root/.venv
pip_audit=2.10.1
test_packages=(
  apache2-utils autoconf automake busybox-static caddy chromium cmake curl debootstrap docker-registry fonts-inter g++
  haproxy iproute2 libfaketime libtool make nginx-light openssh-server prometheus
)

usage() {
  cat <<'USAGE'
./build.sh                          build the Docker image; BASE names another base, IMAGE another name than quartermaster
./build.sh run [flags]              serve; the flags are those of python -m qmaster
./build.sh test [quick] [args]      lint, types, tests; quick: no engine, nothing slow; the arguments are pytest's
./build.sh bench [args]             measure each figure beside its reference: a table, and bench.json; --help: more
./build.sh lock [--upgrade]         pin what pyproject.toml wants; with --upgrade, the newest of it
./build.sh audit                    ask for known vulnerabilities of what is pinned; where nothing can be asked, it says so,
                                    and fails if CI is set and AUDIT_OFFLINE_OK=1 is not
USAGE
}

say() { printf 'build.sh: %s\n' "$*" >&2 || true; } # a terminal that is gone stops nothing

die() {
  say "$*"
  exit 1
}

# --- what the machine has -------------------------------------------------------------------------------------------

is_debian_root() { [[ $(id -u) == 0 && -e /etc/debian_version ]] && command -v apt-get >/dev/null; }

has_package() { [[ $(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null) == installed ]]; }

# RUNLEVEL=1: what the packages hold is wanted, not their services.
apt_get() {
  DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get -y -o DPkg::Lock::Timeout=120 "$@" </dev/null 2>&1
}

apt_install() {
  local package output missing=()
  for package in "$@"; do has_package "$package" || missing+=("$package"); done
  ((${#missing[@]})) || return 0
  say "installing ${missing[*]}"
  apt_get install --no-install-recommends "${missing[@]}" >/dev/null && return
  output=$(apt_get update && apt_get install --no-install-recommends "${missing[@]}") || die "apt-get failed: $output"
}

find_python() {
  local python
  for python in ${PYTHON:+"$PYTHON"} python3 python3.13 python3.12 python3.11; do
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && printf '%s' "$python" && return
  done
  return 1
}

make_venv() {
  local python
  python=$(find_python) || { is_debian_root && apt_install python3-venv && python=$(find_python); } ||
    die "Python 3.11 or newer is needed: install it, or name one with PYTHON=/path/to/python3"
  if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    is_debian_root || die "$python has no venv module: install python3-venv"
    apt_install "$("$python" -c 'import sys; print("python{}.{}-venv".format(*sys.version_info))')"
  fi
  "$python" -m venv --clear "$venv"
}

# ensure_venv NAME FILE…: the venv holds what the files pin; a stamp says what NAME installed last.
ensure_venv() {
  local name=$1 stamp=$venv/$1.stamp
  shift
  [[ -e $stamp && $(<"$stamp") == "$(checksum "$@")" ]] && return
  if [[ -e $stamp ]] || ! "$venv/bin/python" -c 'import pip' 2>/dev/null; then make_venv; fi
  say "installing the pinned dependencies ($name) into .venv"
  "$venv/bin/python" -m pip install -qq --disable-pip-version-check --require-hashes "${@/#/--requirement=}" >&2
  checksum "$@" >"$stamp"
}

checksum() { echo "$(cat -- "$@" | cksum) $("$venv/bin/python" -V 2>&1)"; }

# --- run: the options as the server will read them ------------------------------------------------------------------

# option FLAG VARIABLE DEFAULT ARGS…: the flag's value in the arguments, else the variable's, else the default.
option() {
  local flag=$1 value=${!2:-$3}
  shift 3
  while (($#)); do
    case $1 in
      "$flag") value=${2-} ;;
      "$flag="*) value=${1#*=} ;;
    esac
    shift
  done
  printf '%s' "$value"
}

# The server wants a token: where none is given one is made, and kept so that it is the same next time; beside it as a
# header that curl reads, so that it stands on no command line.
provide_token() {
  local token
  token=$(option --token TOKEN '' "$@")
  [[ -z $token && -z ${TOKEN_FILE-} ]] || return 0
  export TOKEN_FILE=$data/token
  if [[ -e $TOKEN_FILE ]]; then chmod 600 "$TOKEN_FILE"; fi
  [[ -s $TOKEN_FILE ]] ||
    (umask 077 && "$venv/bin/python" -c 'import secrets; print(secrets.token_hex(20))' >"$TOKEN_FILE")
  made_token=$(<"$TOKEN_FILE")
  header=${data#"$PWD/"}/header
  (umask 077 && printf 'Authorization: Bearer %s\n' "$made_token" >"$data/header")
  chmod 600 "$data/header"
}

# say_how IMAGE TYPE ARGS…: what to try, once it answers; where an option is wrong it never does.
say_how() {
  local image=$1 type=$2 port address host cert url curl='curl -sS'
  shift 2
  port=$(option --port PORT 9090 "$@")
  address=$(option --address QMASTER_ADDRESS localhost "$@")
  cert=$(option --tls-cert QMASTER_TLS_CERT '' "$@")
  [[ $address == 0.0.0.0 || $address == :: ]] && address=localhost
  host=$address
  [[ $address == *:* ]] && address="[$address]"
  url=http://$address:$port
  [[ -n $cert ]] && url=https://$address:$port curl="curl -sS --cacert '$cert'"
  if [[ -n ${header-} ]]; then curl="$curl -H @$(printf %q "$header")"; else curl="$curl -H 'Authorization: Bearer YOUR-TOKEN'"; fi
  answers "$host" "$port" && return # it is another's
  (once_it_answers "$host" "$port" "$(how)" &) # twice, so that nobody has to wait for it
}

answers() { (: <"/dev/tcp/$1/$2") 2>/dev/null; }

once_it_answers() {
  local try
  for ((try = 0; try < 600; try++)); do
    kill -0 $$ 2>/dev/null || return 0
    if answers "$1" "$2"; then
      printf '%s\n' "$3"
      return
    fi
    sleep 0.1
  done
}

how() {
  [[ -n ${made_token-} ]] && printf 'Token: %s (kept in %s)\n' "$made_token" "$TOKEN_FILE"
  cat <<HOW
From another terminal:
  $curl $url/run -d '{"image": "$image", "command": "echo hello", "type": "$type", "wait": true}'
  $curl $url/status
  $curl $url/stop -d '{"id": "THE-ID-FROM-RUN"}'
Or open $url/ in a browser, and give it the token.
HOW
  [[ -z ${run_dir-} ]] || printf 'Its engine, for images of your own: DOCKER_HOST=%s docker load -i IMAGE.tar\n' "$DOCKER_HOST"
}

# --- run: the engine ------------------------------------------------------------------------------------------------

# Whether an engine answers; prints "service" where it can run them, else "container".
probe_engine() {
  "$venv/bin/python" - 2>/dev/null <<'PYTHON'
import docker

swarm = docker.from_env(version="auto", timeout=5).info()["Swarm"]
print("service" if swarm.get("ControlAvailable") else "container")
PYTHON
}

can_start_engine() { [[ $(uname -s) == Linux ]] && is_debian_root; }

registry_answers() {
  timeout 2 "$venv/bin/python" - 2>/dev/null <<'PYTHON'
import contextlib, urllib.error, urllib.request

with contextlib.suppress(urllib.error.HTTPError):  # 401: it answers
    urllib.request.urlopen("https://registry-1.docker.io/v2/", timeout=2)
PYTHON
}

# A swarm's gossip wants port 7946: there can be one in a network namespace.
gossip_port_is_free() { ! answers 127.0.0.1 7946; }

# With the host's network the engine can pull images; where there is nothing to pull from, or another swarm is on it,
# it gets a network of its own, without routes: look-ups of images then fail at once, not after 20 s.
choose_network() {
  if ! registry_answers; then
    network=own
    say "no image registry in reach: the engine has an image busybox of its own, and no other"
  elif ! gossip_port_is_free; then
    network=own
    say "port 7946 is another swarm's: the engine gets no network, and has an image busybox of its own, and no other"
  else
    network=host
  fi
}

# The first process of the engine's PID namespace: when it ends, however it ends, the kernel ends dockerd, containerd,
# the shims and the containers, and their mounts go with the mount namespace.
engine_main() {
  local run_dir=$1 engine=$2 network=$3 address=$4 dockerd pid bridge=qm-${1##*-} gateway=/sys/class/net/docker_gwbridge
  read -r pid _ </proc/self/stat # /proc is still that of the host: this is the number others know
  echo "$pid" >"$run_dir/engine.pid"
  mount -t proc proc /proc
  mkdir -p /run/containerd
  mount -t tmpfs tmpfs /run/containerd # dockerd would take the machine's own containerd where that runs
  [[ $network == own ]] && ip link set lo up
  [[ $network == host && -e $gateway ]] && gateway=
  make_bridge "$bridge" "$address" # docker names its own docker0, which may be another engine's
  : >"$engine/dockerd.log"
  # Of a container's output the engine keeps the last 30 MB.
  dockerd --host "unix://$run_dir/docker.sock" --exec-root "$run_dir/exec" --pidfile "$run_dir/docker.pid" \
    --data-root "$engine/data" --iptables=false --bridge="$bridge" \
    --log-driver json-file --log-opt max-size=10m --log-opt max-file=3 >>"$engine/dockerd.log" 2>&1 &
  dockerd=$!
  keep_short "$engine/dockerd.log" &
  trap 'kill -TERM "$dockerd"' TERM
  while kill -0 "$dockerd" 2>/dev/null; do wait "$dockerd" || true; done
  if [[ $network == host ]]; then remove_bridge "$bridge" "$gateway"; fi
}

# make_bridge NAME ADDRESS: containers reach that address, and nothing else: all else is refused at once. The firewall
# stays as it is.
make_bridge() {
  remove_bridge "$1" '' # a killed run's
  ip link add name "$1" type bridge
  ip addr add "$2/24" dev "$1"
  ip link set "$1" up
  ip rule add iif "$1" unreachable
}

# remove_bridge NAME GATEWAY: and what else the engine has made in the host's network.
remove_bridge() {
  ip rule delete iif "$1" unreachable 2>/dev/null || true
  ip link delete "$1" 2>/dev/null || true
  if [[ -n $2 && -e $2 ]]; then ip link delete docker_gwbridge; fi
}

# The address of the bridge: of the first subnet that is in no one's way.
bridge_address() {
  local subnet
  for subnet in 172.30.255 172.31.255 192.168.231 10.231.231; do
    [[ $network == host && -n $(ip -4 route show to match "$subnet.0/24" | grep -v '^default') ]] && continue
    echo "$subnet.1"
    return
  done
  die "no subnet is free for the engine's bridge"
}

# keep_short FILE: every few seconds, what is over 10 MiB is moved to FILE.1. The engine has the file open, and appends.
keep_short() {
  while sleep "${ENGINE_LOG_CHECK:-10}"; do
    if (($(stat -c %s "$1") > ${ENGINE_LOG_MOST:-10485760})); then
      cp "$1" "$1.1"
      : >"$1"
    fi
  done
}

# Descriptor 8 is this script's own, 9 is also held by all that it starts: a taken 8 is another run, a taken 9 alone
# what a killed run left behind, which ends by itself (--pdeathsig, --kill-child).
lock_engine() {
  exec 8>"$engine/run.lock" 9>"$engine/engine.lock"
  flock -w 2 8 || die "another ./build.sh run serves from $data"
  flock -n 9 && return
  say "waiting for what an earlier run left behind to end"
  flock -w 30 9 && return
  kill_leftover "$run_dir/server.pid" qmaster
  kill_leftover "$run_dir/engine.pid" "$run_dir"
  flock -w 10 9 || die "an earlier run's engine does not end: see $engine/dockerd.log"
}

# kill_leftover PIDFILE WORD: only a process whose command line has the word.
kill_leftover() {
  local pid
  pid=$(cat "$1" 2>/dev/null) || return 0
  if tr '\0' ' ' 2>/dev/null <"/proc/$pid/cmdline" | grep -qF -- "$2"; then kill -KILL "$pid"; fi
}

# Sockets and mounts are in /run, under a name made of the data folder's: a socket's path has at most 107 bytes.
start_engine() {
  command -v dockerd >/dev/null || apt_install docker.io
  apt_install busybox-static iproute2
  mkdir -p "$engine"
  chmod 700 "$engine"
  run_dir=/run/quartermaster-$(printf %s "$engine" | sha256sum | head -c 12)
  lock_engine
  say "no engine answers: starting a private one-node swarm, kept in $engine"
  rm -rf --one-file-system "$run_dir"
  mkdir -m 700 "$run_dir"
  choose_network
  address=$(bridge_address)
  local unshare=(unshare --mount --pid --fork --kill-child=TERM)
  [[ $network == own ]] && unshare+=(--net)
  # setsid: the terminal's Ctrl-C is for this script, which ends the server first.
  setsid setpriv --pdeathsig KILL "${unshare[@]}" \
    bash "$root/build.sh" engine-main "$run_dir" "$engine" "$network" "$address" 8>&- &
  engine_pid=$!
  until [[ -S $run_dir/docker.sock ]]; do
    kill -0 "$engine_pid" 2>/dev/null || die "the engine ended: $(tail -n 3 "$engine/dockerd.log")"
    sleep 0.1
  done
  export DOCKER_HOST=unix://$run_dir/docker.sock
  unset DOCKER_TLS_VERIFY DOCKER_CERT_PATH
  prepare_engine 8>&- 9>&- || die "the engine does not come up: $(tail -n 3 "$engine/dockerd.log")"
}

# A swarm comes back with the engine; the first time it is made, on a free port that it remembers.
prepare_engine() {
  "$venv/bin/python" - "$(command -v busybox)" "$network" <<'PYTHON'
import io, pathlib, socket, subprocess, sys, tarfile, time

import docker


def rootfs(busybox):
    """A tar with busybox, and a link for each of its words."""
    words = subprocess.run([busybox, "--list"], check=True, capture_output=True, text=True).stdout.split()
    data, buffer = pathlib.Path(busybox).read_bytes(), io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, mode in (("bin", 0o755), ("tmp", 0o1777)):
            folder = tarfile.TarInfo(name)
            folder.type, folder.mode = tarfile.DIRTYPE, mode
            tar.addfile(folder)
        program = tarfile.TarInfo("bin/busybox")
        program.size, program.mode = len(data), 0o755
        tar.addfile(program, io.BytesIO(data))
        for word in set(words) - {"busybox"}:
            link = tarfile.TarInfo(f"bin/{word}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(link)
    return buffer.getvalue()


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def wait_for(condition, seconds):
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.1)


client = docker.from_env(version="auto", timeout=60)
if not client.images.list("busybox:local"):
    client.api.import_image_from_data(rootfs(sys.argv[1]), repository="busybox", tag="local")
if sys.argv[2] == "own":  # nothing can be pulled: plain "busybox" is that one too
    client.images.get("busybox:local").tag("busybox", "latest")
if client.info()["Swarm"]["LocalNodeState"] == "inactive":
    client.swarm.init(advertise_addr="127.0.0.1", listen_addr=f"127.0.0.1:{free_port()}")
wait_for(lambda: client.info()["Swarm"]["ControlAvailable"], 30)
PYTHON
}

runtime_port() { option --runtime-port QMASTER_RUNTIME_PORT 9091 "$@"; }

# Instances reach the server at their bridge: a socket keeps the network in which it was opened, so the server inherits
# one from there, as from systemd. Nothing listens anywhere else, and no rule of a firewall is needed.
listening='
import ctypes, os, socket, sys


def enter(namespace):
    if ctypes.CDLL(None, use_errno=True).setns(namespace, 0x40000000):  # CLONE_NEWNET
        raise OSError(ctypes.get_errno(), "setns")


run_dir, address, port, *server = sys.argv[1:]
if port != "0":
    here = os.open("/proc/self/ns/net", os.O_RDONLY)
    with open(f"{run_dir}/engine.pid") as file:
        there = os.open(f"/proc/{file.read().strip()}/ns/net", os.O_RDONLY)
    enter(there)
    listener = socket.create_server((address, int(port)))
    enter(here)
    os.dup2(listener.fileno(), 3)
    os.environ |= {"LISTEN_FDS": "1", "LISTEN_PID": str(os.getpid()), "QMASTER_ADVERTISE": address}
os.execv(server[0], server)'

serve_with_engine() {
  local status=0
  engine=$data/engine
  trap end_all EXIT
  trap 'exit 129' HUP
  trap 'exit 130' INT
  trap 'exit 143' TERM
  start_engine
  say_how busybox:local service "$@"
  setsid setpriv --pdeathsig TERM "$venv/bin/python" -c "$listening" "$run_dir" "$address" "$(runtime_port "$@")" \
    "${server[@]}" 8>&- &
  server_pid=$!
  echo "$server_pid" >"$run_dir/server.pid"
  wait -n "$server_pid" "$engine_pid" || status=$?
  if kill -0 "$server_pid" 2>/dev/null; then die "the engine ended by itself: see $engine/dockerd.log"; fi
  server_pid=
  exit "$status"
}

# The server first, then the engine. Ctrl-C once more, two seconds later or more: at once.
end_all() {
  local status=$?
  end_begun=$SECONDS
  trap hurry HUP INT TERM
  if [[ -n ${server_pid-} ]]; then
    kill -TERM "$server_pid" 2>/dev/null || true
    await "$server_pid" 30 || kill -KILL "$server_pid"
    if ((status > 128)); then wait "$server_pid" && status=0 || status=$?; fi # a signal: the server says how it went
  fi
  if [[ -n ${engine_pid-} ]]; then
    say "ending the engine; its containers have 10 s"
    kill -TERM "$(cat "$run_dir/engine.pid")" 2>/dev/null || true
    await "$engine_pid" 30 || kill_all
    wait "$engine_pid" || true
    rm -rf --one-file-system "$run_dir"
  fi
  exit "$status"
}

hurry() { if ((SECONDS - end_begun > 2)); then kill_all; fi; }

kill_all() {
  [[ -z ${server_pid-} ]] || kill -KILL "$server_pid" 2>/dev/null || true
  kill_leftover "$run_dir/engine.pid" "$run_dir"
}

# await PID SECONDS: whether it has ended by then.
await() {
  local deadline=$((SECONDS + $2))
  while kill -0 "$1" 2>/dev/null; do
    ((SECONDS < deadline)) || return 1
    sleep 0.1
  done
}

run() {
  local host type
  ensure_venv run "$root/requirements.txt"
  export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}
  server=("$venv/bin/python" -P -m qmaster "$@")
  case " $* " in *' --help '*) exec "${server[@]}" ;; esac
  data=$(option --data-dir QMASTER_DATA_DIR "$root/data" "$@")
  mkdir -p -m 700 -- "$data" # the journal holds what jobs wrote
  data=$(cd -- "$data" && pwd -P)
  export QMASTER_DATA_DIR=$data
  provide_token "$@"
  host=$(option --docker-host DOCKER_HOST '' "$@")
  if [[ -n $host ]]; then
    type=$(DOCKER_HOST=$host probe_engine) || die "the engine at $host does not answer: start it, or name another"
  elif [[ -d $data/engine/data ]] && can_start_engine; then
    serve_with_engine "$@"
  elif ! type=$(probe_engine); then
    can_start_engine || die "no engine answers: start Docker, or name an engine with DOCKER_HOST or --docker-host"
    serve_with_engine "$@"
  fi
  [[ $type == service ]] || say "the engine is no swarm manager: services want one (docker swarm init)"
  say_how busybox "$type" "$@"
  exec "${server[@]}"
}

# --- test, bench, lock, build ---------------------------------------------------------------------------------------

# stage NAME COMMAND…: says how long it took; the first that fails ends the script.
stage() {
  stage=$1 stage_begun=$SECONDS
  shift
  "$@"
  say "$stage: $((SECONDS - stage_begun)) s"
  stage=
}

set_up_tests() {
  ensure_venv test "$root/requirements.txt" "$root/tests/requirements.txt"
  [[ $1 == quick ]] && return
  is_debian_root || die "the tests start engines, which wants root on Debian or Ubuntu: ./build.sh test quick does without"
  command -v dockerd >/dev/null || apt_install docker.io
  apt_install "${test_packages[@]}"
  command -v npm >/dev/null || apt_install nodejs npm
}

run_tests() {
  local kind=full select=()
  if [[ ${1-} == quick ]]; then
    kind=quick select=(-m 'not engine and not slow')
    shift
  fi
  cd -- "$root"
  unset PYTHONDONTWRITEBYTECODE # hundreds of servers are started
  trap 'if [[ -n ${stage-} ]]; then say "$stage: failed after $((SECONDS - stage_begun)) s"; fi' EXIT
  stage set-up set_up_tests "$kind"
  stage lint "$venv/bin/python" -m ruff check
  stage format "$venv/bin/python" -m ruff format --check
  if (($#)); then
    stage types "$venv/bin/python" -m mypy
    stage tests "$venv/bin/python" -m pytest "${select[@]}" "$@"
  else
    stage tests run_parts "run_$kind"
  fi
}

# run_parts FUNCTION: what it begins runs beside each other, and the type checker beside all; then it is told how that went.
run_parts() {
  local work part parts=(types)
  work=$(mktemp -d)
  trap 'wait; exit 130' INT # they tidy up
  run_part types "$venv/bin/python" -m mypy &
  "$1"
  for part in "${parts[@]}"; do
    say "the part $part:"
    cat "$work/$part.log"
    [[ -s $work/$part.status ]] || return 1
  done
  judge "$work" || return
  rm -rf "$work"
}

run_quick() {
  local api=(tests/{api,server}) calls=(tests/api/calls tests/{cli,functions}) slow
  # What is slow as a whole is not even imported.
  mapfile -t slow < <(grep -rl --include='test_*.py' '^pytestmark = pytest\.mark\.slow' tests)
  select+=("${slow[@]/#/--ignore=}")
  parts+=(api calls rest)
  test_part api "${select[@]}" "${api[@]}" --ignore=tests/api/calls &
  test_part calls "${select[@]}" "${calls[@]}" &
  test_part rest "${select[@]}" "${api[@]/#/--ignore=}" "${calls[@]/#/--ignore=}" &
  wait
}

# Tests with engines wait more than they work: so there are more parts than processors. The patient tests wait for elections
# and timeouts; the page's tests, which work much, come after them, in two processes, as a browser's thread is one. The late
# tests measure, and run alone.
run_full() {
  local usual=(-m 'not patient and not late') api=(tests/api tests/auth) rest=(tests/cli tests/models tests/server)
  local patient patient_functions late page=(tests/page/test_{keys,log_viewer,run_page,table,trust}.py)
  mapfile -t patient < <(having_mark patient | grep -v ^tests/functions/)
  mapfile -t patient_functions < <(having_mark patient | grep ^tests/functions/)
  mapfile -t late < <(having_mark late)
  parts+=(patient patient-functions api runs rest functions page page-runs engine late)
  {
    test_part patient -m 'patient and not late' "${patient[@]}"
    test_part page "${usual[@]}" tests/page "${page[@]/#/--ignore=}"
  } &
  {
    test_part patient-functions -m 'patient and not late' "${patient_functions[@]}"
    test_part page-runs "${usual[@]}" "${page[@]}"
  } &
  test_part api "${usual[@]}" "${api[@]}" &
  test_part runs "${usual[@]}" tests/runs &
  test_part rest "${usual[@]}" "${rest[@]}" &
  test_part functions "${usual[@]}" tests/functions &
  test_part engine "${usual[@]}" "${api[@]/#/--ignore=}" "${rest[@]/#/--ignore=}" --ignore=tests/{runs,functions,page} &
  wait
  test_part late -m late "${late[@]}"
}

# having_mark MARK: the files with such tests; to collect all the others takes some seconds.
having_mark() { grep -rl --include='test_*.py' "pytest\.mark\.$1" tests; }

# test_part NAME ARGS…: tests; the arguments are pytest's.
test_part() { run_part "$1" "$venv/bin/python" -m pytest -o "cache_dir=$work/$1" "${@:2}"; }

# run_part NAME COMMAND…: its output and its exit code go to files.
run_part() {
  local part=$1 status=0
  shift
  # trap: what begins in the background is deaf to Ctrl-C otherwise.
  (trap - INT && exec "$@") >"$work/$part.log" 2>&1 || status=$?
  echo "$status" >"$work/$part.status"
  say "$part: exit code $status after $((SECONDS - stage_begun)) s: $(tail -n 1 "$work/$part.log")"
}

# judge FOLDER: fails unless all passed, or what failed passes when it is run again.
judge() {
  local status
  [[ $(<"$1/types.status") == 0 ]] || return 1
  status=$(cat "$1"/*.status | sort -n | tail -n 1)
  ((status > 0)) || return 0
  ((status == 1)) || return 1 # it is not that tests have failed
  run_again "$1"
}

# In CI up to three tests that fail are run once more, by themselves: thousands of them on real engines share a machine
# with strangers. They are named all the same: a test that is unsteady is a defect, of the product or of the test.
run_again() {
  local failed
  [[ -n ${CI-} ]] || return 1
  mapfile -t failed < <(cat "$1"/*/v/cache/lastfailed | "$venv/bin/python" -c 'import json, sys
decoder, text = json.JSONDecoder(), sys.stdin.read().strip()
while text:
    tests, end = decoder.raw_decode(text)
    print(*tests, sep="\n")
    text = text[end:].strip()')
  ((${#failed[@]} > 0 && ${#failed[@]} <= 3)) || return 1
  say "run once more: ${failed[*]}"
  "$venv/bin/python" -m pytest "${failed[@]}" || return 1
  say "UNSTEADY, look for the reason: ${failed[*]}"
}

run_bench() {
  set_up_tests full
  cd -- "$root"
  PYTHONPATH=$root:$root/tests exec "$venv/bin/python" -m bench "$@"
}

# The oldest Python that is supported sees every dependency that a newer one may not need.
lock() {
  local python work
  python=$(PYTHON=${PYTHON:-python3.11} find_python) || die "Python 3.11 is needed: name it with PYTHON=/path/to/python3.11"
  work=$(mktemp -d)
  # shellcheck disable=SC2064
  trap "rm -rf '$work'" EXIT
  "$python" -m venv "$work/venv"
  "$work/venv/bin/python" -m pip install -qq --disable-pip-version-check pip-tools
  cd -- "$root"
  compile requirements.txt "$@" pyproject.toml
  "$python" -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["dependency-groups"]["test"], sep="\n")' |
    compile tests/requirements.txt "$@" --constraint requirements.txt -
  sed 's/-r -$/pyproject.toml (test)/' tests/requirements.txt >"$work/named"
  cat "$work/named" >tests/requirements.txt
}

compile() {
  local output=$1
  shift
  say "writing $output"
  CUSTOM_COMPILE_COMMAND='./build.sh lock' "$work/venv/bin/pip-compile" --quiet --generate-hashes --strip-extras \
    --allow-unsafe --no-emit-index-url --no-emit-find-links --no-emit-trusted-host --output-file "$output" "$@"
}

# Known vulnerabilities fail it. Where the advisories cannot be had, it says so; in CI that fails it too, as nobody reads
# what a green run says, unless AUDIT_OFFLINE_OK=1 says that this is known.
audit() {
  local python work status=0
  python=$(find_python) || die "Python 3.11 or newer is needed"
  work=$(mktemp -d)
  # shellcheck disable=SC2064
  trap "rm -rf '$work'" EXIT
  cd -- "$root"
  "$python" -m venv "$work/venv" &&
    "$work/venv/bin/python" -m pip install -qq --disable-pip-version-check "pip-audit==$pip_audit" >"$work/log" 2>&1 ||
    { nothing_was_asked "pip-audit cannot be installed here" && return; }
  timeout 120 "$work/venv/bin/pip-audit" --requirement requirements.txt --requirement tests/requirements.txt \
    --disable-pip --progress-spinner off --format json >"$work/found.json" 2>"$work/log" || true
  "$python" - "$work/found.json" <<'PYTHON' || status=$?
import json, pathlib, sys

try:
    packages = json.loads(pathlib.Path(sys.argv[1]).read_text())["dependencies"]
except ValueError:
    packages = []
asked = [each for each in packages if "skip_reason" not in each]
if not asked:
    sys.exit(3)
for each in asked:
    for flaw in each["vulns"]:
        print(f"{each['name']} {each['version']}: {flaw['id']}, fixed in {', '.join(flaw['fix_versions']) or 'no version'}")
skipped = f"; the advisories of {len(packages) - len(asked)} cannot be had here" if len(asked) < len(packages) else ""
print(f"build.sh: audit: {len(asked)} packages were asked for{skipped}", file=sys.stderr)
sys.exit(any(each["vulns"] for each in asked))
PYTHON
  ((status != 3)) || { nothing_was_asked "the advisories cannot be had here" && return; }
  return "$status"
}

nothing_was_asked() {
  say "audit: $1: nothing was asked"
  [[ -z ${CI-} || ${AUDIT_OFFLINE_OK-} == 1 ]] || die "audit: CI is set: AUDIT_OFFLINE_OK=1 says that this is fine"
}

# With a folder wheels/ (pip download) it needs no package index; else PIP_INDEX_URL may name another than PyPI.
build_image() {
  local image=${IMAGE:-quartermaster} version revision
  command -v docker >/dev/null || die "an image wants docker: install it, or serve without one: ./build.sh run"
  docker version >/dev/null 2>&1 || die "no engine answers: start Docker, or name an engine with DOCKER_HOST"
  cd -- "$root"
  version=$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' qmaster/__init__.py)
  local flags=(--tag "$image" --label "org.opencontainers.image.version=$version" --build-arg PIP_INDEX_URL)
  ! revision=$(git rev-parse HEAD 2>/dev/null) || flags+=(--label "org.opencontainers.image.revision=$revision")
  [[ -z ${BASE-} ]] || flags+=(--build-arg "BASE=$BASE")
  [[ ! -d wheels ]] || flags+=(--build-arg PIP_NO_INDEX=1)
  say "building the image $image of version $version${BASE:+ on $BASE}"
  docker build "${flags[@]}" . || die "the image was not built"
  say "built $image: docs/deploy.md says how to start it"
}

main() {
  local word=${1-}
  (($# == 0)) || shift
  case $word in
    '') build_image ;;
    run) run "$@" ;;
    test) run_tests "$@" ;;
    bench) run_bench "$@" ;;
    lock) lock "$@" ;;
    audit) audit ;;
    engine-main) engine_main "$@" ;; # of run's own
    help | --help | -h) usage ;;
    *)
      usage >&2
      exit 2
      ;;
  esac
}

main "$@"
