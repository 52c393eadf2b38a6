//! What users and vaults get wrong: told exactly, once, where one looks for it; nothing else held up, nothing called in vain.

use std::collections::BTreeMap;

use anyhow::{Context, ensure};
use keyvault_emulator::{Effect, Fault, Operation, State};
use keyvault_sync_api::CertificateState::{self, Failed, Pending, Synced};
use keyvault_sync_e2e::Scene;
use keyvault_sync_e2e::certificates::{KeyType, Leaf};
use keyvault_sync_e2e::scene::{claim_ready, entries, host, imports, note, ready, row};
use keyvault_sync_e2e::stage::CLIENT;
use keyvault_sync_e2e::wait::{self, Seen};
use serde_json::json;

keyvault_sync_e2e::promises!(Together:
    what_is_wrong_with_a_secret_is_told_and_holds_up_nothing_else,
    what_stands_in_the_way_in_the_vault_is_told_and_holds_up_nothing_else,
    a_name_or_vault_that_cannot_be_is_told_without_a_claim_or_a_call,
    a_vault_without_our_role_is_told_and_is_used_at_once_when_asked_after_the_repair,
    an_identity_that_entra_does_not_know_is_told_with_its_number,
    a_throttled_vault_is_left_alone_for_as_long_as_it_says,
    a_vault_that_throttles_without_saying_for_how_long_is_asked_less_and_less,
    a_vault_with_failures_is_asked_again_until_it_answers,
    a_hanging_vault_holds_up_no_other_and_gets_one_version,
    an_answer_lost_after_the_commit_is_followed_by_a_look_and_no_second_version,
    a_reset_connection_is_followed_by_a_look_and_one_version,
);

/// What a certificate of a resource is to say.
struct Told {
    secret: &'static str,
    state: CertificateState,
    reason: &'static str,
    words: Vec<String>,
    /// Warnings about it, no more and no fewer.
    warnings: usize,
    /// Calls of the vault about it each time it is looked at, at most.
    calls: usize,
}

fn told(secret: &'static str, state: CertificateState, reason: &'static str, words: &[&str]) -> Told {
    let words = words.iter().map(|word| (*word).to_owned()).collect();
    Told { secret, state, reason, words, warnings: 1, calls: 0 }
}

impl Told {
    fn calls(self, calls: usize) -> Told {
        Told { calls, ..self }
    }

    fn warnings(self, warnings: usize) -> Told {
        Told { warnings, ..self }
    }
}

/// Checks every row, its claim, its Events and its calls, and that they stay so while a healthy certificate of the same
/// resource is renewed several times, and when all are looked at once more.
async fn check(scene: &Scene, sync: &str, healthy: &str, all: &[Told]) -> anyhow::Result<()> {
    for told in all {
        scene.row(sync, told.secret, told.reason).await?;
    }
    for _ in 0..3 {
        let renewed = scene.renew(healthy).await?;
        scene.holds(sync, healthy, &renewed).await?;
    }
    check_all(scene, sync, all, 1).await?;
    scene.sync_now(sync, "once more").await?;
    looked_at_once_more(scene).await?;
    check_all(scene, sync, all, 2).await
}

async fn check_all(scene: &Scene, sync: &str, all: &[Told], looks: usize) -> anyhow::Result<()> {
    let mut broken = Vec::new();
    for told in all {
        if let Err(error) = check_one(scene, sync, told, looks).await {
            broken.push(format!("{}: {error:#}", told.secret));
        }
    }
    ensure!(broken.is_empty(), "{}", broken.join("\n"));
    Ok(())
}

/// Waits until every claim of ours has an outcome for the wish that asks to compare.
async fn looked_at_once_more(scene: &Scene) -> anyhow::Result<()> {
    wait::until("every claim to be looked at once more", || async {
        let claims = scene.claims().list(&Default::default()).await?;
        let waiting: Vec<_> = claims
            .iter()
            .filter(|claim| claim.spec.owner.namespace.as_deref() == Some(scene.name()))
            .filter(|claim| {
                let seen = claim.status.as_ref().and_then(|status| status.observed_generation);
                claim.spec.sync_at.is_none() || seen != claim.metadata.generation
            })
            .map(|claim| &claim.spec.certificate_name)
            .collect();
        Ok(if waiting.is_empty() { Seen::Done(()) } else { Seen::NotYet(format!("not yet: {waiting:?}")) })
    })
    .await
}

async fn check_one(scene: &Scene, sync: &str, told: &Told, looks: usize) -> anyhow::Result<()> {
    let found = scene.syncs().get(sync).await?;
    let row = row(&found, told.secret).context("no row")?;
    ensure!((row.state, row.reason.as_str()) == (told.state, told.reason), "{row:?}");
    let message = row.message.clone().unwrap_or_default();
    for word in &told.words {
        ensure!(message.contains(word.as_str()), "{word:?} is not in {message:?}");
    }
    let certificate = row.certificate_name.clone().context("no certificate name")?;
    let claim = scene.claim(&certificate).await?;
    let said = claim_ready(&claim).context("the claim says nothing")?;
    ensure!(said.reason == told.reason && said.message == message, "{said:?}");
    ensure!((said.status == "True") == (told.state == Synced), "{said:?}");

    let warnings = scene.events(sync, told.reason, &certificate).await?;
    ensure!(
        warnings.len() == told.warnings,
        "{} Events: {:?}",
        warnings.len(),
        warnings.iter().map(note).collect::<Vec<_>>()
    );
    for warning in &warnings {
        ensure!(
            warning.type_.as_deref() == Some("Warning") && note(warning).ends_with(message.as_str()),
            "{warning:?}"
        );
    }
    let calls = scene.calls_about(&certificate);
    ensure!(
        calls.len() <= told.calls * looks,
        "{} calls, not {}: {calls:?}",
        calls.len(),
        told.calls * looks
    );
    Ok(())
}

async fn what_is_wrong_with_a_secret_is_told_and_holds_up_nothing_else(scene: Scene) -> anyhow::Result<()> {
    let issue = |name: &str| scene.issue(&Leaf::server(&format!("{name}.example.com")));
    let leaf = |name: &str| Leaf::server(&format!("{name}.example.com"));
    let (first, second) = (issue("first")?, issue("second")?);
    let ed25519 = scene.issue(&leaf("ed").key_type(KeyType::Ed25519))?;
    let expired = scene.issue(&leaf("expired").valid_days(-30..-1))?;
    let only = |key: &str, text: &str| BTreeMap::from([(key.to_owned(), text.to_owned())]);
    let encrypted = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMAAwDQYJKoZIhvcNAQUNBQA=\n-----END ENCRYPTED PRIVATE KEY-----\n";
    let cut: String = first
        .certificate
        .lines()
        .take(4)
        .chain(["-----END CERTIFICATE-----\n"])
        .collect::<Vec<_>>()
        .join("\n");

    for (secret, data) in [
        ("no-certificate", only("tls.key", &first.key)),
        ("no-key", only("tls.crt", &first.certificate)),
        ("empty", entries("", "", "")),
        ("mismatch", entries(&first.tls_crt(), &second.key, "")),
        ("encrypted", entries(&first.tls_crt(), encrypted, "")),
        ("gap", entries(&first.certificate, &first.key, "")),
        ("ed25519", entries(&ed25519.tls_crt(), &ed25519.key, "")),
        ("expired", entries(&expired.tls_crt(), &expired.key, "")),
        ("damaged", entries(&cut, &first.key, "")),
        ("text", entries("no PEM at all", &first.key, "")),
        ("two-keys", entries(&first.tls_crt(), &format!("{}{}", first.key, second.key), "")),
    ] {
        scene.put_entries(secret, &data).await?;
    }
    scene.renew("healthy").await?;
    let name = |secret: &str| format!("{}/{secret}", scene.name());
    let table = [
        told("missing", Pending, "SecretNotFound", &[&name("missing"), "does not exist"]),
        told(
            "no-certificate",
            Pending,
            "SecretIncomplete",
            &[&name("no-certificate"), "tls.crt is missing or empty"],
        ),
        told("no-key", Pending, "SecretIncomplete", &[&name("no-key"), "tls.key is missing or empty"]),
        told(
            "empty",
            Pending,
            "SecretIncomplete",
            &[&name("empty"), "tls.crt and tls.key are missing or empty"],
        ),
        told("mismatch", Failed, "KeyMismatch", &[&name("mismatch"), "does not belong to"]),
        told(
            "encrypted",
            Failed,
            "EncryptedPrivateKey",
            &[&name("encrypted"), "is encrypted", "openssl pkey"],
        ),
        told("gap", Synced, "IncompleteChain", &["chain is incomplete", "Example Intermediate"]).calls(3),
        told("ed25519", Failed, "UnsupportedKeyType", &[&name("ed25519"), "Ed25519"]),
        told("expired", Failed, "CertificateExpired", &[&name("expired"), "expired at", "renew it"]),
        told("damaged", Failed, "InvalidCertificate", &[&name("damaged"), "tls.crt"]),
        told("text", Failed, "InvalidCertificate", &[&name("text"), "holds no certificate"]),
        told("two-keys", Failed, "InvalidPrivateKey", &[&name("two-keys"), "2 private keys"]),
    ];
    let listed: Vec<&str> = table.iter().map(|told| told.secret).chain(["healthy"]).collect();
    scene.sync_of("web", &listed).await?;
    check(&scene, "web", "healthy", &table).await?;

    let sync = scene.syncs().get("web").await?;
    ensure!(
        sync.status.as_ref().and_then(|status| status.synced.as_deref()) == Some("2/13"),
        "{:?}",
        sync.status
    );
    let ready = ready(&sync).context("no Ready")?;
    ensure!(ready.status == "False", "{ready:?}");
    // The failing ones first; the message names three of them and says that there are more.
    ensure!(ready.message.contains("more"), "{ready:?}");

    // Each can be mended by its author alone, and is then pushed at once.
    for told in table.iter().filter(|told| told.secret != "gap") {
        // The type of a Secret cannot be changed: what was Opaque is made anew.
        scene.secrets().delete(told.secret, &Default::default()).await.ok();
        let renewed = scene.renew(told.secret).await?;
        scene.holds("web", told.secret, &renewed).await?;
        ensure!(
            scene.versions(told.secret).len() == 1,
            "{}: {:?}",
            told.secret,
            scene.versions(told.secret).len()
        );
    }
    Ok(())
}

async fn what_stands_in_the_way_in_the_vault_is_told_and_holds_up_nothing_else(
    scene: Scene,
) -> anyhow::Result<()> {
    let forbidden = |inner: &str| Fault::new(Effect::forbidden(inner));
    scene.fault("role", forbidden("ForbiddenByRbac"));
    scene.fault("policy", forbidden("ForbiddenByPolicy"));
    scene.fault("firewall", forbidden("ForbiddenByFirewall"));
    scene.fault("private", forbidden("ForbiddenByConnection"));
    scene.fault("pending", Fault::new(Effect::status(409, "Forbidden")).operation(Operation::Import));
    scene.fault("rejected", Fault::new(Effect::status(400, "BadParameter")).operation(Operation::Import));
    scene.emulator().put_plain_secret(&scene.host(), "plain");
    let another = "another-cluster/KeyVaultSync/shop/web";
    for (name, tags) in [
        ("nobodys", BTreeMap::new()),
        (
            "anothers",
            BTreeMap::from([
                ("managed-by".into(), "keyvault-sync".into()),
                ("keyvault-sync-owner".into(), another.into()),
            ]),
        ),
        ("soft-deleted", BTreeMap::new()),
        ("being-deleted", BTreeMap::new()),
        ("being-recovered", BTreeMap::new()),
    ] {
        let theirs = scene.issue(&Leaf::server("theirs.example.com"))?;
        scene.emulator().put_certificate(&scene.host(), name, &theirs.pfx("password")?, "password", tags);
    }
    for (name, state) in [
        ("soft-deleted", State::SoftDeleted),
        ("being-deleted", State::BeingDeleted),
        ("being-recovered", State::BeingRecovered),
    ] {
        scene.emulator().set_state(&scene.host(), name, state);
    }
    let vault = scene.host();
    // Once looked at, or looked at and tried; what passes by itself is tried again, ever more slowly.
    let table = [
        told(
            "role",
            Failed,
            "Forbidden",
            &[&vault, "Key Vault Certificates Officer", CLIENT, "ForbiddenByRbac"],
        )
        .calls(1),
        told("policy", Failed, "Forbidden", &[&vault, "access policy", "ForbiddenByPolicy"]).calls(1),
        told("firewall", Failed, "FirewallBlocked", &[&vault, "firewall", "ForbiddenByFirewall"]).calls(1),
        told("private", Failed, "FirewallBlocked", &[&vault, "private endpoint"]).calls(1),
        told("rejected", Failed, "VaultRejected", &[&vault, "rejected"]).calls(3),
        told("plain", Failed, "NameTakenByKeyOrSecret", &["plain key or secret", "another certificateName"])
            .calls(3),
        told("nobodys", Failed, "NotManaged", &["no owner tag", "another certificateName"]).calls(1),
        told("anothers", Failed, "OwnedByAnother", &[another, "another certificateName"]).calls(1),
        told("soft-deleted", Failed, "SoftDeleted", &["soft-deleted", "recover it there", "purge it"])
            .calls(2),
        told("pending", Pending, "OperationPending", &["pending", "tried again"]).calls(24).warnings(0),
        told("being-deleted", Pending, "BeingDeleted", &["tried again"]).calls(24).warnings(0),
        told("being-recovered", Pending, "Recovering", &["recover"]).calls(24).warnings(0),
    ];
    for told in &table {
        scene.renew(told.secret).await?;
    }
    scene.renew("healthy").await?;
    let listed: Vec<&str> = table.iter().map(|told| told.secret).chain(["healthy"]).collect();
    scene.sync_of("web", &listed).await?;
    check(&scene, "web", "healthy", &table).await?;

    for theirs in ["nobodys", "anothers", "soft-deleted"] {
        let versions = scene.versions(theirs);
        ensure!(
            versions.len() == 1 && versions.iter().all(|version| version.subject.contains("theirs")),
            "{versions:?}"
        );
    }
    // What passes, passes without anybody.
    scene.emulator().purge(&scene.host(), "being-deleted");
    scene.row("web", "being-deleted", "Synced").await?;
    Ok(())
}

async fn a_name_or_vault_that_cannot_be_is_told_without_a_claim_or_a_call(
    scene: Scene,
) -> anyhow::Result<()> {
    let (other, foreign) = (format!("{}-x", scene.name()), format!("{}-foreign", scene.name()));
    scene
        .key_vault(&foreign, json!({"url": "https://vault.example.com", "grants": [scene.grant(&["*"])]}))
        .await?;
    scene.make_vault(&other);
    let closed = json!({"namespaces": {"names": ["somebody-else"]}, "push": ["*"]});
    let url = format!("https://{}", host(&other));
    scene
        .key_vault(
            &other,
            json!({"url": url, "grants": [closed, scene.grant(&["granted-*", "{namespace}--*"])]}),
        )
        .await?;
    for secret in ["web-tls", "granted-tls"] {
        scene.renew(secret).await?;
    }
    let entry = |name: &str| json!({"secretName": name});
    let through = |vault: &str| json!({"vaultRef": {"name": vault}, "certificates": [entry("web-tls"), entry("granted-tls")]});
    for (sync, spec, reason, words) in [
        (
            "name",
            json!({"certificates": [entry("web-tls")], "certificateNameTemplate": "-{secret}"}),
            "InvalidName",
            vec!["web-tls", "begin"],
        ),
        (
            "unknown",
            through("no-such-vault"),
            "VaultNotFound",
            vec!["no KeyVault no-such-vault", "kubectl get keyvaults"],
        ),
        ("foreign", through(&foreign), "VaultNotFound", vec!["vault.example.com", "vault.azure.net"]),
        ("closed", through(&other), "NotGranted", vec![scene.name(), "web-tls", &other, "spec.grants"]),
    ] {
        scene.sync(sync, spec).await?;
        let row = scene.row(sync, "web-tls", reason).await?;
        ensure!(row.state == Failed, "{row:?}");
        let message = row.message.unwrap_or_default();
        for word in words {
            ensure!(message.contains(word), "{sync}: {word:?} is not in {message:?}");
        }
        let warning = scene.told(sync, reason, &[&message]).await?;
        ensure!(warning.type_.as_deref() == Some("Warning"), "{warning:?}");
    }
    // The granted name of the same resource is pushed.
    scene.row("closed", "granted-tls", "Synced").await?;
    let renewed = scene.renew("granted-tls").await?;
    scene.holds("closed", "granted-tls", &renewed).await?;
    for (sync, reason) in [("name", "InvalidName"), ("closed", "NotGranted")] {
        let events = scene.events_about(sync).await?;
        let warnings = events.iter().filter(|event| event.reason.as_deref() == Some(reason));
        let count = warnings.filter(|event| note(event).contains("web-tls")).count();
        ensure!(count == 1, "{sync}: {count} Events: {events:?}");
    }
    ensure!(scene.calls().is_empty(), "{:?}", scene.calls());
    let claims = scene.claims().list(&Default::default()).await?;
    let ours: Vec<_> =
        claims.iter().filter(|claim| claim.spec.owner.namespace.as_deref() == Some(scene.name())).collect();
    ensure!(ours.len() == 1, "{ours:?}");
    Ok(())
}

async fn a_vault_without_our_role_is_told_and_is_used_at_once_when_asked_after_the_repair(
    scene: Scene,
) -> anyhow::Result<()> {
    scene.emulator().deny(&scene.host(), CLIENT);
    scene.renew("web-tls").await?;
    scene.sync_of("web", &["web-tls"]).await?;
    let row = scene.row("web", "web-tls", "Forbidden").await?;
    ensure!(
        row.message.as_deref().is_some_and(|message| message.contains("Key Vault Certificates Officer")),
        "{row:?}"
    );
    let vaults = scene.key_vaults();
    wait::object(&vaults, scene.name(), "to say Forbidden", |vault| {
        let conditions = vault.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
        conditions
            .iter()
            .any(|one| one.type_ == "Ready" && one.status == "False" && one.reason == "Forbidden")
    })
    .await?;
    scene.make_vault(scene.name());
    scene.sync_now("web", "after the repair").await?;
    scene.synced("web", "1/1").await?;
    Ok(())
}

async fn an_identity_that_entra_does_not_know_is_told_with_its_number(scene: Scene) -> anyhow::Result<()> {
    let stranger = "11111111-2222-4333-8444-555555555555";
    let mut vault = scene.open_to_us();
    vault["identity"] = json!({"workloadIdentity": {"clientId": stranger}});
    scene.key_vault(scene.name(), vault).await?;
    scene.renew("web-tls").await?;
    scene.sync_of("web", &["web-tls"]).await?;
    let row = scene.row("web", "web-tls", "AuthenticationFailed").await?;
    let message = row.message.unwrap_or_default();
    for word in [stranger, "AADSTS700016", "clientId", &scene.host()] {
        ensure!(message.contains(word), "{word:?} is not in {message:?}");
    }
    scene.told("web", "AuthenticationFailed", &[&message]).await?;
    // Put right, it works at once.
    scene.key_vault(scene.name(), scene.open_to_us()).await?;
    scene.synced("web", "1/1").await?;
    Ok(())
}

async fn a_throttled_vault_is_left_alone_for_as_long_as_it_says(scene: Scene) -> anyhow::Result<()> {
    let issued = scene.renew("web-tls").await?;
    scene.sync_of("web", &["web-tls"]).await?;
    scene.holds("web", "web-tls", &issued).await?;
    let before = scene.calls_about("web-tls").len();

    scene.fault("web-tls", Fault::new(Effect::throttled(Some("3"))).operation(Operation::Import).times(1));
    let renewed = scene.renew("web-tls").await?;
    let row = scene.row("web", "web-tls", "Throttled").await?;
    ensure!(row.state == Pending, "{row:?}");
    let throttled = scene.syncs().get("web").await?;
    ensure!(
        ready(&throttled).is_some_and(|ready| ready.status == "True"),
        "Ready did not keep its value: {throttled:?}"
    );
    scene.holds("web", "web-tls", &renewed).await?;
    ensure!(scene.versions("web-tls").len() == 2, "{}", scene.versions("web-tls").len());

    let calls = scene.calls_about("web-tls").split_off(before);
    let refused = calls.iter().position(|call| call.status == Some(429)).context("never throttled")?;
    let (refused, next) = (calls.get(refused), calls.get(refused + 1));
    let pause = next
        .zip(refused)
        .map(|(next, refused)| next.began_us - refused.began_us)
        .context("not tried again")?;
    ensure!(pause >= 3_000_000, "{pause} µs instead of 3 s");
    ensure!(calls.len() <= 4, "{calls:?}");
    ensure!(scene.events("web", "Throttled", "web-tls").await?.is_empty(), "a throttled call is no news");
    Ok(())
}

async fn a_vault_that_throttles_without_saying_for_how_long_is_asked_less_and_less(
    scene: Scene,
) -> anyhow::Result<()> {
    scene.fault("web-tls", Fault::new(Effect::throttled(None)).times(3));
    let issued = scene.renew("web-tls").await?;
    scene.sync_of("web", &["web-tls"]).await?;
    scene.row("web", "web-tls", "Throttled").await?;
    scene.holds("web", "web-tls", &issued).await?;
    less_and_less(&scene, "web-tls", 429)
}

async fn a_vault_with_failures_is_asked_again_until_it_answers(scene: Scene) -> anyhow::Result<()> {
    scene.fault(
        "web-tls",
        Fault::new(Effect::status(500, "InternalServerError")).operation(Operation::GetCertificate).times(3),
    );
    let issued = scene.renew("web-tls").await?;
    scene.renew("healthy").await?;
    scene.sync_of("web", &["web-tls", "healthy"]).await?;
    let row = scene.row("web", "web-tls", "Unavailable").await?;
    ensure!(
        row.state == Pending && row.message.as_deref().is_some_and(|message| message.contains("HTTP 500")),
        "{row:?}"
    );
    scene.row("web", "healthy", "Synced").await?;
    scene.holds("web", "web-tls", &issued).await?;
    ensure!(
        scene.events("web", "Unavailable", "web-tls").await?.is_empty(),
        "what passes by itself is no news"
    );
    ensure!(scene.versions("web-tls").len() == 1);
    less_and_less(&scene, "web-tls", 500)
}

/// Between calls that failed the pauses grow, and no call was made but those.
fn less_and_less(scene: &Scene, certificate: &str, status: u16) -> anyhow::Result<()> {
    let calls = scene.calls_about(certificate);
    let failed: Vec<_> = calls.iter().filter(|call| call.status == Some(status)).collect();
    ensure!(failed.len() == 3 && calls.len() == 6, "three that failed, two looks and an import: {calls:?}");
    let pauses: Vec<u64> = calls.windows(2).take(3).map(|two| two[1].began_us - two[0].began_us).collect();
    // 80 % to 100 % of 1 s, 2 s, 4 s.
    ensure!(
        pauses.iter().zip([800_000, 1_600_000, 3_200_000]).all(|(pause, least)| *pause >= least),
        "{pauses:?}"
    );
    Ok(())
}

async fn a_hanging_vault_holds_up_no_other_and_gets_one_version(scene: Scene) -> anyhow::Result<()> {
    let other = format!("{}-x", scene.name());
    scene.make_vault(&other);
    let url = format!("https://{}", host(&other));
    scene.key_vault(&other, json!({"url": url, "grants": [scene.grant(&["*"])]})).await?;
    let hanging = scene.emulator().inject(Fault::new(Effect::Hang).host(&scene.host()));
    let secrets = ["a", "b", "c", "d", "e", "f"];
    for secret in secrets {
        scene.renew(secret).await?;
    }
    scene.sync_of("web", &secrets).await?;
    scene.called("a call that hangs", |call| call.operation == Operation::GetCertificate).await?;
    scene.sync("other", json!({"vaultRef": {"name": other}, "certificates": [{"secretName": "a"}]})).await?;
    scene.synced("other", "1/1").await?;
    let row = scene.row("web", "a", "Unavailable").await?;
    ensure!(row.state == Pending, "{row:?}");
    scene.emulator().clear_fault(hanging);
    scene.synced("web", "6/6").await?;
    for secret in secrets {
        ensure!(scene.versions(secret).len() == 1, "{secret}: {} versions", scene.versions(secret).len());
    }
    Ok(())
}

async fn an_answer_lost_after_the_commit_is_followed_by_a_look_and_no_second_version(
    scene: Scene,
) -> anyhow::Result<()> {
    scene.fault("web-tls", Fault::new(Effect::LoseAnswer).operation(Operation::Import).times(1));
    let issued = scene.renew("web-tls").await?;
    scene.renew("healthy").await?;
    scene.sync_of("web", &["web-tls", "healthy"]).await?;
    scene.row("web", "healthy", "Synced").await?;
    scene.holds("web", "web-tls", &issued).await?;
    ensure!(scene.versions("web-tls").len() == 1, "{} versions", scene.versions("web-tls").len());
    let operations: Vec<Operation> = scene.calls_about("web-tls").iter().map(|call| call.operation).collect();
    use Operation::{GetCertificate, GetDeletedCertificate, Import};
    ensure!(operations == [GetCertificate, GetDeletedCertificate, Import, GetCertificate], "{operations:?}");
    let claim = scene.claim("web-tls").await?;
    ensure!(claim.status.as_ref().is_some_and(|status| status.in_flight.is_none()), "{claim:?}");
    Ok(())
}

async fn a_reset_connection_is_followed_by_a_look_and_one_version(scene: Scene) -> anyhow::Result<()> {
    scene.fault("web-tls", Fault::new(Effect::Reset).operation(Operation::Import).times(1));
    let issued = scene.renew("web-tls").await?;
    scene.sync_of("web", &["web-tls"]).await?;
    scene.holds("web", "web-tls", &issued).await?;
    ensure!(scene.versions("web-tls").len() == 1);
    let calls = scene.calls_about("web-tls");
    let operations: Vec<Operation> = calls.iter().map(|call| call.operation).collect();
    use Operation::{GetCertificate, GetDeletedCertificate, Import};
    let try_ = [GetCertificate, GetDeletedCertificate, Import];
    ensure!(operations == [try_, try_].concat(), "{operations:?}");
    ensure!(imports(&calls) == 2);
    Ok(())
}
