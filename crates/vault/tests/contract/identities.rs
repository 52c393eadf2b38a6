//! Every kind of identity through a real token request: what it shows whom, what it is told, and that nobody gets another's token.

use keyvault_emulator::{Application, Effect, Fault, FederatedCredential, Operation, Permissions};
use keyvault_sync_core::names::Cloud;
use keyvault_sync_core::reason::Reason;
use keyvault_sync_vault::{Identity, Landed, SecretEdition, ServiceAccount, VaultClient, VaultError};
use rcgen::{CertificateParams, KeyPair, SignatureAlgorithm};

use crate::failures::check_text;
use crate::world::{CLIENT, ISSUER, TENANT, VAULT, VAULTS, World, name};

const OTHER_CLIENT: &str = "33333333-3333-3333-3333-333333333333";
const SECRET: &str = "a-client-secret~of.Azure_s";

pub(crate) fn account(namespace: &str, name: &str, uid: &str) -> ServiceAccount {
    ServiceAccount { namespace: namespace.into(), name: name.into(), uid: uid.into() }
}

/// `resource_version` of a Secret of that name.
pub(crate) fn edition(name: &str, resource_version: u32, key: Option<&str>) -> SecretEdition {
    SecretEdition {
        namespace: "keyvault-sync".into(),
        name: name.into(),
        uid: format!("uid-of-{name}"),
        resource_version: resource_version.to_string(),
        key: key.map(str::to_owned),
    }
}

pub(crate) fn of_account(client: &str, account: &ServiceAccount) -> Identity {
    Identity::ServiceAccount { tenant_id: TENANT.into(), client_id: client.into(), account: account.clone() }
}

pub(crate) fn of_secret(client: &str, secret: &SecretEdition) -> Identity {
    Identity::ServicePrincipal { tenant_id: TENANT.into(), client_id: client.into(), secret: secret.clone() }
}

pub(crate) fn of_certificate(client: &str, secret: &SecretEdition) -> Identity {
    Identity::ClientCertificate { tenant_id: TENANT.into(), client_id: client.into(), secret: secret.clone() }
}

/// A client certificate with its key, self-signed, as an app registration takes it.
pub(crate) struct Pair {
    pub(crate) certificate: String,
    pub(crate) key: String,
    der: Vec<u8>,
}

pub(crate) fn pair(algorithm: &'static SignatureAlgorithm, until: i32) -> Pair {
    let key = KeyPair::generate_for(algorithm).unwrap();
    let mut params = CertificateParams::new(vec!["client.example.test".into()]).unwrap();
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(until, 1, 1);
    let certificate = params.self_signed(&key).unwrap();
    Pair { certificate: certificate.pem(), key: key.serialize_pem(), der: certificate.der().to_vec() }
}

/// What a ServiceAccount's federated credential is for, in a cloud.
fn federated(account: &ServiceAccount, cloud: Cloud) -> FederatedCredential {
    let ServiceAccount { namespace, name, .. } = account;
    FederatedCredential {
        issuer: ISSUER.into(),
        subject: format!("system:serviceaccount:{namespace}:{name}"),
        audience: cloud.exchange_audience().into(),
    }
}

impl World {
    /// The API server gives this account tokens of this audience.
    fn give_token(&self, account: &ServiceAccount, audience: &str) {
        let subject = format!("system:serviceaccount:{}:{}", account.namespace, account.name);
        self.wallet.put_token(account, &self.accounts.token(ISSUER, &subject, audience, 3600));
    }

    /// Another application in the tenant, without any role.
    fn register(&self, client: &str, application: Application) {
        let (tenant_id, client_id) = (TENANT.into(), client.into());
        self.emulator.add_application(Application { tenant_id, client_id, ..application });
    }

    fn tokens(&self) -> usize {
        self.calls(Operation::Token).len()
    }
}

async fn refused(client: &VaultClient) -> VaultError {
    client.newest(&name("web")).await.unwrap_err()
}

#[tokio::test]
async fn every_kind_of_identity_opens_the_vaults_of_each_cloud_with_that_clouds_token() {
    let certificate = pair(&rcgen::PKCS_RSA_SHA256, 2100);
    let of_web = account("web", "keyvault", "uid-1");
    let (secret, tls) = (edition("credentials", 1, Some("clientSecret")), edition("tls", 1, None));
    for (vault, cloud) in VAULTS {
        let world = World::start().await;
        world.emulator.add_vault(vault, TENANT);
        world.register(
            OTHER_CLIENT,
            Application {
                secret: Some(SECRET.into()),
                certificates: vec![certificate.der.clone()],
                federated: vec![federated(&of_web, cloud)],
                ..Application::default()
            },
        );
        world.emulator.allow(vault, OTHER_CLIENT, Permissions::certificates_officer());
        world.give_token(&of_web, cloud.exchange_audience());
        // With the line break that `kubectl create secret --from-file` takes along.
        world.wallet.put_secret(&secret, &format!("{SECRET}\n"));
        world.wallet.put_certificate(&tls, &certificate.certificate, &certificate.key);
        for (identity, asked) in [
            (
                of_account(OTHER_CLIENT, &of_web),
                format!("ServiceAccount web/keyvault for {}", cloud.exchange_audience()),
            ),
            (of_secret(OTHER_CLIENT, &secret), "Secret keyvault-sync/credentials".into()),
            (of_certificate(OTHER_CLIENT, &tls), "Secret keyvault-sync/tls".into()),
        ] {
            let (tokens, proofs) = (world.tokens(), world.wallet.asked().len());
            let client = world.client_as(vault, &identity);
            assert_eq!(client.newest(&name("web")).await.unwrap(), None, "{identity:?}");
            client.contact().await.unwrap();
            let calls = world.calls(Operation::Token).split_off(tokens);
            let seen: Vec<_> = calls
                .iter()
                .map(|call| {
                    (call.host.as_str(), call.scope.as_deref().unwrap(), call.client_id.as_deref().unwrap())
                })
                .collect();
            assert_eq!(seen, [(cloud.authority_host(), cloud.vault_scope(), OTHER_CLIENT)], "{identity:?}");
            assert_eq!(world.wallet.asked().split_off(proofs), [asked], "{identity:?}");
        }
    }
}

#[tokio::test]
async fn no_namespace_account_or_client_gets_the_token_of_another() {
    let world = World::start().await;
    let (first, second) = (account("a", "vault", "uid-1"), account("b", "vault", "uid-2"));
    let applications = [(OTHER_CLIENT, &first), ("44444444-4444-4444-4444-444444444444", &second)];
    for (client, account) in applications {
        let federated = vec![federated(account, Cloud::Public)];
        world.register(client, Application { federated, ..Application::default() });
        world.give_token(account, Cloud::Public.exchange_audience());
    }
    world.emulator.allow(VAULT, OTHER_CLIENT, Permissions::certificates_officer());
    let (a, b) = (of_account(OTHER_CLIENT, &first), of_account(applications[1].0, &second));
    let kept = world.client_as(VAULT, &a);
    assert_eq!(kept.newest(&name("web")).await.unwrap(), None);

    // The vault has seen a good token of the other, in this process.
    let error = refused(&world.client_as(VAULT, &b)).await;
    assert_eq!((error.problem.reason, error.landed), (Reason::Forbidden, Landed::No), "{error}");
    // An account that names another's application: Entra ID is shown its own token, and knows it not.
    let error = refused(&world.client_as(VAULT, &of_account(OTHER_CLIENT, &second))).await;
    assert_eq!(error.code.as_deref(), Some("AADSTS700213"), "{error}");
    for part in ["the token of ServiceAccount b/vault", "system:serviceaccount:b:vault"] {
        assert!(error.to_string().contains(part), "{part:?} in {error}");
    }
    // The account made anew under the same name is another; it has no token, and not that of its predecessor.
    let error =
        refused(&world.client_as(VAULT, &of_account(OTHER_CLIENT, &account("a", "vault", "uid-3")))).await;
    assert_eq!(error.problem.reason, Reason::SecretNotFound, "{error}");
    // The operator's own identity is used for none of them.
    let clients: Vec<_> =
        world.calls(Operation::Token).into_iter().map(|call| call.client_id.unwrap_or_default()).collect();
    assert!(!clients.contains(&CLIENT.to_owned()), "{clients:?}");
}

#[tokio::test]
async fn a_changed_secret_is_used_at_once_and_what_was_wrong_before_is_forgotten() {
    let world = World::start().await;
    world.register(
        OTHER_CLIENT,
        Application {
            secret: Some(SECRET.into()),
            expired_secrets: vec!["an-old-secret".into()],
            ..Application::default()
        },
    );
    world.emulator.allow(VAULT, OTHER_CLIENT, Permissions::certificates_officer());
    for (version, secret, code) in [
        (1, "a-wrong-secret", Some("AADSTS7000215")),
        (2, "an-old-secret", Some("AADSTS7000222")),
        (3, SECRET, None),
    ] {
        let edition = edition("credentials", version, Some("password"));
        world.wallet.put_secret(&edition, secret);
        let client = world.client_as(VAULT, &of_secret(OTHER_CLIENT, &edition));
        let before = world.tokens();
        // A wrong one is not tried again and again; a good one need not be.
        for _ in 0..3 {
            let outcome = client.newest(&name("web")).await;
            let Some(code) = code else {
                assert_eq!(outcome.unwrap(), None);
                continue;
            };
            let error = outcome.unwrap_err();
            let seen = (error.problem.reason, error.landed, error.code.as_deref());
            assert_eq!(seen, (Reason::AuthenticationFailed, Landed::No, Some(code)), "{error}");
            let named = "the client secret in \"password\" of Secret keyvault-sync/credentials";
            assert!(error.to_string().contains(named), "{error}");
            check_text(&error, secret);
        }
        assert_eq!(world.tokens() - before, 1, "{secret}");
    }
}

#[tokio::test]
async fn a_renewed_certificate_is_used_at_once_and_an_unregistered_one_is_told() {
    let world = World::start().await;
    let (first, second) = (pair(&rcgen::PKCS_RSA_SHA256, 2100), pair(&rcgen::PKCS_RSA_SHA256, 2100));
    world.register(
        OTHER_CLIENT,
        Application { certificates: vec![second.der.clone()], ..Application::default() },
    );
    world.emulator.allow(VAULT, OTHER_CLIENT, Permissions::certificates_officer());
    let (old, new) = (edition("tls", 1, None), edition("tls", 2, None));
    world.wallet.put_certificate(&old, &first.certificate, &first.key);
    world.wallet.put_certificate(&new, &second.certificate, &second.key);
    let error = refused(&world.client_as(VAULT, &of_certificate(OTHER_CLIENT, &old))).await;
    let seen = (error.problem.reason, error.code.as_deref());
    assert_eq!(seen, (Reason::AuthenticationFailed, Some("AADSTS700027")), "{error}");
    for part in ["the client certificate in Secret keyvault-sync/tls", "app registration"] {
        assert!(error.to_string().contains(part), "{part:?} in {error}");
    }
    check_text(&error, &first.key);
    let client = world.client_as(VAULT, &of_certificate(OTHER_CLIENT, &new));
    assert_eq!(client.newest(&name("web")).await.unwrap(), None);
}

#[tokio::test]
async fn a_certificate_that_cannot_serve_is_told_before_anybody_is_asked() {
    let world = World::start().await;
    let (good, other) = (pair(&rcgen::PKCS_RSA_SHA256, 2100), pair(&rcgen::PKCS_RSA_SHA256, 2100));
    let expired = pair(&rcgen::PKCS_RSA_SHA256, 2021);
    let ec = pair(&rcgen::PKCS_ECDSA_P256_SHA256, 2100);
    let rows = [
        (&ec.certificate, &ec.key, "takes an RSA key"),
        (&expired.certificate, &expired.key, "has expired"),
        (&good.certificate, &other.key, "does not belong to"),
        (&good.key, &good.certificate, "tls."),
    ];
    for (version, (certificate, key, says)) in (1..).zip(rows) {
        let edition = edition("tls", version, None);
        world.wallet.put_certificate(&edition, certificate, key);
        let error = refused(&world.client_as(VAULT, &of_certificate(OTHER_CLIENT, &edition))).await;
        assert_eq!(
            (error.problem.reason, error.landed),
            (Reason::AuthenticationFailed, Landed::No),
            "{error}"
        );
        for part in [says, "the client certificate in Secret keyvault-sync/tls cannot be used"] {
            assert!(error.to_string().contains(part), "{part:?} in {error}");
        }
        check_text(&error, "PRIVATE KEY");
    }
    assert_eq!(world.tokens(), 0);
}

#[tokio::test]
async fn what_is_no_proof_is_named_and_nobody_is_asked() {
    let world = World::start().await;
    let large = "x".repeat(70_000);
    let of_web = account("web", "keyvault", "uid-1");
    for (version, text, says) in
        [(1, "", "it is empty"), (2, " \n", "it is empty"), (3, &large, "larger than")]
    {
        let secret = edition("credentials", version, Some("password"));
        world.wallet.put_secret(&secret, text);
        let error = refused(&world.client_as(VAULT, &of_secret(CLIENT, &secret))).await;
        let named = format!(
            "the client secret in \"password\" of Secret keyvault-sync/credentials cannot be used: {says}"
        );
        let seen = (error.problem.reason, error.to_string().contains(says));
        assert_eq!(seen, (Reason::AuthenticationFailed, true), "{named} in {error}");
    }
    world.wallet.put_token(&of_web, "\n");
    let error = refused(&world.client_as(VAULT, &of_account(CLIENT, &of_web))).await;
    assert!(error.to_string().contains("the token of ServiceAccount web/keyvault cannot be used"), "{error}");

    let missing = edition("missing", 1, Some("password"));
    for identity in [of_secret(CLIENT, &missing), of_certificate(CLIENT, &missing)] {
        let error = refused(&world.client_as(VAULT, &identity)).await;
        let seen = (error.problem.reason, error.landed);
        assert_eq!(seen, (Reason::SecretNotFound, Landed::No), "{error}");
        assert!(error.to_string().contains("Secret keyvault-sync/missing does not exist"), "{error}");
        check_text(&error, "no secret");
    }
    assert_eq!(world.tokens(), 0);
}

#[tokio::test]
async fn a_vault_is_reached_without_a_token_and_without_a_right() {
    let world = World::start().await;
    let client = world.client_as(VAULT, &of_secret(OTHER_CLIENT, &edition("missing", 1, None)));
    client.reach().await.unwrap();
    let calls = world.emulator.journal();
    let seen: Vec<_> = calls.iter().map(|call| (call.host.as_str(), call.status)).collect();
    assert_eq!(seen, [(VAULT, Some(401))]);
    assert_eq!(world.wallet.asked().len(), 0);

    let absent = world.client_as("absent.vault.azure.net", &of_secret(CLIENT, &edition("missing", 1, None)));
    let error = absent.reach().await.unwrap_err();
    assert_eq!(error.landed, Landed::No);
    assert!(error.to_string().starts_with("reaching vault absent.vault.azure.net: "), "{error}");

    world.emulator.clone().stop().await;
    let error = client.reach().await.unwrap_err();
    assert_eq!(error.problem.reason, Reason::VaultUnreachable, "{error}");
    assert!(error.to_string().starts_with("reaching vault contoso.vault.azure.net: "), "{error}");
}

#[tokio::test]
async fn a_contact_is_one_read_of_what_nobody_has_and_names_what_is_missing() {
    let world = World::start().await;
    world.warm().await;
    let before = world.emulator.journal().len();
    world.client.contact().await.unwrap();
    let calls = world.emulator.journal().split_off(before);
    let seen: Vec<_> = calls.iter().map(|call| (call.operation, call.name.as_deref(), call.status)).collect();
    assert_eq!(seen, [(Operation::GetCertificate, Some("keyvault-sync-contact"), Some(404))]);

    world.emulator.deny(VAULT, CLIENT);
    let error = world.client.contact().await.unwrap_err();
    assert_eq!((error.problem.reason, error.landed), (Reason::Forbidden, Landed::No), "{error}");
    for part in ["opening vault contoso.vault.azure.net: ", "Microsoft.KeyVault/vaults/certificates/read"] {
        assert!(error.to_string().contains(part), "{part:?} in {error}");
    }
    world.emulator.inject(Fault::new(Effect::throttled(Some("7"))).operation(Operation::GetCertificate));
    let error = world.client.contact().await.unwrap_err();
    assert_eq!(error.problem.reason, Reason::Throttled, "{error}");
}
