"""Words and values of other tools, each with the one to use instead. Pure."""

from __future__ import annotations

from collections.abc import Mapping

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
    **dict.fromkeys(("restartmaxattempts", "maximumretrycount", "backofflimit", "retries"), RETRIED),
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
    **dict.fromkeys(("dnssearch", "dnsoption", "dnsopt"), "not supported; use {dns} and whole names"),
    "domainname": "not supported; use {hostname}",
    "host": "use {extra_hosts} for a name in the run, {constraints} for the node that it runs on",
    "ulimit": "use {ulimits}",
    **dict.fromkeys(("readonlyrootfs", "readonlyrootfilesystem"), "use {read_only}"),
    "platform": "use {constraints}, such as node.platform.arch==x86_64",
    **dict.fromkeys(("isolation", "credentialspec"), "not supported, because it is for Windows"),
    **dict.fromkeys(("logdriver", "logopt", "logging", "logconfig"), READ_BACK),
    **dict.fromkeys(("updateconfig", "rollbackconfig"), NOT_UPDATED),
    **dict.fromkeys(("schedule", "cron"), NOT_SCHEDULED),
    **dict.fromkeys(("build", "dependson", "profiles", "services"), ONE_IMAGE),
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
    "dryrun": "use the query parameter dry_run=1 of POST /run",
    "quiet": "leave it out",
    "argsescaped": "leave it out",
    **dict.fromkeys(("externallinks", "networkingconfig", "networkdisabled"), OWN_NETWORK),
    **dict.fromkeys(
        ("linklocalip", "ip", "ip6", "macaddress", "endpointmode", "driveropts"),
        "not supported, because the network is Docker's",
    ),
    **dict.fromkeys(
        ("subdomain", "sethostnameasfqdn", "enableservicelinks"), "not needed: in a network a run has its {name}"
    ),
    "namespace": "not needed: a token sees its own runs alone",
    **dict.fromkeys(("hostusers", "shareprocessnamespace", "useapisocket", "volumedevices", "procmount"), HOST),
    **dict.fromkeys(("seccompprofile", "apparmorprofile", "selinuxoptions", "cgroup", "devicecgrouprules"), HOST),
    **dict.fromkeys(("rollbackdelay", "rollbackfailureaction", "rollbackmaxfailureratio"), NOT_UPDATED),
    **dict.fromkeys(("rollbackmonitor", "rollbackorder", "rollbackparallelism"), NOT_UPDATED),
    **dict.fromkeys(("updatedelay", "updatefailureaction", "updatemaxfailureratio", "updatemonitor"), NOT_UPDATED),
    **dict.fromkeys(("updateorder", "updateparallelism", "forceupdate"), NOT_UPDATED),
}

# Field → another tool's value, in the same form → the value to use.
VALUES: Mapping[str, Mapping[str, str]] = {
    "restart": {"no": "none", "never": "none", "always": "any", "unlessstopped": "any", "onfailure": "on-failure"},
    "mode": {"replicatedjob": "replicated", "globaljob": "global"},
    "pull_policy": {"ifnotpresent": "missing", "always": "always", "never": "never"},
}
# Field → how it is written, for whoever writes it as another tool's.
EXAMPLES: Mapping[str, str] = {
    "env": 'write {"NAME": "value"}',
    "labels": 'write {"key": "value"}',
    "ports": 'write ["8080:80"]',
    "networks": 'write ["name"]',
    "secrets": 'write ["name"]',
    "configs": 'write ["name"]',
    "volumes": 'write ["name:/path"]',
    "tmpfs": 'write ["/path:size=64m"]',
    "ulimits": 'write {"nofile": 1024}',
    "extra_hosts": 'write ["name:10.0.0.1"]',
    "dns": 'write ["10.0.0.1"]',
    "generic_resources": 'write {"gpu": 1}',
    "gpus": 'write a number or "all"',
    "stop_signal": 'write "SIGINT"',
    "healthcheck": "it switches the image's own HEALTHCHECK on or off",
    "constraints": 'write ["node.role==worker"]',
}
