//! The gRPC health protocol (`grpc.health.v1.Health/Check`): one unary request over HTTP/2 without TLS.

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use futures::future;
use http::{HeaderMap, Request};
use stint_core::pod::probe::Answer;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{dial, join};

/// How large an answer may be, in bytes; a real one has 7.
const LARGEST: usize = 4096;
/// `grpc-status` by number.
const CODES: [&str; 17] = [
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
];
/// `HealthCheckResponse.ServingStatus` by number.
const SERVING: [&str; 4] = ["UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"];

/// What a server answers.
struct Reply {
    code: usize,
    message: String,
    body: BytesMut,
}

/// Whether `service` is well; the empty one is the server as a whole.
pub(super) async fn health(host: &str, port: u16, service: &str, limit: Duration) -> Answer {
    let asked = async {
        let address = join(host, port);
        let stream = dial(host, port, limit)
            .await
            .map_err(|fault| format!("error: failed to connect service at {address:?}: {fault}"))?;
        let unavailable =
            |error: h2::Error| format!("error: health rpc probe failed: rpc error: code = Unavailable desc = {error}");
        judge(&check(stream, &address, service).await.map_err(unavailable)?)
    };
    match timeout(limit, asked).await {
        Ok(Ok(())) => Answer::Success,
        Ok(Err(fault)) => Answer::Failure(fault),
        Err(_) => Answer::Failure(format!("timeout: health rpc did not complete within {limit:?}")),
    }
}

async fn check(stream: TcpStream, address: &str, service: &str) -> Result<Reply, h2::Error> {
    let (sender, connection) = h2::client::handshake(stream).await?;
    let talk = async {
        let mut sender = sender.ready().await?;
        let request = Request::post(format!("http://{address}/grpc.health.v1.Health/Check"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("user-agent", "kube-probe/1.36")
            .body(())
            .map_err(|_| h2::Error::from(h2::Reason::PROTOCOL_ERROR))?;
        let (response, mut body) = sender.send_request(request, false)?;
        body.send_data(message(service), true)?;
        let response = response.await?;
        let mut status = response.headers().clone();
        let mut stream = response.into_body();
        let mut body = BytesMut::new();
        while let Some(piece) = stream.data().await {
            let piece = piece?;
            let _ = stream.flow_control().release_capacity(piece.len());
            if body.len() + piece.len() > LARGEST {
                return Err(h2::Reason::ENHANCE_YOUR_CALM.into());
            }
            body.put(piece);
        }
        if let Some(trailers) = stream.trailers().await? {
            status.extend(trailers);
        }
        Ok(reply(&status, body))
    };
    // The connection is driven only while the request waits for it, and is closed with it. One that ends first has told
    // the request all that it had.
    let talk = std::pin::pin!(talk);
    match future::select(talk, connection).await {
        future::Either::Left((reply, _)) => reply,
        future::Either::Right((_, talk)) => talk.await,
    }
}

fn reply(status: &HeaderMap, body: BytesMut) -> Reply {
    let text = |name: &str| status.get(name).and_then(|value| value.to_str().ok());
    // Without any status the server is none of gRPC's.
    let code = text("grpc-status").and_then(|code| code.parse().ok()).unwrap_or(2);
    Reply { code, message: text("grpc-message").unwrap_or_default().to_owned(), body }
}

fn judge(reply: &Reply) -> Result<(), String> {
    let Reply { code, message, body } = reply;
    match code {
        0 => match serving(body) {
            Some(1) => Ok(()),
            status => {
                let status = status.and_then(|status| usize::try_from(status).ok());
                let status = status.and_then(|status| SERVING.get(status)).copied().unwrap_or("UNKNOWN");
                Err(format!("service unhealthy (responded with {status:?})"))
            }
        },
        12 => Err(format!(
            "error: this server does not implement the grpc health protocol (grpc.health.v1.Health): {message}"
        )),
        code => {
            let code = CODES.get(*code).copied().unwrap_or("Unknown");
            Err(format!("error: health rpc probe failed: rpc error: code = {code} desc = {message}"))
        }
    }
}

/// `HealthCheckRequest` with its length before it: `service` is member 1.
fn message(service: &str) -> Bytes {
    let mut text = BytesMut::new();
    if !service.is_empty() {
        text.put_u8(0x0a);
        let mut left = service.len();
        while left >= 0x80 {
            text.put_u8(0x80 | u8::try_from(left & 0x7f).unwrap_or_default());
            left >>= 7;
        }
        text.put_u8(u8::try_from(left).unwrap_or_default());
        text.put(service.as_bytes());
    }
    let mut message = BytesMut::new();
    message.put_u8(0); // not compressed
    message.put_u32(u32::try_from(text.len()).unwrap_or(u32::MAX));
    message.put(text);
    message.freeze()
}

/// The status in a `HealthCheckResponse`: member 1, a number; 0 when it is absent. `None` for what is no such message.
fn serving(body: &[u8]) -> Option<u64> {
    let (&[0, a, b, c, d], message) = body.split_first_chunk::<5>()? else { return None };
    let size = usize::try_from(u32::from_be_bytes([a, b, c, d])).ok()?;
    let mut rest = message.get(..size)?;
    let mut status = 0;
    while !rest.is_empty() {
        let tag = varint(&mut rest)?;
        match tag & 7 {
            0 => {
                let value = varint(&mut rest)?;
                if tag >> 3 == 1 {
                    status = value;
                }
            }
            1 => rest = rest.get(8..)?,
            2 => {
                let size = usize::try_from(varint(&mut rest)?).ok()?;
                rest = rest.get(size..)?;
            }
            5 => rest = rest.get(4..)?,
            _ => return None,
        }
    }
    Some(status)
}

fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, after) = rest.split_first()?;
        *rest = after;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_name_the_service_and_answers_its_status() {
        assert_eq!(&message("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(&message("a.b")[..], [0, 0, 0, 0, 5, 0x0a, 3, b'a', b'.', b'b']);
        assert_eq!(message(&"x".repeat(300))[5..8], [0x0a, 0xac, 0x02]);
        assert_eq!(serving(&[0, 0, 0, 0, 2, 8, 1]), Some(1));
        assert_eq!(serving(&[0, 0, 0, 0, 0]), Some(0));
        assert_eq!(serving(&[0, 0, 0, 0, 6, 0x12, 2, 9, 9, 8, 2]), Some(2), "members that are not known are skipped");
        for broken in [&[][..], &[1, 0, 0, 0, 0], &[0, 0, 0, 0, 9, 8, 1], &[0, 0, 0, 0, 1, 8], &[0, 0, 0, 0, 1, 0xff]] {
            assert_eq!(serving(broken), None, "{broken:?}");
        }
    }

    #[test]
    fn every_status_is_told_in_the_kubelets_words() {
        let judge = |code, message: &str, body: &[u8]| {
            judge(&Reply { code, message: message.to_owned(), body: BytesMut::from(body) })
        };
        assert_eq!(judge(0, "", &[0, 0, 0, 0, 2, 8, 1]), Ok(()));
        let unhealthy = judge(0, "", &[0, 0, 0, 0, 2, 8, 2]).unwrap_err();
        assert_eq!(unhealthy, "service unhealthy (responded with \"NOT_SERVING\")");
        let unknown = judge(5, "unknown service", &[]).unwrap_err();
        assert_eq!(unknown, "error: health rpc probe failed: rpc error: code = NotFound desc = unknown service");
        let strange = judge(12, "unknown method", &[]).unwrap_err();
        let words = "error: this server does not implement the grpc health protocol (grpc.health.v1.Health): ";
        assert_eq!(strange, format!("{words}unknown method"));
    }
}
