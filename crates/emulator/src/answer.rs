//! Bodies of answers: whole, a drip at a time, or far too long.
//! Leaves it to service.rs which one a call gets.

use std::convert::Infallible;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::Response;
use hyper::body::{Bytes, Frame};

/// Body of every answer.
pub(crate) type Body = UnsyncBoxBody<Bytes, Infallible>;

/// Bytes of white space that a huge body is made of at a time.
const BLANKS: &[u8] = &[b' '; 64 * 1024];

/// `text`, at once, with its length.
pub(crate) fn whole(text: String) -> Body {
    Full::new(Bytes::from(text)).boxed_unsync()
}

/// The same answer, `size` bytes at a time, a pause before each.
pub(crate) async fn drip(response: Response<Body>, size: usize, pause: Duration) -> Response<Body> {
    let (head, bytes) = taken_apart(response).await;
    let pieces: Vec<Bytes> = bytes.chunks(size).map(Bytes::copy_from_slice).collect();
    let body = stream::iter(pieces).then(move |piece| async move {
        tokio::time::sleep(pause).await;
        piece
    });
    Response::from_parts(head, streamed(body))
}

/// The same answer behind `length` bytes of white space, which JSON allows.
pub(crate) async fn huge(response: Response<Body>, length: u64) -> Response<Body> {
    let (head, bytes) = taken_apart(response).await;
    let blanks = stream::unfold(length, |left| async move {
        let size = usize::try_from(left).unwrap_or(usize::MAX).min(BLANKS.len());
        (size > 0).then(|| (Bytes::from_static(&BLANKS[..size]), left - size as u64))
    });
    Response::from_parts(head, streamed(blanks.chain(stream::once(async { bytes }))))
}

fn streamed(pieces: impl futures::Stream<Item = Bytes> + Send + 'static) -> Body {
    StreamBody::new(pieces.map(|piece| Ok(Frame::data(piece)))).boxed_unsync()
}

async fn taken_apart(response: Response<Body>) -> (hyper::http::response::Parts, Bytes) {
    let (head, body) = response.into_parts();
    match body.collect().await {
        Ok(collected) => (head, collected.to_bytes()),
        Err(never) => match never {},
    }
}
