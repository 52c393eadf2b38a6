//! What "the same content" means: a SHA-256 over what a vault certificate holds, whatever its PEM looked like.
//! Which certificates are content and in which order is left to `chain`.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest, Sha256};

/// Identity of pushed content; equal fingerprints make no new version.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Fingerprint {
    /// SHA-256 over leaf and chain as pushed: `sha256:<64 hex digits>`.
    LeafAndChain([u8; 32]),
    /// SHA-256 of the leaf alone, where the chain cannot be seen (an adopted version): `leaf-sha256:<64 hex digits>`.
    Leaf([u8; 32]),
}

/// Says why a text is no fingerprint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a fingerprint is `sha256:` or `leaf-sha256:` and 64 lower-case hexadecimal digits")]
pub struct NotAFingerprint;

const CHAIN_PREFIX: &str = "sha256:";
const LEAF_PREFIX: &str = "leaf-sha256:";

impl Fingerprint {
    /// Of leaf and chain, DER, in the order pushed.
    ///
    /// DER says its own length, so the bytes one after the other are unambiguous.
    pub fn of_chain<'a>(certificates: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut hash = Sha256::new();
        for der in certificates {
            hash.update(der);
        }
        Fingerprint::LeafAndChain(hash.finalize().into())
    }

    /// Of a leaf (DER) whose chain nobody saw.
    pub fn of_leaf(leaf: &[u8]) -> Self {
        Fingerprint::Leaf(Sha256::digest(leaf).into())
    }
}

/// `sha256:<hex>` over fields of any content; each is hashed with its length, so that moving a byte from one field
/// to its neighbour changes the result.
pub fn of_fields<'a>(fields: impl IntoIterator<Item = &'a [u8]>) -> String {
    let mut hash = Sha256::new();
    for field in fields {
        hash.update((field.len() as u64).to_be_bytes());
        hash.update(field);
    }
    Fingerprint::LeafAndChain(hash.finalize().into()).to_string()
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (prefix, hash) = match self {
            Fingerprint::LeafAndChain(hash) => (CHAIN_PREFIX, hash),
            Fingerprint::Leaf(hash) => (LEAF_PREFIX, hash),
        };
        f.write_str(prefix)?;
        hash.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for Fingerprint {
    type Err = NotAFingerprint;

    fn from_str(text: &str) -> Result<Self, NotAFingerprint> {
        if let Some(digits) = text.strip_prefix(LEAF_PREFIX) {
            return Ok(Fingerprint::Leaf(from_hex(digits)?));
        }
        let digits = text.strip_prefix(CHAIN_PREFIX).ok_or(NotAFingerprint)?;
        Ok(Fingerprint::LeafAndChain(from_hex(digits)?))
    }
}

/// Exactly 64 lower-case digits: one spelling for one fingerprint, so that tags can be compared as text.
fn from_hex(digits: &str) -> Result<[u8; 32], NotAFingerprint> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Ok(byte - b'0'),
        b'a'..=b'f' => Ok(byte - b'a' + 10),
        _ => Err(NotAFingerprint),
    };
    let digits: &[u8; 64] = digits.as_bytes().try_into().map_err(|_| NotAFingerprint)?;
    let mut hash = [0; 32];
    for (byte, pair) in hash.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Ok(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_reads_back_what_it_prints_and_says_what_it_covers() {
        let chain = Fingerprint::of_chain([b"leaf".as_slice(), b"ca"]);
        let leaf = Fingerprint::of_leaf(b"leafca");
        assert_eq!(chain.to_string().parse(), Ok(chain.clone()));
        assert_eq!(leaf.to_string().parse(), Ok(leaf.clone()));
        assert_ne!(chain, leaf, "the same bytes, but another claim about them");
        // SHA-256("leafca"), computed with coreutils' sha256sum.
        assert_eq!(
            chain.to_string(),
            "sha256:12b2db08640dc314a8f8ce7afb69cda2b663b9b4ae99b7995b0b55e5489c16b0"
        );
        assert_eq!(
            leaf.to_string(),
            "leaf-sha256:12b2db08640dc314a8f8ce7afb69cda2b663b9b4ae99b7995b0b55e5489c16b0"
        );
    }

    #[test]
    fn only_the_one_spelling_is_a_fingerprint() {
        let digits = "ab".repeat(32);
        for text in [
            String::new(),
            digits.clone(),
            format!("sha1:{digits}"),
            format!("sha256:{}", digits.to_uppercase()),
            format!("sha256:{digits}0"),
            format!("sha256:{}", &digits[1..]),
            format!("sha256: {digits}"),
            format!("leaf-sha256:{}é", &digits[2..]),
        ] {
            assert_eq!(text.parse::<Fingerprint>(), Err(NotAFingerprint), "{text:?}");
        }
    }

    #[test]
    fn fields_do_not_run_into_each_other() {
        let of = |fields: &[&str]| of_fields(fields.iter().map(|field| field.as_bytes()));
        assert_ne!(of(&["ab", "c"]), of(&["a", "bc"]));
        assert_ne!(of(&["ab"]), of(&["ab", ""]));
        assert_eq!(of(&["ab", "c"]), of(&["ab", "c"]));
    }
}
