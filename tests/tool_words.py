"""The words with which other tools describe a container: their options and fields, as their references list them."""

# docker run, docker create (docs.docker.com/reference/cli/docker/container/run)
DOCKER_RUN = """
    add-host annotation attach blkio-weight blkio-weight-device cap-add cap-drop cgroup-parent cgroupns cidfile
    cpu-period cpu-quota cpu-rt-period cpu-rt-runtime cpu-shares cpus cpuset-cpus cpuset-mems detach detach-keys device
    device-cgroup-rule device-read-bps device-read-iops device-write-bps device-write-iops disable-content-trust dns
    dns-option dns-search domainname entrypoint env env-file expose gpus group-add health-cmd health-interval
    health-retries health-start-interval health-start-period health-timeout hostname init interactive ip ip6 ipc
    isolation label label-file link link-local-ip log-driver log-opt mac-address memory memory-reservation memory-swap
    memory-swappiness mount name network network-alias no-healthcheck oom-kill-disable oom-score-adj pid pids-limit
    platform privileged publish publish-all pull quiet read-only restart rm runtime security-opt shm-size sig-proxy
    stop-signal stop-timeout storage-opt sysctl tmpfs tty ulimit user userns uts volume volume-driver volumes-from
    workdir
""".split()  # noqa: SIM905

# docker service create
DOCKER_SERVICE = """
    cap-add cap-drop config constraint container-label credential-spec detach dns dns-option dns-search endpoint-mode
    entrypoint env env-file generic-resource group health-cmd health-interval health-retries health-start-interval
    health-start-period health-timeout host hostname init isolation label limit-cpu limit-memory limit-pids log-driver
    log-opt max-concurrent mode mount name network no-healthcheck no-resolve-image oom-score-adj placement-pref publish
    quiet read-only replicas replicas-max-per-node reserve-cpu reserve-memory restart-condition restart-delay
    restart-max-attempts restart-window rollback-delay rollback-failure-action rollback-max-failure-ratio
    rollback-monitor rollback-order rollback-parallelism secret stop-grace-period stop-signal sysctl tty ulimit
    update-delay update-failure-action update-max-failure-ratio update-monitor update-order update-parallelism user
    with-registry-auth workdir
""".split()  # noqa: SIM905

# A service of the Compose specification, and what is below its ``deploy``
COMPOSE = """
    annotations attach build blkio_config cpu_count cpu_percent cpu_shares cpu_period cpu_quota cpu_rt_runtime
    cpu_rt_period cpus cpuset cap_add cap_drop cgroup cgroup_parent command configs container_name credential_spec
    depends_on deploy develop device_cgroup_rules devices dns dns_opt dns_search domainname driver_opts entrypoint
    env_file environment expose extends external_links extra_hosts gpus group_add healthcheck hostname image init ipc
    isolation labels label_file links logging mac_address mem_limit mem_reservation mem_swappiness memswap_limit
    models network_mode networks oom_kill_disable oom_score_adj pid pids_limit platform ports post_start pre_stop
    privileged profiles provider pull_policy read_only restart runtime scale secrets security_opt shm_size stdin_open
    stop_grace_period stop_signal storage_opt sysctls tmpfs tty ulimits use_api_socket user userns_mode volumes
    volumes_from working_dir
    endpoint_mode placement replicas resources limits reservations restart_policy rollback_config update_config
    max_replicas_per_node max_attempts
""".split()  # noqa: SIM905

# Kubernetes: a Job, its Pod and its container, and kubectl run
KUBERNETES = """
    apiVersion kind metadata spec template selector activeDeadlineSeconds backoffLimit backoffLimitPerIndex
    maxFailedIndexes completions completionMode parallelism podFailurePolicy podReplacementPolicy successPolicy suspend
    ttlSecondsAfterFinished manualSelector managedBy
    containers initContainers ephemeralContainers volumes restartPolicy terminationGracePeriodSeconds dnsPolicy
    nodeSelector serviceAccountName serviceAccount automountServiceAccountToken nodeName hostNetwork hostPID hostIPC
    hostUsers shareProcessNamespace securityContext imagePullSecrets hostname subdomain affinity schedulerName
    tolerations hostAliases priorityClassName priority dnsConfig readinessGates runtimeClassName enableServiceLinks
    preemptionPolicy overhead topologySpreadConstraints setHostnameAsFQDN os schedulingGates resourceClaims
    name image command args workingDir ports envFrom env resources resizePolicy volumeMounts volumeDevices
    livenessProbe readinessProbe startupProbe lifecycle terminationMessagePath terminationMessagePolicy imagePullPolicy
    stdin stdinOnce tty labels annotations namespace overrides field-manager serviceaccount limits requests dry-run
    schedule concurrencyPolicy startingDeadlineSeconds jobTemplate timeZone
    runAsUser runAsGroup runAsNonRoot fsGroup supplementalGroups readOnlyRootFilesystem allowPrivilegeEscalation
    capabilities seccompProfile appArmorProfile seLinuxOptions procMount
""".split()  # noqa: SIM905

# The bodies of Docker's own API
ENGINE_API = """
    Hostname Domainname User AttachStdin AttachStdout AttachStderr ExposedPorts Tty OpenStdin StdinOnce Env Cmd
    Healthcheck ArgsEscaped Image Volumes WorkingDir Entrypoint NetworkDisabled MacAddress OnBuild Labels StopSignal
    StopTimeout Shell HostConfig NetworkingConfig Binds PortBindings RestartPolicy AutoRemove Memory NanoCpus CapAdd
    CapDrop Mounts ShmSize ReadonlyRootfs TaskTemplate ContainerSpec Mode UpdateConfig RollbackConfig EndpointSpec
    Networks Placement Resources LogDriver ForceUpdate Runtime LogConfig NetworkMode DeviceRequests Ulimits Tmpfs
""".split()  # noqa: SIM905

ALL = {
    "docker run": DOCKER_RUN,
    "docker service create": DOCKER_SERVICE,
    "Compose": COMPOSE,
    "Kubernetes": KUBERNETES,
    "Docker's API": ENGINE_API,
}
