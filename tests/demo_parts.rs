//! The demo's parts over real sockets: clients, line and manager fit together, and a client that is given a wrong
//! byte, a short body or another status says so.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use gupd::demo::clients::{Failure, Outcome, Received, run, update};
use gupd::demo::content::Site;
use gupd::demo::manager::Manager;
use gupd::demo::sessions::{Session, Step, bytes_of, sessions};
use gupd::demo::wan::{Line, Wan};
use gupd::demo::{self, DEFAULT_CLIENTS, DemoError, Options, RelayAddresses, RunningRelay};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// Fast enough that a test is bound by the processor.
const FAST: Line = Line { bits_per_second: 10_000_000_000, one_way: Duration::from_millis(1) };

#[tokio::test]
async fn every_kind_of_client_updates_and_line_counts_bytes() {
    let site = Arc::new(Site::new(1));
    let manager = Manager::start(Arc::clone(&site)).await.unwrap();
    let wan = Wan::start(manager.address(), FAST).await.unwrap();
    let mut sessions = sessions(&site, 12, 1);
    sessions.iter_mut().for_each(|session| session.starts_after = Duration::ZERO);
    let expected = bytes_of(&sessions);
    let received = Arc::new(Received::default());

    let outcomes = run(wan.address(), sessions, Arc::clone(&received)).await;

    for outcome in &outcomes {
        assert!(outcome.result.is_ok(), "{}: {:?}", outcome.name, outcome.result);
    }
    assert_eq!(outcomes.iter().map(|outcome| outcome.bytes).sum::<u64>(), expected);
    assert_eq!((received.bytes(), received.done()), (expected, 12));
    let answers: usize = outcomes.iter().map(|outcome| outcome.answers.total()).sum();
    let heads = 1024 * answers as u64;
    assert!(
        (expected..expected + heads).contains(&wan.sent_down()),
        "{} sent for {expected}",
        wan.sent_down()
    );
    assert!((1..heads).contains(&wan.sent_up()), "{} sent up", wan.sent_up());
}

#[tokio::test]
async fn a_client_detects_one_wrong_byte() {
    let outcome = update_from_raw(|mut body| {
        body[12_345] ^= 0x10;
        response(body.len(), &body)
    })
    .await
    .unwrap();
    assert!(matches!(outcome.result, Err(Failure::Digest { .. })), "{:?}", outcome.result);
}

#[tokio::test]
async fn a_client_detects_a_body_that_is_short_by_one_byte() {
    let outcome = update_from_raw(|body| response(body.len() - 1, &body[..body.len() - 1])).await.unwrap();
    assert!(matches!(outcome.result, Err(Failure::Length { .. })), "{:?}", outcome.result);
}

#[tokio::test]
async fn a_client_detects_a_transfer_that_breaks_off() {
    let outcome = update_from_raw(|body| response(body.len(), &body[..body.len() / 2])).await.unwrap();
    assert!(matches!(outcome.result, Err(Failure::Broken { .. })), "{:?}", outcome.result);
}

#[tokio::test]
async fn a_client_detects_another_status() {
    let outcome = update_from_raw(|_| b"HTTP/1.1 504 Gateway Timeout\r\nContent-Length: 0\r\n\r\n".to_vec())
        .await
        .unwrap();
    assert!(matches!(outcome.result, Err(Failure::Status { .. })), "{:?}", outcome.result);
}

#[tokio::test]
async fn client_accepts_right_bytes_of_raw_server() {
    let outcome = update_from_raw(|body| response(body.len(), &body)).await.unwrap();
    assert!(outcome.result.is_ok(), "{:?}", outcome.result);
}

/// A relay that never is.
#[derive(Debug)]
enum NoRelay {}

impl RunningRelay for NoRelay {
    fn addresses(&self) -> RelayAddresses {
        match *self {}
    }

    fn stop(self) {
        match self {}
    }
}

#[test]
fn demo_ends_without_folder_when_relay_fails_to_start() {
    let mut folder = PathBuf::new();
    let ended = demo::run(Options { clients: DEFAULT_CLIENTS, exit: true }, |manager, store| {
        assert!(manager.starts_with("http://127.0.0.1:") && store.is_dir());
        folder = store.to_owned();
        Err::<NoRelay, _>("port in use")
    });
    assert_eq!(ended.unwrap_err().to_string(), "the relay does not start: port in use");
    assert!(folder.is_absolute() && !folder.exists());
}

#[test]
fn demo_refuses_more_clients_than_descriptors() {
    let options = Options { clients: DEFAULT_CLIENTS.saturating_mul(DEFAULT_CLIENTS), exit: true };
    let ended = demo::run(options, |_, _| -> Result<NoRelay, &str> { panic!("started a relay") });
    assert!(matches!(ended, Err(DemoError::TooManyClients(_))), "{ended:?}");
}

/// One client asks for one delta from a server that sends what `answer` makes of the delta's bytes, and closes.
async fn update_from_raw(answer: impl FnOnce(Vec<u8>) -> Vec<u8>) -> io::Result<Outcome> {
    let delta = Arc::clone(&Site::new(1).definitions[0].deltas[0]);
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let server = listener.local_addr()?;
    let sent = answer(delta.bytes(0, usize::MAX));
    let served = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await?);
        }
        stream.write_all(&sent).await
    });
    let name = "client".to_owned();
    let session = Session { name, starts_after: Duration::ZERO, steps: vec![Step::Get(delta)] };
    let outcome = update(server, &session, &Received::default()).await;
    served.await??;
    Ok(outcome)
}

fn response(length: usize, body: &[u8]) -> Vec<u8> {
    [format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n").as_bytes(), body].concat()
}
