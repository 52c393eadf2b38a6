//! A vault, an Entra ID and a client of ours, wired as in production but for the address: what the contract tests start from.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use keyvault_emulator::{Application, Call, Emulator, FederatedCredential, Operation, Permissions};
use keyvault_sync_core::chain::{CertificateChain, SecretEntries};
use keyvault_sync_core::facts::CertificateFacts;
use keyvault_sync_core::names::{CertificateName, Cloud, VaultHost};
use keyvault_sync_core::ownership::Tags;
use keyvault_sync_core::pfx::{self, Pfx, PfxEncryption, PfxRandomness};
use keyvault_sync_vault::{Identity, Import, Transport, TransportSettings, VaultClient, VaultError};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SignatureAlgorithm};
use serde_json::json;

use crate::gate::Gate;
use crate::proofs::Wallet;

pub(crate) const VAULT: &str = "contoso.vault.azure.net";
/// A vault in each cloud.
pub(crate) const VAULTS: [(&str, Cloud); 3] = [
    (VAULT, Cloud::Public),
    ("contoso.vault.azure.cn", Cloud::China),
    ("contoso.vault.usgovcloudapi.net", Cloud::UsGovernment),
];
pub(crate) const AUTHORITY: &str = "login.microsoftonline.com";
pub(crate) const TENANT: &str = "11111111-1111-1111-1111-111111111111";
pub(crate) const CLIENT: &str = "22222222-2222-2222-2222-222222222222";
pub(crate) const ISSUER: &str = "https://oidc.example.test/cluster";
pub(crate) const SUBJECT: &str = "system:serviceaccount:keyvault-sync:keyvault-sync";
pub(crate) const AUDIENCE: &str = "api://AzureADTokenExchange";

/// A file that goes when the test ends.
pub(crate) struct TokenFile(pub(crate) PathBuf);

impl TokenFile {
    pub(crate) fn new(content: &str) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::SeqCst);
        let path =
            PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("token-{}-{number}", std::process::id()));
        let file = Self(path);
        file.write(content);
        file
    }

    pub(crate) fn write(&self, content: &str) {
        std::fs::write(&self.0, content).unwrap();
    }
}

impl Drop for TokenFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// A cluster's issuer of ServiceAccount tokens.
pub(crate) struct ServiceAccounts(KeyPair);

impl ServiceAccounts {
    pub(crate) fn new() -> Self {
        Self(KeyPair::generate().unwrap())
    }

    pub(crate) fn jwks(&self) -> serde_json::Value {
        // An uncompressed point: 4, x, y.
        let point = self.0.public_key_raw();
        let (x, y) = point[1..].split_at(32);
        let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        json!({"keys": [{"kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": "1", "x": encode(x), "y": encode(y)}]})
    }

    /// A token; `seconds` until it expires.
    pub(crate) fn token(&self, issuer: &str, subject: &str, audience: &str, seconds: i64) -> String {
        let mut header = jsonwebtoken::Header::new(jsonwebtoken::Algorithm::ES256);
        header.kid = Some("1".into());
        let now = now();
        let claims = json!({
            "iss": issuer, "sub": subject, "aud": [audience],
            "iat": now.min(now + seconds - 60), "nbf": now.min(now + seconds - 60), "exp": now + seconds,
        });
        let key = jsonwebtoken::EncodingKey::from_ec_der(&self.0.serialize_der());
        jsonwebtoken::encode(&header, &claims, &key).unwrap()
    }

    pub(crate) fn good_token(&self) -> String {
        self.token(ISSUER, SUBJECT, AUDIENCE, 3600)
    }
}

pub(crate) fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs().try_into().unwrap()
}

pub(crate) struct World {
    pub(crate) emulator: Emulator,
    pub(crate) accounts: ServiceAccounts,
    pub(crate) token_file: TokenFile,
    pub(crate) wallet: Wallet,
    pub(crate) gate: Gate,
    pub(crate) transport: Transport,
    pub(crate) client: VaultClient,
}

impl World {
    /// One vault, one application that may do what a Certificates Officer may, one client.
    pub(crate) async fn start() -> Self {
        let emulator = Emulator::start("127.0.0.1:0".parse().unwrap()).await.unwrap();
        emulator.add_vault(VAULT, TENANT);
        let accounts = ServiceAccounts::new();
        emulator.trust_issuer(ISSUER, accounts.jwks());
        emulator.add_application(Application {
            tenant_id: TENANT.into(),
            client_id: CLIENT.into(),
            federated: vec![FederatedCredential {
                issuer: ISSUER.into(),
                subject: SUBJECT.into(),
                audience: AUDIENCE.into(),
            }],
            ..Application::default()
        });
        emulator.allow(VAULT, CLIENT, Permissions::certificates_officer());
        let token_file = TokenFile::new(&accounts.good_token());
        let (wallet, gate) = (Wallet::default(), Gate::default());
        let settings = TransportSettings {
            emulator_address: Some(emulator.address()),
            ca_bundle_pem: Some(emulator.ca_pem().into()),
            imds_endpoint: Some(emulator.imds_endpoint()),
            ..TransportSettings::default()
        };
        let transport = Transport::new(&settings, Arc::new(wallet.clone()), Arc::new(gate.clone())).unwrap();
        let client =
            VaultClient::new(host(VAULT), &identity(TENANT, CLIENT, &token_file), &transport).unwrap();
        Self { emulator, accounts, token_file, wallet, gate, transport, client }
    }

    /// Another client over the same transport.
    pub(crate) fn client(&self, vault: &str, tenant: &str, client: &str) -> VaultClient {
        self.client_as(vault, &identity(tenant, client, &self.token_file))
    }

    /// Another client over the same transport, of any identity.
    pub(crate) fn client_as(&self, vault: &str, identity: &Identity) -> VaultClient {
        VaultClient::new(host(vault), identity, &self.transport).unwrap()
    }

    /// A client that has its token and knows the vault's challenge: its next call is one request.
    pub(crate) async fn warm(&self) {
        self.client.newest(&name("warm")).await.unwrap();
    }

    pub(crate) fn calls(&self, operation: Operation) -> Vec<Call> {
        self.emulator.journal().into_iter().filter(|call| call.operation == operation).collect()
    }
}

pub(crate) fn host(text: &str) -> VaultHost {
    VaultHost::from_host(text, &Cloud::ALL).unwrap()
}

pub(crate) fn name(text: &str) -> CertificateName {
    CertificateName::parse(text).unwrap()
}

pub(crate) fn identity(tenant: &str, client: &str, token_file: &TokenFile) -> Identity {
    Identity::WorkloadIdentity {
        tenant_id: tenant.into(),
        client_id: client.into(),
        token_file: token_file.0.clone(),
    }
}

pub(crate) fn tags(pairs: &[(&str, &str)]) -> Tags {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect::<BTreeMap<_, _>>()
}

/// A leaf of this key type under an intermediate, as a Secret holds them.
pub(crate) fn chain(algorithm: &'static SignatureAlgorithm) -> CertificateChain {
    let ca_key = KeyPair::generate().unwrap();
    let mut ca = CertificateParams::new(Vec::<String>::new()).unwrap();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.distinguished_name.push(rcgen::DnType::CommonName, "Root");
    let root = Issuer::new(ca.clone(), ca_key);
    let intermediate_key = KeyPair::generate().unwrap();
    ca.distinguished_name.push(rcgen::DnType::CommonName, "Intermediate");
    let intermediate = ca.signed_by(&intermediate_key, &root).unwrap();
    let issuer = Issuer::new(ca, intermediate_key);
    let key = KeyPair::generate_for(algorithm).unwrap();
    let leaf =
        CertificateParams::new(vec!["web.example.test".into()]).unwrap().signed_by(&key, &issuer).unwrap();
    let certificate = format!("{}{}", leaf.pem(), intermediate.pem());
    let private_key = key.serialize_pem();
    let entries = SecretEntries {
        certificate_key: "tls.crt",
        certificate: certificate.as_bytes(),
        private_key_key: "tls.key",
        private_key: private_key.as_bytes(),
        ca: None,
    };
    CertificateChain::from_entries(&entries, now()).unwrap()
}

pub(crate) fn bundle(chain: &CertificateChain) -> Pfx {
    let randomness = PfxRandomness::fill_with(|bytes| {
        bytes.fill(7);
        Ok::<(), ()>(())
    });
    pfx::encode(chain, PfxEncryption::default(), randomness.unwrap()).unwrap()
}

/// Imports a P-256 certificate.
pub(crate) async fn import(client: &VaultClient, text: &str) -> Result<CertificateFacts, VaultError> {
    let chain = chain(&rcgen::PKCS_ECDSA_P256_SHA256);
    let import = Import {
        pfx: &bundle(&chain),
        key_type: chain.key_type(),
        exportable: true,
        tags: &tags(&[("team", "web")]),
    };
    client.import(&name(text), &import).await
}
