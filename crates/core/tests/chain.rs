//! The chain of a certificate: who is the leaf, who signed whom, what is left out, what is missing, what is refused.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot be set up fails")]

mod support;

use keyvault_sync_core::chain::CertificateChain;
use keyvault_sync_core::reason::Reason;
use proptest::prelude::*;
use proptest::sample::subsequence;
use rcgen::{DnType, SerialNumber, date_time_ymd};
use support::*;

fn ders(chain: &CertificateChain) -> Vec<Vec<u8>> {
    chain.certificates().map(<[u8]>::to_vec).collect()
}

/// A root, two CAs below it and a leaf.
struct Pki {
    root: Authority,
    upper: Authority,
    lower: Authority,
    leaf: Leaf,
}

fn pki() -> Pki {
    let root = Authority::root("Root");
    let upper = root.intermediate("Upper");
    let lower = upper.intermediate("Lower");
    let leaf = lower.leaf("www.example.test");
    Pki { root, upper, lower, leaf }
}

#[test]
fn the_chain_is_in_issuer_order_without_the_root_whatever_order_it_came_in() {
    let Pki { root, upper, lower, leaf } = pki();
    let all = [&leaf.der, &lower.der, &upper.der, &root.der];
    let mut fingerprints = Vec::new();
    for order in permutations(4) {
        let chain = leaf.read(order.iter().map(|&index| all[index])).unwrap();
        assert_eq!(ders(&chain), [leaf.der.clone(), lower.der.clone(), upper.der.clone()], "{order:?}");
        assert_eq!(chain.incomplete(), None);
        assert!(chain.ignored().is_empty(), "the root is left out on purpose: {:?}", chain.ignored());
        fingerprints.push(chain.fingerprint());
    }
    fingerprints.dedup();
    assert_eq!(fingerprints.len(), 1);
    let without_root = leaf.read([&leaf.der, &lower.der, &upper.der]).unwrap();
    assert_eq!(without_root.fingerprint(), fingerprints[0], "with or without root, the same is pushed");
    let shorter = leaf.read([&leaf.der, &lower.der]).unwrap();
    assert_ne!(shorter.fingerprint(), fingerprints[0], "another chain is other content");
}

fn permutations(count: usize) -> Vec<Vec<usize>> {
    if count == 0 {
        return vec![vec![]];
    }
    let mut all = Vec::new();
    for shorter in permutations(count - 1) {
        for place in 0..=shorter.len() {
            let mut order = shorter.clone();
            order.insert(place, count - 1);
            all.push(order);
        }
    }
    all
}

#[test]
fn duplicates_and_unrelated_certificates_are_left_out_and_named() {
    let Pki { root, upper, lower, leaf } = pki();
    let stranger = Authority::root("Stranger");
    let chain = leaf
        .read([&lower.der, &leaf.der, &stranger.der, &root.der, &lower.der, &upper.der, &leaf.der])
        .unwrap();
    assert_eq!(ders(&chain), [leaf.der, lower.der, upper.der]);
    assert_eq!(
        chain.ignored(),
        [
            "CN=Lower (a duplicate)",
            "CN=Stranger (not part of the chain)",
            "CN=www.example.test (a duplicate)",
        ]
    );
    assert_eq!(chain.incomplete(), None, "the chain ends in its root, the stranger is no gap");
}

#[test]
fn an_incomplete_chain_is_told_with_the_missing_issuer_and_a_missing_root_is_no_gap() {
    let Pki { root, upper, lower, leaf } = pki();
    let stranger = Authority::root("Stranger");
    let from_root = root.leaf("direct.example.test");
    let (root_pem, lower_pem) = (bundle([&root.der]), bundle([&lower.der]));
    let crt = |list: &[&Vec<u8>]| list.iter().map(|der| (*der).clone()).collect::<Vec<_>>();
    let forged_root = bundle([&Authority::root("Root").der]);
    type Row<'a> = (&'a str, &'a Leaf, Vec<Vec<u8>>, &'a str, Option<&'a str>);
    let rows: [Row<'_>; 15] = [
        ("leaf and intermediate", &leaf, crt(&[&leaf.der, &lower.der]), "", None),
        ("leaf and both", &leaf, crt(&[&leaf.der, &lower.der, &upper.der]), "", None),
        ("leaf and root only", &from_root, crt(&[&from_root.der, &root.der]), "", None),
        ("leaf alone", &leaf, crt(&[&leaf.der]), "", Some("CN=Lower")),
        ("leaf alone, root in ca.crt", &from_root, crt(&[&from_root.der]), &root_pem, None),
        ("leaf alone, issuer in ca.crt", &leaf, crt(&[&leaf.der]), &lower_pem, None),
        ("leaf alone, another CA in ca.crt", &leaf, crt(&[&leaf.der]), &root_pem, Some("CN=Lower")),
        (
            "leaf alone, a namesake in ca.crt",
            &from_root,
            crt(&[&from_root.der]),
            &forged_root,
            Some("CN=Root"),
        ),
        ("leaf alone, ca.crt unreadable", &leaf, crt(&[&leaf.der]), "-----BEGIN nothing", Some("CN=Lower")),
        ("gap below", &leaf, crt(&[&leaf.der, &upper.der]), "", Some("CN=Lower")),
        ("gap above", &leaf, crt(&[&leaf.der, &lower.der, &root.der]), "", Some("CN=Upper")),
        ("gap below, lower CA in ca.crt", &leaf, crt(&[&leaf.der, &upper.der]), &lower_pem, Some("CN=Lower")),
        ("a CA without place", &leaf, crt(&[&leaf.der, &lower.der, &stranger.der]), "", Some("CN=Upper")),
        (
            "a CA without place, root in ca.crt",
            &leaf,
            crt(&[&leaf.der, &lower.der, &upper.der, &stranger.der]),
            &root_pem,
            None,
        ),
        ("a leaf without place", &leaf, crt(&[&leaf.der, &lower.der, &from_root.der]), "", None),
    ];
    for (what, leaf, certificates, ca, missing) in rows {
        let chain = leaf.read_with_ca(&certificates, ca.as_bytes()).unwrap();
        match missing {
            None => assert_eq!(chain.incomplete(), None, "{what}"),
            Some(issuer) => {
                let sentence = chain.incomplete().unwrap_or_else(|| panic!("{what}: no warning"));
                assert!(sentence.contains(&format!("{issuer}, the issuer of")), "{what}: {sentence}");
            }
        }
        assert_eq!(chain.leaf_der(), leaf.der, "{what}: pushed all the same");
        let alone = leaf.read(&certificates).unwrap();
        assert_eq!(
            alone.fingerprint(),
            chain.fingerprint(),
            "{what}: ca.crt changes nothing of what is pushed"
        );
    }
}

#[test]
fn a_self_signed_certificate_is_its_own_chain() {
    let key = ec_key();
    let der = params("self.example.test").self_signed(&key).unwrap().der().to_vec();
    let leaf = Leaf { der, key: key.serialize_der() };
    let chain = leaf.read([&leaf.der]).unwrap();
    assert_eq!(ders(&chain), [leaf.der]);
    assert_eq!(chain.incomplete(), None);
}

#[test]
fn the_signature_decides_between_issuers_of_one_name() {
    // Without key identifiers only the signature can tell two CAs of one name apart.
    let plain = |name| {
        let mut params = ca_params(name);
        params.use_authority_key_identifier_extension = false;
        params
    };
    let (old, new) =
        (Authority::root_of(plain("Same"), ec_key()), Authority::root_of(plain("Same"), ec_key()));
    let mut leaf_params = params("www.example.test");
    leaf_params.use_authority_key_identifier_extension = false;
    let key = ec_key();
    for signer in [&old, &new] {
        let leaf = Leaf { der: signer.sign(&leaf_params, &key), key: key.serialize_der() };
        let upper = signer.intermediate_of(plain("Mid"), ec_key());
        let below = upper.leaf("below.example.test");
        for order in [[&old, &new], [&new, &old]] {
            let chain = leaf.read([&leaf.der, &order[0].der, &order[1].der]).unwrap();
            assert_eq!(chain.incomplete(), None, "the root that signed it was found");
            assert_eq!(chain.ignored(), ["CN=Same (not part of the chain)"]);
            let chain = below.read([&order[0].der, &upper.der, &order[1].der, &below.der]).unwrap();
            assert_eq!(ders(&chain), [below.der.clone(), upper.der.clone()]);
        }
    }
}

#[test]
fn of_two_intermediates_of_one_name_the_one_that_signed_is_pushed() {
    let root = Authority::root("Root");
    let [one, two] = [(); 2].map(|()| root.intermediate("Same"));
    let mut unidentified = params("www.example.test");
    unidentified.use_authority_key_identifier_extension = false;
    let key = ec_key();
    for signer in [&one, &two] {
        let leaf = Leaf { der: signer.sign(&unidentified, &key), key: key.serialize_der() };
        for order in [[&one, &two], [&two, &one]] {
            let chain = leaf.read([&leaf.der, &order[0].der, &order[1].der, &root.der]).unwrap();
            assert_eq!(ders(&chain), [&*leaf.der, &*signer.der]);
        }
    }
}

#[test]
fn a_leaf_that_its_only_issuer_did_not_sign_is_refused() {
    let (real, namesake) = (Authority::root("Same"), Authority::root("Same"));
    let mut without_identifier = params("www.example.test");
    without_identifier.use_authority_key_identifier_extension = false;
    let key = ec_key();
    let leaf = Leaf { der: real.sign(&without_identifier, &key), key: key.serialize_der() };
    let problem = leaf.read([&leaf.der, &namesake.der]).unwrap_err();
    assert_eq!(problem.reason, Reason::InvalidCertificate);
    assert!(
        problem.message.contains("CN=www.example.test in tls.crt was not signed by the CN=Same"),
        "{problem}"
    );
    assert!(leaf.read([&leaf.der, &namesake.der, &real.der]).is_ok(), "its real issuer is at hand");

    // With key identifiers the namesake is known to be another CA: a gap, and no forgery.
    let identified = real.leaf("www.example.test");
    let chain = identified.read([&identified.der, &namesake.der]).unwrap();
    assert!(chain.incomplete().unwrap().contains("CN=Same, the issuer of"));

    let mut broken = Leaf { der: identified.der.clone(), key: identified.key.clone() };
    *broken.der.last_mut().unwrap() ^= 1;
    let problem = broken.read([&broken.der, &real.der]).unwrap_err();
    assert_eq!(problem.reason, Reason::InvalidCertificate, "{problem}");
}

#[test]
fn of_several_good_paths_one_with_a_root_then_the_longer_then_the_later_is_taken() {
    let (first, second) = (Authority::root("First"), Authority::root("Second"));
    let mid = first.intermediate("Mid");
    let cross = second.sign(&ca_params("Mid"), &mid.key);
    let leaf = mid.leaf("www.example.test");
    let both_orders = |certificates: &[&Vec<u8>], expected: &[&Vec<u8>], what: &str| {
        let forward = leaf.read(certificates).unwrap();
        let backward = leaf.read(certificates.iter().rev()).unwrap();
        assert_eq!(ders(&forward), ders(&backward), "{what}");
        assert_eq!(ders(&forward).iter().collect::<Vec<_>>(), expected, "{what}");
    };
    both_orders(&[&leaf.der, &mid.der, &cross, &second.der], &[&leaf.der, &cross], "the root at hand");
    both_orders(&[&leaf.der, &mid.der, &cross, &first.der], &[&leaf.der, &mid.der], "the other root at hand");

    // First, signed by Second: a longer way to a root than First itself.
    let first_by_second = second.sign(&ca_params("First"), &first.key);
    both_orders(
        &[&leaf.der, &mid.der, &first.der, &first_by_second, &second.der],
        &[&leaf.der, &mid.der, &first_by_second],
        "the longer of two with roots",
    );

    let mut later = ca_params("Mid");
    later.not_after = date_time_ymd(2030, 1, 1);
    let later = first.sign(&later, &mid.key);
    both_orders(&[&leaf.der, &mid.der, &later, &first.der], &[&leaf.der, &later], "the later notAfter");

    // Equal in everything but the serial number: the lower SHA-256.
    let twin = first.sign(&ca_params("Mid"), &mid.key);
    let hash = |der: &[u8]| <sha2::Sha256 as sha2::Digest>::digest(der);
    let lower = if hash(&twin) < hash(&mid.der) { &twin } else { &mid.der };
    both_orders(&[&leaf.der, &mid.der, &twin, &first.der], &[&leaf.der, lower], "the lower hash");
}

#[test]
fn the_leaf_is_the_keys_certificate_not_self_signed_and_newest() {
    let root = Authority::root("Root");
    let key = ec_key();
    let dated = |year| {
        let mut params = params("www.example.test");
        params.not_before = date_time_ymd(year, 1, 1);
        params
    };
    let old = root.sign(&dated(2024), &key);
    let new = root.sign(&dated(2026), &key);
    let placeholder = dated(2027).self_signed(&key).unwrap().der().to_vec();
    let leaf = Leaf { der: new.clone(), key: key.serialize_der() };
    let all = [&old, &new, &placeholder, &root.der];
    for order in permutations(4) {
        let chain = leaf.read(order.iter().map(|&index| all[index])).unwrap();
        assert_eq!(ders(&chain), [&*new], "{order:?}");
    }
    assert_eq!(
        leaf.read([&placeholder, &old]).unwrap().leaf_der(),
        old,
        "signed by another before self-signed"
    );
}

#[test]
fn loops_and_meshes_end() {
    // Two CAs that signed each other, and forty certificates of one CA that all could have signed each other.
    let (a, b) = (Authority::root("A"), Authority::root("B"));
    let a_by_b = b.sign(&ca_params("A"), &a.key);
    let b_by_a = a.sign(&ca_params("B"), &b.key);
    let leaf = a.leaf("www.example.test");
    let chain = leaf.read([&leaf.der, &a_by_b, &b_by_a]).unwrap();
    assert_eq!(ders(&chain), [leaf.der.clone(), a_by_b.clone(), b_by_a.clone()]);

    let mut mesh = vec![leaf.der.clone()];
    for _ in 0..20 {
        mesh.push(b.sign(&ca_params("A"), &a.key));
        mesh.push(a.sign(&ca_params("B"), &b.key));
    }
    let chain = leaf.read(&mesh).unwrap();
    mesh.reverse();
    assert_eq!(leaf.read(&mesh).unwrap().fingerprint(), chain.fingerprint());
}

#[test]
fn cert_managers_temporary_certificate_is_waited_for_and_its_lookalikes_are_not() {
    let mut decorated = ca_params("cert-manager.local");
    decorated.distinguished_name.push(DnType::OrganizationName, "A real company");
    let mut numbered = params("www.example.test");
    numbered.distinguished_name.push(DnType::CustomDnType(vec![2, 5, 4, 5]), "1234567890");
    let temporary_ca = Authority::root("cert-manager.local");
    let real_ca = Authority::root("Real CA");
    let key = ec_key();
    let rows = [
        ("cert-manager's", temporary_ca.sign(&params("www.example.test"), &key), true),
        ("self-signed", params("cert-manager.local").self_signed(&key).unwrap().der().to_vec(), false),
        ("longer issuer", Authority::root_of(decorated, ec_key()).sign(&params("www"), &key), false),
        ("serialNumber alone", real_ca.sign(&numbered, &key), false),
        ("subject of that name", real_ca.sign(&params("cert-manager.local"), &key), false),
    ];
    for (what, der, temporary) in rows {
        let result = Leaf { der: der.clone(), key: key.serialize_der() }.read([&der]);
        let reason = result.as_ref().err().map(|problem| problem.reason);
        assert_eq!(reason, temporary.then_some(Reason::TemporaryCertificate), "{what}: {result:?}");
    }
}

#[test]
fn an_expired_leaf_is_refused_and_other_dates_are_the_vaults_business() {
    let key = ec_key();
    let root = Authority::root("Root");
    let valid = |from, to| {
        let mut params = params("www.example.test");
        (params.not_before, params.not_after) = (from, to);
        params
    };
    let (y2020, y2026, y2028, y2030) = [2020, 2026, 2028, 2030].map(|year| date_time_ymd(year, 1, 1)).into();
    let mut expired_ca = ca_params("Old CA");
    expired_ca.not_after = y2026;
    let old_ca = root.intermediate_of(expired_ca, ec_key());
    let forever = date_time_ymd(9999, 12, 31);
    let rows = [
        ("expired", root.sign(&valid(y2020, y2026), &key), vec![], true),
        ("not yet valid", root.sign(&valid(y2028, y2030), &key), vec![], false),
        ("for ever", root.sign(&valid(y2020, forever), &key), vec![], false),
        ("expired intermediate", old_ca.sign(&valid(y2020, y2030), &key), vec![old_ca.der.clone()], false),
    ];
    for (what, der, above, expired) in rows {
        let leaf = Leaf { der: der.clone(), key: key.serialize_der() };
        let result = leaf.read(std::iter::once(&der).chain(&above));
        assert_eq!(result.is_err(), expired, "{what}: {result:?}");
        if let Err(problem) = result {
            assert_eq!(problem.reason, Reason::CertificateExpired);
            assert!(problem.message.contains("expired at 2026-01-01T00:00:00Z"), "{problem}");
        }
    }
    let der = root.sign(&valid(y2020, y2028), &key);
    let (certificate, key) = (bundle([der]), pem("PRIVATE KEY", &key.serialize_der()));
    let at = |now| CertificateChain::from_entries(&entries(certificate.as_bytes(), key.as_bytes()), now);
    let last = at(NOW).unwrap().not_after();
    assert_eq!(last, 1_830_297_600, "2028-01-01, unix seconds");
    assert!(at(last).is_ok(), "the last second counts (RFC 5280, 4.1.2.5)");
    assert_eq!(at(last + 1).unwrap_err().reason, Reason::CertificateExpired);
    assert_eq!(at(NOW).unwrap().not_before(), 1_577_836_800, "2020-01-01, unix seconds");
}

#[test]
fn unusual_serial_numbers_and_names_are_pushed() {
    let root = Authority::root("Root");
    let key = ec_key();
    for serial in [vec![0], vec![0x80; 20], vec![0xff; 21], vec![1; 40]] {
        let mut params = params("");
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        let der = root.sign(&params, &key);
        let chain = Leaf { der: der.clone(), key: key.serialize_der() }.read([&der]).unwrap();
        assert_eq!(chain.leaf_der(), der, "{serial:?}");
    }
}

#[test]
fn names_in_messages_are_plain_and_short() {
    let root = Authority::root("Root");
    let key = ec_key();
    for name in ["evil\n\u{1b}[31mname", "right\u{202e}to left", "zero\u{200b}width", &"long ".repeat(1000)] {
        let mut params = params(name);
        params.not_after = date_time_ymd(2026, 6, 1);
        let der = root.sign(&params, &key);
        let problem = Leaf { der: der.clone(), key: key.serialize_der() }.read([&der]).unwrap_err();
        assert_eq!(problem.reason, Reason::CertificateExpired);
        let odd = |c: char| c.is_control() || "\u{202e}\u{200b}".contains(c);
        assert!(!problem.message.contains(odd), "{:?}", problem.message);
        assert!(problem.message.chars().count() < 400, "{}", problem.message.len());
    }
}

#[test]
fn thumbprints_are_what_key_vault_and_openssl_show() {
    let leaf = Authority::root("Root").leaf("www.example.test");
    let chain = leaf.read([&leaf.der]).unwrap();
    let sha1: [u8; 20] = <sha1::Sha1 as sha1::Digest>::digest(&leaf.der).into();
    let sha256: [u8; 32] = <sha2::Sha256 as sha2::Digest>::digest(&leaf.der).into();
    assert_eq!((chain.thumbprint(), chain.leaf_sha256()), (sha1, sha256));
    assert_eq!(chain.subject(), "CN=www.example.test");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_order_and_repetition_gives_the_same_chain_fingerprint_and_messages(
        order in subsequence((0..12).collect::<Vec<usize>>(), 12).prop_shuffle(),
        again in proptest::collection::vec(0..12usize, 0..4),
    ) {
        // Cross-signed twice over, with an unrelated CA and a second leaf: every rule has something to decide.
        thread_local! {
            static POOL: (Leaf, Vec<Vec<u8>>, CertificateChain) = {
                let Pki { root, upper, lower, leaf } = pki();
                let other = Authority::root("Other");
                let second = lower.leaf("second.example.test");
                let mut pool = vec![leaf.der.clone(), lower.der.clone(), upper.der.clone(), root.der.clone()];
                pool.push(other.der.clone());
                pool.push(other.sign(&ca_params("Upper"), &upper.key));
                pool.push(other.sign(&ca_params("Root"), &root.key));
                pool.push(root.sign(&ca_params("Other"), &other.key));
                pool.push(root.sign(&ca_params("Lower"), &lower.key));
                pool.push(Authority::root("Stranger").der);
                pool.push(second.der);
                pool.push(Authority::root("Lower").der);
                let chain = leaf.read(&pool).unwrap();
                (leaf, pool, chain)
            };
        }
        POOL.with(|(leaf, pool, expected)| {
            let once = leaf.read(order.iter().map(|&index| &pool[index])).unwrap();
            prop_assert_eq!(ders(&once), ders(expected));
            prop_assert_eq!(once.fingerprint(), expected.fingerprint());
            prop_assert_eq!(once.ignored(), expected.ignored());
            prop_assert_eq!(once.incomplete(), expected.incomplete());
            let repeated = leaf.read(order.iter().chain(&again).map(|&index| &pool[index])).unwrap();
            prop_assert_eq!(repeated.fingerprint(), expected.fingerprint());
            Ok(())
        })?;
    }
}
