//! gRPC health checks (`grpc.health.v1.Health/Check`): one unary call over cleartext HTTP/2, its two messages written out by hand.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

use super::Outcome;

/// Asks the service of that name; an empty one means the server as a whole.
pub(crate) async fn probe(host: &str, port: u16, service: &str, timeout: Duration) -> Outcome {
    let address = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    match tokio::time::timeout(timeout, check(host, port, &address, service)).await {
        Err(_) => Outcome::Failure(format!(
            "timeout: failed to connect service \"{address}\" within {timeout:?}: context deadline exceeded"
        )),
        Ok(Err(error)) => Outcome::Failure(error),
        Ok(Ok(1)) => Outcome::Success,
        Ok(Ok(status)) => {
            let name = match status {
                2 => "NOT_SERVING",
                3 => "SERVICE_UNKNOWN",
                _ => "UNKNOWN",
            };
            Outcome::Failure(format!("service unhealthy (responded with \"{name}\")"))
        }
    }
}

async fn check(host: &str, port: u16, address: &str, service: &str) -> Result<u64, String> {
    let rpc = |error: &dyn std::fmt::Display| format!("error: health rpc failed: {error}");
    let stream = TcpStream::connect((host, port)).await.map_err(|error| rpc(&error))?;
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.map_err(|error| rpc(&error))?;
    let request = Request::post(format!("http://{address}/grpc.health.v1.Health/Check"))
        .header(header::CONTENT_TYPE, "application/grpc")
        .header(header::TE, "trailers")
        .header(header::USER_AGENT, "kube-probe/1.37")
        .body(Full::new(Bytes::from(frame(service))))
        .map_err(|error| rpc(&error))?;
    let call = async {
        let response = sender.send_request(request).await.map_err(|error| rpc(&error))?;
        let early = code(response.headers());
        let body = response.into_body().collect().await.map_err(|error| rpc(&error))?;
        match early.or_else(|| body.trailers().and_then(code)) {
            Some((0, _)) => {}
            Some((12, _)) => {
                return Err("error: this server does not implement the grpc health protocol (grpc.health.v1.Health)".to_owned());
            }
            Some((code, message)) => return Err(format!("error: health rpc failed: rpc error: code = {code} desc = {message}")),
            None => return Err("error: health rpc failed: no grpc-status in the answer".to_owned()),
        }
        parse(&body.to_bytes()).ok_or_else(|| "error: health rpc failed: malformed answer".to_owned())
    };
    tokio::pin!(call);
    tokio::pin!(connection);
    tokio::select! {
        answer = &mut call => answer,
        _ = &mut connection => call.await,
    }
}

fn code(headers: &http::HeaderMap) -> Option<(u32, String)> {
    let code = headers.get("grpc-status")?.to_str().ok()?.parse().ok()?;
    let message = headers.get("grpc-message").and_then(|value| value.to_str().ok()).unwrap_or_default();
    Some((code, percent_encoding::percent_decode_str(message).decode_utf8_lossy().into_owned()))
}

/// `HealthCheckRequest { service = 1 }` behind gRPC's five bytes: not compressed, length.
fn frame(service: &str) -> Vec<u8> {
    let mut message = Vec::new();
    if !service.is_empty() {
        message.push(0x0a);
        varint(service.len() as u64, &mut message);
        message.extend_from_slice(service.as_bytes());
    }
    let mut out = vec![0];
    out.extend_from_slice(&(message.len() as u32).to_be_bytes());
    out.extend(message);
    out
}

fn varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// `HealthCheckResponse { status = 1 }`; an absent field is 0.
fn parse(body: &[u8]) -> Option<u64> {
    let (head, message) = body.split_at_checked(5)?;
    let length = u32::from_be_bytes(head[1..5].try_into().ok()?) as usize;
    let mut rest = message.get(..length)?;
    let mut status = 0;
    while !rest.is_empty() {
        let key = read_varint(&mut rest)?;
        match key & 7 {
            0 => {
                let value = read_varint(&mut rest)?;
                if key >> 3 == 1 {
                    status = value;
                }
            }
            1 => rest = rest.get(8..)?,
            2 => {
                let length = usize::try_from(read_varint(&mut rest)?).ok()?;
                rest = rest.get(length..)?;
            }
            5 => rest = rest.get(4..)?,
            _ => return None,
        }
    }
    (head[0] == 0).then_some(status)
}

fn read_varint(rest: &mut &[u8]) -> Option<u64> {
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
    fn messages() {
        assert_eq!(frame(""), [0, 0, 0, 0, 0]);
        assert_eq!(frame("ab"), [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']);
        assert_eq!(parse(&[0, 0, 0, 0, 2, 8, 1]), Some(1));
        assert_eq!(parse(&[0, 0, 0, 0, 0]), Some(0));
        assert_eq!(parse(&[0, 0, 0, 0, 6, 0x12, 2, 9, 9, 8, 2]), Some(2));
        assert_eq!(parse(&[0, 0, 0, 0, 9, 8]), None);
        assert_eq!(parse(&[]), None);
    }
}
