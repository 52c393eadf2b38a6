"""The official Azure clients for Python against the emulator, challenge verification on.

Settings besides those of emulated.py: vault, tenant, client_id, client_secret, assertion, wrong_assertion, pfx (base64),
password, chain (list of base64 DER, leaf first), key (base64 PKCS#8), listed (how many certificates the vault holds in
the end).
Prints one line per promise that held; any failure ends it with a traceback and status 1.
"""

import base64
import json
import time

from emulated import admin, expect, held, settings

from azure.core.exceptions import ClientAuthenticationError, HttpResponseError, ResourceNotFoundError
from azure.identity import ClientAssertionCredential, ClientSecretCredential
from azure.keyvault.certificates import (
    CertificateClient,
    CertificateContentType,
    CertificatePolicy,
    KeyType,
    WellKnownIssuerNames,
)
from azure.keyvault.secrets import SecretClient
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, pkcs12

vault_url = "https://" + settings["vault"]
tenant, client_id = settings["tenant"], settings["client_id"]
pfx = base64.b64decode(settings["pfx"])
password = settings["password"]
expected_chain = [base64.b64decode(der) for der in settings["chain"]]
expected_key = base64.b64decode(settings["key"])


def wait_for(what, condition):
    deadline = time.monotonic() + settings["patience"]
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come to pass"
        time.sleep(0.05)


def polled_in_vain(operation, name, at_least):
    """Whether the client has asked so often for something that is not there yet."""
    calls = admin(f"journal?operation={operation}&name={name}")
    return sum(call["status"] == 404 for call in calls) >= at_least


by_assertion = ClientAssertionCredential(tenant, client_id, lambda: settings["assertion"])
by_secret = ClientSecretCredential(tenant, client_id, settings["client_secret"])
certificates = CertificateClient(vault_url, by_assertion)
secrets = SecretClient(vault_url, by_secret)

policy = CertificatePolicy(
    issuer_name="Unknown",
    exportable=True,
    key_type=KeyType.ec,
    key_size=256,
    key_curve_name="P-256",
    reuse_key=False,
    content_type=CertificateContentType.pkcs12,
)
first = certificates.import_certificate("python-web", pfx, password=password, policy=policy, tags={"n": "1"})
second = certificates.import_certificate("python-web", pfx, password=password, policy=policy, tags={"n": "2"})
assert first.properties.version != second.properties.version
assert bytes(second.cer) == expected_chain[0]
assert second.policy.issuer_name == "Unknown" and second.policy.key_curve_name == "P-256"
assert not second.policy.lifetime_actions, second.policy.lifetime_actions
held("import by federated assertion")

latest = certificates.get_certificate("python-web")
assert latest.properties.version == second.properties.version
old = certificates.get_certificate_version("python-web", first.properties.version)
assert old.properties.tags == {"n": "1"} and latest.properties.tags == {"n": "2"}
assert latest.properties.recoverable_days == 90 and latest.properties.enabled
assert latest.properties.expires_on > latest.properties.not_before
held("get by name and by version")

versions = {found.version for found in certificates.list_properties_of_certificate_versions("python-web")}
assert versions == {first.properties.version, second.properties.version}, versions
listed = [found.name for found in certificates.list_properties_of_certificates()]
assert len(listed) == len(set(listed)) == settings["listed"], listed
held("versions, and lists over several pages")

certificates.update_certificate_properties("python-web", first.properties.version, tags={"n": "3"}, enabled=False)
old = certificates.get_certificate_version("python-web", first.properties.version)
assert old.properties.tags == {"n": "3"} and not old.properties.enabled
assert certificates.get_certificate("python-web").properties.tags == {"n": "2"}
held("update of one version")

secret = secrets.get_secret("python-web")
assert secret.properties.content_type == "application/x-pkcs12"
key, leaf, others = pkcs12.load_key_and_certificates(base64.b64decode(secret.value), None)
chain = [found.public_bytes(Encoding.DER) for found in [leaf, *others]]
assert chain[0] == expected_chain[0] and sorted(chain) == sorted(expected_chain)
der = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
public = key.public_key().public_numbers()
assert public == leaf.public_key().public_numbers()
assert der == expected_key
held("chain and key read back by client secret")

refused = expect(HttpResponseError, lambda: secrets.get_secret("python-web", first.properties.version))
assert refused.status_code == 403 and refused.error.innererror["code"] == "SecretDisabled", refused
missing = expect(ResourceNotFoundError, lambda: certificates.get_certificate("python-none"))
assert missing.error.code == "CertificateNotFound", missing
bad = expect(HttpResponseError, lambda: certificates.import_certificate("python-web", pfx, password="wrong"))
assert bad.status_code == 400 and bad.error.code == "BadParameter", bad
held("refusals with code and inner code")

wrong = ClientAssertionCredential(tenant, client_id, lambda: settings["wrong_assertion"])
refused = expect(ClientAuthenticationError, lambda: CertificateClient(vault_url, wrong).get_certificate("python-web"))
assert "AADSTS700213" in refused.message, refused.message
wrong = ClientSecretCredential(tenant, client_id, "wrong")
refused = expect(ClientAuthenticationError, lambda: CertificateClient(vault_url, wrong).get_certificate("python-web"))
assert "AADSTS7000215" in refused.message, refused.message
held("wrong identities told apart by AADSTS code")

certificates.update_certificate_policy("python-web", CertificatePolicy(issuer_name=WellKnownIssuerNames.self))
changed = certificates.get_certificate_policy("python-web")
assert changed.issuer_name == "Self" and changed.key_type == KeyType.ec and changed.exportable, changed
assert certificates.get_certificate("python-web").policy.issuer_name == "Self"
held("update of the policy, members not given left alone")

certificates.update_certificate_properties("python-web", tags={}, enabled=False)
bare = certificates.get_certificate("python-web")
assert bare.properties.tags in (None, {}) and not bare.properties.enabled, bare.properties.tags
assert bare.properties.version == second.properties.version
certificates.update_certificate_properties("python-web", tags={"n": "2"}, enabled=True)
held("update of the newest version, unnamed")

unborn = certificates.get_certificate("python-pending")
assert not unborn.cer and not unborn.properties.x509_thumbprint and not unborn.properties.enabled
names = [found.name for found in certificates.list_properties_of_certificates(include_pending=True)]
assert len(names) == settings["listed"] + 1 and "python-pending" in names, names
pending = expect(HttpResponseError, lambda: certificates.import_certificate("python-pending", pfx, password=password))
assert pending.status_code == 409 and pending.error.code == "Forbidden", pending
held("a pending operation: no content, no import, listed only if asked for")

INTERVAL = 0.1
poller = certificates.begin_delete_certificate("python-web", _polling_interval=INTERVAL)
poller.wait(timeout=0)
wait_for("polling for the deletion", lambda: polled_in_vain("GetDeletedCertificate", "python-web", 2))
assert not poller.done() and not list(certificates.list_deleted_certificates())
for write in (
    lambda: certificates.import_certificate("python-web", pfx, password=password),
    lambda: certificates.purge_deleted_certificate("python-web"),
):
    conflict = expect(HttpResponseError, write)
    assert conflict.status_code == 409 and conflict.error.innererror["code"] == "ObjectIsBeingDeleted", conflict
admin(f"vaults/{settings['vault']}/certificates/python-web/finish-deletion", b"")
poller.wait(timeout=settings["patience"])
assert poller.done() and poller.result().name == "python-web"
held("a deletion waited for")

expect(ResourceNotFoundError, lambda: certificates.get_certificate("python-web"))
conflict = expect(HttpResponseError, lambda: certificates.import_certificate("python-web", pfx, password=password))
assert conflict.status_code == 409, conflict
assert conflict.error.innererror["code"] == "ObjectIsDeletedButRecoverable", conflict
[deleted] = certificates.list_deleted_certificates()
assert deleted.name == "python-web" and deleted.recovery_id.endswith("/deletedcertificates/python-web")
assert (deleted.scheduled_purge_date - deleted.deleted_on).days == 90
assert bytes(certificates.get_deleted_certificate("python-web").cer) == expected_chain[0]
held("the deleted, listed and read")

poller = certificates.begin_recover_deleted_certificate("python-web", _polling_interval=INTERVAL)
before = sum(call["status"] == 404 for call in admin("journal?operation=GetCertificate&name=python-web"))
poller.wait(timeout=0)
wait_for("polling for the recovery", lambda: polled_in_vain("GetCertificate", "python-web", before + 2))
assert not poller.done()
conflict = expect(HttpResponseError, lambda: certificates.import_certificate("python-web", pfx, password=password))
assert conflict.error.innererror["code"] == "ObjectIsBeingRecovered", conflict
admin(f"vaults/{settings['vault']}/certificates/python-web/finish-recovery", b"")
poller.wait(timeout=settings["patience"])
assert poller.done()
assert certificates.get_certificate("python-web").properties.version == second.properties.version
held("a recovery waited for")

admin(f"vaults/{settings['vault']}/soft-delete", json.dumps({"deletion": {"milliseconds": 0}}).encode())
certificates.begin_delete_certificate("python-web", _polling_interval=INTERVAL).wait(timeout=settings["patience"])
certificates.purge_deleted_certificate("python-web")
expect(ResourceNotFoundError, lambda: certificates.get_deleted_certificate("python-web"))
again = certificates.import_certificate("python-web", pfx, password=password)
assert again.properties.tags in (None, {})
held("purge, and the name used again")
