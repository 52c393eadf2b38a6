//! The world of these tests: one emulator with a vault, an application and an issuer, and a client that knows where it is.
//! Leaves what is promised to the test files.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its part, none the whole")]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{RSA_PKCS1_SHA256, RSA_PSS_SHA256, RsaEncoding, RsaKeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use keyvault_emulator::{Application, Emulator, FederatedCredential, Permissions};
use p12_keystore::{Certificate, KeyStore, KeyStoreEntry, PrivateKey, PrivateKeyChain};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use reqwest::{Client, Method, Response, StatusCode};
use serde_json::{Value, json};
use time::OffsetDateTime;

pub const VAULT: &str = "contoso.vault.azure.net";
pub const ENTRA: &str = "login.microsoftonline.com";
pub const AUDIENCE: &str = "https://vault.azure.net";
pub const TENANT: &str = "11111111-1111-1111-1111-111111111111";
pub const CLIENT: &str = "22222222-2222-2222-2222-222222222222";
pub const SECRET: &str = "a client secret";
pub const ISSUER: &str = "https://kubernetes.example";
pub const SUBJECT: &str = "system:serviceaccount:keyvault-sync:keyvault-sync";
pub const EXCHANGE: &str = "api://AzureADTokenExchange";
pub const PASSWORD: &str = "a bundle's password";
/// Far more than any step takes on a slow machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A cloud, as Microsoft documents it ("National clouds") and its Entra ID describes it.
pub struct TestCloud {
    pub vault: &'static str,
    pub audience: &'static str,
    /// Every host of its Entra ID, the preferred one first.
    pub entra: &'static [&'static str],
    pub cache: &'static str,
    /// Issuer host of version 1 tokens.
    pub issuer: &'static str,
}

pub const CLOUDS: [TestCloud; 3] = [
    TestCloud {
        vault: VAULT,
        audience: AUDIENCE,
        entra: &[ENTRA, "login.windows.net", "login.microsoft.com", "sts.windows.net"],
        cache: "login.windows.net",
        issuer: "sts.windows.net",
    },
    TestCloud {
        vault: "contoso.vault.azure.cn",
        audience: "https://vault.azure.cn",
        entra: &["login.partner.microsoftonline.cn", "login.chinacloudapi.cn"],
        cache: "login.partner.microsoftonline.cn",
        issuer: "sts.chinacloudapi.cn",
    },
    TestCloud {
        vault: "contoso.vault.usgovcloudapi.net",
        audience: "https://vault.usgovcloudapi.net",
        entra: &["login.microsoftonline.us", "login.usgovcloudapi.net"],
        cache: "login.microsoftonline.us",
        issuer: "sts.windows.net",
    },
];

pub struct World {
    pub emulator: Emulator,
    pub client: Client,
    pub issuer: TestIssuer,
}

impl World {
    pub async fn start() -> Self {
        let emulator = Emulator::start(([127, 0, 0, 1], 0).into()).await.unwrap();
        let issuer = TestIssuer::new("key-1");
        emulator.add_vault(VAULT, TENANT);
        emulator.trust_issuer(ISSUER, issuer.jwks());
        emulator.add_application(application());
        emulator.allow(VAULT, CLIENT, Permissions::all());
        let client = client(&emulator, false);
        Self { emulator, client, issuer }
    }

    /// The application, with more or other proofs.
    pub fn change_application(&self, change: impl FnOnce(&mut Application)) {
        let mut application = application();
        change(&mut application);
        self.emulator.add_application(application);
    }

    pub fn token(&self) -> String {
        self.emulator.issue_token(TENANT, CLIENT, AUDIENCE, 3600)
    }

    /// A call with a good token and an api-version.
    pub async fn call(&self, method: Method, path: &str, body: Option<Value>) -> Answer {
        let separator = if path.contains('?') { '&' } else { '?' };
        let url = format!("https://{VAULT}/{path}{separator}api-version=2025-07-01");
        self.request(method, &url, Some(&self.token()), body).await
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.call(Method::GET, path, None).await
    }

    pub async fn import(&self, name: &str, body: Value) -> Answer {
        self.call(Method::POST, &format!("certificates/{name}/import"), Some(body)).await
    }

    pub async fn request(
        &self,
        method: Method,
        url: &str,
        token: Option<&str>,
        body: Option<Value>,
    ) -> Answer {
        let mut request = self.client.request(method, url);
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        if let Some(body) = body {
            request = request.json(&body);
        }
        Answer::of(request.send().await.unwrap()).await
    }

    /// The pages of a list, followed by their `nextLink`s from `path` on.
    pub async fn pages(&self, path: &str) -> Vec<Vec<Value>> {
        self.pages_after(self.get(path).await.ok()).await
    }

    /// This page, and those that follow it.
    pub async fn pages_after(&self, mut page: Value) -> Vec<Vec<Value>> {
        let mut pages = Vec::new();
        loop {
            pages.push(page["value"].as_array().unwrap().clone());
            assert!(pages.len() <= 20, "the list has no end: {}", page["nextLink"]);
            let Some(link) = page["nextLink"].as_str().map(str::to_owned) else { return pages };
            page = self.request(Method::GET, &link, Some(&self.token()), None).await.ok();
        }
    }

    /// Puts a certificate there past REST; its version.
    pub fn put(&self, name: &str, pfx: &[u8]) -> String {
        self.emulator.put_certificate(VAULT, name, pfx, PASSWORD, BTreeMap::new())
    }

    /// A token request to Entra ID.
    pub async fn token_request(&self, tenant: &str, form: &[(&str, &str)]) -> Answer {
        self.token_request_at(&format!("https://{ENTRA}/{tenant}/oauth2/v2.0/token"), form).await
    }

    /// A token request to a token endpoint.
    pub async fn token_request_at(&self, url: &str, form: &[(&str, &str)]) -> Answer {
        let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish();
        let request =
            self.client.post(url).header("content-type", "application/x-www-form-urlencoded").body(body);
        Answer::of(request.send().await.unwrap()).await
    }
}

fn application() -> Application {
    Application {
        tenant_id: TENANT.into(),
        client_id: CLIENT.into(),
        secret: Some(SECRET.into()),
        federated: vec![FederatedCredential {
            issuer: ISSUER.into(),
            subject: SUBJECT.into(),
            audience: EXCHANGE.into(),
        }],
        ..Application::default()
    }
}

/// A client whose connections to the emulator's hosts go to where it listens.
pub fn client(emulator: &Emulator, http1: bool) -> Client {
    let address: SocketAddr = emulator.address();
    let mut builder = Client::builder()
        .tls_certs_only([reqwest::Certificate::from_pem(emulator.ca_pem().as_bytes()).unwrap()])
        .no_proxy()
        .timeout(PATIENCE);
    let vaults =
        [VAULT, "other.vault.azure.net", "contoso.vault.azure.cn", "contoso.vault.usgovcloudapi.net"];
    for host in vaults.iter().chain(CLOUDS.iter().flat_map(|cloud| cloud.entra)) {
        builder = builder.resolve(host, address);
    }
    if http1 {
        builder = builder.http1_only();
    }
    builder.build().unwrap()
}

pub const SCOPE: &str = "https://vault.azure.net/.default";
pub const JWT_BEARER: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// A token request with this proof.
pub fn form<'a>(scope: &'a str, proof: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let mut form = vec![("grant_type", "client_credentials"), ("client_id", CLIENT), ("scope", scope)];
    form.extend(proof);
    form
}

/// An answer read to its end.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: reqwest::header::HeaderMap,
    pub version: reqwest::Version,
    pub body: Value,
}

impl Answer {
    pub async fn of(response: Response) -> Self {
        let (status, headers, version) = (response.status(), response.headers().clone(), response.version());
        let bytes = response.bytes().await.unwrap();
        Self { status, headers, version, body: serde_json::from_slice(&bytes).unwrap_or(Value::Null) }
    }

    /// Status, code and inner code of a refusal.
    pub fn refusal(&self) -> (u16, &str, &str) {
        let error = &self.body["error"];
        (
            self.status.as_u16(),
            error["code"].as_str().unwrap_or_default(),
            error["innererror"]["code"].as_str().unwrap_or_default(),
        )
    }

    pub fn ok(self) -> Value {
        assert_eq!(self.status, StatusCode::OK, "{}", self.body);
        self.body
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

/// An OpenID issuer with one ES256 key.
pub struct TestIssuer {
    key: KeyPair,
    kid: String,
}

impl TestIssuer {
    pub fn new(kid: &str) -> Self {
        Self { key: KeyPair::generate().unwrap(), kid: kid.into() }
    }

    pub fn jwks(&self) -> Value {
        let point = self.key.public_key_raw();
        json!({"keys": [{
            "kty": "EC", "crv": "P-256", "kid": self.kid, "use": "sig", "alg": "ES256",
            "x": URL_SAFE_NO_PAD.encode(&point[1..33]), "y": URL_SAFE_NO_PAD.encode(&point[33..65]),
        }]})
    }

    pub fn sign(&self, claims: &Value) -> String {
        let mut header = Header::new(Algorithm::ES256);
        header.kid = Some(self.kid.clone());
        jsonwebtoken::encode(&header, claims, &EncodingKey::from_ec_der(self.key.serialized_der())).unwrap()
    }

    /// A good assertion, with `change` made to its claims.
    pub fn assertion(&self, change: Value) -> String {
        let now = unix_now();
        let mut claims = json!({"iss": ISSUER, "sub": SUBJECT, "aud": [EXCHANGE], "iat": now, "nbf": now, "exp": now + 600});
        for (name, value) in change.as_object().unwrap() {
            claims[name] = value.clone();
        }
        self.sign(&claims)
    }
}

/// A certificate that an application proves itself by, with its key.
pub struct ClientCertificate {
    key: KeyPair,
    pub der: Vec<u8>,
    pem: String,
}

impl ClientCertificate {
    /// Self-signed, with an RSA key; holds from and to so many days from now.
    pub fn new(from: i64, to: i64) -> Self {
        let key = Key::Rsa(2048).generate();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "an application");
        params.not_before = OffsetDateTime::now_utc() + time::Duration::days(from);
        params.not_after = OffsetDateTime::now_utc() + time::Duration::days(to);
        let certificate = params.self_signed(&key).unwrap();
        Self { key, der: certificate.der().to_vec(), pem: certificate.pem() }
    }

    /// `x5t#S256`.
    pub fn thumbprint(&self) -> String {
        URL_SAFE_NO_PAD.encode(digest(&SHA256, &self.der))
    }

    /// Key and certificate in one PEM text.
    pub fn pem(&self) -> String {
        self.key.serialize_pem() + &self.pem
    }

    /// An assertion with these headers besides `typ`; signed with what `alg` says, or with PKCS#1 where that is no RSA.
    pub fn sign(&self, mut header: Value, claims: &Value) -> String {
        header["typ"] = json!("JWT");
        let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", encode(&header), encode(claims));
        let key = RsaKeyPair::from_pkcs8(self.key.serialized_der()).unwrap();
        let padding: &dyn RsaEncoding =
            if header["alg"] == "PS256" { &RSA_PSS_SHA256 } else { &RSA_PKCS1_SHA256 };
        let mut signature = vec![0; key.public_modulus_len()];
        key.sign(padding, &SystemRandom::new(), signed.as_bytes(), &mut signature).unwrap();
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

pub fn unix_now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64
}

/// Kind of key, of a certificate made for a test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key {
    Rsa(usize),
    P256,
    P384,
    P521,
    Ed25519,
}

impl Key {
    pub fn generate(self) -> KeyPair {
        use rcgen::RsaKeySize::{_2048, _3072, _4096};
        let rsa = |size| KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, size).unwrap();
        match self {
            Self::Rsa(2048) => rsa(_2048),
            Self::Rsa(3072) => rsa(_3072),
            Self::Rsa(_) => rsa(_4096),
            Self::P256 => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap(),
            Self::P384 => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap(),
            Self::P521 => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P521_SHA512).unwrap(),
            Self::Ed25519 => KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap(),
        }
    }
}

/// A leaf with its key and the certificates above it.
pub struct Made {
    pub key: Vec<u8>,
    /// Leaf, intermediate, root.
    pub chain: Vec<Vec<u8>>,
}

/// A certificate for `name`, with the CAs that issued it; it expired a day ago if `expired`.
pub fn make(name: &str, kind: Key, ca_kind: Key, expired: bool) -> Made {
    let ca = |name: &str| {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
    };
    let (root_key, middle_key, key) = (ca_kind.generate(), ca_kind.generate(), kind.generate());
    let root = ca("Root");
    let root_der = root.self_signed(&root_key).unwrap().der().to_vec();
    let root = Issuer::new(root, root_key);
    let middle = ca("Intermediate");
    let middle_der = middle.signed_by(&middle_key, &root).unwrap().der().to_vec();
    let middle = Issuer::new(middle, middle_key);
    let mut params = CertificateParams::new(vec![format!("{name}.example")]).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    let days = if expired { -1 } else { 90 };
    params.not_before = OffsetDateTime::now_utc() - time::Duration::days(2);
    params.not_after = OffsetDateTime::now_utc() + time::Duration::days(days);
    let leaf = params.signed_by(&key, &middle).unwrap().der().to_vec();
    Made { key: key.serialize_der(), chain: vec![leaf, middle_der, root_der] }
}

impl Made {
    pub fn pfx(&self) -> Vec<u8> {
        self.pfx_in_order(&[0, 1, 2])
    }

    /// As PKCS#12 with the certificates in this order.
    pub fn pfx_in_order(&self, order: &[usize]) -> Vec<u8> {
        let certificates = order.iter().map(|place| Certificate::from_der(&self.chain[*place]).unwrap());
        let key = PrivateKey::from_der(&self.key).unwrap();
        let mut store = KeyStore::new();
        let chain = PrivateKeyChain::new("id", key, certificates.collect::<Vec<_>>());
        store.add_entry("certificate", KeyStoreEntry::PrivateKeyChain(chain));
        store.writer(PASSWORD).encryption_iterations(1000).mac_iterations(1000).write().unwrap()
    }

    /// Body of an import.
    pub fn body(&self) -> Value {
        json!({"value": STANDARD.encode(self.pfx()), "pwd": PASSWORD})
    }
}

pub fn tags(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
}
