//! Key material in memory: zeroised when dropped, `Debug` prints `<redacted>`, no comparison, no copy by accident.
//! What libraries copy on their way is left to the wiping allocator of the program.

use std::fmt;

use zeroize::Zeroizing;

/// Bytes nobody may see: a private key, a PFX, a password.
///
/// Neither `PartialEq` (secrets are compared by the fingerprint of what they protect) nor `Clone` nor `Display`.
pub struct SecretBytes(Zeroizing<Vec<u8>>);

impl SecretBytes {
    /// Takes the bytes over; they are overwritten when the value is dropped.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The bytes themselves. Every call is a place to look at in a review.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for SecretBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<redacted>")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_nothing_of_the_content_nor_its_length() {
        for bytes in [vec![], b"hunter2".to_vec(), vec![0x41; 4096]] {
            assert_eq!(format!("{:?}", SecretBytes::new(bytes.clone())), "<redacted>");
            assert_eq!(format!("{:#?}", Some(SecretBytes::new(bytes))), "Some(\n    <redacted>,\n)");
        }
    }
}
