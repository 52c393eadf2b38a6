"""Every way to be somebody that azure-identity has and keyvault-sync offers, against the emulator.

Each token is shown to a vault by the official certificate client, challenge verification on. Settings besides those of
emulated.py: clouds (list of authority and vault), tenant, client_id, client_secret, expired_secret, certificate,
unknown_certificate, expired_certificate (PEM, key and certificate), token_file, imds (URL), system and user (client ids of
managed identities, of which none is assigned yet), name and cer (base64 DER) of the certificate in every vault.
Prints one line per promise that held; any failure ends it with a traceback and status 1.
"""

import base64
import json
import os

from emulated import admin, expect, held, settings

os.environ["AZURE_POD_IDENTITY_AUTHORITY_HOST"] = settings["imds"]

import msal
from azure.core.credentials import AccessToken
from azure.core.exceptions import ClientAuthenticationError, HttpResponseError
from azure.identity import (
    CertificateCredential,
    ClientSecretCredential,
    CredentialUnavailableError,
    ManagedIdentityCredential,
    WorkloadIdentityCredential,
)
from azure.keyvault.certificates import CertificateClient

tenant, client_id, name = settings["tenant"], settings["client_id"], settings["name"]
system, user = settings["system"], settings["user"]
public, *others = settings["clouds"]
AUTHORITY = f"https://{public['authority']}/{tenant}"


def read(credential, vault=public["vault"]):
    """One real read; whose token it was, by the journal."""
    found = CertificateClient(f"https://{vault}", credential).get_certificate(name)
    assert bytes(found.cer) == base64.b64decode(settings["cer"])
    return admin(f"journal?operation=GetCertificate&host={vault}")[-1]["client_id"]


def refused(credential, *words, error=ClientAuthenticationError):
    message = expect(error, lambda: read(credential)).message
    assert all(word in message for word in words), message


def by_certificate(pem, **options):
    return CertificateCredential(tenant, client_id, certificate_data=settings[pem].encode(), **options)


assert read(ClientSecretCredential(tenant, client_id, settings["client_secret"])) == client_id
held("client secret")

for cloud in others:
    authority = cloud["authority"]
    credential = ClientSecretCredential(tenant, client_id, settings["client_secret"], authority=authority)
    assert read(credential, cloud["vault"]) == client_id
    credential = by_certificate("certificate", authority=authority)
    assert read(credential, cloud["vault"]) == client_id
    held(f"client secret and certificate at {authority}")

assert read(by_certificate("certificate")) == client_id
assert read(by_certificate("certificate", send_certificate_chain=True)) == client_id
held("client certificate, RS256 and SHA-1")


class Signed:
    """By the library under azure-identity, which signs with PS256 and names the certificate by SHA-256 if it is let."""

    def get_token(self, *scopes, **_):
        key, certificate = settings["certificate"].split("-----BEGIN CERTIFICATE", 1)
        credential = {"private_key": key, "public_certificate": "-----BEGIN CERTIFICATE" + certificate}
        application = msal.ConfidentialClientApplication(client_id, credential, AUTHORITY)
        answer = application.acquire_token_for_client(list(scopes))
        return AccessToken(answer["access_token"], answer["expires_in"])


assert read(Signed()) == client_id
held("client certificate, PS256 and SHA-256")

workload = WorkloadIdentityCredential(
    tenant_id=tenant, client_id=client_id, token_file_path=settings["token_file"]
)
assert read(workload) == client_id
held("workload identity")

refused(ClientSecretCredential(tenant, client_id, "wrong"), "AADSTS7000215")
refused(ClientSecretCredential(tenant, client_id, settings["expired_secret"]), "AADSTS7000222")
refused(by_certificate("unknown_certificate"), "AADSTS700027", "The key was not found.")
refused(by_certificate("expired_certificate"), "AADSTS700027", "The key used is expired.")
held("wrong and expired proofs told apart by number")


def assign(client, is_system):
    identity = {"tenantId": tenant, "clientId": client, "isSystem": is_system}
    admin("identities", json.dumps(identity).encode())


def managed(**options):
    return ManagedIdentityCredential(**options)


refused(managed(), "Identity not found", error=CredentialUnavailableError)
assign(user, False)
assert read(managed()) == user
assert read(managed(client_id=user)) == user
assign(client_id, False)
refused(managed(), "Multiple user assigned identities exist", error=CredentialUnavailableError)
assign(system, True)
assert read(managed()) == system
assert read(managed(client_id=user)) == user
held("managed identity, system-assigned and user-assigned")

admin(f"identities/{user}", method="DELETE")
refused(managed(client_id=user), "Identity not found", error=CredentialUnavailableError)
held("a managed identity taken away")

for status in (404, 410, 429, 500):
    # The client tries again, once without waiting.
    effect = {"kind": "status", "status": status, "code": "starting"}
    admin("faults", json.dumps({"operation": "ManagedIdentityToken", "times": 1, "effect": effect}).encode())
    assert read(managed()) == system
    [before, after] = admin("journal?operation=ManagedIdentityToken")[-2:]
    assert (before["status"], after["status"]) == (status, 200), (before, after)
held("a metadata service that starts slowly")

admin(f"vaults/{public['vault']}/permissions/{system}/none", b"")
denied = expect(HttpResponseError, lambda: read(managed()))
assert denied.status_code == 403, denied
assert f"appid={system}" in denied.error.message, denied
held("no role, no certificate")
