//! The flags of the binary, and where it keeps the two files it makes.
//! Leaves starting to main.rs.

use std::fs;
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use keyvault_emulator::{AssignedIdentity, FederatedCredential};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::Value;

/// Random bytes of a client secret that the emulator makes.
const SECRET_BYTES: usize = 24;
/// Audience of an assertion unless said otherwise: what Entra ID recommends for workload identity.
const EXCHANGE_AUDIENCE: &str = "api://AzureADTokenExchange";

/// A local Azure Key Vault and Entra ID on loopback.
///
/// Without any flag: one vault, one application that may do everything in it, and a client secret for it.
#[derive(Debug, clap::Parser)]
#[command(version)]
pub(crate) struct Config {
    /// Loopback address of the vaults and of Entra ID (HTTPS); port 0 takes any free one
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8443")]
    pub(crate) listen: SocketAddr,
    /// Host of a vault; repeat for more
    #[arg(long = "vault", value_name = "HOST", default_value = "contoso.vault.azure.net")]
    pub(crate) vaults: Vec<String>,
    /// Tenant of the vaults and the application
    #[arg(long, value_name = "ID", default_value = "11111111-1111-1111-1111-111111111111")]
    pub(crate) tenant: String,
    /// Client id of the application; it may do everything in every vault
    #[arg(long, value_name = "CLIENT_ID", default_value = "22222222-2222-2222-2222-222222222222")]
    pub(crate) application: String,
    /// Federated credential of the application: issuer=…,subject=…[,audience=…]; repeat for more
    #[arg(long, value_name = "CREDENTIAL", value_parser = federated)]
    pub(crate) federated: Vec<FederatedCredential>,
    /// File with the application's client secret [default: one is made, and its file named]
    #[arg(long, value_name = "FILE")]
    pub(crate) client_secret_file: Option<PathBuf>,
    /// PEM file with a certificate that the application signs assertions with (RSA); repeat for more
    #[arg(long, value_name = "FILE")]
    pub(crate) client_certificate: Vec<PathBuf>,
    /// Client id of the managed identity that is the node's own; it may do everything in every vault
    #[arg(long, value_name = "CLIENT_ID")]
    pub(crate) system_identity: Option<String>,
    /// Client id of a user-assigned managed identity of the node; it may do everything in every vault; repeat for more
    #[arg(long = "user-identity", value_name = "CLIENT_ID")]
    pub(crate) user_identities: Vec<String>,
    /// Keys of an OpenID issuer whose assertions are checked: ISSUER=JWKS_FILE; repeat for more
    #[arg(long, value_name = "ISSUER=FILE", value_parser = issuer)]
    pub(crate) trust_issuer: Vec<(String, PathBuf)>,
    /// How long a deletion lasts in every vault; Azure takes a few seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    pub(crate) deletion_time: u64,
    /// How long a recovery lasts in every vault; Azure takes a few seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    pub(crate) recovery_time: u64,
    /// Protect every vault against purging
    #[arg(long)]
    pub(crate) purge_protection: bool,
    /// Where the CA certificate is written [default: keyvault-emulator/ca.pem in the user's cache folder]
    #[arg(long, value_name = "FILE")]
    pub(crate) ca_out: Option<PathBuf>,
    /// Loopback address of the instance metadata service (plain HTTP); port 0 takes any free one
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:0")]
    pub(crate) imds: SocketAddr,
    /// Loopback address of the admin API (plain HTTP); port 0 takes any free one
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:0")]
    pub(crate) admin: SocketAddr,
}

impl Config {
    /// Writes the CA certificate; where.
    pub(crate) fn write_ca(&self, pem: &str) -> anyhow::Result<PathBuf> {
        let path = match &self.ca_out {
            Some(path) => path.clone(),
            None => cache_folder()?.join("ca.pem"),
        };
        fs::write(&path, pem)
            .with_context(|| format!("cannot write the CA certificate to {}", path.display()))?;
        Ok(path)
    }

    /// The client secret and the file it is in; made unless a file is given.
    pub(crate) fn client_secret(&self) -> anyhow::Result<(String, PathBuf)> {
        let path = match &self.client_secret_file {
            Some(path) => path.clone(),
            None => make_secret(&cache_folder()?.join("client-secret"))?,
        };
        let text = fs::read_to_string(&path)
            .with_context(|| format!("cannot read the client secret from {}", path.display()))?;
        let secret = text.trim_end_matches(['\r', '\n']).to_owned();
        anyhow::ensure!(
            !secret.is_empty(),
            "the client secret in {} is empty: write one into it",
            path.display()
        );
        Ok((secret, path))
    }

    /// The managed identities of the node.
    pub(crate) fn identities(&self) -> impl Iterator<Item = AssignedIdentity> {
        let identity = |client_id: &String, is_system| AssignedIdentity {
            tenant_id: self.tenant.clone(),
            client_id: client_id.clone(),
            is_system,
        };
        let system = self.system_identity.iter().map(move |client_id| identity(client_id, true));
        system.chain(self.user_identities.iter().map(move |client_id| identity(client_id, false)))
    }

    /// The application's certificates, in DER: the first of each file, which may have its chain and key besides.
    pub(crate) fn client_certificates(&self) -> anyhow::Result<Vec<Vec<u8>>> {
        self.client_certificate
            .iter()
            .map(|path| {
                let der = CertificateDer::from_pem_file(path)
                    .with_context(|| format!("cannot read a PEM certificate from {}", path.display()))?;
                Ok(der.to_vec())
            })
            .collect()
    }

    /// The issuers to trust, with their keys.
    pub(crate) fn issuers(&self) -> anyhow::Result<Vec<(String, Value)>> {
        self.trust_issuer
            .iter()
            .map(|(issuer, path)| {
                let text = fs::read_to_string(path)
                    .with_context(|| format!("cannot read the keys of {issuer} from {}", path.display()))?;
                let jwks = serde_json::from_str(&text)
                    .with_context(|| format!("{} is no JSON Web Key Set", path.display()))?;
                Ok((issuer.clone(), jwks))
            })
            .collect()
    }
}

/// `keyvault-emulator` in the user's cache folder, made if missing.
fn cache_folder() -> anyhow::Result<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME").filter(|path| !path.is_empty()).map(PathBuf::from);
    let cache = cache
        .or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache")))
        .context("neither XDG_CACHE_HOME nor HOME is set: say where to write with --ca-out and --client-secret-file")?;
    let folder = cache.join("keyvault-emulator");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
    Ok(folder)
}

/// Makes a client secret that only this user can read, unless one was made before: what was pasted stays right.
fn make_secret(path: &Path) -> anyhow::Result<PathBuf> {
    let file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    match file {
        Ok(mut file) => {
            let mut bytes = [0; SECRET_BYTES];
            aws_lc_rs::rand::fill(&mut bytes).map_err(|_| anyhow::anyhow!("no random bytes to be had"))?;
            writeln!(file, "{}", URL_SAFE_NO_PAD.encode(bytes))?;
        }
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
        Err(error) => {
            return Err(error).with_context(|| format!("cannot write a client secret to {}", path.display()));
        }
    }
    Ok(path.to_owned())
}

fn federated(text: &str) -> Result<FederatedCredential, String> {
    let (mut issuer, mut subject, mut audience) = (None, None, None);
    for member in text.split(',') {
        let place = match member.split_once('=') {
            Some(("issuer", value)) => issuer.replace(value.to_owned()),
            Some(("subject", value)) => subject.replace(value.to_owned()),
            Some(("audience", value)) => audience.replace(value.to_owned()),
            _ => return Err(format!("{member:?} is none of issuer=…, subject=…, audience=…")),
        };
        if place.is_some() {
            return Err(format!("{member:?} is given twice"));
        }
    }
    Ok(FederatedCredential {
        issuer: issuer.ok_or("issuer=… is missing")?,
        subject: subject.ok_or("subject=… is missing")?,
        audience: audience.unwrap_or_else(|| EXCHANGE_AUDIENCE.to_owned()),
    })
}

fn issuer(text: &str) -> Result<(String, PathBuf), String> {
    let (issuer, file) = text.rsplit_once('=').ok_or("write ISSUER=JWKS_FILE")?;
    Ok((issuer.to_owned(), PathBuf::from(file)))
}
