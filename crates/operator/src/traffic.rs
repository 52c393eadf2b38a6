//! Requests to the API server as they go by: all are counted by verb and code, and those of a watch are its signs of life.
//! What a watch's silence means is left to `signs`.

use std::sync::Arc;

use http_body_util::BodyExt;
use kube::Client;
use kube::client::Body;

use crate::metrics::Metrics;
use crate::signs::WatchSigns;

type Request = axum::http::Request<Body>;

/// A client whose requests are counted.
pub(crate) fn counted(client: Client, metrics: Arc<Metrics>) -> Client {
    let namespace = client.default_namespace().to_owned();
    let service = tower::service_fn(move |request: Request| {
        let (client, metrics) = (client.clone(), Arc::clone(&metrics));
        async move {
            let verb = verb(&request);
            let answer = client.send(request).await;
            let code =
                answer.as_ref().map_or("none".to_owned(), |answer| answer.status().as_str().to_owned());
            metrics.api_requests.inc([verb, &code]);
            answer
        }
    });
    Client::new(service, namespace)
}

/// A client of one watch, which tells of every request and of all that comes back.
pub(crate) fn watched(client: Client, signs: Arc<WatchSigns>) -> Client {
    let namespace = client.default_namespace().to_owned();
    let service = tower::service_fn(move |request: Request| {
        let (client, signs) = (client.clone(), Arc::clone(&signs));
        async move {
            signs.began();
            let answer = client.send(request).await?;
            if answer.status().is_success() {
                signs.is_fresh();
            }
            Ok::<_, kube::Error>(answer.map(|body| {
                body.map_frame(move |frame| {
                    // An event, or a bookmark, which the API server sends about once a minute.
                    signs.is_fresh();
                    frame
                })
            }))
        }
    });
    Client::new(service, namespace)
}

fn verb(request: &Request) -> &'static str {
    let is_watch = request.uri().query().is_some_and(|query| query.split('&').any(is_watch));
    match request.method().as_str() {
        "GET" if is_watch => "watch",
        "GET" => "get",
        "POST" => "post",
        "PUT" => "put",
        "PATCH" => "patch",
        "DELETE" => "delete",
        _ => "other",
    }
}

fn is_watch(parameter: &str) -> bool {
    matches!(parameter, "watch=true" | "watch=1")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watch_is_told_from_a_list() {
        for (method, uri, expected) in [
            ("GET", "/api/v1/secrets?limit=250", "get"),
            ("GET", "/api/v1/secrets?&watch=true&timeoutSeconds=200", "watch"),
            ("GET", "/api/v1/secrets?fieldSelector=watch%3Dtrue", "get"),
            ("PATCH", "/api/v1/secrets/a", "patch"),
            ("OPTIONS", "/", "other"),
        ] {
            let request = axum::http::Request::builder().method(method).uri(uri).body(Body::empty()).unwrap();
            assert_eq!(verb(&request), expected, "{method} {uri}");
        }
    }
}
