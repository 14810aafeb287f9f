"""Errors of invalid requests: msgspec's errors in JSON's terms, and hints for other tools' words. Pure."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal, get_args, get_origin, get_type_hints

from .units import UNITS, Unit, amount

MAX_TOKEN = 4096  # bytes
LONGEST = 64  # characters of a quoted name, and of a word that is looked up
MAX_BITS = 64  # of an integer that is shown
NAMES = {
    "int": "an integer",
    "float": "a number",
    "str": "a string",
    "bool": "a boolean",
    "array": "an array",
    "object": "an object",
    "null": "null",
    "datetime": "a date and time",
    "date": "a date",
    "time": "a time",
}
COUNTED = {"str": "character", "array": "item"}
BOUNDS = {">=": "at least", "<=": "at most"}
_EXPECTED = re.compile(r"Expected `(?P<kinds>[^`]+)`(?: (?P<rest>.*?))?(?:, got `(?P<got>\w+)`)?", re.DOTALL)
_BOUNDED = re.compile(r"(at (?:least|most) )([0-9.]+)")
_NUMBER = re.compile(r"\b(a number|an integer)(?: or a string)?")
_BOUND = re.compile(r"(?P<length>of length )?(?P<sign>[<>]=) (?P<number>[0-9.]+)")
TYPO = 0.85  # the least similarity of a typing mistake to a known word; that of gpus and cpus is 0.75
HOST = "not supported, because it could reach the host"
ONE_OF_TWO = "use {memory} and {cpus}: each is the limit and the reservation"
BACKGROUND = "not needed, because a run is in the background; {wait} waits for its end"
NO_TERMINAL = "not supported: a run has no terminal; use {command} and {stdin}"
PROBES = "not supported; {healthcheck} switches the image's own HEALTHCHECK on or off"
OWN_NETWORK = "use {networks}, the names of swarm networks; the host's network is not supported"
AT_THE_TOP = "write its fields at the top, beside {image}"
ONE_IMAGE = "not supported: a run is one image"
NOT_UPDATED = "not supported, because a run is not updated: stop it, and start another"
NOT_SCHEDULED = "not supported for a run; publish a function with schedules"
READ_BACK = "not supported, because the output of a run is read back; its logs show it"
OTHER_LIMITS = "not supported; the limits are {memory}, {cpus} and {pids_limit}"
PLACED = "not supported; {constraints}, {memory} and {cpus} decide where it runs"
RETRIED = "use {max_attempts} with {restart}"

# Lower case, without - and _; {field} stands for the field, or for its option on the command line.
ANSWERS: Mapping[str, str] = {
    **dict.fromkeys(("environment", "environ", "envs", "vars", "variables"), "use {env}"),
    **dict.fromkeys(("labelfile",), "not supported; use {labels} with their names and values"),
    **dict.fromkeys(("runasuser",), "use {user}"),
    **dict.fromkeys(("newprivileges", "allowprivilegeescalation"), "use {no_new_privileges}, which says the opposite"),
    **dict.fromkeys(("envfile", "envfrom"), "not supported; use {env} with its names and values"),
    **dict.fromkeys(("cmd", "args", "arguments"), "use {command}"),
    **dict.fromkeys(("workingdir", "cwd", "dir", "directory"), "use {workdir}"),
    **dict.fromkeys(("containername", "servicename", "jobname", "generatename"), "use {name}"),
    **dict.fromkeys(("annotations", "annotation", "containerlabel", "metadata"), "use {labels}"),
    **dict.fromkeys(
        ("registryauth", "withregistryauth", "xregistryauth", "credentials", "imagepullsecrets"), "use {auth}"
    ),
    **dict.fromkeys(
        ("mem", "memlimit", "memorylimit", "limitmemory", "memoryreservation", "memreservation"), "use {memory}"
    ),
    **dict.fromkeys(("reservememory", "memorybytes"), "use {memory}"),
    **dict.fromkeys(("cpulimit", "limitcpu", "reservecpu", "cpucount", "nanocpus", "cores"), "use {cpus}"),
    **dict.fromkeys(("resources", "limits", "requests", "reservations"), ONE_OF_TWO),
    "deploy": "use {replicas}, {restart}, {restart_delay}, {max_attempts}, {constraints}, {memory} and {cpus}",
    **dict.fromkeys(
        ("cpushares", "cpuquota", "cpuperiod", "cpusetcpus", "cpusetmems", "cpuset"), "not supported; use {cpus}"
    ),
    **dict.fromkeys(
        ("memoryswap", "memswaplimit", "memswappiness", "memoryswappiness", "oomkilldisable"),
        "not supported, because {memory} is all that a run gets",
    ),
    **dict.fromkeys(("scale", "parallelism", "completions", "instances", "count"), "use {replicas}"),
    **dict.fromkeys(("restartpolicy", "restartcondition"), "use {restart}: none, on-failure or any"),
    **dict.fromkeys(
        ("restartmaxattempts", "maximumretrycount", "backofflimit", "retries"), "use {max_attempts} with {restart}"
    ),
    **dict.fromkeys(("placement", "nodeselector", "affinity", "nodename", "nodes"), "use {constraints}"),
    **dict.fromkeys(("placementpref", "tolerations", "topologyspreadconstraints"), "not supported; use {constraints}"),
    **dict.fromkeys(("networkmode", "net", "networkalias", "links", "link"), OWN_NETWORK),
    **dict.fromkeys(("publish", "publishall", "portbindings", "publishedports", "endpointspec"), "use {ports}"),
    **dict.fromkeys(
        ("expose", "exposedports", "containerport"),
        "not needed: in a network all ports are open; use {ports} to publish one",
    ),
    **dict.fromkeys(("config", "configmap"), "use {configs}"),
    **dict.fromkeys(
        ("volume", "volumemounts", "mounts", "mount", "binds", "bind"), "use {volumes}, such as NAME:/path"
    ),
    **dict.fromkeys(("volumesfrom", "volumedriver", "storageopt", "storageopts"), "not supported; use {volumes}"),
    **dict.fromkeys(("gpu", "devicerequests"), "use {gpus} for a container, {generic_resources} for a service"),
    **dict.fromkeys(("genericresource",), "use {generic_resources}"),
    "runtimeclassname": "not supported; use {constraints} to choose nodes",
    **dict.fromkeys(("privileged", "capadd", "capabilities", "devices", "device", "devicecgrouprule"), HOST),
    **dict.fromkeys(("securityopt", "securitycontext", "usernsmode", "userns", "cgroupparent", "cgroupns"), HOST),
    **dict.fromkeys(("pid", "pidmode", "ipc", "ipcmode", "uts", "utsmode", "hostnetwork", "hostpid", "hostipc"), HOST),
    **dict.fromkeys(("sysctls", "sysctl", "runtime", "groupadd", "hostconfig"), HOST),
    **dict.fromkeys(
        ("rm", "autoremove", "remove", "ttlsecondsafterfinished"), "use {ttl}: seconds after its end, 0 for at once"
    ),
    **dict.fromkeys(("activedeadlineseconds", "deadline", "maxruntime"), "use {timeout}"),
    **dict.fromkeys(("detach", "background", "async"), BACKGROUND),
    **dict.fromkeys(("tty", "attach"), NO_TERMINAL),
    **dict.fromkeys(("interactive", "openstdin", "stdinopen"), "use {stdin}, a container's standard input as text"),
    **dict.fromkeys(("healthcmd", "livenessprobe", "readinessprobe", "startupprobe"), PROBES),
    **dict.fromkeys(("pidslimit", "limitpids", "pids"), "use {pids_limit}"),
    **dict.fromkeys(("nohealthcheck",), "use {healthcheck}"),
    **dict.fromkeys(("pull", "imagepullpolicy"), "use {pull_policy}: always, missing or never"),
    **dict.fromkeys(("stoptimeout", "terminationgraceperiodseconds"), "use {stop_grace_period}"),
    **dict.fromkeys(("addhost", "hosts", "hostaliases"), "use {extra_hosts}, such as NAME:ADDRESS"),
    **dict.fromkeys(("dnsconfig", "dnspolicy", "nameservers"), "use {dns}"),
    **dict.fromkeys(("domainname", "dnssearch", "dnsoption", "host", "ip", "ip6", "macaddress"), "not supported"),
    "ulimit": "use {ulimits}",
    **dict.fromkeys(("readonlyrootfs", "readonlyrootfilesystem"), "use {read_only}"),
    **dict.fromkeys(("isolation", "platform"), "not supported"),
    **dict.fromkeys(("logdriver", "logopt", "logging", "updateconfig", "rollbackconfig"), "not supported"),
    **dict.fromkeys(("schedule", "cron"), "not supported for a run; publish a function with schedules"),
    **dict.fromkeys(("build", "dependson", "profiles", "services"), "not supported: a run is one image"),
    **dict.fromkeys(("containerspec", "tasktemplate", "spec", "containers", "template"), AT_THE_TOP),
    **dict.fromkeys(("jobtemplate", "overrides"), AT_THE_TOP),
    **dict.fromkeys(("apiversion", "kind", "selector", "manualselector", "managedby", "fieldmanager"), "leave it out"),
    **dict.fromkeys(("initcontainers", "ephemeralcontainers", "extends", "develop", "provider", "models"), ONE_IMAGE),
    "onbuild": ONE_IMAGE,
    **dict.fromkeys(("imagename", "dockerimage", "container", "tag", "repository"), "use {image}, with its tag"),
    **dict.fromkeys(("username", "password", "registry"), "use {auth}"),
    **dict.fromkeys(("disablecontenttrust", "digest"), "use {image} with its digest"),
    "noresolveimage": "use {pull_policy}: never asks no registry",
    **dict.fromkeys(("script", "commandline", "cmdline"), "use {command}"),
    "shell": "use {entrypoint}",
    **dict.fromkeys(("poststart", "prestop", "lifecycle"), "not supported; put it into {command}"),
    "workingdirectory": "use {workdir}",
    **dict.fromkeys(("environmentvariables", "envvars"), "use {env}"),
    "runasgroup": "use {user}, such as 1000:1000",
    "runasnonroot": "use {user}, such as nobody",
    **dict.fromkeys(("group", "fsgroup", "supplementalgroups"), "not supported; use {user}, such as 1000:1000"),
    **dict.fromkeys(("serviceaccount", "serviceaccountname"), "not supported; use {secrets}"),
    "automountserviceaccounttoken": "not supported; use {secrets}",
    **dict.fromkeys(("memorymb", "ram", "memoryrequest"), "use {memory}"),
    **dict.fromkeys(("cpurequest", "vcpus"), "use {cpus}"),
    **dict.fromkeys(("blkioweight", "blkioweightdevice", "blkioconfig", "oomscoreadj", "kernelmemory"), OTHER_LIMITS),
    **dict.fromkeys(("devicereadbps", "devicereadiops", "devicewritebps", "devicewriteiops"), OTHER_LIMITS),
    **dict.fromkeys(("cpurtperiod", "cpurtruntime", "cpupercent", "resizepolicy", "overhead"), OTHER_LIMITS),
    **dict.fromkeys(("maxreplicaspernode", "replicasmaxpernode"), "not supported; use {constraints}"),
    **dict.fromkeys(("schedulername", "priorityclassname", "priority", "preemptionpolicy", "resourceclaims"), PLACED),
    **dict.fromkeys(("schedulinggates", "readinessgates"), PLACED),
    **dict.fromkeys(("os", "arch", "architecture"), "use {constraints}, such as node.platform.arch==x86_64"),
    **dict.fromkeys(("maxconcurrent", "completionmode"), "use {replicas}"),
    **dict.fromkeys(("backofflimitperindex", "maxfailedindexes", "podfailurepolicy", "podreplacementpolicy"), RETRIED),
    **dict.fromkeys(("successpolicy", "maxretries", "retry", "attempts"), RETRIED),
    **dict.fromkeys(("timelimit", "maxtime", "timeoutseconds"), "use {timeout}"),
    **dict.fromkeys(("suspend", "concurrencypolicy", "startingdeadlineseconds", "timezone"), NOT_SCHEDULED),
    **dict.fromkeys(("callbackurl", "webhook", "notify"), "use {callback}"),
    **dict.fromkeys(
        ("healthinterval", "healthretries", "healthstartinterval", "healthstartperiod", "healthtimeout"), PROBES
    ),
    **dict.fromkeys(("attachstdout", "attachstderr", "sigproxy"), BACKGROUND),
    **dict.fromkeys(("cidfile", "terminationmessagepath", "terminationmessagepolicy"), "not needed: the answer has it"),
    **dict.fromkeys(("attachstdin", "stdinonce", "detachkeys"), NO_TERMINAL),
    "dnsopt": "not supported",
    "quiet": "leave it out",
    "argsescaped": "leave it out",
    **dict.fromkeys(("externallinks", "networkingconfig", "networkdisabled"), OWN_NETWORK),
    **dict.fromkeys(("linklocalip", "endpointmode", "driveropts"), "not supported, because the network is Docker's"),
    **dict.fromkeys(
        ("subdomain", "sethostnameasfqdn", "enableservicelinks"), "not needed: in a network a run has its {name}"
    ),
    "namespace": "not needed: a token sees its own runs alone",
    **dict.fromkeys(("hostusers", "shareprocessnamespace", "useapisocket", "volumedevices", "procmount"), HOST),
    **dict.fromkeys(("seccompprofile", "apparmorprofile", "selinuxoptions", "cgroup", "devicecgrouprules"), HOST),
    "credentialspec": "not supported, because it is for Windows",
    "logconfig": READ_BACK,
    **dict.fromkeys(("rollbackdelay", "rollbackfailureaction", "rollbackmaxfailureratio"), NOT_UPDATED),
    **dict.fromkeys(("rollbackmonitor", "rollbackorder", "rollbackparallelism"), NOT_UPDATED),
    **dict.fromkeys(("updatedelay", "updatefailureaction", "updatemaxfailureratio", "updatemonitor"), NOT_UPDATED),
    **dict.fromkeys(("updateorder", "updateparallelism", "forceupdate"), NOT_UPDATED),
}

# Field → another tool's value, in the same form → the value to use.
VALUES: Mapping[str, Mapping[str, str]] = {
    "restart": {"no": "none", "never": "none", "always": "any", "unlessstopped": "any", "onfailure": "on-failure"},
    "pull_policy": {"ifnotpresent": "missing", "always": "always", "never": "never"},
}
# Field → how it is written, for whoever writes it as another tool's.
EXAMPLES: Mapping[str, str] = {
    "env": 'write {"NAME": "value"}',
    "labels": 'write {"key": "value"}',
    "ports": 'write ["8080:80"]',
    "networks": 'write ["name"]',
    "secrets": 'write ["name"]',
    "healthcheck": "it switches the image's own HEALTHCHECK on or off",
    "constraints": 'write ["node.role==worker"]',
}


def quote(text: str, limit: int = LONGEST) -> str:
    """Return a name that the caller sent, cut and made printable, in quotes."""
    shown = text if len(text) <= limit else text[:limit] + "…"
    return "'" + "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in shown) + "'"


def explain(
    message: str,
    document: Mapping[str, Any],
    to: type,
    patterns: Mapping[str, str],
    instead: Callable[[str], str | None] = lambda word: None,
) -> str:
    """Reword ``Expected `int`, got `str` - at `$.memory``` as ``memory: expected an integer (MiB), got a string``.

    Args:
        message: msgspec's error.
        document: the invalid document.
        to: the struct that it was converted to.
        patterns: each pattern of ``to`` → its words.
        instead: returns what to use instead of another tool's word; None for an unknown word.
    """
    unknown = re.match(r"Object contains unknown field `(.*)`", message, re.DOTALL)
    if unknown:
        return f"unknown field {quote(unknown[1])}{_meant(unknown[1], to, instead(unknown[1]))}"
    missing = re.match(r"Object missing required field `(.*)`", message)
    if missing:
        return f"{missing[1]}: is required"
    text, path = _placed(message)
    field = re.split(r"[.\[]", path, maxsplit=1)[0]
    if text.startswith("Invalid enum value"):
        hint = get_type_hints(to)[field]
        number = "a number, or " if float in get_args(hint) else ""
        words = list(_choices(hint))
        one = f"expected {number}{'one of ' if len(words) > 1 else ''}{', '.join(words)}"
        text = one if words else text[:1].lower() + text[1:]  # of a part of a field
        text += value_instead(field, document.get(field))
    else:
        text = _expected(text, patterns)
    if path in document:
        text = _with_value(_with_unit(text, UNITS[path]) if path in UNITS else text, document[path])
    if field in EXAMPLES and ", got " in text:
        text += f"; {EXAMPLES[field]}"
    return f"{_place(path, field, document)}: {text}" if path else text


def squeezed(word: str) -> str:
    """Return a word as ``ANSWERS`` has it: ``working_dir``, ``workingDir`` and ``--working-dir`` are the same."""
    return word.lower().replace("-", "").replace("_", "")


def answer(word: str, names: Mapping[str, str]) -> str | None:
    """Return what to use instead of another tool's word, as far as there are such fields; None for other words.

    Args:
        word: the word.
        names: each field of a run, or of a function, → its name here.
    """
    found = ANSWERS.get(squeezed(word)) if len(word) <= LONGEST else None
    if found is None:
        return None
    try:
        return found.format_map(names)
    except KeyError:  # a function has fewer fields than a run
        return "not supported for a function"


def value_instead(field: str | None, value: Any) -> str:
    """Return what to use instead of another tool's value, to stand behind an error; "" for other values."""
    found = VALUES.get(field or "", {}).get(squeezed(value[:LONGEST])) if isinstance(value, str) else None
    return f"; use {found} instead of {quote(value)}" if found else ""


def meant(word: str, known: Iterable[str]) -> str | None:
    """Return the known word that differs only in case, separators or a typing mistake; else None.

    Never a word with another meaning: ``gpus`` is not ``cpus``.
    """
    if len(word) > LONGEST:
        return None
    by_squeezed = {squeezed(each): each for each in known}
    typed = squeezed(word)
    swapped = [each for each in by_squeezed if sorted(each) == sorted(typed)]
    near = swapped or difflib.get_close_matches(typed, by_squeezed, 1, TYPO)
    return by_squeezed[near[0]] if near else None


def _placed(message: str) -> tuple[str, str]:
    """Split a message into what is wrong and the path, "" if it has none; the caller's text may come before it."""
    text, at, path = message.rpartition(" - at `")
    if not at or not path.endswith("`"):
        return message, ""
    return text, path[:-1].removeprefix("key in ").removeprefix("$").removeprefix(".")


def _meant(field: str, to: Any, answer: str | None) -> str:
    if answer is not None:
        return f": {answer}"
    known: tuple[str, ...] = to.__struct_fields__
    near = meant(field, known)
    return f": did you mean {near}?" if near else f"; known: {', '.join(known)}"


def _choices(hint: Any) -> Iterator[str]:
    """Yield the values of a literal, also inside another type."""
    for inner in get_args(hint):
        if get_origin(hint) is Literal:
            yield str(inner)
        else:
            yield from _choices(inner)


def _place(path: str, field: str, document: Mapping[str, Any]) -> str:
    """Name the invalid value of an object, which msgspec leaves out; all objects of a request have string values."""
    values = document.get(field)
    if path == f"{field}[...]" and isinstance(values, dict):
        return next((f"{field}[{quote(key)}]" for key, value in values.items() if not isinstance(value, str)), field)
    return path


def _expected(text: str, patterns: Mapping[str, str]) -> str:
    found = _EXPECTED.fullmatch(text)
    if not found:
        return text
    kinds = [kind for kind in found["kinds"].split(" | ") if kind != "null"] or ["null"]
    rest = found["rest"] or ""
    if rest.startswith("matching regex "):
        by_shown = {repr(pattern): words for pattern, words in patterns.items()}
        return f"expected {by_shown[rest.removeprefix('matching regex ')]}"
    got = f", got {_name(found['got'])}" if found["got"] else ""
    return f"expected {' or '.join(map(_name, kinds))}{_bounded(kinds[0], rest)}{got}"


def _with_unit(text: str, unit: Unit) -> str:
    """Say the unit behind the bound; without one behind the type, with what else is taken."""
    if _BOUNDED.search(text):
        return _BOUNDED.sub(lambda found: found[1] + amount(found[2], unit), text)
    other = f" or {unit.example}" if unit.example else ""
    return _NUMBER.sub(lambda found: f"{found[1]} ({unit.name}){other}", text, count=1)


def _with_value(text: str, value: Any) -> str:
    """Say the value where a number is expected; that of another field may be secret."""
    expected = text.partition(", got ")[0]
    if not _NUMBER.search(expected) or isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return text
    if isinstance(value, int) and value.bit_length() > MAX_BITS:
        return text
    shown = quote(value) if isinstance(value, str) else str(value).removesuffix(".0")
    return f"{expected}, got {shown}"


def _name(kind: str) -> str:
    return NAMES.get(kind, kind)


def _bounded(kind: str, rest: str) -> str:
    """Return ``>= 6`` as ``of at least 6``; for a length, with what is counted."""
    found = _BOUND.fullmatch(rest)
    if not found:
        return f" {rest}" if rest else ""
    number = found["number"].removesuffix(".0")
    counted = COUNTED[kind] + ("" if number == "1" else "s") if found["length"] else ""
    return f" of {BOUNDS[found['sign']]} {number} {counted}".rstrip()
