"""LocalStack: the AWS KMS and S3 of the tests, which a test session starts once, on a free port.

    python -m counterparts.localstack [--port PORT]      until it is interrupted

It knows keys, their states, versions and contexts. It does not know signatures, sessions or
policies, which `counterparts.aws` adds in front of it.
"""

from __future__ import annotations

import argparse
import functools

from counterparts.processes import Process, free_port, installed


class LocalStack:
    """One server on loopback.

    Attributes:
        url: Its URL.
    """

    def __init__(self, port: int = 0) -> None:
        """Installs LocalStack if it is missing, starts it and waits until it answers.

        Raises:
            NotInstalledError: It is not available on this machine.
        """
        python, port = installed("localstack.sh"), port or free_port()
        self.url = f"http://127.0.0.1:{port}"
        environment = {
            "FILESYSTEM_ROOT": "{folder}",
            "LOCALSTACK_VOLUME_DIR": "{folder}",
            "GATEWAY_LISTEN": f"127.0.0.1:{port}",
            # The other server listens on every address, whatever GATEWAY_LISTEN says.
            "GATEWAY_SERVER": "hypercorn",
            "SERVICES": "kms,s3",
            "DISABLE_EVENTS": "1",
            "SKIP_SSL_CERT_DOWNLOAD": "1",
            "DNS_ADDRESS": "0",
        }
        command = [python, "-m", "localstack.runtime.main"]
        answers = self.url + "/_localstack/health"
        self._process = Process("localstack", command, environment, answers)
        self.stop, self.wait = self._process.stop, self._process.wait


@functools.cache
def shared() -> LocalStack:
    """Returns the server that all tests share; each test has keys of its own."""
    try:
        return LocalStack()
    except AssertionError:
        # Another program took the port that was free a moment ago.
        return LocalStack()


def _main() -> None:
    parser = argparse.ArgumentParser(prog="python -m counterparts.localstack")
    parser.add_argument("--port", type=int, default=4566)
    server = LocalStack(parser.parse_args().port)
    print(f"LocalStack answers at {server.url}", flush=True)  # noqa: T201
    server.wait()


if __name__ == "__main__":
    _main()
