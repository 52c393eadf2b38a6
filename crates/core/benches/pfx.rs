//! What one push costs before it is sent: entries of a Secret, RSA-2048 with two CA certificates, to the bundle.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    missing_docs,
    reason = "a benchmark that cannot be set up fails"
)]

#[path = "../tests/support/mod.rs"]
mod support;

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use keyvault_sync_core::chain::CertificateChain;
use keyvault_sync_core::pfx::{self, PfxEncryption, PfxRandomness};
use rcgen::{KeyPair, PKCS_RSA_SHA256, RsaKeySize};
use support::{Authority, NOW, bundle, ca_params, entries, params, pem};

fn rsa_key() -> KeyPair {
    KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap()
}

fn pem_to_pfx(c: &mut Criterion) {
    let root = Authority::root_of(ca_params("Root"), rsa_key());
    let upper = root.intermediate_of(ca_params("Upper"), rsa_key());
    let lower = upper.intermediate_of(ca_params("Lower"), rsa_key());
    let key = rsa_key();
    let leaf = lower.sign(&params("www.example.test"), &key);
    let certificate = bundle([&leaf, &lower.der, &upper.der]);
    let private_key = pem("PRIVATE KEY", &key.serialize_der());
    let read =
        || CertificateChain::from_entries(&entries(certificate.as_bytes(), private_key.as_bytes()), NOW);
    let fill = |bytes: &mut [u8]| {
        bytes.fill(0x5a);
        Ok::<_, ()>(())
    };
    let randomness = || PfxRandomness::fill_with(fill).unwrap();
    assert_eq!(read().unwrap().certificates().count(), 3);

    c.bench_function("PEM to chain, RSA-2048, two CA certificates", |b| {
        b.iter(|| black_box(read().unwrap()))
    });
    for encryption in PfxEncryption::ALL {
        c.bench_function(&format!("PEM to PFX, RSA-2048, two CA certificates, {encryption}"), |b| {
            b.iter(|| black_box(pfx::encode(&read().unwrap(), encryption, randomness()).unwrap()))
        });
    }
}

criterion_group!(benches, pem_to_pfx);
criterion_main!(benches);
