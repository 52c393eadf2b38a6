//! The PFX as others read it: OpenSSL, Java's keytool and the crate `p12-keystore`, for every key type, chain length
//! and profile.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot be set up fails")]
#![allow(clippy::disallowed_methods, reason = "the test, not core, asks whether this is CI")]

mod support;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use keyvault_sync_core::chain::CertificateChain;
use keyvault_sync_core::key::KeyType;
use keyvault_sync_core::pfx::{self, Pfx, PfxEncryption, PfxRandomness};
use p12_keystore::Pkcs12Archive;
use support::*;

/// Different in every bundle of a test run, and the same in the next run.
fn randomness(seed: u8) -> PfxRandomness {
    let mut next = seed;
    PfxRandomness::fill_with(|bytes| {
        for byte in bytes {
            next = next.wrapping_mul(197).wrapping_add(101);
            *byte = next;
        }
        Ok::<_, ()>(())
    })
    .unwrap()
}

fn password(pfx: &Pfx) -> &str {
    str::from_utf8(pfx.password.expose()).unwrap()
}

/// Every key type × chains of 1, 2 and 4 × both profiles.
fn bundles(mut check: impl FnMut(&str, &CertificateChain, PfxEncryption, &Pfx)) {
    let mut seed = 0;
    for key_type in KEY_TYPES {
        for length in [1, 2, 4] {
            let (certificate, pkcs8) = secret(key_type, length);
            // Wrapped keys must be readable by everybody, too.
            let key = if length == 2 { traditional_pem(key_type) } else { pkcs8 };
            let chain = read(&certificate, &key).unwrap();
            assert_eq!(chain.certificates().count(), length);
            for encryption in PfxEncryption::ALL {
                seed += 1;
                let pfx = pfx::encode(&chain, encryption, randomness(seed)).unwrap();
                check(&format!("{key_type}, {length} certificates, {encryption}"), &chain, encryption, &pfx);
            }
        }
    }
}

/// PKCS#1, or SEC1 with curve and point.
fn traditional_pem(key_type: KeyType) -> String {
    match key_type {
        KeyType::Rsa { .. } => pem("RSA PRIVATE KEY", &traditional(key_pair(key_type))),
        KeyType::Ec(_) => {
            let (scalar, oid, point) = ec_parts(key_type);
            pem("EC PRIVATE KEY", &sec1(&scalar, Some(oid), Some(&point)))
        }
    }
}

/// A key that is not the leaf's would be a mismatch.
fn assert_is_key_of(chain: &CertificateChain, pkcs8: &[u8], what: &str) {
    let again = read(&bundle(chain.certificates()), &pem("PRIVATE KEY", pkcs8));
    assert_eq!(again.unwrap_or_else(|problem| panic!("{what}: {problem}")).key_type(), chain.key_type());
}

#[test]
fn another_reader_finds_key_chain_and_names_on_leaf_and_key_only() {
    bundles(|what, chain, _, pfx| {
        let archive = Pkcs12Archive::from_pkcs12(pfx.bytes.expose(), password(pfx)).unwrap();
        let thumbprint = chain.thumbprint().to_vec();
        let found: Vec<_> = archive
            .certs
            .iter()
            .map(|bag| (bag.cert.as_der(), bag.friendly_name.as_deref(), bag.local_key_id.clone()))
            .collect();
        let expected: Vec<_> = chain
            .certificates()
            .enumerate()
            .map(|(index, der)| {
                let named = index == 0;
                (der, named.then_some("keyvault-sync"), named.then(|| thumbprint.clone()))
            })
            .collect();
        assert_eq!(found, expected, "{what}");
        let [key_bag] = archive.keys.as_slice() else { panic!("{what}: {} keys", archive.keys.len()) };
        assert_is_key_of(chain, key_bag.key.as_der(), what);
        assert_eq!(key_bag.friendly_name.as_deref(), Some("keyvault-sync"), "{what}");
        assert_eq!(key_bag.local_key_id.as_ref().map(|id| &id.0), Some(&thumbprint), "{what}");
        assert!(
            Pkcs12Archive::from_pkcs12(pfx.bytes.expose(), "wrong").is_err(),
            "{what}: any password opens it"
        );
    });
}

/// Runs to the end and gives both outputs, or `None` where the program is not installed.
fn run(command: &mut Command) -> Option<String> {
    let output = match command.stdin(Stdio::null()).output() {
        Ok(output) => output,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
        Err(error) => panic!("{command:?}: {error}"),
    };
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap()).concat();
    assert!(output.status.success(), "{command:?}: {text}");
    Some(text)
}

/// The bundle and its password in a folder of their own, which only this user may enter.
fn write(folder: &Path, pfx: &Pfx) {
    fs::write(folder.join("bundle.pfx"), pfx.bytes.expose()).unwrap();
    fs::write(folder.join("password"), password(pfx)).unwrap();
}

#[test]
fn openssl_reads_every_bundle_without_legacy_and_names_the_algorithms() {
    let folder = tempfile::tempdir().unwrap();
    if run(Command::new("openssl").arg("version")).is_none() {
        assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "CI needs the openssl command");
        eprintln!("NOT TESTED: there is no `openssl` command on this machine; no bundle was read by OpenSSL");
        return;
    }
    bundles(|what, chain, encryption, pfx| {
        write(folder.path(), pfx);
        let openssl = |options: &[&str]| {
            let mut command = Command::new("openssl");
            command.args(["pkcs12", "-in", "bundle.pfx", "-passin", "file:password"]).args(options);
            run(command.current_dir(folder.path())).unwrap()
        };
        // Its output, Bag Attributes and all, is a Secret's content again.
        let text = openssl(&["-nodes"]);
        let again = read(&text, &text).unwrap_or_else(|problem| panic!("{what}: {problem}"));
        assert_eq!(again.fingerprint(), chain.fingerprint(), "{what}");
        assert_eq!(text.matches("friendlyName: keyvault-sync").count(), 2, "{what}: leaf and key");
        assert_eq!(text.matches("localKeyID").count(), 2, "{what}: leaf and key");

        let info = openssl(&["-info", "-noout"]);
        let (mac, cipher) = match encryption {
            PfxEncryption::Aes256Sha256 => (
                "MAC: sha256, Iteration 2048",
                "PBES2, PBKDF2, AES-256-CBC, Iteration 2048, PRF hmacWithSHA256",
            ),
            PfxEncryption::TripleDesSha1 => {
                ("MAC: sha1, Iteration 2048", "pbeWithSHA1And3-KeyTripleDES-CBC, Iteration 2048")
            }
        };
        assert!(info.contains(mac), "{what}: {info}");
        assert!(info.contains("MAC length: ") && info.contains("salt length: 16"), "{what}: {info}");
        assert_eq!(info.matches(cipher).count(), 2, "{what}: both safes: {info}");
    });
}

#[test]
fn java_reads_every_bundle_with_its_key() {
    let folder = tempfile::tempdir().unwrap();
    if run(Command::new("keytool").arg("-help")).is_none() {
        eprintln!("NOT TESTED: there is no `keytool` command on this machine; no bundle was read by Java");
        return;
    }
    bundles(|what, chain, _, pfx| {
        write(folder.path(), pfx);
        let copy = folder.path().join("copy.p12");
        let mut command = Command::new("keytool");
        // Listing would not open the key; copying does.
        command.args([
            "-importkeystore",
            "-noprompt",
            "-srckeystore",
            "bundle.pfx",
            "-srcstoretype",
            "PKCS12",
        ]);
        // One short run each: no time to compile or collect.
        command.args(["-J-XX:TieredStopAtLevel=1", "-J-XX:+UseSerialGC"]);
        command.args(["-destkeystore", "copy.p12", "-deststoretype", "PKCS12"]);
        command.args(["-srcstorepass:file", "password", "-deststorepass:file", "password"]);
        run(command.current_dir(folder.path())).unwrap();
        let archive = Pkcs12Archive::from_pkcs12(&fs::read(&copy).unwrap(), password(pfx)).unwrap();
        fs::remove_file(&copy).unwrap();
        assert_eq!(
            archive.certs.iter().map(|bag| bag.cert.as_der()).collect::<Vec<_>>(),
            chain.certificates().collect::<Vec<_>>(),
            "{what}"
        );
        assert_eq!(archive.certs[0].friendly_name.as_deref(), Some("keyvault-sync"), "{what}: the alias");
        assert_is_key_of(chain, archive.keys[0].key.as_der(), what);
    });
}

/// The key of RFC 6979, A.2.5: known to everybody, so that it may stand here.
const RFC_6979_P256: &str = "C9AFA9D845BA75166B5C215767B1D6934E50C3DB36E89B127B8A622B120F6721";
const RFC_6979_CERTIFICATE: &str = "
-----BEGIN CERTIFICATE-----
MIIBkzCCATmgAwIBAgIUSUfHoYmTDGth9LIyFcHpEEI36z0wCgYIKoZIzj0EAwIw
HjEcMBoGA1UEAwwTZ29sZGVuLmV4YW1wbGUudGVzdDAgFw0yNjExMjQwMDI0MzBa
GA8yMTI2MTAzMTAwMjQzMFowHjEcMBoGA1UEAwwTZ29sZGVuLmV4YW1wbGUudGVz
dDBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABGD+1LolWp0xyWHrdMY1bWjASbiS
O2H6bOZpYi5g8p+2eQP+EAi4vJmkGunpVii8ZPLxsgwtfp9Rd6PClNRGIpmjUzBR
MB0GA1UdDgQWBBQalWlXm84ympQtB2nJwLVkMVY3EDAfBgNVHSMEGDAWgBQalWlX
m84ympQtB2nJwLVkMVY3EDAPBgNVHRMBAf8EBTADAQH/MAoGCCqGSM49BAMCA0gA
MEUCIQCH8Yr5VIuuzpu7bX4XRlxV7zRxkm0xnW36lKtgkbr1DgIgBPa1uLFIjgUw
ntXfZVMx0YoCusgJHFM6L6nc6XLyfkM=
-----END CERTIFICATE-----
";

#[test]
fn a_bundle_of_given_randomness_is_the_same_byte_for_byte() {
    let scalar: Vec<u8> =
        (0..32).map(|index| u8::from_str_radix(&RFC_6979_P256[index * 2..][..2], 16).unwrap()).collect();
    let key = pem("EC PRIVATE KEY", &sec1(&scalar, Some(OID_P256), None));
    let chain = read(RFC_6979_CERTIFICATE, &key).unwrap();
    // Recorded from bundles that OpenSSL 3.0 had read.
    let rows = [
        (PfxEncryption::Aes256Sha256, "17bc0e5086e796aee82bff76570e051c10a8f933ccbed6d460e016fba70db99c"),
        (PfxEncryption::TripleDesSha1, "9c2fc530cca16800e8dd62e83f9b72d8d350b3981ebfd1f2a9dcad5850ba3e04"),
    ];
    for (encryption, expected) in rows {
        let mut next = 0;
        let counting = PfxRandomness::fill_with(|bytes| {
            for byte in bytes {
                *byte = next;
                next += 1;
            }
            Ok::<_, ()>(())
        });
        let pfx = pfx::encode(&chain, encryption, counting.unwrap()).unwrap();
        assert_eq!(password(&pfx), "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdef");
        let archive = Pkcs12Archive::from_pkcs12(pfx.bytes.expose(), password(&pfx)).unwrap();
        assert_eq!(archive.certs[0].cert.as_der(), chain.leaf_der());
        let hash = <sha2::Sha256 as sha2::Digest>::digest(pfx.bytes.expose());
        let hash: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hash, expected, "{encryption}");
    }
}

#[test]
fn every_length_of_der_is_written_and_read() {
    // Sizes around the edges of DER's length forms (127/128, 255/256, 65535/65536), in the certificate and so in
    // everything around it.
    let key = ec_key();
    for padding in
        [0, 20, 21, 22, 100, 127, 128, 129, 254, 255, 256, 257, 64_700, 65_000, 65_535, 65_536, 70_000]
    {
        let mut params = params("www.example.test");
        let content = vec![0x5a; padding];
        params.custom_extensions = vec![rcgen::CustomExtension::from_oid_content(&[1, 2, 3, 4], content)];
        let der = params.self_signed(&key).unwrap().der().to_vec();
        let chain = Leaf { der: der.clone(), key: key.serialize_der() }.read([&der]).unwrap();
        for encryption in PfxEncryption::ALL {
            let pfx = pfx::encode(&chain, encryption, randomness(7)).unwrap();
            let archive = Pkcs12Archive::from_pkcs12(pfx.bytes.expose(), password(&pfx)).unwrap();
            assert_eq!(archive.certs[0].cert.as_der(), der, "{padding}, {encryption}");
            assert_eq!(archive.keys[0].key.as_der(), key.serialize_der(), "{padding}, {encryption}");
        }
    }
}

#[test]
fn passwords_are_32_printable_ascii_characters_whatever_the_random_bytes() {
    let leaf = Authority::root("Root").leaf("www.example.test");
    let chain = leaf.read([&leaf.der]).unwrap();
    for byte in [0, 1, 0x3f, 0x40, 0x7f, 0x80, 0xff] {
        let randomness = PfxRandomness::fill_with(|bytes| {
            bytes.fill(byte);
            Ok::<_, ()>(())
        })
        .unwrap();
        assert_eq!(format!("{randomness:?}"), "<redacted>");
        let pfx = pfx::encode(&chain, PfxEncryption::Aes256Sha256, randomness).unwrap();
        assert_eq!(password(&pfx).len(), 32);
        assert!(password(&pfx).bytes().all(|c| c.is_ascii_graphic()), "{:?}", password(&pfx));
        assert!(!format!("{pfx:?}").contains(password(&pfx)));
    }
}

#[test]
fn a_failing_generator_makes_no_bundle() {
    for good_fills in 0..6 {
        let mut fills = 0;
        let result = PfxRandomness::fill_with(|_| {
            fills += 1;
            if fills > good_fills { Err("no entropy") } else { Ok(()) }
        });
        assert_eq!(result.err(), Some("no entropy"), "{good_fills}");
    }
}

#[test]
fn the_setting_has_two_words_and_the_first_is_the_default() {
    for encryption in PfxEncryption::ALL {
        assert_eq!(encryption.to_string().parse(), Ok(encryption));
    }
    assert_eq!(PfxEncryption::default().to_string(), "aes256-sha256");
    let error = "AES256".parse::<PfxEncryption>().unwrap_err();
    assert_eq!(error.to_string(), "the PFX encryption is `aes256-sha256` or `3des-sha1`");
}
