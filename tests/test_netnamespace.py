"""The network: a loopback interface and nothing else."""

import json
import socket

import pytest


def ip(caller, *arguments):
    return json.loads(caller.inside('ip --json "$@"', *arguments))


def test_lo_is_the_only_interface_and_is_up(caller):
    (interface,) = ip(caller, "link")
    assert interface["ifname"] == "lo"
    assert set(interface["flags"]) == {"LOOPBACK", "UP", "LOWER_UP"}
    assert interface["mtu"] == 65536


def test_lo_has_the_two_loopback_addresses(caller):
    (interface,) = ip(caller, "address")
    addresses = [(address["local"], address["prefixlen"], address["scope"]) for address in interface["addr_info"]]
    assert addresses == [("127.0.0.1", 8, "host"), ("::1", 128, "host")]


def test_there_is_no_route_to_anywhere(caller):
    assert caller.inside("ip route; ip -6 route") == ""


@pytest.mark.parametrize("address", ["192.0.2.1/80", "2001:db8::1/80"])
def test_the_outside_is_unreachable(caller, address):
    says = caller.cannot("bash", "-c", f"exec 3<>/dev/tcp/{address}")
    assert "Network is unreachable" in says


@pytest.mark.parametrize(("family", "address"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_a_server_on_the_hosts_loopback_is_unreachable(caller, family, address):
    with socket.create_server((address, 0), family=family) as server:
        port = server.getsockname()[1]
        connect = f"exec 3<>/dev/tcp/{address}/{port}"
        assert "Connection refused" in caller.cannot("bash", "-c", connect)
        # The same words on the host do reach it.
        assert caller.run("bash", "-c", connect).returncode == 0


def test_an_abstract_socket_of_the_host_is_unreachable(caller):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("\0nix-build-shell-tests")
        server.listen()
        assert "nix-build-shell-tests" in caller.run("ss", "--listening", "--unix").stdout
        assert "nix-build-shell-tests" not in caller.inside("ss --listening --unix")


SERVER = r"""
#include <netdb.h>
#include <stdio.h>
#include <unistd.h>
/* Prints what the first client at this address and port sends. */
int main(int argc, char **argv) {
    struct addrinfo hints = {.ai_flags = AI_NUMERICHOST, .ai_socktype = SOCK_STREAM}, *address;
    char buffer[100];
    getaddrinfo(argv[1], argv[2], &hints, &address);
    int server = socket(address->ai_family, SOCK_STREAM, 0);
    if (bind(server, address->ai_addr, address->ai_addrlen) || listen(server, 1)) return 1;
    puts("ready");
    fflush(stdout);
    int client = accept(server, 0, 0);
    for (ssize_t size; (size = read(client, buffer, sizeof buffer)) > 0;) write(1, buffer, size);
    return 0;
}
"""


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_a_client_in_the_sandbox_reaches_a_server_in_it(caller, address):
    says = caller.inside(
        """
        gcc -x c -o serve - <<< "$1" 2>/dev/null
        coproc ./serve "$2" 4321
        exec {output}<&"${COPROC[0]}"
        read -r line <&$output
        echo "$line"
        echo hello > "/dev/tcp/$2/4321"
        cat <&$output
        """,
        SERVER,
        address,
    )
    assert says == "ready\nhello\n"


def test_the_name_localhost_is_the_loopback_address(caller):
    """Both lines of /etc/hosts say so, and no other source of names is there."""
    says = caller.cannot("bash", "-c", "exec 3<>/dev/tcp/localhost/1")
    assert "Connection refused" in says


def test_the_interface_cannot_be_changed(caller):
    assert "Operation not permitted" in caller.cannot("ip", "link", "set", "lo", "down")
    assert "Operation not permitted" in caller.cannot("ip", "address", "add", "192.0.2.1/24", "dev", "lo")
