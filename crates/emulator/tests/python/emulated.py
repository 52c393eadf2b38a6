"""What every script here begins with: its settings, its connections turned to the emulator, and its few words.

Reads the settings as JSON from standard input; used here: port, ca_file, admin (URL of the admin API), patience (seconds
any step may take). To be imported before anything of Azure's.
"""

import json
import os
import socket
import sys
import urllib.parse
import urllib.request

settings = json.load(sys.stdin)
# Neither a proxy nor an identity of the machine that the test runs on.
for name in list(os.environ):
    if name.upper().endswith("_PROXY") or name.startswith(("AZURE_", "IDENTITY_", "IMDS_", "MSI_")):
        del os.environ[name]
os.environ["REQUESTS_CA_BUNDLE"] = settings["ca_file"]

EMULATED = (
    ".vault.azure.net",
    ".vault.azure.cn",
    ".vault.usgovcloudapi.net",
    "login.microsoftonline.com",
    "login.chinacloudapi.cn",
    "login.microsoftonline.us",
)
ADMIN_HOST = urllib.parse.urlsplit(settings["admin"]).hostname
look_up = socket.getaddrinfo


def look_up_at_emulator(host, port, *args, **kwargs):
    """Sends connections for Azure's hosts to the emulator; host names, TLS and URLs stay as they are."""
    if host == ADMIN_HOST:
        return look_up(host, port, *args, **kwargs)
    if not str(host).endswith(EMULATED):
        raise socket.gaierror(f"the test must not reach {host}")
    return look_up("127.0.0.1", settings["port"], *args, **kwargs)


socket.getaddrinfo = look_up_at_emulator


def held(promise):
    print("held:", promise, flush=True)


def expect(error, call):
    try:
        call()
    except error as caught:
        return caught
    raise AssertionError(f"{error.__name__} was expected")


def admin(path, body=None, method=None):
    """Asks the emulator's admin API; with a body (bytes) and no method, by POST."""
    request = urllib.request.Request(f"{settings['admin']}/{path}", data=body, method=method)
    with urllib.request.urlopen(request, timeout=settings["patience"]) as answer:
        return json.load(answer)
