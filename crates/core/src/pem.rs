//! Bytes of one entry of a Secret → its certificates or its private key, in DER, or the exact reason why not.
//! What the DER means is left to `certificate` and `key`.
//!
//! The decoder is `rustls-pki-types`. It takes what it does not understand for text and skips it, and a certificate
//! that is lost that way would be pushed as a shorter chain. So every block is accounted for: the number read
//! must be the number of `-----BEGIN `, and a line that was meant as a boundary but is none is refused.

use std::fmt::Write as _;

use rustls_pki_types::pem::{PemObject, SectionKind};

use crate::reason::{Problem, Reason};
use crate::secret_bytes::SecretBytes;

/// Longest entry that is read. A Secret holds 1 MiB at most, a Key Vault secret 25 KB.
pub const MAX_ENTRY_BYTES: usize = 256 * 1024;
/// Most blocks an entry may have; the longest real bundles (all roots of an operating system aside) have a dozen.
pub const MAX_BLOCKS: usize = 100;

/// How the bytes of a private key are laid out; its PEM label says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyEncoding {
    /// `PRIVATE KEY`, RFC 5208 and RFC 5958.
    Pkcs8,
    /// `RSA PRIVATE KEY`, RFC 8017.
    Pkcs1,
    /// `EC PRIVATE KEY`, RFC 5915.
    Sec1,
}

/// Whether an entry is missing, empty or white space: cert-manager has not issued yet.
pub fn is_blank(pem: &[u8]) -> bool {
    without_bom(pem).trim_ascii().is_empty()
}

/// All certificates of the entry, DER, in the order they stand; at least one.
///
/// # Errors
/// `InvalidCertificate`, with the entry's name, what was found and what to do.
pub fn certificates(entry: &str, pem: &[u8]) -> Result<Vec<Vec<u8>>, Problem> {
    let refuse = |message: String| Problem::new(Reason::InvalidCertificate, message);
    let text = within_limit(entry, pem).map_err(refuse)?;
    let blocks = Blocks::find(entry, text).map_err(refuse)?;
    for block in &blocks.found {
        let harmless = match block.label.as_str() {
            "CERTIFICATE" | "X509 CRL" => true,
            "EC PARAMETERS" => blocks.keys() > 0,
            _ => block.is_key(),
        };
        if !harmless {
            return Err(refuse(foreign_label(entry, block, "certificates are `CERTIFICATE`")));
        }
    }
    let sections = blocks.decode(entry, text).map_err(refuse)?;
    let certificates: Vec<_> = sections
        .into_iter()
        .filter(|(kind, _)| *kind == SectionKind::Certificate)
        .map(|(_, der)| der.expose().to_vec())
        .collect();
    if certificates.is_empty() {
        return Err(refuse(format!(
            "{entry} holds no certificate; put the certificate there, in PEM, followed by its intermediates"
        )));
    }
    Ok(certificates)
}

/// The one private key of the entry.
///
/// # Errors
/// `InvalidPrivateKey`, `EncryptedPrivateKey` or `UnsupportedKeyType`, with the entry's name, what was found and
/// what to do.
pub fn private_key(entry: &str, pem: &[u8]) -> Result<(KeyEncoding, SecretBytes), Problem> {
    let refuse = |message: String| Problem::new(Reason::InvalidPrivateKey, message);
    let text = within_limit(entry, pem).map_err(refuse)?;
    let blocks = Blocks::find(entry, text).map_err(refuse)?;
    match blocks.keys() {
        0 => {}
        1 => refuse_unreadable_key(entry, &blocks)?,
        keys => {
            return Err(refuse(format!(
                "{entry} holds {keys} private keys; leave only the one that belongs to the certificate"
            )));
        }
    }
    for block in &blocks.found {
        let harmless = match block.label.as_str() {
            "PRIVATE KEY" | "RSA PRIVATE KEY" | "EC PRIVATE KEY" | "CERTIFICATE" => true,
            "EC PARAMETERS" => blocks.keys() > 0,
            _ => false,
        };
        if !harmless {
            let hint = "private keys are `PRIVATE KEY`, `RSA PRIVATE KEY` or `EC PRIVATE KEY`; `openssl pkey` converts them";
            return Err(refuse(foreign_label(entry, block, hint)));
        }
    }
    let sections = blocks.decode(entry, text).map_err(refuse)?;
    let key = sections.into_iter().find_map(|(kind, der)| match kind {
        SectionKind::PrivateKey => Some((KeyEncoding::Pkcs8, der)),
        SectionKind::RsaPrivateKey => Some((KeyEncoding::Pkcs1, der)),
        SectionKind::EcPrivateKey => Some((KeyEncoding::Sec1, der)),
        _ => None,
    });
    key.ok_or_else(|| {
        refuse(format!("{entry} holds no private key; put the certificate's private key there, in PEM"))
    })
}

/// Keys that are there and cannot be used have reasons of their own, told before anything is decoded.
fn refuse_unreadable_key(entry: &str, blocks: &Blocks) -> Result<(), Problem> {
    let Some(key) = blocks.found.iter().find(|block| block.is_key()) else { return Ok(()) };
    if key.encrypted || key.label == "ENCRYPTED PRIVATE KEY" {
        return Err(Problem::new(
            Reason::EncryptedPrivateKey,
            format!(
                "the private key in {entry} is encrypted and there is no password for it; \
                 store it decrypted, as `openssl pkey -in {entry} -out decrypted.key` writes it"
            ),
        ));
    }
    if key.label == "DSA PRIVATE KEY" {
        return Err(crate::key::unsupported(entry, "a DSA key"));
    }
    Ok(())
}

fn foreign_label(entry: &str, block: &Block, hint: &str) -> String {
    let label = crate::certificate::printable(&block.label);
    format!("{entry} holds a block `{label}` (line {}), which does not belong there; {hint}", block.line)
}

fn without_bom(pem: &[u8]) -> &[u8] {
    // Windows editors put U+FEFF first; the decoder would take the whole first line for text.
    pem.strip_prefix(b"\xef\xbb\xbf").unwrap_or(pem)
}

fn within_limit<'a>(entry: &str, pem: &'a [u8]) -> Result<&'a [u8], String> {
    if pem.len() > MAX_ENTRY_BYTES {
        return Err(format!(
            "{entry} is {} bytes long, more than the {MAX_ENTRY_BYTES} that are read; \
             leave only the certificate, its intermediates and its key",
            pem.len()
        ));
    }
    Ok(without_bom(pem))
}

const BEGIN: &[u8] = b"-----BEGIN ";
const END: &[u8] = b"-----END ";
const DASHES: &[u8] = b"-----";

/// One `-----BEGIN LABEL-----`.
struct Block {
    label: String,
    /// 1 for the first line.
    line: usize,
    /// Has the `Proc-Type: 4,ENCRYPTED` header of RFC 1421, as OpenSSL's old format does.
    encrypted: bool,
}

impl Block {
    fn is_key(&self) -> bool {
        self.label.ends_with("PRIVATE KEY")
    }

    /// Whether the decoder knows the label and can decode the content; others it skips in silence.
    fn is_decoded(&self) -> bool {
        !self.encrypted && SectionKind::try_from(self.label.as_bytes()).is_ok()
    }
}

/// What the boundaries of an entry say, before anything is decoded.
struct Blocks {
    found: Vec<Block>,
    /// How often `-----BEGIN ` stands anywhere, also in the middle of a line.
    begins: usize,
    /// First line that was meant as a boundary and is none.
    odd_line: Option<usize>,
}

impl Blocks {
    fn find(entry: &str, text: &[u8]) -> Result<Blocks, String> {
        let begins = text.windows(BEGIN.len()).filter(|window| *window == BEGIN).count();
        if begins > MAX_BLOCKS {
            return Err(format!(
                "{entry} holds {begins} PEM blocks, more than the {MAX_BLOCKS} that are read; \
                 leave only the certificate, its intermediates and its key"
            ));
        }
        let mut blocks = Blocks { found: Vec::new(), begins, odd_line: None };
        for (index, line) in lines(text).enumerate() {
            if let Some(label) = boundary(line, BEGIN) {
                blocks.found.push(Block { label, line: index + 1, encrypted: false });
            } else if line.starts_with(b"Proc-Type:") && line.ends_with(b"ENCRYPTED") {
                if let Some(block) = blocks.found.last_mut() {
                    block.encrypted = true;
                }
            } else if boundary(line, END).is_none() && is_meant_as_boundary(line) {
                blocks.odd_line.get_or_insert(index + 1);
            }
        }
        Ok(blocks)
    }

    fn keys(&self) -> usize {
        self.found.iter().filter(|block| block.is_key()).count()
    }

    /// Every block's content, or a refusal with both numbers.
    fn decode(&self, entry: &str, text: &[u8]) -> Result<Vec<(SectionKind, SecretBytes)>, String> {
        let mut sections = Vec::new();
        let mut trouble = None;
        // At most one result for each BEGIN, and the decoder always moves on.
        for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(text).take(MAX_BLOCKS + 1) {
            match section {
                Ok((kind, der)) => sections.push((kind, SecretBytes::new(der))),
                // The decoder's own words may quote the content.
                Err(error) => {
                    trouble.get_or_insert(what_failed(&error));
                }
            }
        }
        let skipped = self.found.iter().filter(|block| !block.is_decoded()).count();
        let read = sections.len() + skipped;
        if read != self.begins {
            let mut message =
                format!("{entry} has {} `-----BEGIN ` but {read} of these blocks could be read", self.begins);
            if let Some(trouble) = trouble {
                let _ = write!(message, " ({trouble})");
            }
            if let Some(line) = self.odd_line {
                let _ = write!(message, "; look at line {line}");
            }
            message.push_str(
                "; every `-----BEGIN …-----` and `-----END …-----` must stand on a line of its own, not indented",
            );
            return Err(message);
        }
        match self.odd_line {
            Some(line) => Err(format!(
                "line {line} of {entry} looks like the boundary of a PEM block and is none; \
                 write it as `-----BEGIN …-----` or `-----END …-----`, five dashes on each side, in capitals"
            )),
            None => Ok(sections),
        }
    }
}

fn what_failed(error: &rustls_pki_types::pem::Error) -> &'static str {
    use rustls_pki_types::pem::Error;
    match error {
        Error::MissingSectionEnd { .. } => "the last one has no `-----END`",
        Error::IllegalSectionStart { .. } => "a `-----BEGIN` line does not end in five dashes",
        Error::Base64Decode(_) => "one is not valid base64",
        _ => "one is malformed",
    }
}

/// Lines as the decoder sees them, numbered as an editor does: CR LF is one line end, a CR alone is one too.
fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let current = rest?;
        let end = current.iter().position(|byte| matches!(byte, b'\n' | b'\r'));
        rest = end.map(|end| {
            let next = if current[end..].starts_with(b"\r\n") { end + 2 } else { end + 1 };
            &current[next..]
        });
        Some(&current[..end.unwrap_or(current.len())])
    })
}

/// The label of a well-formed boundary line.
fn boundary(line: &[u8], start: &[u8]) -> Option<String> {
    let label = line.trim_ascii_end().strip_prefix(start)?.strip_suffix(DASHES)?;
    let plain = !label.is_empty() && !label.contains(&b'-');
    plain.then(|| String::from_utf8_lossy(label).into_owned())
}

/// Dashes at one end, `begin` or `end`, and a word that labels have: somebody typed or cut a boundary.
fn is_meant_as_boundary(line: &[u8]) -> bool {
    let line = line.trim_ascii().to_ascii_uppercase();
    let dashed = line.starts_with(b"-") || line.ends_with(b"-");
    let bare = line.trim_ascii_start();
    let bare = &bare[bare.iter().take_while(|byte| matches!(byte, b'-' | b' ' | b'\t')).count()..];
    let has = |word: &[u8]| bare.windows(word.len()).any(|window| window == word);
    dashed
        && (bare.starts_with(b"BEGIN") || bare.starts_with(b"END"))
        && (has(b"CERTIFICATE") || has(b"KEY") || has(b"CRL") || has(b"PARAMETERS"))
}
