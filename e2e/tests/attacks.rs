//! Texts that pretend to be something else: addresses of vaults, names of certificates, names of Secrets of other namespaces.
//! Names of other tenants are left to `attacks_tenants`, forged claims to `attacks_claims`, logs to `attacks_log`.

use std::collections::BTreeSet;

use anyhow::{Context, ensure};
use keyvault_emulator::Call;
use keyvault_sync_api::CertificateState;
use keyvault_sync_e2e::Scene;
use keyvault_sync_e2e::certificates::Issued;
use keyvault_sync_e2e::scene::{ders, says};
use keyvault_sync_e2e::wait;
use serde_json::{Value, json};

keyvault_sync_e2e::promises!(Together:
    an_address_that_is_no_vault_of_an_allowed_cloud_is_refused_and_nobody_is_called,
    a_certificate_name_never_leads_to_another_path_of_the_vault,
    a_secret_of_another_namespace_is_never_pushed_whatever_names_it,
);

/// Where tokens come from.
const AUTHORITY: &str = "login.microsoftonline.com";
/// Our annotation for names.
const NAMED: &str = "example.com/name";

// Addresses.

async fn an_address_that_is_no_vault_of_an_allowed_cloud_is_refused_and_nobody_is_called(
    scene: Scene,
) -> anyhow::Result<()> {
    let vault = scene.host();
    refused_by_the_schema(&scene, &vault).await?;
    scene.renew("web-tls").await?;
    let passes_the_schema = [
        // Not under a suffix, though it looks so.
        format!("{vault}.evil.example"),
        format!("{vault}.vault.azure.net"),
        "evilvault.azure.net".to_owned(),
        "evil.vault-azure.net".to_owned(),
        "evil.vault.azure.net.cn".to_owned(),
        "evil.vault.azure.com".to_owned(),
        "vault.azure.net".to_owned(),
        // Under it, and no vault's name.
        format!("evil.{vault}"),
        "evil-.vault.azure.net".to_owned(),
        "evil..vault.azure.net".to_owned(),
        "1evil.vault.azure.net".to_owned(),
        format!("{}.vault.azure.net", "e".repeat(25)),
        // Punycode: `c\u{f6}ntoso`, `\u{430}pple.com`.
        "xn--cntoso-wxa.vault.azure.net".to_owned(),
        "xn--pple-43d.com".to_owned(),
        // Addresses, in every spelling.
        "169.254.169.254".to_owned(),
        "127.0.0.1".to_owned(),
        "2130706433".to_owned(),
        "0x7f000001".to_owned(),
        "localhost".to_owned(),
        "kubernetes.default.svc".to_owned(),
    ];
    for (number, host) in passes_the_schema.iter().enumerate() {
        let (name, url) = (format!("{}-{number:02}", scene.name()), format!("https://{host}"));
        let spec = json!({"url": url, "grants": [scene.grant(&["*"])]});
        scene.key_vault(&name, spec).await.with_context(|| url.clone())?;
        wait::object(&scene.key_vaults(), &name, "to be refused", |vault| {
            vault
                .status
                .iter()
                .flat_map(|status| &status.conditions)
                .any(|one| one.type_ == "Ready" && one.status == "False" && one.reason == "VaultNotFound")
        })
        .await?;
        let wish = json!({"vaultRef": {"name": name}, "certificates": [{"secretName": "web-tls"}]});
        scene.sync(&name, wish).await?;
        let row = scene.row(&name, "web-tls", "VaultNotFound").await.with_context(|| url.clone())?;
        ensure!(row.state == CertificateState::Failed && row.secret_id.is_none(), "{row:?}");
        says(&row, &[&format!("\"{url}\""), "is not the URL of a vault"])?;
    }
    // Whatever the operator was led to do, it did before this.
    scene.renew("canary").await?;
    scene.sync_of("canary", &["canary"]).await?;
    scene.synced("canary", "1/1").await?;
    scene.claimed(&["canary"]).await?;
    let claims = scene.claims().list(&Default::default()).await?.items;
    let strangers: Vec<_> = claims
        .iter()
        .filter(|claim| claim.spec.owner.namespace.as_deref() == Some(scene.name()))
        .filter(|claim| claim.spec.vault_host != scene.host())
        .collect();
    ensure!(strangers.is_empty(), "{strangers:?}");
    only_vaults_were_called(&scene)
}

/// All of these would be another host, or another place of one, to somebody who reads on.
async fn refused_by_the_schema(scene: &Scene, vault: &str) -> anyhow::Result<()> {
    for url in [
        format!("https://{vault}@evil.example"),
        format!("https://user:password@{vault}"),
        format!("https://{vault}:8443"),
        format!("https://{vault}:443"),
        format!("https://{vault}/secrets"),
        format!("https://{vault}/../evil"),
        format!("https://{vault}?api-version=7.4"),
        format!("https://{vault}#@evil.example"),
        format!("https://{vault}."),
        format!("https://{}", vault.to_uppercase()),
        format!("https://{vault}\\@evil.example"),
        format!("https://{vault}%2eevil.example"),
        format!("https://{vault}\t"),
        format!("https:/{vault}"),
        format!("https:\\\\{vault}"),
        format!("HTTPS://{vault}"),
        format!("http://{vault}"),
        format!(" https://{vault}"),
        "https://c\u{f6}ntoso.vault.azure.net".to_owned(),
        "https://cont\u{43e}so.vault.azure.net".to_owned(),
        "https://contoso\u{3002}vault.azure.net".to_owned(),
        "https://contoso.vault.azure.net\u{200b}".to_owned(),
        "https://[fd00::1]".to_owned(),
    ] {
        let spec = json!({"url": url, "grants": [scene.grant(&["*"])]});
        let Err(error) = scene.key_vault(&format!("{}-x", scene.name()), spec).await else {
            anyhow::bail!("{url:?} is taken for a vault");
        };
        ensure!(format!("{error:#}").contains("the vault's host in lower case"), "{url:?}: {error:#}");
    }
    Ok(())
}

/// The emulator answers for every host there is: every call of this stage is in its journal.
fn only_vaults_were_called(scene: &Scene) -> anyhow::Result<()> {
    let hosts: BTreeSet<String> = scene.emulator().journal().into_iter().map(|call| call.host).collect();
    let is_ours = |host: &&String| {
        let name = host.strip_suffix(".vault.azure.net").unwrap_or_default();
        *host == AUTHORITY || (name.starts_with("scene-") && !name.contains('.'))
    };
    let strangers: Vec<&String> = hosts.iter().filter(|host| !is_ours(host)).collect();
    ensure!(strangers.is_empty(), "called: {strangers:?}");
    ensure!(hosts.contains(&scene.host()) && hosts.contains(AUTHORITY), "{hosts:?}");
    Ok(())
}

// Names of certificates.

async fn a_certificate_name_never_leads_to_another_path_of_the_vault(scene: Scene) -> anyhow::Result<()> {
    for name in [
        "a/b",
        "a/../b",
        "..",
        "a%2fb",
        "a?b",
        "a#b",
        "a\\b",
        "a\nb",
        "a\tb",
        "a b",
        "a.b",
        "a;b",
        "a:b",
        "a_b",
        "\u{ff41}\u{ff42}",
        "\u{430}b",
        "a\u{2215}b",
        "a\u{200b}b",
        "a\u{0}b",
    ] {
        let entry = json!({"secretName": "web-tls", "certificateName": name});
        let outcome = scene.sync("listed", json!({"certificates": [entry]})).await;
        ensure!(outcome.is_err(), "{name:?} is taken for a certificate name");
    }

    // What others than the author of the resource write: each is folded to plain letters, or refused.
    let annotations = [
        ("slash", "a1/b", Some("a1-b")),
        ("parent", "../../secrets/a2", None),
        ("inner-parent", "a3/../b", Some("a3----b")),
        ("import", "a4/import", Some("a4-import")),
        ("version", "a5/0123456789abcdef0123456789abcdef", Some("a5-0123456789abcdef0123456789abcdef")),
        ("encoded", "a6%2fb", Some("a6-2fb")),
        ("twice-encoded", "a7%252e%252e%252fb", Some("a7-252e-252e-252fb")),
        ("query", "a8?api-version=7.4&x", Some("a8-api-version-7-4-x")),
        ("fragment", "a9#b", Some("a9-b")),
        ("backslash", "a10\\..\\b", Some("a10----b")),
        ("newline", "a11\r\nb", Some("a11--b")),
        ("separator", "a12\u{2028}b", Some("a12-b")),
        ("host", "a13@evil.example:443", Some("a13-evil-example-443")),
        ("full-width", "\u{ff41}14", None),
        ("cyrillic", "\u{430}15", None),
        ("slash-like", "a16\u{2215}b", Some("a16-b")),
        ("zero-width", "a17\u{200b}b", Some("a17-b")),
        ("escape", "a18\u{1b}[2J", Some("a18--2J")),
        ("dots", "..", None),
        ("empty", "", None),
    ];
    for (secret, name, _) in annotations {
        scene.renew(secret).await?;
        scene.mark(secret, json!({"from": "annotation"}), json!({NAMED: name})).await?;
    }
    // Labels and names of Secrets can hold no more than dots and underscores.
    scene.renew("a19.b").await?;
    scene.mark("a19.b", json!({"from": "secret"}), json!({})).await?;
    scene.renew("labelled").await?;
    scene.mark("labelled", json!({"from": "label", "app": "a20._.b"}), json!({})).await?;
    let from = |which: &str| json!({"matchLabels": {"from": which}});
    for (sync, which, template) in [
        ("annotation", "annotation", "{annotation:example.com/name}"),
        ("secret", "secret", "{secret}"),
        ("label", "label", "{label:app}"),
        // The text of the template is folded as what is put into it.
        ("text", "label", "a21/../%2e?x#{label:app}"),
    ] {
        let wish = json!({"selector": from(which), "certificateNameTemplate": template});
        scene.sync(sync, wish).await?;
    }
    for (secret, text, name) in annotations {
        let Some(name) = name else {
            let row = scene.row("annotation", secret, "InvalidName").await?;
            ensure!(row.certificate_name.is_none() && row.secret_id.is_none(), "{row:?}");
            let message = row.message.unwrap_or_default();
            ensure!(!message.chars().any(char::is_control), "{message:?}");
            continue;
        };
        let row = scene.row("annotation", secret, "Synced").await.with_context(|| text.to_owned())?;
        ensure!(row.certificate_name.as_deref() == Some(name), "{text:?}: {row:?}");
    }
    for (sync, secret, name) in [
        ("secret", "a19.b", "a19-b"),
        ("label", "labelled", "a20---b"),
        ("text", "labelled", "a21-----2e-x-a20---b"),
    ] {
        let row = scene.row(sync, secret, "Synced").await?;
        ensure!(row.certificate_name.as_deref() == Some(name), "{row:?}");
    }
    let plain = |text: &str| text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-') && !text.is_empty();
    let names = scene.emulator().certificate_names(&scene.host());
    let pushed = annotations.iter().filter(|(.., name)| name.is_some()).count() + 3;
    ensure!(names.len() == pushed && names.iter().all(|name| plain(name)), "{names:?}");
    for call in scene.calls() {
        ensure!(is_plain_path(&call, plain), "{call:?}");
    }
    Ok(())
}

/// Of a certificate: `/certificates/<name>`, and what the operator asks of one.
fn is_plain_path(call: &Call, plain: impl Fn(&str) -> bool) -> bool {
    let parts: Vec<&str> = call.path.split('/').collect();
    match parts.as_slice() {
        ["", "certificates"] => true,
        ["", "certificates", name] => plain(name),
        // The newest version is asked for with an empty one.
        ["", "certificates", name, rest] => plain(name) && (rest.is_empty() || plain(rest)),
        ["", "deletedcertificates", name] => plain(name),
        _ => false,
    }
}

// Secrets of other namespaces.

async fn a_secret_of_another_namespace_is_never_pushed_whatever_names_it(scene: Scene) -> anyhow::Result<()> {
    // Not the grants are to stop it: both may push every name.
    let victim = scene.tenant("victim").await?;
    let mut vault = scene.open_to_adopt();
    let all = json!({"names": [scene.name(), victim.name()]});
    vault["grants"] = json!([{"namespaces": all, "push": ["*"], "adopt": ["*"]}]);
    scene.key_vault(scene.name(), vault).await?;
    let stolen = victim.renew("victim-tls").await?;
    let secret = format!("{}/victim-tls", victim.name());
    victim.mark("victim-tls", json!({"app": "shop"}), json!({NAMED: "named"})).await?;

    for name in [secret.as_str(), "../victim-tls", "victim-tls/", "Victim-TLS", "victim-tls?x"] {
        let outcome = scene.sync("listed", json!({"certificates": [{"secretName": name}]})).await;
        ensure!(outcome.is_err(), "{name:?} is taken for the name of a Secret");
    }
    scene.renew("canary").await?;
    scene.mark("canary", json!({"app": "shop"}), json!({NAMED: "canary"})).await?;
    // By name: it is looked for at home. By selectors and templates: they have no say in where.
    let dotted = format!("{}.victim-tls", victim.name());
    scene.sync_of("by-name", &["victim-tls", &dotted]).await?;
    let selecting =
        |selector: Value, template: &str| json!({"selector": selector, "certificateNameTemplate": template});
    let text = format!("{}--{{secret}}", victim.name());
    for (sync, wish) in [
        ("by-selector", selecting(json!({}), "selected-{secret}")),
        ("by-label", selecting(json!({"matchLabels": {"app": "shop"}}), "labelled-{secret}")),
        ("by-glob", selecting(json!({"names": ["*"]}), "{namespace}--{secret}")),
        ("by-text", selecting(json!({"names": ["victim-*", "canary"]}), &text)),
        (
            "by-annotation",
            selecting(json!({"annotations": [{"name": NAMED}]}), "{annotation:example.com/name}"),
        ),
    ] {
        scene.sync(sync, wish).await?;
        scene.row(sync, "canary", "Synced").await.context(sync)?;
        let sync = scene.synced(sync, "1/1").await?;
        ensure!(sync.status.iter().all(|status| status.certificates.len() == 1), "{sync:?}");
    }
    for name in ["victim-tls", &dotted] {
        let row = scene.row("by-name", name, "SecretNotFound").await?;
        ensure!(row.thumbprint.is_none(), "{row:?}");
    }
    // Over namespaces, but not that one.
    let everywhere = json!({
        "selector": {}, "certificateNameTemplate": "all-{namespace}--{secret}",
        "namespaceSelector": {"names": [scene.name(), victim.name()], "excludeNames": ["*-victim"]},
    });
    scene.cluster_sync(scene.name(), everywhere).await?;
    scene.cluster_synced(scene.name(), "1/1").await?;
    is_nowhere(&scene, &stolen)
}

/// No version of any certificate of the vault holds that leaf.
fn is_nowhere(scene: &Scene, stolen: &Issued) -> anyhow::Result<()> {
    let leaf = ders(&stolen.certificate)?;
    let names = scene.emulator().certificate_names(&scene.host());
    ensure!(!names.is_empty(), "nothing was pushed at all");
    for name in names {
        let holds = scene.versions(&name).iter().any(|version| version.chain_der.first() == leaf.first());
        ensure!(!holds, "{name} holds the Secret of another namespace");
    }
    Ok(())
}
