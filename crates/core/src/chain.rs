//! Entries of a Secret → `CertificateChain`: leaf found by its key, links checked, order fixed. The only constructor.
//! Reading PEM is left to `pem`, single keys and certificates to `key` and `certificate`, the bundle to `pfx`.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use sha1::{Digest, Sha1};

use crate::certificate::{Certificate, Signature};
use crate::fingerprint::Fingerprint;
use crate::key::{KeyType, PrivateKey};
use crate::pem;
use crate::reason::{Problem, Reason};

/// The entries of one Secret, each with its name for messages.
#[derive(Clone, Copy)]
pub struct SecretEntries<'a> {
    /// Name of the certificate's entry, `tls.crt` unless the resource says otherwise.
    pub certificate_key: &'a str,
    /// PEM; empty if the entry is missing.
    pub certificate: &'a [u8],
    /// Name of the private key's entry, `tls.key` unless the resource says otherwise.
    pub private_key_key: &'a str,
    /// PEM; empty if the entry is missing.
    pub private_key: &'a [u8],
    /// PEM of `ca.crt`. It only tells whether the chain is complete: nothing of it is pushed, so that a change of a
    /// trust bundle makes no new version.
    pub ca: Option<&'a [u8]>,
}

/// A certificate with its private key and its issuers: what is pushed. Leaf, key and links are known to fit.
#[derive(Debug)]
pub struct CertificateChain {
    /// Leaf first, each signed by the next; without the root unless it stands alone.
    certificates: Vec<Certificate>,
    key: PrivateKey,
    incomplete: Option<String>,
    ignored: Vec<String>,
}

/// cert-manager signs its placeholder with a throw-away key under this name (pkg/util/pki, `GenerateLocallySignedTemporaryCertificate`).
const TEMPORARY_ISSUER: &str = "CN=cert-manager.local";

/// Bound of the search for the best path: each step is at most one signature check (0.1 ms), and a real bundle takes
/// a handful. Where it ends, the best path so far stands, the same for every order of the input.
const MAX_SEARCH_STEPS: usize = 2_000;

impl CertificateChain {
    /// Reads, checks and orders what a Secret holds. `now` is unix seconds.
    ///
    /// # Errors
    /// The reasons of an author: `SecretIncomplete`, `InvalidCertificate`, `InvalidPrivateKey`, `EncryptedPrivateKey`,
    /// `UnsupportedKeyType`, `KeyMismatch`, `TemporaryCertificate`, `CertificateExpired`. The sentence names the
    /// entry, not the Secret, which the caller puts in front.
    pub fn from_entries(entries: &SecretEntries<'_>, now: i64) -> Result<CertificateChain, Problem> {
        refuse_blank(entries)?;
        let found = read_certificates(entries.certificate_key, entries.certificate)?;
        let (encoding, der) = pem::private_key(entries.private_key_key, entries.private_key)?;
        let key = PrivateKey::from_der(entries.private_key_key, encoding, der)?;

        let (mut pool, mut ignored) = without_duplicates(found);
        let leaf = leaf_of(&pool, &key).ok_or_else(|| key_mismatch(entries, &pool, &key))?;
        refuse_unready(entries, &pool[leaf], now)?;
        let path = Search::new(&pool).best_path_from(leaf);
        if path.len() == 1 {
            refuse_forged(entries, &pool, leaf)?;
        }

        let incomplete = incomplete(entries, &pool, &path);
        let unused = (0..pool.len()).filter(|index| !path.contains(index));
        ignored.extend(unused.map(|index| format!("{} (not part of the chain)", pool[index].subject_name())));
        ignored.sort();
        let mut places: Vec<Option<Certificate>> = pool.drain(..).map(Some).collect();
        let mut certificates: Vec<_> = path.into_iter().filter_map(|index| places[index].take()).collect();
        // Who trusts the root has it; who has it not must not learn it from here.
        if certificates.len() > 1 {
            certificates.pop_if(|top| top.is_self_signed());
        }
        Ok(CertificateChain { certificates, key, incomplete, ignored })
    }

    /// The certificate itself, DER.
    pub fn leaf_der(&self) -> &[u8] {
        &self.leaf().der
    }

    /// What is pushed, DER: leaf first, each signed by the next, without a self-signed root (unless it is the leaf).
    pub fn certificates(&self) -> impl Iterator<Item = &[u8]> {
        self.certificates.iter().map(|certificate| certificate.der.as_slice())
    }

    /// Type of the private key, for the import's policy.
    pub fn key_type(&self) -> KeyType {
        self.key.key_type
    }

    /// Start of the leaf's validity, unix seconds.
    pub fn not_before(&self) -> i64 {
        self.leaf().not_before
    }

    /// Last second of the leaf's validity, unix seconds.
    pub fn not_after(&self) -> i64 {
        self.leaf().not_after
    }

    /// SHA-1 over the leaf's DER: Key Vault's `x5t`, and what the portal shows.
    pub fn thumbprint(&self) -> [u8; 20] {
        Sha1::digest(self.leaf_der()).into()
    }

    /// SHA-256 over the leaf's DER, for the comparison with Key Vault's `cer`.
    pub fn leaf_sha256(&self) -> [u8; 32] {
        self.leaf().sha256
    }

    /// The subject of the leaf, for messages.
    pub fn subject(&self) -> String {
        self.leaf().subject_name()
    }

    /// The sentence of `IncompleteChain`, naming the missing issuer; the chain is pushed all the same.
    pub fn incomplete(&self) -> Option<&str> {
        self.incomplete.as_deref()
    }

    /// Certificates of the entry that are not pushed: duplicates and those that belong to no link, by subject. The root
    /// of the chain is not among them.
    pub fn ignored(&self) -> &[String] {
        &self.ignored
    }

    /// What makes the content the same: leaf and chain as pushed.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of_chain(self.certificates())
    }

    /// The private key, PKCS#8 DER.
    pub(crate) fn private_key(&self) -> &[u8] {
        self.key.pkcs8.expose()
    }

    fn leaf(&self) -> &Certificate {
        // The constructor's path begins with the leaf and only the last of several is taken off.
        &self.certificates[0]
    }
}

fn refuse_blank(entries: &SecretEntries<'_>) -> Result<(), Problem> {
    let blank: Vec<_> =
        [(entries.certificate_key, entries.certificate), (entries.private_key_key, entries.private_key)]
            .into_iter()
            .filter(|(_, pem)| pem::is_blank(pem))
            .map(|(entry, _)| entry)
            .collect();
    if blank.is_empty() {
        return Ok(());
    }
    let verb = if blank.len() == 1 { "is" } else { "are" };
    let message = format!(
        "{} {verb} missing or empty; waiting until the certificate is issued (with cert-manager see \
         `kubectl describe certificate`)",
        blank.join(" and ")
    );
    Err(Problem::new(Reason::SecretIncomplete, message))
}

fn read_certificates(entry: &str, pem: &[u8]) -> Result<Vec<Certificate>, Problem> {
    let ders = pem::certificates(entry, pem)?;
    ders.into_iter()
        .enumerate()
        .map(|(index, der)| {
            Certificate::from_der(der).map_err(|error| {
                let message = format!(
                    "certificate {} in {entry} is not valid X.509 ({}); it is damaged or cut: replace it",
                    index + 1,
                    error.kind()
                );
                Problem::new(Reason::InvalidCertificate, message)
            })
        })
        .collect()
}

/// One of each, in an order that no longer depends on the input's: later notAfter first, then the lower SHA-256.
fn without_duplicates(found: Vec<Certificate>) -> (Vec<Certificate>, Vec<String>) {
    let mut seen = BTreeSet::new();
    let mut ignored = Vec::new();
    let mut pool = Vec::new();
    for certificate in found {
        if seen.insert(certificate.sha256) {
            pool.push(certificate);
        } else {
            ignored.push(format!("{} (a duplicate)", certificate.subject_name()));
        }
    }
    pool.sort_by_key(|certificate| (std::cmp::Reverse(certificate.not_after), certificate.sha256));
    (pool, ignored)
}

/// The certificate of the key: one that somebody else signed before a self-signed one, then the newest.
fn leaf_of(pool: &[Certificate], key: &PrivateKey) -> Option<usize> {
    let of_key = (0..pool.len()).filter(|&index| pool[index].public_key == key.public_key);
    // The pool is ordered, so that the index decides where the dates do not.
    of_key
        .min_by_key(|&index| (pool[index].is_self_signed(), std::cmp::Reverse(pool[index].not_before), index))
}

fn key_mismatch(entries: &SecretEntries<'_>, pool: &[Certificate], key: &PrivateKey) -> Problem {
    let (certificate_key, private_key_key) = (entries.certificate_key, entries.private_key_key);
    let of = match pool {
        [only] => format!("the certificate {} in {certificate_key}", only.subject_name()),
        several => format!("any of the {} certificates in {certificate_key}", several.len()),
    };
    let message = format!(
        "the {} key in {private_key_key} does not belong to {of}; put certificate and key of the same issuance into \
         the Secret",
        key.key_type
    );
    Problem::new(Reason::KeyMismatch, message)
}

fn refuse_unready(entries: &SecretEntries<'_>, leaf: &Certificate, now: i64) -> Result<(), Problem> {
    let entry = entries.certificate_key;
    if leaf.issuer_name() == TEMPORARY_ISSUER && !leaf.is_self_signed() {
        let message = format!(
            "{entry} holds cert-manager's temporary certificate; waiting until the real one is issued (see \
             `kubectl describe certificate`)"
        );
        return Err(Problem::new(Reason::TemporaryCertificate, message));
    }
    if now > leaf.not_after {
        let message = format!(
            "the certificate {} in {entry} expired at {}, and Key Vault refuses expired certificates; renew it",
            leaf.subject_name(),
            date(leaf.not_after)
        );
        return Err(Problem::new(Reason::CertificateExpired, message));
    }
    Ok(())
}

/// A leaf that no certificate of its issuer's name has signed was put together by mistake or worse.
fn refuse_forged(entries: &SecretEntries<'_>, pool: &[Certificate], leaf: usize) -> Result<(), Problem> {
    let leaf = &pool[leaf];
    let mut issuers = pool.iter().filter(|issuer| leaf.names_as_issuer(issuer)).peekable();
    if issuers.peek().is_none() || issuers.any(|issuer| leaf.signature_by(issuer) != Signature::Bad) {
        return Ok(());
    }
    let message = format!(
        "the certificate {} in {entry} was not signed by the {} in {entry}: the signature does not verify; put \
         the certificate and the chain of the same issuance into the Secret",
        leaf.subject_name(),
        leaf.issuer_name(),
        entry = entries.certificate_key,
    );
    Err(Problem::new(Reason::InvalidCertificate, message))
}

/// Whether somebody forgot an intermediate. A missing root is no gap, and whether the topmost certificate's issuer is
/// a root cannot be seen; so it is only said of a leaf that stands alone, or where a CA certificate found no place.
fn incomplete(entries: &SecretEntries<'_>, pool: &[Certificate], path: &[usize]) -> Option<String> {
    let top = &pool[*path.last()?];
    if top.is_self_signed() {
        return None;
    }
    // A `ca.crt` that cannot be read holds no issuer, and is nobody's error here.
    let ca = entries.ca.and_then(|pem| read_certificates("ca.crt", pem).ok()).unwrap_or_default();
    let mut issuers_in_ca =
        ca.iter().filter(|issuer| top.names_as_issuer(issuer) && top.signature_by(issuer) != Signature::Bad);
    let gap = match path {
        [_] if issuers_in_ca.clone().next().is_none() => true,
        _ => {
            let ca_left_over = (0..pool.len()).any(|index| pool[index].is_ca && !path.contains(&index));
            ca_left_over && !issuers_in_ca.any(Certificate::is_self_signed)
        }
    };
    gap.then(|| {
        format!(
            "pushed, but the chain is incomplete: {}, the issuer of {}, is neither in {} nor in ca.crt; add its \
             certificate to {}, or clients may not trust the certificate",
            top.issuer_name(),
            top.subject_name(),
            entries.certificate_key,
            entries.certificate_key,
        )
    })
}

fn date(unix_seconds: i64) -> String {
    let since_1970 = Duration::from_secs(unix_seconds.unsigned_abs());
    der::DateTime::from_unix_duration(since_1970)
        .map_or_else(|_| unix_seconds.to_string(), |date| date.to_string())
}

/// The search for the best of several paths from the leaf: one that ends in a root at hand, then the longer one.
/// Issuers are tried in the pool's order, so that of equal paths the first found is the one with the later notAfter,
/// then the lower SHA-256.
struct Search<'a> {
    pool: &'a [Certificate],
    links: HashMap<(usize, usize), bool>,
    steps_left: usize,
    best: Vec<usize>,
    best_has_root: bool,
}

impl<'a> Search<'a> {
    fn new(pool: &'a [Certificate]) -> Self {
        let best = Vec::new();
        Self { pool, links: HashMap::new(), steps_left: MAX_SEARCH_STEPS, best, best_has_root: false }
    }

    fn best_path_from(mut self, leaf: usize) -> Vec<usize> {
        self.extend(&mut vec![leaf]);
        self.best
    }

    /// Tries every issuer of the path's top. A certificate stands in a path once, so loops end.
    fn extend(&mut self, path: &mut Vec<usize>) {
        let Some(&top) = path.last() else { return };
        if self.is_link(top, top) {
            return self.consider(path, true);
        }
        self.consider(path, false);
        for issuer in 0..self.pool.len() {
            if path.contains(&issuer) || !self.is_link(top, issuer) {
                continue;
            }
            path.push(issuer);
            self.extend(path);
            path.pop();
        }
    }

    fn consider(&mut self, path: &[usize], has_root: bool) {
        if self.best.is_empty() || (has_root, path.len()) > (self.best_has_root, self.best.len()) {
            self.best = path.to_vec();
            self.best_has_root = has_root;
        }
    }

    /// Whether the issuer signed the certificate, as far as that can be told; with itself: whether it is self-signed.
    fn is_link(&mut self, certificate: usize, issuer: usize) -> bool {
        let (signed, signer) = (&self.pool[certificate], &self.pool[issuer]);
        if !signed.names_as_issuer(signer) || self.steps_left == 0 {
            return false;
        }
        self.steps_left -= 1;
        *self
            .links
            .entry((certificate, issuer))
            .or_insert_with(|| signed.signature_by(signer) != Signature::Bad)
    }
}
