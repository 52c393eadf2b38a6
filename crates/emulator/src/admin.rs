//! The admin API: plain HTTP on loopback, through which a person or a script looks at the journal and breaks things.
//! Leaves everything it does to the handle's own methods; is not part of what stands in for Azure.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Weak};
use std::time::Duration;

use http_body_util::{BodyExt as _, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HOST, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::answer::{self, Body};
use crate::fault::{Fault, FaultId};
use crate::vault::{Permissions, State};
use crate::{Emulator, Running, server};

/// Bytes of a request's body, at most.
const MAX_BODY: usize = 64 * 1024;

/// An answer, or status and words of a refusal.
type Reply = Result<Value, (StatusCode, String)>;

/// What can be done to a certificate.
const ACTS: &str = "what can be done: enable, disable, tags, copy, state, soft-delete, finish-deletion, recover, \
                    finish-recovery, begin-operation, finish-operation, purge";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StateBody {
    state: State,
}

/// How soft delete goes in a vault; what is not given stays.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct SoftDeleteBody {
    #[serde(default)]
    deletion: Option<Lasts>,
    #[serde(default)]
    recovery: Option<Lasts>,
    #[serde(default)]
    purge_protection: Option<bool>,
}

/// `{"milliseconds": 5000}` or `"untilTold"`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
enum Lasts {
    Milliseconds(u64),
    UntilTold,
}

impl Emulator {
    /// Serves the admin API (docs/emulator.md) on a loopback address until the emulator stops; where it listens.
    ///
    /// # Errors
    /// If `listen` is no loopback address or cannot be bound.
    pub async fn start_admin(&self, listen: SocketAddr) -> io::Result<SocketAddr> {
        let listener = server::bind(listen).await?;
        let address = listener.local_addr()?;
        let mut stop = self.running.stop.subscribe();
        // Weak, so that the admin API does not keep an emulator running whose last handle is gone.
        let emulator = Arc::downgrade(&self.running);
        tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                tokio::select! {
                    _ = server::stopped(&mut stop) => break,
                    Some(_) = connections.join_next() => {}
                    Ok((stream, _)) = listener.accept() => {
                        let emulator = emulator.clone();
                        connections.spawn(async move {
                            let service = service_fn(move |request| one(emulator.clone(), request));
                            let builder = auto::Builder::new(TokioExecutor::new());
                            let _ = builder.serve_connection(TokioIo::new(stream), service).await;
                        });
                    }
                }
            }
        });
        Ok(address)
    }
}

async fn one(emulator: Weak<Running>, request: Request<Incoming>) -> io::Result<Response<Body>> {
    let running = emulator.upgrade().ok_or(io::ErrorKind::ConnectionReset)?;
    let (status, body) = match reply(&Emulator { running }, request).await {
        Ok(body) => (StatusCode::OK, body),
        Err((status, message)) => (status, json!({ "error": message })),
    };
    let mut response = Response::new(answer::whole(format!("{body:#}\n")));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

async fn reply(emulator: &Emulator, request: Request<Incoming>) -> Reply {
    let (head, body) = request.into_parts();
    // A page in a browser must not reach it under a name of its own (DNS rebinding).
    let host = head.headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    if !names_loopback(host) {
        return Err((StatusCode::FORBIDDEN, "call the admin API by its loopback address".to_owned()));
    }
    let body = Limited::new(body, MAX_BODY)
        .collect()
        .await
        .map_err(|_| (StatusCode::BAD_REQUEST, "the body could not be read".to_owned()))?
        .to_bytes();
    let query: BTreeMap<String, String> =
        form_urlencoded::parse(head.uri.query().unwrap_or_default().as_bytes()).into_owned().collect();
    let path = head.uri.path().trim_matches('/');
    route(emulator, &head.method, &path.split('/').collect::<Vec<_>>(), &query, &body)
}

fn route(
    emulator: &Emulator,
    method: &Method,
    path: &[&str],
    query: &BTreeMap<String, String>,
    body: &Bytes,
) -> Reply {
    match (method.as_str(), path) {
        ("GET", ["journal"]) => journal(emulator, query),
        ("GET", ["faults"]) => Ok(faults(emulator)),
        ("POST", ["faults"]) => Ok(json!({ "id": emulator.inject(parse::<Fault>(body)?) })),
        ("DELETE", ["faults"]) => {
            emulator.clear_faults();
            Ok(faults(emulator))
        }
        ("DELETE", ["faults", id]) => {
            let id = id.parse().map_err(|_| bad_request("a fault's id is a number"))?;
            found(emulator.clear_fault(FaultId(id)), "fault").map(|_| faults(emulator))
        }
        ("GET", ["identities"]) => Ok(json!(emulator.identities())),
        ("POST", ["identities"]) => {
            emulator.assign_identity(parse(body)?);
            Ok(json!(emulator.identities()))
        }
        ("DELETE", ["identities", client]) => {
            found(emulator.unassign_identity(client), "identity").map(|()| json!(emulator.identities()))
        }
        ("GET", ["vaults", host, "certificates"]) => Ok(json!(emulator.certificate_names(host))),
        ("GET", ["vaults", host, "certificates", name]) => certificate(emulator, host, name),
        ("POST", ["vaults", host, "certificates", name, act]) => change(emulator, host, name, act, body),
        ("POST", ["vaults", host, "plain-secrets", name]) => {
            emulator.put_plain_secret(host, name);
            Ok(json!({ "name": name }))
        }
        ("POST", ["vaults", host, "permissions", client, which]) => {
            let permissions = match *which {
                "all" => Permissions::all(),
                "certificates-officer" => Permissions::certificates_officer(),
                "none" => Permissions::none(),
                _ => return Err(bad_request("permissions are all, certificates-officer or none")),
            };
            allow(emulator, host, client, permissions)
        }
        ("POST", ["vaults", host, "permissions", client]) => allow(emulator, host, client, parse(body)?),
        ("POST", ["vaults", host, "soft-delete"]) => soft_delete(emulator, host, parse(body)?),
        _ => Err((StatusCode::NOT_FOUND, "no such path: see docs/emulator.md, Admin API".to_owned())),
    }
}

fn journal(emulator: &Emulator, query: &BTreeMap<String, String>) -> Reply {
    let wants =
        |name: &str, value: &str| query.get(name).is_none_or(|wanted| wanted.eq_ignore_ascii_case(value));
    let since = match query.get("since") {
        None => 0,
        Some(text) => text.parse().map_err(|_| bad_request("since is a call's number"))?,
    };
    let mut calls = emulator.journal();
    calls.retain(|call| {
        call.number >= since
            && wants("host", &call.host)
            && wants("operation", &call.operation.to_string())
            && wants("name", call.name.as_deref().unwrap_or_default())
    });
    Ok(json!(calls))
}

fn faults(emulator: &Emulator) -> Value {
    emulator.faults().iter().map(|(id, fault)| json!({ "id": id, "fault": fault })).collect()
}

fn certificate(emulator: &Emulator, host: &str, name: &str) -> Reply {
    let certificate = emulator.certificate(host, name);
    certificate
        .map(|certificate| json!(certificate))
        .ok_or_else(|| (StatusCode::NOT_FOUND, format!("no certificate {name} in {host}")))
}

fn allow(emulator: &Emulator, host: &str, client: &str, permissions: Permissions) -> Reply {
    found(emulator.has_vault(host), "vault")?;
    emulator.allow(host, client, permissions);
    Ok(json!({ "clientId": client, "permissions": permissions }))
}

fn soft_delete(emulator: &Emulator, host: &str, body: SoftDeleteBody) -> Reply {
    found(emulator.has_vault(host), "vault")?;
    match body.deletion {
        Some(Lasts::Milliseconds(time)) => emulator.set_deletion_time(host, Duration::from_millis(time)),
        Some(Lasts::UntilTold) => emulator.hold_deletions(host),
        None => {}
    }
    match body.recovery {
        Some(Lasts::Milliseconds(time)) => emulator.set_recovery_time(host, Duration::from_millis(time)),
        Some(Lasts::UntilTold) => emulator.hold_recoveries(host),
        None => {}
    }
    if let Some(protected) = body.purge_protection {
        emulator.set_purge_protection(host, protected);
    }
    Ok(json!({ "vault": host }))
}

fn change(emulator: &Emulator, host: &str, name: &str, act: &str, body: &Bytes) -> Reply {
    let done = match act {
        "enable" => emulator.set_enabled(host, name, None, true),
        "disable" => emulator.set_enabled(host, name, None, false),
        "tags" => emulator.set_tags(host, name, None, parse(body)?),
        "state" => emulator.set_state(host, name, parse::<StateBody>(body)?.state),
        "soft-delete" => emulator.soft_delete(host, name),
        "recover" => emulator.recover(host, name),
        "finish-deletion" => emulator.finish_deletion(host, name),
        "finish-recovery" => emulator.finish_recovery(host, name),
        "begin-operation" => emulator.begin_operation(host, name),
        "copy" => emulator.copy_version(host, name, parse(body)?).is_some(),
        "finish-operation" => {
            found(emulator.finish_operation(host, name), "pending operation")?;
            return Ok(json!(emulator.certificate(host, name)));
        }
        "purge" => {
            return found(emulator.purge(host, name), "certificate").map(|_| json!({ "purged": name }));
        }
        _ => return Err(bad_request(ACTS)),
    };
    found(done, "certificate in a state for it")?;
    certificate(emulator, host, name)
}

fn found(there: bool, what: &str) -> Result<(), (StatusCode, String)> {
    if there { Ok(()) } else { Err((StatusCode::NOT_FOUND, format!("no such {what}"))) }
}

fn parse<T: serde::de::DeserializeOwned>(body: &Bytes) -> Result<T, (StatusCode, String)> {
    serde_json::from_slice(body).map_err(|error| bad_request(&format!("the body does not fit: {error}")))
}

fn bad_request(message: &str) -> (StatusCode, String) {
    (StatusCode::BAD_REQUEST, message.to_owned())
}

fn names_loopback(host: &str) -> bool {
    let name = host.parse::<SocketAddr>().map(|address| address.ip()).or_else(|_| host.parse::<IpAddr>());
    match name {
        Ok(address) => address.is_loopback(),
        Err(_) => host.split(':').next() == Some("localhost"),
    }
}
