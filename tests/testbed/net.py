"""The network between the engines: a bridge in a namespace of its own, with a cable to each node and one to the host.

Nothing but that one cable is added to the host, so neither its firewall (a FORWARD policy of DROP would also cut a
bridge) nor its own docker0 is touched or in the way.
"""

from testbed.process import run

HUB = "hub"
BRIDGE = "02:00:00:00:00:fe"
LENGTH = 24


def in_use(subnet: str) -> bool:
    """Whether the host has a route into the subnet, given as its first three numbers."""
    return f"{subnet}." in run("ip", "-4", "route", "show", "table", "all")


class Network:
    """The namespaces `PREFIX-*` and the subnet of one run."""

    def __init__(self, prefix: str, subnet: str) -> None:
        self.prefix = prefix
        self.subnet = subnet
        self.gateway = f"{subnet}.254"
        self.host = f"{subnet}.253"
        """The host's own address, which all nodes reach, and the containers of an engine with a bridge."""
        self._addresses: dict[str, str] = {}
        self._unplugged: set[str] = set()
        self._make_namespace(HUB)
        hub = self.namespace(HUB)
        # An address of its own: else it has the lowest of its ports', and when that one goes, who knew it is not heard.
        run("ip", "-n", hub, "link", "add", "bridge", "address", BRIDGE, "type", "bridge")
        run("ip", "-n", hub, "addr", "add", f"{self.gateway}/{LENGTH}", "dev", "bridge")
        run("ip", "-n", hub, "link", "set", "bridge", "up")
        run("ip", "link", "add", prefix, "type", "veth", "peer", "name", "host", "netns", hub)
        run("ip", "-n", hub, "link", "set", "host", "master", "bridge", "up")
        run("ip", "addr", "add", f"{self.host}/{LENGTH}", "dev", prefix)
        run("ip", "link", "set", prefix, "up")

    def namespace(self, name: str) -> str:
        return f"{self.prefix}-{name}"

    def _make_namespace(self, name: str) -> None:
        run("ip", "netns", "add", self.namespace(name))
        run("ip", "-n", self.namespace(name), "link", "set", "lo", "up")

    def attach(self, name: str) -> str:
        """Make the namespace of a node and put a cable into it; its address. Names have at most 15 characters."""
        self._make_namespace(name)
        address = self._addresses[name] = f"{self.subnet}.{len(self._addresses) + 1}"
        node, hub = self.namespace(name), self.namespace(HUB)
        run("ip", "-n", hub, "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", node)
        run("ip", "-n", hub, "link", "set", name, "master", "bridge", "up")
        run("ip", "-n", node, "addr", "add", f"{address}/{LENGTH}", "dev", "eth0")
        run("ip", "-n", node, "link", "set", "eth0", "up")
        # Without it a lookup of an image's registry waits 20 s for a name server; with it, it fails at once.
        run("ip", "-n", node, "route", "add", "unreachable", "default")
        return address

    def unplug(self, name: str) -> None:
        """Pull the cable of a node."""
        run("ip", "-n", self.namespace(HUB), "link", "set", name, "down")
        self._unplugged.add(name)

    def plug(self, name: str) -> None:
        """Plug it in again; all connections that there were are gone by then, as after a long time.

        Else Swarm's manager may see the end of a node's old session after the beginning of its new one, and say from
        then on that its logs are "not available" (LogBroker.nodeDisconnected in swarmkit).
        """
        if name not in self._unplugged:
            return
        for other in self._addresses.keys() - {name}:
            self._end_connections(other, self._addresses[name])
            self._end_connections(name, self._addresses[other])
        self._unplugged.discard(name)
        run("ip", "-n", self.namespace(HUB), "link", "set", name, "up")

    def _end_connections(self, name: str, with_address: str) -> None:
        run("ip", "netns", "exec", self.namespace(name), "ss", "--kill", "--tcp", "dst", with_address)


def remove(prefix: str) -> None:
    """Remove what a run named so has made, as far as it is there."""
    # The link first: the kernel removes a deleted namespace's links only some time later.
    links = [line.split()[0].split("@")[0] for line in run("ip", "-brief", "link", "show").splitlines()]
    if prefix in links:
        run("ip", "link", "delete", prefix)
    for line in run("ip", "netns", "list").splitlines():
        if line.startswith(f"{prefix}-"):
            run("ip", "netns", "delete", line.split()[0])
