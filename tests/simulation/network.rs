//! The network: machines by name, and what lies between them and the relay. A machine can refuse, be silent (bytes and
//! connections wait) or be up; a connection can break after some bytes, and each piece takes its time.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use gupd::upstream::{Connecting, Duplex, Network};
use http::Uri;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, duplex, split};
use tokio::sync::watch;
use tokio::time::sleep;

use crate::Dice;
use crate::manager::Answers;

/// Bytes that travel together.
const PIECE: usize = 8 << 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Up,
    Refusing,
    Silent,
}

/// One in `often` connections breaks, within its first `bytes`; each piece takes up to `delay`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Weather {
    pub(crate) often: u64,
    pub(crate) bytes: u64,
    pub(crate) delay: Duration,
}

#[derive(Clone, Debug)]
pub(crate) struct Net(Arc<Shared>);

struct Shared {
    machines: Mutex<HashMap<String, Machine>>,
    dice: Mutex<Dice>,
    weather: Weather,
    open: Arc<AtomicUsize>,
    made: AtomicUsize,
}

struct Machine {
    state: watch::Sender<State>,
    manager: Arc<dyn Answers>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Net").field("weather", &self.weather).finish_non_exhaustive()
    }
}

impl Net {
    pub(crate) fn new(seed: u64, weather: Weather) -> Self {
        Self(Arc::new(Shared {
            machines: Mutex::default(),
            dice: Mutex::new(Dice::new(seed)),
            weather,
            open: Arc::default(),
            made: AtomicUsize::new(0),
        }))
    }

    /// Whom a name leads to from now on; connections that there are stay where they lead.
    pub(crate) fn put(&self, name: &str, manager: &Arc<impl Answers + 'static>) {
        let manager: Arc<dyn Answers> = manager.clone();
        let mut machines = self.0.machines.lock().unwrap();
        let new = || Machine { state: watch::Sender::new(State::Up), manager: manager.clone() };
        machines.entry(name.to_owned()).or_insert_with(new).manager = manager.clone();
    }

    pub(crate) fn set(&self, name: &str, state: State) {
        self.0.machines.lock().unwrap()[name].state.send_replace(state);
    }

    /// Connections now.
    pub(crate) fn open(&self) -> usize {
        self.0.open.load(Ordering::SeqCst)
    }

    /// Connections so far.
    pub(crate) fn made(&self) -> usize {
        self.0.made.load(Ordering::SeqCst)
    }

    fn roll(&self, sides: u64) -> u64 {
        self.0.dice.lock().unwrap().roll(sides)
    }

    /// How many bytes a connection lives for, and how long a piece takes on it.
    fn fate(&self) -> (u64, Duration) {
        let Weather { often, bytes, delay } = self.0.weather;
        let life = if often > 0 && self.roll(often) == 0 { self.roll(bytes) } else { u64::MAX };
        let most = u64::try_from(delay.as_micros()).unwrap();
        (life, Duration::from_micros(self.roll(most + 1)))
    }
}

impl Network for Net {
    fn connect(&self, to: Uri) -> Connecting {
        let machines = self.0.machines.lock().unwrap();
        let Machine { state, manager } = &machines[to.host().unwrap()];
        let (state, manager, net) = (state.subscribe(), manager.clone(), self.clone());
        Box::pin(async move {
            let (life, delay) = net.fate();
            sleep(delay).await;
            if up(&mut state.clone()).await == State::Refusing {
                return Err(io::ErrorKind::ConnectionRefused.into());
            }
            let (client, near) = duplex(PIECE);
            let (far, server) = duplex(PIECE);
            let open = net.0.open.clone();
            open.fetch_add(1, Ordering::SeqCst);
            net.0.made.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(async move {
                link(near, far, state, life, delay).await;
                open.fetch_sub(1, Ordering::SeqCst);
            });
            let service = hyper::service::service_fn(move |request| {
                let manager = manager.clone();
                async move { Ok::<_, std::convert::Infallible>(manager.answer(&request)) }
            });
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(server), service));
            Ok(Box::new(client) as Box<dyn Duplex>)
        })
    }
}

/// Waits until a machine is not silent.
async fn up(state: &mut watch::Receiver<State>) -> State {
    state.wait_for(|state| *state != State::Silent).await.map_or(State::Refusing, |state| *state)
}

/// Ends when either side does, when the machine begins to refuse, or when its life is over.
async fn link(
    near: DuplexStream,
    far: DuplexStream,
    state: watch::Receiver<State>,
    life: u64,
    delay: Duration,
) {
    let ((near_in, near_out), (far_in, far_out)) = (split(near), split(far));
    let mut refusing = state.clone();
    tokio::select! {
        _ = pass(near_in, far_out, state.clone(), u64::MAX, delay) => {}
        _ = pass(far_in, near_out, state.clone(), life, delay) => {}
        _ = refusing.wait_for(|state| *state == State::Refusing) => {}
    }
}

async fn pass(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut state: watch::Receiver<State>,
    mut life: u64,
    delay: Duration,
) -> io::Result<()> {
    let mut piece = vec![0; PIECE];
    loop {
        let most = usize::try_from(life).unwrap_or(PIECE).min(PIECE);
        let read = from.read(&mut piece[..most]).await?;
        if read == 0 {
            return Ok(());
        }
        sleep(delay).await;
        up(&mut state).await;
        to.write_all(&piece[..read]).await?;
        life -= read as u64;
    }
}
