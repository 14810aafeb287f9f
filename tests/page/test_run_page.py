"""A run's panel and the form of the status page: why a run is as it is, what can be done with it, and every field."""

import re
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from conftest import Browse
from msgspec.structs import replace
from page_cases import IMAGE, VIEWS, Json, Judge, row, run, shows
from playwright.sync_api import Page, expect
from testbed import Server
from testbed.crowd import TOKEN, Crowd, stamp

from qmaster.api.openapi import document as openapi
from qmaster.errors import BadRequest, Forbidden
from qmaster.models.responses import Attempt, LastExit, Service

CHAIN = (
    "starting container failed: failed to create task for container: failed to create shim task: OCI runtime create "
    "failed: runc create failed: unable to start container process: error during container init: "
)
OLD_CHAIN = (
    "starting container failed: OCI runtime create failed: container_linux.go:380: starting container process caused: "
)
NOWHERE = "no suitable node (scheduling constraints not satisfied on 3 nodes)"
FULL = "no suitable node (insufficient resources on 3 nodes)"
BOTH = "no suitable node (scheduling constraints not satisfied on 2 nodes; insufficient resources on 1 node)"
ALPINE: Json = {"status": "failed", "image": "alpine:9"}

# A run's fields, and what is said of it.
REASONS: list[tuple[Json, str]] = [
    ({"status": "running"}, ""),
    ({"status": "complete", "reason": "exit", "exit_code": 0}, ""),
    ({"status": "failed", "reason": "exit", "exit_code": 3, "error": "task: non-zero exit (3)"}, "Exited with 3"),
    ({"status": "removed", "reason": "exit", "exit_code": 3}, "Exited with 3"),
    ({"status": "failed", "reason": "exit", "exit_code": 127}, "Exited with 127 (in a shell: command not found)"),
    ({"status": "failed", "reason": "exit", "exit_code": 139}, "Ended by SIGSEGV (exit code 139)"),
    ({"status": "failed", "reason": "exit", "exit_code": None}, "Failed without an exit code"),
    (
        {"status": "failed", "reason": "exit", "exit_code": 137, "memory": 64},
        "Killed (exit code 137), perhaps out of memory at 64 MiB",
    ),
    (
        {
            "status": "failed",
            "reason": "exit",
            "exit_code": 137,
            "memory": 64,
            "error": "task: non-zero exit (137): OOM",
        },
        "Out of memory at 64 MiB (exit code 137)",
    ),
    ({"status": "failed", "reason": "oom", "exit_code": 137, "memory": 64}, "Out of memory at 64 MiB (exit code 137)"),
    (
        {"status": "failed", "reason": "timeout", "timeout": 5, "exit_code": 137},
        "Stopped after its timeout of 5 s; killed after 10 s",
    ),
    (
        {
            "status": "failed",
            "reason": "timeout",
            "timeout": 90,
            "exit_code": 137,
            "spec": {"stop_grace_period": 0.5},
        },
        "Stopped after its timeout of 1 min 30 s; killed after 0.5 s",
    ),
    ({"status": "failed", "reason": "timeout", "timeout": 0.2, "exit_code": 143}, "Stopped after its timeout of 0.2 s"),
    (
        {"status": "failed", "reason": "timeout", "timeout": 5400, "exit_code": 2},
        "Stopped after its timeout of 1 h 30 min; exit code 2",
    ),
    ({"status": "stopping", "reason": "timeout", "timeout": 5}, "Stopping after its timeout of 5 s"),
    ({"status": "stopping", "reason": "stopped"}, "Stopping"),
    ({"status": "removed", "reason": "stopped", "exit_code": 137}, "Stopped; killed after 10 s"),
    ({"status": "failed", "reason": "unhealthy", "exit_code": 1}, "Its health check failed (exit code 1)"),
    (
        {"status": "pending", "reason": "unschedulable", "memory": 4096, "error": FULL},
        "Waiting: no node has 4 GiB free",
    ),
    (
        {
            "status": "pending",
            "reason": "unschedulable",
            "memory": 64,
            "cpus": 2,
            "error": BOTH,
            "spec": {"generic_resources": {"gpu": 2}},
        },
        "Waiting: no node that meets its constraints has 64 MiB and 2 cores and 2 gpu free",
    ),
    (
        {
            "status": "pending",
            "reason": "unschedulable",
            "error": NOWHERE,
            "spec": {"constraints": ["node.labels.disk==ssd"]},
        },
        "Waiting: no node meets node.labels.disk==ssd",
    ),
    (
        {"status": "pending", "reason": "unschedulable", "error": "no suitable node (unsupported platform on 3 nodes)"},
        "Waiting: no suitable node (unsupported platform on 3 nodes)",
    ),
    ({**ALPINE, "reason": "image_not_found", "error": "No such image: alpine:9"}, "Image not found: alpine:9"),
    (
        {**ALPINE, "reason": "registry_auth", "error": "pull access denied"},
        "The registry refused access to alpine:9",
    ),
    (
        {
            "status": "failed",
            "reason": "rejected",
            "error": f'{CHAIN}exec: "nosuchprogram": executable file not found in $PATH: unknown',
        },
        "Command not found: nosuchprogram",
    ),
    (
        {
            "status": "failed",
            "reason": "exit",
            "exit_code": 127,
            "error": f'{CHAIN}exec: "/bin/no such": stat /bin/no such: no such file or directory',
        },
        "Command not found: /bin/no such (exit code 127)",
    ),
    (
        {"status": "failed", "reason": "rejected", "error": f'{CHAIN}exec: "/etc/passwd": permission denied'},
        "Not executable: /etc/passwd",
    ),
    (
        {"status": "failed", "reason": "rejected", "error": f'{OLD_CHAIN}process.go:12: exec: "x": not found: unknown'},
        "Command not found: x",
    ),
    (
        {
            "status": "failed",
            "reason": "rejected",
            "error": 'invalid mount config for type "bind": bind source path does not exist: /srv/x',
        },
        "Bind source path does not exist: /srv/x",
    ),
    (
        {
            "status": "failed",
            "reason": "rejected",
            "error": "rpc error: code = Unknown desc = Bind for 0.0.0.0:8080 failed: port is already allocated",
        },
        "Bind for 0.0.0.0:8080 failed: port is already allocated",
    ),
    ({"status": "failed", "reason": "rejected", "error": None}, "The engine refused it"),
    ({"status": "failed", "reason": "node_down", "tasks": [{"node": "host-1"}]}, "Its node host-1 is down"),
    ({"status": "failed", "reason": "node_down"}, "Its node is down"),
    ({"status": "failed", "reason": "orphaned"}, "Its node was gone for too long"),
    ({"status": "complete", "reason": "idle"}, "Ended, because it was not needed"),
    ({"status": "complete", "reason": "update"}, "Ended, because its version is not the newest"),
    (
        {
            "status": "failed",
            "reason": "exit",
            "exit_code": 3,
            "replicas": {"desired": 4, "running": 0, "complete": 2, "failed": 2},
        },
        "Exited with 3; 2 of 4 tasks failed",
    ),
]
PLAIN: Json = {
    "reason": None,
    "error": None,
    "exit_code": None,
    "tasks": [],
    "replicas": {"desired": 1, "running": 0, "complete": 0, "failed": 1},
}
SAY = "(runs) => import('/static/reason.js').then(({reason}) => runs.map(reason))"
SPEND = "(runs) => import('/static/reason.js').then(({spent}) => runs.map((run) => spent(run, Date.parse('{now}'))))"


def test_why_a_run_is_as_it_is(browse: Browse) -> None:
    """One line for each reason of docs/api.md; of an engine's chain of errors the part that tells something."""
    with Crowd(1, 0) as crowd:
        told = browse(crowd.url).page.evaluate(SAY, [{**PLAIN, **fields} for fields, _ in REASONS])
    assert dict(enumerate(told)) == dict(enumerate(text for _, text in REASONS))
    covered = {fields.get("reason") for fields, _ in REASONS}
    assert set(openapi.document()["components"]["schemas"]["Reason"]["enum"]) <= covered


def test_how_long_a_run_took(browse: Browse) -> None:
    """It waited, then ran; a run that goes on is counted until now, and clocks that differ give no negative time."""
    made, began, ended = "2026-12-01T10:00:00Z", "2026-12-01T10:00:00.300Z", "2026-12-01T10:01:30.300Z"
    runs: list[tuple[Json, str]] = [
        ({"status": "complete", "started_at": began, "finished_at": ended}, "waited 0.3 s, ran 1 min 30 s"),
        ({"status": "running", "started_at": began}, "waited 0.3 s, running for 26 h"),
        ({"status": "pending", "started_at": began}, "waited 0.3 s, started 1 d 2 h ago"),
        ({"status": "pending"}, "waiting for 1 d 2 h"),
        ({"status": "failed", "finished_at": began}, "took 0.3 s"),
        ({"status": "removed", "started_at": began, "removed_at": ended}, "waited 0.3 s, ran 1 min 30 s"),
        ({"status": "pending", "created_at": "2026-12-02T12:00:01Z"}, "waiting for 0 s"),
        ({"status": "running", "created_at": None}, ""),
    ]
    runs[1] = (runs[1][0], "waited 0.3 s, running for 1 d 2 h")
    with Crowd(1, 0) as crowd:
        page = browse(crowd.url).page
        now = "2026-12-02T12:00:00.300Z"
        told = page.evaluate(SPEND.replace("{now}", now), [{"created_at": made, **fields} for fields, _ in runs])
    assert told == [text for _, text in runs]


# The panel


def failing(service: Service) -> Service:
    """As a service with a command that is not in its image."""
    error = f'{CHAIN}exec: "nosuchprogram": executable file not found in $PATH: unknown'
    task = replace(service.tasks[0], state="rejected", error=error, exit_code=None)
    fields: Json = {"status": "failed", "reason": "rejected", "error": error, "exit_code": None, "tasks": [task]}
    return replace(service, **fields, finished_at=stamp(), started_at=None)


def plain(service: Service) -> Json:
    """As `GET /status/{id}` answers."""
    return dict(msgspec.json.decode(msgspec.json.encode(service)))


def with_spec(service: Service, **spec: Any) -> Service:
    return replace(service, spec=msgspec.Raw(msgspec.json.encode({"image": service.image, **spec})))


def test_a_failure_is_one_click_from_its_reason(browse: Browse) -> None:
    """The reason first, the engine's whole message folded below; the list beside it stays bright."""
    with Crowd(6, 0) as crowd:
        crowd.services[2] = failing(crowd.services[2])
        page = browse(crowd.url).log_in(TOKEN)
        row(page, crowd.services[2].name).get_by_role("link").first.click()
        expect(page.locator("#detail-error")).to_have_text("Command not found: nosuchprogram")
        expect(page.locator("#detail-error .status")).to_have_attribute("data-is", "failed")
        expect(page.locator("#detail-tasks")).to_contain_text("rejected")
        expect(page.locator("#detail-tasks .error")).to_have_count(0)  # told above
        whole = page.locator("#detail-whole pre")
        expect(whole).to_be_hidden()
        page.get_by_text("The whole message").click()
        expect(whole).to_have_text(str(crowd.services[2].error))
        assert page.evaluate("getComputedStyle(document.querySelector('dialog'), '::backdrop').display") != ""
        assert page.locator("dialog[open]").count() == 0


def test_restarts_and_attempts_are_told(browse: Browse) -> None:
    """How often, with the last exit code, in red; each attempt with its code and how long it ran."""
    with Crowd(4, 0) as crowd:
        attempts = tuple(Attempt(f"t{n}", stamp(600 - n), stamp(597.8 - n), n, None) for n in range(3))
        last = {"restarts": 12, "last_exit": LastExit(1, None, stamp()), "attempts": attempts}
        crowd.services[0] = replace(crowd.services[0], **last)
        page = browse(crowd.url).log_in(TOKEN)
        page.goto(f"{crowd.url}/#/runs/{crowd.services[0].name}")
        expect(page.locator("#detail-restarts")).to_have_text(re.compile("^Restarted 12 ., last exit 1$"))
        page.get_by_text("Attempts that ended").click()
        expect(page.locator("#detail-attempts tbody tr")).to_have_count(3)
        expect(page.locator("#detail-attempts tbody tr").first.locator("td")).to_have_text(
            ["3", "2", "2.2 s", re.compile(r"\d+ min")]
        )


def test_the_next_run_and_the_one_before(browse: Browse) -> None:
    """In the order of the view, by buttons and by j and k; Back leads to the list, and so does Escape, to its row."""
    with Crowd(12, 0) as crowd:
        page = browse(crowd.url).log_in(TOKEN)
        names = page.locator("#table .name bdi").all_inner_texts()
        title = page.locator("#detail-name")
        row(page, names[0]).get_by_role("link").first.click()
        expect(title).to_be_focused()
        expect(page.get_by_role("button", name="Previous run")).to_have_attribute("aria-disabled", "true")
        page.keyboard.press("j")
        expect(title).to_have_text(names[1])
        page.get_by_role("button", name="Next run").click()
        expect(title).to_have_text(names[2])
        expect(page.get_by_role("button", name="Next run")).to_be_focused()  # to be pressed again
        page.keyboard.press("j")
        page.keyboard.press("k")
        expect(title).to_have_text(names[2])
        expect(page).to_have_url(f"{crowd.url}/#/runs/{names[2]}")
        page.keyboard.press("Escape")
        expect(page.locator("#detail")).to_be_hidden()
        expect(page.locator(":focus")).to_have_text(names[2])
        row(page, names[4]).get_by_role("link").first.click()
        page.keyboard.press("k")
        expect(title).to_have_text(names[3])
        page.go_back()
        expect(page.locator("#detail")).to_be_hidden()


def width(page: Page) -> float:
    return float(page.locator("#detail").evaluate("(panel) => panel.offsetWidth"))


def test_the_panel_has_the_width_that_is_wanted(browse: Browse) -> None:
    """By its edge, with the pointer and with the keyboard, within bounds; the tab keeps it."""
    with Crowd(4, 0) as crowd:
        page = browse(crowd.url).log_in(TOKEN)
        page.goto(f"{crowd.url}/#/runs/{crowd.services[0].name}")
        edge = page.get_by_role("separator")
        before = width(page)
        edge.focus()
        page.keyboard.press("ArrowLeft")
        assert width(page) == before + 40
        expect(edge).to_have_attribute("aria-valuenow", str(int(before + 40)))
        for _ in range(10):
            page.keyboard.press("ArrowLeft")
        assert width(page) == 1400 - 360
        for _ in range(20):
            page.keyboard.press("ArrowRight")
        assert width(page) == 360
        edge.hover()
        page.mouse.down()
        page.mouse.move(900, 300)
        page.mouse.up()
        assert width(page) == 500
        page.mouse.move(700, 300)
        assert width(page) == 500
        page.reload()
        expect(page.locator("#detail-name")).not_to_be_empty()
        assert width(page) == 500


def test_facts_lead_to_what_they_name(browse: Browse) -> None:
    """A label and the owner to the list of theirs, a node to what runs on it."""
    with Crowd(12, 0) as crowd:
        page = browse(crowd.url).log_in(TOKEN)
        name = crowd.services[0].name
        page.goto(f"{crowd.url}/#/runs/{name}")
        page.locator("#detail-facts").get_by_role("link", name="team=blue").click()
        expect(page).to_have_url(f"{crowd.url}/#/?q=team%3Dblue")
        expect(page.locator("#table tbody tr[data-is]")).to_have_count(6)
        page.goto(f"{crowd.url}/#/runs/{name}")
        page.locator("#detail-tasks").get_by_role("link", name="host-0").click()
        expect(page).to_have_url(f"{crowd.url}/#/nodes/host-0")


def test_what_a_callback_came_to_is_told(browse: Browse) -> None:
    """It is asked for, as the stream does not tell it."""
    url = "https://hooks.example.com/ended"
    with Crowd(4, 0) as crowd:
        service = crowd.services[1] = replace(crowd.services[1], callback=url)
        told = {"url": url, "delivered_at": None, "attempts": 2, "last_error": "the receiver answered 503"}
        crowd.answers[f"GET /status/{service.id}"] = {**plain(service), "callbacks": [told]}
        page = browse(crowd.url).log_in(TOKEN)
        page.goto(f"{crowd.url}/#/runs/{service.name}")
        expect(page.locator("#detail-facts")).to_contain_text(
            re.compile(f"{url} not delivered yet, 2 . tried: the receiver answered 503")
        )


# What can be done with a run


def test_stop_says_what_it_does(browse: Browse) -> None:
    """The signal and the time of the run's own; a run that has ended is removed."""
    with Crowd(4, 0) as crowd:
        first = crowd.services[0] = with_spec(crowd.services[0], stop_signal="SIGINT", stop_grace_period=90.0)
        page = browse(crowd.url).log_in(TOKEN)
        page.goto(f"{crowd.url}/#/runs/{first.name}")
        page.locator("#stop").click()
        expect(page.locator("#confirm-text")).to_contain_text("Sends SIGINT, then SIGKILL after 1 min 30 s")
        page.keyboard.press("Escape")
        page.goto(f"{crowd.url}/#/runs/{crowd.services[1].name}")
        page.locator("#stop").click()
        expect(page.locator("#confirm-title")).to_have_text(f"Remove {crowd.services[1].name}?")
        expect(page.locator("#confirm-text")).to_have_text("It has ended. Its exit code and output are kept.")


def test_run_again_starts_the_same(browse: Browse) -> None:
    """At once, under a name that is free, and opens it with its warnings."""
    with Crowd(4, 0) as crowd:
        old = crowd.services[1] = with_spec(crowd.services[1], command=["work", "1"], name=crowd.services[1].name)
        new = replace(crowd.services[2], id="again", name="again")
        crowd.answers["POST /run"] = {"success": True, "id": "again", "warnings": ["memory: <b>not</b> in force"]}
        crowd.answers["GET /status/again"] = plain(new)
        page = browse(crowd.url).log_in(TOKEN)
        page.goto(f"{crowd.url}/#/runs/{old.name}")
        page.get_by_role("button", name="Run again").click()
        expect(page.locator("#detail-name")).to_have_text("again")
        expect(page.locator("#detail-warnings li")).to_have_text(["memory: <b>not</b> in force"])
        sent = next(body for call, _, body in crowd.asked if call == "POST /run")
        assert msgspec.json.decode(sent) == {
            "image": old.image,
            "command": ["work", "1"],
            "name": f"{old.name}-r2",
        }


def test_run_again_needs_the_values_that_are_not_kept(browse: Browse) -> None:
    """The form opens with the names of the environment, says why, and nothing is started yet."""
    with Crowd(4, 0) as crowd:
        old = crowd.services[1] = with_spec(crowd.services[1], env=["GREETING", "KEY"])
        page = browse(crowd.url).log_in(TOKEN)
        page.goto(f"{crowd.url}/#/runs/{old.name}")
        page.get_by_role("button", name="Run again").click()
        expect(page.locator("#form-note")).to_contain_text("The values of its environment are not kept")
        expect(page.locator("#form").get_by_label("Environment")).to_be_focused()
        expect(page.locator("#form").get_by_label("Environment")).to_have_value("GREETING=\nKEY=")
        assert not [call for call, *_ in crowd.asked if call == "POST /run"]
        page.keyboard.press("Escape")
        page.get_by_role("button", name="Run…", exact=True).click()
        expect(page.locator("#form").get_by_label("Image")).to_have_value("")  # a new one is not that run's


def test_a_token_that_may_not_run(browse: Browse) -> None:
    """It is told so when it tries; from then on the buttons are off, in other runs too, until another one logs in."""
    refusal = "scopes: this call needs the scope run; this token has read"
    with Crowd(4, 0) as crowd:
        for number in (1, 2):
            crowd.services[number] = with_spec(crowd.services[number])
        crowd.answers["POST /run"] = Forbidden(refusal)
        visit = browse(crowd.url)
        page = visit.log_in(TOKEN)
        page.goto(f"{crowd.url}/#/runs/{crowd.services[1].name}")
        page.get_by_role("button", name="Run again").click()
        expect(page.locator("#detail-note")).to_have_text(refusal)
        page.goto(f"{crowd.url}/#/runs/{crowd.services[2].name}")
        expect(page.locator("#detail-note")).to_have_text(refusal)
        for button in ("Run again", "Edit and run…"):
            expect(page.get_by_role("button", name=button)).to_be_disabled()
        expect(page.locator("#stop")).to_be_enabled()
        page.get_by_role("button", name="Sign out").click()
        visit.log_in(TOKEN)
        expect(page.get_by_role("button", name="Run again")).to_be_enabled()


def test_what_cannot_be_run_again_opens_in_the_form(browse: Browse) -> None:
    """With the server's error at its field."""
    with Crowd(4, 0) as crowd:
        old = crowd.services[1] = with_spec(crowd.services[1], memory=64)
        crowd.answers["POST /run"] = BadRequest("memory: this node has 32 MiB")
        page = browse(crowd.url).log_in(TOKEN)
        page.goto(f"{crowd.url}/#/runs/{old.name}")
        page.get_by_role("button", name="Run again").click()
        expect(page.locator(".field:has(#field-memory) #form-error")).to_have_text("memory: this node has 32 MiB")
        expect(page.locator("#field-memory")).to_be_focused()
        expect(page.locator("#field-memory")).to_have_value("64")


def test_what_was_not_started_here_is_not_run_again(browse: Browse) -> None:
    """The buttons are off, and it is said why."""
    with Crowd(4, 0) as crowd:
        page = browse(crowd.url).log_in(TOKEN)
        page.goto(f"{crowd.url}/#/runs/{crowd.services[1].name}")
        expect(page.get_by_role("button", name="Run again")).to_be_disabled()
        expect(page.get_by_role("button", name="Edit and run…")).to_be_disabled()
        expect(page.locator("#detail-note")).to_have_text("It was not started by quartermaster.")


# The form


EVERYTHING: Json = {
    "image": IMAGE,
    "command": ["sh", "-c", "nap 'a  b'\n"],
    "labels": {"team": "blue", "say": "a=b c"},
    "workdir": "/tmp",
    "user": "0:0",
    "entrypoint": [],
    "memory": 24,
    "cpus": 0.25,
    "replicas": 2,
    "restart": "on-failure",
    "max_attempts": 3,
    "restart_delay": "1m30s",
    "restart_window": 120,
    "constraints": ["node.role==manager", "node.labels.no!=such"],
    "timeout": 3600,
    "ttl": "never",
    "pids_limit": 100,
    "cap_drop": [],
    "no_new_privileges": False,
    "healthcheck": False,
    "pull_policy": "never",
    "init": True,
    "stop_signal": "SIGINT",
    "stop_grace_period": 2,
    "hostname": "inside",
    "extra_hosts": {"db.test": "10.9.8.7"},
    "dns": "10.9.8.8",
    "read_only": True,
    "tmpfs": ["/scratch:size=8m"],
    "shm_size": "16m",
    "ulimits": {"nofile": {"soft": 512, "hard": 1024}, "core": 0},
    "volumes": [{"type": "volume", "source": "kept", "target": "/kept"}, "other:/other:ro"],
}


def specs(server: Server, label: str) -> list[Json]:
    found = server.call("GET", f"/status?label={label}")["services"]
    return [each["spec"] for each in found]


def test_edit_and_run_keeps_every_field(swarm_shared: Server, browse: Browse) -> None:
    """A run with nearly every field there is, started again from the form: its fields are the same to the last one.

    So is a container's. What is changed there is changed, and only that.
    """
    run(swarm_shared, **EVERYTHING, name="all-of-it")
    container: Json = {"image": IMAGE, "type": "container", "command": "nap", "memory": 16, "labels": {"team": "red"}}
    run(swarm_shared, **container)
    page = browse(swarm_shared.url).log_in(swarm_shared.token)
    page.goto(f"{swarm_shared.url}/#/runs/all-of-it")
    page.get_by_role("button", name="Edit and run…").click()
    expect(page.locator("#form").get_by_label("Command")).to_have_value("sh -c 'nap '\\''a  b'\\''\n'")
    expect(page.locator("#form").get_by_label("Name", exact=True)).to_have_value("all-of-it-r2")
    page.locator("#form").get_by_label("Command").press("Control+Enter")
    expect(page.locator("#detail-name")).to_have_text("all-of-it-r2")
    first, second = specs(swarm_shared, "team=blue")
    assert {**first, "name": ""} == {**second, "name": ""}
    assert set(EVERYTHING) <= set(first)
    page.get_by_role("button", name="Edit and run…").click()
    page.locator("#form").get_by_label("Memory", exact=True).fill("32m")
    page.locator("#form").get_by_label("Ulimits").fill("nofile=100")
    page.locator("#form").get_by_label("Read only").select_option("")
    page.get_by_role("button", name="Run", exact=True).click()
    expect(page.locator("#detail-name")).to_have_text("all-of-it-r3")
    third = specs(swarm_shared, "team=blue")[0]
    changed = {name for name in {*first, *third} if first.get(name) != third.get(name)}
    assert changed == {"name", "memory", "ulimits", "read_only"}
    assert (third["memory"], third["ulimits"]) == (32, {"nofile": 100})


def test_run_again_on_the_swarm(swarm_shared: Server, browse: Browse) -> None:
    """The real chain of a command that is not there is one line; Run again gives a second one with the same fields."""
    run(swarm_shared, image=IMAGE, command="nosuchprogram", name="wrong-command", memory=16, labels={"team": "green"})
    page = browse(swarm_shared.url).log_in(swarm_shared.token)
    shows(page, "wrong-command", "failed")
    row(page, "wrong-command").get_by_role("link").first.click()
    expect(page.locator("#detail-error")).to_contain_text("Command not found: nosuchprogram")
    expect(page.locator("#detail-whole pre")).to_contain_text("OCI runtime")
    page.get_by_role("button", name="Run again").click()
    expect(page.locator("#detail-name")).to_have_text("wrong-command-r2")
    expect(page.locator("#detail-status .status")).to_have_attribute("data-is", "failed")
    first, second = specs(swarm_shared, "team=green")
    assert {**first, "name": ""} == {**second, "name": ""}


def test_reasons_on_the_swarm(swarm_shared: Server, browse: Browse) -> None:
    """What Docker really says of a run that waits, one without its image, and one that outlives its timeout."""
    ignores = ["sh", "-c", "trap '' TERM; while true; do sleep 1; done"]
    expected: dict[str, tuple[Json, str]] = {
        "too-large": ({"memory": 10_000_000}, "Waiting: no node has 9765.6 GiB free"),
        "nowhere": ({"constraints": ["node.labels.no==such"]}, "Waiting: no node meets node.labels.no==such"),
        "no-image": (
            {"image": "localhost:1/nosuch:1", "pull_policy": "never"},
            "Image not found: localhost:1/nosuch:1",
        ),
        "too-long": (
            {"command": ignores, "timeout": 1, "stop_grace_period": 1},
            "Stopped after its timeout of 1 s; killed after 1 s",
        ),
        "exits": ({"command": ["sh", "-c", "exit 3"]}, "Exited with 3"),
    }
    page = browse(swarm_shared.url).log_in(swarm_shared.token)
    for name, (fields, _) in expected.items():
        run(swarm_shared, **{"image": IMAGE, "command": "nap", **fields}, name=name)
    for name, (_, text) in expected.items():
        page.goto(f"{swarm_shared.url}/#/runs/{name}")
        expect(page.locator("#detail-error")).to_have_text(text)


@pytest.fixture
def opened(browse: Browse) -> Any:
    """`opened(crowd, **options)`: the page with the form open, all of its fields there."""

    def do(crowd: Crowd, **options: Any) -> Page:
        page = browse(crowd.url, **options).log_in(TOKEN)
        page.get_by_role("button", name="Run…", exact=True).click()
        expect(page.locator("#field-volumes")).to_be_attached()
        return page

    return do


Opened = Callable[..., Page]


def test_every_field_of_run_is_there(opened: Opened) -> None:
    """But the token and wait; each with a label and what the API says of it."""
    known = set(openapi.document()["components"]["schemas"]["RunRequest"]["properties"])
    with Crowd(2, 0) as crowd:
        page = opened(crowd)
        names = {name.removeprefix("field-") for name in page.locator("[id^=field-]").evaluate_all(IDS)}
        assert {name for name in names if not name.endswith("-hint")} == known - {"token", "wait"}
        assert page.locator(".field:not(:has(label[for])), .field .hint:empty").count() == 0


IDS = "(nodes) => nodes.map(({id}) => id)"


def test_what_is_typed_becomes_json(opened: Opened) -> None:
    """Lists one a line, objects KEY=value, yes and no, numbers, and units as they are; a container's fields alone."""
    with Crowd(2, 0) as crowd:
        crowd.answers["POST /run"] = {"success": True, "id": crowd.services[0].id}
        page = opened(crowd)
        for group in page.locator("#form-fields summary").all():
            group.click()
        typed = {
            "image": " busybox ",
            "command": "echo 'a b'",
            "env": "A=1\n\nB=x = y \nC",
            "memory": "512m",
            "cpus": "0.5",
            "timeout": "90",
            "constraints": "node.role==worker\n  node.labels.a!=b ",
            "ports": "8080:80",
            "ulimits": 'nofile=1024\ncore={"soft":0,"hard":1}',
            "volumes": 'a:/a\n{"type":"volume","source":"b","target":"/b"}',
            "generic_resources": "gpu=2",
        }
        for name, text in typed.items():
            page.locator(f"#field-{name}").fill(text)
        page.locator("#field-init").select_option("true")
        page.locator("#field-no_new_privileges").select_option("false")
        page.locator("#field-restart").select_option("any")
        shown = page.locator("#curl").inner_text()
        page.locator("#field-image").press("Enter")
        expect(page.locator("#form")).to_be_hidden()
        sent = msgspec.json.decode(next(body for call, _, body in crowd.asked if call == "POST /run"))
        assert sent == {
            **{name: typed[name] for name in ("command", "memory")},
            "image": "busybox",
            "env": {"A": "1", "B": "x = y ", "C": ""},
            "cpus": 0.5,
            "timeout": 90,
            "constraints": ["node.role==worker", "node.labels.a!=b"],
            "ports": ["8080:80"],
            "ulimits": {"nofile": 1024, "core": {"soft": 0, "hard": 1}},
            "volumes": ["a:/a", {"type": "volume", "source": "b", "target": "/b"}],
            "generic_resources": {"gpu": 2},
            "init": True,
            "no_new_privileges": False,
            "restart": "any",
        }
        assert msgspec.json.encode(sent["ulimits"]).decode() in shown


def test_fields_of_the_other_type_are_left_out(opened: Opened) -> None:
    """A container has no ports, and a service no standard input."""
    with Crowd(2, 0) as crowd:
        page = opened(crowd)
        page.get_by_text("Network and storage").click()
        page.locator("#form").get_by_label("Ports").fill("8080:80")
        expect(page.locator("#curl")).to_contain_text("8080:80")
        expect(page.locator("#field-stdin")).to_be_hidden()
        page.locator("#form").get_by_label("Type").select_option("container")
        expect(page.locator("#form").get_by_label("Ports")).to_be_hidden()
        expect(page.locator("#curl")).not_to_contain_text("8080:80")
        page.get_by_text("More options").click()
        page.locator("#field-stdin").fill(" as it is \n")
        expect(page.locator("#curl")).to_contain_text('"stdin":" as it is \\n"')


def test_a_mistake_is_told_at_its_field(swarm_shared: Server, browse: Browse) -> None:
    """By the server's own words, in a group that was folded too; the check of a right one says what would run."""
    page = browse(swarm_shared.url).log_in(swarm_shared.token)
    page.get_by_role("button", name="Run…", exact=True).click()
    page.locator("#form").get_by_label("Image").fill(IMAGE)
    page.locator("#form").get_by_label("Name", exact=True).fill("checked")
    page.get_by_text("How it ends").click()
    page.locator("#form").get_by_label("Max attempts").fill("3")
    page.get_by_text("How it ends").click()
    page.get_by_role("button", name="Check").click()
    field = page.locator(".field:has(#field-max_attempts)")
    expect(field.locator("#form-error")).to_have_text(re.compile("^max_attempts: needs restart"))
    expect(page.locator("#form").get_by_label("Max attempts")).to_be_focused()
    expect(page.locator("#form").get_by_label("Max attempts")).to_have_attribute("aria-invalid", "true")
    page.locator("#form").get_by_label("Restart", exact=True).select_option("any")
    page.get_by_role("button", name="Check").click()
    expect(page.locator("#form-note")).to_contain_text(f"This would run {IMAGE}")
    expect(page.locator("#form-note")).to_contain_text(re.compile("No warnings|no_new_privileges: services need"))
    expect(page.locator("#form-error")).to_be_empty()
    assert swarm_shared.call("GET", "/status?name=checked")["services"] == []


def test_a_run_in_five_keys(browse: Browse) -> None:
    """From the empty page: r, the image, Tab, the command, Ctrl+Enter; the images of the last runs are proposed."""
    with Crowd(3, 0) as crowd:
        crowd.answers["POST /run"] = {"success": True, "id": crowd.services[0].id}
        page = browse(crowd.url).log_in(TOKEN)
        page.locator("body").press("r")
        expect(page.locator("#form").get_by_label("Image")).to_be_focused()
        proposed = page.locator("#images option").evaluate_all("(all) => all.map(({value}) => value)")
        assert crowd.services[0].image in proposed
        page.keyboard.type("busybox")
        page.keyboard.press("Tab")
        page.keyboard.type("echo hello")
        page.keyboard.press("Control+Enter")
        expect(page.locator("#detail-name")).to_have_text(crowd.services[0].name)
        sent = next(body for call, _, body in crowd.asked if call == "POST /run")
        assert msgspec.json.decode(sent) == {"image": "busybox", "command": "echo hello"}


def test_the_fields_are_missing(browse: Browse) -> None:
    """Where the document does not come, image and command run all the same, and it is said."""
    with Crowd(3, 0) as crowd:
        document = crowd.answers.pop("GET /openapi.json")
        page = browse(crowd.url).log_in(TOKEN)
        page.get_by_role("button", name="Run…", exact=True).click()
        expect(page.locator("#form-error")).to_contain_text("The other fields could not be read")
        page.keyboard.press("Escape")
        crowd.answers["GET /openapi.json"] = document
        page.get_by_role("button", name="Run…", exact=True).click()
        expect(page.locator("#form-error")).to_be_empty()
        expect(page.locator("#form").get_by_label("Labels")).to_be_visible()


@pytest.mark.parametrize("view", VIEWS)
def test_the_panel_and_the_form_are_usable_by_all(browse: Browse, view: str) -> None:
    """axe-core finds no serious fault, and nothing is wider than the window; on a phone the panel has all of it."""
    with Crowd(6, 0) as crowd:
        attempts = (Attempt("t", stamp(9), stamp(7), 1, "task: non-zero exit (1)"),)
        crowd.services[2] = replace(
            with_spec(failing(crowd.services[2]), env=["A"], memory=64), attempts=attempts, restarts=1
        )
        page = browse(crowd.url, **VIEWS[view]).log_in(TOKEN)
        page.goto(f"{crowd.url}/#/runs/{crowd.services[2].name}")
        expect(page.locator("#detail-error")).not_to_be_empty()
        for fold in page.locator("#detail summary").all():
            fold.click()
        judge, faults = Judge(page), {}
        faults["panel"] = judge.serious()
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        if view == "phone":
            assert width(page) == 390
            page.get_by_role("button", name="Copy link").click()  # the header's is covered
            expect(page.locator("#detail-note")).to_have_text("The link was copied.")
            expect(page.get_by_role("separator")).to_be_hidden()
        page.get_by_role("button", name="Edit and run…").click()
        expect(page.locator("#field-volumes")).to_be_attached()
        page.locator("#form details").evaluate_all("(all) => all.forEach((each) => (each.open = true))")
        faults["form"] = judge.serious()
        assert page.locator("#form-fields").evaluate("(form) => form.scrollWidth <= form.clientWidth")
        assert faults == {name: [] for name in faults}
