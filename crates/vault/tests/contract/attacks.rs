//! Attacks on the way to Azure, by whatever stands in the place of a vault, of Entra ID or of the node's identity endpoint:
//! each fails without harm, and would not if its defence were taken away. More of them are in `lies`.

use std::sync::Arc;
use std::time::Duration;

use keyvault_sync_core::reason::Reason;
use keyvault_sync_vault::{Identity, Landed, Transport, TransportSettings, VaultClient, VaultError};

use crate::gate::Gate;
use crate::identities::{edition, of_secret};
use crate::liar::{Heard, Liar, Saying, TOKEN, answer, challenge, unmeasured_answer};
use crate::proofs::Wallet;
use crate::world::{AUTHORITY, CLIENT, VAULT, host, name};

const AUDIENCE: &str = "https://vault.azure.net";
const SECRET: &str = "a-client-secret~of.Azure_s";
const CERTIFICATE: &str = r#"{"id":"https://contoso.vault.azure.net/certificates/web/0123456789abcdef0123456789abcdef","x5t":"AAAAAAAAAAAAAAAAAAAAAAAAAAA","attributes":{"enabled":true}}"#;
const HUGE: usize = 50 * 1024 * 1024;

/// Who lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Vault,
    Authority,
    Node,
}

const EVERY_PLACE: [Place; 3] = [Place::Vault, Place::Authority, Place::Node];

impl Place {
    /// What is said there honestly, to one who may have it.
    fn honest(self) -> &'static str {
        match self {
            Place::Vault => CERTIFICATE,
            Place::Authority | Place::Node => TOKEN,
        }
    }

    /// What an answer that is none leads to.
    fn reason(self) -> Reason {
        match self {
            Place::Vault => Reason::VaultUnreachable,
            Place::Authority | Place::Node => Reason::AuthenticationFailed,
        }
    }
}

struct Stage {
    azure: Liar,
    node: Liar,
    client: VaultClient,
}

/// Everybody is honest but the one of `place`, who says `lie`.
async fn stage(place: Place, lie: impl Fn(&Heard) -> Option<Saying> + Send + Sync + 'static) -> Stage {
    let lie = Arc::new(lie);
    let said = Arc::clone(&lie);
    let azure = Liar::start(Arc::new(move |heard| match heard {
        Heard { path, .. } if path.starts_with("/followed") => answer(200, "", TOKEN),
        Heard { host, .. } if host == AUTHORITY && place == Place::Authority => said(heard),
        Heard { host, .. } if host == AUTHORITY => answer(200, "", TOKEN),
        Heard { is_authorised: false, .. } => challenge(AUDIENCE),
        _ if place == Place::Vault => said(heard),
        _ => answer(200, "", CERTIFICATE),
    }))
    .await;
    let node = Liar::start_plain(Arc::new(move |heard| match heard {
        Heard { path, .. } if path.starts_with("/followed") => answer(200, "", TOKEN),
        _ => lie(heard),
    }))
    .await;
    let wallet = Wallet::default();
    let secret = edition("credentials", 1, Some("password"));
    wallet.put_secret(&secret, SECRET);
    let settings = TransportSettings {
        emulator_address: Some(azure.address),
        ca_bundle_pem: Some(azure.ca_pem.clone().into()),
        imds_endpoint: Some(format!("http://{}", node.address)),
        ..TransportSettings::default()
    };
    let transport = Transport::new(&settings, Arc::new(wallet), Arc::new(Gate::default())).unwrap();
    let identity = match place {
        Place::Node => Identity::ManagedIdentity { client_id: None },
        Place::Vault | Place::Authority => of_secret(CLIENT, &secret),
    };
    let client = VaultClient::new(host(VAULT), &identity, &transport).unwrap();
    Stage { azure, node, client }
}

impl Stage {
    async fn fail(&self) -> VaultError {
        self.client.newest(&name("web")).await.unwrap_err()
    }

    fn heard(&self) -> Vec<Heard> {
        [self.azure.heard(), self.node.heard()].concat()
    }
}

/// Without a lie every one of these stages ends well: what fails below fails for the lie.
#[tokio::test]
async fn who_is_honest_is_believed() {
    for place in EVERY_PLACE {
        let stage = stage(place, move |_| answer(200, "", place.honest())).await;
        assert!(stage.client.newest(&name("web")).await.unwrap().is_some(), "{place:?}");
        let stage = self::stage(place, move |_| unmeasured_answer(place.honest())).await;
        assert!(stage.client.newest(&name("web")).await.unwrap().is_some(), "{place:?}");
    }
}

#[tokio::test]
async fn a_redirect_takes_neither_token_nor_secret_anywhere() {
    for place in EVERY_PLACE {
        for status in [301, 302, 303, 307, 308] {
            for to in [
                "https://contoso.vault.azure.net/followed",
                "https://login.microsoftonline.com/followed",
                "/followed",
            ] {
                let location = format!("location: {to}\r\n");
                let stage = stage(place, move |_| answer(status, &location, "")).await;
                let error = stage.fail().await;
                let seen = (error.problem.reason, error.landed, error.status);
                assert_eq!(seen, (place.reason(), Landed::No, Some(status)), "{place:?} {to}: {error}");
                let heard = stage.heard();
                assert!(heard.iter().all(|heard| heard.path != "/followed"), "{place:?} {status}: {heard:?}");
            }
        }
    }
}

#[tokio::test]
async fn fifty_megabytes_are_not_read() {
    for place in EVERY_PLACE {
        let huge = Arc::new(format!("{}{}", " ".repeat(HUGE), place.honest()));
        for is_measured in [true, false] {
            let huge = Arc::clone(&huge);
            let lie = move |_: &Heard| {
                if is_measured { answer(200, "", huge.as_bytes()) } else { unmeasured_answer(&huge) }
            };
            let stage = stage(place, lie).await;
            let error = stage.fail().await;
            let seen = (error.problem.reason, error.landed);
            assert_eq!(seen, (place.reason(), Landed::No), "{place:?} {is_measured}: {error}");
            assert!(error.to_string().contains("larger than 1048576 bytes"), "{place:?}: {error}");
            // What is in the buffers of the connection is sent all the same.
            let said = stage.azure.said_bytes() + stage.node.said_bytes();
            assert!(said < HUGE / 2, "{place:?} {is_measured}: {said} bytes were taken");
        }
    }
}

#[tokio::test]
async fn an_answer_that_drips_is_not_waited_for() {
    // A byte each 50 ms: the whole answer would take over four minutes.
    let drip = |place: Place| {
        let body = format!("{}{}", " ".repeat(5_000), place.honest());
        stage(place, move |_| answer(200, "", &body).map(Saying::dripping))
    };
    let stages = futures::future::join_all(EVERY_PLACE.map(drip)).await;
    let failures = futures::future::join_all(stages.iter().map(Stage::fail));
    let failures = tokio::time::timeout(Duration::from_secs(120), failures).await.unwrap();
    for (place, error) in EVERY_PLACE.iter().zip(failures) {
        let seen = (error.problem.reason, error.landed);
        assert_eq!(seen, (Reason::Unavailable, Landed::No), "{place:?}: {error}");
        // Each has a limit of its own: who keeps a call waiting is told by name.
        let says = match place {
            Place::Vault => "no complete answer came in time",
            Place::Authority => "login.microsoftonline.com did not answer in time",
            Place::Node => "the node's identity endpoint",
        };
        let vaults_own = error.to_string().contains("the vault did not answer");
        assert!(
            error.to_string().contains(says) || vaults_own && *place == Place::Vault,
            "{place:?}: {error}"
        );
    }
}

#[tokio::test]
async fn a_packed_answer_is_not_unpacked() {
    let bomb = gzip_of_spaces(HUGE);
    assert!(bomb.len() < 1024 * 1024 / 2, "{} bytes: the size of what arrives must be no reason", bomb.len());
    for place in EVERY_PLACE {
        let bomb = bomb.clone();
        let stage = stage(place, move |_| answer(200, "content-encoding: gzip\r\n", &bomb)).await;
        let error = stage.fail().await;
        let reason = if place == Place::Vault { Reason::InternalError } else { Reason::AuthenticationFailed };
        assert_eq!((error.problem.reason, error.landed), (reason, Landed::No), "{place:?}: {error}");
        assert!(!error.to_string().contains("larger than"), "{place:?}: it was unpacked: {error}");
        let heard = stage.heard();
        assert!(heard.iter().all(|heard| heard.unpacks.is_none()), "{place:?}: {heard:?}");
    }
}

/// A gzip file (RFC 1952) of so many spaces: one, and then a repetition of it over and over, 13 bits for 258 bytes. Its
/// checksum is wrong; who comes to know that has unpacked it.
fn gzip_of_spaces(count: usize) -> Vec<u8> {
    let mut bits = Bits::default();
    // The last block, fixed codes (RFC 1951, 3.2.6): a space; then length 258 at distance 1.
    bits.push(0b1, 1);
    bits.push(0b01, 2);
    bits.push_code(0x30 + 0x20, 8);
    for _ in 0..count / 258 {
        bits.push_code(0b1100_0101, 8);
        bits.push_code(0, 5);
    }
    bits.push_code(0, 7);
    let head = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
    [&head[..], &bits.bytes, &[0; 8]].concat()
}

/// Bits, the lowest of a byte first.
#[derive(Default)]
struct Bits {
    bytes: Vec<u8>,
    used: usize,
}

impl Bits {
    fn push(&mut self, value: u16, count: u32) {
        for place in 0..count {
            if self.used.is_multiple_of(8) {
                self.bytes.push(0);
            }
            let bit = u8::try_from(value >> place & 1).unwrap();
            *self.bytes.last_mut().unwrap() |= bit << (self.used % 8);
            self.used += 1;
        }
    }

    /// A Huffman code, whose highest bit comes first.
    fn push_code(&mut self, code: u16, count: u32) {
        for place in (0..count).rev() {
            self.push(code >> place & 1, 1);
        }
    }
}

#[tokio::test]
async fn rubbish_instead_of_a_token_is_told_and_shown_to_nobody() {
    for place in [Place::Authority, Place::Node] {
        for body in [
            "",
            "<html>sign in</html>",
            "{}",
            "[]",
            "null",
            "\u{0}",
            r#"{"access_token":""}"#,
            r#"{"access_token":"a"}"#,
            r#"{"access_token":7,"expires_in":3600}"#,
            r#"{"access_token":"","expires_in":3600}"#,
            r#"{"access_token":"a\nb: c","expires_in":3600}"#,
            r#"{"access_token":"a","expires_in":-1}"#,
            r#"{"access_token":"a","expires_in":9223372036854775807}"#,
            r#"{"access_token":"a","expires_in":1e300}"#,
        ] {
            let stage = stage(place, move |_| answer(200, "", body)).await;
            let error = stage.fail().await;
            let seen = (error.problem.reason, error.landed);
            assert_eq!(seen, (Reason::AuthenticationFailed, Landed::No), "{place:?} {body}: {error}");
            assert!(error.to_string().contains("is no token"), "{place:?} {body}: {error}");
            let heard = stage.heard();
            assert!(heard.iter().all(|heard| !heard.is_authorised), "{place:?} {body}: {heard:?}");
        }
    }
}

#[tokio::test]
async fn reaching_a_vault_believes_no_answer_but_its_challenge() {
    for (lie, reason, says) in [
        (challenge("https://management.azure.com"), Reason::VaultUnreachable, "does not ask for a token"),
        (challenge("https://azure.net"), Reason::VaultUnreachable, "does not ask for a token"),
        (answer(401, "", ""), Reason::VaultUnreachable, "does not ask for a token"),
        (answer(200, "", CERTIFICATE), Reason::VaultUnreachable, "does not ask for a token"),
        (
            answer(307, "location: https://contoso.vault.azure.net/followed\r\n", ""),
            Reason::VaultUnreachable,
            "redirects are never followed",
        ),
        (answer(404, "", ""), Reason::VaultUnreachable, "not an answer of Key Vault"),
        (answer(503, "", ""), Reason::Unavailable, "tried again"),
        (answer(200, "", " ".repeat(2 * 1024 * 1024)), Reason::VaultUnreachable, "larger than"),
        (None, Reason::Unavailable, "tried again"),
    ] {
        let azure = Liar::start(Arc::new(move |_: &Heard| lie.clone())).await;
        let settings = TransportSettings {
            emulator_address: Some(azure.address),
            ca_bundle_pem: Some(azure.ca_pem.clone().into()),
            ..TransportSettings::default()
        };
        let transport =
            Transport::new(&settings, Arc::new(Wallet::default()), Arc::new(Gate::default())).unwrap();
        let identity = Identity::ManagedIdentity { client_id: None };
        let client = VaultClient::new(host(VAULT), &identity, &transport).unwrap();
        let error = client.reach().await.unwrap_err();
        assert_eq!((error.problem.reason, error.landed), (reason, Landed::No), "{error}");
        assert!(error.to_string().contains(says), "{says:?} in {error}");
        let heard = azure.heard();
        assert!(heard.len() == 1 && !heard[0].is_authorised, "{heard:?}");
    }
}
