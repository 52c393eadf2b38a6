//! What may stand in `tls.crt` and `tls.key`: every accepted form gives the same certificate, everything else its own
//! reason and words.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot be set up fails")]

mod support;

use keyvault_sync_core::chain::CertificateChain;
use keyvault_sync_core::key::{Curve, KeyType};
use keyvault_sync_core::pem;
use keyvault_sync_core::reason::{Problem, Reason};
use proptest::prelude::*;
use support::*;

const P256: KeyType = KeyType::Ec(Curve::P256);
const RSA_2048: KeyType = KeyType::Rsa { bits: 2048 };

fn refused(what: &str, result: Result<CertificateChain, Problem>, reason: Reason, words: &[&str]) {
    let problem = result.err().unwrap_or_else(|| panic!("{what}: accepted"));
    assert_eq!(problem.reason, reason, "{what}: {problem}");
    for word in words {
        assert!(problem.message.contains(word), "{what}: no {word:?} in {:?}", problem.message);
    }
}

#[test]
fn harmless_forms_of_pem_change_nothing() {
    let (certificate, key) = secret(P256, 3);
    let expected = read(&certificate, &key).unwrap();
    assert_eq!(expected.certificates().count(), 3);
    let crl = support::pem("X509 CRL", b"a list");
    let blocks: Vec<_> = certificate.split_inclusive("-----END CERTIFICATE-----\n").collect();
    let spaced = certificate.replace("CERTIFICATE-----\n", "CERTIFICATE-----  \n");
    let rows = [
        ("CR LF", certificate.replace('\n', "\r\n")),
        ("CR alone", certificate.replace('\n', "\r")),
        ("BOM", format!("\u{feff}{certificate}")),
        ("BOM and CR LF", format!("\u{feff}{}", certificate.replace('\n', "\r\n"))),
        ("no last newline", certificate.trim_end().to_owned()),
        ("blank lines", format!("\n\n{}\n\n", blocks.join("\n\n"))),
        ("white space after boundaries", spaced),
        ("text around", format!("our certificate:\n{}the end -- of the chain\n", blocks.join("next\n"))),
        (
            "Bag Attributes",
            blocks.iter().fold(String::new(), |all, block| {
                all + "Bag Attributes\n    friendlyName: x\nsubject=CN = y\n\nissuer=CN = z\n\n" + block
            }),
        ),
        ("one long line of base64", {
            let lines = |block: &&str| {
                let body = block.lines().filter(|line| !line.starts_with('-')).collect::<String>();
                format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n")
            };
            blocks.iter().map(lines).collect()
        }),
        ("with a CRL", format!("{crl}{certificate}")),
        ("with the key", format!("{key}{certificate}")),
        ("with an EC key and its parameters", {
            let parameters = support::pem("EC PARAMETERS", OID_P256);
            format!("{parameters}{}{certificate}", support::pem("EC PRIVATE KEY", b"not looked at"))
        }),
        ("with an encrypted key", format!("{certificate}{}", support::pem("ENCRYPTED PRIVATE KEY", b"x"))),
        ("with an old encrypted key", format!("{certificate}{}", old_encrypted())),
    ];
    for (what, text) in rows {
        let chain = read(&text, &key).unwrap_or_else(|problem| panic!("{what}: {problem}"));
        assert_eq!(chain.fingerprint(), expected.fingerprint(), "{what}");
        assert!(chain.ignored().is_empty(), "{what}");
    }
    for (what, text) in [
        ("CR LF", key.replace('\n', "\r\n")),
        ("CR alone", key.replace('\n', "\r")),
        ("BOM", format!("\u{feff}{key}")),
        ("with the certificate", format!("{key}{certificate}")),
        ("text around", format!("Key Attributes: <No Attributes>\n{key}\n")),
    ] {
        let chain = read(&certificate, &text).unwrap_or_else(|problem| panic!("{what}: {problem}"));
        assert_eq!(chain.fingerprint(), expected.fingerprint(), "{what}");
    }
}

fn old_encrypted() -> String {
    support::pem("RSA PRIVATE KEY", &[7; 600]).replacen(
        "-----\n",
        "-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00112233445566778899AABBCCDDEEFF\n\n",
        1,
    )
}

#[test]
fn a_certificate_is_never_lost_in_silence() {
    let (certificate, key) = secret(P256, 2);
    let glued =
        certificate.replace("-----END CERTIFICATE-----\n-----BEGIN", "-----END CERTIFICATE----------BEGIN");
    let end = certificate.rfind("-----END").unwrap();
    let first_line_of_second = 1 + certificate[..certificate.rfind("-----BEGIN").unwrap()].lines().count();
    let second = |boundary: &str| {
        let at = certificate.rfind("-----BEGIN CERTIFICATE-----").unwrap();
        format!("{}{boundary}{}", &certificate[..at], &certificate[at + 27..])
    };
    let line = format!("line {first_line_of_second}");
    let body = certificate.lines().nth(1).unwrap();
    let cases = [
        ("glued", glued, vec!["2 `-----BEGIN `", "but 1", "line of its own"]),
        (
            "indented",
            certificate.replace('\n', "\n  ").replacen("-----", "  -----", 1),
            vec!["2 `-----BEGIN `", "but 0"],
        ),
        (
            "cut in the last block",
            certificate[..end].to_owned(),
            vec!["2 `-----BEGIN `", "but 1", "no `-----END`"],
        ),
        ("not base64", certificate.replacen(body, "this is ä text", 1), vec!["but 1", "base64"]),
        (
            "base64 on the boundary",
            second("-----BEGIN CERTIFICATE-----MIIB"),
            vec!["2 `-----BEGIN `", "but 1"],
        ),
        (
            "no END between",
            certificate.replacen("-----END CERTIFICATE-----\n", "", 1),
            vec!["2 `-----BEGIN `", "of these blocks"],
        ),
        ("small letters", second("-----begin certificate-----"), vec![&line, "boundary"]),
        ("mixed letters", second("-----Begin Certificate-----"), vec![&line, "boundary"]),
        ("a dash missing before", second("----BEGIN CERTIFICATE-----"), vec![&line, "boundary"]),
        (
            "a dash missing after",
            second("-----BEGIN CERTIFICATE----"),
            vec!["2 `-----BEGIN `", "but 1", &line],
        ),
        ("a dash too many", second("------BEGIN CERTIFICATE-----"), vec!["but 1", &line]),
        ("no space", second("-----BEGINCERTIFICATE-----"), vec![&line, "boundary"]),
        ("no dashes after", second("-----BEGIN CERTIFICATE"), vec!["2 `-----BEGIN `", "but 1", &line]),
        ("no dashes before", second("BEGIN CERTIFICATE-----"), vec![&line, "boundary"]),
        (
            "BOM in the middle",
            second("\u{feff}-----BEGIN CERTIFICATE-----"),
            vec!["2 `-----BEGIN `", "but 1"],
        ),
    ];
    for (what, text, words) in cases {
        refused(what, read(&text, &key), Reason::InvalidCertificate, &[vec!["tls.crt"], words].concat());
    }
}

#[test]
fn what_is_no_certificate_is_refused_by_name() {
    let (certificate, key) = secret(P256, 1);
    let der = |label: &str| support::pem(label, b"content");
    for label in [
        "X509 CERTIFICATE",
        "TRUSTED CERTIFICATE",
        "PUBLIC KEY",
        "CERTIFICATE REQUEST",
        "PKCS7",
        "EC PARAMETERS",
        "DH PARAMETERS",
    ] {
        let text = format!("{certificate}{}", der(label));
        refused(label, read(&text, &key), Reason::InvalidCertificate, &["tls.crt", &format!("`{label}`")]);
    }
    refused("text", read("hello", &key), Reason::InvalidCertificate, &["tls.crt holds no certificate"]);
    refused("only a key", read(&key, &key), Reason::InvalidCertificate, &["tls.crt holds no certificate"]);
    refused(
        "not X.509",
        read(&der("CERTIFICATE"), &key),
        Reason::InvalidCertificate,
        &["certificate 1 in tls.crt"],
    );
    let whole = support::key_pair(P256);
    let der = params("x").self_signed(whole).unwrap().der().to_vec();
    let mut longer = der.clone();
    longer.push(0);
    for (what, der) in [("cut", der[..der.len() - 9].to_vec()), ("longer", longer)] {
        let text = format!("{certificate}{}", bundle([der]));
        refused(what, read(&text, &key), Reason::InvalidCertificate, &["certificate 2 in tls.crt"]);
    }
    let escape = format!("{certificate}-----BEGIN \u{1b}[31mRED-----\n-----END \u{1b}[31mRED-----\n");
    let problem = read(&escape, &key).unwrap_err();
    assert!(!problem.message.contains('\u{1b}'), "{:?}", problem.message);
}

#[test]
fn entries_are_bounded_before_they_are_read() {
    let (certificate, key) = secret(P256, 1);
    let long = format!("{certificate}{}", " ".repeat(pem::MAX_ENTRY_BYTES));
    refused("long", read(&long, &key), Reason::InvalidCertificate, &["tls.crt", "262144"]);
    refused(
        "long key",
        read(&certificate, &format!("{key}{}", "x".repeat(pem::MAX_ENTRY_BYTES))),
        Reason::InvalidPrivateKey,
        &["tls.key", "262144"],
    );
    let exact = format!("{certificate}{}", "\n".repeat(pem::MAX_ENTRY_BYTES - certificate.len()));
    assert!(read(&exact, &key).is_ok(), "256 KiB are allowed");
    let hundred = certificate.repeat(pem::MAX_BLOCKS);
    assert_eq!(read(&hundred, &key).unwrap().ignored().len(), pem::MAX_BLOCKS - 1, "100 are allowed");
    refused("101", read(&(hundred + &certificate), &key), Reason::InvalidCertificate, &["101", "100"]);
}

#[test]
fn a_half_written_secret_is_incomplete_and_names_what_is_missing() {
    let (certificate, key) = secret(P256, 1);
    for blank in ["", " ", "\r\n\t \n", "\u{feff}", "\u{feff}\n"] {
        refused("crt", read(blank, &key), Reason::SecretIncomplete, &["tls.crt is missing or empty"]);
        refused("key", read(&certificate, blank), Reason::SecretIncomplete, &["tls.key is missing or empty"]);
        refused("both", read(blank, blank), Reason::SecretIncomplete, &["tls.crt and tls.key are missing"]);
        refused("key, bad crt", read("nonsense", blank), Reason::SecretIncomplete, &["tls.key is missing"]);
    }
    let mut named = entries(b"", b"");
    (named.certificate_key, named.private_key_key) = ("server.pem", "server.key");
    refused(
        "names",
        CertificateChain::from_entries(&named, NOW),
        Reason::SecretIncomplete,
        &["server.pem and server.key"],
    );
}

#[test]
fn every_key_type_is_read_in_every_encoding() {
    for key_type in KEY_TYPES {
        let (certificate, pkcs8_pem) = secret(key_type, 1);
        let inner = traditional(key_pair(key_type));
        let mut forms = vec![("PKCS#8", pkcs8_pem)];
        match key_type {
            KeyType::Rsa { .. } => forms.push(("PKCS#1", support::pem("RSA PRIVATE KEY", &inner))),
            KeyType::Ec(_) => {
                let (scalar, oid, point) = ec_parts(key_type);
                let label = "EC PRIVATE KEY";
                let full = support::pem(label, &sec1(&scalar, Some(oid), Some(&point)));
                forms.push(("SEC1 with EC PARAMETERS", support::pem("EC PARAMETERS", oid) + &full));
                forms.push(("SEC1", full));
                forms.push(("SEC1 without point", support::pem(label, &sec1(&scalar, Some(oid), None))));
                forms.push(("SEC1 without curve", support::pem(label, &sec1(&scalar, None, Some(&point)))));
                let bare = pkcs8(&[OID_EC, oid], &sec1(&scalar, None, None));
                forms.push(("PKCS#8 without point", support::pem("PRIVATE KEY", &bare)));
            }
        }
        for (what, text) in forms {
            let chain =
                read(&certificate, &text).unwrap_or_else(|error| panic!("{key_type} {what}: {error}"));
            assert_eq!(chain.key_type(), key_type, "{what}");
        }
    }
}

#[test]
fn keys_that_cannot_be_pushed_are_refused_with_their_own_words() {
    let (certificate, key) = secret(P256, 1);
    let (scalar, _, point) = ec_parts(P256);
    let rsa = traditional(key_pair(RSA_2048));
    let private =
        |algorithm: &[&[u8]], key: &[u8]| support::pem("PRIVATE KEY", &support::pkcs8(algorithm, key));
    let modulus_1024 = [vec![0], vec![0xc5; 128]].concat();
    let rsa_1024 = tlv(0x30, &[vec![2, 1, 0], tlv(2, &modulus_1024), vec![2, 3, 1, 0, 1]].concat());
    let ed25519 = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let mut damaged = rsa.clone();
    *damaged.last_mut().unwrap() ^= 1;
    let other_point = rcgen::PublicKeyData::der_bytes(&ec_key()).to_vec();
    let explicit = tlv(0x30, &[2, 1, 1]);
    let ec = |der: &[u8]| support::pem("EC PRIVATE KEY", der);
    use Reason::*;
    let unsupported = "RSA keys of 2048, 3072 or 4096 bits and EC keys on P-256, P-384 or P-521";
    let rows: Vec<(&str, String, Reason, Vec<&str>)> = vec![
        (
            "encrypted PKCS#8",
            support::pem("ENCRYPTED PRIVATE KEY", b"x"),
            EncryptedPrivateKey,
            vec!["tls.key is encrypted"],
        ),
        (
            "encrypted PKCS#1",
            old_encrypted(),
            EncryptedPrivateKey,
            vec!["tls.key is encrypted", "openssl pkey"],
        ),
        ("encrypted, CR LF", old_encrypted().replace('\n', "\r\n"), EncryptedPrivateKey, vec![]),
        (
            "two keys",
            format!("{key}{}", ec(&sec1(&scalar, None, None))),
            InvalidPrivateKey,
            vec!["2 private keys"],
        ),
        ("the same key twice", key.repeat(2), InvalidPrivateKey, vec!["2 private keys"]),
        ("encrypted beside plain", key.clone() + &old_encrypted(), InvalidPrivateKey, vec!["2 private keys"]),
        ("no key", certificate.clone(), InvalidPrivateKey, vec!["tls.key holds no private key"]),
        ("text", "hello".into(), InvalidPrivateKey, vec!["tls.key holds no private key"]),
        (
            "only parameters",
            support::pem("EC PARAMETERS", OID_P256),
            InvalidPrivateKey,
            vec!["`EC PARAMETERS`"],
        ),
        ("public key", support::pem("PUBLIC KEY", b"x"), InvalidPrivateKey, vec!["`PUBLIC KEY`"]),
        (
            "OpenSSH",
            support::pem("OPENSSH PRIVATE KEY", b"x"),
            InvalidPrivateKey,
            vec!["`OPENSSH PRIVATE KEY`"],
        ),
        ("CRL", format!("{key}{}", support::pem("X509 CRL", b"x")), InvalidPrivateKey, vec!["`X509 CRL`"]),
        (
            "indented",
            key.replace("-----BEGIN", " -----BEGIN"),
            InvalidPrivateKey,
            vec!["1 `-----BEGIN `", "but 0"],
        ),
        ("no END", key[..key.rfind("-----END").unwrap()].into(), InvalidPrivateKey, vec!["but 0"]),
        (
            "explicit, SEC1",
            ec(&sec1(&scalar, Some(&explicit), None)),
            UnsupportedKeyType,
            vec!["explicit", "named_curve"],
        ),
        (
            "explicit, PKCS#8",
            private(&[OID_EC, &explicit], &sec1(&scalar, None, None)),
            UnsupportedKeyType,
            vec!["explicit"],
        ),
        (
            "Ed25519",
            support::pem("PRIVATE KEY", ed25519.serialized_der()),
            UnsupportedKeyType,
            vec!["Ed25519", unsupported, "spec.privateKey.algorithm"],
        ),
        ("Ed448", private(&[OID_ED448], &tlv(4, &[9; 57])), UnsupportedKeyType, vec!["Ed448", unsupported]),
        (
            "RSA 1024",
            support::pem("RSA PRIVATE KEY", &rsa_1024),
            UnsupportedKeyType,
            vec!["RSA key of 1024 bits", unsupported],
        ),
        ("RSA-PSS", private(&[OID_RSA_PSS], &rsa), UnsupportedKeyType, vec!["RSA-PSS", unsupported]),
        (
            "secp256k1",
            private(&[OID_EC, OID_SECP256K1], &sec1(&scalar, None, None)),
            UnsupportedKeyType,
            vec!["secp256k1", unsupported],
        ),
        (
            "secp256k1, SEC1",
            ec(&sec1(&scalar, Some(OID_SECP256K1), None)),
            UnsupportedKeyType,
            vec!["secp256k1"],
        ),
        ("DSA", support::pem("DSA PRIVATE KEY", b"x"), UnsupportedKeyType, vec!["DSA", unsupported]),
        ("DSA, PKCS#8", private(&[OID_DSA], b"\x02\x01\x05"), UnsupportedKeyType, vec!["DSA"]),
        (
            "another's point",
            ec(&sec1(&scalar, Some(OID_P256), Some(&other_point))),
            InvalidPrivateKey,
            vec!["EC P-256", "not a valid one"],
        ),
        (
            "another's point, PKCS#8",
            private(&[OID_EC, OID_P256], &sec1(&scalar, None, Some(&other_point))),
            InvalidPrivateKey,
            vec!["not a valid one"],
        ),
        (
            "scalar of another curve",
            private(&[OID_EC, OID_P384], &sec1(&scalar, None, Some(&point))),
            InvalidPrivateKey,
            vec!["EC P-384"],
        ),
        ("scalar 0", ec(&sec1(&[0; 32], Some(OID_P256), None)), InvalidPrivateKey, vec!["not a valid one"]),
        (
            "RSA, a bit changed",
            support::pem("RSA PRIVATE KEY", &damaged),
            InvalidPrivateKey,
            vec!["RSA 2048", "not a valid one"],
        ),
        ("RSA, cut", support::pem("RSA PRIVATE KEY", &rsa[..900]), InvalidPrivateKey, vec!["PKCS#1"]),
        ("RSA, under the wrong label", ec(&rsa), InvalidPrivateKey, vec!["SEC1"]),
        ("nonsense", support::pem("PRIVATE KEY", b"nonsense"), InvalidPrivateKey, vec!["PKCS#8"]),
        (
            "longer",
            support::pem("PRIVATE KEY", &[key_pair(P256).serialize_der(), vec![0]].concat()),
            InvalidPrivateKey,
            vec!["PKCS#8"],
        ),
    ];
    for (what, text, reason, words) in rows {
        refused(what, read(&certificate, &text), reason, &[vec!["tls.key"], words].concat());
    }
}

#[test]
fn a_key_of_another_certificate_is_a_mismatch_whatever_its_type() {
    let (certificate, _) = secret(P256, 1);
    let other = ec_key().serialize_der();
    let rows = [
        ("same type", other.clone()),
        ("other curve", key_pair(KeyType::Ec(Curve::P384)).serialize_der()),
        ("other type", key_pair(RSA_2048).serialize_der()),
    ];
    for (what, key) in rows {
        let words = ["tls.key does not belong to the certificate CN=www.example.test in tls.crt"];
        refused(what, read(&certificate, &support::pem("PRIVATE KEY", &key)), Reason::KeyMismatch, &words);
    }
    let (chain, _) = secret(RSA_2048, 3);
    let words = ["EC P-256 key", "any of the 3 certificates"];
    refused("of three", read(&chain, &support::pem("PRIVATE KEY", &other)), Reason::KeyMismatch, &words);
}

#[test]
fn nothing_of_a_key_is_in_a_message_or_in_debug_output() {
    let (certificate, key) = secret(P256, 1);
    let chain = read(&certificate, &key).unwrap();
    let (scalar, ..) = ec_parts(P256);
    let decimal = scalar.iter().map(u8::to_string).collect::<Vec<_>>().join(", ");
    let debug = format!("{chain:?}");
    assert!(debug.contains("<redacted>"));
    assert!(!debug.contains(&decimal), "the key is in the debug output");
    let secrets: Vec<_> = key.lines().filter(|line| !line.starts_with('-')).collect();
    for text in [key.replacen('M', "!", 1), key.replace("-----END", "----END"), format!(" {key}")] {
        let problem = read(&certificate, &text).unwrap_err();
        assert!(!secrets.iter().any(|line| problem.message.contains(&line[..16])), "{problem}");
    }
}

fn sample() -> &'static (String, String) {
    static SAMPLE: std::sync::OnceLock<(String, String)> = std::sync::OnceLock::new();
    SAMPLE.get_or_init(|| secret(P256, 2))
}

/// One change of a text: where (as a fraction), what.
fn edit(text: &mut Vec<u8>, at: usize, kind: u8, byte: u8) {
    if text.is_empty() {
        return;
    }
    let at = at % text.len();
    match kind % 5 {
        0 => text[at] = byte,
        1 => text.insert(at, byte),
        2 => drop(text.remove(at)),
        3 => text.truncate(at),
        _ => text[at] ^= 1 << (byte % 8),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn as_many_certificates_come_out_as_begin_lines_go_in_or_the_entry_is_refused(
        pieces in proptest::collection::vec((0..12usize, any::<u16>()), 0..8),
    ) {
        let (certificate, _) = sample();
        let block = &certificate[..certificate.find("-----END").unwrap() + 26];
        let mut text = String::new();
        for (piece, random) in pieces {
            match piece {
                0..4 => text.push_str(block),
                4 => text.push_str(&block.replace('\n', "\r\n")),
                5 => text.push_str(block.trim_end()),
                6 => text.push_str("some text\n"),
                7 => text.push_str(&block.replace('\n', "\n ")),
                8 => text.push('\u{feff}'),
                9 => text.push_str(&block.to_lowercase()),
                10 => text.push_str(&block[usize::from(random) % block.len()..]),
                _ => text.push_str(&block[..usize::from(random) % block.len()]),
            }
        }
        let begins = text.matches("-----BEGIN ").count();
        if let Ok(certificates) = pem::certificates("tls.crt", text.as_bytes()) {
            prop_assert_eq!(certificates.len(), begins);
        }
    }

    #[test]
    fn no_bytes_make_it_panic(certificate in any::<Vec<u8>>(), key in any::<Vec<u8>>()) {
        let _ = CertificateChain::from_entries(&entries(&certificate, &key), NOW);
        let (text, der) = (bundle([&certificate]), support::pem("PRIVATE KEY", &key));
        let _ = read(&text, &der);
        for label in ["RSA PRIVATE KEY", "EC PRIVATE KEY"] {
            let _ = read(&sample().0, &support::pem(label, &key));
        }
    }

    #[test]
    fn no_change_of_a_valid_secret_makes_it_panic(
        edits in proptest::collection::vec((any::<bool>(), any::<usize>(), any::<u8>(), any::<u8>()), 1..5),
    ) {
        let (certificate, key) = sample();
        let (mut text, mut key_text) = (certificate.clone().into_bytes(), key.clone().into_bytes());
        let ders = pem::certificates("tls.crt", certificate.as_bytes()).unwrap();
        let (mut der, mut key_der) = (ders[0].clone(), key_pair(P256).serialize_der());
        for (of_key, at, kind, byte) in edits {
            edit(if of_key { &mut key_text } else { &mut text }, at, kind, byte);
            edit(if of_key { &mut key_der } else { &mut der }, at, kind, byte);
        }
        let _ = CertificateChain::from_entries(&entries(&text, &key_text), NOW);
        let _ = read(&bundle([&der, &ders[1]]), &support::pem("PRIVATE KEY", &key_der));
        let _ = read(&bundle([&der]), key);
    }
}
