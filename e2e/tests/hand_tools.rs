//! The tools for the hand, as somebody runs them at a terminal: what `plan` says comes true and planning writes nothing; `check`,
//! `status`, `crds` and the kubectl plugin say what is. What the operator itself does is left to the other files.

use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::events::v1::Event;
use keyvault_emulator::{Effect, Emulator, Fault, Permissions};
use keyvault_sync_api::constants::{GROUP, VERSION, VERSION_ANNOTATION};
use keyvault_sync_e2e::scene::{host, imports, writes};
use keyvault_sync_e2e::stage::{CLIENT, OPERATOR, TENANT};
use keyvault_sync_e2e::{LocalCluster, Scene, operator};
use kube::Resource;
use kube::api::{Api, ListParams, Patch, PatchParams};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

keyvault_sync_e2e::promises!(Together:
    what_a_plan_says_of_a_file_is_what_the_operator_does_and_planning_writes_nothing,
    a_plan_tells_what_changes_and_what_becomes_of_what_is_given_up,
    a_plan_without_the_vault_goes_by_what_is_recorded_and_says_so,
    a_plan_of_a_new_vault_and_a_resource_over_namespaces_comes_true,
    a_plan_of_the_cluster_knows_its_operators_settings_from_its_pod,
    a_check_finds_what_stands_in_the_way_and_names_it,
    status_shows_the_worst_first_and_leaves_out_what_may_not_be_seen,
    definitions_are_applied_once_and_never_over_newer_ones,
    kubectl_finds_the_plugin_by_its_name,
    what_cannot_be_done_is_said_in_a_line,
);

/// A tool that has not ended by then hangs.
const LIMIT: Duration = Duration::from_secs(120);

/// Settings of the environment that are the caller's, not the test's.
const FOREIGN: [&str; 6] =
    ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"];

/// Runs the program, or whatever is at that path, and waits for its end.
async fn run_at(
    program: &Path,
    arguments: &[&str],
    variables: &[(&str, &str)],
    input: &str,
) -> anyhow::Result<Output> {
    let mut command = tokio::process::Command::new(program);
    command.args(arguments).envs(variables.iter().copied()).kill_on_drop(true);
    for name in FOREIGN {
        command.env_remove(name);
    }
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let mut stdin = child.stdin.take().context("no standard input")?;
    // Who does not read it closes it.
    stdin.write_all(input.as_bytes()).await.ok();
    drop(stdin);
    tokio::time::timeout(LIMIT, child.wait_with_output())
        .await
        .context("it does not end")?
        .map_err(Into::into)
}

/// Runs a tool as the administrator of the stage's cluster.
async fn tool(scene: &Scene, arguments: &[&str], input: &str) -> anyhow::Result<Output> {
    let kubeconfig = scene.stage().cluster.admin_kubeconfig().display().to_string();
    run_at(&operator::binary().await?, arguments, &[("KUBECONFIG", &kubeconfig)], input).await
}

/// The settings that lead to the emulator, and the ids that the operator's pod would say.
fn as_operator(scene: &Scene) -> Vec<String> {
    let mut settings = to_emulator(scene);
    settings.extend([format!("--azure-tenant-id={TENANT}"), format!("--azure-client-id={CLIENT}")]);
    settings
}

fn to_emulator(scene: &Scene) -> Vec<String> {
    vec![
        format!("--emulator-address={}", scene.emulator().address()),
        format!("--ca-bundle={}", scene.stage().ca_bundle().display()),
        format!("--imds-endpoint={}", scene.emulator().imds_endpoint()),
    ]
}

/// Plans; the answer and the exit code.
async fn plan(scene: &Scene, arguments: &[&str], input: &str) -> anyhow::Result<(Value, i32)> {
    let settings = as_operator(scene);
    let mut all = vec!["plan", "--output=json"];
    all.extend(settings.iter().map(String::as_str).chain(arguments.iter().copied()));
    answered(tool(scene, &all, input).await?)
}

fn answered(output: Output) -> anyhow::Result<(Value, i32)> {
    let text = String::from_utf8_lossy(&output.stdout);
    let answer = serde_json::from_str(&text)
        .with_context(|| format!("no answer: {text}\n{}", String::from_utf8_lossy(&output.stderr)))?;
    Ok((answer, output.status.code().context("ended by a signal")?))
}

/// The row of a Secret in a plan.
fn planned<'a>(plan: &'a Value, sync: &str, secret: &str) -> anyhow::Result<&'a Value> {
    let resources = plan["resources"].as_array().context("no resources")?;
    let resource =
        resources.iter().find(|one| one["name"] == sync).with_context(|| format!("{sync}: {plan:#}"))?;
    let rows = resource["certificates"].as_array().context("no certificates")?;
    let is_it =
        |row: &&Value| row["secret"].as_str().is_some_and(|name| name.ends_with(&format!("/{secret}")));
    rows.iter().find(is_it).with_context(|| format!("no row of {secret}: {plan:#}"))
}

fn acts(plan: &Value, sync: &str, secret: &str, act: &str, reason: Option<&str>) -> anyhow::Result<()> {
    let row = planned(plan, sync, secret)?;
    ensure!(row["act"] == act, "{secret}: not {act}: {row:#}");
    ensure!(row["reason"].as_str() == reason, "{secret}: not {reason:?}: {row:#}");
    Ok(())
}

/// A KeyVaultSync of the scene, as a file has it.
fn document(scene: &Scene, name: &str, mut spec: Value) -> String {
    spec["vaultRef"] = json!({"name": scene.name()});
    json!({
        "apiVersion": format!("{GROUP}/{VERSION}"), "kind": "KeyVaultSync",
        "metadata": {"name": name, "namespace": scene.name()}, "spec": spec,
    })
    .to_string()
}

/// Every object that a plan could have touched, with its edition.
async fn editions(scene: &Scene) -> anyhow::Result<Vec<String>> {
    fn of<K: Resource<DynamicType = ()>>(objects: &[K]) -> Vec<String> {
        let edition = |object: &K| {
            let meta = object.meta();
            format!("{} {:?} {:?} {:?}", K::kind(&()), meta.namespace, meta.name, meta.resource_version)
        };
        objects.iter().map(edition).collect()
    }
    let everything = ListParams::default();
    let client = || scene.stage().client().clone();
    let mut all = of(&scene.syncs().list(&everything).await?.items);
    all.extend(of(&scene.secrets().list_metadata(&everything).await?.items));
    all.extend(of(&Api::<Event>::namespaced(client(), scene.name()).list(&everything).await?.items));
    let vaults = scene.key_vaults().list(&everything).await?.items;
    all.extend(of(&vaults
        .into_iter()
        .filter(|one| one.meta().name.as_deref() == Some(scene.name()))
        .collect::<Vec<_>>()));
    let claims = scene.claims().list(&everything).await?.items;
    all.extend(of(&claims
        .into_iter()
        .filter(|claim| claim.spec.vault_host == scene.host())
        .collect::<Vec<_>>()));
    Ok(all)
}

/// Waits until the KeyVault's own status is written: what changes after that, somebody changed.
async fn at_rest(scene: &Scene) -> anyhow::Result<()> {
    keyvault_sync_e2e::wait::object(&scene.key_vaults(), scene.name(), "to be Ready", |vault| {
        vault.status.as_ref().is_some_and(|status| {
            keyvault_sync_api::conditions::is_true(&status.conditions, keyvault_sync_api::conditions::READY)
        })
    })
    .await
    .map(drop)
}

async fn what_a_plan_says_of_a_file_is_what_the_operator_does_and_planning_writes_nothing(
    scene: Scene,
) -> anyhow::Result<()> {
    scene.key_vault(scene.name(), scene.open_to_adopt()).await?;
    let mut issued = Vec::new();
    for secret in ["web-tls", "taken", "mine", "other"] {
        issued.push(scene.renew(secret).await?);
    }
    let entries = keyvault_sync_e2e::scene::entries("nonsense", &issued[0].key, "");
    scene.put_entries("bad", &entries).await?;
    let theirs = scene.put_by_others("taken", &issued[1], &[])?;
    let same = scene.put_by_others("mine", &issued[2], &[("team", "web")])?;
    scene.put_by_others("other", &issued[0], &[])?;
    let file = [
        document(&scene, "plain", json!({"certificates": [
            {"secretName": "web-tls"}, {"secretName": "bad"}, {"secretName": "taken"}, {"secretName": "missing"},
        ]})),
        document(&scene, "adopting", json!({
            "conflictPolicy": "Adopt", "certificates": [{"secretName": "mine"}, {"secretName": "other"}],
        })),
        document(&scene, "late", json!({"certificates": [{"secretName": "other", "certificateName": "web-tls"}]})),
    ]
    .join("\n---\n");
    at_rest(&scene).await?;

    let (before, calls) = (editions(&scene).await?, scene.emulator().calls(&scene.host()).len());
    let (plan, code) = plan(&scene, &["--file=-"], &file).await?;
    ensure!(code == 2, "{code}: something is refused: {plan:#}");
    ensure!(editions(&scene).await? == before, "planning wrote into the cluster");
    let made = scene.emulator().calls(&scene.host());
    ensure!(made.len() > calls, "the vault was not looked at: {plan:#}");
    let reads_alone = made.iter().skip(calls).all(|call| call.method == "GET" && !call.committed);
    ensure!(reads_alone, "planning did more than read: {made:?}");
    for (sync, secret, act, reason) in [
        ("plain", "web-tls", "Import", Some("New")),
        ("plain", "bad", "Refuse", Some("InvalidCertificate")),
        ("plain", "taken", "Refuse", Some("NotManaged")),
        ("plain", "missing", "Refuse", Some("SecretNotFound")),
        ("adopting", "mine", "Adopt", None),
        ("adopting", "other", "Import", Some("Adopted")),
    ] {
        acts(&plan, sync, secret, act, reason)?;
        ensure!(planned(&plan, sync, secret)?["claim"]["act"] == "Create", "{plan:#}");
    }
    // Two resources of the file want one name; which is first, the operator's queue decides, but it is one of them.
    ensure!(plan["resources"].as_array().is_some_and(|all| all.len() == 3), "{plan:#}");
    acts(&plan, "late", "other", "Refuse", Some("NameCollision"))?;
    ensure!(plan["refused"] == 4, "{plan:#}");

    // The losing resource of that name apart, all of it comes true.
    let file: Vec<&str> = file.split("\n---\n").take(2).collect();
    scene.stage().cluster.apply(&file.join("\n---\n")).await?;
    scene.holds("plain", "web-tls", &issued[0]).await?;
    scene.holds("adopting", "other", &issued[3]).await?;
    scene.holds("adopting", "mine", &issued[2]).await?;
    for secret in ["bad", "taken", "missing"] {
        let foreseen = planned(&plan, "plain", secret)?;
        let reason = foreseen["reason"].as_str().context("no reason")?;
        let met = scene.row("plain", secret, reason).await?;
        ensure!(met.message.as_deref() == foreseen["message"].as_str(), "{met:?} is not {foreseen:#}");
    }
    ensure!(scene.versions("web-tls").len() == 1 && scene.versions("other").len() == 2);
    ensure!(scene.versions("mine").iter().map(|one| &one.version).eq([&same]), "adopted by an import");
    ensure!(scene.versions("taken").iter().map(|one| &one.version).eq([&theirs]), "written over");
    Ok(())
}

async fn a_plan_tells_what_changes_and_what_becomes_of_what_is_given_up(scene: Scene) -> anyhow::Result<()> {
    for secret in ["stays", "goes", "kept", "instead"] {
        scene.renew(secret).await?;
    }
    let spec = json!({"deletionPolicy": "Delete", "certificates": [{"secretName": "stays"}, {"secretName": "goes"}]});
    scene.sync("web", spec).await?;
    scene.synced("web", "2/2").await?;
    scene.sync("shop", json!({"certificates": [{"secretName": "kept"}]})).await?;
    scene.synced("shop", "1/1").await?;
    let (now, code) = plan(&scene, &["--namespace", scene.name()], "").await?;
    ensure!(code == 0, "{now:#}");
    acts(&now, "web", "stays", "InSync", None)?;
    ensure!(planned(&now, "web", "stays")?["basis"] == "Vault", "it was not compared: {now:#}");

    let web = json!({
        "deletionPolicy": "Delete", "tags": {"team": "web"}, "certificates": [{"secretName": "stays"}],
    });
    let shop = json!({"certificates": [{"secretName": "instead"}]});
    let file = [document(&scene, "web", web.clone()), document(&scene, "shop", shop.clone())].join("\n---\n");
    let (changed, code) = plan(&scene, &["--file=-"], &file).await?;
    ensure!(code == 0, "{changed:#}");
    acts(&changed, "web", "stays", "Retag", None)?;
    let ending = |sync: &str| {
        let resources = changed["resources"].as_array().into_iter().flatten();
        resources
            .clone()
            .find(|one| one["name"] == sync)
            .map(|one| one["givenUp"][0].clone())
            .unwrap_or_default()
    };
    for (sync, name, act, policy) in
        [("web", "goes", "Delete", "Delete"), ("shop", "kept", "Retain", "Retain")]
    {
        let ending = ending(sync);
        ensure!(
            ending["name"] == name
                && ending["act"] == act
                && ending["deletionPolicy"] == policy
                && ending["why"] == "EntryGone",
            "{changed:#}"
        );
    }
    // Somebody's hand in the vault: seen by the plan, repaired at the next comparison.
    scene.emulator().soft_delete(&scene.host(), "kept");
    let (drifted, _) = plan(&scene, &["kvsync/shop", "--namespace", scene.name()], "").await?;
    let found = planned(&drifted, "shop", "kept")?;
    ensure!(found["act"] == "Recover" && found["atComparison"] == true, "{drifted:#}");
    scene.emulator().recover(&scene.host(), "kept");

    // By the same field manager as before: another one's apply would leave the entries of the first.
    scene.sync("web", web).await?;
    scene.sync("shop", shop).await?;
    scene.soft_deleted("goes").await?;
    scene.given_up("goes").await?;
    scene.given_up("kept").await?;
    scene.synced("web", "1/1").await?;
    let stays = scene.versions("stays");
    ensure!(stays.len() == 1 && stays[0].tags.get("team").is_some_and(|team| team == "web"), "{stays:?}");
    ensure!(scene.state("kept") == Some(keyvault_emulator::State::Normal));
    Ok(())
}

async fn a_plan_without_the_vault_goes_by_what_is_recorded_and_says_so(scene: Scene) -> anyhow::Result<()> {
    scene.renew("web-tls").await?;
    scene.sync_of("web", &["web-tls"]).await?;
    scene.synced("web", "1/1").await?;
    at_rest(&scene).await?;
    let ours = ["--namespace", scene.name()];
    let calls = scene.emulator().calls(&scene.host()).len();
    let (offline, code) = plan(&scene, &[&ours[..], &["--offline"]].concat(), "").await?;
    ensure!(code == 0, "{offline:#}");
    acts(&offline, "web", "web-tls", "InSync", None)?;
    ensure!(planned(&offline, "web", "web-tls")?["basis"] == "Record", "{offline:#}");
    ensure!(scene.emulator().calls(&scene.host()).len() == calls, "--offline made a call");

    // From where the tool runs, the firewall lets nobody in; a file asks for something else.
    let fault = Fault::new(Effect::forbidden("ForbiddenByFirewall"));
    let fault = scene.emulator().inject(fault.host(&scene.host()));
    let more = document(
        &scene,
        "web",
        json!({
            "tags": {"team": "web"}, "certificates": [{"secretName": "web-tls"}, {"secretName": "new-tls"}],
        }),
    );
    scene.renew("new-tls").await?;
    let (blind, code) = plan(&scene, &["--file=-"], &more).await?;
    ensure!(code == 0, "{blind:#}");
    acts(&blind, "web", "web-tls", "Retag", None)?;
    acts(&blind, "web", "new-tls", "Import", Some("New"))?;
    let vault = &blind["vaults"][0];
    ensure!(
        vault["lookedAt"] == false && vault["message"].as_str().is_some_and(|why| why.contains("firewall")),
        "{blind:#}"
    );
    scene.emulator().clear_fault(fault);

    // That the identity may not read is no matter of where it runs: the operator meets the same.
    scene.emulator().allow(&scene.host(), CLIENT, Permissions::none());
    let (refused, code) = plan(&scene, &["--file=-"], &more).await?;
    ensure!(code == 2, "{refused:#}");
    acts(&refused, "web", "new-tls", "Refuse", Some("Forbidden"))
}

async fn a_plan_of_a_new_vault_and_a_resource_over_namespaces_comes_true(scene: Scene) -> anyhow::Result<()> {
    let (second, stranger) = (scene.tenant("b").await?, scene.tenant("c").await?);
    let shared = scene.renew("shared").await?;
    // The first to be there is the one that is pushed.
    scene.outlive("shared").await?;
    second.put_issued("shared", &shared).await?;
    stranger.renew("unwanted").await?;
    let vault = format!("{}-new", scene.name());
    scene.make_vault(&vault);
    let meta = |name: &str| json!({"name": name});
    let version = format!("{GROUP}/{VERSION}");
    let key_vault = json!({
        "apiVersion": version, "kind": "KeyVault", "metadata": meta(&vault),
        "spec": {"url": format!("https://{}", host(&vault)), "grants": [
            {"namespaces": {"names": [scene.name(), second.name()]}, "push": ["*"]},
        ]},
    });
    let over = json!({
        "apiVersion": version, "kind": "ClusterKeyVaultSync", "metadata": meta(&vault),
        "spec": {
            "vaultRef": {"name": vault}, "selector": {}, "certificateNameTemplate": "{secret}",
            "namespaceSelector": {"names": [scene.name(), second.name(), stranger.name()]},
        },
    });
    let file = format!("{key_vault}\n---\n{over}");
    let (plan, code) = plan(&scene, &["--file=-"], &file).await?;
    ensure!(code == 2 && plan["refused"] == 1, "{plan:#}");
    let of = |secret: String, act: &str| {
        let rows = plan["resources"][0]["certificates"].as_array().into_iter().flatten();
        rows.clone().any(|row| row["secret"] == secret && row["act"] == act)
    };
    ensure!(of(format!("{}/shared", scene.name()), "Import"), "{plan:#}");
    ensure!(of(format!("{}/shared", second.name()), "Copy"), "{plan:#}");
    ensure!(of(format!("{}/unwanted", stranger.name()), "Refuse"), "{plan:#}");
    acts(&plan, &vault, "unwanted", "Refuse", Some("NotGranted"))?;
    scene.stage().cluster.apply(&file).await?;
    scene.cluster_row(&vault, "shared", "Synced").await?;
    second.cluster_row(&vault, "shared", "Synced").await?;
    stranger.cluster_row(&vault, "unwanted", "NotGranted").await?;
    let names = scene.emulator().certificate_names(&host(&vault));
    ensure!(names == ["shared"] && imports(&scene.emulator().calls(&host(&vault))) == 1, "{names:?}");
    scene.delete(&scene.cluster_syncs(), &vault).await
}

async fn a_plan_of_the_cluster_knows_its_operators_settings_from_its_pod(scene: Scene) -> anyhow::Result<()> {
    scene.renew("web-tls").await?;
    scene.sync_of("of-the-pod", &["web-tls"]).await?;
    scene.synced("of-the-pod", "1/1").await?;
    // Nothing runs it; the webhook of Workload Identity would have set its environment.
    let pods: Api<Pod> = Api::namespaced(scene.stage().client().clone(), OPERATOR);
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "operator"},
        "spec": {"serviceAccountName": OPERATOR, "containers": [{
            "name": "keyvault-sync", "image": "none",
            "env": [{"name": "AZURE_TENANT_ID", "value": TENANT}, {"name": "AZURE_CLIENT_ID", "value": CLIENT}],
        }]},
    });
    pods.patch("operator", &PatchParams::apply("promise-test").force(), &Patch::Apply(&pod)).await?;
    let settings = to_emulator(&scene);
    // All that goes through one vault; the vaults of the tests beside this one are left alone.
    let through = format!("keyvault/{}", scene.name());
    let mut arguments = vec!["plan", "--output=json", &through];
    arguments.extend(settings.iter().map(String::as_str));
    let (plan, _) = answered(tool(&scene, &arguments, "").await?)?;
    acts(&plan, "of-the-pod", "web-tls", "InSync", None)?;
    ensure!(
        planned(&plan, "of-the-pod", "web-tls")?["basis"] == "Vault",
        "the vault was not opened: {plan:#}"
    );
    let (all, _) = plan_of_all_offline(&scene).await?;
    acts(&all, "of-the-pod", "web-tls", "InSync", None)?;
    // For people: the same in a table.
    let mut arguments = vec!["plan", "kvsync/of-the-pod", "--namespace", scene.name()];
    arguments.extend(settings.iter().map(String::as_str));
    let output = tool(&scene, &arguments, "").await?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let summed = text.contains("Plan: 1 in step. Nothing was written.");
    ensure!(summed && text.contains("InSync") && output.stderr.is_empty(), "{text}");
    Ok(())
}

async fn plan_of_all_offline(scene: &Scene) -> anyhow::Result<(Value, i32)> {
    plan(scene, &["--all-namespaces", "--offline"], "").await
}

/// Checks; the answer and the exit code.
async fn check(scene: &Scene, vault: &str, settings: &[String]) -> anyhow::Result<(Value, i32)> {
    let mut arguments = vec!["check", vault, "--output=json"];
    arguments.extend(settings.iter().map(String::as_str));
    answered(tool(scene, &arguments, "").await?)
}

/// The one step that failed, and with which words; none of those after it was called well.
fn fails_at(answer: &Value, step: &str, words: &[&str]) -> anyhow::Result<()> {
    let steps = answer["steps"].as_array().context("no steps")?;
    let failed =
        steps.iter().find(|one| one["outcome"] == "Failed").with_context(|| format!("{answer:#}"))?;
    ensure!(failed["step"] == step, "not {step}: {answer:#}");
    let message = failed["message"].as_str().unwrap_or_default();
    ensure!(words.iter().all(|word| message.contains(word)), "{words:?}: {answer:#}");
    Ok(())
}

async fn a_check_finds_what_stands_in_the_way_and_names_it(scene: Scene) -> anyhow::Result<()> {
    let settings = as_operator(&scene);
    let before = scene.emulator().calls(&scene.host()).len();
    let (well, code) = check(&scene, scene.name(), &settings).await?;
    let is_unknown = |step: &Value| step["outcome"] == "Unknown";
    let unknown =
        well["steps"].as_array().context("no steps")?.iter().filter(|step| is_unknown(step)).count();
    ensure!(code == 0 && unknown == 3, "all but what only writing tells: {well:#}");
    let calls = scene.emulator().calls(&scene.host());
    ensure!(
        writes(&calls[before..]).is_empty() && calls.iter().all(|call| call.method == "GET"),
        "{calls:?}"
    );
    let (by_url, code) = check(&scene, &format!("https://{}", scene.host()), &settings).await?;
    ensure!(code == 0, "{by_url:#}");

    // After a push, the record tells what was written.
    scene.renew("web-tls").await?;
    scene.sync_of("web", &["web-tls"]).await?;
    scene.synced("web", "1/1").await?;
    let (written, _) = check(&scene, scene.name(), &settings).await?;
    let is_write = |step: &&Value| step["step"] == "import, update" && step["outcome"] == "Ok";
    ensure!(
        written["steps"].as_array().is_some_and(|steps| steps.iter().any(|step| is_write(&step))),
        "{written:#}"
    );

    scene.emulator().allow(&scene.host(), CLIENT, Permissions::none());
    let (answer, code) = check(&scene, scene.name(), &settings).await?;
    ensure!(code == 2, "{answer:#}");
    fails_at(&answer, "get", &["Key Vault Certificates Officer"])?;
    scene.emulator().allow(&scene.host(), CLIENT, Permissions::certificates_officer());

    let fault = Fault::new(Effect::forbidden("ForbiddenByFirewall"));
    let fault = scene.emulator().inject(fault.host(&scene.host()));
    fails_at(&check(&scene, scene.name(), &settings).await?.0, "firewall and tenant", &["firewall"])?;
    scene.emulator().clear_fault(fault);

    let elsewhere = format!("{}-foreign", scene.name());
    scene.emulator().add_vault(&host(&elsewhere), "00000000-1111-4222-8333-444444444444");
    let (answer, _) = check(&scene, &format!("https://{}", host(&elsewhere)), &settings).await?;
    fails_at(&answer, "firewall and tenant", &["another tenant"])?;

    let mut unknown = settings.clone();
    unknown.retain(|setting| !setting.starts_with("--azure-client-id"));
    unknown.push("--azure-client-id=99999999-0000-4000-8000-000000000000".into());
    fails_at(&check(&scene, scene.name(), &unknown).await?.0, "token", &["AADSTS700016"])?;

    // Nobody has a vault of this name, and without the emulator it is the resolver that is asked.
    let ids: Vec<String> = settings.iter().filter(|one| one.starts_with("--azure")).cloned().collect();
    let (answer, code) = check(&scene, "https://no-such-vault-0b7c1.vault.azure.net", &ids).await?;
    ensure!(code == 2, "{answer:#}");
    fails_at(&answer, "DNS", &["cannot be resolved"])?;

    // Another emulator's authority is not the one that signed this one's certificate.
    let other = Emulator::start(([127, 0, 0, 1], 0).into()).await?;
    let mut untrusting = settings.clone();
    untrusting.retain(|setting| !setting.starts_with("--emulator-address"));
    untrusting.push(format!("--emulator-address={}", other.address()));
    fails_at(&check(&scene, scene.name(), &untrusting).await?.0, "TLS", &["CA bundle"])?;
    other.stop().await;
    Ok(())
}

async fn status_shows_the_worst_first_and_leaves_out_what_may_not_be_seen(
    scene: Scene,
) -> anyhow::Result<()> {
    scene.renew("well").await?;
    scene.sync_of("a-well", &["well"]).await?;
    scene.synced("a-well", "1/1").await?;
    let ours = ["status", "--namespace", scene.name(), "--output=json"];
    let (well, code) = answered(tool(&scene, &ours, "").await?)?;
    ensure!(code == 0, "{well:#}");
    scene.put_entries("bad", &keyvault_sync_e2e::scene::entries("nonsense", "nonsense", "")).await?;
    scene.sync_of("z-failing", &["bad"]).await?;
    scene.row("z-failing", "bad", "InvalidCertificate").await?;
    let (worst, code) = answered(tool(&scene, &ours, "").await?)?;
    ensure!(code == 2, "{worst:#}");
    let lines = worst["resources"].as_array().context("no resources")?;
    let ready: Vec<&str> = lines.iter().filter_map(|line| line["ready"].as_str()).collect();
    let first_well = ready.iter().position(|ready| *ready == "True").context("nothing is well")?;
    ensure!(ready[first_well..].iter().all(|ready| *ready == "True") && first_well == 2, "{worst:#}");
    ensure!(lines[0]["reason"] == "InvalidCertificate", "{worst:#}");
    ensure!(lines.iter().any(|line| line["kind"] == "KeyVault" && line["name"] == scene.name()), "{worst:#}");
    let table = tool(&scene, &ours[..3], "").await?;
    let text = String::from_utf8_lossy(&table.stdout).into_owned();
    ensure!(text.starts_with("READY") && table.stderr.is_empty(), "{text}");

    // Somebody who may see the wishes of his namespace, and nothing else.
    let rights = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role",
        "metadata": {"name": "reader", "namespace": scene.name()},
        "rules": [{"apiGroups": [GROUP], "resources": ["keyvaultsyncs"], "verbs": ["list"]}],
    });
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "reader", "namespace": scene.name()}});
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
        "metadata": {"name": "reader", "namespace": scene.name()},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "reader"},
        "subjects": [{"kind": "ServiceAccount", "name": "reader", "namespace": scene.name()}],
    });
    scene.stage().cluster.apply(&format!("{rights}\n---\n{account}\n---\n{binding}")).await?;
    let kubeconfig = scene.stage().cluster.folder().join(format!("{}-reader.kubeconfig", scene.name()));
    scene.stage().cluster.kubeconfig_for(scene.name(), "reader", &kubeconfig).await?;
    let kubeconfig = format!("--kubeconfig={}", kubeconfig.display());
    // Rights take the API server a moment.
    let output = keyvault_sync_e2e::wait::until("the reader to see his wishes", || async {
        // The namespace is the kubeconfig's.
        let output = tool(&scene, &["status", &kubeconfig], "").await?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        Ok(if text.contains("z-failing") {
            keyvault_sync_e2e::wait::Seen::Done(output)
        } else {
            keyvault_sync_e2e::wait::Seen::NotYet(text)
        })
    })
    .await?;
    let left_out = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(left_out.lines().count() == 2 && left_out.contains("left out: KeyVault:"), "{left_out}");
    ensure!(
        left_out.contains("left out: KeyVaultCertificate:") && output.status.code() == Some(2),
        "{left_out}"
    );
    Ok(())
}

async fn definitions_are_applied_once_and_never_over_newer_ones(_scene: Scene) -> anyhow::Result<()> {
    let cluster = LocalCluster::start().await?;
    let (program, kubeconfig) = (operator::binary().await?, cluster.admin_kubeconfig().display().to_string());
    let apply = async |more: &[&str]| {
        let arguments = [&["crds", "--apply", "--kubeconfig", &kubeconfig], more].concat();
        let output = run_at(&program, &arguments, &[], "").await?;
        let texts = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
        anyhow::Ok((output.status.code(), texts.concat()))
    };
    let all_say =
        |text: &str, word: &str| text.lines().count() == 4 && text.lines().all(|line| line.ends_with(word));
    let (code, text) = apply(&[]).await?;
    ensure!(code == Some(0) && all_say(&text, " created"), "{text}");
    // They are served when it ends.
    let syncs: Api<keyvault_sync_api::KeyVaultSync> = Api::all(cluster.admin());
    syncs.list(&ListParams::default()).await?;
    let (code, text) = apply(&[]).await?;
    ensure!(code == Some(0) && all_say(&text, " unchanged"), "{text}");

    let definitions: Api<
        k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
    > = Api::all(cluster.admin());
    let name = "keyvaults.keyvaultsync.io";
    let edit = async |version: &str, description: &str| {
        let patch = json!([
            {"op": "add", "path": "/metadata/annotations", "value": {VERSION_ANNOTATION: version}},
            {"op": "add", "path": "/spec/versions/0/schema/openAPIV3Schema/description", "value": description},
        ]);
        let patch: kube::core::params::Patch<Value> = Patch::Json(serde_json::from_value(patch)?);
        definitions.patch(name, &PatchParams::default(), &patch).await?;
        anyhow::Ok(())
    };
    edit("0.0.1", "An older one.").await?;
    let (code, text) = apply(&[]).await?;
    ensure!(code == Some(0) && text.contains(&format!("{name} changed")), "{text}");
    ensure!(text.matches(" unchanged").count() == 3, "{text}");

    edit("999.0.0", "A newer one.").await?;
    let (code, text) = apply(&[]).await?;
    ensure!(code == Some(2) && text.lines().count() == 1, "{text}");
    ensure!(text.contains(name) && text.contains("999.0.0") && text.contains("--force"), "{text}");
    let there = serde_json::to_string(&definitions.get(name).await?)?;
    ensure!(there.contains("A newer one."), "replaced all the same");
    let (code, text) = apply(&["--force"]).await?;
    ensure!(code == Some(0) && text.contains(&format!("{name} changed")), "{text}");

    // What is printed is what kubectl takes.
    let printed = run_at(&program, &["crds"], &[], "").await?;
    let taken = cluster
        .kubectl_with_input(
            &["apply", "--server-side", "--force-conflicts", "--filename=-"],
            &String::from_utf8(printed.stdout)?,
        )
        .await?;
    ensure!(taken.status.success(), "{}", String::from_utf8_lossy(&taken.stderr));
    cluster.stop().await
}

async fn kubectl_finds_the_plugin_by_its_name(scene: Scene) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    std::os::unix::fs::symlink(operator::binary().await?, folder.path().join("kubectl-keyvault_sync"))?;
    let kubectl = scene.stage().cluster.kubectl_path().to_owned();
    let kubeconfig = scene.stage().cluster.admin_kubeconfig().display().to_string();
    let (path, home) = (folder.path().display().to_string(), folder.path().display().to_string());
    let variables = [("PATH", path.as_str()), ("HOME", &home), ("KUBECONFIG", &kubeconfig)];
    let call = async |arguments: &[&str]| {
        let output = run_at(&kubectl, arguments, &variables, "").await?;
        let texts = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        anyhow::Ok((output.status.code(), texts))
    };
    let (code, [help, _]) = call(&["keyvault-sync", "plan", "--help"]).await?;
    ensure!(code == Some(0) && help.contains("Usage: kubectl keyvault-sync plan"), "{help}");
    let (code, [version, _]) = call(&["keyvault-sync", "version", "--output=json"]).await?;
    let version: Value = serde_json::from_str(&version)?;
    ensure!(code == Some(0) && version["version"] == env!("CARGO_PKG_VERSION"), "{version:#}");
    ensure!(version["apiVersions"].as_array().is_some_and(|kinds| kinds.len() == 4), "{version:#}");
    let (code, _) = call(&["keyvault-sync", "status", "--namespace", "default"]).await?;
    ensure!(code == Some(0), "{code:?}");
    // Without a word of what is meant it runs no operator.
    let (code, texts) = call(&["keyvault-sync"]).await?;
    ensure!(code == Some(1) && texts.concat().contains("kubectl keyvault-sync"), "{texts:?}");
    Ok(())
}

async fn what_cannot_be_done_is_said_in_a_line(scene: Scene) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).map(|()| path.display().to_string())
    };
    let nowhere = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "nowhere",
        "clusters": [{"name": "nowhere", "cluster": {"server": "https://127.0.0.1:1"}}],
        "contexts": [{"name": "nowhere", "context": {"cluster": "nowhere", "user": "nobody"}}],
        "users": [{"name": "nobody", "user": {}}],
    });
    let nowhere = format!("--kubeconfig={}", file("nowhere", &nowhere.to_string())?);
    let broken = format!("--file={}", file("broken.yaml", "kind: [")?);
    let unknown = document(&scene, "web", json!({"certificate": []}));
    let unknown = format!("--file={}", file("unknown.yaml", &unknown)?);
    let empty = document(&scene, "web", json!({"certificates": []}));
    let empty = format!("--file={}", file("empty.yaml", &empty)?);
    for (arguments, words) in [
        (&["status", nowhere.as_str()][..], &["https://127.0.0.1:1", "cannot be reached"][..]),
        (&["plan", &nowhere], &["https://127.0.0.1:1", "cannot be reached"]),
        (&["status", "--context=none"], &["none"]),
        (&["plan", "--kubeconfig=/no/such/file"], &["/no/such/file"]),
        (&["plan", "deployment/web"], &["\"deployment\"", "kvsync/NAME"]),
        (&["plan", "kvsync/none", "--namespace=default"], &["no KeyVaultSync default/none", "--file"]),
        (&["plan", "keyvault/none"], &["no KeyVault none"]),
        (&["plan", "--file=/no/such/file"], &["/no/such/file"]),
        (&["plan", &broken], &["broken.yaml", "not YAML"]),
        (&["plan", &unknown], &["KeyVaultSync web", "spec.certificate"]),
        (&["plan", &empty], &["the API server would refuse it", "nothing is selected"]),
        (&["check", "none"], &["no KeyVault none"]),
    ] {
        let output = tool(&scene, arguments, "").await?;
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.code() == Some(1) && output.stdout.is_empty(), "{arguments:?}: {output:?}");
        ensure!(
            text.lines().count() == 1 && words.iter().all(|word| text.contains(word)),
            "{arguments:?}: {text}"
        );
    }
    // A vault whose address is none is a finding, not a failure to look.
    let (answer, code) = check(&scene, "https://example.com", &as_operator(&scene)).await?;
    ensure!(code == 2, "{answer:#}");
    fails_at(&answer, "url", &["example.com"])?;
    // None of this reached a vault.
    ensure!(imports(&scene.emulator().calls(&scene.host())) == 0);
    Ok(())
}
