//! Random identifiers: versions of certificates, request ids.
//! Leaves keys to the libraries that make them.

use std::fmt::Write as _;

/// 32 random hexadecimal digits, as Key Vault names versions.
pub(crate) fn hex32() -> String {
    hex(&bytes())
}

/// A random GUID.
pub(crate) fn guid() -> String {
    guid_from(&bytes())
}

/// The first 16 of `bytes` in the form of a GUID.
pub(crate) fn guid_from(bytes: &[u8]) -> String {
    let hex = hex(bytes);
    let part = |from: usize, to: usize| hex.get(from..to).unwrap_or_default();
    format!("{}-{}-{}-{}-{}", part(0, 8), part(8, 12), part(12, 16), part(16, 20), part(20, 32))
}

fn bytes() -> [u8; 16] {
    let mut bytes = [0; 16];
    // aws-lc draws from the operating system; a failure leaves zeroes, which show at once.
    let _ = aws_lc_rs::rand::fill(&mut bytes);
    bytes
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The same GUID for the same `seed`: object ids, which Entra ID gives once and for all.
pub(crate) fn stable_guid(seed: &str) -> String {
    guid_from(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, seed.as_bytes()).as_ref())
}
