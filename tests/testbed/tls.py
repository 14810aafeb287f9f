"""An engine that is also reached over TCP with TLS, each side checking the other's certificate."""

from pathlib import Path

import trustme

from testbed.engine import Engine
from testbed.machine import Machine
from testbed.net import Network

PORT = 2376


def make_certificates(folder: Path, address: str) -> None:
    """Write a server's and a client's files, with the names that the docker command expects."""
    authority = trustme.CA()
    for side, identity in (("server", address), ("client", "tester@example.com")):
        (folder / side).mkdir(parents=True)
        certificate = authority.issue_cert(identity)
        authority.cert_pem.write_to_path(str(folder / side / "ca.pem"))
        certificate.cert_chain_pems[0].write_to_path(str(folder / side / "cert.pem"))
        certificate.private_key_pem.write_to_path(str(folder / side / "key.pem"))


class TlsEngine(Engine):
    """Such an engine; `env` is what the docker command and quartermaster take to reach it."""

    def __init__(self, machine: Machine, network: Network, *options: str) -> None:
        certificates = machine.folder / "tls"
        make_certificates(certificates, machine.address)
        own = [f"--tls{part}={certificates}/server/{part}.pem" for part in ("cert", "key")]
        own += ["--tlsverify", f"--tlscacert={certificates}/server/ca.pem", f"--host=tcp://{machine.address}:{PORT}"]
        super().__init__(machine, network, *own, *options)
        self.tcp_host = f"tcp://{machine.address}:{PORT}"
        self.env = {
            "DOCKER_HOST": self.tcp_host,
            "DOCKER_TLS_VERIFY": "1",
            "DOCKER_CERT_PATH": str(certificates / "client"),
        }
