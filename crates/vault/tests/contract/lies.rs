//! What is in the place of a vault or of Entra ID and is neither: nothing leaves for it that should not, and it is told.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use keyvault_sync_core::facts::ListedFacts;
use keyvault_sync_core::reason::Reason;
use keyvault_sync_vault::{Landed, Listing, Transport, TransportSettings, VaultClient};

use crate::gate::Gate;
use crate::liar::{Heard, Liar, Saying, answer, challenge, token};
use crate::proofs::Wallet;
use crate::world::{AUTHORITY, CLIENT, TENANT, TokenFile, VAULT, host, identity, import, name, tags};

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

async fn stage(trusted: bool, script: impl Fn(&Heard) -> Option<Saying> + Send + Sync + 'static) -> Stage {
    let liar = Liar::start(Arc::new(script)).await;
    let token_file = TokenFile::new("a-federated-token");
    let settings = TransportSettings {
        emulator_address: Some(liar.address),
        ca_bundle_pem: trusted.then(|| liar.ca_pem.clone().into()),
        ..TransportSettings::default()
    };
    let transport = Transport::new(&settings, Arc::new(Wallet::default()), Arc::new(Gate::default()));
    let client =
        VaultClient::new(host(VAULT), &identity(TENANT, CLIENT, &token_file), &transport.unwrap()).unwrap();
    Stage { liar, client, _token_file: token_file }
}

/// Entra ID and the challenge are honest; `said` answers what is authorised.
async fn stage_after_token(said: impl Fn(&Heard) -> Option<Saying> + Send + Sync + 'static) -> Stage {
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

#[tokio::test]
async fn adoption_sends_tags_issuer_and_no_actions_and_nothing_else() {
    let stage = stage_after_token(|_| answer(429, "", "")).await;
    let version = "0123456789abcdef0123456789abcdef";
    stage.client.adopt(&name("web"), version, &tags(&[("owner", "us")])).await.unwrap_err();
    let heard = stage.liar.heard();
    let write = heard.iter().find(|heard| heard.is_authorised).unwrap();
    let path = format!("/certificates/web/{version}?api-version=2025-07-01");
    assert_eq!((write.method.as_str(), write.path.as_str()), ("PATCH", path.as_str()));
    let body: serde_json::Value = serde_json::from_str(&write.body).unwrap();
    let expected = serde_json::json!({
        "tags": {"owner": "us"},
        "policy": {"issuer": {"name": "Unknown"}, "lifetime_actions": []},
    });
    assert_eq!(body, expected);
}

#[tokio::test]
async fn an_accepted_deletion_or_recovery_is_one_whatever_the_answer_says() {
    for body in ["", "<html>welcome</html>", "{}", "[]", FOREIGN, "\u{0}"] {
        let stage = stage_after_token(move |_| answer(200, "", body)).await;
        stage.client.delete(&name("web")).await.unwrap();
        stage.client.recover(&name("web")).await.unwrap();
    }
    // Another success than the one there is: not understood, and not taken for a refusal.
    for status in [201, 202, 204] {
        let stage = stage_after_token(move |_| answer(status, "", "")).await;
        for outcome in [stage.client.delete(&name("web")).await, stage.client.recover(&name("web")).await] {
            let error = outcome.unwrap_err();
            assert_eq!((error.status, error.landed), (Some(status), Landed::Unknown), "{error}");
        }
    }
}

#[tokio::test]
async fn a_soft_deleted_certificate_that_makes_no_sense_is_our_defect() {
    for body in ["", "<html>welcome</html>", "{}", "[]", FOREIGN, SHORT_THUMBPRINT, NO_VERSION] {
        let stage = stage_after_token(move |_| answer(200, "", body)).await;
        let error = stage.client.deleted(&name("web")).await.unwrap_err();
        let seen = (error.problem.reason, error.landed);
        assert_eq!(seen, (Reason::InternalError, Landed::No), "{body}: {error}");
    }
}

#[tokio::test]
async fn only_a_recovery_level_that_says_so_is_purge_protection() {
    for (level, is_purge_protected) in [
        (r#""Purgeable""#, false),
        (r#""Recoverable+Purgeable""#, false),
        (r#""CustomizedRecoverable+Purgeable""#, false),
        (r#""Recoverable""#, true),
        (r#""Recoverable+ProtectedSubscription""#, true),
        (r#""CustomizedRecoverable""#, true),
        (r#""CustomizedRecoverable+ProtectedSubscription""#, true),
        ("null", false),
    ] {
        let body = format!(
            r#"{{"id":"https://contoso.vault.azure.net/certificates/web/0123456789abcdef0123456789abcdef",
            "x5t":"AAAAAAAAAAAAAAAAAAAAAAAAAAA","attributes":{{"enabled":true,"recoveryLevel":{level}}}}}"#
        );
        let stage = stage_after_token(move |_| answer(200, "", &body)).await;
        let deleted = stage.client.deleted(&name("web")).await.unwrap().unwrap();
        assert_eq!(
            (deleted.is_purge_protected, deleted.scheduled_purge),
            (is_purge_protected, None),
            "{level}"
        );
    }
}

#[tokio::test]
async fn a_list_that_goes_on_at_another_host_gets_no_token_and_no_request_there() {
    for link in [
        "https://login.microsoftonline.com/x",
        "//login.microsoftonline.com/x",
        "https://fabrikam.vault.azure.net/x",
        "https://contoso.vault.azure.net.evil.example.test/x",
        "https://contoso.vault.azure.net@login.microsoftonline.com/x",
        "https://user@contoso.vault.azure.net/x",
        "https://contoso.vault.azure.net:8443/x",
        "http://contoso.vault.azure.net/x",
        "file:///x",
    ] {
        let body = format!(r#"{{"value":[],"nextLink":"{link}"}}"#);
        let stage = stage_after_token(move |_| answer(200, "", &body)).await;
        let error = stage.client.list(9).await.unwrap_err();
        let seen = (error.problem.reason, error.landed);
        assert_eq!(seen, (Reason::VaultUnreachable, Landed::No), "{link}: {error}");
        assert!(error.to_string().starts_with("listing the certificates of vault contoso."), "{error}");
        let heard = stage.liar.heard();
        assert!(heard.iter().all(|heard| !heard.path.starts_with("/x")), "{link}: {heard:?}");
        assert!(heard.iter().all(|heard| heard.host == VAULT || !heard.is_authorised), "{link}: {heard:?}");
        assert_eq!(heard.iter().filter(|heard| heard.is_authorised).count(), 1, "{link}: {heard:?}");
    }
}

#[tokio::test]
async fn a_list_without_end_ends() {
    for link in ["https://contoso.vault.azure.net/certificates?$skiptoken=a", "/certificates", "?", "#"] {
        let body = format!(r#"{{"value":[],"nextLink":"{link}"}}"#);
        let stage = stage_after_token(move |_| answer(200, "", &body)).await;
        for pages_max in [0, 1, 7] {
            let before = stage.liar.heard().len();
            assert_eq!(stage.client.list(pages_max).await.unwrap(), Listing::TooLong, "{link}");
            let heard = stage.liar.heard().split_off(before);
            let asked = heard.iter().filter(|heard| heard.is_authorised).count();
            assert_eq!(asked, pages_max, "{link}: {heard:?}");
        }
    }
}

#[tokio::test]
async fn rows_that_say_nothing_are_left_out_and_odd_ones_are_told_as_they_are() {
    const ROWS: &str = r#"{"value":[
        {},
        {"id":null,"tags":null,"attributes":null,"x5t":null},
        {"id":""},
        {"id":"web"},
        {"id":"https://contoso.vault.azure.net"},
        {"id":"https://contoso.vault.azure.net/certificates/"},
        {"id":"https://contoso.vault.azure.net/secrets/web"},
        {"id":"https://fabrikam.vault.azure.net/certificates/web"},
        {"id":"http://contoso.vault.azure.net/certificates/web"},
        {"id":"https://contoso.vault.azure.net/certificates/no_name_of-ours!"},
        {"id":"https://contoso.vault.azure.net/certificates/short","x5t":"AAAA","attributes":{"enabled":true}},
        {"id":"https://contoso.vault.azure.net/certificates/web/0123","x5t":"AAAAAAAAAAAAAAAAAAAAAAAAAAA",
         "attributes":{"enabled":true},"tags":{"a":"b"},"somethingNew":[{}]}
    ],"nextLink":""}"#;
    let stage = stage_after_token(|_| answer(200, "", ROWS)).await;
    let row =
        |name: &str, thumbprint, enabled, tags| ListedFacts { name: name.into(), thumbprint, enabled, tags };
    let certificates = vec![
        row("no_name_of-ours!", None, false, tags(&[])),
        row("short", None, true, tags(&[])),
        row("web", Some([0; 20]), true, tags(&[("a", "b")])),
    ];
    assert_eq!(stage.client.list(1).await.unwrap(), Listing::Whole { certificates, pages: 1 });
}

#[tokio::test]
async fn a_page_that_is_none_is_our_defect_and_no_empty_vault() {
    for body in [
        "",
        "<html>welcome</html>",
        "{}",
        "[]",
        r#"{"value":null}"#,
        r#"{"value":{}}"#,
        r#"{"value":[null]}"#,
        r#"{"value":[{"id":7}]}"#,
        r#"{"value":[{"x5t":"!"}]}"#,
        r#"{"value":[{"tags":{"a":{}}}]}"#,
        r#"{"value":[],"nextLink":7}"#,
        r#"{"value":[],"nextLink":"https://[/"}"#,
    ] {
        let stage = stage_after_token(move |_| answer(200, "", body)).await;
        let error = stage.client.list(9).await.unwrap_err();
        let seen = (error.problem.reason, error.landed, error.status);
        assert_eq!(seen, (Reason::InternalError, Landed::No, Some(200)), "{body}: {error}");
        assert!(error.to_string().starts_with("listing the certificates of vault contoso."), "{error}");
    }
}

#[tokio::test]
async fn a_huge_answer_is_not_read() {
    let stage = stage_after_token(|_| answer(200, "", " ".repeat(2 * 1024 * 1024))).await;
    let web = name("web");
    for (error, landed) in [
        (stage.client.list(9).await.unwrap_err(), Landed::No),
        (stage.client.deleted(&web).await.unwrap_err(), Landed::No),
        (stage.client.delete(&web).await.unwrap_err(), Landed::Unknown),
        (stage.client.recover(&web).await.unwrap_err(), Landed::Unknown),
    ] {
        assert_eq!((error.problem.reason, error.landed), (Reason::VaultUnreachable, landed), "{error}");
        assert!(error.to_string().contains("larger than"), "{error}");
    }
}
