//! Commands that speak to a running relay: one request to its admin address, with the admin token.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::{Failure, Settings};
use crate::admin::read_token;

/// Bytes of an answer, at most: a line or three numbers.
const MAX_ANSWER: usize = 64 << 10;

/// Has the relay do what `path` stands for, and gives its answer, which comes when that is done. `command` is what the
/// administrator called.
pub(super) fn relay(settings: &Settings, command: &str, path: &str) -> Result<(SocketAddr, Bytes), Failure> {
    let config = settings.load_without_upstreams()?;
    let Some(file) = &config.server.admin_token_file else {
        let why = format!(
            "{command}: there is no admin token; give the relay's configuration with --config, and set \
             server.admin_token_file there"
        );
        return Err(Failure::Configuration(why));
    };
    let token = read_token(file).map_err(Failure::Configuration)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Failed(format!("the system gives no event queue: {error}")))?;
    let admin = config.server.admin;
    let (status, body) = runtime
        .block_on(post(admin, path, &token))
        .map_err(|error| Failure::Failed(format!("the relay's admin address {admin}: {error}")))?;
    if status != StatusCode::OK {
        let why = String::from_utf8_lossy(&body);
        return Err(Failure::Failed(format!("the relay refuses: {}", why.trim())));
    }
    Ok((admin, body))
}

async fn post(
    admin: SocketAddr,
    path: &str,
    token: &str,
) -> Result<(StatusCode, Bytes), Box<dyn std::error::Error + Send + Sync>> {
    let stream = TcpStream::connect(admin).await?;
    let (mut requests, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // What goes wrong with the connection is the request's error.
    let connection = tokio::spawn(async move { drop(connection.await) });
    let request = Request::post(path)
        .header(header::HOST, admin.to_string())
        .header(header::AUTHORIZATION, format!("Bearer {token}"))
        .body(Empty::<Bytes>::new())?;
    let response = requests.send_request(request).await?;
    let status = response.status();
    let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await?.to_bytes();
    connection.abort();
    Ok((status, body))
}
