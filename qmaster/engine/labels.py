"""The labels that quartermaster sets on services, containers and configs."""

from __future__ import annotations

from ..models.requests import LABEL_PREFIX

OWNER = LABEL_PREFIX + "owner"
MANAGED = LABEL_PREFIX + "managed"
END = LABEL_PREFIX + "end"
STOPPED, TIMED_OUT = "stopped", "timeout"  # values of ``END``
IDLE, UPDATED = "idle", "update"  # values of ``END`` of an instance, which ends by itself
TIMEOUT = LABEL_PREFIX + "timeout"
TTL = LABEL_PREFIX + "ttl"
BODY = LABEL_PREFIX + "body"
SPEC = LABEL_PREFIX + "spec"  # JSON: the fields that a run was started with; no values of its environment

CALLBACK = LABEL_PREFIX + "callback"  # the URL that is told of a run's end
CALLBACK_BY = LABEL_PREFIX + "callback-by"  # the id of the quartermaster that accepted the run, and so tells it

MIB = 1024 * 1024

FUNCTION = LABEL_PREFIX + "function"  # a function's name, on its versions and its instances
FUNCTION_NUMBER = LABEL_PREFIX + "function-number"  # of the version that an instance runs
FUNCTION_VERSION = LABEL_PREFIX + "function-version"  # the id of its config
RUNTIME = LABEL_PREFIX + "runtime"  # HOST:PORT of the runtime API, which is the quartermaster that started an instance

CRON_CONFIG = "qm-cron-"  # begins the name of the config that has the claims of a function's ticks
CRON = LABEL_PREFIX + "cron"  # the function's name
CRON_CLAIMS = LABEL_PREFIX + "cron-claims"  # JSON

RUN = LABEL_PREFIX + "run"
KEY = LABEL_PREFIX + "key"
