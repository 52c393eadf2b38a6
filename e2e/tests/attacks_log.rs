//! What others write into annotations, tags, certificates and vaults, as it comes out again in logs, Events and statuses; and the
//! finest log there is, in which the search at the end looks for keys and tokens. Each test has an operator of its own.

mod kinds;

use anyhow::{Context, ensure};
use k8s_openapi::api::events::v1::Event;
use keyvault_emulator::{Effect, Fault, Operation};
use keyvault_sync_api::constants::SYNC_AT_ANNOTATION;
use keyvault_sync_e2e::Scene;
use keyvault_sync_e2e::certificates::{Authority, Leaf};
use keyvault_sync_e2e::operator::Operator;
use keyvault_sync_e2e::scene::entries;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

keyvault_sync_e2e::promises!(OneByOne:
    no_control_character_of_others_reaches_log_event_or_status,
    no_control_character_of_others_reaches_a_log_for_terminals,
    at_the_finest_level_nothing_secret_is_logged_whatever_happens,
);

/// Our annotation for names.
const NAMED: &str = "example.com/name";
/// What a terminal takes for orders: colours, titles, deletions, in seven bits and in eight; and what looks like another line of the
/// log.
const HOSTILE: &str =
    "\u{1b}[31m\u{1b}]0;owned\u{7}\u{9b}2J\u{8}\u{7f}\u{85}\r\n{\"level\":\"ERROR\"}\u{202e}x";
/// Of a length that no log line or message needs.
const LONG: usize = 20_000;

/// Everything that others can write, written in the worst way; and the operator has dealt with all of it.
async fn provoke(scene: &Scene) -> anyhow::Result<()> {
    scene.key_vault(scene.name(), scene.open_to_adopt()).await?;
    let long = format!("{HOSTILE}{}", "l-".repeat(LONG / 2));
    // In names that are made of annotations: hostile, hostile and long, and one that a name could be.
    for (secret, value) in [("hostile", HOSTILE), ("long", long.as_str()), ("folded", "a\u{1b}[31mb")] {
        scene.renew(secret).await?;
        scene.mark(secret, json!({"by": "annotation"}), json!({NAMED: value})).await?;
    }
    let by_annotation = json!({
        "selector": {"matchLabels": {"by": "annotation"}},
        "certificateNameTemplate": "{annotation:example.com/name}",
    });
    scene.sync("named", by_annotation).await?;
    for (secret, reason) in [("hostile", "InvalidName"), ("long", "InvalidName"), ("folded", "Synced")] {
        scene.row("named", secret, reason).await?;
    }

    // In certificates: their subjects, and entries that are none.
    let root = Authority::root(&format!("root {HOSTILE}"))?;
    let issuer = root.intermediate(&format!("issuer {HOSTILE}"))?;
    let issued = issuer.issue(&Leaf::server("shop.example.com"))?;
    let stranger = scene.issue(&Leaf::server("stranger.example.com"))?;
    scene.stage().guard(&issued.key);
    scene.put_entries("gap", &entries(&issued.certificate, &issued.key, "")).await?;
    scene.put_entries("mismatch", &entries(&issued.tls_crt(), &stranger.key, "")).await?;
    scene.put_entries("text", &entries(HOSTILE, HOSTILE, HOSTILE)).await?;
    let label = format!("-----BEGIN {HOSTILE}-----\n{}\n-----END {HOSTILE}-----\n", "QUJD");
    scene.put_entries("label", &entries(&label, &label, "")).await?;

    // In the vault: whose it is, and tags beside ours.
    for (name, tags) in [
        ("tagged", vec![("keyvault-sync-owner", HOSTILE)]),
        ("adopted", vec![(HOSTILE, HOSTILE), ("SyncFrom", HOSTILE)]),
    ] {
        let issued = scene.renew(name).await?;
        let tags: Vec<(&str, &str)> = tags;
        scene.put_by_others(name, &issued, &tags)?;
    }
    // In what the resource asks for, where its schema lets it.
    let listed = ["gap", "mismatch", "text", "label", "tagged", "adopted"];
    let listed = listed.map(|name| json!({"secretName": name}));
    let mut wish = json!({"certificates": listed, "conflictPolicy": "Adopt"});
    scene.sync("web", wish.clone()).await?;
    for (secret, reason) in [
        ("gap", "IncompleteChain"),
        ("mismatch", "KeyMismatch"),
        ("text", "InvalidCertificate"),
        ("label", "InvalidCertificate"),
        ("tagged", "OwnedByAnother"),
        ("adopted", "Synced"),
    ] {
        scene.row("web", secret, reason).await?;
    }
    wish["tags"] = json!({"note": HOSTILE, "n\u{1b}[0m": "x"});
    // Whether such a tag is taken is the schema's business.
    let is_taken = scene.sync("web", wish).await.is_ok();
    let ask = json!({"metadata": {"annotations": {SYNC_AT_ANNOTATION: long}}});
    scene.syncs().patch("web", &PatchParams::default(), &Patch::Merge(&ask)).await?;
    scene.key_vaults().patch(scene.name(), &PatchParams::default(), &Patch::Merge(&ask)).await?;
    if is_taken {
        scene.told("web", "Retagged", &["adopted"]).await?;
    }
    // Whatever of it is still under way is done before this.
    let renewed = scene.renew("adopted").await?;
    scene.holds("web", "adopted", &renewed).await?;
    Ok(())
}

fn orders(text: &str) -> Vec<char> {
    text.chars().filter(|c| (c.is_control() && *c != '\n') || ('\u{2028}'..='\u{202e}').contains(c)).collect()
}

/// The log has no control character but its line ends, no line of others, and no line of a length that nobody reads.
fn is_clean(operator: &Operator) -> anyhow::Result<()> {
    let log = operator.log();
    ensure!(log.lines().count() > 20, "nothing was logged");
    for line in log.lines() {
        let shown: String = line.chars().take(600).flat_map(char::escape_debug).collect();
        let found = orders(line);
        ensure!(found.is_empty(), "{found:?} in {shown}");
        ensure!(!line.starts_with("{\"level\":\"ERROR\"}"), "a line of others: {shown}");
        ensure!(line.len() < LONG, "{} bytes: {shown}", line.len());
    }
    Ok(())
}

async fn no_control_character_of_others_reaches_log_event_or_status(scene: Scene) -> anyhow::Result<()> {
    let operator = scene.stage().operator_with(&["--log=info,keyvault_sync=trace"]).await?;
    provoke(&scene).await?;
    is_clean(&operator)?;
    for line in operator.log().lines() {
        serde_json::from_str::<Value>(line).with_context(|| format!("no JSON: {line}"))?;
    }
    let client = scene.stage().client().clone();
    let mut texts = Vec::new();
    for sync in scene.syncs().list(&Default::default()).await? {
        texts.push(serde_json::to_value(sync.status)?);
    }
    for claim in scene.claims().list(&Default::default()).await? {
        texts.push(serde_json::to_value(claim.status)?);
    }
    for vault in scene.key_vaults().list(&Default::default()).await? {
        texts.push(serde_json::to_value(vault.status)?);
    }
    for event in Api::<Event>::namespaced(client, scene.name()).list(&Default::default()).await? {
        texts.push(json!([event.note, event.reason, event.action]));
    }
    ensure!(texts.len() > 10, "{} texts", texts.len());
    texts.iter().try_for_each(is_clean_text)?;
    operator.terminate().await.map(drop)
}

fn is_clean_text(value: &Value) -> anyhow::Result<()> {
    match value {
        Value::String(text) => {
            ensure!(orders(text).is_empty() && !text.contains('\n'), "{:?} in {text:?}", orders(text));
            Ok(())
        }
        Value::Array(values) => values.iter().try_for_each(is_clean_text),
        Value::Object(fields) => fields.values().try_for_each(is_clean_text),
        Value::Null | Value::Bool(_) | Value::Number(_) => Ok(()),
    }
}

async fn no_control_character_of_others_reaches_a_log_for_terminals(scene: Scene) -> anyhow::Result<()> {
    let log = ["--log=info,keyvault_sync=trace", "--log-format=text"];
    let operator = scene.stage().operator_with(&log).await?;
    provoke(&scene).await?;
    // Not even our own colours: this one does not go to a terminal.
    is_clean(&operator)?;
    operator.terminate().await.map(drop)
}

async fn at_the_finest_level_nothing_secret_is_logged_whatever_happens(scene: Scene) -> anyhow::Result<()> {
    let operator = scene.stage().operator_with(&["--log=trace"]).await?;
    scene.key_vault(scene.name(), scene.open_to_adopt()).await?;
    let issued = scene.renew("web-tls").await?;
    for (secret, certificate, key) in [
        ("broken", issued.certificate.as_str(), "no key"),
        ("swapped", issued.key.as_str(), issued.certificate.as_str()),
        ("twice", issued.certificate.as_str(), &*format!("{}{}", issued.key, issued.key)),
    ] {
        scene.put_entries(secret, &entries(certificate, key, "")).await?;
    }
    // As kubectl apply keeps it: the whole Secret in an annotation, and in managed fields beside.
    let applied = issued.secret(scene.name(), "applied");
    let text = serde_json::to_string(&applied)?;
    scene.put_issued("applied", &issued).await?;
    let last = json!({"kubectl.kubernetes.io/last-applied-configuration": text});
    scene.mark("applied", json!({}), last).await?;

    let secrets = ["web-tls", "applied", "broken", "swapped", "twice"];
    let entries: Vec<Value> = secrets.iter().map(|secret| json!({"secretName": secret})).collect();
    let wish = json!({"certificates": entries, "deletionPolicy": "Delete"});
    scene.sync("web", wish).await?;
    for secret in ["web-tls", "applied"] {
        scene.row("web", secret, "Synced").await?;
    }
    for secret in ["broken", "swapped", "twice"] {
        scene
            .row("web", secret, if secret == "swapped" { "InvalidCertificate" } else { "InvalidPrivateKey" })
            .await?;
    }
    // Refused, reset, lost after the commit, and then accepted.
    for (round, effect) in [
        Effect::forbidden("ForbiddenByRbac"),
        Effect::status(500, "InternalServerError"),
        Effect::status(400, "BadParameter"),
        Effect::Hang,
    ]
    .into_iter()
    .enumerate()
    {
        let fault = scene.fault("web-tls", Fault::new(effect).operation(Operation::Import));
        let before = scene.calls().last().map(|call| call.number);
        let renewed = scene.renew("web-tls").await?;
        scene
            .called("an import that fails", |call| {
                call.operation == Operation::Import
                    && call.name.as_deref() == Some("web-tls")
                    && Some(call.number) > before
                    && !call.committed
            })
            .await?;
        scene.emulator().clear_fault(fault);
        scene.sync_now("web", &format!("round {round}")).await?;
        scene.holds("web", "web-tls", &renewed).await?;
    }
    // Whatever identities prove themselves with: secrets, keys, tokens of ServiceAccounts and of the node.
    kinds::push_by_each_kind(&scene).await?;
    scene.delete(&scene.syncs(), "web").await?;
    for name in ["web-tls", "applied"] {
        scene.soft_deleted(name).await?;
        scene.given_up(name).await?;
    }
    operator.terminate().await?;
    let log = operator.log();
    ensure!(log.contains("\"level\":\"TRACE\""), "nothing was logged at the finest level");
    // The search for lines of keys and for tokens comes last, over all that was logged here.
    for word in ["BEGIN PRIVATE", "BEGIN EC PRIVATE", "client_assertion=", "last-applied"] {
        ensure!(!log.contains(word), "{word} is in the log");
    }
    Ok(())
}
