//! What is in the place of a vault or of Entra ID and is neither: nothing leaves for it that should not, and it is told.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use keyvault_sync_core::reason::Reason;
use keyvault_sync_vault::{Landed, Transport, TransportSettings, VaultClient};

use crate::liar::{Heard, Liar, answer, challenge, token};
use crate::world::{AUTHORITY, CLIENT, TENANT, TokenFile, VAULT, host, identity, import, name};

const AUDIENCE: &str = "https://vault.azure.net";
/// A certificate of another name than any that is asked for.
const FOREIGN: &str = r#"{"id":"https://contoso.vault.azure.net/certificates/other/0123456789abcdef0123456789abcdef","x5t":"AAAAAAAAAAAAAAAAAAAAAAAAAAA","attributes":{"enabled":true}}"#;
const SHORT_THUMBPRINT: &str = r#"{"id":"https://contoso.vault.azure.net/certificates/web/0123456789abcdef0123456789abcdef","x5t":"AAAA","attributes":{"enabled":true}}"#;
const NO_VERSION: &str = r#"{"id":"https://contoso.vault.azure.net/certificates/web","x5t":"AAAAAAAAAAAAAAAAAAAAAAAAAAA","attributes":{"enabled":true}}"#;

struct Stage {
    liar: Liar,
    client: VaultClient,
    _token_file: TokenFile,
}

async fn stage(trusted: bool, script: impl Fn(&Heard) -> Option<String> + Send + Sync + 'static) -> Stage {
    let liar = Liar::start(Arc::new(script)).await;
    let token_file = TokenFile::new("a-federated-token");
    let transport = Transport::new(&TransportSettings {
        emulator_address: Some(liar.address),
        ca_bundle_pem: trusted.then(|| liar.ca_pem.clone().into()),
        ..TransportSettings::default()
    });
    let client =
        VaultClient::new(host(VAULT), &identity(TENANT, CLIENT, &token_file), &transport.unwrap()).unwrap();
    Stage { liar, client, _token_file: token_file }
}

/// Entra ID and the challenge are honest; `said` answers what is authorised.
async fn stage_after_token(said: impl Fn(&Heard) -> Option<String> + Send + Sync + 'static) -> Stage {
    stage(true, move |heard| match heard {
        Heard { host, .. } if host == AUTHORITY => token(),
        Heard { is_authorised: false, .. } => challenge(AUDIENCE),
        _ => said(heard),
    })
    .await
}

#[tokio::test]
async fn a_challenge_for_another_audience_gets_no_token() {
    for resource in
        ["https://management.azure.com", "https://azure.net", "https://net", "", "https://vault.azure.net/x"]
    {
        let stage =
            stage(true, move |heard| if heard.host == AUTHORITY { token() } else { challenge(resource) })
                .await;
        let error = import(&stage.client, "web").await.unwrap_err();
        let seen = (error.problem.reason, error.landed);
        assert_eq!(seen, (Reason::VaultUnreachable, Landed::No), "{resource}: {error}");
        let heard = stage.liar.heard();
        assert!(
            heard.iter().all(|heard| heard.host == VAULT && !heard.is_authorised),
            "{resource}: {heard:?}"
        );
        assert!(heard.iter().all(|heard| heard.body.is_empty()), "{resource}: the key waits for the token");
    }
}

#[tokio::test]
async fn a_vault_is_served_again_when_whatever_lied_in_its_place_is_gone() {
    for resource in ["https://management.azure.com", "https://azure.net"] {
        let is_honest = Arc::new(AtomicBool::new(false));
        let honest = Arc::clone(&is_honest);
        let stage = stage(true, move |heard| match heard {
            Heard { host, .. } if host == AUTHORITY => token(),
            Heard { is_authorised: true, .. } => {
                answer(404, "", r#"{"error":{"code":"CertificateNotFound"}}"#)
            }
            _ if honest.load(Ordering::SeqCst) => challenge(AUDIENCE),
            _ => challenge(resource),
        })
        .await;
        let error = stage.client.newest(&name("web")).await.unwrap_err();
        assert_eq!(error.problem.reason, Reason::VaultUnreachable, "{resource}: {error}");
        is_honest.store(true, Ordering::SeqCst);
        assert_eq!(stage.client.newest(&name("web")).await.unwrap(), None, "{resource}");
    }
}

#[tokio::test]
async fn a_challenge_that_names_another_authority_is_not_followed() {
    // Every challenge here names evil.example.test.
    let stage = stage_after_token(|_| answer(404, "", r#"{"error":{"code":"CertificateNotFound"}}"#)).await;
    assert_eq!(stage.client.newest(&name("web")).await.unwrap(), None);
    let hosts: Vec<_> = stage.liar.heard().into_iter().map(|heard| heard.host).collect();
    assert_eq!(hosts, [VAULT, AUTHORITY, VAULT]);
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    for status in [301, 302, 307, 308] {
        let stage = stage_after_token(move |_| {
            answer(status, "location: https://login.microsoftonline.com/x\r\n", "")
        })
        .await;
        let error = import(&stage.client, "web").await.unwrap_err();
        let seen = (error.problem.reason, error.landed, error.status);
        assert_eq!(seen, (Reason::VaultUnreachable, Landed::No, Some(status)), "{error}");
        let heard = stage.liar.heard();
        assert!(heard.iter().all(|heard| heard.path != "/x"), "{heard:?}");
    }
}

#[tokio::test]
async fn a_success_that_makes_no_sense_is_our_defect_and_may_have_landed() {
    for body in ["", "<html>welcome</html>", "{}", "[]", FOREIGN, SHORT_THUMBPRINT, NO_VERSION] {
        let stage = stage_after_token(move |_| answer(200, "", body)).await;
        let error = stage.client.newest(&name("web")).await.unwrap_err();
        assert_eq!(
            (error.problem.reason, error.landed),
            (Reason::InternalError, Landed::No),
            "{body}: {error}"
        );
        let error = import(&stage.client, "web").await.unwrap_err();
        assert_eq!(
            (error.problem.reason, error.landed),
            (Reason::InternalError, Landed::Unknown),
            "{body}: {error}"
        );
        assert!(body.is_empty() || !error.to_string().contains(body), "{error}");
    }
}

#[tokio::test]
async fn a_connection_closed_instead_of_an_answer_is_one_attempt_that_may_have_landed() {
    let stage = stage_after_token(|_| None).await;
    let error = import(&stage.client, "web").await.unwrap_err();
    assert_eq!((error.problem.reason, error.landed), (Reason::Unavailable, Landed::Unknown), "{error}");
    let writes = stage.liar.heard().into_iter().filter(|heard| heard.is_authorised && heard.method == "POST");
    assert_eq!(writes.count(), 1);
}

#[tokio::test]
async fn an_unknown_certificate_authority_is_told_with_the_way_out() {
    let stage = stage(false, |_| challenge(AUDIENCE)).await;
    let error = stage.client.newest(&name("web")).await.unwrap_err();
    assert_eq!(error.problem.reason, Reason::VaultUnreachable, "{error}");
    for part in ["TLS", "UnknownIssuer", "CA bundle"] {
        assert!(error.to_string().contains(part), "{part} in {error}");
    }
    assert_eq!(stage.liar.heard().len(), 0);
}

#[tokio::test]
async fn an_issuer_that_gives_no_token_is_told_and_harms_nothing() {
    for body in [
        "<html>sign in</html>",
        "{}",
        r#"{"access_token":"","expires_in":3600}"#,
        r#"{"access_token":"a","expires_in":9223372036854775807}"#,
        r#"{"access_token":"a\nb","expires_in":3600}"#,
    ] {
        let stage =
            stage(
                true,
                move |heard| {
                    if heard.host == AUTHORITY { answer(200, "", body) } else { challenge(AUDIENCE) }
                },
            )
            .await;
        let error = import(&stage.client, "web").await.unwrap_err();
        assert_eq!(
            (error.problem.reason, error.landed),
            (Reason::AuthenticationFailed, Landed::No),
            "{body}: {error}"
        );
        assert!(stage.liar.heard().iter().all(|heard| !heard.is_authorised), "{body}");
    }
}

#[tokio::test]
async fn a_vault_that_refuses_every_token_causes_no_storm_of_exchanges() {
    let stage = stage_after_token(|_| challenge(AUDIENCE)).await;
    for _ in 0..5 {
        let error = stage.client.newest(&name("web")).await.unwrap_err();
        assert_eq!(
            (error.problem.reason, error.status),
            (Reason::AuthenticationFailed, Some(401)),
            "{error}"
        );
    }
    let exchanges = stage.liar.heard().into_iter().filter(|heard| heard.host == AUTHORITY);
    assert_eq!(exchanges.count(), 1);
}

/// What the emulator would fill in is not seen in what it stores: the request itself is looked at.
#[tokio::test]
async fn an_import_leaves_nothing_for_the_vault_to_fill_in() {
    let stage = stage_after_token(|_| answer(429, "", "")).await;
    import(&stage.client, "web").await.unwrap_err();
    let heard = stage.liar.heard();
    let write = heard.iter().find(|heard| heard.is_authorised).unwrap();
    assert!(write.path.starts_with("/certificates/web/import?api-version=2025-07-01"), "{}", write.path);
    let mut body: serde_json::Value = serde_json::from_str(&write.body).unwrap();
    let sent = body.as_object_mut().unwrap();
    assert!(sent.remove("value").is_some_and(|value| value.as_str().is_some_and(|text| text.len() > 500)));
    assert!(
        sent.remove("pwd").is_some_and(|password| password.as_str().is_some_and(|text| text.len() == 32))
    );
    let expected = serde_json::json!({
        "attributes": {"enabled": true},
        "preserveCertOrder": true,
        "tags": {"team": "web"},
        "policy": {
            "issuer": {"name": "Unknown"},
            "key_props": {"crv": "P-256", "exportable": true, "kty": "EC", "reuse_key": false},
            "lifetime_actions": [],
            "secret_props": {"contentType": "application/x-pkcs12"},
        },
    });
    assert_eq!(body, expected);
}
